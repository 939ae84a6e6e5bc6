//! One record for every connection and every exchange, in the format that was asked for.

use rustix::process::Signal;

use crate::support::{Then, atlas, carrier, origin, wait_until};

#[test]
fn an_exchange_leaves_a_record_with_all_there_is_to_say() {
    let origin = origin().answers("/path", "hello").start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.request("POST", "/path?query=1", &[("User-Agent", "it")], b"12345");
    client.finish();
    client.ends();
    let record = atlas.record("the exchange", |record| record["kind"] == "exchange");
    let (carrier, refusal) = carrier::expected(carrier::lines(), false);
    for (key, value) in [
        ("server_name", "a.test"),
        ("alpn", ""),
        ("carrier", carrier),
        ("refusal", refusal.unwrap_or_default()),
        ("method", "POST"),
        ("host", "a.test"),
        ("upstream", "app"),
        ("endpoint", origin.address()),
        ("cause", "finished"),
    ] {
        if value.is_empty() {
            assert!(record.get(key).is_none(), "{key} does not apply: {record}");
        } else {
            assert_eq!(record[key], value, "{key}: {record}");
        }
    }
    for (key, value) in [
        ("status", 200),
        ("bytes_in", 5),
        ("bytes_out", 5),
        ("attempts", 1),
    ] {
        assert_eq!(record[key], value, "{key}: {record}");
    }
    for key in [
        "time",
        "worker",
        "listener",
        "client",
        "tls_version",
        "cipher",
        "duration_ms",
        "request_id",
        "side",
        "phase",
    ] {
        assert!(record.get(key).is_some(), "no {key}: {record}");
    }
    let connection = atlas.record("the connection", |record| record["kind"] == "connection");
    for key in [
        "time",
        "worker",
        "listener",
        "client",
        "server_name",
        "tls_version",
        "bytes_in",
        "bytes_out",
        "duration_ms",
        "side",
        "phase",
        "cause",
    ] {
        assert!(connection.get(key).is_some(), "no {key}: {connection}");
    }
    assert!(
        connection.get("status").is_none() && connection.get("path").is_none(),
        "{connection}"
    );
}

#[test]
fn every_exchange_leaves_exactly_one_record() {
    let origin = origin()
        .sends(
            "/cut",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
            Then::Close,
        )
        .start();
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\npath = \"/said\"\nrespond = 204")
        .text("[[route]]\npath = \"/moved\"\nredirect = \"https://a.test/\"")
        .text("[[route]]\npath = \"/file\"\nfiles = \"{folder}\"")
        .forwards_to(&origin)
        .start();
    let mut count = 0;
    for path in ["/said", "/moved", "/file/none", "/fine", "/cut"] {
        let mut client = atlas.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let _ = client.try_answer();
        count += 1;
    }
    assert_eq!(atlas.send("BAD\r\n\r\n").status, 400);
    count += 1;
    wait_until("all records are there", || {
        let is_exchange = |record: &&serde_json::Value| record["kind"] == "exchange";
        (atlas.records().iter().filter(is_exchange).count() >= count).then_some(())
    });
    // A record too many would be written by now: nothing is, after the end.
    assert_eq!(atlas.stop(), 0);
    let records = atlas.records();
    let exchanges: Vec<_> = records
        .iter()
        .filter(|record| record["kind"] == "exchange")
        .collect();
    assert_eq!(exchanges.len(), count, "{exchanges:#?}");
}

#[test]
fn the_combined_format_is_the_one_tools_read() {
    let origin = origin().answers("/path", "hello").start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&origin)
        .log_format("combined")
        .start();
    atlas.connect().request(
        "GET",
        "/path?q=1",
        &[("User-Agent", "it \"quoted\" \\"), ("Referer", "http://b.test/")],
        b"",
    );
    let line = wait_until("the line is there", || atlas.access_log().into_iter().next());
    // 127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET /path?q=1 HTTP/1.1" 200 5 "http://b.test/" "it …"
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(
        line.contains("] \"GET /path?q=1 HTTP/1.1\" 200 5 \"http://b.test/\" \""),
        "{line}"
    );
    let agent = line.rsplit("http://b.test/\" \"").next().unwrap();
    assert!(
        agent.ends_with('"') && !agent.trim_end_matches('"').contains(" \"q"),
        "quotes are escaped: {line}"
    );
}

#[test]
fn what_a_client_sends_cannot_forge_a_line() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&origin)
        .log_format("combined")
        .start();
    atlas.send(b"GET /a%0ab HTTP/1.1\r\nHost: a.test\r\nUser-Agent: \xff\xfe\t\"\r\n\r\n");
    atlas.send(b"G\x01T /\x1b[31m HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_until("two lines are there", || {
        (atlas.access_log().len() == 2).then_some(())
    });
    for line in atlas.access_log() {
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
        assert!(line.starts_with("127.0.0.1 - - ["), "{line:?}");
    }
}

#[test]
fn the_file_is_opened_again_on_usr1() {
    let origin = origin().start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    atlas.get("/before");
    atlas.exchange("/before");
    let (current, rotated) = (
        atlas.folder().join("access.log"),
        atlas.folder().join("access.log.1"),
    );
    std::fs::rename(&current, &rotated).unwrap();
    atlas.signal(Signal::USR1);
    wait_until("it is there again", || current.exists().then_some(()));
    atlas.get("/after");
    atlas.exchange("/after");
    let old = std::fs::read_to_string(rotated).unwrap();
    assert!(old.contains("/before") && !old.contains("/after"));
}

#[test]
fn records_go_to_standard_output_too() {
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nrespond = 204\n[access_log]\nformat = \"json\"\npath = \"-\"")
        .start();
    atlas.get("/said");
    let line = wait_until("the line is there", || {
        atlas.output().into_iter().find(|line| line.contains("/said"))
    });
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["status"], 204);
}

#[test]
fn a_log_that_is_off_is_not_written() {
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nrespond = 204\n[access_log]\nenabled = false\npath = \"{folder}/access.log\"")
        .start();
    atlas.get("/");
    atlas.get("/");
    assert_eq!(atlas.stop(), 0);
    assert!(atlas.access_log().is_empty() && atlas.output().is_empty());
}

#[test]
fn nothing_is_lost_at_the_end() {
    let atlas = atlas().listens_plain().text("[[route]]\nrespond = 204").start();
    let mut client = atlas.connect();
    for number in 0..500 {
        client.get(&format!("/{number}"));
    }
    client.finish();
    assert_eq!(atlas.stop(), 0);
    let records = atlas.records();
    assert_eq!(
        records
            .iter()
            .filter(|record| record["kind"] == "exchange")
            .count(),
        500
    );
}
