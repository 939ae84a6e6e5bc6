//! Long bodies, spliced where the kernel has both ends and copied where it has not: the same bytes
//! and the same ends either way.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Atlas, Connection, Digest, Origin, Then, atlas, carrier, cert, noise, on_both_drivers, origin,
};

/// What is spliced at least of a body that is worth it, and not read together with its head.
const FIRST_PIECES_MAX: u64 = 200 * 1024;

/// Where bytes can go.
const PLAIN: usize = 0;
const TLS: usize = 1;

/// An Atlas with a plain listener and one with TLS.
fn in_front_of(origin: &Origin, lines: &str) -> crate::support::Builder {
    atlas()
        .listens_plain()
        .listens_tls("a.test")
        .forwards_to_with(origin, lines)
}

fn number(record: &Value, key: &str) -> u64 {
    record[key].as_u64().unwrap_or(0)
}

/// Every byte is accounted for once; whether most of them were spliced.
fn is_spliced(record: &Value) -> bool {
    let [spliced, copied] = ["bytes_spliced", "bytes_copied"].map(|key| number(record, key));
    let [incoming, outgoing] = ["bytes_in", "bytes_out"].map(|key| number(record, key));
    assert_eq!(spliced + copied, incoming + outgoing, "{record}");
    spliced > 0 && copied <= FIRST_PIECES_MAX
}

/// Whether the kernel has the bytes of the downstream connection as they are.
fn is_carried(record: &Value) -> bool {
    record["carrier"] != "process"
}

fn get(client: &mut Connection, path: &str, size: usize) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    let mut digest = Digest::new();
    let answer = client.stream_answer("GET", |piece| digest.update(piece)).unwrap();
    assert_eq!(answer.status, 200);
    assert!(
        digest.hex() == Digest::of(&noise(size)),
        "{size} bytes came otherwise"
    );
}

fn post(client: &mut Connection, path: &str, size: usize) {
    let answer = client.request("POST", path, &[], &noise(size));
    assert_eq!(answer.text(), Digest::of(&noise(size)), "{size} bytes");
}

/// Says the digest of what it was sent, and sends as many bytes as the path says.
fn echo() -> Origin {
    origin()
        .handles_all(|exchange| {
            let seen = exchange.read_body()?;
            let size = exchange.head.word(1).rsplit('/').next().unwrap().parse();
            match size {
                Ok(size) => exchange.answer(200, &[], &noise(size)),
                Err(_) => exchange.answer(200, &[], seen.sha256.as_bytes()),
            }
        })
        .start()
}

#[test]
fn they_arrive_whole_each_way_and_the_connection_goes_on() {
    on_both_drivers(|driver| {
        let origin = echo();
        let atlas = in_front_of(&origin, "").driver(driver).start();
        for listener in [PLAIN, TLS] {
            let mut client = atlas.connect_to(listener);
            for size in [1000, 65_000, 100_001, 1_000_003, 10_485_760] {
                get(&mut client, &format!("/{listener}/{size}"), size);
                post(&mut client, &format!("/{listener}/up{size}"), size);
            }
            for size in [1_000_003, 10_485_760] {
                for path in [format!("/{listener}/{size}"), format!("/{listener}/up{size}")] {
                    let record = atlas.exchange(&path);
                    assert_eq!(is_spliced(&record), is_carried(&record), "{record}");
                }
            }
            for path in [format!("/{listener}/1000"), format!("/{listener}/up1000")] {
                let record = atlas.exchange(&path);
                assert!(!is_spliced(&record), "{record}");
            }
        }
        assert!(origin.accepted() <= 2, "one connection serves them all");
    });
}

#[test]
fn what_comes_behind_one_is_the_next_request() {
    let origin = echo();
    let atlas = in_front_of(&origin, "").start();
    let body = noise(300_000);
    let mut all = b"POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 300000\r\n\r\n".to_vec();
    all.extend_from_slice(&body);
    all.extend_from_slice(b"GET /150000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    for listener in [PLAIN, TLS] {
        let mut client = atlas.connect_to(listener);
        client.send(&all);
        assert_eq!(client.answer().text(), Digest::of(&body));
        assert_eq!(Digest::of(&client.answer().body), Digest::of(&noise(150_000)));
        client.send("GET /5 HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(client.answer().body, noise(5));
    }
}

#[test]
fn one_that_ends_with_its_connection_arrives_whole() {
    let origin = origin()
        .handles("/to-the-end", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            exchange.send(noise(3_000_000))?;
            Ok(Then::Close)
        })
        .start();
    let atlas = in_front_of(&origin, "").start();
    for listener in [PLAIN, TLS] {
        for version in ["1.0", "1.1"] {
            let mut client = atlas.connect_to(listener);
            client.send(format!(
                "GET /to-the-end?{listener}{version} HTTP/{version}\r\nHost: a.test\r\n\r\n"
            ));
            let mut digest = Digest::new();
            client.stream_answer("GET", |piece| digest.update(piece)).unwrap();
            assert_eq!(digest.hex(), Digest::of(&noise(3_000_000)));
            let record = atlas.exchange(&format!("/to-the-end?{listener}{version}"));
            // In chunks nothing is spliced: each would be a pipe and two more writes.
            assert_eq!(
                number(&record, "bytes_spliced") > 1_000_000,
                is_carried(&record) && version == "1.0"
            );
        }
    }
}

