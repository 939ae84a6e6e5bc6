//! What a route does with requests beyond passing them to its upstream.

mod bounds;
mod hedge;
mod mirror;
mod split;

use crate::support::{Origin, origin};

/// One that answers every request with its name.
fn named(name: &'static str) -> Origin {
    origin()
        .handles_all(move |exchange| exchange.answer(200, &[], name.as_bytes()))
        .start()
}
