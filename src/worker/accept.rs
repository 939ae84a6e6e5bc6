//! A listener's accept loop on one worker: sheds by not accepting, and never spins on an error.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use rustix::io::Errno;

use crate::drain::Drain;
use crate::listener::Slots;
use crate::runtime::{self, Listener, Socket};

/// Connections accepted before the connections that are open have a turn.
const ACCEPTS_PER_TURN: usize = 32;

/// First and longest pause after an error that will not go away by itself.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

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
            Ok(()) => {
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
    while let Ok((socket, peer)) = listener.try_accept() {
        doorman.admit(socket, peer);
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

/// Accepts what is there, up to a bound.
///
/// # Errors
///
/// Those that need a pause: no descriptors, no memory, and what nobody expects.
fn burst(listener: &Listener, slots: &Slots, doorman: &impl Doorman) -> io::Result<()> {
    for _ in 0..ACCEPTS_PER_TURN {
        if slots.is_full() {
            break;
        }
        match listener.try_accept() {
            Ok((socket, peer)) => doorman.admit(socket, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The connection is gone, the listener is not: accept(2) passes on what happened to it.
            Err(error) if concerns_one_connection(&error) => doorman.failed(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
