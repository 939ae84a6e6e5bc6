//! What a configuration asks of this machine: ports, certificates, kernel TLS.

use std::time::SystemTime;

use super::finding::{Finding, Findings};
use crate::generation::{Generation, Listener};
use crate::listener;
use crate::offload::Offload;
use crate::outcome::Refusal;
use crate::runtime::Address;
use crate::time::wall;
use crate::tls::certificates::Certificate;

/// Certificates are renewed some thirty days before they expire; what is later than this was
/// forgotten.
const RENEWAL_LATE_DAYS: i64 = 14;

const DAY: i64 = 24 * 3600;

pub(super) fn look(found: &mut Findings, generation: &Generation, offload: &Offload) {
    for listener in &generation.listeners {
        found.add(port(&listener.settings.address));
    }
    if let Some(address) = generation.admin {
        found.add(port(&Address::Tcp(address)));
    }
    for listener in &generation.listeners {
        certificates(found, listener, wall());
    }
    for listener in &generation.listeners {
        if let Some(tls) = &listener.tls {
            found.add(records(
                &listener.settings.name,
                tls.prefer_ktls,
                offload.refusal(),
            ));
        }
    }
    for upstream in &generation.upstreams {
        if let Some(tls) = &upstream.tls {
            let whose = format!("towards upstream {}", upstream.name);
            found.add(records(&whose, tls.prefer_ktls, offload.refusal()));
        }
    }
}

fn port(address: &Address) -> Finding {
    const TOPIC: &str = "listeners";
    match listener::try_address(address) {
        Ok(()) => Finding::fine(TOPIC, format!("{address} can be listened on")),
        // Most probably the one who is asked about.
        Err(error) if error.is_in_use() => Finding::advice(
            TOPIC,
            format!("{address} is listened on already"),
            "this is well if it is Atlas who does",
        )
        .command("ss -ltnp"),
        Err(error) => Finding::wrong(TOPIC, error.to_string(), "`atlas run` would end here"),
    }
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
    const RENEW: &str = "ask for a new one, then `kill -HUP` Atlas";
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
    if certificate.not_before > now {
        let from = moment(certificate.not_before);
        let what = format!("{whose} is not valid before {from}");
        return Finding::wrong(TOPIC, what, "clients refuse it: is this machine's clock right?")
            .command("timedatectl");
    }
    match left {
        ..=0 => Finding::wrong(TOPIC, format!("{whose} expired on {until}"), RENEW),
        left if left / DAY < RENEWAL_LATE_DAYS => Finding::advice(
            TOPIC,
            format!("{whose} is good for {} days, until {until}", left / DAY),
            RENEW,
        ),
        left => Finding::fine(
            TOPIC,
            format!("{whose} is good for {} days, until {until}", left / DAY),
        ),
    }
}

pub(super) fn records(whose: &str, prefer_ktls: bool, refusal: Option<Refusal>) -> Finding {
    const TOPIC: &str = "TLS records";
    match (prefer_ktls, refusal) {
        (false, _) => Finding::fine(
            TOPIC,
            format!("{whose}: by this process, as `prefer_ktls = false` asks"),
        ),
        (true, None) => Finding::fine(
            TOPIC,
            format!("{whose}: by the kernel for bodies from `ktls_threshold` on"),
        ),
        (true, Some(refusal)) => Finding::advice(
            TOPIC,
            format!("{whose}: by this process, because {}", refusal.meaning()),
            "see `kernel TLS` above; `prefer_ktls = false` says that it is well so",
        ),
    }
}
