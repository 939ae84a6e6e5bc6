//! The page that lists a folder.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, statat};
use rustix::io::Errno;

use super::facts::{Facts, date};
use super::path::escape;
use super::value::Value;

/// Entries a page may have; a folder with more is cut, and the page says so.
const ENTRIES_MAX: usize = 10_000;

/// What a page is to show.
pub(super) struct Wanted {
    /// The path as the client wrote it, decoded: the title.
    pub(super) title: Vec<u8>,
    /// Whether there is a folder above that is served.
    pub(super) has_parent: bool,
    /// Whether names that begin with a dot are shown.
    pub(super) dotfiles: bool,
}

struct Entry {
    name: Vec<u8>,
    is_folder: bool,
    /// Bytes, of files.
    size: Option<u64>,
    /// Seconds since 1970. Nothing is said of links: they may lead to where nobody should look.
    modified: Option<u64>,
}

/// Reads a folder and writes its page. Blocks on the disk.
pub(super) fn page(folder: &OwnedFd, wanted: &Wanted) -> Result<Vec<u8>, Errno> {
    let (entries, cut) = read(folder, wanted.dotfiles)?;
    let mut page = Vec::with_capacity(512 + 160 * entries.len());
    page.extend_from_slice(b"<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>Index of ");
    text(&wanted.title, &mut page);
    page.extend_from_slice(b"</title></head>\n<body><h1>Index of ");
    text(&wanted.title, &mut page);
    page.extend_from_slice(b"</h1>\n<table>\n");
    if wanted.has_parent {
        page.extend_from_slice(b"<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n");
    }
    for entry in &entries {
        row(entry, &mut page);
    }
    page.extend_from_slice(b"</table>\n");
    if cut {
        page.extend_from_slice(b"<p>There are more than can be listed.</p>\n");
    }
    page.extend_from_slice(b"</body></html>\n");
    Ok(page)
}

/// Folders first, then by name; whether some were left out.
fn read(folder: &OwnedFd, dotfiles: bool) -> Result<(Vec<Entry>, bool), Errno> {
    let mut entries = Vec::new();
    let mut cut = false;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || (name.starts_with(b".") && !dotfiles) {
            continue;
        }
        if entries.len() == ENTRIES_MAX {
            cut = true;
            break;
        }
        // Gone meanwhile, or not ours to look at: not there.
        let Ok(stat) = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let facts = Facts::of(&stat);
        if facts.is_file() || facts.is_folder() || facts.is_link() {
            entries.push(Entry {
                name: name.to_vec(),
                is_folder: facts.is_folder(),
                size: facts.is_file().then_some(facts.size),
                modified: facts.modified_seconds().filter(|_| !facts.is_link()),
            });
        }
    }
    entries.sort_unstable_by(|a, b| (!a.is_folder, &a.name).cmp(&(!b.is_folder, &b.name)));
    Ok((entries, cut))
}

fn row(entry: &Entry, page: &mut Vec<u8>) {
    let slash: &[u8] = if entry.is_folder { b"/" } else { b"" };
    // `./` keeps a name with a colon from being read as a scheme.
    page.extend_from_slice(b"<tr><td><a href=\"./");
    for &byte in &entry.name {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            page.push(byte);
        } else {
            escape(byte, page);
        }
    }
    page.extend_from_slice(slash);
    page.extend_from_slice(b"\">");
    text(&entry.name, page);
    page.extend_from_slice(slash);
    page.extend_from_slice(b"</a></td><td>");
    if let Some(seconds) = entry.modified {
        page.extend_from_slice(date(seconds).as_ref());
    }
    page.extend_from_slice(b"</td><td align=\"right\">");
    if let Some(size) = entry.size {
        page.extend_from_slice(Value::new().decimal(size).as_ref());
    }
    page.extend_from_slice(b"</td></tr>\n");
}

/// Text for HTML; what is not UTF-8 shows as replacement characters.
fn text(bytes: &[u8], page: &mut Vec<u8>) {
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '&' => page.extend_from_slice(b"&amp;"),
            '<' => page.extend_from_slice(b"&lt;"),
            '>' => page.extend_from_slice(b"&gt;"),
            '"' => page.extend_from_slice(b"&quot;"),
            '\'' => page.extend_from_slice(b"&#39;"),
            other => page.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn listed(names: &[&[u8]], dotfiles: bool) -> String {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(OsStr::from_bytes(name.trim_ascii_end()));
            if name.ends_with(b" ") {
                std::fs::create_dir(path).unwrap();
            } else {
                std::fs::write(path, "12345").unwrap();
            }
        }
        let fd = rustix::fs::open(
            folder.path(),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let wanted = Wanted {
            title: b"/<a>/".to_vec(),
            has_parent: true,
            dotfiles,
        };
        String::from_utf8(page(&fd, &wanted).unwrap()).unwrap()
    }

    #[test]
    fn names_are_sorted_with_folders_first_and_dotfiles_hidden() {
        let page = listed(&[b"b.txt", b"a.txt", b"z ", b".secret"], false);
        let places: Vec<_> = ["./z/", "./a.txt", "./b.txt"]
            .map(|name| page.find(name).unwrap())
            .into();
        assert!(places.is_sorted());
        assert!(!page.contains("secret"));
        assert!(page.contains(">5</td>"));
        assert!(listed(&[b".secret"], true).contains("secret"));
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let page = listed(
            &[
                b"<script>alert(1)<",
                b"\"onclick='x'&",
                b"javascript:alert(1)",
                b"a\xff\nb",
            ],
            false,
        );
        assert!(page.contains("<title>Index of /&lt;a&gt;/</title>"));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;</a>"));
        assert!(page.contains("href=\"./%22onclick%3D%27x%27%26\""));
        assert!(page.contains("href=\"./javascript%3Aalert%281%29\""));
        assert!(page.contains("href=\"./a%FF%0Ab\""));
        assert!(!page.contains("<script>"));
    }

    #[test]
    fn a_folder_with_too_many_names_is_cut_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..=ENTRIES_MAX {
            std::fs::File::create(folder.path().join(number.to_string())).unwrap();
        }
        let fd = rustix::fs::open(
            folder.path(),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let wanted = Wanted {
            title: Vec::new(),
            has_parent: false,
            dotfiles: false,
        };
        let page = String::from_utf8(page(&fd, &wanted).unwrap()).unwrap();
        assert_eq!(page.matches("<tr>").count(), ENTRIES_MAX);
        assert!(page.contains("more than can be listed"));
    }
}
