//! To be written: metrics.
