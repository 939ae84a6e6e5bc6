//! Configurations that are right, and what is said of those that are wrong.
