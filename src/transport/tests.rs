//! Byte streams over real sockets.
