//! Network cards that could make TLS records themselves, by what ethtool says of them.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::finding::{Finding, Findings};

const TOPIC: &str = "network cards";

/// The card's part in sending, as ethtool calls it.
const FEATURE: &str = "tls-hw-tx-offload";

/// A driver that does not answer is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// More than ethtool has to say.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What a card does about TLS records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offload {
    /// It makes them.
    On,
    /// It could.
    Off,
    /// It cannot.
    Never,
    /// Nobody knows: there is no ethtool, or it does not say.
    Unknown,
}

pub(super) fn look(found: &mut Findings) {
    let cards = cards(Path::new("/sys/class/net"));
    if cards.is_empty() {
        found.add(Finding::fine(
            TOPIC,
            "none to be seen that could make TLS records",
        ));
    }
    for card in cards {
        let offload = ask(&card).map_or(Offload::Unknown, |answer| read(&answer));
        found.add(judge(&card, offload));
    }
}

/// The interfaces that have hardware behind them.
fn cards(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut cards: Vec<String> = entries
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    cards.sort();
    cards
}

/// What ethtool says of a card's features, if it is there and does so in time.
fn ask(card: &str) -> Option<String> {
    let mut ethtool = ["ethtool", "/usr/sbin/ethtool", "/sbin/ethtool"]
        .into_iter()
        .find_map(|program| {
            let mut command = Command::new(program);
            command.args(["--show-features", card]).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()
        })?;
    let output = ethtool.stdout.take()?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut answer = String::new();
        let read = output.take(ANSWER_BYTES_MAX).read_to_string(&mut answer);
        tell.send(read.map(|_| answer))
    });
    let answer = told.recv_timeout(PATIENCE);
    let _ = ethtool.kill(); // it has ended, or shall
    if answer.is_ok() {
        let _ = ethtool.wait(); // one that hangs in its driver does not even die
    }
    answer.ok()?.ok()
}

pub(super) fn read(answer: &str) -> Offload {
    let state = answer.lines().find_map(|line| {
        let (name, state) = line.trim().split_once(':')?;
        (name == FEATURE).then(|| state.trim())
    });
    match state {
        Some(state) if state.starts_with("on") => Offload::On,
        Some("off") => Offload::Off,
        Some(_) => Offload::Never,
        None => Offload::Unknown,
    }
}

pub(super) fn judge(card: &str, offload: Offload) -> Finding {
    match offload {
        Offload::On => Finding::fine(
            TOPIC,
            format!(
                "{card} makes TLS records itself ({FEATURE} is on): the kernel leaves connections it carries to the \
                 card where that can (`/proc/net/tls_stat`, TlsTxDevice)"
            ),
        ),
        Offload::Off => Finding::fine(
            TOPIC,
            format!(
                "{card} could make TLS records itself, and is not asked to; nobody has tried Atlas with it \
                 (`ethtool -K {card} {FEATURE} on`)"
            ),
        ),
        Offload::Never => Finding::fine(TOPIC, format!("{card} makes no TLS records; the kernel does")),
        Offload::Unknown => Finding::fine(
            TOPIC,
            format!(
                "{card}: not known whether it makes TLS records, which Atlas does not need \
                 (with ethtool installed: `ethtool -k {card}`, {FEATURE})"
            ),
        ),
    }
}
