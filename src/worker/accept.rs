//! A listener's accept loop on one worker: sheds by not accepting, and never spins on an error.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use rustix::io::Errno;

use crate::drain::Drain;
use crate::listener::Slots;
use crate::runtime::{self, Listener, Socket, before};
use crate::time::Deadline;

/// Connections accepted before the connections that are open have a turn.
const ACCEPTS_PER_TURN: usize = 32;

/// First and longest pause after an error that will not go away by itself.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a listener that goes is kept for those who wait in its queue: longer than it takes a drain to end
/// idle connections (1 s) and those to close (2 s), which makes room for them, and not so long that a lack of
/// descriptors holds one up.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(4);

/// What becomes of accepted connections and of errors.
pub(super) trait Doorman {
    /// A connection came.
    fn admit(&self, socket: Socket, peer: Option<SocketAddr>);
    /// An accept failed.
    fn failed(&self, error: &io::Error);
}

/// Accepts until `closing` says that the listener goes; then takes what waits in its queue, since
/// closing the socket would reset it.
pub(super) async fn accept(listener: &Listener, slots: &Slots, closing: &Drain, doorman: &impl Doorman) {
    let mut pause = PAUSE_MIN;
    while wait(listener, slots, closing).await {
        match burst(listener, slots, doorman) {
            Ok(_) => {
                pause = PAUSE_MIN;
                runtime::turn().await;
            }
            Err(error) => {
                doorman.failed(&error);
                runtime::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    // Who still waits after that is reset: more connections than the limit nobody gets.
    let _ = before(
        Deadline::within(QUEUE_TIMEOUT),
        empty_queue(listener, slots, doorman),
    )
    .await;
}

/// Accepts, as far as the limit allows, until nobody waits.
async fn empty_queue(listener: &Listener, slots: &Slots, doorman: &impl Doorman) {
    loop {
        slots.free().await;
        match burst(listener, slots, doorman) {
            Ok(Queue::Empty) => return,
            Ok(Queue::Unknown) => runtime::turn().await,
            Err(error) => {
                doorman.failed(&error);
                runtime::sleep(PAUSE_MAX / 4).await;
            }
        }
    }
}

/// Waits until a connection may be accepted; false if the listener closes.
async fn wait(listener: &Listener, slots: &Slots, closing: &Drain) -> bool {
    let acceptable = async {
        slots.free().await;
        listener.readable().await
    };
    // An error of the wait shows again, with its name, in the accept that follows.
    let (closes, acceptable) = (pin!(closing.idle_ends()), pin!(acceptable));
    matches!(select(closes, acceptable).await, Either::Right(_))
}

/// What a burst has left behind.
enum Queue {
    Empty,
    Unknown,
}

/// Accepts what is there, up to a bound.
///
/// # Errors
///
/// Those that need a pause: no descriptors, no memory, and what nobody expects.
fn burst(listener: &Listener, slots: &Slots, doorman: &impl Doorman) -> io::Result<Queue> {
    for _ in 0..ACCEPTS_PER_TURN {
        if slots.is_full() {
            break;
        }
        match listener.try_accept() {
            Ok((socket, peer)) => doorman.admit(socket, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Queue::Empty),
            // The connection is gone, the listener is not: accept(2) passes on what happened to it.
            Err(error) if concerns_one_connection(&error) => doorman.failed(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(Queue::Unknown)
}

fn concerns_one_connection(error: &io::Error) -> bool {
    const ERRORS: [Errno; 10] = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::PERM, // a firewall rule
    ];
    Errno::from_io_error(error).is_some_and(|error| ERRORS.contains(&error))
}
