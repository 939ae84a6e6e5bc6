//! What is added, removed and rewritten in heads on their way.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::Method;
use ipnet::IpNet;

use crate::buffer;
use crate::http::message::{FieldBlock, has_token, is_told, tokens};
use crate::http::{Fields, RequestHead, Version};

/// Names of one connection only (RFC 9110 §7.6.1), beside those that Connection lists.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// A request id as it is logged: longer ones are cut for the log.
const ID_BYTES_MAX: usize = 64;

/// What is told of a client in every request of its connection, written once.
pub(super) struct Client {
    /// The address without port; empty for Unix sockets.
    address: String,
    /// The element of Forwarded up to the host.
    forwarded: String,
    scheme: &'static str,
    port: String,
    /// All that is told and is the same in each request.
    told: FieldBlock,
    /// The networks that are believed, if the client is in one of them; else none.
    trusted: Vec<IpNet>,
}

impl Client {
    /// `client` has connected to `local`. What one of a trusted network says of its own clients is
    /// believed.
    pub(super) fn new(
        client: Option<SocketAddr>,
        local: Option<SocketAddr>,
        is_secure: bool,
        trusted: &[IpNet],
    ) -> Self {
        let ip = client.map(|client| client.ip().to_canonical());
        let is_trusted = ip.is_some_and(|ip| contains(trusted, ip));
        let address = ip.map(|ip| ip.to_string());
        let scheme = if is_secure { "https" } else { "http" };
        let mut forwarded = String::new();
        if let Some(address) = &address {
            push_node(&mut forwarded, address);
            forwarded.push(';');
        }
        let _ = write!(forwarded, "proto={scheme};host=");
        let address = address.unwrap_or_default();
        let port = local.map(|local| local.port().to_string()).unwrap_or_default();
        Self {
            told: told(&address, scheme, &port),
            address,
            forwarded,
            scheme,
            port,
            trusted: if is_trusted { trusted.to_vec() } else { Vec::new() },
        }
    }

    fn is_trusted(&self) -> bool {
        !self.trusted.is_empty()
    }

    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &'static str {
        self.scheme
    }
}

fn told(address: &str, scheme: &str, port: &str) -> FieldBlock {
    let mut fields = Fields::new();
    for (name, value) in [
        ("X-Forwarded-For", address),
        ("X-Real-IP", address),
        ("X-Forwarded-Proto", scheme),
        ("X-Forwarded-Port", port),
    ] {
        if !value.is_empty() {
            fields.push(name, value);
        }
    }
    FieldBlock::of(&fields)
}

/// The id a request is known by on both sides.
pub(super) struct RequestId {
    bytes: [u8; ID_BYTES_MAX],
    length: usize,
}

impl RequestId {
    /// The one a trusted client sent, or a new one.
    pub(super) fn of(fields: &Fields, client: &Client) -> Self {
        let known = match client.is_trusted() {
            true => fields.get("x-request-id"),
            false => None,
        };
        let known = known.filter(|id| !id.is_empty() && id.iter().all(u8::is_ascii_graphic));
        let mut bytes = [0; ID_BYTES_MAX];
        let Some(known) = known else {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let mut random = fastrand::u128(..);
            for byte in &mut bytes[..32] {
                *byte = DIGITS[(random & 15) as usize];
                random >>= 4;
            }
            return Self { bytes, length: 32 };
        };
        let length = known.len().min(ID_BYTES_MAX);
        bytes[..length].copy_from_slice(&known[..length]);
        Self { bytes, length }
    }

    /// As fields and records write it.
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default() // ASCII
    }
}

/// Counts one more that the request goes on by; whether it may. RFC 9110 §7.6.2, of OPTIONS (and TRACE, which is
/// not served): whoever gets a Max-Forwards of 0 "MUST NOT forward the request; instead, the intermediary MUST
/// respond as the final recipient".
pub(super) fn may_go_on(request: &mut RequestHead) -> bool {
    if *request.method() != Method::OPTIONS {
        return true;
    }
    let most = request.fields.get("max-forwards");
    let most = most.and_then(|most| std::str::from_utf8(most).ok()?.parse::<u64>().ok());
    match most {
        Some(0) => return false,
        Some(most) => request.fields.set("Max-Forwards", (most - 1).to_string()),
        None => {} // what is no number says nothing
    }
    true
}

