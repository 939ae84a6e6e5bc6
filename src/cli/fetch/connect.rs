//! From a URL to a transport: the name, TCP, TLS, and in words what stands in the way.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use rustls::CertificateError as Fault;

use super::{Arguments, Trouble, Url, Voice};
use crate::offload::Offload;
use crate::outcome::{Cause, Refusal};
use crate::runtime::{Address, Socket, before, blocking};
use crate::time::{Deadline, now};
use crate::tls::certificates::{Problem, read_roots_once, system_roots};
use crate::tls::{self, ClientBuild, ClientSettings};
use crate::transport::Transport;

/// How TLS is spoken.
pub(super) struct Secrecy {
    settings: ClientSettings,
    offload: Arc<Offload>,
}

impl Secrecy {
    /// Reads what is trusted, and finds out what the kernel can do.
    pub(super) fn prepare(arguments: &Arguments) -> Result<Self, Trouble> {
        let offload = match arguments.no_ktls {
            true => Offload::absent(Refusal::NotPreferred),
            false => Offload::probe(),
        };
        Ok(Self {
            settings: settings(arguments)?,
            offload: offload.into(),
        })
    }
}

/// Whom to believe, and what to speak.
fn settings(arguments: &Arguments) -> Result<ClientSettings, Trouble> {
    let roots = match &arguments.cacert {
        _ if arguments.insecure => None,
        Some(path) => Some(given_roots(path)?),
        None => {
            let help = "name the authority's certificate with `--cacert FILE`";
            Some(system_roots().map_err(|error| Trouble::wrong(error).help(help))?)
        }
    };
    ClientSettings::build(ClientBuild {
        roots,
        certificate: None,
        server_name: None,
        alpn: vec!["http/1.1".to_owned()],
        prefer_ktls: !arguments.no_ktls,
        // To show it is what it is for: also where it is not worth it.
        ktls_threshold: 0,
    })
    .map_err(Trouble::wrong)
}

fn given_roots(path: &Path) -> Result<rustls::RootCertStore, Trouble> {
    read_roots_once(path).map_err(|error| {
        let help = match &error.problem {
            Problem::Unreadable(why) if why.kind() == io::ErrorKind::NotFound => {
                "name a file that exists; relative paths start at the folder you are in"
            }
            Problem::Unreadable(why) if why.kind() == io::ErrorKind::PermissionDenied => {
                "you have to be able to read this file"
            }
            _ => error.help(),
        };
        Trouble::wrong(error.to_string()).help(help)
    })
}

/// Connects to what a URL names.
pub(super) async fn connect(
    url: &Url,
    secrecy: Option<&Secrecy>,
    deadline: Deadline,
    voice: &Voice,
) -> Result<Transport, Trouble> {
    let socket = reach(url, deadline, voice).await?;
    let Some(Secrecy { settings, offload }) = secrecy.filter(|_| url.has_tls) else {
        return Ok(Transport::plain(socket));
    };
    match tls::connect(socket, settings, &url.host, offload, deadline).await {
        Ok(secured) => {
            voice.secured(&secured.facts);
            Ok(secured.transport)
        }
        Err(failed) => Err(refused(url, &failed)),
    }
}

/// Each address of the name until one answers.
async fn reach(url: &Url, deadline: Deadline, voice: &Voice) -> Result<Socket, Trouble> {
    let addresses = look_up(url, deadline).await?;
    voice.addresses(url, &addresses);
    let mut last = Trouble::failed(format!("{} has no address", url.host));
    for (place, address) in addresses.iter().enumerate() {
        // One that does not answer must leave time for those after it.
        let left = u32::try_from(addresses.len() - place).unwrap_or(u32::MAX);
        let by = Deadline::after(now(), deadline.left(now()) / left);
        last = match before(by, Socket::connect(&Address::Tcp(*address))).await {
            Ok(Ok(socket)) => {
                voice.connected(address);
                return Ok(socket);
            }
            Ok(Err(error)) => unreachable(address, &error),
            Err(_) => Trouble::failed(format!("{address} does not answer in time")),
        };
        voice.trouble(&last);
    }
    Err(last)
}

