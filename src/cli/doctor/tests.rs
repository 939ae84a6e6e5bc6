//! What is fine, what is advice, and what is wrong.

use std::time::{Duration, SystemTime};

use super::configuration::{Wish, judge_certificate, records};
use super::finding::{Finding, Findings, Verdict};
use super::kernel_tls::{Module, judge_module, judge_row, judge_verdict};
use super::machine::{Descriptors, SYSCTLS, judge_cores, judge_locked_memory, open_files};
use crate::offload::{Consequence, Row};
use crate::outcome::Refusal;
use crate::runtime::Driver;
use crate::tls::certificates::Certificate;

#[test]
fn the_worst_finding_is_the_verdict() {
    let mut found = Findings::default();
    assert_eq!(found.worst(), Verdict::Fine);
    found.add(Finding::advice("a", "b", "c"));
    found.add(Finding::fine("a", "d"));
    assert_eq!(found.worst(), Verdict::Advice);
    found.add(Finding::wrong("e", "f", "g").command("h"));
    assert_eq!(found.worst(), Verdict::Wrong);
    let text = "a\n  advice  b\n          c\n  fine    d\n\ne\n  wrong   f\n          g\n          $ h";
    assert_eq!(found.to_string(), text);
    let json = serde_json::to_value(found.all()).unwrap();
    assert_eq!(
        json[1],
        serde_json::json!({ "topic": "a", "verdict": "fine", "what": "d" })
    );
    assert_eq!(json[2]["command"], "h");
}

#[test]
fn workers_that_share_cores_are_advised_against() {
    for (workers, verdict) in [
        (None, Verdict::Fine),
        (Some(4), Verdict::Fine),
        (Some(5), Verdict::Advice),
    ] {
        assert_eq!(judge_cores(4, workers).verdict, verdict, "{workers:?}");
    }
}

#[test]
fn few_open_files_are_told_and_too_few_for_what_is_written_are_wrong() {
    let wanted = |most, asked| Descriptors {
        most,
        asked,
        lines: vec![4, 9],
    };
    for (limit, wanted, verdict, part) in [
        (None, wanted(200_000, 100_000), Verdict::Fine, ""),
        (Some(1 << 20), Descriptors::default(), Verdict::Fine, ""),
        (Some(1024), Descriptors::default(), Verdict::Advice, "two"),
        // The default: nobody has asked.
        (Some(20_000), wanted(131_072, 0), Verdict::Advice, "131072"),
        // All of them may wait for a request.
        (Some(150_000), wanted(200_000, 100_000), Verdict::Advice, "200000"),
        (Some(200_000), wanted(200_000, 100_000), Verdict::Fine, ""),
        (
            Some(100_000),
            wanted(200_000, 100_000),
            Verdict::Wrong,
            "in lines 4, 9 needs more than 100000",
        ),
        (Some(1024), wanted(4000, 2000), Verdict::Wrong, "2000"),
    ] {
        let told = open_files(limit, &wanted);
        assert_eq!(told.verdict, verdict, "{told:?}");
        assert!(
            told.advice.as_deref().unwrap_or_default().contains(part),
            "{told:?}"
        );
        let command = told.command.unwrap_or_default();
        assert_eq!(command.contains("1048576"), verdict != Verdict::Fine, "{command}");
    }
    let beyond = open_files(Some(20_000), &wanted(4_000_000, 2_000_000));
    assert_eq!((beyond.verdict, beyond.command), (Verdict::Wrong, None));
}

#[test]
fn locked_memory_is_too_little_only_where_rings_are_charged_to_it() {
    const DOCKER: Option<u64> = Some(64 * 1024);
    for (limit, is_charged, verdict, part) in [
        (
            DOCKER,
            Some(true),
            Verdict::Advice,
            "64 KiB of locked memory; rings of io_uring want 208 KiB",
        ),
        (Some(208 * 1024), Some(true), Verdict::Fine, "want 208 KiB"),
        (None, Some(true), Verdict::Fine, "any amount"),
        (DOCKER, Some(false), Verdict::Fine, "want none of it"),
        (DOCKER, None, Verdict::Fine, "64 KiB"),
    ] {
        let told = judge_locked_memory(limit, is_charged, 2);
        assert_eq!(told.verdict, verdict, "{told:?}");
        assert!(told.what.contains(part), "{told:?}");
        assert_eq!(told.command.is_some(), verdict == Verdict::Advice);
    }
}

