//! Static files from the request to the last byte, without a connection.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::http::BodyLength;
use crate::runtime::{Preference, start};

struct Got {
    status: u16,
    fields: Fields,
    length: BodyLength,
    body: Vec<u8>,
}

impl Got {
    fn field(&self, name: &str) -> String {
        let value = self.fields.get(name).unwrap_or_default();
        String::from_utf8(value.to_vec()).unwrap()
    }
}

fn settings(root: &Path) -> Settings {
    Settings {
        root: root.to_owned(),
        index: vec!["index.html".to_owned()],
        listing: false,
        fallback: None,
        precompressed: true,
        dotfiles: false,
    }
}

async fn ask(root: &Root, method: Method, uri: &str, lines: &[(&str, &str)]) -> Result<Got, Cause> {
    let mut fields = Fields::new();
    for (name, value) in lines {
        fields.push(name, value);
    }
    let (path, query) = match uri.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (uri, None),
    };
    let asked = Asked {
        method: &method,
        path: path.strip_prefix("/prefix").unwrap_or(path),
        wire_path: path,
        query,
        fields: &fields,
    };
    let mut reply = root
        .begin(&asked, |_| false)
        .await
        .map_err(|failed| failed.end.cause)?;
    let mut body = Vec::new();
    while let Some(piece) = reply.piece() {
        assert!(!piece.is_empty(), "an empty piece");
        body.extend_from_slice(piece);
        reply.advance().await.map_err(|_| Cause::FileChanged)?;
    }
    if method == Method::GET {
        let said = match reply.head.body {
            BodyLength::Exact(said) => said,
            _ => 0,
        };
        assert_eq!(said, body.len() as u64, "{uri}");
    } else {
        assert!(body.is_empty() || reply.head.status == 412, "{method} {uri}");
    }
    Ok(Got {
        status: reply.head.status.as_u16(),
        fields: reply.head.fields,
        length: reply.head.body,
        body,
    })
}

async fn get(root: &Root, uri: &str, lines: &[(&str, &str)]) -> Result<Got, Cause> {
    ask(root, Method::GET, uri, lines).await
}

/// A folder with these files, and a test that runs on a worker.
fn with(files: &[(&str, &[u8])], test: impl AsyncFnOnce(&Path)) {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("root");
    std::fs::create_dir(&root).unwrap();
    for (name, content) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    start(Preference::Epoll, async |_| test(&root).await).unwrap();
}

const SITE: &[(&str, &[u8])] = &[
    ("index.html", b"home"),
    ("a.txt", b"0123456789"),
    ("empty", b""),
    ("docs/index.html", b"docs"),
    ("bare/x", b"x"),
    (".env", b"secret"),
    (".well-known/security.txt", b"hello"),
];

#[test]
fn paths_lead_to_files_indexes_and_folders() {
    with(SITE, async |folder| {
        let root = Root::new(settings(folder));
        for (uri, expected) in [
            ("/", Ok("home")),
            ("/a.txt", Ok("0123456789")),
            ("/a.txt?query", Ok("0123456789")),
            ("//a.txt", Ok("0123456789")),
            ("/%61.txt", Ok("0123456789")),
            ("/empty", Ok("")),
            ("/docs/", Ok("docs")),
            ("/prefix/docs/", Ok("docs")),
            ("/.well-known/security.txt", Ok("hello")),
            ("/a.txt/", Err(Cause::NotFound)),
            ("/a.txt/x", Err(Cause::NotFound)),
            ("/bare/", Err(Cause::NotFound)),
            ("/nothing", Err(Cause::NotFound)),
            ("/nothing/", Err(Cause::NotFound)),
            ("/.env", Err(Cause::NotFound)),
            ("/docs/../a.txt", Err(Cause::NotFound)),
            ("/docs%2findex.html", Err(Cause::NotFound)),
            ("*", Err(Cause::NotFound)),
        ] {
            let got = get(&root, uri, &[]).await;
            let body = got.map(|got| (got.status, got.body));
            assert_eq!(
                body,
                expected.map(|body| (200, body.as_bytes().to_vec())),
                "{uri}"
            );
        }
        for (uri, location) in [
            ("/docs", "/docs/"),
            ("/docs?x=1", "/docs/?x=1"),
            ("//docs", "/docs/"),
            ("/prefix/docs", "/prefix/docs/"),
            ("/prefix", "/prefix/"),
        ] {
            let got = get(&root, uri, &[]).await.unwrap();
            assert_eq!(
                (got.status, got.field("location").as_str()),
                (301, location),
                "{uri}"
            );
        }
    });
}

