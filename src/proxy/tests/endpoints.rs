//! Endpoints that close, die, answer wrongly or cannot be reached.

use std::sync::mpsc::channel;

use super::*;

/// Answers each request without a body by the connection's number.
fn numbered(mut stream: TcpStream, number: usize) {
    while !read_head(&mut stream).is_empty() {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
    }
}

#[test]
fn a_connection_serves_one_client_after_another() {
    let origin = origin(numbered);
    let all = serve(&to(&[origin]), |address| {
        let first = ask(address, GET);
        assert!(ask(address, GET).ends_with(&first[first.len() - 1..]));
    });
    check(&all, &["200 upstream done finished"; 2]);
}

#[test]
fn a_connection_the_endpoint_has_closed_costs_the_client_nothing() {
    let (tell, told) = channel();
    let origin = origin(move |mut stream, number| {
        // All of it: bytes left unread would make the close a reset.
        let _ = stream.read(&mut [0; 4096]);
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}",
            number % 10
        );
        drop(stream);
        let _ = tell.send(());
    });
    let all = serve(&to(&[origin]), move |address| {
        for request in [GET, POST, GET, POST] {
            let answer = ask(address, request);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            told.recv_timeout(LONG).unwrap();
        }
    });
    check(&all, &["200 upstream done finished"; 4]);
    assert!(all[0].iter().all(|record| record["attempts"] == 1));
}

#[test]
fn a_request_is_sent_again_only_if_that_is_safe() {
    // Every connection serves one request and then takes another without an answer.
    let origin = origin(|mut stream, _| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.read(&mut [0; 4096]);
    });
    let all = serve(&to(&[origin]), |address| {
        assert!(ask(address, GET).starts_with("HTTP/1.1 200"));
        // Once more on a fresh connection.
        assert!(ask(address, GET).starts_with("HTTP/1.1 200"));
        // The endpoint's kernel has taken this one: it may have been done.
        assert!(ask(address, POST).starts_with("HTTP/1.1 502"));
    });
    check(
        &all,
        &[
            "200 upstream done finished",
            "200 upstream done finished",
            "502 upstream response closed",
        ],
    );
    assert_eq!(all[0][1]["attempts"], 2);
}

#[test]
fn an_endpoint_that_dies_midway_ends_the_clients_connection() {
    let origin = origin(|mut stream, _| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
    });
    let all = serve(&to(&[origin]), |address| {
        let request = GET.replace("Connection: close\r\n", "");
        assert!(ask(address, &request).ends_with("\r\n\r\nfirst"));
    });
    check(&all, &["200 upstream response_body closed"]);
}

#[test]
fn an_endpoint_that_does_not_answer_right_gets_the_client_an_error() {
    let silent = origin(|mut stream, _| while !read_head(&mut stream).is_empty() {});
    let mut given = to(&[silent]);
    given.response_timeout = Duration::from_millis(100);
    let all = serve(&given, |address| {
        let answer = ask(address, GET);
        assert!(
            answer.starts_with("HTTP/1.1 504") && answer.contains("Proxy-Status: atlas"),
            "{answer}"
        );
    });
    check(&all, &["504 upstream response timed_out"]);
    let babbling = origin(|mut stream, _| {
        read_head(&mut stream);
        let _ = stream.write_all(b"this is not HTTP\r\n\r\n");
    });
    check(
        &serve(&to(&[babbling]), |address| drop(ask(address, GET))),
        &["502 upstream response malformed"],
    );
    let closing = origin(|mut stream, _| drop(read_head(&mut stream)));
    check(
        &serve(&to(&[closing]), |address| drop(ask(address, GET))),
        &["502 upstream response closed"],
    );
}

#[test]
fn endpoints_that_cannot_be_reached_are_passed_over() {
    let refusing = nobody();
    let all = serve(&to(&[refusing]), |address| drop(ask(address, GET)));
    check(&all, &["502 upstream connect refused"]);
    let all = serve(&to(&[refusing, origin(numbered)]), |address| {
        assert!(ask(address, GET).starts_with("HTTP/1.1 200"));
    });
    check(&all, &["200 upstream done finished"]);
    assert_eq!(all[0][0]["attempts"], 2);
    let mut given = to(&[]);
    given.endpoints = vec![EndpointSettings::at(EndpointAddress::Name(
        "app.invalid".into(),
        80,
    ))];
    check(
        &serve(&given, |address| drop(ask(address, GET))),
        &["503 upstream connect unresolved"],
    );
}

#[test]
fn a_client_that_vanishes_frees_the_endpoint() {
    let (tell, told) = channel();
    let origin = origin(move |mut stream, _| {
        let _ = tell.send(read_head(&mut stream).len());
        // The proxy closes while this side has said nothing yet.
        let _ = tell.send(stream.read(&mut [0]).unwrap_or(0));
    });
    let mut given = to(&[origin]);
    given.response_timeout = LONG;
    let all = serve(&given, move |address| {
        let mut client = connect(address);
        client.write_all(GET.as_bytes()).unwrap();
        assert!(told.recv_timeout(LONG).unwrap() > 0, "it is asked");
        drop(client);
        assert_eq!(told.recv_timeout(LONG), Ok(0));
    });
    check(&all, &["499 downstream response closed"]);
}
