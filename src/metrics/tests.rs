//! Whether what is counted is what is told.
