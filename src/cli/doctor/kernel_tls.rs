//! What the kernel's TLS does here, and who may load it.

use std::path::Path;

use rustix::thread::CapabilitySet;

use super::finding::{Finding, Findings};
use super::holes;
use super::machine::{has, has_own_kernel, release};
use super::remedy;
use crate::offload::{Consequence, Offload, Row};
use crate::outcome::Refusal;

const TOPIC: &str = "kernel TLS";

/// Loads the module at each start of the machine; `deploy/` has the same file.
const LOAD: &str = "sudo modprobe tls && echo tls | sudo tee /etc/modules-load.d/atlas.conf";

/// Where the module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Module {
    /// At work.
    Loaded,
    /// On the disk.
    OnDisk,
    /// Nowhere to be seen.
    Unseen,
}

pub(super) fn look(found: &mut Findings) -> Offload {
    let before = Module::find();
    let offload = Offload::probe();
    let version = rustix::system::uname().version().to_string_lossy().into_owned();
    // What brings the kernel up to date comes before what loads the module.
    if let Some(finding) = holes::judge(&release(), &version, has_own_kernel()) {
        found.add(finding);
    }
    found.add(judge_module(
        before,
        Module::find(),
        has(CapabilitySet::NET_ADMIN),
    ));
    found.add(judge_verdict(offload.refusal()));
    if !matches!(offload.refusal(), Some(Refusal::NoUlp | Refusal::NoPermission)) {
        for row in offload.rows() {
            found.add(judge_row(&row));
        }
    }
    offload
}

impl Module {
    pub(super) fn find() -> Self {
        if Path::new("/sys/module/tls").exists() {
            return Self::Loaded;
        }
        // Built in, it shows here and perhaps not there.
        let ulps = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
        if ulps.split_whitespace().any(|ulp| ulp == "tls") {
            return Self::Loaded;
        }
        let on_disk = ["/lib/modules", "/usr/lib/modules"].iter().any(|root| {
            let folder = Path::new(root).join(release()).join("kernel/net/tls");
            std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
        });
        if on_disk { Self::OnDisk } else { Self::Unseen }
    }
}

pub(super) fn judge_module(before: Module, after: Module, may_load: bool) -> Finding {
    match (before, after) {
        (Module::Loaded, _) => Finding::fine(TOPIC, "module `tls` is loaded"),
        (_, Module::Loaded) => Finding::advice(
            TOPIC,
            "module `tls` was not loaded; the kernel has just loaded it, because who asked has CAP_NET_ADMIN",
            "an Atlas without CAP_NET_ADMIN would not get it: have it loaded when the machine starts",
        )
        .command(LOAD),
        (_, Module::OnDisk) if may_load => Finding::advice(
            TOPIC,
            "module `tls` is there and does not load",
            "`modprobe tls` tells why; perhaps modules are locked, or this is a container",
        )
        .command("sudo modprobe tls"),
        (_, Module::OnDisk) => Finding::advice(
            TOPIC,
            "module `tls` is not loaded, and only CAP_NET_ADMIN loads it",
            "have it loaded when the machine starts",
        )
        .command(LOAD),
        (_, Module::Unseen) => Finding::advice(
            TOPIC,
            "module `tls` is nowhere to be seen",
            "kernels of Debian, Ubuntu, Fedora and RHEL have it; in a container it is the host that loads it",
        ), // modprobe would not find it either
    }
}

pub(super) fn judge_verdict(refusal: Option<Refusal>) -> Finding {
    match refusal {
        None => Finding::fine(TOPIC, "connections go to the kernel where that is worth it"),
        Some(refusal) => Finding::advice(
            TOPIC,
            format!("connections stay in this process ({})", refusal.as_str()),
            format!("{}; nothing is lost but speed", refusal.meaning()),
        )
        .maybe(mend(refusal)),
    }
}

/// Loads the module, where there is one.
pub(super) fn load(module: Module) -> Option<String> {
    (module != Module::Unseen).then(|| LOAD.to_owned())
}

/// What mends this, where something may.
pub(super) fn mend(refusal: Refusal) -> Option<String> {
    match refusal {
        Refusal::NoUlp | Refusal::NoPermission => load(Module::find()),
        Refusal::ProbeTimedOut => Some(remedy::reload()),
        Refusal::Version
        | Refusal::Cipher
        | Refusal::ProbeControlRecord
        | Refusal::ProbeEarlyData
        | Refusal::ProbeDelivery => remedy::newer_kernel((0, 0)),
        _ => None,
    }
}

pub(super) fn judge_row(row: &Row) -> Finding {
    let error = match &row.finding {
        Ok(()) => return Finding::fine(TOPIC, format!("{}: works", row.what)),
        Err(error) => error,
    };
    let what = format!("{}: {error}", row.what);
    match row.otherwise {
        None => Finding::advice(TOPIC, what, "connections with this cipher stay in this process"),
        Some(Consequence::Refused(Refusal::ProbeTimedOut)) => Finding::advice(
            TOPIC,
            what,
            "the machine was too busy: ask again; a running Atlas tries again at each reload",
        )
        .command(remedy::reload()),
        Some(Consequence::Refused(refusal)) => Finding::advice(
            TOPIC,
            what,
            format!(
                "no connection goes to the kernel: {}{}",
                refusal.meaning(),
                match refusal {
                    Refusal::AttachNotPermitted => "; allow setsockopt(SOL_TCP, TCP_ULP)",
                    _ => "; a newer kernel may do, once the machine has started with it",
                }
            ),
        )
        .maybe(mend(refusal)),
        Some(Consequence::Pauses) => Finding::advice(
            TOPIC,
            what,
            "a reader pauses after a wake-up that found nothing; kernels from 6.5 on need no pause",
        ), // a small cost, and no reason to change a kernel that is kept up to date
        Some(Consequence::EndsAtKeyUpdate) => Finding::advice(
            TOPIC,
            what,
            "a connection whose peer renews its keys ends there; kernels from 6.14 on go on",
        )
        .maybe(remedy::newer_kernel((6, 14))),
        Some(Consequence::Avoided) => Finding::fine(TOPIC, format!("{what}; Atlas goes round it")),
    }
}
