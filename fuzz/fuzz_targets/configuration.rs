//! Whatever is written in a configuration, it is either taken or its mistakes are told; both as
//! text and as JSON.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // No file of this folder exists: certificates are not what is tried here.
    if let Err(report) = atlas::config::parse("atlas.toml", text, Path::new("/nonexistent")) {
        assert!(!report.to_string().is_empty());
    }
});