#[test]
fn sysctls_that_are_too_small_come_with_the_command_that_raises_them() {
    let judge = |name: &str, value, is_limited| {
        let sysctl = SYSCTLS.iter().find(|sysctl| sysctl.name == name).unwrap();
        sysctl.judge(value, 4, is_limited)
    };
    assert_eq!(judge("net.core.somaxconn", 4096, true).verdict, Verdict::Fine);
    assert_eq!(
        judge("net.core.somaxconn", 128, true).command.as_deref(),
        Some("sudo sysctl -w net.core.somaxconn=4096")
    );
    assert_eq!(
        judge("net.ipv4.tcp_migrate_req", 0, true).verdict,
        Verdict::Advice
    );
    assert_eq!(
        judge("fs.pipe-user-pages-soft", 16_384, true).command.as_deref(),
        Some("sudo sysctl -w fs.pipe-user-pages-soft=32768")
    );
    for (value, is_limited) in [(0, true), (16_384, false), (32_768, true)] {
        let finding = judge("fs.pipe-user-pages-soft", value, is_limited);
        assert_eq!(finding.verdict, Verdict::Fine, "{value} {is_limited}");
    }
}

#[test]
fn an_operator_learns_why_it_is_epoll() {
    use super::driver::judge;
    let epoll = Driver::Epoll("io_uring is denied".to_owned());
    assert_eq!(
        judge(&Driver::IoUring("cooperative"), Some(2)).verdict,
        Verdict::Fine
    );
    assert_eq!(judge(&epoll, Some(0)).command, None);
    let asked = Driver::Epoll("asked for".to_owned());
    assert!(judge(&asked, Some(2)).advice.unwrap().contains("ATLAS_DRIVER"));
    let locked = Driver::Epoll("no locked memory for io_uring: raise RLIMIT_MEMLOCK".to_owned());
    let raised = judge(&locked, Some(0)).command.unwrap();
    assert!(raised.to_lowercase().contains("memlock"), "{raised}");
    assert!(
        judge(&epoll, Some(2))
            .command
            .unwrap()
            .contains("io_uring_disabled=0")
    );
}

#[test]
fn a_module_that_is_not_loaded_comes_with_the_command_that_loads_it() {
    use Module::{Loaded, OnDisk, Unseen};
    assert_eq!(judge_module(Loaded, Loaded, false).verdict, Verdict::Fine);
    for (before, after, may_load) in [
        (OnDisk, OnDisk, false),
        (OnDisk, Loaded, true),
        (Unseen, Loaded, true),
    ] {
        let finding = judge_module(before, after, may_load);
        assert_eq!(finding.verdict, Verdict::Advice);
        assert!(
            finding.command.unwrap().contains("modules-load.d"),
            "{before:?} {after:?}"
        );
    }
    // It would not be found.
    assert_eq!(judge_module(Unseen, Unseen, true).command, None);
    let locked = judge_module(OnDisk, OnDisk, true);
    assert_eq!(locked.command.as_deref(), Some("sudo modprobe tls"));
}

#[test]
fn kernel_tls_is_a_wish_unless_it_is_asked_for_by_a_line() {
    for refusal in Refusal::ALL.iter().copied() {
        assert_eq!(judge_verdict(Some(refusal)).verdict, Verdict::Advice);
        let wished = records("a", Wish::KernelIfItCan, Some(refusal));
        assert_eq!(wished.verdict, Verdict::Advice);
        let asked = records("a", Wish::KernelAsked(9), Some(refusal));
        let is_known = refusal != Refusal::ProbeTimedOut;
        assert_eq!(asked.verdict == Verdict::Wrong, is_known, "{asked:?}");
        assert_eq!(asked.advice.as_ref().unwrap().contains("line 9"), is_known);
        for told in [wished, asked] {
            assert!(told.what.contains(refusal.meaning()), "{told:?}");
        }
        assert_eq!(records("a", Wish::Process, Some(refusal)).verdict, Verdict::Fine);
    }
    assert_eq!(judge_verdict(None).verdict, Verdict::Fine);
    for wish in [Wish::Process, Wish::KernelIfItCan, Wish::KernelAsked(9)] {
        assert_eq!(records("a", wish, None).verdict, Verdict::Fine);
    }
}

