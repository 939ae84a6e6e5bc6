//! Upgrades: which protocols a client may ask an endpoint for, and what an endpoint may say to that.

use aws_lc_rs::digest;
use data_encoding::BASE64;

use crate::http::message::{has_token, tokens};
use crate::http::{Fields, RequestHead, ResponseHead};

/// Protocols that are never asked for: whoever spoke HTTP in a tunnel would pass by every route, and
/// TLS in it would be another's than the one that is recorded.
const NEVER: [&str; 4] = ["h2c", "h2", "http", "tls"];

/// The protocols to ask the endpoint for: those the client is ready to go on in, as a value of
/// Upgrade. `None`: the request is one as any other.
pub(super) fn offered(request: &RequestHead) -> Option<Vec<u8>> {
    if !request.asks_upgrade() {
        return None;
    }
    let offered: Vec<_> = tokens(request.fields.get_all("upgrade"))
        .filter(|protocol| may_be_asked(protocol))
        .collect();
    (!offered.is_empty()).then(|| offered.join(&b", "[..]))
}

/// RFC 9110 §7.8: `protocol = protocol-name ["/" protocol-version]`, both of them tokens.
fn may_be_asked(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    let is_name = !name.is_empty() && protocol.iter().all(u8::is_ascii_graphic);
    is_name
        && !NEVER
            .iter()
            .any(|never| name.eq_ignore_ascii_case(never.as_bytes()))
}

/// The key of a handshake that an extended CONNECT does without (RFC 8441 §5): 16 bytes in base64 that
/// only have to differ from case to case (RFC 6455 §4.1).
pub(super) fn fresh_key() -> String {
    BASE64.encode(&fastrand::u128(..).to_ne_bytes())
}

/// Whether a 101 answers the key it was sent. Clients of HTTP/1.1 see to that themselves.
pub(super) fn is_key_answered(head: &ResponseHead, asked: &Fields) -> bool {
    /// RFC 6455 §1.3.
    const ANSWERERS: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let key = asked.get("sec-websocket-key").unwrap_or_default();
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, ANSWERERS].concat());
    head.fields.get("sec-websocket-accept") == Some(BASE64.encode(hash.as_ref()).as_bytes())
}

/// Whether a 101 switches to what was asked for. RFC 9110 §7.8: "A server that sends a 101
/// (Switching Protocols) response MUST send an Upgrade header field", and "MUST NOT switch to a
/// protocol that was not indicated by the client".
pub(super) fn is_what_was_asked(head: &ResponseHead, asked: &Fields) -> bool {
    let mut chosen = tokens(head.fields.get_all("upgrade")).peekable();
    let is_named = chosen.peek().is_some() && has_token(head.fields.get_all("connection"), "upgrade");
    let was_asked =
        |protocol: &[u8]| tokens(asked.get_all("upgrade")).any(|asked| asked.eq_ignore_ascii_case(protocol));
    is_named && chosen.all(was_asked)
}

#[cfg(test)]
mod tests {
    use ::http::StatusCode;

    use super::*;
    use crate::buffer::Buffer;
    use crate::http::BodyLength;
    use crate::http::h1::parse::{self, Limits, Scan};

    fn request(lines: &str) -> RequestHead {
        let mut input = Buffer::small();
        input.push(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes());
        let limits = Limits {
            head_bytes_max: 4096,
            fields_max: 100,
            request_line_bytes_max: 4096,
        };
        let parsed = parse::request(&mut input, &mut Scan::default(), &limits);
        parsed.expect("it is good").expect("it is whole")
    }

    #[test]
    fn what_may_be_tunnelled_is_offered_and_nothing_else() {
        for (lines, expected) in [
            ("Connection: Upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
            (
                "Connection: a, UPGRADE\r\nUpgrade: SPDY/3.1, x\r\n",
                Some("SPDY/3.1, x"),
            ),
            ("Connection: upgrade\r\nUpgrade: h2c, tcp\r\n", Some("tcp")),
            (
                "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n",
                Some("a, b"),
            ),
            ("Connection: upgrade\r\nUpgrade: H2C\r\n", None),
            ("Connection: upgrade\r\nUpgrade: HTTP/2.0, TLS/1.2, h2\r\n", None),
            ("Connection: upgrade\r\nUpgrade: ,, /1\r\n", None),
            ("Connection: upgrade\r\nUpgrade: a b\r\n", None),
            ("Connection: upgrade\r\n", None),
            ("Upgrade: websocket\r\n", None),
        ] {
            let expected = expected.map(|offered| offered.as_bytes().to_vec());
            assert_eq!(offered(&request(lines)), expected, "{lines}");
        }
    }

    #[test]
    fn an_endpoint_may_switch_to_what_was_asked_only() {
        let mut asked = Fields::new();
        asked.push("Upgrade", "websocket, x/2");
        for (fields, expected) in [
            (&[("Connection", "Upgrade"), ("Upgrade", "WebSocket")][..], true),
            (&[("Connection", "a, upgrade"), ("Upgrade", "x/2")], true),
            (&[("Connection", "Upgrade"), ("Upgrade", "x/2, websocket")], true),
            (&[("Connection", "Upgrade"), ("Upgrade", "x/1")], false),
            (&[("Connection", "Upgrade"), ("Upgrade", "websocket, h2c")], false),
            (&[("Connection", "Upgrade"), ("Upgrade", "")], false),
            (&[("Connection", "Upgrade")], false),
            (&[("Upgrade", "websocket")], false),
            (&[], false),
        ] {
            let mut head = ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS, BodyLength::None);
            for (name, value) in fields {
                head.fields.push(name, value);
            }
            assert_eq!(is_what_was_asked(&head, &asked), expected, "{fields:?}");
        }
    }
}
