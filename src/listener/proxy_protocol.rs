//! Who the client really is: the PROXY header, versions 1 and 2, that a load balancer sends first.
//!
//! Written after the protocol's text by its author, `proxy-protocol.txt` of HAProxy. A listener
//! that expects the header gets nothing else: who may connect to it is for the firewall to say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::buffer::Buffer;
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::{Socket, before};
use crate::time::Deadline;

/// Bytes a version 1 line can have, CR and LF included (§2.1).
const V1_BYTES_MAX: usize = 107;

/// What every version 2 header begins with (§2.2).
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a version 2 header before its addresses.
const V2_FIXED_BYTES: usize = 16;

/// Bytes of addresses and extensions accepted; the extensions in use need some hundred.
const V2_REST_BYTES_MAX: usize = 4096;

/// The most bytes a header may need.
pub const HEADER_BYTES_MAX: usize = V2_FIXED_BYTES + V2_REST_BYTES_MAX;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it has; what follows is the client's.
    pub length: usize,
    /// Client and the address it connected to; `None` where the balancer speaks for itself
    /// (health checks) or does not know.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Not a PROXY header; with what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads the header off a connection, and not a byte more.
///
/// # Errors
///
/// `Downstream Accept …`: `TimedOut`, `Closed`, `Reset`, `Malformed`.
pub async fn read(socket: &Socket, deadline: Deadline) -> Result<Header, End> {
    let end = |cause| End::new(Side::Downstream, Phase::Accept, cause);
    let failed = |error: io::Error| {
        end(if error.kind() == io::ErrorKind::ConnectionReset {
            Cause::Reset
        } else {
            Cause::System
        })
    };
    let mut seen = Buffer::none();
    loop {
        before(deadline, socket.readable())
            .await
            .map_err(|_| end(Cause::TimedOut))?
            .map_err(failed)?;
        seen.grow(HEADER_BYTES_MAX);
        // Look before taking: what follows the header belongs to TLS.
        let known = seen.len();
        let count = match socket.try_peek(seen.space()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            other => other.map_err(failed)?,
        };
        seen.fill(count);
        let header = parse(seen.filled()).map_err(|Malformed(what)| {
            tracing::info!("a connection to a listener with proxy_protocol was closed: {what}");
            end(Cause::Malformed)
        })?;
        let take = header.map_or(count, |header| header.length - known);
        let taken = socket
            .try_recv(&mut seen.filled_mut()[known..known + take])
            .map_err(failed)?;
        match header {
            Some(header) => return Ok(header),
            None if taken == 0 => return Err(end(Cause::Closed)),
            None => {}
        }
    }
}

/// Reads a header from the first bytes of a connection. `None`: more bytes are needed.
///
/// # Errors
///
/// When no continuation can make it a header.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins_like = |whole: &[u8]| bytes.iter().zip(whole).all(|(a, b)| a == b);
    if begins_like(V2_SIGNATURE) {
        return if bytes.len() < V2_FIXED_BYTES {
            Ok(None)
        } else {
            version_2(bytes)
        };
    }
    if begins_like(b"PROXY ") {
        return version_1(bytes);
    }
    Err(Malformed("the connection does not begin with a PROXY header"))
}

fn version_1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX {
            Ok(None)
        } else {
            Err(Malformed("the PROXY line is too long"))
        };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| Malformed("the PROXY line is not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    let addresses = match family {
        // "must ignore anything presented before the CRLF"
        "UNKNOWN" => None,
        "TCP4" | "TCP6" => Some(v1_addresses(family, &mut words)?),
        _ => {
            return Err(Malformed(
                "the PROXY line names a family other than TCP4, TCP6 and UNKNOWN",
            ));
        }
    };
    Ok(Some(Header {
        length: end + 2,
        addresses,
    }))
}

fn v1_addresses<'a>(
    family: &str,
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<(SocketAddr, SocketAddr), Malformed> {
    let mut ip = || words.next().and_then(|word| word.parse::<IpAddr>().ok());
    let (source, destination) = (ip(), ip());
    let mut port = || {
        let word = words.next()?;
        let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        if plain { word.parse::<u16>().ok() } else { None }
    };
    let (from, to) = (port(), port());
    let (Some(source), Some(destination), Some(from), Some(to), None) =
        (source, destination, from, to, words.next())
    else {
        return Err(Malformed(
            "the PROXY line does not hold two addresses and two ports",
        ));
    };
    if [source, destination]
        .iter()
        .any(|ip| ip.is_ipv4() != (family == "TCP4"))
    {
        return Err(Malformed("the PROXY line's addresses are not of its family"));
    }
    Ok((SocketAddr::new(source, from), SocketAddr::new(destination, to)))
}

fn version_2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let (version, command) = (bytes[12] >> 4, bytes[12] & 0xf);
    if version != 2 {
        return Err(Malformed("the PROXY header's version is not 2"));
    }
    let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if rest > V2_REST_BYTES_MAX {
        return Err(Malformed("the PROXY header is too long"));
    }
    let length = V2_FIXED_BYTES + rest;
    let Some(body) = bytes.get(V2_FIXED_BYTES..length) else {
        return Ok(None);
    };
    let addresses = match (command, bytes[13] >> 4) {
        (0, _) => None, // LOCAL: the balancer's own connection
        (1, 0) => None, // AF_UNSPEC
        (1, 1) => Some(v2_ipv4(body)?),
        (1, 2) => Some(v2_ipv6(body)?),
        (1, 3) => None, // AF_UNIX: paths mean nothing on this machine
        (1, _) => return Err(Malformed("the PROXY header's address family is unknown")),
        _ => return Err(Malformed("the PROXY header's command is unknown")),
    };
    Ok(Some(Header { length, addresses }))
}

