//! One stream to an endpoint: what the two directions of an exchange share.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};

use super::State;
use super::reader::ResponseReader;
use super::writer::RequestWriter;
use crate::http::h1::parse::Asked;
use crate::outcome::{Cause, End, Phase, Side};
use crate::time::now;
use crate::transport::Transport;

/// A stream, held for one exchange. Dropped before both messages have ended it is cancelled.
pub struct Stream {
    pub(super) state: Rc<State>,
    pub(super) send: SendRequest<Bytes>,
    pub(super) asked: Cell<Asked>,
    /// The request's way, once its head is sent.
    pub(super) sending: RefCell<Option<SendStream<Bytes>>>,
    /// The response, until its head has come.
    pub(super) awaited: RefCell<Option<ResponseFuture>>,
    pub(super) request_finished: Cell<bool>,
    pub(super) response_finished: Cell<bool>,
}

impl Stream {
    pub(super) fn new(state: Rc<State>, send: SendRequest<Bytes>) -> Self {
        let others = state.open.replace(state.open.get() + 1);
        if others == 0 {
            state.heard_when_idle.set(state.wire.transport().bytes_in());
        }
        Self {
            state,
            send,
            asked: Cell::default(),
            sending: RefCell::default(),
            awaited: RefCell::default(),
            request_finished: Cell::new(false),
            response_finished: Cell::new(false),
        }
    }

    /// Whether nothing has come on the connection since no stream was open on it.
    pub fn is_unheard(&self) -> bool {
        self.state.is_unheard()
    }

    /// The two directions of its exchange, to be driven by one task. Once only.
    pub fn exchange(&mut self) -> (RequestWriter<'_>, ResponseReader<'_>) {
        (RequestWriter::new(self), ResponseReader::new(self))
    }

    /// The connection's byte stream.
    pub fn transport(&self) -> &Transport {
        self.state.wire.transport()
    }

    /// Bytes read and written on the whole connection since this was asked last, on any of its streams.
    pub fn take_moved(&self) -> (u64, u64) {
        let transport = self.transport();
        let all = (transport.bytes_in(), transport.bytes_out());
        let told = self.state.told.replace(all);
        (all.0 - told.0, all.1 - told.1)
    }

    pub(super) fn fail(&self, phase: Phase, error: &h2::Error) -> End {
        End::new(Side::Upstream, phase, self.state.cause(error))
    }

    /// No more streams on this connection.
    pub(super) fn retire(&self) {
        self.state.is_retired.set(true);
    }

    /// Whether the connection takes no more streams.
    pub fn is_retired(&self) -> bool {
        self.state.is_retired.get()
    }

    /// Waits until the endpoint wants no more of the request, or has given up the exchange; why.
    pub(super) async fn let_go(&self) -> Cause {
        poll_fn(|cx| self.poll_let_go(cx)).await
    }

    pub(super) fn poll_let_go(&self, cx: &mut Context<'_>) -> Poll<Cause> {
        let mut sending = self.sending.borrow_mut();
        let Some(sending) = &mut *sending else {
            return Poll::Pending;
        };
        Poll::Ready(match ready!(sending.poll_reset(cx)) {
            Ok(Reason::REFUSED_STREAM) => Cause::Unprocessed,
            Ok(_) => self.state.why_gone().unwrap_or(Cause::Reset),
            Err(error) => self.state.cause(&error),
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The crate cancels what is dropped before its end; first, so that there is room for the next.
        self.awaited.take();
        self.sending.take();
        let state = &self.state;
        if self.request_finished.get() && self.response_finished.get() {
            state.wire.finished();
        }
        state.served.set(true);
        state.open.set(state.open.get() - 1);
        if state.open.get() == 0 {
            state.idle_since.set(now());
        }
        state.bell.ring(1);
    }
}