#[test]
fn a_whole_file_says_what_it_is() {
    with(SITE, async |folder| {
        let root = Root::new(settings(folder));
        for method in [Method::GET, Method::HEAD] {
            let got = ask(&root, method, "/a.txt", &[]).await.unwrap();
            assert_eq!(got.status, 200);
            assert_eq!(got.length, BodyLength::Exact(10));
            assert_eq!(got.field("content-type"), "text/plain; charset=utf-8");
            assert_eq!(got.field("accept-ranges"), "bytes");
            assert_eq!(got.field("vary"), "Accept-Encoding");
            assert!(got.field("etag").starts_with('"') && got.field("last-modified").ends_with("GMT"));
            assert!(!got.fields.has("content-encoding"));
        }
    });
}

#[test]
fn methods_are_get_head_and_options() {
    with(SITE, async |folder| {
        let root = Root::new(settings(folder));
        let got = ask(&root, Method::OPTIONS, "/a.txt", &[]).await.unwrap();
        assert_eq!((got.status, got.field("allow").as_str()), (204, ALLOW));
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::TRACE] {
            let refused = ask(&root, method, "/a.txt", &[]).await.err();
            assert_eq!(refused, Some(Cause::MethodNotAllowed));
        }
    });
}

#[test]
fn conditions_are_answered() {
    with(SITE, async |folder| {
        let root = Root::new(settings(folder));
        let first = get(&root, "/a.txt", &[]).await.unwrap();
        let (etag, date) = (first.field("etag"), first.field("last-modified"));
        let none_match = [("If-None-Match", etag.as_str())];
        let since = [("If-Modified-Since", date.as_str())];
        for lines in [none_match, since] {
            for method in [Method::GET, Method::HEAD] {
                let got = ask(&root, method, "/a.txt", &lines).await.unwrap();
                assert_eq!((got.status, got.field("etag")), (304, etag.clone()));
                assert!(got.body.is_empty() && got.fields.has("vary"));
                assert_eq!(got.length, BodyLength::None);
            }
        }
        let got = get(&root, "/a.txt", &[("If-Match", "\"x\"")]).await.unwrap();
        assert_eq!(got.status, 412);
        std::fs::write(folder.join("a.txt"), "changed").unwrap();
        let got = get(&root, "/a.txt", &none_match).await.unwrap();
        assert!(
            got.status == 304 || got.body == b"changed",
            "old for a second at most"
        );
        crate::runtime::sleep(FRESH * 2).await;
        let got = get(&root, "/a.txt", &none_match).await.unwrap();
        assert_eq!((got.status, &got.body[..]), (200, &b"changed"[..]));
    });
}

#[test]
fn ranges_are_served() {
    with(SITE, async |folder| {
        let root = Root::new(settings(folder));
        let got = get(&root, "/a.txt", &[("Range", "bytes=2-4")]).await.unwrap();
        assert_eq!((got.status, &got.body[..]), (206, &b"234"[..]));
        assert_eq!(got.field("content-range"), "bytes 2-4/10");
        assert!(got.fields.has("etag"));
        let got = get(&root, "/a.txt", &[("Range", "bytes=-3")]).await.unwrap();
        assert_eq!((got.status, &got.body[..]), (206, &b"789"[..]));
        let got = get(&root, "/a.txt", &[("Range", "bytes=10-")]).await.unwrap();
        assert_eq!(
            (got.status, got.field("content-range").as_str()),
            (416, "bytes */10")
        );
        for lines in [
            &[("Range", "bytes=1-1"), ("If-Range", "\"x\"")][..],
            &[("Range", "bytes=1-1"), ("Range", "bytes=2-2")],
            &[("Range", "lines=1-1")],
        ] {
            let got = get(&root, "/a.txt", lines).await.unwrap();
            assert_eq!((got.status, &got.body[..]), (200, &b"0123456789"[..]));
        }
        let got = ask(&root, Method::HEAD, "/a.txt", &[("Range", "bytes=2-4")])
            .await
            .unwrap();
        assert_eq!((got.status, got.length), (200, BodyLength::Exact(10)));
        let etag = got.field("etag");
        let lines = [("Range", "bytes=1-1"), ("If-Range", etag.as_str())];
        assert_eq!(get(&root, "/a.txt", &lines).await.unwrap().body, b"1");
    });
}