/// Makes the fields of a client's request into those for an endpoint.
///
/// `authority` is what the client asked for, `host` what is asked instead of it, and `via` the
/// version the client speaks, as `1.1 atlas`.
pub(super) fn to_endpoint(
    fields: &mut Fields,
    client: &Client,
    authority: &[u8],
    host: Option<&str>,
    via: &str,
    id: &RequestId,
) {
    let takes_trailers = has_token(fields.get_all("te"), "trailers");
    let chain = Chain::of(fields, client);
    // Trusted proxies write dashes: what has underscores went through them.
    remove_hop_by_hop(fields, |name| {
        is_told(name) && (!client.is_trusted() || name.contains(&b'_'))
    });
    if let Some(host) = host {
        fields.set("Host", host);
    }
    if takes_trailers {
        fields.push("TE", "trailers");
    }
    fields.push("Via", via);
    match chain {
        None => tell_new(fields, client, authority, id),
        Some(chain) => tell_on(fields, client, authority, id, chain),
    }
}

/// A request's trailers without what tells of a client, which nobody is believed behind a body; `None` where there
/// is nothing of that.
pub(super) fn without_told(trailers: &Fields) -> Option<Fields> {
    let is_clean = trailers.iter().all(|(name, _)| !is_told(name.as_bytes()));
    (!is_clean).then(|| {
        let mut kept = Fields::new();
        for (name, value) in trailers.iter().filter(|(name, _)| !is_told(name.as_bytes())) {
            kept.push(name, value);
        }
        kept
    })
}

/// Nothing is known but what this connection shows: the common case.
fn tell_new(fields: &mut Fields, client: &Client, authority: &[u8], id: &RequestId) {
    fields.push_block(&client.told);
    if !authority.is_empty() {
        fields.push("X-Forwarded-Host", authority);
    }
    fields.push("X-Request-Id", id.as_str());
    let mut forwarded = buffer::take_vec();
    push_forwarded(&mut forwarded, client, authority);
    fields.push("Forwarded", &forwarded);
    buffer::give_vec(forwarded);
}

/// What a trusted client said of its own clients.
struct Chain {
    /// The members of X-Forwarded-For, joined.
    addresses: Vec<u8>,
    /// The elements of Forwarded, joined.
    forwarded: Vec<u8>,
    real: Option<String>,
}

impl Chain {
    /// `None` if the client is not trusted, or says nothing.
    fn of(fields: &Fields, client: &Client) -> Option<Self> {
        let says = client.is_trusted() && fields.iter().any(|(name, _)| is_told(name.as_bytes()));
        says.then(|| Self {
            addresses: join(fields, "x-forwarded-for"),
            forwarded: join(fields, "forwarded"),
            real: named_client(fields, client),
        })
    }
}

fn join(fields: &Fields, name: &str) -> Vec<u8> {
    fields.get_all(name).collect::<Vec<_>>().join(&b", "[..])
}

/// Adds this connection to what is known already, and keeps the rest.
fn tell_on(fields: &mut Fields, client: &Client, authority: &[u8], id: &RequestId, chain: Chain) {
    let mut forwarded = chain.forwarded;
    if forwarded.is_empty() {
        // RFC 7239 §7.4: what X-Forwarded-For says can be said in Forwarded, if nothing else is.
        for member in tokens(std::iter::once(&chain.addresses[..])) {
            let mut element = String::new();
            push_node(&mut element, &String::from_utf8_lossy(member));
            push_member(&mut forwarded, element.as_bytes());
        }
    }
    let mut element = Vec::new();
    push_forwarded(&mut element, client, authority);
    push_member(&mut forwarded, &element);
    fields.set("Forwarded", &forwarded);
    let mut addresses = chain.addresses;
    push_member(&mut addresses, client.address.as_bytes());
    fields.set("X-Forwarded-For", &addresses);
    if let Some(real) = chain.real {
        fields.set("X-Real-IP", real);
    }
    for (name, value) in [
        ("X-Real-IP", client.address.as_bytes()),
        ("X-Forwarded-Proto", client.scheme.as_bytes()),
        ("X-Forwarded-Host", authority),
        ("X-Forwarded-Port", client.port.as_bytes()),
        ("X-Request-Id", id.as_str().as_bytes()),
    ] {
        if !value.is_empty() && !fields.has(name) {
            fields.push(name, value);
        }
    }
}

/// Who the first trusted proxy was asked by: the last address that is not a proxy's, or the first
/// of those that are. What stands before it anybody may have written.
fn real_client(addresses: &[u8], trusted: &[IpNet]) -> Option<IpAddr> {
    let members: Vec<_> = tokens(std::iter::once(addresses)).collect();
    let mut real = None;
    for member in members.iter().rev() {
        let Some(address) = std::str::from_utf8(member).ok().and_then(address) else {
            break; // no proxy of ours wrote this, or it keeps to itself who asked
        };
        real = Some(address);
        if !contains(trusted, address) {
            break;
        }
    }
    real
}

