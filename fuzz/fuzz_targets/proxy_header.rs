//! A PROXY header is understood the same way however it comes, and never longer than what came.

#![no_main]

use atlas::listener::proxy_protocol::{HEADER_BYTES_MAX, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    if let Ok(Some(header)) = &whole {
        assert!(header.length <= data.len() && header.length <= HEADER_BYTES_MAX);
        // Not a byte behind it matters.
        assert_eq!(parse(&data[..header.length]), whole);
    }
    for end in 0..data.len().min(300) {
        match (parse(&data[..end]), &whole) {
            // What was refused stays refused, and what was understood stays so.
            (Err(_), whole) => assert!(whole.is_err(), "refused at {end}, and then not"),
            (Ok(Some(header)), whole) => assert_eq!(&Ok(Some(header)), whole),
            (Ok(None), _) => {}
        }
    }
});
