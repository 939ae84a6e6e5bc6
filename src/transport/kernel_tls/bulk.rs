//! Much, each way and in each suite, and many connections.

use std::sync::Barrier;

use futures_util::future::join_all;

use super::*;

/// How much goes each way in each test of bulk: 2 MiB, or as many as `ATLAS_BULK_MIB` says.
fn bulk() -> usize {
    let mib = std::env::var("ATLAS_BULK_MIB").map_or(2, |mib| mib.parse().unwrap());
    mib * 1024 * 1024
}

/// Hashes bytes as they come.
#[derive(Default)]
struct Sum {
    hasher: DefaultHasher,
    count: usize,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        self.count += bytes.len();
    }

    fn of_bulk() -> u64 {
        let mut sum = Self::default();
        send_bulk(|piece| sum.add(piece));
        sum.hasher.finish()
    }
}

/// The bytes of the tests of bulk, piece by piece.
fn send_bulk(mut send: impl FnMut(&[u8])) {
    const PIECE: usize = 70_001;
    let mut rest = bulk();
    for seed in 0.. {
        let size = rest.min(PIECE);
        send(&pattern(size, seed));
        rest -= size;
        if rest == 0 {
            return;
        }
    }
}

fn receive_bulk(from: &mut impl Read) {
    let mut sum = Sum::default();
    let mut buffer = vec![0; 64 * 1024];
    while sum.count < bulk() {
        let wanted = buffer.len().min(bulk() - sum.count);
        let count = from.read(&mut buffer[..wanted]).unwrap();
        assert!(count > 0, "an end after {}", sum.count);
        sum.add(&buffer[..count]);
    }
    assert_eq!(sum.hasher.finish(), Sum::of_bulk());
}

#[test]
fn bulk_crosses_whole_each_way_in_all_suites() {
    let Some(offload) = offload() else { return };
    let mut file = tempfile::tempfile().unwrap();
    send_bulk(|piece| file.write_all(piece).unwrap());
    for suite in SUITES {
        let (config, client_config) = configs_of_suite(suite);
        let (listener, port) = listen();
        let client = std::thread::spawn(move || {
            let mut client = connect(port, &client_config);
            for _ in ["read", "splice"] {
                send_bulk(|piece| client.write_all(piece).unwrap());
                client.read_exact(&mut [0]).unwrap();
            }
            for _ in ["write", "sendfile", "splice"] {
                receive_bulk(&mut client);
                client.write_all(b"x").unwrap();
            }
        });
        let keys = accept_keys(&listener, &config);
        run_long(async {
            let ours = into_transport(keys, &offload);
            upload_by_read(&ours).await;
            ours.write_all(b"x", LONG).await.unwrap();
            upload_by_splice(&ours).await;
            ours.write_all(b"x", LONG).await.unwrap();
            download_by_write(&ours).await;
            assert_eq!(read_count(&ours, 1).await, b"x");
            sendfile_all(&file, &ours, bulk()).await.unwrap();
            assert_eq!(read_count(&ours, 1).await, b"x");
            download_by_splice(&ours).await;
            assert_eq!(read_count(&ours, 1).await, b"x");
            let total = bulk() as u64;
            assert_eq!(ours.carriage().sendfile.get(), total);
            assert_eq!(ours.carriage().spliced.get(), total);
            assert_eq!(ours.bytes_out(), 3 * total + 2);
            assert_eq!(ours.bytes_in(), 2 * total + 3);
        });
        client.join().unwrap();
    }
}

async fn upload_by_read(ours: &Transport) {
    let mut sum = Sum::default();
    let mut buffer = vec![0; 64 * 1024];
    while sum.count < bulk() {
        let count = ours.read(&mut buffer).await.unwrap();
        assert!(count > 0, "an end after {}", sum.count);
        sum.add(&buffer[..count]);
    }
    assert_eq!(sum.hasher.finish(), Sum::of_bulk());
}

async fn upload_by_splice(ours: &Transport) {
    let mut sum = Sum::default();
    let mut pipe = Pipe::take().unwrap();
    while sum.count < bulk() {
        ours.socket().turn().await;
        let count = splice_in(ours, &mut pipe).await.unwrap();
        assert!(count > 0, "an end after {}", sum.count);
        sum.add(&empty(&mut pipe));
    }
    assert_eq!(sum.hasher.finish(), Sum::of_bulk());
}

async fn download_by_write(ours: &Transport) {
    let mut pieces = Vec::new();
    send_bulk(|piece| pieces.push(piece.to_vec()));
    for piece in pieces {
        ours.write_all(&piece, LONG).await.unwrap();
    }
}

