//! Static files: conditions, ranges, neighbours, and nothing outside the root.

use std::time::{Duration, Instant};

use crate::support::{Answer, Atlas, Builder, atlas, has, noise, wait_until};

/// An Atlas that serves `site` below its folder, with these options.
fn serves(options: &str) -> Builder {
    let options = if options.is_empty() {
        String::new()
    } else {
        format!(", {options}")
    };
    atlas()
        .listens_plain()
        .file("site/index.html", "<h1>home</h1>")
        .file("site/a.txt", "0123456789")
        .file("site/sub/index.html", "sub")
        .file("site/sub/deep/b.css", "b{}")
        .file("site/.secret", "secret")
        .file("site/.well-known/x", "known")
        .file("outside.txt", "outside")
        .text(&format!(
            "[[route]]\nfiles = {{ root = \"{{folder}}/site\"{options} }}"
        ))
}

fn get(atlas: &Atlas, path: &str, fields: &[(&str, &str)]) -> Answer {
    atlas.connect().request("GET", path, fields, b"")
}

#[test]
fn files_are_served_with_their_type() {
    let atlas = serves("")
        .file("site/x.unknown-kind", "?")
        .file("site/p.svg", "<svg/>")
        .start();
    for (path, body, kind) in [
        ("/", "<h1>home</h1>", "text/html"),
        ("/index.html", "<h1>home</h1>", "text/html"),
        ("/a.txt", "0123456789", "text/plain"),
        ("/a.txt?query", "0123456789", "text/plain"),
        ("/%61.txt", "0123456789", "text/plain"),
        ("/sub/", "sub", "text/html"),
        ("/sub/deep/b.css", "b{}", "text/css"),
        ("/p.svg", "<svg/>", "image/svg+xml"),
        ("/x.unknown-kind", "?", "application/octet-stream"),
    ] {
        let answer = atlas.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (200, body), "{path}");
        assert!(
            answer.field("content-type").unwrap().starts_with(kind),
            "{path}: {answer:?}"
        );
        for name in ["etag", "last-modified", "accept-ranges", "content-length"] {
            assert!(answer.field(name).is_some(), "{path} without {name}");
        }
    }
}

#[test]
fn a_file_atlas_may_not_read_is_not_there_and_the_log_says_why() {
    use std::os::unix::fs::PermissionsExt;
    // Root reads everything: Atlas runs as somebody else, if this test is root's.
    let is_root = rustix::process::geteuid().is_root();
    if is_root && !has("setpriv") {
        return;
    }
    let mut builder = serves("")
        .expects_log("secret.txt")
        .file("site/secret.txt", "secret");
    if is_root {
        builder = builder.by_way_of(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    let folder = builder.folder().to_path_buf();
    let mode = |path: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.join(path), permissions).unwrap();
    };
    mode("", 0o777); // its access log is made there
    mode("site/secret.txt", 0o000);
    let atlas = builder.start();
    for _ in 0..2 {
        let answer = atlas.get("/secret.txt");
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(!answer.text().contains("secret"), "{answer:?}");
    }
    atlas.log_line(&["secret.txt", "ermission denied"]);
    assert_eq!(atlas.get("/a.txt").text(), "0123456789");
    mode("site/secret.txt", 0o644);
    wait_until("it is served once it may be read", || {
        (atlas.get("/secret.txt").status == 200).then_some(())
    });
}

#[test]
fn a_folder_without_its_slash_is_redirected() {
    let atlas = serves("").start();
    let answer = atlas.get("/sub?x=1");
    assert!([301, 302, 307, 308].contains(&answer.status), "{answer:?}");
    assert!(
        answer.field("location").unwrap().ends_with("/sub/?x=1"),
        "{answer:?}"
    );
}

