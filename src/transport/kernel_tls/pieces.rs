//! Records that come in pieces, or only half.

use super::*;

#[test]
fn two_hundred_senders_of_half_a_record_cost_nearly_nothing() {
    const SENDERS: usize = 200;
    const WATCHED: Duration = Duration::from_secs(5);
    const SPENT_MAX: Duration = Duration::from_millis(50);
    let Some(offload) = offload() else { return };
    let (config, client_config) = configs_of(TLS_1_3);
    let (listener, port) = listen();
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let senders = std::thread::spawn(move || {
        let mut clients = Vec::new();
        for _ in 0..SENDERS {
            let mut client = connect(port, &client_config);
            client.sock.write_all(&[23, 3, 3, 16, 0]).unwrap();
            client.sock.write_all(&[7; 1000]).unwrap();
            clients.push(client);
        }
        let _ = told.recv();
    });
    let accepted: Vec<_> = (0..SENDERS).map(|_| accept_keys(&listener, &config)).collect();
    let watch = |driver: Driver| async move {
        // On epoll there is no thread that could start.
        assert!(matches!(driver, Driver::IoUring(_)), "{driver}");
        for keys in accepted {
            let ours = into_transport(keys, &offload);
            let waits = async move {
                let _ = ours.read(&mut [0; 100]).await;
                unreachable!("half a record is never read");
            };
            runtime::spawn(waits, |_| ());
        }
        runtime::sleep(Duration::from_secs(1)).await;
        // The least of some: on a busy machine the same takes more time now and then.
        let mut spent = WATCHED;
        for _ in 0..5 {
            let before = cpu_time();
            runtime::sleep(WATCHED).await;
            spent = spent.min(cpu_time() - before);
            if spent <= SPENT_MAX {
                break;
            }
        }
        #[expect(clippy::print_stdout, reason = "the figure is what the test is for")]
        {
            println!("{spent:?} of {WATCHED:?}, threads {:?}", threads());
        }
        assert!(
            threads().iter().all(|name| !name.starts_with("iou-wrk")),
            "{:?}",
            threads()
        );
        assert!(spent <= SPENT_MAX, "{spent:?}");
    };
    runtime::start(Preference::Auto, watch).unwrap();
    drop(tell);
    senders.join().unwrap();
}

/// What this thread has used of a processor, in steps of 10 ms; other tests run beside it.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = |nth| {
        fields
            .split_whitespace()
            .nth(nth)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Names of this process's threads, those of the kernel's that work for it included.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .collect()
}

#[test]
fn records_that_come_in_pieces_are_read_as_soon_as_they_are_whole() {
    const RECORDS: usize = 30;
    let Some(offload) = offload() else { return };
    let client = |mut client: Client| {
        let mut waits = Vec::new();
        for round in 0..RECORDS {
            let mut wire = Vec::new();
            let body = pattern(if round % 2 == 0 { 10 } else { 9000 }, round as u64);
            client.conn.writer().write_all(&body).unwrap();
            client.conn.write_tls(&mut wire).unwrap();
            for piece in wire.chunks(wire.len() / 3) {
                pause(Duration::from_millis(10));
                client.sock.write_all(piece).unwrap();
            }
            let is_whole = now();
            client.read_exact(&mut [0]).unwrap();
            waits.push(is_whole.elapsed());
        }
        // A reader that is not woken looks again by itself after a second.
        waits.sort();
        assert!(waits[RECORDS * 3 / 4] < SECOND / 2, "{waits:?}");
    };
    with_rustls(TLS_1_3, &offload, client, async |ours: Transport| {
        for round in 0..RECORDS {
            let size = if round % 2 == 0 { 10 } else { 9000 };
            let received = read_count(&ours, size).await;
            assert_eq!(hash(&received), hash(&pattern(size, round as u64)));
            ours.write_all(b"x", LONG).await.unwrap();
        }
    });
}
