//! What to type, as it can be pasted into a shell of Debian 12 and 13.

use std::path::Path;

use rustix::thread::{CapabilitySet, capability_is_in_bounding_set, no_new_privs};

use crate::cli::quoted;

/// Lets the program that runs listen on ports below 1024.
pub(super) fn low_ports() -> Option<String> {
    // Where a process may never have the capability, a program whose file asks for it does not start.
    if !capability_is_in_bounding_set(CapabilitySet::NET_BIND_SERVICE).ok()? || no_new_privs().ok()? {
        return None;
    }
    let program = std::env::current_exe().ok().filter(|path| path.exists())?;
    Some(format!(
        "sudo setcap cap_net_bind_service=+ep {}",
        shell_path(&program)?
    ))
}

/// Makes a folder that belongs to who asks.
pub(super) fn make_folder(folder: &Path) -> Option<String> {
    Some(format!("sudo install -d -o {} {}", user(), shell_path(folder)?))
}

/// A path as a shell reads it, wherever it is typed.
fn shell_path(path: &Path) -> Option<String> {
    Some(quoted(std::path::absolute(path).ok()?.to_str()?))
}

/// Who asks; by number where `/etc/passwd` has no name.
fn user() -> String {
    let number = rustix::process::getuid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| quoted(name))
    });
    name.unwrap_or(number)
}