#[test]
fn what_is_not_there_is_404_and_what_is_not_read_is_405() {
    let atlas = serves("").start();
    assert_eq!(atlas.get("/none").status, 404);
    assert_eq!(atlas.get("/a.txt/").status, 404);
    assert_eq!(atlas.get("/sub/deep/").status, 404, "no index, no listing");
    let answer = atlas.connect().request("POST", "/a.txt", &[], b"x");
    assert_eq!(answer.status, 405);
    let allow = answer.field("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("HEAD"), "{allow}");
}

#[test]
fn head_is_get_without_the_body() {
    let atlas = serves("").start();
    let answer = atlas.connect().request("HEAD", "/a.txt", &[], b"");
    assert_eq!(
        (answer.status, answer.field("content-length"), answer.body.len()),
        (200, Some("10"), 0)
    );
}

#[test]
fn the_end_of_a_long_file_is_not_kept_back() {
    // Packets are filled while a long file goes out; whoever forgot the last one would send it 200 ms late.
    let long = noise(1_200_007);
    let atlas = serves("").file("site/long", long.clone()).start();
    let mut client = atlas.connect();
    let mut fastest = [Duration::MAX; 2];
    for end in (600_001..).step_by(29_999).take(20) {
        let range = format!("bytes=0-{end}");
        let cases = [(vec![], &long[..]), (vec![("Range", &*range)], &long[..=end])];
        for ((fields, expected), fastest) in cases.into_iter().zip(&mut fastest) {
            let started = Instant::now();
            let answer = client.request("GET", "/long", &fields, b"");
            *fastest = started.elapsed().min(*fastest);
            assert!(answer.body == expected);
        }
    }
    // Kept back, none of them is there sooner than after 200 ms.
    assert!(
        fastest.iter().all(|took| *took < Duration::from_millis(150)),
        "{fastest:?}"
    );
}

#[test]
fn conditions_are_weighed() {
    let atlas = serves("").start();
    let first = atlas.get("/a.txt");
    let tag = first.field("etag").unwrap();
    let date = first.field("last-modified").unwrap();
    let weak = format!("W/{}", tag.trim_start_matches("W/"));
    let list = format!("\"x\", {tag}");
    let old = "Thu, 01 Jan 1998 00:00:00 GMT";
    for (fields, status) in [
        (vec![("If-None-Match", tag)], 304),
        (vec![("If-None-Match", &weak)], 304),
        (vec![("If-None-Match", &list)], 304),
        (vec![("If-None-Match", "*")], 304),
        (vec![("If-None-Match", "\"other\"")], 200),
        (vec![("If-Modified-Since", date)], 304),
        (vec![("If-Modified-Since", old)], 200),
        (vec![("If-Modified-Since", "nonsense")], 200),
        (
            vec![("If-None-Match", "\"other\""), ("If-Modified-Since", date)],
            200,
        ),
        (vec![("If-Match", tag)], 200),
        (vec![("If-Match", "*")], 200),
        (vec![("If-Match", "\"other\"")], 412),
        (vec![("If-Unmodified-Since", date)], 200),
        (vec![("If-Unmodified-Since", old)], 412),
    ] {
        let answer = get(&atlas, "/a.txt", &fields);
        assert_eq!(answer.status, status, "{fields:?}");
        if status == 304 {
            assert_eq!(
                (answer.field("etag"), answer.body.len()),
                (Some(tag), 0),
                "{fields:?}"
            );
        }
    }
}

#[test]
fn ranges_are_served() {
    let atlas = serves("").start();
    for (range, status, body, part) in [
        ("bytes=0-0", 206, "0", "bytes 0-0/10"),
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=-99", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=5-99", 206, "56789", "bytes 5-9/10"),
    ] {
        let answer = get(&atlas, "/a.txt", &[("Range", range)]);
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{range}");
        assert_eq!(answer.field("content-range"), Some(part), "{range}");
    }
    for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
        let answer = get(&atlas, "/a.txt", &[("Range", range)]);
        assert_eq!(
            (answer.status, answer.field("content-range")),
            (416, Some("bytes */10")),
            "{range}"
        );
    }
    // RFC 9110 §14.2: what is no valid range is ignored.
    for range in ["bytes=4-2", "lines=1-2", "bytes=x-y", "bytes=", "bytes"] {
        assert_eq!(
            get(&atlas, "/a.txt", &[("Range", range)]).text(),
            "0123456789",
            "{range}"
        );
    }
}

