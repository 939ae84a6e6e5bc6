//! Exchanges and relays over real sockets: clients and origins are std threads.

mod endpoints;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ::http::{Method, StatusCode};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;

use super::*;
use crate::access_log::{self, ConnectionRecord, Format, Target, Writer};
use crate::drain::Drain;
use crate::http::h1;
use crate::metrics::Process;
use crate::offload::Offload;
use crate::outcome::Refusal;
use crate::route::{Action, HostPattern, PathPattern, Retry, Route, Split, Table};
use crate::runtime::tests::nobody;
use crate::runtime::{self, Address, Preference, Socket};
use crate::time::{Deadline, now};
use crate::transport::Transport;
use crate::upstream::{EndpointAddress, EndpointSettings, Settings};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// What a generation of a test is made of.
struct Given {
    endpoints: Vec<EndpointSettings>,
    response_timeout: Duration,
    routes: Vec<Route>,
    is_tcp: bool,
    server_name: Option<&'static str>,
}

fn route(path: &str, action: Action) -> Route {
    Route {
        number: 1,
        host: HostPattern::Any,
        path: PathPattern::Prefix(path.to_owned()),
        methods: Vec::new(),
        headers: Vec::new(),
        listener: None,
        action,
        strip_prefix: false,
        retry: Retry::default(),
        mirror: None,
    }
}

/// Everything goes to these addresses.
fn to(addresses: &[SocketAddr]) -> Given {
    Given {
        endpoints: addresses
            .iter()
            .map(|address| EndpointSettings::at(EndpointAddress::Socket(Address::Tcp(*address))))
            .collect(),
        response_timeout: Duration::from_secs(5),
        routes: vec![route("/", Action::Forward(Split::one(0)))],
        is_tcp: false,
        server_name: None,
    }
}

fn generation(given: &Given) -> Generation {
    Generation {
        number: 1,
        workers: None,
        trusted_proxies: Vec::new(),
        listeners: Vec::new(),
        routes: Table::new(given.routes.clone()).unwrap(),
        upstreams: vec![Settings {
            name: "app".into(),
            written: given.endpoints.as_slice().into(),
            from_file: None,
            endpoints: given.endpoints.clone(),
            balance: None,
            hash: None,
            sticky: None,
            queue_max: 1024,
            queue_timeout: Duration::from_secs(2),
            host: None,
            connect_timeout: Duration::from_secs(2),
            response_timeout: given.response_timeout,
            idle_timeout: Duration::from_secs(5),
            pool_idle_max: 8,
            pool_idle_timeout: Duration::from_secs(60),
            pool_lifetime: Duration::from_secs(3600),
            counted: Default::default(),
            health: Default::default(),
            http2: false,
            http2_window_bytes: crate::http::h2::client::WINDOW_BYTES,
            check: None,
            tls: None,
            requests_max: None,
            retry_budget: 20,
            proxy_protocol: None,
        }],
        resolver: Default::default(),
        roots: Vec::new(),
        http: crate::http::Settings::default(),
        offload: Offload::absent(Refusal::NotPreferred).into(),
        handshake_timeout: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(5),
        access_log: access_log::Settings {
            enabled: true,
            format: Format::Json,
            path: None,
        },
        admin: None,
    }
}

/// Serves what is given on both drivers while `client` runs; the records, one list for each.
fn serve(given: &Given, mut client: impl FnMut(SocketAddr) + Send) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    for preference in [Preference::Auto, Preference::Epoll] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let writer = Writer::start(Target::File(path.clone()), 16, Arc::new(Process::default())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client(address)));
                is_over.store(true, Ordering::SeqCst);
                drop(TcpStream::connect(address));
                outcome
            });
            runtime::start(preference, |_| work(given, listener, &is_over, &writer)).unwrap();
            if let Err(panic) = client.join().unwrap() {
                std::panic::resume_unwind(panic);
            }
        });
        writer.finish(Deadline::within(Duration::from_secs(5))).unwrap();
        let lines = std::fs::read_to_string(&path).unwrap();
        all.push(
            lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        );
    }
    all
}

