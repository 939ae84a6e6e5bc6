//! Whether the kernel is older than the mends of what is known to have been wrong with its TLS.

use super::finding::Finding;
use super::remedy::numbers;

/// For series of kernels, the first with all mends that are known of. A peer could use CVE-2025-39946 (mended in
/// 6.1.158 and 6.12.57) and CVE-2025-39682; others took a user of the machine. The last is CVE-2026-74611.
const MENDED: [((u32, u32), u32); 2] = [((6, 1), 192), ((6, 12), 115)];

/// By release and version as uname has them. Nothing of series nobody has looked at.
pub(super) fn judge(release: &str, version: &str) -> Option<Finding> {
    const TOPIC: &str = "kernel TLS";
    let (major, minor, patch) = upstream(release, version)?;
    let (_, mended) = MENDED.iter().find(|(series, _)| *series == (major, minor))?;
    let is = format!("{major}.{minor}.{patch}");
    let first = format!("{major}.{minor}.{mended}");
    if patch >= *mended {
        return Some(Finding::fine(
            TOPIC,
            format!("{is} has the mends of what was known to be wrong, as {first} and later"),
        ));
    }
    Some(
        Finding::advice(
            TOPIC,
            format!("{is} is older than {first}, in which holes in its TLS were closed"),
            "peers can use some of them, unless your distribution has closed them in its own: bring the kernel up to \
             date and start the machine anew, or let Atlas make the records (`prefer_ktls = false`)",
        )
        .maybe(update(version)),
    )
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
