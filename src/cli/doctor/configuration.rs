//! What a configuration asks of this machine: ports, certificates, kernel TLS.

use std::io::ErrorKind;
use std::ops::Range;
use std::time::SystemTime;

use super::finding::{Finding, Findings};
use super::kernel_tls::mend;
use super::remedy;
use crate::config::{Lines, Loaded};
use crate::generation::Listener;
use crate::listener;
use crate::offload::Offload;
use crate::outcome::Refusal;
use crate::runtime::Address;
use crate::time::wall;
use crate::tls::certificates::Certificate;

/// Certificates are renewed some thirty days before they expire, those of a few days when half of their life is over;
/// what is later than this, or than a quarter of it, was forgotten.
const RENEWAL_LATE_DAYS: i64 = 14;

const DAY: i64 = 24 * 3600;

pub(super) fn look(found: &mut Findings, loaded: &Loaded, offload: &Offload) {
    let Loaded {
        generation, lines, ..
    } = loaded;
    for listener in &generation.listeners {
        found.add(port(&listener.settings.address));
    }
    if let Some(address) = generation.admin {
        found.add(port(&Address::Tcp(address)));
    }
    for listener in &generation.listeners {
        certificates(found, listener, wall());
    }
    for (listener, asked) in generation.listeners.iter().zip(&lines.listener_ktls) {
        if let Some(tls) = &listener.tls {
            let wish = Wish::of(tls.prefer_ktls, asked.as_ref(), lines);
            found.add(records(&listener.settings.name, wish, offload.refusal()));
        }
    }
    for (upstream, asked) in generation.upstreams.iter().zip(&lines.upstream_ktls) {
        if let Some(tls) = &upstream.tls {
            let whose = format!("towards upstream {}", upstream.name);
            let wish = Wish::of(tls.prefer_ktls, asked.as_ref(), lines);
            found.add(records(&whose, wish, offload.refusal()));
        }
    }
}

/// Who is to make the records, by the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// This process: `prefer_ktls = false`.
    Process,
    /// The kernel where it can: nothing is written.
    KernelIfItCan,
    /// The kernel: this line has `prefer_ktls = true`.
    KernelAsked(usize),
}

impl Wish {
    fn of(prefer_ktls: bool, asked: Option<&Range<usize>>, lines: &Lines) -> Self {
        match asked {
            Some(place) => Self::KernelAsked(lines.source.position(place.start).line),
            None if prefer_ktls => Self::KernelIfItCan,
            None => Self::Process,
        }
    }
}

fn port(address: &Address) -> Finding {
    const TOPIC: &str = "listeners";
    match listener::try_address(address) {
        Ok(()) => Finding::fine(TOPIC, format!("{address} can be listened on")),
        // Most probably the one who is asked about.
        Err(error) if error.is_in_use() && !is_another_file(address) => {
            let command = match address {
                Address::Tcp(_) => "sudo ss -ltnp",
                Address::Unix(_) => "sudo ss -lxp",
            };
            Finding::advice(
                TOPIC,
                format!("{address} is listened on already"),
                "this is well if it is Atlas who does",
            )
            .command(command)
        }
        Err(error) => Finding::wrong(TOPIC, error.to_string(), "`atlas run` would end here")
            .maybe(free(address, error.kind())),
    }
}

/// What makes an address one that can be listened on, or tells of those that can.
fn free(address: &Address, trouble: ErrorKind) -> Option<String> {
    match (address, trouble) {
        (Address::Tcp(_), ErrorKind::PermissionDenied) => remedy::low_ports(),
        (Address::Tcp(_), ErrorKind::AddrNotAvailable) => Some("ip -brief address".to_owned()),
        (Address::Unix(path), ErrorKind::NotFound) => remedy::make_folder(path.parent()?),
        _ => None,
    }
}

/// Whether a file that is no socket stands where one shall be.
fn is_another_file(address: &Address) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let Address::Unix(path) = address else {
        return false;
    };
    std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket())
}

fn certificates(found: &mut Findings, listener: &Listener, now: SystemTime) {
    let Some(tls) = &listener.tls else {
        return;
    };
    for certificate in tls.certificates() {
        found.add(judge_certificate(&listener.settings.name, certificate, now));
    }
}

pub(super) fn judge_certificate(listener: &str, certificate: &Certificate, now: SystemTime) -> Finding {
    const TOPIC: &str = "certificates";
    const RENEW: &str = "have it renewed, and Atlas read it again";
    let path = certificate.path.display();
    let names = match certificate.names.is_empty() {
        true => "no name".to_owned(),
        false => certificate.names.join(", "),
    };
    let whose = format!("{listener}: {path} ({names})");
    let moment = |moment: SystemTime| {
        jiff::Timestamp::try_from(moment).map_or_else(|_| "?".to_owned(), |moment| moment.to_string())
    };
    let until = moment(certificate.not_after);
    let left = certificate.seconds_left(now);
    let life = certificate.not_after.duration_since(certificate.not_before);
    let quarter = life.map_or(0, |life| life.as_secs() / 4);
    let late = i64::try_from(quarter).map_or(i64::MAX, |quarter| quarter.min(RENEWAL_LATE_DAYS * DAY));
    let renew = || remedy::renew(&certificate.path);
    if certificate.not_before > now {
        let from = moment(certificate.not_before);
        let what = format!("{whose} is not valid before {from}");
        return Finding::wrong(TOPIC, what, "clients refuse it: is this machine's clock right?")
            .command("timedatectl");
    }
    match left {
        ..=0 => Finding::wrong(TOPIC, format!("{whose} expired on {until}"), RENEW).command(renew()),
        left if left < late => Finding::advice(
            TOPIC,
            format!("{whose} is good for {} days, until {until}", left / DAY),
            RENEW,
        )
        .command(renew()),
        left => Finding::fine(
            TOPIC,
            format!("{whose} is good for {} days, until {until}", left / DAY),
        ),
    }
}

/// A default is a wish, whose absence is advice; what is written is asked for.
pub(super) fn records(whose: &str, wish: Wish, refusal: Option<Refusal>) -> Finding {
    const TOPIC: &str = "TLS records";
    let Some(refusal) = refusal.filter(|_| wish != Wish::Process) else {
        let whom = match wish {
            Wish::Process => "this process, as `prefer_ktls = false` asks",
            Wish::KernelIfItCan | Wish::KernelAsked(_) => "the kernel for bodies from `ktls_threshold` on",
        };
        return Finding::fine(TOPIC, format!("{whose}: by {whom}"));
    };
    let what = format!("{whose}: by this process, because {}", refusal.meaning());
    match wish {
        // What is not known, because the machine was too busy to find out, may be as it should.
        Wish::KernelAsked(line) if refusal != Refusal::ProbeTimedOut => Finding::wrong(
            TOPIC,
            what,
            format!(
                "line {line} asks for the kernel, `prefer_ktls = true`: see `kernel TLS` above, or leave the line \
                 out, and it is where the kernel can"
            ),
        )
        .maybe(mend(refusal)),
        _ => Finding::advice(
            TOPIC,
            what,
            "see `kernel TLS` above; `prefer_ktls = false` says that it is well so",
        )
        .maybe(mend(refusal)),
    }
}
