//! Whether the kernel is older than the mends of what is known to have been wrong with its TLS.

use super::finding::Finding;
use super::remedy::numbers;

/// A series of kernels.
struct Series {
    number: (u32, u32),
    /// The first in which nothing is known that a peer can use: CVE-2025-39946, and before it CVE-2025-39682.
    closed_to_peers: u32,
    /// The first with all mends that are known of, the last for CVE-2026-74611: these take a user of the machine.
    mended: u32,
}

const ALL: [Series; 2] = [
    Series {
        number: (6, 1),
        closed_to_peers: 158,
        mended: 192,
    },
    Series {
        number: (6, 12),
        closed_to_peers: 57,
        mended: 115,
    },
];

/// By release and version as uname has them. Nothing of series nobody has looked at.
pub(super) fn judge(release: &str, version: &str) -> Option<Finding> {
    const TOPIC: &str = "kernel TLS";
    let (major, minor, patch) = upstream(release, version)?;
    let series = ALL.iter().find(|series| series.number == (major, minor))?;
    let is = format!("{major}.{minor}.{patch}");
    let first = format!("{major}.{minor}.{}", series.mended);
    if patch >= series.mended {
        return Some(Finding::fine(
            TOPIC,
            format!("{is} has the mends of what was known to be wrong, as {first} and later"),
        ));
    }
    let whom = match patch < series.closed_to_peers {
        true => "peers",
        false => "users of this machine",
    };
    let why = format!(
        "{whom} can use some of them, unless your distribution has closed them in its own: bring the kernel up to \
         date and start the machine anew; until then `prefer_ktls = false` keeps connections out of it"
    );
    let what = format!("{is} is older than {first}, in which the last known holes in its TLS were closed");
    Some(Finding::advice(TOPIC, what, why).maybe(update(version)))
}

/// The kernel's own version, which distributions build upon. Debian and Ubuntu call all releases of a series by 0.
fn upstream(release: &str, version: &str) -> Option<(u32, u32, u32)> {
    if let Some((_, debian)) = version.split_once(" Debian ") {
        return numbers(debian);
    }
    numbers(release).filter(|(_, _, patch)| *patch != 0)
}

/// Debian's stable kernels have the mends; 6.12 as a backport for Debian 12 comes late.
fn update(version: &str) -> Option<String> {
    let is_stable = version.contains(" Debian ") && !version.contains("~bpo");
    is_stable.then(|| "sudo apt update && sudo apt full-upgrade".to_owned())
}