#[test]
fn several_ranges_are_parts_of_one_body() {
    let content: Vec<u8> = (0..300_000_u32)
        .map(|at| (at / 7 % 251).to_le_bytes()[0])
        .collect();
    with(&[("big.bin", &content)], async |folder| {
        let root = Root::new(settings(folder));
        let got = get(&root, "/big.bin", &[("Range", "bytes=5-6, 1000-200999, -1")])
            .await
            .unwrap();
        assert_eq!(got.status, 206);
        let kind = got.field("content-type");
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let mut expected = Vec::new();
        for (from, to) in [(5, 6), (1000, 200_999), (299_999, 299_999)] {
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: bytes {from}-{to}/300000\r\n\r\n"
            );
            expected.extend_from_slice(head.as_bytes());
            expected.extend_from_slice(&content[from..=to]);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(got.body == expected);
        assert!(!got.fields.has("content-range"));
        let whole = get(&root, "/big.bin", &[]).await.unwrap();
        assert!(whole.body == content);
    });
}

#[test]
fn precompressed_neighbours_are_served_to_those_who_accept_them() {
    let files: &[(&str, &[u8])] = &[
        ("app.js", b"plain"),
        ("app.js.br", b"brotli"),
        ("app.js.gz", b"gzip"),
        ("docs/x", b"x"),
        ("docs.gz", b"not the folder"),
    ];
    with(files, async |folder| {
        let root = Root::new(settings(folder));
        let mut tags = Vec::new();
        for (accepted, coding, body) in [
            ("", "", "plain"),
            ("gzip, br, zstd", "br", "brotli"),
            ("zstd, gzip", "gzip", "gzip"),
            ("zstd", "", "plain"),
            ("br;q=0.1, gzip", "gzip", "gzip"),
        ] {
            // Twice: the second comes from what was kept.
            for _ in 0..2 {
                let got = get(&root, "/app.js", &[("Accept-Encoding", accepted)])
                    .await
                    .unwrap();
                assert_eq!(got.body, body.as_bytes(), "{accepted}");
                assert_eq!(got.field("content-encoding"), coding, "{accepted}");
                assert_eq!(got.field("content-type"), "text/javascript; charset=utf-8");
                assert_eq!(got.field("vary"), "Accept-Encoding");
                tags.push(got.field("etag"));
            }
        }
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), 3);
        let got = get(&root, "/docs", &[("Accept-Encoding", "gzip")]).await.unwrap();
        assert_eq!(got.status, 301);
        let root = Root::new(Settings {
            precompressed: false,
            ..settings(folder)
        });
        let got = get(&root, "/app.js", &[("Accept-Encoding", "gzip")])
            .await
            .unwrap();
        assert!(got.body == b"plain" && !got.fields.has("vary"));
    });
}

#[test]
fn the_fallback_answers_where_nothing_is_found_but_not_what_is_refused() {
    with(SITE, async |folder| {
        let root = Root::new(Settings {
            fallback: Some("/index.html".to_owned()),
            ..settings(folder)
        });
        for uri in ["/app/route", "/bare/", "/nothing/", "/a.txt/x"] {
            let got = get(&root, uri, &[]).await.unwrap();
            assert_eq!((got.status, &got.body[..]), (200, &b"home"[..]), "{uri}");
            assert_eq!(got.field("content-type"), "text/html; charset=utf-8");
        }
        for uri in ["/.env", "/../x", "/%00"] {
            assert_eq!(get(&root, uri, &[]).await.err(), Some(Cause::NotFound), "{uri}");
        }
        assert_eq!(
            ask(&root, Method::POST, "/x", &[]).await.err(),
            Some(Cause::MethodNotAllowed)
        );
    });
}

