//! The PROXY header, versions 1 and 2: tells an endpoint who the client is, before anything else is said.
//!
//! Written after the protocol's text by its author, `proxy-protocol.txt` of HAProxy.

use std::net::{IpAddr, SocketAddr};

/// What every version 2 header begins with (§2.2).
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Which header endpoints are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The client, and the address it has connected to.
pub type Addresses = (SocketAddr, SocketAddr);

impl ProxyProtocol {
    /// The header. `None`: Atlas speaks for itself (a check), or the client has no address (it came by a
    /// Unix socket).
    pub(super) fn header(self, addresses: Option<Addresses>) -> Vec<u8> {
        let addresses = addresses.map(of_one_family);
        match (self, addresses) {
            (Self::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
            (Self::V1, Some((client, local))) => {
                let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (client.ip(), local.ip());
                format!(
                    "PROXY {family} {from} {to} {} {}\r\n",
                    client.port(),
                    local.port()
                )
                .into_bytes()
            }
            // LOCAL, and nothing else.
            (Self::V2, None) => [&V2_SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
            (Self::V2, Some((client, local))) => {
                // PROXY; TCP over IPv4 or IPv6.
                let (family, length) = if client.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
                let mut header = [&V2_SIGNATURE[..], &[0x21, family, 0, length]].concat();
                for address in [client, local] {
                    match address.ip() {
                        IpAddr::V4(ip) => header.extend(ip.octets()),
                        IpAddr::V6(ip) => header.extend(ip.octets()),
                    }
                }
                header.extend(client.port().to_be_bytes());
                header.extend(local.port().to_be_bytes());
                header
            }
        }
    }
}

/// A header has one family: an IPv4 address beside one of IPv6 is written as IPv6 (RFC 4291 §2.5.5.2).
fn of_one_family((client, local): Addresses) -> Addresses {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, local) = (canonical(client), canonical(local));
    if client.is_ipv4() == local.is_ipv4() {
        return (client, local);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(client), mapped(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(client: &str, local: &str) -> Option<Addresses> {
        Some((client.parse().unwrap(), local.parse().unwrap()))
    }

    #[test]
    fn the_text_says_who_came_and_where() {
        for (addresses, expected) in [
            (None, "PROXY UNKNOWN\r\n"),
            (
                addresses("192.0.2.7:12345", "192.0.2.1:443"),
                "PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n",
            ),
            (
                addresses("[2001:db8::7]:1", "[2001:db8::1]:443"),
                "PROXY TCP6 2001:db8::7 2001:db8::1 1 443\r\n",
            ),
            (
                addresses("[::ffff:192.0.2.7]:1", "[::ffff:192.0.2.1]:443"),
                "PROXY TCP4 192.0.2.7 192.0.2.1 1 443\r\n",
            ),
            (
                addresses("192.0.2.7:1", "[2001:db8::1]:443"),
                "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 443\r\n",
            ),
        ] {
            let header = ProxyProtocol::V1.header(addresses);
            assert_eq!(String::from_utf8(header).unwrap(), expected);
        }
    }

    #[test]
    fn the_bytes_are_as_long_as_they_say() {
        for (addresses, kind, length) in [
            (None, [0x20, 0x00], 0),
            (addresses("192.0.2.7:12345", "192.0.2.1:443"), [0x21, 0x11], 12),
            (
                addresses("[2001:db8::7]:1", "[2001:db8::1]:443"),
                [0x21, 0x21],
                36,
            ),
        ] {
            let header = ProxyProtocol::V2.header(addresses);
            assert_eq!(header[..12], *V2_SIGNATURE);
            assert_eq!(header[12..14], kind);
            assert_eq!(usize::from(u16::from_be_bytes([header[14], header[15]])), length);
            assert_eq!(header.len(), 16 + length);
        }
        let header = ProxyProtocol::V2.header(addresses("192.0.2.7:12345", "192.0.2.1:443"));
        assert_eq!(header[16..], [192, 0, 2, 7, 192, 0, 2, 1, 0x30, 0x39, 0x01, 0xbb]);
    }
}
