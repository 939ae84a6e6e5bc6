//! The turn gate: a wait that lets every other socket and every timer of the worker go first.
//!
//! monoio looks at sockets and timers only when no task is runnable. A task that yields by waking
//! itself keeps the loop from ever getting there; and on epoll even waiting for a socket that has
//! bytes returns without it. So whoever has used up its turn waits here, for a byte in a socket
//! pair that the driver alone can see.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::Write;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::task::{Poll, Waker};

use monoio::io::AsyncReadRent;
use monoio::net::UnixStream;

thread_local! {
    static GATE: RefCell<Option<Rc<Gate>>> = const { RefCell::new(None) };
}

struct Gate {
    round: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
    knocker: StdStream,
}

/// Lets everybody else have a turn: all tasks that can run, all sockets, all timers.
pub async fn turn() {
    let Some(gate) = GATE.with_borrow(Clone::clone) else {
        return;
    };
    let entered = gate.round.get();
    poll_fn(|cx| {
        if gate.round.get() != entered {
            return Poll::Ready(());
        }
        gate.wait(cx.waker());
        Poll::Pending
    })
    .await;
}

/// Makes this thread's gate. To be called inside its runtime.
pub(super) fn open() -> std::io::Result<()> {
    let (knocker, door) = StdStream::pair()?;
    knocker.set_nonblocking(true)?;
    door.set_nonblocking(true)?;
    let door = UnixStream::from_std(door)?;
    let gate = Rc::new(Gate {
        round: Cell::new(0),
        waiting: RefCell::default(),
        knocker,
    });
    GATE.set(Some(gate.clone()));
    monoio::spawn(keep(gate, door));
    Ok(())
}

/// Opens the gate whenever the driver has delivered the knock.
async fn keep(gate: Rc<Gate>, mut door: UnixStream) {
    let mut buffer = vec![0; 16];
    loop {
        let (result, back) = door.read(buffer).await;
        buffer = back;
        gate.round.set(gate.round.get() + 1);
        for waker in gate.waiting.take() {
            waker.wake();
        }
        if !matches!(result, Ok(1..)) {
            tracing::error!(
                ?result,
                "the turn gate is broken; connections may be slow to take turns"
            );
            GATE.take();
            return;
        }
    }
}

impl Gate {
    fn wait(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            // One byte a round; the pair's buffer cannot be full.
            let _ = (&self.knocker).write(&[1]);
        }
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}
