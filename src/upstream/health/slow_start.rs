//! Slow start: an endpoint that came back gets a share of its requests that grows.

use std::time::{Duration, Instant};

/// The least share, so that something is learnt of it.
const LEAST: f64 = 0.1;

/// The share an endpoint gets that came back at a moment: from a tenth to all of it, in a line.
pub(super) fn share(back: Instant, slow_start: Duration, now: Instant) -> f64 {
    let passed = now.saturating_duration_since(back).as_secs_f64();
    let part = passed / slow_start.as_secs_f64().max(f64::MIN_POSITIVE);
    part.clamp(LEAST, 1.0)
}
