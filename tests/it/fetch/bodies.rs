//! Bodies that `atlas fetch` sends and gets: long ones, cut ones, and by which way they go.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::Output;

use super::*;
use crate::guest;

#[test]
fn what_is_cut_is_never_taken_for_all() {
    let place = Place::new();
    let ca = place.ca();
    let part = noise(100_000);
    let with = |head: &str, part: &[u8]| [head.as_bytes(), part].concat();
    let length = with("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n", &part);
    let chunk = with(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n",
        &part,
    );
    let until_close = with("HTTP/1.1 200 OK\r\n\r\n", &part);
    let server = || {
        origin()
            .sends("/short", length.clone(), Then::Close)
            .sends("/chunk", chunk.clone(), Then::Close)
            .sends("/all", until_close.clone(), Then::Close)
    };
    let clear = server().start();
    let secured = server().tls(cert(&["localhost"])).start();
    for url in [plain(&clear, ""), secure(secured.port(), "")] {
        let get = |path: &str| fetch(&["--cacert", &ca, &format!("{url}{path}")]);
        let short = get("/short");
        assert!(short.stdout == part, "what came is passed on");
        let short = failure(&short);
        assert!(short.contains("after 100000 of 200000 bytes"), "{short}");
        let chunk = failure(&get("/chunk"));
        assert!(chunk.contains("after 100000 bytes"), "{chunk}");
        assert!(body(&get("/all")) == part);
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let resets = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&length).unwrap();
        // What has not reached the other's kernel is thrown away by a reset.
        wait_until("it has all of that", || {
            let acknowledged = ::atlas::sys::tcp_bytes_acked(stream.as_fd())?;
            (acknowledged >= length.len() as u64).then_some(())
        });
        socket2::SockRef::from(&stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    });
    let reset = failure(&fetch(&[&format!("http://{address}/")]));
    assert!(
        reset.contains("reset the connection after 100000 of 200000"),
        "{reset}"
    );
    resets.join().unwrap();
    let cut = origin()
        .tls(cert(&["localhost"]))
        .raw(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nnot all");
            let _ = stream.flush();
            let _ = stream.tcp().shutdown(std::net::Shutdown::Write);
            // Else what the client still says would make it a reset.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        })
        .start();
    let told = failure(&fetch(&["--cacert", &ca, &secure(cut.port(), "/")]));
    assert!(told.contains("without TLS's goodbye"), "{told}");
}

#[test]
fn a_file_gets_the_body_and_is_left_alone_when_nothing_comes() {
    let place = Place::new();
    let server = origin()
        .answers("/", "the body")
        .sends(
            "/cut",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            Then::Close,
        )
        .start();
    let file = place.file("file", b"something longer that was there");
    let new = place.path("new");
    let gone = format!("http://127.0.0.1:{}/", free_port());
    failure(&fetch(&["-o", &file, &gone]));
    failure(&fetch(&["-o", &new, &gone]));
    assert_eq!(std::fs::read(&file).unwrap(), b"something longer that was there");
    assert!(!std::path::Path::new(&new).exists());
    for path in [&file, &new] {
        assert_eq!(body(&fetch(&["-o", path, &plain(&server, "/")])), b"");
        assert_eq!(std::fs::read(path).unwrap(), b"the body");
    }
    let cut = failure(&fetch(&["-o", &file, &plain(&server, "/cut")]));
    assert!(cut.contains(&file) && cut.contains("holds what came"), "{cut}");
    let accepted = server.accepted();
    let folder = place.0.path().to_str().unwrap();
    for path in [folder, "/nonexistent/file"] {
        let output = fetch(&["-o", path, &plain(&server, "/")]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(
            said(&output).contains(&format!("cannot write {path}")),
            "{}",
            said(&output)
        );
    }
    let unread = fetch(&["-d", "@/nonexistent/file", &plain(&server, "/")]);
    assert_eq!(unread.status.code(), Some(2), "{}", said(&unread));
    assert_eq!(server.accepted(), accepted, "nothing was asked");
    if std::path::Path::new("/dev/full").exists() {
        let full = failure(&fetch(&["-o", "/dev/full", &plain(&server, "/")]));
        assert!(full.contains("cannot write /dev/full"), "{full}");
    }
}

/// Answers each piece of the request as it comes, until its end.
fn repeats() -> origin::Builder {
    origin().raw(|mut stream| {
        use std::io::Read;
        let mut bytes = vec![0; 64 * 1024];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut bytes[..1]) {
                Ok(1) => head.push(bytes[0]),
                _ => return,
            }
        }
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
        let mut left: usize = length.and_then(|length| length.parse().ok()).unwrap();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n");
        while left > 0 {
            let Ok(count @ 1..) = stream.read(&mut bytes) else {
                return;
            };
            left -= count;
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
        stream.finish();
    })
}

#[test]
fn an_answer_that_begins_before_the_request_has_ended_is_heard() {
    let place = Place::new();
    let clear = repeats().start();
    let secured = repeats().tls(cert(&["localhost"])).start();
    let data = noise(20 * MIB);
    let sent = format!("@{}", place.file("sent", &data));
    for url in [plain(&clear, "/"), secure(secured.port(), "/")] {
        let output = fetch(&["--cacert", &place.ca(), "-d", &sent, &url]);
        assert!(body(&output) == data);
    }
    let refuses = origin()
        .raw(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 8\r\n\r\ntoo much");
            // It never reads: the client has to hear it while it sends.
            std::thread::sleep(std::time::Duration::from_millis(500));
        })
        .start();
    assert_eq!(body(&fetch(&["-d", &sent, &plain(&refuses, "/")])), b"too much");
}