fn v2_ipv4(body: &[u8]) -> Result<(SocketAddr, SocketAddr), Malformed> {
    let Some(&[a, b, c, d, e, f, g, h, i, j, k, l]) = body.first_chunk::<12>() else {
        return Err(Malformed("the PROXY header is too short for IPv4 addresses"));
    };
    let source = SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([i, j])));
    let destination = SocketAddr::from((Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([k, l])));
    Ok((source, destination))
}

fn v2_ipv6(body: &[u8]) -> Result<(SocketAddr, SocketAddr), Malformed> {
    let short = Malformed("the PROXY header is too short for IPv6 addresses");
    let ip = |at: usize| {
        body.get(at..)
            .and_then(|rest| rest.first_chunk::<16>())
            .map(|ip| Ipv6Addr::from(*ip))
    };
    let port = |at: usize| {
        body.get(at..)
            .and_then(|rest| rest.first_chunk::<2>())
            .map(|port| u16::from_be_bytes(*port))
    };
    let (Some(source), Some(destination), Some(from), Some(to)) = (ip(0), ip(16), port(32), port(34)) else {
        return Err(short);
    };
    Ok((
        SocketAddr::from((source, from)),
        SocketAddr::from((destination, to)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[0x20 | command, family], &length, body].concat()
    }

    fn told(bytes: &[u8]) -> Option<(String, usize)> {
        let header = parse(bytes).unwrap().expect("a whole header");
        header
            .addresses
            .map(|(client, local)| (format!("{client} {local}"), header.length))
    }

    #[test]
    fn a_header_that_comes_in_pieces_is_read_to_its_last_byte_and_no_further() {
        let whole = [&v2(1, 0x11, &[7; 12])[..], b"rest"].concat();
        crate::runtime::start(crate::runtime::Preference::Auto, |_| async move {
            for cut in 1..whole.len() {
                let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                let socket = Socket::new(ours.into()).unwrap();
                io::Write::write_all(&mut theirs, &whole[..cut]).unwrap();
                let deadline = Deadline::within(std::time::Duration::from_secs(5));
                let mut reading = Box::pin(read(&socket, deadline));
                let early = before(
                    Deadline::within(std::time::Duration::from_millis(2)),
                    &mut reading,
                )
                .await;
                io::Write::write_all(&mut theirs, &whole[cut..]).unwrap();
                let header = match early {
                    Ok(header) => header,
                    Err(_) => reading.await,
                };
                assert!(header.unwrap().addresses.is_some());
                drop(socket.readable().await);
                let mut rest = [0; 8];
                let count = socket.try_recv(&mut rest).unwrap();
                assert_eq!(&rest[..count], b"rest");
            }
        })
        .unwrap();
    }

    #[test]
    fn version_1_tells_client_and_destination() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";
        assert_eq!(
            told(line),
            Some(("192.0.2.1:56324 198.51.100.7:443".to_owned(), line.len()))
        );
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\nGET /";
        assert_eq!(
            told(line),
            Some(("[2001:db8::1]:1 [2001:db8::2]:65535".to_owned(), line.len() - 5))
        );
        assert_eq!(told(b"PROXY UNKNOWN whatever it says\r\n"), None);
    }

    #[test]
    fn version_2_tells_client_and_destination() {
        let ipv4 = [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 1, 187, 9, 9, 9];
        assert_eq!(
            told(&v2(1, 0x11, &ipv4)),
            Some(("192.0.2.1:56324 198.51.100.7:443".to_owned(), 31))
        );
        let mut ipv6 = [0; 36];
        (ipv6[15], ipv6[31], ipv6[33], ipv6[35]) = (1, 2, 3, 4);
        assert_eq!(
            told(&v2(1, 0x21, &ipv6)),
            Some(("[::1]:3 [::2]:4".to_owned(), 52))
        );
        assert_eq!(told(&v2(0, 0, &[])), None);
        assert_eq!(told(&v2(1, 0x31, &[0; 216])), None);
    }

    #[test]
    fn every_part_of_a_header_asks_for_more_and_nothing_else() {
        let headers = [
            b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n".to_vec(),
            v2(1, 0x11, &[7; 12]),
            v2(0, 0, b"tlv"),
        ];
        for header in headers {
            for length in 0..header.len() {
                assert_eq!(parse(&header[..length]), Ok(None), "{length} of {header:?}");
            }
            assert!(parse(&header).unwrap().is_some());
        }
    }

    #[test]
    fn what_is_not_a_header_is_refused() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        let wrong: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01",
            b"PROXY TCP5 1.2.3.4 5.6.7.8 9 10\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10 11\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 9 65536\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 +9 10\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 09 10\r\n",
            b"PROXY TCP4 ::1 ::2 9 10\r\n",
            b"PROXY TCP6 1.2.3.4 5.6.7.8 9 10\r\n",
            b"PROXY  TCP4 1.2.3.4 5.6.7.8 9 10\r\n",
            long.as_bytes(),
        ];
        for bytes in wrong {
            assert!(parse(bytes).is_err(), "{:?}", bytes.escape_ascii().to_string());
        }
        assert!(parse(&v2(2, 0x11, &[0; 12])).is_err());
        assert!(parse(&v2(1, 0x41, &[0; 12])).is_err());
        assert!(parse(&v2(1, 0x11, &[0; 11])).is_err());
        assert!(parse(&v2(1, 0x21, &[0; 35])).is_err());
        assert!(parse(&v2(1, 0x11, &[0; 5000])).is_err());
    }
}
