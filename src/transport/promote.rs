//! A connection moves into the kernel: what has to be true first, and the order of the steps.

use std::io;
use std::sync::Arc;

use super::ktls::Ktls;
use super::sealed::{Obstacle, Sealed};
use super::{Layer, Transport};
use crate::offload::{self, Offload};
use crate::outcome::{Carrier, Cause, Refusal};
use crate::runtime::Socket;

/// Under which conditions a connection moves into the kernel.
#[derive(Clone)]
pub struct Promotion {
    /// What the kernel can do.
    pub offload: Arc<Offload>,
    /// Bytes that somebody must be about to move.
    pub threshold: u64,
}

impl Transport {
    /// TLS with a client or an endpoint, after the handshake, on the way into the kernel.
    pub fn sealed(socket: Socket, sealed: Sealed, promotion: Promotion) -> Self {
        let (refusal, promotion) = match carried(&sealed, &promotion.offload) {
            Ok(()) => (Refusal::BelowThreshold, Some(promotion)),
            Err(refusal) => (refusal, None),
        };
        let layer = Layer::Sealed(Box::new(sealed), promotion);
        Self::new(socket, layer, Carrier::Process(refusal))
    }

    /// Leaves the connection in this process for good, for a reason that lies in what is spoken on it.
    pub fn stay(&self, refusal: Refusal) {
        if let Layer::Sealed(_, promotion) = &mut *self.layer.borrow_mut()
            && promotion.take().is_some()
        {
            self.carriage.carrier.set(Carrier::Process(refusal));
        }
    }

    /// Moves the connection into the kernel, if `bytes` are worth it: so many are about to be moved,
    /// or have been in a tunnel that goes on. May be called again before each large piece: where
    /// nothing is to be done, or nothing can be, it costs next to nothing.
    ///
    /// If the connection stays where it is, nothing has changed, and its carriage says why. Where
    /// half a record stands in the way, reading stops at its end, so that the next call succeeds.
    ///
    /// # Errors
    ///
    /// [`Cause::KernelRefusedKeys`]: the connection is lost. Everything else that may refuse comes
    /// before the point of no return.
    pub fn promote(&self, bytes: u64) -> io::Result<()> {
        let mut layer = self.layer.borrow_mut();
        let Layer::Sealed(sealed, promotion) = &mut *layer else {
            return Ok(());
        };
        let Some(wanted) = promotion.as_ref().filter(|wanted| bytes >= wanted.threshold) else {
            return Ok(());
        };
        let offload = wanted.offload.clone();
        let ready = get_ready(sealed, &self.socket, &offload);
        if sealed.has_news() {
            self.socket.call_reader(); // who waits for what was just taken from the socket
        }
        if let Err(refusal) = ready {
            self.carriage.carrier.set(Carrier::Process(refusal));
            if is_final(refusal) {
                *promotion = None;
            }
            return Ok(());
        }
        // From here there is no way back: whoever has the keys makes the records.
        let lost = Layer::Lost(Cause::KernelRefusedKeys);
        self.carriage.carrier.set(Carrier::Kernel);
        let Layer::Sealed(sealed, _) = std::mem::replace(&mut *layer, lost) else {
            return Ok(());
        };
        let installed = sealed.hand_on().map_err(|error| {
            tracing::error!(%error, "a connection that was ready did not hand its keys out");
            Cause::KernelRefusedKeys.into_error(io::ErrorKind::Other)
        });
        let installed = installed.and_then(|(first, keys, prefix)| {
            offload::install(&self.socket, first)?;
            Ok(Ktls::new(keys, prefix, offload.clone(), self.carriage.clone()))
        });
        match installed {
            Ok(ktls) => {
                offload.succeeded();
                *layer = Layer::Ktls(Box::new(ktls));
                Ok(())
            }
            Err(error) => {
                offload.failed();
                self.socket.call_reader();
                Err(error)
            }
        }
    }
}

/// Everything that can refuse; the connection can go on after each step.
fn get_ready(sealed: &mut Sealed, socket: &Socket, offload: &Offload) -> Result<(), Refusal> {
    carried(sealed, offload)?;
    offload.allows()?;
    sealed.settle(socket).map_err(|obstacle| match obstacle {
        Obstacle::Passing => Refusal::NoBoundary,
        Obstacle::Ended => Refusal::PeerClosedEarly,
    })?;
    offload::attach(socket)
}

/// Whether the kernel could make its records.
fn carried(sealed: &Sealed, offload: &Offload) -> Result<(), Refusal> {
    let agreed = sealed.agreed();
    let version = agreed.protocol_version().ok_or(Refusal::Version)?;
    let suite = agreed.negotiated_cipher_suite().ok_or(Refusal::Cipher)?;
    offload.carries(version, suite.suite())
}

/// Whether it makes no sense to ask again.
fn is_final(refusal: Refusal) -> bool {
    !matches!(
        refusal,
        Refusal::NoBoundary | Refusal::Breaker | Refusal::AttachNoMemory
    )
}
