//! The example and the documentation against the code.
