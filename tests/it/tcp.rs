//! TCP mode: bytes both ways, half-close kept, an idle deadline.

use std::io::{Read, Write};
use std::time::Duration;

use crate::support::{Builder, Ending, Origin, atlas, noise, origin, wait_until};

fn relays(origin: &Origin, tls: bool) -> Builder {
    let lines = "mode = \"tcp\"\nupstream = \"app\"";
    let builder = match tls {
        true => atlas().certificate("a.test", crate::support::cert(&["a.test"])),
        false => atlas(),
    };
    builder
        .listener(tls, lines)
        .upstream("app", &[origin.address()], "")
}

/// Sends everything back, and closes its direction behind the peer's end.
fn echo() -> Origin {
    origin()
        .raw(|mut stream| {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count) = stream.read(&mut buffer) {
                if count == 0 || stream.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            stream.finish();
        })
        .start()
}

#[test]
fn bytes_go_both_ways() {
    let origin = echo();
    for tls in [false, true] {
        let atlas = relays(&origin, tls).start();
        let mut client = atlas.connect();
        for text in ["hello", "\0\r\n\x7f", "again"] {
            client.send(text);
            assert_eq!(client.read_exactly(text.len()), text.as_bytes());
        }
        client.finish();
        assert_eq!(client.ends().0, Ending::Closed);
        let record = atlas.record("its connection", |record| record["kind"] == "connection");
        assert_eq!(record["cause"], "finished", "{record}");
    }
}

#[test]
fn the_origin_may_speak_first() {
    let origin = origin()
        .raw(|mut stream| {
            let _ = stream.write_all(b"220 welcome\r\n");
            stream.finish();
        })
        .start();
    for tls in [false, true] {
        let atlas = relays(&origin, tls).start();
        let mut client = atlas.connect();
        assert_eq!(client.read_exactly(13), b"220 welcome\r\n");
        client.finish();
        assert_eq!(client.ends().0, Ending::Closed);
    }
}

#[test]
fn a_half_close_of_the_client_is_kept() {
    let origin = origin()
        .raw(|mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("an end in order");
            let _ = stream.write_all(format!("{} bytes", all.len()).as_bytes());
            stream.finish();
        })
        .start();
    for tls in [false, true] {
        let atlas = relays(&origin, tls).start();
        let mut client = atlas.connect();
        client.send(vec![b'x'; 100_000]);
        client.finish();
        assert_eq!(client.read_to_end(), (b"100000 bytes".to_vec(), Ending::Closed));
    }
}

#[test]
fn a_half_close_of_the_origin_is_kept() {
    let origin = origin()
        .raw(|mut stream| {
            let _ = stream.write_all(b"that is all");
            let _ = stream.tcp().shutdown(std::net::Shutdown::Write);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert_eq!(rest, b"but I go on");
        })
        .start();
    let atlas = relays(&origin, false).start();
    let mut client = atlas.connect();
    assert_eq!(client.read_to_end(), (b"that is all".to_vec(), Ending::Closed));
    client.send("but I go on");
    client.finish();
    wait_until("the origin has all", || (origin.open() == 0).then_some(()));
    let record = atlas.record("its connection", |record| record["kind"] == "connection");
    assert_eq!(record["bytes_in"], 11, "{record}");
}

#[test]
fn sixty_four_mebibytes_come_back_unchanged() {
    let origin = echo();
    let bytes = noise(64 * 1024 * 1024);
    let atlas = relays(&origin, false).start();
    let client = atlas.connect();
    let (mut up, mut down) = (
        client.tcp().try_clone().unwrap(),
        client.tcp().try_clone().unwrap(),
    );
    let back = std::thread::scope(|scope| {
        scope.spawn(|| {
            up.write_all(&bytes).unwrap();
            up.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut back = Vec::with_capacity(bytes.len());
        down.read_to_end(&mut back).unwrap();
        back
    });
    assert!(back == bytes, "{} of {} bytes", back.len(), bytes.len());
    assert!(
        atlas.memory_peak_kib() < 64 * 1024,
        "{} KiB",
        atlas.memory_peak_kib()
    );
}

#[test]
fn sixty_four_mebibytes_go_each_way_inside_tls() {
    let size = 64 * 1024 * 1024;
    let origin = origin()
        .raw(move |mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("an end in order");
            let _ = stream.write_all(&all);
            stream.finish();
        })
        .start();
    let bytes = noise(size);
    let atlas = relays(&origin, true).start();
    let mut client = atlas.connect();
    client.send(&bytes);
    client.finish();
    let (back, ending) = client.read_to_end();
    assert!(back == bytes, "{} of {} bytes", back.len(), bytes.len());
    assert_eq!(ending, Ending::Closed);
    assert!(
        atlas.memory_peak_kib() < 64 * 1024,
        "{} KiB",
        atlas.memory_peak_kib()
    );
}

#[test]
fn an_idle_relay_ends() {
    let origin = echo();
    let lines = "mode = \"tcp\"\nupstream = \"app\"";
    let atlas = atlas()
        .listener(false, lines)
        .upstream("app", &[origin.address()], "idle_timeout = \"6s\"")
        .start();
    let mut client = atlas.connect();
    for _ in 0..13 {
        // Less than it may be idle, and in all more.
        std::thread::sleep(Duration::from_millis(500));
        client.send("x");
        assert_eq!(client.read_exactly(1), b"x", "traffic keeps it open");
    }
    let (rest, _) = client.read_to_end();
    assert!(rest.is_empty());
    wait_until("the origin's side ends too", || {
        (origin.open() == 0).then_some(())
    });
    let record = atlas.record("its connection", |record| record["kind"] == "connection");
    assert!(
        ["idle", "timed_out"].contains(&record["cause"].as_str().unwrap()),
        "{record}"
    );
}

#[test]
fn a_dead_origin_closes_the_client() {
    let dead = format!("127.0.0.1:{}", crate::support::free_port());
    let atlas = atlas()
        .expects_log("cannot connect")
        .listener(false, "mode = \"tcp\"\nupstream = \"app\"")
        .upstream("app", &[&dead], "")
        .expects_log("cannot connect")
        .start();
    // It may be reset before it knows that it was accepted.
    if let Ok(mut client) = atlas.try_connect_to(0) {
        client.read_to_end();
    }
    let record = atlas.record("its connection", |record| record["kind"] == "connection");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"upstream".into(), &"refused".into()),
        "{record}"
    );
}

#[test]
fn a_reset_of_the_client_reaches_the_origin() {
    let origin = echo();
    let atlas = relays(&origin, true).start();
    let mut client = atlas.connect();
    client.send("x");
    client.read_exactly(1);
    client.reset();
    wait_until("the origin's side ends", || (origin.open() == 0).then_some(()));
    let record = atlas.record("its connection", |record| record["kind"] == "connection");
    assert_eq!(record["side"], "downstream", "{record}");
}

#[test]
fn a_unix_endpoint_is_relayed_to() {
    let folder = tempfile::tempdir().unwrap();
    let origin = origin()
        .on_unix(folder.path().join("echo.sock"))
        .raw(|mut stream| {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
            let _ = stream.write_all(&all);
            stream.finish();
        })
        .start();
    let atlas = relays(&origin, true).start();
    let mut client = atlas.connect();
    client.send("by unix");
    client.finish();
    assert_eq!(client.read_to_end(), (b"by unix".to_vec(), Ending::Closed));
}
