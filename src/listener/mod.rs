//! An address that accepts: bound before the workers start, counted while connections live.

mod bind;
pub mod proxy_protocol;
mod slots;

use std::sync::Arc;

pub use bind::{BindError, bind, try_address};
pub use slots::{Slot, Slots};

use crate::runtime::Address;

/// What a listener needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For routes and records: the file's `name`, or the address.
    pub name: Arc<str>,
    /// Where to listen.
    pub address: Address,
    /// PROXY v1 or v2 comes first.
    pub proxy_protocol: bool,
    /// How many connections may be open at a time, in the whole process.
    pub connections_max: usize,
}
