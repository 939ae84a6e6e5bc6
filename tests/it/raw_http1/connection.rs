//! Connection and what it governs: keeping and closing, hop-by-hop fields, Expect, Upgrade.

use super::{Case, case, get, post};

pub fn cases() -> Vec<Case> {
    let mut all = keeping();
    all.extend(hop_by_hop());
    all.extend(expectations());
    all.extend(upgrades());
    all
}

fn keeping() -> Vec<Case> {
    let old = |lines: &str| format!("GET / HTTP/1.0\r\nHost: a.test\r\n{lines}\r\n");
    vec![
        case("Connection: close", get("Connection: close\r\n"))
            .reaches("GET /")
            .closed(),
        case("Connection: Close", get("Connection: Close\r\n"))
            .reaches("GET /")
            .closed(),
        case("close within a list", get("Connection: x-a, close\r\n"))
            .reaches("GET /")
            .closed(),
        case(
            "close in a second field",
            get("Connection: keep-alive\r\nConnection: close\r\n"),
        )
        .reaches("GET /")
        .closed(),
        case("close and keep-alive", get("Connection: keep-alive, close\r\n"))
            .reaches("GET /")
            .closed(),
        case("closed is not close", get("Connection: closed\r\n")).reaches("GET /"),
        case("Connection: keep-alive", get("Connection: keep-alive\r\n")).reaches("GET /"),
        case("an empty Connection", get("Connection:\r\n")).reaches("GET /"),
        case("HTTP/1.0 closes", old("")).reaches("GET /").closed(),
        case("HTTP/1.0 with keep-alive", old("Connection: keep-alive\r\n")).reaches("GET /"),
        case(
            "HTTP/1.0 with Keep-Alive in capitals",
            old("Connection: Keep-Alive\r\n"),
        )
        .reaches("GET /"),
        case(
            "HTTP/1.0 with close and keep-alive",
            old("Connection: keep-alive, close\r\n"),
        )
        .reaches("GET /")
        .closed(),
    ]
}

fn hop_by_hop() -> Vec<Case> {
    vec![
        case(
            "a field that Connection names",
            get("Connection: X-Private\r\nX-Private: 1\r\nX-Public: 2\r\n"),
        )
        .reaches("GET /")
        .without("x-private")
        .with("x-public", "2"),
        case(
            "OPTIONS that goes no further",
            "OPTIONS / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 0\r\n\r\n",
        )
        .gets(204)
        .kept(),
        case(
            "OPTIONS that goes on for a while",
            "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 10\r\n\r\n",
        )
        .reaches("OPTIONS *")
        .with("max-forwards", "9"),
        case("Max-Forwards of another method", get("Max-Forwards: 0\r\n"))
            .reaches("GET /")
            .with("max-forwards", "0"),
        case("Connection itself", get("Connection: X-Private\r\n"))
            .reaches("GET /")
            .without("connection"),
        case("Keep-Alive", get("Keep-Alive: timeout=5\r\n"))
            .reaches("GET /")
            .without("keep-alive"),
        case("Proxy-Connection", get("Proxy-Connection: keep-alive\r\n"))
            .reaches("GET /")
            .without("proxy-connection"),
        case(
            "TE: trailers, which Atlas understands itself",
            get("TE: trailers, gzip\r\nConnection: TE\r\n"),
        )
        .reaches("GET /")
        .with("te", "trailers")
        .with("connection", "te"),
        case("TE that Connection does not name", get("TE: gzip\r\n"))
            .reaches("GET /")
            .without("te"),
        case(
            "Connection names Content-Length",
            post("Connection: Content-Length\r\nContent-Length: 5\r\n", "hello"),
        ),
        case(
            "Connection names Transfer-Encoding",
            post(
                "Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        case("Connection names Host", get("Connection: Host\r\n")),
        case(
            "Connection names a thousand fields",
            get(&format!("Connection: {}\r\n", "x,".repeat(1000))),
        ),
        case("Connection names what is no token", get("Connection: a b\r\n")).tolerated(),
    ]
}

fn expectations() -> Vec<Case> {
    vec![
        case(
            "100-continue and a body at once",
            post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
        )
        .reaches("POST / hello"),
        case(
            "100-continue in capitals",
            post("Expect: 100-Continue\r\nContent-Length: 5\r\n", "hello"),
        )
        .reaches("POST / hello"),
        case("100-continue without a body", get("Expect: 100-continue\r\n")).reaches("GET /"),
        case(
            "100-continue from HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        )
        .reaches("POST / hello")
        .without("expect")
        .closed(),
        case(
            "another expectation",
            post("Expect: a-miracle\r\nContent-Length: 5\r\n", "hello"),
        )
        .gets(417),
        case(
            "an expectation and more",
            post("Expect: 100-continue, x\r\nContent-Length: 5\r\n", "hello"),
        )
        .gets(417),
    ]
}

/// The origin here answers 200 to whatever it is asked: HTTP goes on.
fn upgrades() -> Vec<Case> {
    vec![
        case(
            "an upgrade that is passed on and not taken up",
            get("Connection: Upgrade\r\nUpgrade: something/2\r\n"),
        )
        .reaches("GET /")
        .with("upgrade", "something/2")
        .with("connection", "upgrade"),
        case(
            "an upgrade to WebSocket",
            get("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AQIDBA==\r\n"),
        )
        .reaches("GET /")
        .with("upgrade", "websocket")
        .with("sec-websocket-key", "AQIDBA=="),
        case(
            "an upgrade that lets the connection be closed",
            get("Connection: close, Upgrade\r\nUpgrade: websocket\r\n"),
        )
        .reaches("GET /")
        .with("upgrade", "websocket")
        .closed(),
        case(
            "an upgrade to h2c",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"),
        )
        .reaches("GET /")
        .without("upgrade")
        .without("connection")
        .without("http2-settings"),
        case(
            "an upgrade to h2c or something else",
            get("Connection: Upgrade\r\nUpgrade: H2C, something\r\n"),
        )
        .reaches("GET /")
        .with("upgrade", "something"),
        case(
            "an upgrade to another HTTP",
            get("Connection: Upgrade\r\nUpgrade: HTTP/2.0, TLS/1.0\r\n"),
        )
        .reaches("GET /")
        .without("upgrade"),
        case(
            "an upgrade to nothing",
            get("Connection: Upgrade\r\nUpgrade: ,\r\n"),
        )
        .reaches("GET /")
        .without("upgrade")
        .without("connection"),
        case(
            "an upgrade with a body",
            post("Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 5\r\n", "hello"),
        )
        .reaches("POST / hello")
        .with("upgrade", "tcp"),
        case(
            "an upgrade in HTTP/1.0",
            "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .reaches("GET /")
        .without("upgrade")
        .closed(),
        case(
            "an upgrade by CONNECT",
            "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .gets(405),
        case(
            "Upgrade that Connection does not name",
            get("Upgrade: websocket\r\n"),
        )
        .reaches("GET /")
        .without("upgrade"),
        case(
            "Connection that names an Upgrade which is not there",
            get("Connection: Upgrade\r\n"),
        )
        .reaches("GET /")
        .without("connection"),
    ]
}
