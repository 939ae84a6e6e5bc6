//! The TLS room by itself: certificates as data, handshakes over real sockets.
