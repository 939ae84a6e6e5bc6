//! What a file holds, told by its name: Content-Type.

use super::value::Value;

/// What a file is called when its name says nothing.
const UNKNOWN: &str = "application/octet-stream";

/// The Content-Type of a file by its last extension, in any case.
///
/// Text is said to be UTF-8: a browser that is told nothing guesses by the reader's country.
pub(super) fn of(name: &[u8]) -> Value {
    let media = extension(name)
        .and_then(|extension| mime_guess::from_ext(extension).first_raw())
        .unwrap_or(UNKNOWN);
    let value = Value::new().text(media);
    if is_text(media) {
        value.text("; charset=utf-8")
    } else {
        value
    }
}

fn is_text(media: &str) -> bool {
    // JSON and XML say it themselves; application/javascript is text by history only.
    media.starts_with("text/") || media == "application/javascript"
}

fn extension(name: &[u8]) -> Option<&str> {
    let last = name.rsplit(|byte| *byte == b'/').next()?;
    let dot = memchr::memrchr(b'.', last)?;
    let named = dot > 0; // `.profile` has no extension
    std::str::from_utf8(&last[dot + 1..]).ok().filter(|_| named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_tells_the_type() {
        for (name, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.c/INDEX.HTM", "text/html; charset=utf-8"),
            ("style.css", "text/css; charset=utf-8"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("app.mjs", "application/javascript; charset=utf-8"),
            ("notes.txt", "text/plain; charset=utf-8"),
            ("data.json", "application/json"),
            ("image.svg", "image/svg+xml"),
            ("image.webp", "image/webp"),
            ("image.avif", "image/avif"),
            ("font.woff2", "font/woff2"),
            ("program.wasm", "application/wasm"),
            ("film.mp4", "video/mp4"),
            ("archive.tar.gz", "application/gzip"),
            ("README", UNKNOWN),
            ("a.b/README", UNKNOWN),
            (".profile", UNKNOWN),
            ("x.", UNKNOWN),
            ("x.nobody-knows", UNKNOWN),
            ("", UNKNOWN),
        ] {
            assert_eq!(
                String::from_utf8_lossy(of(name.as_bytes()).as_ref()),
                expected,
                "{name}"
            );
        }
        assert_eq!(of(b"x.\xff").as_ref(), UNKNOWN.as_bytes());
    }
}
