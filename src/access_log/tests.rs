//! Hostile bytes, full pipes and renamed files.

use std::cell::Cell;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use super::*;
use crate::metrics::{Counters, Facts, Process};
use crate::outcome::{Carriage, Carrier, Cause, End, Phase, Refusal, Side};
use crate::time::{Deadline, now, wall};

const GOOD: End = End::finished(Side::Downstream);

fn facts() -> Rc<ConnectionFacts> {
    Rc::new(ConnectionFacts {
        worker: 1,
        listener: Arc::from("web"),
        listener_index: 0,
        client: Some("192.0.2.7:4711".parse().unwrap()),
        peer: Some("10.0.0.1:80".parse().unwrap()),
        local: None,
        server_name: Some("a.test".to_owned()),
        tls_version: Some("TLSv1.3"),
        cipher: Some("TLS_AES_128_GCM_SHA256"),
        alpn: Some("http/1.1".to_owned()),
        resumed: true,
        carriage: Rc::new(Carriage::new(Carrier::Process(Refusal::NoUlp))),
        streams_refused: Cell::default(),
        driver: Rc::from("epoll (asked for)"),
    })
}

fn plain(client: Option<&str>) -> Rc<ConnectionFacts> {
    let client = client.map(|client| client.parse().unwrap());
    Rc::new(ConnectionFacts {
        client,
        peer: client,
        server_name: None,
        tls_version: None,
        cipher: None,
        alpn: None,
        resumed: false,
        carriage: Rc::new(Carriage::new(Carrier::None)),
        ..(*facts()).clone()
    })
}

fn get(path: &str) -> RequestFacts<'_> {
    RequestFacts {
        request: Request::Parsed {
            method: "GET",
            path,
            protocol: "HTTP/1.1",
        },
        ..RequestFacts::refused(b"")
    }
}

/// A log with its writer, and what it has counted.
struct Bench {
    folder: Rc<tempfile::TempDir>,
    path: PathBuf,
    writer: Writer,
    log: Log,
    counters: Arc<Counters>,
    process: Arc<Process>,
}

fn bench(format: Format) -> Bench {
    bench_with(format, |_| ())
}

fn bench_with(format: Format, prepare: impl FnOnce(&Path)) -> Bench {
    bench_with_queue(format, 4, prepare)
}

fn bench_with_queue(format: Format, batches_max: usize, prepare: impl FnOnce(&Path)) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    prepare(&path);
    let settings = Settings {
        enabled: true,
        format,
        path: Some(path.clone()),
    };
    let process = Arc::new(Process::default());
    let counters = Arc::new(Counters::new());
    let writer = Writer::start(Target::of(&settings), batches_max, process.clone()).unwrap();
    let log = Log::new(&settings, writer.sender(), counters.clone());
    Bench {
        folder: Rc::new(folder),
        path,
        writer,
        log,
        counters,
        process,
    }
}

impl Bench {
    fn exchange(
        &self,
        facts: &Rc<ConnectionFacts>,
        status: Option<u16>,
        request: &RequestFacts<'_>,
        end: End,
    ) {
        let mut record = ExchangeRecord::start(facts.clone(), now());
        record.status = status;
        record.bytes_out = 612;
        record.finish(end, request, &self.log);
    }

    fn written(self) -> String {
        drop(self.log);
        assert_eq!(
            self.writer.finish(Deadline::within(Duration::from_secs(5))),
            Some(0)
        );
        fs::read_to_string(self.path).unwrap()
    }

    fn dropped(&self) -> u64 {
        dropped_of(&self.counters, &self.process)
    }
}