/// A worker, as far as these tests need one.
async fn work(given: &Given, listener: TcpListener, is_over: &AtomicBool, writer: &Writer) {
    let generation = Arc::new(generation(given));
    let counters = Arc::new(Counters::new());
    let log = Rc::new(Log::new(
        &generation.access_log,
        writer.sender(),
        counters.clone(),
    ));
    let proxy = Rc::new(Proxy::new(generation, 1, log.clone(), counters, None));
    let listener = runtime::Listener::new(OwnedFd::from(listener)).unwrap();
    let drain = Drain::new();
    let open = Rc::new(Cell::new(0));
    loop {
        listener.readable().await.unwrap();
        let Ok((socket, peer)) = listener.try_accept() else {
            continue;
        };
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        open.set(open.get() + 1);
        let connection = serve_one(
            proxy.clone(),
            socket,
            peer,
            given.is_tcp,
            given.server_name,
            drain.clone(),
        );
        let open = open.clone();
        runtime::spawn(
            async move {
                connection.await;
                open.set(open.get() - 1);
            },
            |panic| panic!("{panic}"),
        );
    }
    drain.advance(crate::drain::Step::IdleEnds);
    let deadline = Deadline::within(Duration::from_secs(5));
    while open.get() > 0 && !deadline.passed(now()) {
        runtime::sleep(Duration::from_millis(5)).await;
    }
    log.flush();
}

async fn serve_one(
    proxy: Rc<Proxy>,
    socket: Socket,
    peer: Option<SocketAddr>,
    is_tcp: bool,
    server_name: Option<&'static str>,
    drain: Drain,
) {
    let facts = Rc::new(ConnectionFacts {
        worker: 0,
        listener: "web".into(),
        listener_index: 0,
        client: peer,
        peer,
        local: None,
        server_name: server_name.map(str::to_owned),
        tls_version: None,
        cipher: None,
        alpn: None,
        resumed: false,
        carriage: Rc::new(crate::outcome::Carriage::new(Carrier::None)),
        streams_refused: Cell::default(),
        driver: "test".into(),
    });
    let transport = Transport::plain(socket);
    if is_tcp {
        let mut record = ConnectionRecord::start(now());
        let end = proxy
            .pass(&Split::one(0), &transport, None, &drain, &mut record)
            .await;
        record.finish(end, &facts, &proxy.log);
    } else {
        let visit = proxy.visit(facts, |host| host == "other.test");
        h1::server::serve(&transport, &proxy.generation.http, &visit, &drain).await;
    }
    transport.close(Deadline::within(Duration::from_secs(2))).await;
}

/// An origin: each connection, with its number from 1, gets a thread.
fn origin(serve: impl Fn(TcpStream, usize) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (at, stream) in listener.incoming().enumerate() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.unwrap(), at + 1));
        }
    });
    address
}

/// Reads up to and with the blank line; empty at the end of the connection.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn read_exact(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends a request on a connection of its own, and reads until the connection ends.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut client = connect(address);
    client.write_all(request.as_bytes()).unwrap();
    read_all(&mut client)
}

const GET: &str = "GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";

fn check(all: &[Vec<Value>], expected: &[&str]) {
    for records in all {
        let texts: Vec<_> = records
            .iter()
            .map(|record| {
                let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
                format!(
                    "{} {} {} {}",
                    record["status"],
                    text("side"),
                    text("phase"),
                    text("cause")
                )
            })
            .collect();
        assert_eq!(texts, expected, "{records:#?}");
    }
}

