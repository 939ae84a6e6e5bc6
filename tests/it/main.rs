//! Atlas as its users see it.