/// Whom a trusted client names as the one who asked the first trusted proxy; `None` where it does not tell who asked at
/// all. Proxies that do may let through what a stranger wrote into X-Real-IP.
fn named_client(fields: &Fields, client: &Client) -> Option<String> {
    let mut members = join(fields, "x-forwarded-for");
    if members.is_empty() {
        for line in fields.get_all("forwarded") {
            push_nodes(&mut members, line);
        }
    }
    let real = || real_client(&members, &client.trusted);
    (!members.is_empty()).then(|| real().map_or_else(|| client.address.clone(), |real| real.to_string()))
}

/// The nodes that the elements of Forwarded are for, as members of X-Forwarded-For.
fn push_nodes(members: &mut Vec<u8>, line: &[u8]) {
    let is_quote = |byte: &&u8| **byte == b'"';
    // A stranger's open quotation mark would hide what a proxy has added to it.
    if line.contains(&b'\\') || line.iter().filter(is_quote).count() % 2 != 0 {
        return push_member(members, b"unknown");
    }
    let elements = split_unquoted(line, b',').map(<[u8]>::trim_ascii);
    for element in elements.filter(|element| !element.is_empty()) {
        let node = split_unquoted(element, b';').find_map(|pair| {
            let (name, node) = pair.trim_ascii().split_at_checked(4)?;
            name.eq_ignore_ascii_case(b"for=").then_some(node)
        });
        let node = node.and_then(|node| node.split(|byte| *byte == b'"').find(|part| !part.is_empty()));
        let node = node.filter(|node| !node.contains(&b','));
        push_member(members, node.unwrap_or(b"unknown"));
    }
}

/// The pieces between separators that are not between quotation marks.
fn split_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    text.split(move |&byte| {
        is_quoted ^= byte == b'"';
        byte == separator && !is_quoted
    })
}

/// The address of a member of X-Forwarded-For: some proxies write the port behind it, IPv6 in brackets, or IPv4 as
/// IPv6.
fn address(member: &str) -> Option<IpAddr> {
    let with_port = || Some(member.parse::<SocketAddr>().ok()?.ip());
    let in_brackets = || member.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address: Option<IpAddr> = member.parse().ok().or_else(with_port).or_else(in_brackets);
    address.map(|address| address.to_canonical())
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

fn push_member(list: &mut Vec<u8>, member: &[u8]) {
    if !list.is_empty() && !member.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(member);
}

/// `for=` and an address. RFC 7239 §6: IPv6 in brackets, and quoted because of the colons.
fn push_node(into: &mut String, address: &str) {
    // Writing to a String does not fail.
    let _ = match self::address(address) {
        Some(IpAddr::V4(bare)) => write!(into, "for={bare}"),
        Some(IpAddr::V6(bare)) => write!(into, "for=\"[{bare}]\""),
        None => into.write_str("for=unknown"),
    };
}

/// This connection's element of Forwarded.
fn push_forwarded(into: &mut Vec<u8>, client: &Client, authority: &[u8]) {
    into.extend_from_slice(client.forwarded.as_bytes());
    // RFC 7230 §3.2.6: a value that is no token has to be quoted; a colon makes it none.
    into.push(b'"');
    for &byte in authority {
        if matches!(byte, b'"' | b'\\') {
            into.push(b'\\');
        }
        into.push(byte);
    }
    into.push(b'"');
}

/// Makes the fields of an endpoint's response into those for a client. `version`: what the endpoint
/// speaks.
pub(super) fn to_client(fields: &mut Fields, version: Version) {
    remove_hop_by_hop(fields, |_| false);
    fields.push("Via", via(version));
}

/// What Via says of a message that came in this version (RFC 9110 §7.6.3).
pub(super) fn via(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0 atlas",
        Version::Http11 => "1.1 atlas",
        Version::Http2 => "2.0 atlas",
    }
}

/// As [`to_client`], of a response that names protocols by Upgrade, for the client to read.
pub(super) fn to_client_with_upgrade(fields: &mut Fields) {
    let protocols = join(fields, "upgrade");
    to_client(fields, Version::Http11);
    if !protocols.is_empty() {
        fields.push("Upgrade", protocols);
    }
}