#[test]
fn a_folder_is_listed_when_asked() {
    with(SITE, async |folder| {
        let root = Root::new(Settings {
            index: Vec::new(),
            listing: true,
            ..settings(folder)
        });
        let got = get(&root, "/", &[]).await.unwrap();
        let page = String::from_utf8(got.body.clone()).unwrap();
        assert_eq!(got.field("content-type"), "text/html; charset=utf-8");
        assert!(page.contains("./docs/") && page.contains("./a.txt"));
        assert!(!page.contains(".env") && !page.contains("../"));
        let got = get(&root, "/docs/", &[]).await.unwrap();
        assert!(String::from_utf8(got.body).unwrap().contains("../"));
        let head = ask(&root, Method::HEAD, "/docs/", &[]).await.unwrap();
        assert_eq!(head.length, got.length);
    });
}

#[test]
fn only_so_many_lists_are_on_their_way_at_once() {
    with(SITE, async |folder| {
        let root = Root::new(Settings {
            listing: true,
            ..settings(folder)
        });
        let fields = Fields::new();
        let asked = Asked {
            method: &Method::GET,
            path: "/bare/",
            wire_path: "/bare/",
            query: None,
            fields: &fields,
        };
        let mut replies = Vec::new();
        for _ in 0..LISTS_MAX {
            replies.push(root.begin(&asked, |_| false).await.unwrap());
        }
        let refused = root.begin(&asked, |_| false).await.err();
        assert_eq!(refused.map(|failed| failed.end.cause), Some(Cause::LimitReached));
        replies.pop();
        assert!(root.begin(&asked, |_| false).await.is_ok());
    });
}