#[test]
fn each_row_of_the_probe_says_what_follows() {
    let row = |finding: Result<(), &str>, otherwise| Row {
        what: "renewing keys".to_owned(),
        finding: finding.map_err(str::to_owned),
        otherwise,
    };
    let fine = judge_row(&row(Ok(()), Some(Consequence::EndsAtKeyUpdate)));
    assert_eq!(
        (fine.verdict, &*fine.what),
        (Verdict::Fine, "renewing keys: works")
    );
    for (otherwise, verdict, part) in [
        (Some(Consequence::EndsAtKeyUpdate), Verdict::Advice, "6.14"),
        (Some(Consequence::Pauses), Verdict::Advice, "6.5"),
        (Some(Consequence::Avoided), Verdict::Fine, "goes round"),
        (
            Some(Consequence::Refused(Refusal::ProbeDelivery)),
            Verdict::Advice,
            "loses or changes bytes",
        ),
        (
            Some(Consequence::Refused(Refusal::ProbeTimedOut)),
            Verdict::Advice,
            "too busy",
        ),
        (None, Verdict::Advice, "this cipher"),
    ] {
        let finding = judge_row(&row(Err("EBUSY"), otherwise));
        let text = format!("{} {}", finding.what, finding.advice.unwrap_or_default());
        assert_eq!(finding.verdict, verdict);
        assert!(text.contains("EBUSY") && text.contains(part), "{text}");
    }
}

#[test]
fn a_module_that_is_missing_comes_with_what_loads_it_in_every_line_that_tells() {
    use super::kernel_tls::load;
    assert_eq!(load(Module::Unseen), None, "it would not be found");
    for there in [Module::OnDisk, Module::Loaded] {
        assert!(load(there).unwrap().contains("modprobe tls"));
    }
    for refusal in [Refusal::NoUlp, Refusal::NoPermission] {
        for told in [
            judge_verdict(Some(refusal)),
            records("a", Wish::KernelIfItCan, Some(refusal)),
            records("a", Wish::KernelAsked(9), Some(refusal)),
        ] {
            assert_eq!(told.command, load(Module::find()), "{told:?}");
        }
    }
    // No command of this machine changes what a container's filter forbids.
    assert_eq!(judge_verdict(Some(Refusal::AttachNotPermitted)).command, None);
}