async fn look_up(url: &Url, deadline: Deadline) -> Result<Vec<SocketAddr>, Trouble> {
    let (host, port) = (url.host.clone(), url.port);
    let asked = blocking(move || (&*host, port).to_socket_addrs().map(Vec::from_iter));
    let failed = |why: &str| Trouble::failed(format!("cannot look up {}: {why}", url.host));
    match before(deadline, asked).await {
        Ok(Ok(Ok(addresses))) => Ok(addresses),
        Ok(Ok(Err(error))) => Err(failed(&error.to_string())),
        Ok(Err(panic)) => Err(failed(&panic)),
        Err(_) => Err(failed("no answer came in time")),
    }
}

fn unreachable(address: &SocketAddr, error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Trouble::failed(format!("{address} refuses connections: nobody listens there"))
        }
        _ => Trouble::failed(format!("cannot connect to {address}: {error}")),
    }
}

/// A handshake that did not go through, in words.
fn refused(url: &Url, failed: &tls::Failed) -> Trouble {
    let plain = format!(
        "if it speaks HTTP without TLS: http://{}{}",
        url.authority, url.path
    );
    match (&failed.reason, failed.end.cause) {
        (Some(rustls::Error::InvalidCertificate(fault)), _) => untrusted(&url.host, fault),
        (_, Cause::NotTls | Cause::Malformed) => {
            Trouble::failed(format!("what {} answers is not TLS ({failed})", url.authority)).help(plain)
        }
        (_, Cause::Closed | Cause::Reset) => Trouble::failed(format!(
            "{} closes the connection instead of speaking TLS",
            url.authority
        ))
        .help(plain),
        (_, Cause::TimedOut) => Trouble::failed("TLS was not through in time"),
        (_, Cause::CertificateRejected) => Trouble::failed(format!(
            "{} wants a certificate of its clients, which is not done here ({failed})",
            url.authority
        )),
        _ => Trouble::failed(format!("TLS with {} failed: {failed}", url.authority)),
    }
}

const TRUST: &str =
    "name the certificate that vouches for it with `--cacert FILE`; `-k` believes whoever answers";
const BELIEVE: &str = "`-k` believes whoever answers";

/// Why a certificate is not believed.
fn untrusted(host: &str, fault: &Fault) -> Trouble {
    let said = |what: String, help: &str| Trouble::failed(what).help(help);
    match fault {
        Fault::UnknownIssuer => said(
            format!("the certificate of {host} is vouched for by nobody who is trusted here"),
            TRUST,
        ),
        Fault::Expired | Fault::ExpiredContext { .. } => said(
            format!("the certificate of {host} has expired{}", when(fault)),
            BELIEVE,
        ),
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => said(
            format!("the certificate of {host} is not valid yet{}", when(fault)),
            "set this machine's clock if it is wrong; `-k` believes whoever answers",
        ),
        Fault::NotValidForName => said(format!("the certificate is not one for {host}"), BELIEVE),
        Fault::NotValidForNameContext { presented, .. } => said(
            format!(
                "the certificate is not one for {host}; it is for {}",
                presented.join(", ")
            ),
            "ask for one of these names; `-k` believes whoever answers",
        ),
        // webpki says so of one that signs itself and calls itself an authority.
        Fault::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => said(
            format!("the certificate of {host} is one of an authority, not of a server"),
            "make the server's with `-addext basicConstraints=critical,CA:FALSE`; `-k` believes whoever answers",
        ),
        other => said(format!("the certificate of {host} is not good: {other}"), BELIEVE),
    }
}

fn when(fault: &Fault) -> String {
    let (word, moment) = match fault {
        Fault::ExpiredContext { not_after, .. } => ("on", not_after),
        Fault::NotValidYetContext { not_before, .. } => ("before", not_before),
        _ => return String::new(),
    };
    let seconds = i64::try_from(moment.as_secs()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(moment) => format!(" {word} {moment}"),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_with_what_to_do() {
        for (fault, what, help) in [
            (Fault::UnknownIssuer, "vouched for by nobody", "--cacert"),
            (Fault::Expired, "has expired", "-k"),
            (Fault::NotValidYet, "not valid yet", "clock"),
            (Fault::NotValidForName, "not one for a.test", "-k"),
            (Fault::BadSignature, "is not good", "-k"),
        ] {
            let said = untrusted("a.test", &fault).to_string();
            assert!(said.contains(what) && said.contains(help), "{fault:?}: {said}");
        }
    }
}