#[test]
fn a_request_is_passed_on_and_its_answer_back() {
    let origin = origin(|mut stream, _| {
        // Head and body in one piece, which one write of the proxy makes of them.
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        let seen = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert!(seen.starts_with("POST / HTTP/1.1\r\nHost: a.test\r\n"), "{seen}");
        assert!(seen.ends_with("\r\n\r\nhi"), "{seen}");
        for field in [
            "Via: 1.1 atlas",
            "X-Forwarded-For: 127.0.0.1",
            "Content-Length: 2",
        ] {
            assert!(seen.contains(field), "{seen}");
        }
        assert!(!seen.contains("Connection"), "{seen}");
        let _ = stream.write_all(
            b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nConnection: X-A\r\nX-A: 1\r\nX-B: 2\r\n\r\nhello",
        );
    });
    let all = serve(&to(&[origin]), |address| {
        let mut client = connect(address);
        client.write_all(POST.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let count = client.read(&mut bytes).unwrap();
        let answer = String::from_utf8_lossy(&bytes[..count]);
        assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
        assert!(
            answer.contains("X-B: 2\r\nVia: 1.1 atlas\r\n") && !answer.contains("X-A"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    });
    check(&all, &["201 upstream done finished"; 1]);
    let record = &all[0][0];
    assert_eq!(
        (&record["upstream"], &record["endpoint"]),
        (&"app".into(), &origin.to_string().into())
    );
    assert_eq!(
        (&record["attempts"], &record["bytes_in"], &record["bytes_out"]),
        (&1.into(), &2.into(), &5.into())
    );
}

#[test]
fn an_early_refusal_reaches_the_client_that_still_sends() {
    let origin = origin(|mut stream, _| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
        // Until the proxy has gone: to close with bytes unread is a reset.
        let gone = PollFd::new(&stream, PollFlags::RDHUP);
        let _ = poll(&mut [gone], Some(&LONG.try_into().unwrap()));
    });
    let all = serve(&to(&[origin]), |address| {
        let mut client = connect(address);
        let head = "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n";
        client.write_all(head.as_bytes()).unwrap();
        let mut sender = client.try_clone().unwrap();
        let sending = thread::spawn(move || while sender.write_all(&[0; 1000]).is_ok() {});
        let answer = read_all(&mut client);
        assert!(
            answer.starts_with("HTTP/1.1 413") && answer.contains("Connection: close"),
            "{answer}"
        );
        assert!(answer.ends_with("no"), "{answer}");
        drop(client);
        sending.join().unwrap();
    });
    check(&all, &["413 upstream done finished"]);
}

#[test]
fn bodies_flow_both_ways_at_once() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 128;
    let origin = origin(|mut stream, _| {
        let head = read_head(&mut stream);
        assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        // What comes goes back as it is framed, while it comes.
        let mut bytes = vec![0; CHUNK];
        let mut tail = Vec::new();
        while !tail.ends_with(b"\r\n0\r\n\r\n") {
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0);
            stream.write_all(&bytes[..count]).unwrap();
            tail.extend_from_slice(&bytes[..count]);
            tail.drain(..tail.len().saturating_sub(7));
        }
    });
    let all = serve(&to(&[origin]), |address| {
        let mut client = connect(address);
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(head.as_bytes()).unwrap();
        let mut sender = client.try_clone().unwrap();
        let sending = thread::spawn(move || {
            for _ in 0..CHUNKS {
                write!(sender, "{CHUNK:x}\r\n").unwrap();
                sender.write_all(&[7; CHUNK]).unwrap();
                sender.write_all(b"\r\n").unwrap();
            }
            sender.write_all(b"0\r\n\r\n").unwrap();
        });
        read_head(&mut client);
        let mut content = 0;
        loop {
            let mut size = String::new();
            while !size.ends_with("\r\n") {
                size.push(char::from(read_exact(&mut client, 1)[0]));
            }
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let bytes = read_exact(&mut client, size + 2);
            if size == 0 {
                break;
            }
            assert!(bytes[..size].iter().all(|byte| *byte == 7));
            content += size;
        }
        assert_eq!(content, CHUNK * CHUNKS);
        sending.join().unwrap();
    });
    check(&all, &["200 upstream done finished"]);
}