/// Whether a kernel is told, and as which.
type Told = Option<(Verdict, &'static str)>;

/// Kernels by release, and what they say of who built them.
const KERNELS: [(&str, &str, Told); 16] = [
    (
        "6.1.0-40-amd64",
        "Debian 6.1.153-1",
        Some((Verdict::Advice, "6.1.153")),
    ),
    (
        "6.1.0-49-amd64",
        "Debian 6.1.192-3",
        Some((Verdict::Fine, "6.1.192")),
    ),
    (
        "6.12.48+deb13-amd64",
        "Debian 6.12.48-1",
        Some((Verdict::Advice, "6.12.48")),
    ),
    (
        "6.12.118+deb13-amd64",
        "Debian 6.12.118-1",
        Some((Verdict::Fine, "6.12.118")),
    ),
    (
        "6.12.95+deb12-amd64",
        "Debian 6.12.95-1~bpo12+1",
        Some((Verdict::Advice, "6.12.95")),
    ),
    (
        "6.12.47+rpt-rpi-v8",
        "Debian 1:6.12.47-1+rpt1",
        Some((Verdict::Advice, "6.12.47")),
    ),
    ("6.12.114", "", Some((Verdict::Advice, "6.12.114"))),
    ("6.12.115", "", Some((Verdict::Fine, "6.12.115"))),
    (
        "6.1.158-178.288.amzn2023.x86_64",
        "",
        Some((Verdict::Advice, "6.1.158")),
    ),
    // Its number tells nothing of what it has.
    ("6.12.0-55.el10.x86_64", "", None),
    ("6.1.0-1036-oem", "Ubuntu", None),
    // Nobody has looked at these.
    ("6.8.12", "", None),
    ("6.18.44-fc-v657", "", None),
    ("7.3.4+deb13-amd64", "Debian 7.3.4-1~bpo13+1", None),
    ("6.12", "", None),
    ("", "", None),
];

#[test]
fn kernels_with_known_holes_in_their_tls_are_told_and_never_wrong() {
    use super::holes::judge;
    for (release, builder, told) in KERNELS {
        let version = format!("#1 SMP PREEMPT_DYNAMIC {builder} (2026-10-01)");
        let finding = judge(release, &version, true);
        assert_eq!(
            finding.as_ref().map(|finding| finding.verdict),
            told.map(|(verdict, _)| verdict),
            "{release}"
        );
        let Some((finding, (verdict, is))) = finding.zip(told) else {
            continue;
        };
        assert!(finding.what.starts_with(&format!("{is} ")), "{finding:?}");
        let is_updated = verdict == Verdict::Advice && version.contains("Debian") && !version.contains("bpo");
        assert_eq!(finding.command.is_some(), is_updated, "{finding:?}");
        let in_container = judge(release, &version, false).unwrap();
        assert_eq!((in_container.verdict, in_container.command), (verdict, None));
    }
}

#[test]
fn debian_has_newer_kernels_and_not_for_every_wish() {
    use super::remedy::backport;
    let debian = |codename: &str| format!("ID=debian\nVERSION_CODENAME={codename}\n");
    let (old, new) = ("6.1.0-40-amd64", "6.12.48+deb13-amd64");
    for (system, machine, release, least, suite) in [
        (
            debian("bookworm"),
            "x86_64",
            old,
            (6, 5),
            Some("bookworm-backports"),
        ),
        (debian("bookworm"), "x86_64", old, (6, 14), None),
        (debian("trixie"), "x86_64", new, (6, 14), Some("trixie-backports")),
        (debian("bookworm"), "x86_64", "6.12.95+deb12-amd64", (0, 0), None),
        (debian("trixie"), "riscv64", new, (6, 14), None),
        (debian("forky"), "x86_64", new, (6, 14), None),
        (
            "ID=ubuntu\nVERSION_CODENAME=noble\n".to_owned(),
            "x86_64",
            old,
            (6, 5),
            None,
        ),
    ] {
        let install =
            suite.map(|suite| format!("sudo apt update && sudo apt install -t {suite} linux-image-amd64"));
        let add = suite.map(|suite| {
            format!(
                "echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                 http://deb.debian.org/debian {suite} main' | sudo tee /etc/apt/sources.list.d/{suite}.list && "
            )
        });
        let both = add.zip(install.clone()).map(|(add, install)| add + &install);
        let told = |sources: &str| backport(&system, machine, release, least, sources);
        assert_eq!(
            told("deb http://a.test/ stable main"),
            both,
            "{system} {release} {least:?}"
        );
        let suite = suite.unwrap_or_default();
        for known in [
            format!("deb http://a.test/ a main\ndeb [arch=amd64] http://b.test/ {suite} main"),
            format!("Types: deb\nSuites: a {suite}\n"),
            format!("types: deb\nsuites: a\n {suite}\nEnabled: yes\n"),
        ] {
            assert_eq!(told(&known), install, "{known}");
        }
        for other in [
            format!("# deb http://a.test/ {suite} main"),
            format!("deb-src http://a.test/ {suite} main"),
            format!("deb http://a.test/ {suite}-sloppy main"),
            format!("Enabled: no\nTypes: deb\nSuites: {suite}\n\nTypes: deb\nSuites: a\n"),
            format!("Types: deb\nSuites: {suite}\nenabled: false\n"),
        ] {
            assert_eq!(told(&other), both, "{other}");
        }
    }
}

#[test]
fn certificates_are_judged_by_their_dates() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("a.crt"), folder.path().join("a.key"));
    let made = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 3, 1);
    std::fs::write(&chain, params.self_signed(&made).unwrap().pem()).unwrap();
    std::fs::write(&key, made.serialize_pem()).unwrap();
    let certificate = Certificate::read(&chain, &key).unwrap();
    let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs((18_262 + days) * 24 * 3600);
    for (day, verdict, part) in [
        (10, Verdict::Fine, "good for 50 days, until 2020-03-01"),
        (50, Verdict::Advice, "good for 10 days"),
        (61, Verdict::Wrong, "expired on 2020-03-01"),
    ] {
        let finding = judge_certificate("a", &certificate, at(day));
        assert_eq!(finding.verdict, verdict, "{day}: {finding:?}");
        assert!(
            finding.what.contains(part) && finding.what.contains("(a.test)"),
            "{finding:?}"
        );
        assert_eq!(finding.command.is_some(), verdict != Verdict::Fine);
    }
    // One of six days is renewed in its last three.
    params.not_before = rcgen::date_time_ymd(2020, 2, 24);
    std::fs::write(&chain, params.self_signed(&made).unwrap().pem()).unwrap();
    let short = Certificate::read(&chain, &key).unwrap();
    assert_eq!(judge_certificate("a", &short, at(56)).verdict, Verdict::Fine);
    assert_eq!(judge_certificate("a", &short, at(59)).verdict, Verdict::Advice);
    let early = judge_certificate("a", &certificate, SystemTime::UNIX_EPOCH);
    assert!(early.verdict == Verdict::Wrong && early.what.contains("not valid before 2020-01-01"));
}

