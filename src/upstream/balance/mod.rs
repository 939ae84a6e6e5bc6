//! Which endpoint is asked next: choices among weights and what is known right now, without a clock
//! and without sockets.

mod round_robin;

pub use self::round_robin::RoundRobin;