#[test]
fn bytes_that_are_not_at_hand_are_read_beside_the_worker() {
    let content: Vec<u8> = (0..1_000_003_u32)
        .map(|at| (at / 7 % 251).to_le_bytes()[0])
        .collect();
    // Out of the page cache; and on tmpfs, which cannot tell whether a read would wait.
    with(&[("big", &content), ("small", b"small")], async |folder| {
        for name in ["big", "small"] {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(folder.join(name))
                .unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        let root = Root::new(settings(folder));
        assert!(get(&root, "/big", &[]).await.unwrap().body == content);
        assert_eq!(get(&root, "/small", &[]).await.unwrap().body, b"small");
        let Ok(shared) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        std::fs::write(shared.path().join("big"), &content).unwrap();
        let root = Root::new(settings(shared.path()));
        for _ in 0..2 {
            assert!(get(&root, "/big", &[]).await.unwrap().body == content);
        }
    });
}

#[test]
fn a_file_that_shrinks_or_changes_does_not_reach_its_end() {
    let content = vec![b'x'; 300_000];
    for change in ["shorter", "longer", "same length"] {
        with(&[("big", &content)], async |folder| {
            let root = Root::new(settings(folder));
            let (method, fields) = (Method::GET, Fields::new());
            let asked = Asked {
                method: &method,
                path: "/big",
                wire_path: "/big",
                query: None,
                fields: &fields,
            };
            let mut reply = root.begin(&asked, |_| false).await.unwrap();
            let size = match change {
                "shorter" => 100_000,
                "longer" => 300_001,
                _ => 300_000,
            };
            // A file's times go by the kernel's ticks, of 10 ms on some: until the next its time is the same.
            let big = folder.join("big");
            let modified = || std::fs::metadata(&big).unwrap().modified().unwrap();
            let before = modified();
            while modified() == before {
                std::fs::write(&big, vec![b'y'; size]).unwrap();
            }
            let mut sent = 0;
            let broken = loop {
                sent += reply.piece().expect("it never ends well").len();
                if let Err(broken) = reply.advance().await {
                    break broken;
                }
            };
            assert_eq!(broken, Broken::Changed, "{change}");
            assert!(sent < 300_000);
        });
    }
}

#[test]
fn a_small_file_that_changed_is_read_anew() {
    with(SITE, async |folder| {
        let root = Root::new(settings(folder));
        assert_eq!(get(&root, "/a.txt", &[]).await.unwrap().body, b"0123456789");
        // Twice the same, the second time from what was kept; then another, changed in place.
        assert_eq!(get(&root, "/a.txt", &[]).await.unwrap().body, b"0123456789");
        std::fs::write(folder.join("a.txt"), "now").unwrap();
        assert_eq!(get(&root, "/a.txt", &[]).await.unwrap().body, b"now");
    });
}

#[test]
fn what_is_replaced_is_seen_within_a_second() {
    with(SITE, async |folder| {
        let link = folder.with_file_name("current");
        symlink("root", &link).unwrap();
        let root = Root::new(settings(&link));
        assert_eq!(get(&root, "/a.txt", &[]).await.unwrap().body, b"0123456789");
        std::fs::write(folder.join("new"), "new").unwrap();
        std::fs::rename(folder.join("new"), folder.join("a.txt")).unwrap();
        crate::runtime::sleep(FRESH).await;
        assert_eq!(get(&root, "/a.txt", &[]).await.unwrap().body, b"new");
        std::fs::remove_file(&link).unwrap();
        symlink("root/docs", &link).unwrap();
        crate::runtime::sleep(FRESH).await;
        assert_eq!(get(&root, "/", &[]).await.unwrap().body, b"docs");
        assert_eq!(get(&root, "/a.txt", &[]).await.err(), Some(Cause::NotFound));
    });
}

#[test]
fn a_deleted_file_is_closed_soon_after() {
    with(SITE, async |folder| {
        let root = Root::new(settings(folder));
        let open = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
                .filter(|path| path.to_string_lossy().contains("a.txt") && path.starts_with(folder))
                .count()
        };
        // More than once where it came so late that it was closed again.
        let mut tries = 0;
        loop {
            get(&root, "/a.txt", &[]).await.unwrap();
            if open() == 1 {
                break;
            }
            tries += 1;
            assert!(tries < 10, "it is not kept for the next request");
        }
        std::fs::remove_file(folder.join("a.txt")).unwrap();
        crate::runtime::sleep(FRESH * 2 + FRESH / 2).await;
        assert_eq!(open(), 0);
        assert_eq!(get(&root, "/a.txt", &[]).await.err(), Some(Cause::NotFound));
    });
}

#[test]
fn no_path_shows_what_lies_outside() {
    with(SITE, async |folder| {
        std::fs::write(folder.with_file_name("secret"), "secret").unwrap();
        for (to, name) in [
            ("..", "up"),
            ("../secret", "link"),
            ("/", "slash"),
            ("docs", "in"),
        ] {
            symlink(to, folder.join(name)).unwrap();
        }
        let root = Root::new(Settings {
            listing: true,
            dotfiles: true,
            ..settings(folder)
        });
        let words = [
            "/",
            "/",
            "/",
            "..",
            "%2e%2e",
            ".%2E",
            "%2f",
            "%5c",
            "\\",
            "secret",
            "root",
            "docs",
            "up",
            "link",
            "slash",
            "in",
            "etc/passwd",
            "%00",
            "%",
            ".",
            "index.html",
            "\u{e9}",
            "%ff",
        ];
        let mut random = fastrand::Rng::with_seed(13);
        for _ in 0..5000 {
            let path: String = (0..random.usize(1..9))
                .map(|_| words[random.usize(..words.len())])
                .collect();
            if let Ok(got) = get(&root, &format!("/{path}"), &[]).await {
                let body = String::from_utf8_lossy(&got.body);
                assert!(body != "secret" && !body.contains("root:x:0"), "{path}");
                assert!(
                    !body.contains("./secret\"") && !body.contains("./proc/\""),
                    "{path}"
                );
            }
        }
    });
}
