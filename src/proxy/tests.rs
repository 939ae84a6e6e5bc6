//! To be filled: exchanges over real sockets.
