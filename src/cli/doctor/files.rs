//! What the configuration has written and read while Atlas runs, and whether who asks could.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use super::finding::{Finding, Findings};
use super::remedy;
use crate::files::Settings;
use crate::generation::Generation;

const TOPIC: &str = "files";

pub(super) fn look(found: &mut Findings, generation: &Generation) {
    let log = &generation.access_log;
    if let Some(path) = log.path.as_ref().filter(|_| log.enabled) {
        found.add(match can_write(path) {
            Ok(()) => Finding::fine(
                TOPIC,
                format!("the access log can be written: {}", path.display()),
            ),
            Err(error) => Finding::wrong(
                TOPIC,
                format!("the access log cannot be written: {}: {error}", path.display()),
                "`atlas run` would end here: let the user that runs Atlas write there",
            )
            .maybe(open_log(path, &error)),
        });
    }
    for settings in &generation.roots {
        let root = &settings.root;
        // A file whose name is known needs no more than that.
        let wanted = match settings.listing {
            true => Access::READ_OK | Access::EXEC_OK,
            false => Access::EXEC_OK,
        };
        found.add(match access(root, wanted) {
            Ok(()) => Finding::fine(TOPIC, format!("{} can be entered", root.display())),
            Err(error) => Finding::wrong(
                TOPIC,
                format!("{} cannot be entered: {}", root.display(), io::Error::from(error)),
                "every request for a file below it would get 404: let the user that runs Atlas read it",
            )
            .maybe(open_root(settings, error.into())),
        });
    }
}

/// What lets the log be written. In a folder of somebody else's the file alone is made Atlas's own.
fn open_log(path: &Path, error: &io::Error) -> Option<String> {
    let folder = folder_of(path);
    if error.kind() != io::ErrorKind::PermissionDenied {
        None
    } else if access(folder, Access::EXEC_OK).is_err() {
        remedy::permit(folder, "x")
    } else if path.exists() {
        remedy::permit(path, "w")
    } else {
        remedy::make_file(path)
    }
}

/// What lets the files of a root be served.
fn open_root(settings: &Settings, error: io::Error) -> Option<String> {
    let letters = if settings.listing { "rx" } else { "x" };
    (error.kind() == io::ErrorKind::PermissionDenied)
        .then(|| remedy::permit(&settings.root, letters))
        .flatten()
}

/// Without making it: where there is none, whether its folder takes one.
fn can_write(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(access(path, Access::WRITE_OK)?);
    }
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    Ok(access(folder_of(path), wanted)?)
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}
