//! Which endpoint is asked, and where connections come from; endpoints are std listeners.

use std::net::{SocketAddr, TcpListener};

use super::*;
use crate::outcome::Refusal;
use crate::runtime::{self, Address, Preference};

pub(super) fn settings(endpoints: Vec<EndpointSettings>) -> Settings {
    Settings {
        name: "app".into(),
        endpoints,
        balance: None,
        hash: None,
        sticky: None,
        queue_max: 1024,
        queue_timeout: Duration::from_secs(2),
        host: None,
        connect_timeout: Duration::from_secs(2),
        response_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(2),
        pool_idle_max: 2,
        pool_idle_timeout: Duration::from_secs(60),
        health: health::Settings::default(),
        http2: false,
        check: None,
        tls: None,
        requests_max: None,
        retry_budget: 20,
        proxy_protocol: None,
    }
}

fn tcp(address: SocketAddr) -> EndpointSettings {
    EndpointSettings::at(EndpointAddress::Socket(Address::Tcp(address)))
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address nobody listens on.
fn nobody() -> SocketAddr {
    listener().1
}

fn run<F: Future<Output = ()>>(body: impl FnOnce() -> F) {
    runtime::start(Preference::Auto, |_| body()).unwrap();
}

#[test]
fn endpoints_are_asked_in_turn_and_the_next_one_when_one_refuses() {
    let (_a, first) = listener();
    let (_b, second) = listener();
    let dead = nobody();
    run(|| async move {
        let upstream = Upstream::new(
            settings(vec![tcp(first), tcp(dead), tcp(second)]),
            &Default::default(),
            1,
            offload(),
            Arc::default(),
            None,
        );
        let mut asked = Vec::new();
        for _ in 0..4 {
            let mut attempts = upstream.begin(true);
            let (_, slot) = upstream.connect(&mut attempts).await.unwrap();
            asked.push((slot.endpoint().name().to_owned(), attempts.count()));
        }
        let (first, second) = (first.to_string(), second.to_string());
        assert_eq!(
            asked,
            [(first.clone(), 1), (second.clone(), 2), (first, 1), (second, 2)]
        );
    });
}

#[test]
fn each_endpoint_is_tried_once_and_the_last_end_told() {
    let (one, other) = (nobody(), nobody());
    run(|| async move {
        let upstream = Upstream::new(
            settings(vec![tcp(one), tcp(other)]),
            &Default::default(),
            1,
            offload(),
            Arc::default(),
            None,
        );
        let mut attempts = upstream.begin(true);
        let end = upstream.connect(&mut attempts).await.err();
        assert_eq!(
            end,
            Some(End::new(Side::Upstream, Phase::Connect, Cause::Refused))
        );
        assert_eq!(attempts.count(), 2);
        let missing = EndpointAddress::Socket(Address::Unix("/nonexistent/socket".into()));
        let upstream = Upstream::new(
            settings(vec![EndpointSettings::at(missing)]),
            &Default::default(),
            1,
            offload(),
            Arc::default(),
            None,
        );
        let end = upstream.connect(&mut upstream.begin(true)).await.err();
        assert_eq!(
            end,
            Some(End::new(Side::Upstream, Phase::Connect, Cause::Refused))
        );
    });
}

#[test]
fn a_name_is_reached_at_any_of_its_addresses_once_it_has_some() {
    let (_a, good) = listener();
    let bad = SocketAddr::new("::1".parse().unwrap(), nobody().port());
    let name: Arc<str> = "app.test".into();
    run(|| async move {
        let endpoints = vec![EndpointSettings::at(EndpointAddress::Name(
            name.clone(),
            good.port(),
        ))];
        let upstream = Upstream::new(
            settings(endpoints.clone()),
            &Default::default(),
            1,
            offload(),
            Arc::default(),
            None,
        );
        let end = upstream.connect(&mut upstream.begin(true)).await.err();
        assert_eq!(
            end,
            Some(End::new(Side::Upstream, Phase::Connect, Cause::Unresolved))
        );
        upstream.set_addresses(&Resolved {
            host: name,
            port: good.port(),
            addresses: [bad, good].into(),
        });
        assert!(upstream.connect(&mut upstream.begin(true)).await.is_ok());
        assert_eq!(upstream.endpoints()[0].addresses()[0], Address::Tcp(good));
        // The next generation knows what this one has learnt.
        let next = Upstream::new(
            settings(endpoints),
            &Default::default(),
            1,
            offload(),
            Arc::default(),
            Some(&upstream),
        );
        assert!(next.connect(&mut next.begin(true)).await.is_ok());
    });
}

#[test]
fn only_an_upstream_that_did_not_change_goes_on() {
    let before = settings(vec![tcp(nobody())]);
    let upstream = Upstream::new(
        before.clone(),
        &Default::default(),
        1,
        offload(),
        Arc::default(),
        None,
    );
    assert!(upstream.fits(&before, &Default::default()));
    let mut after = before;
    after.pool_idle_max += 1;
    assert!(!upstream.fits(&after, &Default::default()));
}

fn offload() -> Arc<Offload> {
    Offload::absent(Refusal::NoUlp).into()
}