#[test]
fn several_ranges_come_in_parts() {
    // Far enough from each other that sending what lies between would cost more.
    let file = [&b"01"[..], &[b'x'; 2000], b"45", &[b'x'; 2000], b"9"].concat();
    let atlas = serves("").file("site/long.txt", file).start();
    let answer = get(&atlas, "/long.txt", &[("Range", "bytes=0-1,2002-2003,-1")]);
    assert_eq!(answer.status, 206);
    let kind = answer.field("content-type").unwrap();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .expect(kind)
        .trim_matches('"');
    let text = answer.text();
    let parts: Vec<_> = text.split(&format!("--{boundary}")).collect();
    assert_eq!(parts.len(), 5, "{text}");
    for (part, (range, body)) in
        parts[1..4]
            .iter()
            .zip([("0-1", "01"), ("2002-2003", "45"), ("4004-4004", "9")])
    {
        assert!(part.contains(&format!("bytes {range}/4005")), "{part}");
        assert!(
            part.trim_end_matches("\r\n")
                .ends_with(&format!("\r\n\r\n{body}")),
            "{part:?}"
        );
    }
    assert_eq!(parts[4].trim(), "--");
}

#[test]
fn many_small_ranges_are_not_an_amplifier() {
    let atlas = serves("").file("site/big", noise(100_000)).start();
    let ranges: Vec<_> = (0..500).map(|_| "0-".to_owned()).collect();
    let answer = get(
        &atlas,
        "/big",
        &[("Range", &format!("bytes={}", ranges.join(",")))],
    );
    assert!(
        answer.body.len() <= 250_000,
        "{} bytes for a file of 100,000",
        answer.body.len()
    );
}

#[test]
fn if_range_guards_a_range() {
    let atlas = serves("").start();
    let first = atlas.get("/a.txt");
    let tag = first.field("etag").unwrap();
    let range = ("Range", "bytes=0-1");
    if !tag.starts_with("W/") {
        assert_eq!(get(&atlas, "/a.txt", &[range, ("If-Range", tag)]).status, 206);
    }
    assert_eq!(
        get(&atlas, "/a.txt", &[range, ("If-Range", "\"other\"")]).status,
        200
    );
    assert_eq!(
        get(
            &atlas,
            "/a.txt",
            &[range, ("If-Range", "Thu, 01 Jan 1998 00:00:00 GMT")]
        )
        .status,
        200
    );
}