fn dropped_of(counters: &Arc<Counters>, process: &Process) -> u64 {
    let facts = Facts::of_nothing();
    let text = crate::metrics::text(std::slice::from_ref(counters), process, &facts, wall());
    let line = text
        .lines()
        .find(|line| line.starts_with("atlas_log_lines_dropped_total{log=\"access\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap()
}

/// A line of the combined format without its date.
fn undated(line: &str) -> String {
    let (before, rest) = line.split_once('[').unwrap();
    let (date, after) = rest.split_once(']').unwrap();
    assert_eq!(date.len(), "20/Nov/2026:12:53:57 +0000".len());
    format!("{before}[]{after}")
}

#[test]
fn combined_lines_are_those_of_nginx() {
    let gone = End::new(Side::Downstream, Phase::Response, Cause::Reset);
    let slow = End::new(Side::Downstream, Phase::Request, Cause::TimedOut);
    let hostile = RequestFacts {
        referer: Some(b"\"\\\x00\n\x7f\xff"),
        user_agent: Some(b""),
        ..get("/a?b=\"c\"")
    };
    let cases = [
        (
            facts(),
            Some(200),
            get("/x?y=1"),
            GOOD,
            r#"192.0.2.7 - - [] "GET /x?y=1 HTTP/1.1" 200 612 "-" "-""#,
        ),
        (
            facts(),
            Some(404),
            hostile,
            GOOD,
            r#"192.0.2.7 - - [] "GET /a?b=\x22c\x22 HTTP/1.1" 404 612 "\x22\x5C\x00\x0A\x7F\xFF" """#,
        ),
        (
            plain(Some("[2001:db8::1]:5")),
            Some(499),
            get("/"),
            gone,
            r#"2001:db8::1 - - [] "GET / HTTP/1.1" 499 612 "-" "-""#,
        ),
        (
            plain(Some("[::ffff:192.0.2.1]:5")),
            Some(400),
            RequestFacts::refused(b"\x16\x03\x01"),
            GOOD,
            r#"192.0.2.1 - - [] "\x16\x03\x01" 400 612 "-" "-""#,
        ),
        (
            plain(None),
            None,
            RequestFacts::refused(b""),
            slow,
            r#"unix: - - [] "" 000 612 "-" "-""#,
        ),
    ];
    let bench = bench(Format::Combined);
    for (facts, status, request, end, _) in &cases {
        bench.exchange(facts, *status, request, *end);
    }
    ConnectionRecord::start(now()).finish(GOOD, &facts(), &bench.log); // no place in this format
    let written = bench.written();
    let lines: Vec<_> = written.lines().map(undated).collect();
    let expected: Vec<_> = cases.iter().map(|case| case.4).collect();
    assert_eq!(lines, expected);
}

#[test]
fn json_has_the_keys_that_apply_and_no_others() {
    let bench = bench(Format::Json);
    let endpoint = "127.0.0.1:8080".parse::<std::net::SocketAddr>().unwrap();
    let mut record = ExchangeRecord::start(facts(), now());
    record.status = Some(200);
    record.bytes_in = 5;
    record.bytes_out = 7;
    record.moved.copied = 12;
    record.upstream = Some(Arc::from("app"));
    record.upstream_carrier = Carrier::Process(Refusal::Cipher);
    record.attempts = 2;
    let request = RequestFacts {
        host: Some("a.test"),
        endpoint: Some(&endpoint),
        request_id: Some("0123abcd"),
        ..get("/x?y=1")
    };
    record.finish(End::finished(Side::Downstream), &request, &bench.log);
    ConnectionRecord::start(now()).finish(GOOD, &plain(Some("192.0.2.7:1")), &bench.log);
    let written = bench.written();
    let records: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        keys(&records[0]),
        "alpn attempts bytes_copied bytes_in bytes_out carrier cause cipher client duration_ms endpoint host kind \
         listener method path peer phase protocol refusal request_id resumed server_name side status time \
         tls_version upstream upstream_carrier upstream_refusal worker"
    );
    assert_eq!(records[0]["upstream_refusal"], "cipher");
    assert_eq!(records[0]["endpoint"], "127.0.0.1:8080");
    assert_eq!(records[0]["path"], "/x?y=1");
    assert_eq!(records[0]["refusal"], "no_ulp");
    assert_eq!(records[0]["resumed"], true);
    let time = records[0]["time"].as_str().unwrap();
    assert!(
        time.parse::<jiff::Timestamp>().is_ok() && time.len() == 24,
        "{time}"
    );
    assert_eq!(
        keys(&records[1]),
        "bytes_in bytes_out carrier cause client duration_ms kind listener phase side time worker"
    );
}

fn keys(record: &Value) -> String {
    let mut keys: Vec<_> = record.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    keys.join(" ")
}

#[test]
fn a_json_line_parses_whatever_the_bytes() {
    let bench = bench_with_queue(Format::Json, 1024, |_| ());
    fastrand::seed(7);
    let mut values: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    values.extend((0..500).map(|_| {
        let length = fastrand::usize(0..60);
        (0..length).map(|_| fastrand::u8(..)).collect()
    }));
    values.push("ü\u{2028}\u{1f600}\u{9b}2J".as_bytes().to_vec());
    values.push(vec![0; 100_000]);
    for value in &values {
        let text = String::from_utf8_lossy(value);
        let request = RequestFacts {
            referer: Some(value),
            user_agent: Some(value),
            endpoint: Some(&text),
            ..RequestFacts::refused(value)
        };
        bench.exchange(&facts(), Some(400), &request, GOOD);
    }
    assert_eq!(bench.dropped(), 0);
    let written = bench.written();
    let mut count = 0;
    for (line, value) in written.lines().zip(&values) {
        assert!(!line.contains(char::is_control), "{line:?}");
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if value.len() < 100 {
            assert_eq!(record["referer"], *String::from_utf8_lossy(value));
        }
        count += 1;
    }
    assert_eq!(count, values.len());
}

#[test]
fn what_a_stuck_reader_costs_is_counted_and_bounded() {
    let mut reader = None;
    let bench = bench_with(Format::Json, |path| reader = Some(fifo(path)));
    for _ in 0..4000 {
        bench.exchange(&facts(), Some(200), &get(&"x".repeat(200)), GOOD);
    }
    let dropped = bench.dropped();
    assert!((1..4000).contains(&dropped), "{dropped}");
    // The end does not wait for the reader either, and what was handed over is counted as lost.
    let begun = now();
    let Bench {
        log,
        writer,
        counters,
        process,
        folder,
        path,
    } = bench;
    drop(log);
    let lost = writer.finish(Deadline::within(Duration::from_millis(100)));
    assert!(lost.is_some());
    assert!(now() - begun < Duration::from_secs(20));
    let counted = dropped_of(&counters, &process);
    assert!(counted > dropped && counted <= 4000, "{counted} after {dropped}");
    drop((folder, path));
    drop(reader);
}

/// A FIFO whose reader never reads.
fn fifo(path: &Path) -> OwnedFd {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap()
}

#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let mut reader = None;
    let bench = bench_with(Format::Json, |path| reader = Some(fifo(path)));
    drop(reader);
    bench.exchange(&facts(), Some(200), &get("/"), GOOD);
    bench.log.flush();
    wait_until(|| bench.dropped() == 1);
}

