//! A kernel that begins to refuse keys after it was found to take them: who is lost ends by name, and after
//! three the others stay in this process.

/// They need a kernel that is found to take keys.
mod kernel_tls {
    use std::thread;

    use crate::guest;
    use crate::support::{Atlas, Builder, Connection, Denied, Origin, atlas, ca, cert, origin, wait_until};

    const LARGE: usize = 512 << 10;

    /// So many lost connections in a row are enough.
    const LOST: usize = 3;

    /// Runs a test with programs that find a kernel with TLS, whose keys are refused to later sockets.
    fn where_keys_are_refused(test: fn()) {
        if guest::refusal_of_this_kernel().is_some() {
            eprintln!("skipped: this kernel has no TLS");
            return;
        }
        // What a thread may not do, those may not that it starts.
        let testing = thread::spawn(move || {
            Denied::keys_of_later_sockets().deny();
            test();
        });
        testing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    /// With a listener whose connections move when they are to carry this much; all of them are later sockets.
    fn that_moves_from(threshold: &str) -> (Atlas, impl Sized) {
        let atlas = atlas()
            .top("workers = 1")
            .listens_tls("a.test")
            .listens_plain()
            .tls_lines(&format!("ktls_threshold = \"{threshold}\""))
            .file("site/large", vec![b'l'; LARGE])
            .text("[[route]]\nfiles = \"site\"\n[[route]]\npath = \"/idle\"\nrespond = 204")
            .text("[timeouts]\nidle = \"5m\"")
            .expects_log("the kernel refused a connection's keys")
            .expects_log("the kernel keeps refusing the keys of connections")
            .start();
        assert_eq!(atlas.metric("atlas_kernel_tls_info", &["usable=\"yes\""]), 1.0);
        // One after the other, so that none of the lower descriptors is left free.
        let idle = (0..Denied::LATER).map(|_| {
            let mut client = atlas.connect_to(1);
            assert_eq!(client.get("/idle").status, 204);
            client
        });
        let idle: Vec<_> = idle.collect();
        (atlas, idle)
    }

    /// Clients that hold the lower descriptors and go no further.
    fn idle(atlas: &Atlas) -> Vec<Connection> {
        let idle = (0..Denied::LATER).map(|_| {
            let mut client = atlas.connect();
            client.send("GET /");
            client
        });
        idle.collect()
    }

    /// After three that were lost.
    fn the_next_stays_and_is_served(atlas: &Atlas) {
        let failed = ["peer=\"downstream\"", "result=\"failed\""];
        wait_until("all that were lost are counted", || {
            let count = atlas.metric("atlas_kernel_tls_promotions_total", &failed);
            (count == LOST as f64).then_some(())
        });
        assert_eq!(atlas.metric("atlas_kernel_tls_breaker_open", &[]), 1.0);
        assert_eq!(atlas.get("/large?stays").body.len(), LARGE);
        let record = atlas.exchange("/large?stays");
        let said = (&record["carrier"], &record["refusal"]);
        assert_eq!(said, (&"process".into(), &"breaker".into()), "{record}");
        atlas.log_line(&["keeps refusing"]);
    }

    #[test]
    fn connections_that_are_lost_in_their_handshake_say_so() {
        where_keys_are_refused(|| {
            let (atlas, _idle) = that_moves_from("0B");
            for number in 0..LOST {
                let lost = |record: &serde_json::Value| record["cause"] == "kernel_refused_keys";
                let served = atlas.try_connect_to(0).and_then(|mut client| {
                    client.try_send("GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n")?;
                    client.try_answer()
                });
                assert!(served.is_err(), "connection {number} is served");
                let records = wait_until("its record is there", || {
                    let records: Vec<_> = atlas.records().into_iter().filter(lost).collect();
                    (records.len() > number).then_some(records)
                });
                let told = ["kind", "side", "phase"].map(|key| records[number][key].as_str().unwrap());
                assert_eq!(told, ["connection", "atlas", "handshake"], "{records:?}");
            }
            the_next_stays_and_is_served(&atlas);
        });
    }

    #[test]
    fn connections_that_are_lost_before_their_body_say_so() {
        where_keys_are_refused(|| {
            let (atlas, _idle) = that_moves_from("64KiB");
            for number in 0..LOST {
                let mut client = atlas.connect();
                client.send(format!("GET /large?{number} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
                assert!(client.try_answer().is_err(), "exchange {number} is served");
                let record = atlas.exchange(&format!("/large?{number}"));
                let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
                assert_eq!(
                    told,
                    ["downstream", "response_body", "kernel_refused_keys"],
                    "{record}"
                );
            }
            the_next_stays_and_is_served(&atlas);
        });
    }

    /// Before an origin that speaks TLS, with one endpoint, whose connections move when they are to carry
    /// this much.
    fn before_an_origin_that_moves_from(threshold: &str, origin: &Origin) -> Builder {
        let tls = "ca = \"ca.pem\", server_name = \"inner.test\"";
        let lines = format!("tls = {{ {tls}, ktls_threshold = \"{threshold}\" }}\npool_idle_max = 0");
        atlas()
            .top("workers = 1")
            .file("ca.pem", ca().pem())
            .listens_plain()
            .forwards_to_with(origin, &lines)
            .text("[timeouts]\nheader = \"5m\"")
            .expects_log("the kernel refused a connection's keys")
            .expects_log("the kernel keeps refusing the keys of connections")
    }

    #[test]
    fn connections_to_endpoints_that_are_lost_are_counted_and_made_anew() {
        where_keys_are_refused(|| {
            let origin = origin().tls(cert(&["inner.test"])).answers("/", "hello").start();
            let atlas = before_an_origin_that_moves_from("0B", &origin)
                .expects_log("cannot connect")
                .start();
            let _idle = idle(&atlas);
            let failed = ["peer=\"upstream\"", "result=\"failed\""];
            for number in 1..=LOST {
                let path = format!("/?{number}");
                assert_eq!(atlas.get(&path).body, b"hello");
                let record = atlas.exchange(&path);
                let lost = &record["failed_attempts"][0];
                let told = ["side", "phase", "cause"].map(|key| lost[key].as_str().unwrap());
                assert_eq!(told, ["atlas", "connect", "kernel_refused_keys"], "{record}");
                assert_eq!(record["attempts"], 2, "{record}");
                let counted = atlas.metric("atlas_kernel_tls_promotions_total", &failed);
                assert_eq!(counted, number as f64);
            }
            assert_eq!(atlas.get("/").status, 200);
            let record = atlas.exchange("/");
            let said = (&record["upstream_carrier"], &record["upstream_refusal"]);
            assert_eq!(said, (&"process".into(), &"breaker".into()), "{record}");
        });
    }

    #[test]
    fn requests_whose_connections_are_lost_before_their_body_go_over_others() {
        // One that fails would be left alone, and nobody else is there.
        where_keys_are_refused(|| {
            let origin = origin()
                .tls(cert(&["inner.test"]))
                .handles_all(|exchange| {
                    let seen = exchange.read_body()?;
                    exchange.answer(200, &[], seen.body_bytes.to_string().as_bytes())
                })
                .start();
            let atlas = before_an_origin_that_moves_from("64KiB", &origin).start();
            let _idle = idle(&atlas);
            for number in 0..=LOST {
                let path = format!("/upload?{number}");
                let answer = atlas.connect().request("POST", &path, &[], &vec![b'u'; LARGE]);
                assert_eq!((answer.status, answer.text()), (200, LARGE.to_string()));
                let record = atlas.exchange(&path);
                assert_eq!(record["upstream_carrier"], "process", "{record}");
                if number == LOST {
                    assert_eq!(record["attempts"], 1, "{record}");
                    break;
                }
                let lost = &record["failed_attempts"][0];
                let told = ["side", "phase", "cause"].map(|key| lost[key].as_str().unwrap());
                assert_eq!(
                    told,
                    ["upstream", "request_body", "kernel_refused_keys"],
                    "{record}"
                );
                assert_eq!(record["attempts"], 2, "{record}");
            }
            let ejections = atlas.metric("atlas_upstream_ejections_total", &[]);
            assert_eq!(ejections, 0.0);
        });
    }
}
