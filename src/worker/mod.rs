//! To be written: worker.