#[test]
fn a_renamed_log_is_opened_anew_when_told() {
    let bench = bench(Format::Combined);
    let _folder = bench.folder.clone();
    let old = bench.path.with_extension("1");
    bench.exchange(&facts(), Some(201), &get("/"), GOOD);
    bench.log.flush();
    wait_until(|| fs::read_to_string(&bench.path).is_ok_and(|text| text.contains(" 201 ")));
    fs::rename(&bench.path, &old).unwrap();
    bench.writer.reopen();
    wait_until(|| bench.path.exists());
    bench.exchange(&facts(), Some(202), &get("/"), GOOD);
    assert!(bench.written().contains(" 202 "));
    assert!(!fs::read_to_string(old).unwrap().contains(" 202 "));
}

#[test]
fn another_path_and_format_are_taken_while_it_runs() {
    let bench = bench(Format::Combined);
    let _folder = bench.folder.clone();
    let other = bench.path.with_extension("json");
    assert!(Target::File("/does/not/exist".into()).open().is_err());
    bench.writer.set(Target::File(other.clone()).open().unwrap());
    bench.log.set(&Settings {
        enabled: true,
        format: Format::Json,
        path: Some(other.clone()),
    });
    bench.exchange(&facts(), Some(200), &get("/"), GOOD);
    assert_eq!(bench.written(), "");
    let text = fs::read_to_string(other).unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
}

#[test]
fn nothing_is_written_when_it_is_not_wanted() {
    let bench = bench(Format::Json);
    bench.log.set(&Settings {
        enabled: false,
        format: Format::Json,
        path: None,
    });
    bench.exchange(&facts(), Some(200), &get("/"), GOOD);
    assert_eq!(bench.written(), "");
}

#[test]
fn a_panic_knows_its_connection_and_nobody_elses() {
    use futures_util::FutureExt;
    let inside = on_behalf_of(facts(), async { current().map(|facts| facts.worker) });
    assert_eq!(inside.now_or_never(), Some(Some(1)));
    assert!(current().is_none());
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Deadline::within(Duration::from_secs(5));
    while !condition() {
        assert!(!deadline.passed(now()), "waited in vain");
        std::thread::yield_now();
    }
}

#[test]
fn every_key_of_a_record_is_documented() {
    let document = include_str!("../../docs/operation.md");
    let source = include_str!("format.rs");
    for call in [
        "text",
        "text_if",
        "number",
        "number_if",
        "duration",
        "address",
        "key",
    ] {
        for rest in source.split(&format!(".{call}(\"")).skip(1) {
            let key = rest.split('"').next().unwrap();
            assert!(
                document.contains(&format!("`{key}`")),
                "no `{key}` in docs/operation.md"
            );
        }
    }
}

#[test]
fn key_updates_are_told_where_there_were_any() {
    let bench = bench(Format::Json);
    let facts = facts();
    facts.carriage.carrier.set(Carrier::Kernel);
    facts.carriage.key_updates_received.set(2);
    facts.carriage.records_sent.set(30);
    let mut record = ConnectionRecord::start(now());
    record.moved = Moved {
        spliced: 7,
        sendfile: 8,
        copied: 9,
    };
    record.finish(GOOD, &facts, &bench.log);
    let record: Value = serde_json::from_str(&bench.written()).unwrap();
    assert_eq!(record["carrier"], "kernel");
    assert_eq!(record["refusal"], Value::Null);
    assert_eq!(record["key_updates_received"], 2);
    assert_eq!(record["key_updates_sent"], Value::Null);
    assert_eq!(record["records_received"], Value::Null);
    assert_eq!(record["records_sent"], 30);
    for (key, count) in [("bytes_spliced", 7), ("bytes_sendfile", 8), ("bytes_copied", 9)] {
        assert_eq!(record[key], count, "{key}");
    }
}
