//! Tells systemd how far Atlas is. Does nothing where nobody listens.

use sd_notify::NotifyState;

/// All workers accept.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A new configuration is being read.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    // systemd asks for the moment, so as not to take an older READY for this reload's.
    states.extend(NotifyState::monotonic_usec_now().ok());
    send(&states);
}

/// The drain has begun.
pub(super) fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