/// Runs with no more memory than this, whatever it moves.
const MEMORY_MAX: usize = 64 * MIB;

fn fetch_in_little_memory(arguments: &[&str]) -> Output {
    if !has("prlimit") {
        return fetch(arguments);
    }
    let limit = format!("--data={MEMORY_MAX}");
    let words = [&[&*limit, env!("CARGO_BIN_EXE_atlas"), "fetch"], arguments].concat();
    command("prlimit", &words, b"")
}

#[test]
fn a_hundred_mebibytes_come_and_go_unchanged() {
    let data = noise(100 * MIB);
    let digest = Digest::of(&data);
    let place = Place::new();
    let (ca, received) = (place.ca(), place.path("received"));
    let sent = format!("@{}", place.file("sent", &data));
    let app = origin()
        .answers("/data", data)
        .handles_all(|exchange| {
            let digest = exchange.read_body()?.sha256;
            exchange.answer(200, &[], digest.as_bytes())
        })
        .start();
    let server: Atlas = atlas()
        .listens_tls("localhost")
        .listens_plain()
        .forwards_to(&app)
        .start();
    for base in [
        plain(&app, ""),
        secure(server.address().port(), ""),
        format!("http://{}", server.address_of(1)),
    ] {
        let down = format!("{base}/data");
        body(&fetch_in_little_memory(&[
            "--cacert", &ca, "-o", &received, &down,
        ]));
        assert_eq!(Digest::of(&std::fs::read(&received).unwrap()), digest);
        let up = format!("{base}/up");
        let output = fetch_in_little_memory(&["--cacert", &ca, "-X", "PUT", "-d", &sent, &up]);
        assert_eq!(body(&output), digest.as_bytes());
    }
}

#[test]
fn the_kernel_makes_the_records_where_it_can_and_is_let() {
    let data = noise(8 * MIB);
    let place = Place::new();
    let ca = place.ca();
    let sent = format!("@{}", place.file("sent", &data));
    let app = origin()
        .tls(cert(&["localhost"]))
        .answers("/data", data.clone())
        .handles_all(|exchange| {
            let digest = exchange.read_body()?.sha256;
            exchange.answer(200, &[], digest.as_bytes())
        })
        .start();
    let url = |path: &str| secure(app.port(), path);
    let can = guest::refusal_of_this_kernel().is_none();
    for (flag, in_kernel) in [("--http1.1", can), ("--no-ktls", false)] {
        let down = fetch(&["-v", flag, "--cacert", &ca, &url("/data")]);
        assert!(body(&down) == data);
        let up = fetch(&["-v", flag, "--cacert", &ca, "-X", "PUT", "-d", &sent, &url("/up")]);
        assert_eq!(body(&up), Digest::of(&data).as_bytes());
        let carried = said(&down).contains("* TLS was made by the kernel on this side: ");
        assert_eq!(carried, in_kernel, "{}", said(&down));
        if carried {
            let records = told(&down, "* TLS was made", "received");
            assert!(records >= data.len() / 16_384, "{records}");
        }
        assert_eq!(told(&down, "* received", "spliced") > data.len() / 2, in_kernel);
        assert_eq!(told(&up, "* sent", "by sendfile") == data.len(), in_kernel);
    }
    assert!(said(&fetch(&["-v", "--no-ktls", "--cacert", &ca, &url("/data")])).contains("(not_preferred)"));
}

/// The number before a word of a line that begins so.
fn told(output: &Output, line: &str, word: &str) -> usize {
    let said = said(output);
    let line = said
        .lines()
        .find(|known| known.starts_with(line))
        .unwrap_or_else(|| panic!("no {line}:\n{said}"));
    let before = line.split(word).next().unwrap().trim_end();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn long_bodies_in_clear_stay_in_the_kernel() {
    let data = noise(8 * MIB);
    let place = Place::new();
    let sent = format!("@{}", place.file("sent", &data));
    let app = origin()
        .answers("/data", data.clone())
        .sends(
            "/all",
            [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), data.clone()].concat(),
            Then::Close,
        )
        .handles_all(|exchange| {
            let digest = exchange.read_body()?.sha256;
            exchange.answer(200, &[], digest.as_bytes())
        })
        .start();
    let output = fetch(&["-v", "-X", "PUT", "-d", &sent, &plain(&app, "/up")]);
    assert_eq!(body(&output), Digest::of(&data).as_bytes());
    assert_eq!(told(&output, "* sent", "by sendfile"), data.len());
    for path in ["/data", "/all"] {
        // To a pipe, to a file, and to one that is only added to.
        let output = fetch(&["-v", &plain(&app, path)]);
        assert!(body(&output) == data);
        let spliced = told(&output, "* received", "spliced");
        assert!(spliced > data.len() / 2, "{spliced}");
        let file = place.path("received");
        let output = fetch(&["-v", "-o", &file, &plain(&app, path)]);
        assert!(body(&output).is_empty() && std::fs::read(&file).unwrap() == data);
        assert!(told(&output, "* received", "spliced") > data.len() / 2);
        let added = place.path("added");
        let line = format!("\"$1\" fetch \"$2\" >> \"{added}\"");
        let words = ["-c", &line, "sh", env!("CARGO_BIN_EXE_atlas"), &plain(&app, path)];
        assert!(command("sh", &words, b"").status.success());
        assert!(std::fs::read(&added).unwrap() == data);
        std::fs::remove_file(&added).unwrap();
    }
}
