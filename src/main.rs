//! Arguments to configuration to supervisor to exit code; nothing else.

fn main() {}
