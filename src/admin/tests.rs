//! What is answered, without sockets.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

fn admin() -> Admin {
    let facts = metrics::Facts::of_nothing();
    Admin::new(vec![Arc::new(Counters::new())], Arc::default(), facts)
}

#[test]
fn ready_only_while_connections_are_taken() {
    let admin = admin();
    let ready = || admin.answer_to(&Method::GET, "/-/ready").status.as_u16();
    assert_eq!(ready(), 503);
    admin.set_readiness(Readiness::Ready);
    assert_eq!(ready(), 200);
    admin.set_readiness(Readiness::Draining);
    assert_eq!(ready(), 503);
    assert_eq!(admin.answer_to(&Method::HEAD, "/-/healthy").status, 200);
}

#[test]
fn who_asks_for_something_else_learns_what_there_is() {
    let answer = admin().answer_to(&Method::GET, "/metricz");
    assert_eq!(answer.status, 404);
    for path in ["/metrics", "/-/healthy", "/-/ready"] {
        assert!(answer.body.contains(path));
    }
}

#[test]
fn only_reading_is_allowed() {
    let answer = admin().answer_to(&Method::POST, "/metrics");
    assert_eq!(answer.status, 405);
    assert_eq!(answer.head().fields.get("allow"), Some(&b"GET, HEAD"[..]));
}

#[test]
fn metrics_are_those_of_now() {
    let admin = admin();
    admin.change_facts(|facts| facts.generation = 7);
    let answer = admin.answer_to(&Method::GET, "/metrics");
    assert!(
        answer.body.contains("atlas_generation_number 7\n"),
        "{}",
        answer.body
    );
}

#[test]
fn a_scraper_is_answered_beside_a_silent_connection() {
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    let (ended, end) = async_channel::bounded::<()>(1);
    let server = std::thread::spawn(move || {
        runtime::start(runtime::Preference::Epoll, |_| async move {
            let listener = Listener::new(listening.into()).unwrap();
            let serving = serve(listener, Rc::new(admin()), Drain::new());
            futures_util::future::select(std::pin::pin!(serving), std::pin::pin!(end.recv())).await;
        })
    });
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let silent = TcpStream::connect(address).unwrap();
    let answer = ask("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    let answer = ask("HEAD /-/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    let answer = ask("nonsense\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    drop((silent, ended));
    server.join().unwrap().unwrap();
}
