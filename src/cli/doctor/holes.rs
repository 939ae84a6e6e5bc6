//! Whether the kernel is older than the mends of what is known to have been wrong with its TLS.

use super::finding::Finding;
use super::remedy::numbers;

/// A series of kernels.
struct Series {
    number: (u32, u32),
    /// The first with all mends it has got, the last for CVE-2026-74611. Some of what they close a peer can use,
    /// CVE-2025-39946 and CVE-2026-23240 say.
    mended: u32,
}

const ALL: [Series; 2] = [
    Series {
        number: (6, 1),
        mended: 192,
    },
    Series {
        number: (6, 12),
        mended: 115,
    },
];

/// By release and version as uname has them. Nothing of series nobody has looked at. `is_own`: it is this system that
/// brings it up to date.
pub(super) fn judge(release: &str, version: &str, is_own: bool) -> Option<Finding> {
    const TOPIC: &str = "kernel TLS";
    let (major, minor, patch) = upstream(release, version)?;
    let series = ALL.iter().find(|series| series.number == (major, minor))?;
    let is = format!("{major}.{minor}.{patch}");
    let first = format!("{major}.{minor}.{}", series.mended);
    if patch >= series.mended {
        let what = format!("{is} has what its series has mended in its TLS, as {first} and later");
        return Some(Finding::fine(TOPIC, what));
    }
    let what = format!("{is} is older than {first}, and lacks mends of holes in its TLS");
    let why = "peers or users of this machine can use them, unless your distribution has closed them in its own: \
               bring the kernel up to date and start the machine anew, before module `tls` is loaded; where it is, \
               `prefer_ktls = false` keeps Atlas's connections out of it";
    let command = update(version).filter(|_| is_own);
    Some(Finding::advice(TOPIC, what, why).maybe(command))
}

/// The kernel's own version, which distributions build upon. Debian and Ubuntu call all releases of a series by 0.
fn upstream(release: &str, version: &str) -> Option<(u32, u32, u32)> {
    if let Some((_, debian)) = version.split_once(" Debian ") {
        // Some who build Debian's kernels put an epoch before it: `1:6.12.47-1+rpt1`.
        return numbers(debian.trim_start_matches("1:"));
    }
    numbers(release).filter(|(_, _, patch)| *patch != 0)
}

/// Debian's stable kernels have the mends; 6.12 as a backport for Debian 12 comes late.
fn update(version: &str) -> Option<String> {
    let is_stable = version.contains(" Debian ") && !version.contains("~bpo");
    is_stable.then(|| "sudo apt update && sudo apt full-upgrade".to_owned())
}
