//! To be written: relay.
