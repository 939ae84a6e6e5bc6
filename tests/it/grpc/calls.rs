//! Calls of all four kinds, how they end, and what ends them early.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tonic::{Code, Request};

use super::service::{Calls, connect, runtime, serve};
use super::{before, on_all_ways};
use crate::support::{Atlas, Driver, atlas, free_port, noise, wait_until};

#[test]
fn a_call_and_its_answer_pass_with_all_that_is_said_of_them() {
    on_all_ways(|atlas, _| {
        runtime().block_on(async {
            let mut client = connect(atlas.address()).await;
            let answer = client.say("hello").await.unwrap();
            assert_eq!(answer.metadata().get("x-head").unwrap(), "1");
            assert_eq!(answer.get_ref(), "hello");
            let big = Bytes::from(noise(3_000_000));
            let answer = client.unary(Request::new(big.clone())).await.unwrap();
            assert!(answer.into_inner() == big);
        });
        let record = atlas.exchange("/test.T/Unary");
        assert_eq!(
            (&record["status"], &record["cause"]),
            (&200.into(), &"finished".into())
        );
    });
}

#[test]
fn an_error_comes_as_the_service_has_put_it() {
    on_all_ways(|atlas, _| {
        runtime().block_on(async {
            let mut client = connect(atlas.address()).await;
            let status = client.say("fail").await.unwrap_err();
            assert_eq!(
                (status.code(), status.message()),
                (Code::PermissionDenied, "not for you")
            );
            // An answer that is trailers only.
            let status = client.unknown().await.unwrap_err();
            assert_eq!(
                (status.code(), status.message()),
                (Code::Unimplemented, "no such call")
            );
            // After messages.
            let mut messages = client.server("fail in the end").await.unwrap().into_inner();
            let mut count = 0;
            let status = loop {
                match messages.message().await {
                    Ok(message) => count += usize::from(message.is_some()),
                    Err(status) => break status,
                }
            };
            assert_eq!((count, status.code()), (15, Code::DataLoss));
        });
    });
}

#[test]
fn messages_stream_from_the_service_and_from_the_client() {
    on_all_ways(|atlas, _| {
        runtime().block_on(async {
            let mut client = connect(atlas.address()).await;
            let mut messages = client.server("twelve bytes").await.unwrap().into_inner();
            let mut all = Vec::new();
            while let Some(message) = messages.message().await.unwrap() {
                all.push(String::from_utf8(message.to_vec()).unwrap());
            }
            assert_eq!(all, (0..12).map(|at| at.to_string()).collect::<Vec<_>>());
            let many = (0..500).map(|at| Bytes::from(vec![7; at])).collect();
            let told = client.client(many).await.unwrap().into_inner();
            assert_eq!(told, "500 of 124750 bytes");
            assert_eq!(
                client.client(Vec::new()).await.unwrap().into_inner(),
                "0 of 0 bytes"
            );
        });
    });
}

#[test]
fn both_sides_speak_in_turn_message_by_message() {
    on_all_ways(|atlas, _| {
        runtime().block_on(async {
            let mut client = connect(atlas.address()).await;
            let (say, said) = tokio::sync::mpsc::channel::<Bytes>(1);
            let said = stream::unfold(said, async |mut said| Some((said.recv().await?, said)));
            let mut answers = client.both(said).await.unwrap().into_inner();
            for turn in 0..100 {
                let message = Bytes::from(format!("message {turn}"));
                say.send(message.clone()).await.unwrap();
                assert_eq!(answers.message().await.unwrap(), Some(message));
            }
            drop(say);
            assert_eq!(answers.message().await.unwrap(), None);
            assert!(answers.trailers().await.unwrap().is_some());
        });
        assert_eq!(atlas.exchange("/test.T/Both")["cause"], "finished");
    });
}

#[test]
fn a_deadline_is_told_and_kept() {
    on_all_ways(|atlas, calls| {
        runtime().block_on(async {
            let mut client = connect(atlas.address()).await;
            let mut asks = Request::new(Bytes::from_static(b"deadline"));
            asks.set_timeout(Duration::from_secs(20));
            let told = client.unary(asks).await.unwrap().into_inner();
            assert_eq!(told, "20000000u");
            let before = calls.cancelled.load(SeqCst);
            let mut hangs = Request::new(Bytes::from_static(b"hang"));
            hangs.set_timeout(Duration::from_millis(200));
            assert!(client.unary(hangs).await.is_err());
            wait_until("the service has given it up", || {
                (calls.cancelled.load(SeqCst) == before + 1).then_some(())
            });
        });
    });
}

#[test]
fn who_gives_a_call_up_gives_it_up_at_the_service() {
    on_all_ways(|atlas, calls| {
        runtime().block_on(async {
            let mut client = connect(atlas.address()).await;
            let before = calls.cancelled.load(SeqCst);
            let (hanging, cancelled) = (calls.hanging.load(SeqCst), calls.cancelled.clone());
            let called = tokio::time::timeout(Duration::from_secs(10), async {
                let mut waiting = client.clone();
                let call = tokio::spawn(async move { waiting.say("hang").await });
                while calls.hanging.load(SeqCst) == hanging {
                    tokio::task::yield_now().await;
                }
                call.abort();
            });
            called.await.unwrap();
            let mut messages = client.server("hang after that").await.unwrap().into_inner();
            for _ in 0..15 {
                assert!(messages.message().await.unwrap().is_some());
            }
            drop(messages);
            let given_up = async {
                while cancelled.load(SeqCst) < before + 2 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), given_up)
                .await
                .expect("both are given up");
            assert_eq!(client.say("hello").await.unwrap().into_inner(), "hello");
        });
    });
}

/// What a client hears of Atlas's own errors.
fn code(atlas: &Atlas) -> (Code, String) {
    runtime().block_on(async {
        let status = connect(atlas.address()).await.say("hello").await.unwrap_err();
        (status.code(), status.message().to_owned())
    })
}

#[test]
fn what_atlas_has_to_say_itself_is_a_status_of_grpc() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let dead = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&nobody], "http2 = true")
        .expects_log("cannot connect")
        .start();
    assert_eq!(code(&dead).0, Code::Unavailable);
    let nowhere = atlas()
        .listens_plain()
        .text("[[route]]\npath = \"/x/\"\nrespond = 200")
        .start();
    assert_eq!(code(&nowhere).0, Code::Unimplemented);
    let calls = Calls::default();
    let slow = before(&serve(&calls), Driver::Auto, "response_timeout = \"3s\"");
    runtime().block_on(async {
        let mut client = connect(slow.address()).await;
        let status = client.say("hang").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    });
    wait_until("the service has given it up", || {
        (calls.cancelled.load(SeqCst) == 1).then_some(())
    });
}

#[test]
fn a_call_may_be_quiet_between_messages() {
    let calls = Calls::default();
    let atlas = before(&serve(&calls), Driver::Auto, "");
    runtime().block_on(async {
        let mut client = connect(atlas.address()).await;
        let (say, said) = tokio::sync::mpsc::channel::<Bytes>(1);
        let said = stream::unfold(said, async |mut said| Some((said.recv().await?, said)));
        let mut answers = client.both(said).await.unwrap().into_inner();
        for message in ["first", "behind a pause"] {
            say.send(Bytes::from(message)).await.unwrap();
            assert_eq!(answers.message().await.unwrap(), Some(Bytes::from(message)));
            // Longer than a client may be slow at first.
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        drop(say);
        assert_eq!(answers.message().await.unwrap(), None);
    });
    assert_eq!(atlas.exchange("/test.T/Both")["cause"], "finished");
}