/// From a plain socket.
async fn download_by_splice(ours: &Transport) {
    let (listener, port) = listen();
    let origin = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        send_bulk(|piece| socket.write_all(piece).unwrap());
    });
    let from = Transport::plain(into_socket(listener.accept().unwrap().0));
    splice_all(&from, ours).await.unwrap();
    origin.join().unwrap();
}

/// Without the limit of time of [`run`].
fn run_long(test: impl Future<Output = ()>) {
    runtime::start(Preference::Auto, |_| test).expect("a driver");
}

/// A thousand connections, so many of them side by side.
const AT_ONCE: usize = 100;
const GROUPS: usize = 10;

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    const NAME: &str = "transport::kernel_tls::bulk::a_thousand_connections_leave_nothing_behind";
    const ALONE: &str = "ATLAS_TEST_ALONE";
    let Some(offload) = offload() else { return };
    // In a process of its own, where nobody else opens anything.
    if std::env::var_os(ALONE).is_none() {
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&alone.stdout);
        // With a name that none has, libtest runs nothing and is content.
        assert!(
            alone.status.success() && told.contains("1 passed"),
            "{told}{}",
            String::from_utf8_lossy(&alone.stderr)
        );
        return;
    }
    let (config, client_config) = configs_of(TLS_1_3);
    let (listener, port) = listen();
    // Before and after what is left is looked at.
    let over = Arc::new(Barrier::new(2));
    let over_there = over.clone();
    let clients = std::thread::spawn(move || {
        for _ in 0..GROUPS {
            echo_in_step(port, &client_config);
            over_there.wait();
            over_there.wait();
        }
    });
    run_long(async {
        let mut first = None;
        for _ in 0..GROUPS {
            let accept = || into_socket(listener.accept().unwrap().0);
            let sockets: Vec<_> = std::iter::repeat_with(accept).take(AT_ONCE).collect();
            let moving = sockets
                .into_iter()
                .map(|socket| promoted(socket, &config, &offload));
            let moved = join_all(moving).await;
            join_all(moved.into_iter().map(echo_spliced)).await;
            // io_uring closes what was dropped at its next turns.
            for _ in 0..4 {
                runtime::turn().await;
            }
            over.wait();
            let (open, memory) = (descriptors(), resident_kib());
            over.wait();
            let first = *first.get_or_insert((open, memory));
            assert_eq!(pipe::in_use(), 0);
            assert!(open <= first.0, "{open} descriptors, first {}", first.0);
            let grown = memory.saturating_sub(first.1);
            assert!(grown < 1024, "{grown} KiB more than after the first {AT_ONCE}");
        }
    });
    clients.join().unwrap();
}

/// Clients that are all at the same step at once, each of which says goodbye when all were answered.
fn echo_in_step(port: u16, config: &Arc<ClientConfig>) {
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let sockets: Vec<_> = std::iter::repeat_with(connect).take(AT_ONCE).collect();
    let mut clients: Vec<_> = sockets
        .into_iter()
        .map(|socket| shake_over(socket, config))
        .collect();
    for client in &mut clients {
        client.read_exact(&mut [0; 2]).unwrap();
    }
    for client in &mut clients {
        client.write_all(b"splice me").unwrap();
    }
    for client in &mut clients {
        client.read_exact(&mut [0; 9]).unwrap();
    }
    for mut client in clients {
        client.conn.send_close_notify();
        client.flush().unwrap();
        let _ = read_to_end(&mut client);
    }
}

/// A connection whose keys were handed on as a listener's are.
async fn promoted(socket: Socket, config: &Arc<ServerConfig>, offload: &Arc<Offload>) -> Transport {
    let sealed = Sealed::server(config.clone(), &[]).unwrap();
    let promotion = Promotion {
        offload: offload.clone(),
        threshold: 0,
    };
    let (ours, _) = shake_sealed(socket, sealed, promotion).await;
    // What the client says may have come by half.
    while ours.carriage().carrier.get() != Carrier::Kernel {
        ours.promote(u64::MAX).unwrap();
        runtime::sleep(Duration::from_millis(1)).await;
    }
    ours
}

async fn echo_spliced(ours: Transport) {
    ours.write_all(b"go", LONG).await.unwrap();
    let mut pipe = Pipe::take().unwrap();
    assert_eq!(splice_in(&ours, &mut pipe).await.unwrap(), 9);
    while !pipe.is_empty() {
        pipe.empty(|fd, len| ours.try_splice_out(fd, len, false)).unwrap();
    }
    assert!(ours.close(Deadline::within(LONG)).await);
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Memory of this process.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