#[test]
fn expectations_and_trailers_are_passed_on() {
    let origin = origin(|mut stream, _| {
        let head = read_head(&mut stream);
        assert!(
            head.contains("Expect: 100-continue") && head.contains("TE: trailers"),
            "{head}"
        );
        stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            .unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let wanted = b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n";
        assert_eq!(read_exact(&mut stream, wanted.len()), wanted);
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n2\r\nho\r\n0\r\nX-End: 2\r\n\r\n",
        );
    });
    let all = serve(&to(&[origin]), |address| {
        let mut client = connect(address);
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\
                    Expect: 100-continue\r\nConnection: close, TE\r\n\r\n";
        client.write_all(head.as_bytes()).unwrap();
        assert!(read_head(&mut client).starts_with("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n"));
        assert!(read_head(&mut client).starts_with("HTTP/1.1 100 Continue\r\n"));
        client.write_all(b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n").unwrap();
        let answer = read_all(&mut client);
        assert!(
            answer.ends_with("\r\n\r\n2\r\nho\r\n0\r\nX-End: 2\r\n\r\n"),
            "{answer}"
        );
    });
    check(&all, &["200 upstream done finished"]);
}

#[test]
fn prefixes_are_taken_off_in_every_spelling() {
    let origin = origin(|mut stream, _| {
        let head = read_head(&mut stream);
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{target}");
    });
    let mut given = to(&[origin]);
    given.routes[0].path = PathPattern::Prefix("/api".to_owned());
    given.routes[0].strip_prefix = true;
    serve(&given, |address| {
        for (sent, seen) in [
            ("/api", "/"),
            ("/api/", "/"),
            ("/api?q", "/?q"),
            ("/api/x%20y?q=%2F", "/x%20y?q=%2F"),
            ("/%61pi/x", "/x"),
            ("/x/../api/y/%2e?q", "/y/?q"),
        ] {
            let answer = ask(
                address,
                &format!("GET {sent} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
            );
            // In one chunk: its size, and then the target.
            assert!(
                answer.contains(&format!("\r\n{seen}\r\n0\r\n")),
                "{sent}: {answer}"
            );
        }
    });
}

/// A tea pot, another place, and the page about Atlas.
fn without_upstreams() -> Given {
    let text = |text: &str| Arc::<str>::from(text);
    let teapot = Action::Respond {
        status: StatusCode::IM_A_TEAPOT,
        body: text("short"),
        content_type: text("text/x-tea"),
    };
    let away = Action::Redirect {
        to: text("https://{host}{uri}"),
        status: StatusCode::PERMANENT_REDIRECT,
    };
    let mut given = to(&[]);
    given.routes = vec![
        route("/tea", teapot),
        route("/away", away),
        route("/about", Action::About),
    ];
    given.routes[0].methods = vec![Method::GET, Method::DELETE];
    given.server_name = Some("a.test");
    given
}

/// A request, what its answer holds, and what its record says.
#[rustfmt::skip]
const ANSWERED_HERE: &[(&str, &[&str], &str)] = &[
    ("GET /tea a.test", &["418 I'm a teapot", "Content-Type: text/x-tea", "\r\n\r\nshort"], "418 atlas done finished"),
    ("PUT /tea a.test", &["405", "Allow: GET, DELETE, HEAD\r\n"], "405 atlas route method_not_allowed"),
    ("GET /away/x?y A.test:9", &["308", "Location: https://a.test/away/x?y\r\n"], "308 atlas done finished"),
    ("GET /none a.test", &["404", "Proxy-Status: atlas"], "404 atlas route no_route"),
    ("GET /../x a.test", &["400"], "400 downstream request malformed"),
    ("GET /tea other.test", &["421"], "421 atlas route misdirected"),
    ("GET /about?<i>&' a.test", &["200", "&lt;i&gt;&amp;&#39;", "Who makes the TLS records"], "200 atlas done finished"),
];

#[test]
fn what_needs_no_upstream_is_answered_here() {
    let all = serve(&without_upstreams(), |address| {
        for (request, wanted, _) in ANSWERED_HERE {
            let words: Vec<_> = request.split(' ').collect();
            let (method, target, host) = (words[0], words[1], words[2]);
            let answer = ask(
                address,
                &format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            );
            for part in *wanted {
                assert!(answer.contains(part), "{request}: {part}\n{answer}");
            }
        }
    });
    let records: Vec<_> = ANSWERED_HERE.iter().map(|(_, _, record)| *record).collect();
    check(&all, &records);
}

#[test]
fn tcp_mode_relays_and_tells_the_endpoint() {
    let refusing = nobody();
    let echo = origin(|mut stream, _| {
        let text = read_all(&mut stream);
        let _ = stream.write_all(text.to_uppercase().as_bytes());
    });
    let mut given = to(&[refusing, echo]);
    given.is_tcp = true;
    let all = serve(&given, |address| {
        let mut client = connect(address);
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), "HELLO");
    });
    check(&all, &["null downstream done finished"]);
    let record = &all[0][0];
    assert_eq!(
        (&record["endpoint"], &record["attempts"]),
        (&echo.to_string().into(), &2.into())
    );
    given.endpoints.truncate(1);
    let all = serve(&given, |address| {
        // Connecting may be told of the reset already.
        let error = TcpStream::connect(address)
            .and_then(|mut client| client.read(&mut [0]))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
    check(&all, &["null upstream connect refused"]);
}

#[test]
fn an_exchange_that_is_cut_off_leaves_its_record() {
    let silent = origin(|mut stream, _| while !read_head(&mut stream).is_empty() {});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let writer = Writer::start(Target::File(path.clone()), 16, Arc::new(Process::default())).unwrap();
    runtime::start(Preference::Auto, |_| async {
        let generation = Arc::new(generation(&to(&[silent])));
        let counters = Arc::new(Counters::new());
        let log = Rc::new(Log::new(
            &generation.access_log,
            writer.sender(),
            counters.clone(),
        ));
        let proxy = Rc::new(Proxy::new(generation, 1, log.clone(), counters, None));
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.write_all(GET.as_bytes()).unwrap();
        let socket = Socket::new(OwnedFd::from(ours)).unwrap();
        let serving = serve_one(proxy, socket, None, false, None, Drain::new());
        let cut = runtime::before(Deadline::within(Duration::from_millis(50)), serving).await;
        assert!(cut.is_err());
        log.flush();
    })
    .unwrap();
    writer.finish(Deadline::within(Duration::from_secs(5))).unwrap();
    let line: Value = serde_json::from_str(std::fs::read_to_string(&path).unwrap().trim_end()).unwrap();
    assert_eq!((&line["cause"], &line["path"]), (&"cut".into(), &"/x?y=1".into()));
}

/// A kernel that is found to have TLS since, or a breaker that was open.
#[test]
fn an_upstream_that_stays_goes_by_what_the_kernel_is_found_to_do_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let writer = Writer::start(Target::File(path), 16, Arc::new(Process::default())).unwrap();
    let given = to(&[SocketAddr::from(([127, 0, 0, 1], 9))]);
    let [before, now] = [Refusal::NoUlp, Refusal::NotPreferred].map(|refusal| {
        Arc::new(Generation {
            offload: Offload::absent(refusal).into(),
            ..generation(&given)
        })
    });
    let counters = Arc::new(Counters::new());
    let log = Rc::new(Log::new(&now.access_log, writer.sender(), counters.clone()));
    let proxy = |generation: &Arc<Generation>, previous: Option<&Proxy>| {
        Proxy::new(generation.clone(), 1, log.clone(), counters.clone(), previous)
    };
    let earlier = proxy(&before, None);
    let upstream = earlier.upstream(0);
    let later = proxy(&now, Some(&earlier));
    assert!(Rc::ptr_eq(&upstream, &later.upstream(0)), "it has stayed");
    // Where nobody has the generation before, nobody has what it had found.
    let found_before = Arc::downgrade(&before.offload);
    drop((before, earlier));
    assert!(found_before.upgrade().is_none());
}