#[test]
fn one_without_content_moves_nothing() {
    let origin = echo();
    let atlas = in_front_of(&origin, "").start();
    for listener in [PLAIN, TLS] {
        let mut client = atlas.connect_to(listener);
        client.send("HEAD /1000000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let answer = client.answer_to("HEAD");
        assert_eq!(answer.field("content-length"), Some("1000000"));
        get(&mut client, "/200000", 200_000);
    }
}

/// A head that promises more than comes, and what comes.
fn more_is_promised() -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    bytes.extend_from_slice(&noise(700_000));
    bytes
}

/// Sends less than it promises, and then does as told.
fn breaks_off(then: Then) -> Origin {
    origin().sends("/", more_is_promised(), then).start()
}

#[test]
fn one_that_its_origin_breaks_off_is_cut_off_and_told() {
    for (then, cause) in [(Then::Close, "closed"), (Then::Reset, "reset")] {
        let origin = breaks_off(then);
        let atlas = in_front_of(&origin, "").start();
        for listener in [PLAIN, TLS] {
            let mut client = atlas.connect_to(listener);
            client.send(format!("GET /?{listener} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
            client.head().unwrap();
            let (body, _) = client.read_to_end();
            assert!(body.len() <= 700_000);
            assert!(body == noise(700_000)[..body.len()], "what came is what was sent");
            let record = atlas.exchange(&format!("/?{listener}"));
            let told = (&record["side"], &record["phase"]);
            assert_eq!(told, (&"upstream".into(), &"response_body".into()), "{record}");
            // The kernel may have sent a FIN before the reset.
            let is_told = record["cause"] == cause || record["cause"] == "closed";
            assert!(is_told, "{record}");
            is_spliced(&record);
        }
    }
}

#[test]
fn a_client_that_goes_away_amid_one_is_told_by_name() {
    on_both_drivers(|driver| {
        let origin = echo();
        let atlas = in_front_of(&origin, "").driver(driver).start();
        for listener in [PLAIN, TLS] {
            let mut client = atlas.connect_to(listener);
            let path = format!("/{listener}/30000000");
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
            client.head().unwrap();
            client.read_exactly(2_000_000);
            client.reset();
            let record = atlas.exchange(&path);
            let told = (&record["side"], &record["cause"]);
            assert_eq!(told, (&"downstream".into(), &"reset".into()), "{record}");
            is_spliced(&record);

            let mut client = atlas.connect_to(listener);
            let path = format!("/{listener}/up");
            client.send(format!(
                "POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9000000\r\n\r\n"
            ));
            client.send(noise(2_000_000));
            client.reset();
            let record = atlas.exchange(&path);
            let told = (&record["side"], &record["phase"], &record["cause"]);
            let expected = (&"downstream".into(), &"request_body".into(), &"reset".into());
            assert_eq!(told, expected, "{record}");
        }
        assert!(
            origin
                .requests()
                .iter()
                .all(|seen| seen.head.word(0) == "GET" || !seen.whole)
        );
    });
}

/// The connection is ended in time, and its record says so.
fn ends_by(atlas: &Atlas, path: &str, side: &str, cause: &str) {
    let record = atlas.exchange(path);
    let told = (&record["side"], &record["cause"]);
    assert_eq!(told, (&side.into(), &cause.into()), "{record}");
    is_spliced(&record);
}

#[test]
fn a_client_that_stops_amid_one_meets_its_deadline() {
    let origin = echo();
    let atlas = in_front_of(&origin, "")
        .text("[timeouts]\nwrite = \"400ms\"\nbody = \"400ms\"")
        .start();
    for listener in [PLAIN, TLS] {
        let mut client = atlas.connect_to(listener);
        client.send(format!(
            "GET /{listener}/30000000 HTTP/1.1\r\nHost: a.test\r\n\r\n"
        ));
        client.head().unwrap();
        ends_by(
            &atlas,
            &format!("/{listener}/30000000"),
            "downstream",
            "timed_out",
        );

        let mut client = atlas.connect_to(listener);
        client.send(format!(
            "POST /{listener}/up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9000000\r\n\r\n"
        ));
        client.send(noise(500_000));
        assert_eq!(client.answer().status, 408);
        ends_by(&atlas, &format!("/{listener}/up"), "downstream", "timed_out");
    }
}

#[test]
fn an_origin_that_stops_amid_one_meets_its_deadline() {
    let promises_more = more_is_promised();
    let (tell, told) = mpsc::channel();
    let told = Mutex::new(told);
    let origin = origin()
        .handles("/", move |exchange| {
            // Silent for longer than Atlas waits, and open.
            if exchange.head.word(0) == "GET" {
                exchange.send(&promises_more)?;
                exchange.wait_for_close();
            } else {
                let _ = told.lock().unwrap().recv_timeout(Duration::from_secs(60));
            }
            Ok(Then::Close)
        })
        .start();
    let atlas = in_front_of(&origin, "idle_timeout = \"3s\"").start();
    for listener in [PLAIN, TLS] {
        let mut client = atlas.connect_to(listener);
        client.send(format!("GET /?down{listener} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        client.head().unwrap();
        let (body, _) = client.read_to_end();
        assert!(body == noise(700_000), "{}", body.len());
        ends_by(&atlas, &format!("/?down{listener}"), "upstream", "timed_out");

        // What it does not read stands in pipes and sockets; the client meets Atlas's deadline.
        let mut client = atlas.connect_to(listener);
        client.send(format!(
            "POST /?up{listener} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 90000000\r\n\r\n"
        ));
        let piece = noise(1_000_000);
        while client.try_send(&piece).is_ok() {}
        ends_by(&atlas, &format!("/?up{listener}"), "upstream", "timed_out");
        tell.send(()).unwrap();
    }
}

#[test]
fn one_that_comes_slower_than_the_least_rate_is_ended() {
    let origin = echo();
    let atlas = in_front_of(&origin, "")
        .text("[limits]\nmin_rate = \"100KiB\"")
        .start();
    let mut client = atlas.connect_to(PLAIN);
    client.send("POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9000000\r\n\r\n");
    client.send(noise(100_000));
    while client.try_send([7; 1000]).is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    ends_by(&atlas, "/slow", "downstream", "too_slow");
}

#[test]
fn endpoints_that_speak_tls_or_lie_on_this_machine_get_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let unix = folder.path().join("origin");
    for (origin, lines) in [
        (origin().on_unix(&unix), ""),
        (origin().tls(cert(&["localhost"])), "tls = { verify = false }"),
    ] {
        let origin = origin
            .handles_all(|exchange| {
                let seen = exchange.read_body()?;
                match exchange.head.word(0) {
                    "GET" => exchange.answer(200, &[], &noise(2_000_000)),
                    _ => exchange.answer(200, &[], seen.sha256.as_bytes()),
                }
            })
            .start();
        let atlas = in_front_of(&origin, lines).start();
        for listener in [PLAIN, TLS] {
            let mut client = atlas.connect_to(listener);
            get(&mut client, "/", 2_000_000);
            post(&mut client, "/", 2_000_000);
            let (down, up) = (format!("/{listener}"), format!("/{listener}/up"));
            get(&mut client, &down, 2_000_000);
            post(&mut client, &up, 2_000_000);
            let is_upstream_carried =
                lines.is_empty() || carrier::expected(carrier::lines(), true).0 == "kernel";
            for path in [down, up] {
                let record = atlas.exchange(&path);
                let both_are = is_carried(&record) && is_upstream_carried;
                assert_eq!(is_spliced(&record), both_are, "{record}");
            }
        }
    }
}

/// Serves a folder to plain and TLS clients.
fn serves(folder: &std::path::Path) -> crate::support::Builder {
    let folder = folder.display();
    atlas()
        .listens_plain()
        .listens_tls("a.test")
        .text(&format!("[[route]]\nfiles = \"{folder}\""))
}

const FILE: usize = 10_485_763;

#[test]
fn files_go_straight_to_their_client() {
    // Memory is a file system that does not say what is in memory.
    let folders = [
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    ];
    let bytes = noise(FILE);
    for folder in folders {
        std::fs::write(folder.path().join("big"), &bytes).unwrap();
        std::fs::write(folder.path().join("small"), &bytes[..400_000]).unwrap();
        on_both_drivers(|driver| {
            let atlas = serves(folder.path()).driver(driver).start();
            for listener in [PLAIN, TLS] {
                let mut client = atlas.connect_to(listener);
                for round in 0..2 {
                    let path = format!("/big?{listener}{round}");
                    get(&mut client, &path, FILE);
                    let record = atlas.exchange(&path);
                    let sent = number(&record, "bytes_sendfile");
                    assert_eq!(sent + number(&record, "bytes_copied"), FILE as u64, "{record}");
                    assert_eq!(sent == FILE as u64 - 8192, is_carried(&record), "{record}");
                }
                get(&mut client, "/small", 400_000);
                client.send("HEAD /big HTTP/1.1\r\nHost: a.test\r\n\r\n");
                assert_eq!(client.answer_to("HEAD").field("content-length"), Some("10485763"));
            }
            assert_eq!(number(&atlas.exchange("/small"), "bytes_sendfile"), 0);
        });
    }
}

#[test]
fn ranges_of_files_go_straight_too() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(FILE);
    std::fs::write(folder.path().join("big"), &bytes).unwrap();
    let atlas = serves(folder.path()).start();
    for listener in [PLAIN, TLS] {
        let mut client = atlas.connect_to(listener);
        let etag = {
            client.send("HEAD /big HTTP/1.1\r\nHost: a.test\r\n\r\n");
            client.answer_to("HEAD").field("etag").unwrap().to_owned()
        };
        for (range, part) in [
            ("bytes=3-", 3..FILE),
            ("bytes=1000001-9000000", 1_000_001..9_000_001),
            ("bytes=5-100", 5..101),
            ("bytes=-1700000", FILE - 1_700_000..FILE),
        ] {
            let answer = client.request("GET", "/big", &[("Range", range), ("If-Range", &etag)], b"");
            assert_eq!(answer.status, 206);
            assert!(answer.body == bytes[part], "{range}");
        }
        let answer = client.request(
            "GET",
            "/big",
            &[("Range", "bytes=0-9"), ("If-Range", "\"x\"")],
            b"",
        );
        assert_eq!((answer.status, answer.body.len()), (200, FILE));
        let answer = client.request(
            "GET",
            "/big",
            &[("Range", "bytes=0-99,500000-4000000,9000000-")],
            b"",
        );
        let parts: Vec<_> = [0..100, 500_000..4_000_001, 9_000_000..FILE]
            .into_iter()
            .map(|part| memchr::memmem::find(&answer.body, &bytes[part]))
            .collect();
        assert!(
            parts.is_sorted() && parts.iter().all(Option::is_some),
            "{parts:?}"
        );
        assert!(answer.body.ends_with(b"--\r\n"));
        get(&mut client, "/big", FILE);
    }
}

#[test]
fn a_file_that_changes_while_it_goes_does_not_look_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    let atlas = serves(folder.path()).start();
    for listener in [PLAIN, TLS] {
        for change in ["shrinks", "is-written-to"] {
            std::fs::write(&path, vec![b'x'; 30_000_000]).unwrap();
            let mut client = atlas.connect_to(listener);
            let asked = format!("/big?{listener}{change}");
            client.send(format!("GET {asked} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
            assert_eq!(client.head().unwrap().word(1), "200");
            let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            match change {
                "shrinks" => file.set_len(1_000_000).unwrap(),
                _ => std::io::Write::write_all(&mut file, b"y").unwrap(),
            }
            let (rest, _) = client.read_to_end();
            assert!(rest.len() < 30_000_000, "a whole body was made up");
            let record = atlas.exchange(&asked);
            assert_eq!(record["cause"], "file_changed", "{record}");
        }
    }
}

#[test]
fn a_client_that_does_not_take_a_file_meets_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("big"), vec![7; 50_000_000]).unwrap();
    let atlas = serves(folder.path())
        .text("[timeouts]\nwrite = \"400ms\"")
        .start();
    for listener in [PLAIN, TLS] {
        let mut client = atlas.connect_to(listener);
        client.send(format!("GET /big?{listener} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        client.head().unwrap();
        let record = atlas.exchange(&format!("/big?{listener}"));
        let told = (&record["side"], &record["cause"]);
        assert_eq!(told, (&"downstream".into(), &"timed_out".into()), "{record}");
    }
}
