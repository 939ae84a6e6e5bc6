//! Many calls over few connections, and many streams at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use tokio::net::{TcpListener, TcpStream};
use tonic::Request;

use super::before;
use super::service::{Calls, connect, runtime, serve};
use crate::support::{Atlas, Digest, Driver, free_port, noise, raise_descriptors};

#[test]
fn ten_thousand_calls_take_few_connections() {
    const CALLS: usize = 10_000;
    const AT_ONCE: usize = 200;
    let calls = Calls::default();
    let atlas = before(&serve(&calls), Driver::Auto, "");
    runtime().block_on(async {
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(connect(atlas.address()).await);
        }
        let call = |at: usize| {
            let mut client = clients[at % clients.len()].clone();
            async move {
                let message = Bytes::from(at.to_string());
                let answer = client.unary(Request::new(message.clone())).await.unwrap();
                assert_eq!(answer.into_inner(), message);
            }
        };
        stream::iter(0..CALLS).for_each_concurrent(AT_ONCE, call).await;
    });
    assert_eq!(calls.begun.load(SeqCst), CALLS);
    let opened = opened(&atlas);
    assert!((1.0..=4.0).contains(&opened), "{opened} connections");
}

/// Connections that Atlas has opened.
fn opened(atlas: &Atlas) -> f64 {
    atlas.metric("atlas_upstream_connections_total", &["source=\"new\""])
}

/// Reads a body to its end; its hash.
async fn hash(mut body: h2::RecvStream) -> String {
    let mut digest = Digest::new();
    while let Some(piece) = body.data().await {
        let piece = piece.expect("it comes whole");
        digest.update(&piece);
        body.flow_control()
            .release_capacity(piece.len())
            .expect("it was told of");
    }
    digest.hex()
}

/// Sends a body as far as there is room.
async fn send(mut to: h2::SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        to.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| to.poll_capacity(cx)).await;
        let room = room.expect("it is open").expect("it is open").min(body.len());
        to.send_data(body.split_to(room), body.is_empty())
            .expect("it is open");
    }
}

/// Answers each request with its own body, once all of it has come.
async fn echo(socket: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(socket).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut whole = BytesMut::new();
            while let Some(Ok(piece)) = body.data().await {
                whole.extend_from_slice(&piece);
                let _ = body.flow_control().release_capacity(piece.len());
            }
            let response = http::Response::new(());
            let to = respond.send_response(response, false).expect("it is open");
            send(to, whole.freeze()).await;
        });
    }
}

/// All streams of one connection at once; how many came back as they were.
async fn exchange(address: std::net::SocketAddr, streams: usize, body: Arc<Bytes>) -> usize {
    let socket = TcpStream::connect(address).await.expect("Atlas accepts");
    let (client, connection) = h2::client::handshake(socket).await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("it is open");
    let mut exchanges = Vec::new();
    for at in 0..streams {
        let body = body.slice(at..body.len() - at);
        let request = http::Request::post("http://a.test/").body(()).expect("it is one");
        client = client.ready().await.expect("it is open");
        let (response, to) = client.send_request(request, false).expect("it is open");
        exchanges.push(async move {
            let wanted = Digest::of(&body);
            let came = async { hash(response.await.expect("it is answered").into_body()).await };
            let ((), came) = tokio::join!(send(to, body), came);
            usize::from(came == wanted)
        });
    }
    join_all(exchanges).await.into_iter().sum()
}

#[test]
fn ten_thousand_streams_at_a_time_come_back_as_they_went() {
    const CONNECTIONS: usize = 100;
    const STREAMS: usize = 100;
    raise_descriptors(1024);
    let port = free_port();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", port))
                .await
                .expect("the port is free");
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(echo(socket));
            }
        });
    });
    crate::support::wait_until("it listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    // They wait long for a place on a connection, and where the machine is slow so are client and service.
    let atlas = before(
        &format!("127.0.0.1:{port}"),
        Driver::Auto,
        "connect_timeout = \"5m\"\n\n[limits]\nmin_rate = \"0B\"\n[timeouts]\nbody = \"5m\"",
    );
    let body = Arc::new(Bytes::from(noise(4096)));
    let good: usize = runtime().block_on(async {
        let connections = (0..CONNECTIONS).map(|_| exchange(atlas.address(), STREAMS, body.clone()));
        join_all(connections).await.into_iter().sum()
    });
    assert_eq!(good, CONNECTIONS * STREAMS);
    let opened = opened(&atlas);
    assert!((1.0..=64.0).contains(&opened), "{opened} connections");
}