#[test]
fn a_certificate_of_certbot_is_renewed_and_taken_by_one_command() {
    use super::remedy::{reload, renew};
    let path = std::path::Path::new("/etc/letsencrypt/live/a.test/fullchain.pem");
    let both = format!("sudo certbot renew --cert-name a.test && {}", reload());
    assert_eq!(renew(path), both);
    assert_eq!(renew(std::path::Path::new("/etc/atlas/server.crt")), reload());
}

#[test]
fn what_ethtool_says_of_a_card_is_understood() {
    use super::cards::{Offload, judge, read};
    let said = |line: &str| {
        read(&format!(
            "Features for eth0:\ntx-checksumming: on\n{line}\nloopback: off\n"
        ))
    };
    assert_eq!(said("tls-hw-tx-offload: on"), Offload::On);
    assert_eq!(said("tls-hw-tx-offload: on [fixed]"), Offload::On);
    assert_eq!(said("tls-hw-tx-offload: off"), Offload::Off);
    assert_eq!(said("tls-hw-tx-offload: off [fixed]"), Offload::Never);
    assert_eq!(said("tls-hw-rx-offload: on"), Offload::Unknown);
    assert_eq!(read(""), Offload::Unknown);
    // Atlas needs none of it.
    for offload in [Offload::On, Offload::Off, Offload::Never, Offload::Unknown] {
        assert_eq!(judge("eth0", offload).verdict, Verdict::Fine);
    }
    assert!(judge("eth7", Offload::Off).what.contains("ethtool -K eth7"));
}

/// The unit that is shipped, with more lines.
fn unit(more: &str) -> super::unit::Unit {
    let shipped = include_str!("../../../deploy/atlas.service");
    super::unit::Unit::parse(&format!("{shipped}\n{more}\n"))
}

#[test]
fn what_the_unit_keeps_from_atlas_comes_with_what_lets_it_be_had() {
    type Looks = fn(&super::unit::Unit, &std::path::Path) -> Option<Finding>;
    let hides: Looks = super::unit::Unit::hides;
    let protects: Looks = super::unit::Unit::protects;
    for (looks, path, lines) in [
        (hides, "/home/nobody-here/site", "ProtectHome=read-only"),
        (hides, "/tmp/app.sock", "PrivateTmp=no"),
        (protects, "/tmp", "PrivateTmp=no\\nReadWritePaths=/tmp"),
        (
            protects,
            "/home/no-one",
            "ProtectHome=read-only\\nReadWritePaths=/home/no-one",
        ),
        (protects, "/srv/no-such-logs", "ReadWritePaths=/srv/no-such-logs"),
    ] {
        let told = looks(&unit(""), path.as_ref()).unwrap();
        assert_eq!(told.verdict, Verdict::Advice);
        let command = told.command.unwrap();
        assert!(
            command.contains(&format!("'[Service]\\n{lines}\\n'")),
            "{command}"
        );
        let allowed = unit(&lines.replace("\\n", "\n"));
        assert_eq!(looks(&allowed, path.as_ref()), None, "with {lines} it may");
    }
    for path in ["/var/log/atlas", "/run/atlas/sub", "/dev/shm"] {
        assert_eq!(protects(&unit(""), path.as_ref()), None, "{path}");
    }
    assert_eq!(hides(&unit(""), "/etc/atlas".as_ref()), None);
    let open = super::unit::Unit::parse("[Service]\nProtectHome=read-only\n");
    assert_eq!(protects(&open, "/srv".as_ref()), None);
    assert!(protects(&open, "/home/no-one".as_ref()).is_some());
    // A shell or systemd would read another path.
    let told = protects(&unit(""), "/srv/100%".as_ref()).unwrap();
    assert_eq!(told.command, None);
}

#[test]
fn the_unit_is_asked_about_what_it_starts_alone() {
    let is_read = |line: &str, file: &str| unit(line).reads(file.as_ref());
    let moved = |how: &str| format!("ExecStart=\nExecStart=/usr/local/bin/atlas run {how}");
    assert!(is_read("", "/etc/atlas/atlas.toml") && !is_read("", "/srv/other.toml"));
    for how in [
        "-c /srv/other.toml",
        "--config=/srv/other.toml",
        "-c\"/srv/other.toml\"",
        "\\\n -c /srv/other.toml",
    ] {
        let line = moved(how);
        assert!(is_read(&line, "/srv/other.toml"), "{line}");
        assert!(!is_read(&line, "/etc/atlas/atlas.toml"), "{line}");
    }
    assert!(is_read(&moved(""), "/etc/atlas/atlas.toml"), "the usual one");
}
