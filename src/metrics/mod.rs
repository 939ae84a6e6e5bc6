//! What is counted: by each worker for itself, summed when somebody asks, told as Prometheus text.

mod counters;
mod text;

pub use counters::{
    Counters, Direction, EndpointCounters, ListenerCounters, Mirrored, Peer, Process, Tunnel,
    UpstreamCounters,
};
pub use text::{Certificate, CountedEndpoint, EndpointFact, Facts, NameFact, text};

#[cfg(test)]
mod tests;