#[test]
fn precompressed_neighbours_are_negotiated() {
    let atlas = serves("")
        .file("site/app.js", "plain")
        .file("site/app.js.gz", "gzip bytes")
        .file("site/app.js.br", "brotli bytes")
        .file("site/app.js.zst", "zstd bytes")
        .start();
    for (accepts, coding, body) in [
        ("gzip", Some("gzip"), "gzip bytes"),
        ("br", Some("br"), "brotli bytes"),
        ("zstd", Some("zstd"), "zstd bytes"),
        ("gzip;q=0.5, br;q=0.1", Some("gzip"), "gzip bytes"),
        ("gzip;q=0", None, "plain"),
        ("identity", None, "plain"),
        ("", None, "plain"),
        ("deflate", None, "plain"),
    ] {
        let answer = get(&atlas, "/app.js", &[("Accept-Encoding", accepts)]);
        assert_eq!(
            (answer.field("content-encoding"), answer.text().as_str()),
            (coding, body),
            "{accepts}"
        );
        assert!(
            answer
                .field("vary")
                .unwrap()
                .to_lowercase()
                .contains("accept-encoding"),
            "{accepts}"
        );
        let kind = answer.field("content-type").unwrap();
        assert!(kind.contains("javascript"), "{kind}");
    }
    let tags: std::collections::BTreeSet<_> = ["gzip", "br", ""]
        .iter()
        .map(|coding| {
            get(&atlas, "/app.js", &[("Accept-Encoding", coding)])
                .field("etag")
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(tags.len(), 3, "each representation has its own ETag");
}

#[test]
fn nothing_outside_the_root_is_served() {
    let atlas = serves("dotfiles = true")
        .expects_log("leads out of the root")
        .start();
    std::os::unix::fs::symlink(
        atlas.folder().join("outside.txt"),
        atlas.folder().join("site/out"),
    )
    .unwrap();
    std::os::unix::fs::symlink("../outside.txt", atlas.folder().join("site/up")).unwrap();
    std::os::unix::fs::symlink("..", atlas.folder().join("site/parent")).unwrap();
    std::os::unix::fs::symlink("a.txt", atlas.folder().join("site/inside")).unwrap();
    for path in [
        "/../outside.txt",
        "/sub/../../outside.txt",
        "/%2e%2e/outside.txt",
        "/..%2foutside.txt",
        "/%2e%2e%2foutside.txt",
        "/..%5coutside.txt",
        "/%252e%252e/outside.txt",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/a.txt%00.html",
        "/out",
        "/up",
        "/parent/outside.txt",
        "/./../outside.txt",
    ] {
        let answer = atlas.get(path);
        assert!(
            [400, 403, 404].contains(&answer.status),
            "{path}: {}",
            answer.status
        );
        assert!(
            !answer.text().contains("outside") || answer.text().contains("404"),
            "{path}"
        );
        assert!(!answer.text().contains("root:"), "{path}");
    }
    assert_eq!(
        atlas.get("/inside").text(),
        "0123456789",
        "a link that stays inside is fine"
    );
}

#[test]
fn dotfiles_are_served_only_when_asked_for() {
    let atlas = serves("").start();
    for path in ["/.secret", "/%2esecret", "/sub/../.secret"] {
        assert!([400, 403, 404].contains(&atlas.get(path).status), "{path}");
    }
    drop(atlas);
    let atlas = serves("dotfiles = true").start();
    assert_eq!(atlas.get("/.secret").text(), "secret");
}

#[test]
fn what_is_no_file_is_not_opened() {
    let atlas = serves("").start();
    let fifo = atlas.folder().join("site/fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(atlas.folder().join("site/socket")).unwrap();
    for path in ["/fifo", "/socket"] {
        assert!([403, 404].contains(&atlas.get(path).status), "{path}");
    }
    assert_eq!(atlas.get("/a.txt").status, 200, "no worker waits for the FIFO");
}

#[test]
fn a_listing_and_a_fallback_are_optional() {
    let atlas = serves("listing = true")
        .file("site/sub/deep/<b>&.txt", "x")
        .start();
    let listing = atlas.get("/sub/deep/").text();
    assert!(listing.contains("b.css"), "{listing}");
    assert!(!listing.contains("<b>&"), "names are escaped: {listing}");
    let listing = atlas.connect().request("GET", "/sub/", &[], b"").text();
    assert_eq!(listing, "sub", "an index comes before a listing");
    drop(atlas);
    let atlas = serves("fallback = \"index.html\"").start();
    let answer = atlas.get("/some/page/of/the/app");
    assert_eq!((answer.status, answer.text().as_str()), (200, "<h1>home</h1>"));
    assert_eq!(atlas.get("/a.txt").text(), "0123456789");
}

#[test]
fn a_large_file_arrives_whole() {
    let bytes = noise(20 * 1024 * 1024);
    for tls in [false, true] {
        let atlas = atlas()
            .listens(tls)
            .file("site/big", &bytes)
            .text("[[route]]\nfiles = \"{folder}/site\"")
            .start();
        assert!(atlas.get("/big").body == bytes, "the bytes differ");
        let range = get(&atlas, "/big", &[("Range", "bytes=10000000-10000099")]);
        assert_eq!(range.body, &bytes[10_000_000..10_000_100]);
        assert!(
            atlas.memory_peak_kib() < 64 * 1024,
            "{} KiB",
            atlas.memory_peak_kib()
        );
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_served_ends_the_connection() {
    let atlas = serves("").file("site/shrinks", vec![b'x'; 30_000_000]).start();
    let mut client = atlas.connect();
    client.send("GET /shrinks HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.head().unwrap().word(1), "200");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(atlas.folder().join("site/shrinks"))
        .unwrap();
    file.set_len(1_000_000).unwrap();
    let (rest, _) = client.read_to_end();
    assert!(rest.len() < 30_000_000, "a whole body was made up");
    // The kernel sends the pages of a file themselves, and clears what was cut off the piece of
    // memory that it was cut in (a page, or many at once), even where it waits to be sent.
    let (kept, cut) = rest.split_at(rest.len().min(1_000_000));
    assert!(kept.iter().all(|byte| *byte == b'x'), "bytes were made up");
    assert!(
        cut.iter().all(|byte| matches!(byte, b'x' | 0)),
        "bytes were made up"
    );
    let record = atlas.exchange("/shrinks");
    assert_eq!(record["cause"], "file_changed", "{record}");
}

#[test]
fn a_prefix_can_be_stripped_before_the_root() {
    let atlas = atlas()
        .listens_plain()
        .file("site/x/y.txt", "stripped")
        .text("[[route]]\npath = \"/static\"\nfiles = \"{folder}/site\"\nstrip_prefix = true")
        .start();
    assert_eq!(atlas.get("/static/x/y.txt").text(), "stripped");
    assert!([400, 403, 404].contains(&atlas.get("/static/../x/y.txt").status));
}