/// Removes what belongs to one connection only, and what `also` names.
fn remove_hop_by_hop(fields: &mut Fields, also: impl Fn(&[u8]) -> bool) {
    let mut listed: Vec<Vec<u8>> = Vec::new();
    for options in fields.get_all("connection").filter(|options| !is_usual(options)) {
        let names = tokens(std::iter::once(options)).filter(|name| !is_usual(name));
        listed.extend(names.map(<[u8]>::to_vec));
    }
    fields.retain(|name, _| {
        let is_listed = listed.iter().any(|listed| listed.eq_ignore_ascii_case(name));
        !(is_listed || is_hop_by_hop(name) || also(name))
    });
}

fn is_hop_by_hop(name: &[u8]) -> bool {
    // Few names of other fields are as long as one of these.
    HOP_BY_HOP_LENGTHS & 1 << (name.len() & 31) != 0
        && HOP_BY_HOP
            .iter()
            .any(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// A bit for each length of [`HOP_BY_HOP`].
const HOP_BY_HOP_LENGTHS: u32 = {
    let mut lengths = 0;
    let mut at = 0;
    while at < HOP_BY_HOP.len() {
        lengths |= 1 << HOP_BY_HOP[at].len();
        at += 1;
    }
    lengths
};

/// Members of Connection that need no look-up: what they name is removed anyway. And Host, which
/// nobody may have removed.
fn is_usual(name: &[u8]) -> bool {
    let usual: [&[u8]; 5] = [b"keep-alive", b"close", b"te", b"upgrade", b"host"];
    usual.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::message::is_named;

    fn fields(lines: &[&str]) -> Fields {
        let mut fields = Fields::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            fields.push(name, value);
        }
        fields
    }

    fn lines(fields: &Fields) -> Vec<String> {
        fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
            .collect()
    }

    fn client(address: &str, is_trusted: bool) -> Client {
        let client = address.parse().ok();
        let trusted = ["192.0.2.0/24", "10.0.0.0/8"].map(|network| network.parse().unwrap());
        Client::new(
            client,
            "192.0.2.1:8443".parse().ok(),
            true,
            if is_trusted { &trusted } else { &[] },
        )
    }

    fn forwarded(client: &Client, sent: &[&str], host: Option<&str>) -> Vec<String> {
        let mut fields = fields(sent);
        let id = RequestId::of(&fields, client);
        to_endpoint(&mut fields, client, b"a.test:8443", host, "1.1 atlas", &id);
        lines(&fields)
            .into_iter()
            .map(|line| line.replace(id.as_str(), "ID"))
            .collect()
    }

    #[test]
    fn a_stranger_is_told_of_and_not_believed() {
        let sent = [
            "Host: a.test:8443",
            "Connection: keep-alive, X-Secret, host",
            "X-Secret: 1",
            "Keep-Alive: 5",
            "TE: trailers, deflate",
            "Upgrade: h2c",
            "X-Forwarded-For: 6.6.6.6",
            "X_Forwarded_For: 6.6.6.6",
            "x-forwarded-ssl: on",
            "X-Real-IP: 6.6.6.6",
            "Forwarded: for=6.6.6.6",
            "X-Request-Id: evil",
            "Accept: */*",
        ];
        assert_eq!(
            forwarded(&client("[::1]:9", false), &sent, None),
            [
                "Host: a.test:8443",
                "Accept: */*",
                "TE: trailers",
                "Via: 1.1 atlas",
                "X-Forwarded-For: ::1",
                "X-Real-IP: ::1",
                "X-Forwarded-Proto: https",
                "X-Forwarded-Port: 8443",
                "X-Forwarded-Host: a.test:8443",
                "X-Request-Id: ID",
                "Forwarded: for=\"[::1]\";proto=https;host=\"a.test:8443\"",
            ]
        );
    }

    #[test]
    fn a_trusted_client_is_believed_and_added() {
        let sent = [
            "X-Forwarded-For: 10.0.0.1, 2001:db8::1, 10.0.0.2",
            "X-Forwarded-Proto: http",
            "X-Request-Id: abc",
            "Host: a.test:8443",
        ];
        assert_eq!(
            forwarded(&client("192.0.2.9:1", true), &sent, Some("app")),
            [
                "X-Forwarded-Proto: http",
                "X-Request-Id: ID",
                "Host: app",
                "Via: 1.1 atlas",
                "Forwarded: for=10.0.0.1, for=\"[2001:db8::1]\", for=10.0.0.2, \
                 for=192.0.2.9;proto=https;host=\"a.test:8443\"",
                "X-Forwarded-For: 10.0.0.1, 2001:db8::1, 10.0.0.2, 192.0.2.9",
                "X-Real-IP: 2001:db8::1",
                "X-Forwarded-Host: a.test:8443",
                "X-Forwarded-Port: 8443",
            ]
        );
    }

    #[test]
    fn the_client_of_trusted_proxies_is_told_by_what_they_add_alone() {
        let real = |sent: &[&str]| {
            let told = forwarded(&client("192.0.2.9:1", true), sent, None);
            let told = told
                .into_iter()
                .filter(|line| is_named(line.split(':').next().unwrap_or_default().as_bytes(), "x-real-ip"));
            told.collect::<Vec<_>>()
        };
        let spoofed = ["X-Real-IP: 10.0.0.1", "X_Real_IP: 10.0.0.1"];
        // Only the last member is surely the proxy's.
        for addresses in [
            "203.0.113.5",
            "10.0.0.1, 203.0.113.5",
            "nobody, 203.0.113.5, 10.0.0.2",
            "10.0.0.1, 203.0.113.5:4711",
        ] {
            let addresses = format!("X-Forwarded-For: {addresses}");
            let sent = [&spoofed[..], &[addresses.as_str()]].concat();
            assert_eq!(real(&sent), ["X-Real-IP: 203.0.113.5"], "{addresses}");
        }
        let sent = [&spoofed[..], &["X-Forwarded-For: nobody, 10.0.0.2"]].concat();
        assert_eq!(
            real(&sent),
            ["X-Real-IP: 10.0.0.2"],
            "who has asked that proxy is not known"
        );
        let sent = [&spoofed[..], &["X-Forwarded-For: 10.0.0.1, unknown"]].concat();
        assert_eq!(real(&sent), ["X-Real-IP: 192.0.2.9"], "nor this one");
        let sent = [&spoofed[..], &["X-Forwarded-For: [2001:db8::1]:80"]].concat();
        assert_eq!(real(&sent), ["X-Real-IP: 2001:db8::1"]);
        let sent = [&spoofed[..], &["X-Forwarded-For: 203.0.113.5, ::ffff:10.0.0.2"]].concat();
        assert_eq!(
            real(&sent),
            ["X-Real-IP: 203.0.113.5"],
            "IPv4 as a socket for both shows it"
        );
        for (forwarded, expected) in [
            (&["Forwarded: for=203.0.113.5;proto=http"][..], "203.0.113.5"),
            (
                &["Forwarded: proto=http ; For=\"[2001:db8::1]:80\", for=10.0.0.2;by=x"],
                "2001:db8::1",
            ),
            (
                &["Forwarded: for=10.0.0.1, for=203.0.113.5;host=\"a, for=10.0.0.1\""],
                "203.0.113.5",
            ),
            (
                &["Forwarded: for=10.0.0.1;x=\"", "Forwarded: for=203.0.113.5"],
                "203.0.113.5",
            ),
            (&["Forwarded: for=10.0.0.1;x=\", for=203.0.113.5"], "192.0.2.9"),
            (&["Forwarded: for=_hidden"], "192.0.2.9"),
            (&["Forwarded: proto=https"], "192.0.2.9"),
        ] {
            let sent = [&spoofed[..], forwarded].concat();
            assert_eq!(real(&sent), [format!("X-Real-IP: {expected}")], "{forwarded:?}");
        }
        // A proxy that says nothing else means it.
        assert_eq!(real(&["X-Real-IP: 203.0.113.5"]), ["X-Real-IP: 203.0.113.5"]);
        assert_eq!(real(&[]), ["X-Real-IP: 192.0.2.9"]);
    }

    #[test]
    fn a_response_loses_what_belongs_to_its_connection() {
        let mut fields = fields(&[
            "Connection: close, X-Hop",
            "X-Hop: 1",
            "Server: x",
            "Trailer: sum",
        ]);
        to_client(&mut fields, Version::Http11);
        assert_eq!(lines(&fields), ["Server: x", "Trailer: sum", "Via: 1.1 atlas"]);
    }

    #[test]
    fn every_request_has_its_own_id() {
        let stranger = client("192.0.2.9:1", false);
        let first = RequestId::of(&fields(&[]), &stranger);
        let second = RequestId::of(&fields(&["X-Request-Id: mine"]), &stranger);
        assert_eq!((first.as_str().len(), second.as_str().len()), (32, 32));
        assert_ne!(first.as_str(), second.as_str());
    }
}
