//! To be written: proxy.
