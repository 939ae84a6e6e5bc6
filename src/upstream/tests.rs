//! Which endpoint is asked, and where connections come from; endpoints are std listeners.

use std::net::{SocketAddr, TcpListener};

use super::*;
use crate::outcome::Refusal;
use crate::runtime::tests::nobody;
use crate::runtime::{self, Address, Preference};

pub(super) fn settings(endpoints: Vec<EndpointSettings>) -> Settings {
    Settings {
        name: "app".into(),
        written: endpoints.as_slice().into(),
        from_file: None,
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
        pool_lifetime: Duration::from_secs(3600),
        counted: Default::default(),
        health: health::Settings::default(),
        http2: false,
        http2_window_bytes: http::h2::client::WINDOW_BYTES,
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
            Some(End::new(Side::Upstream, Phase::Connect, Cause::Unreachable))
        );
    });
}

fn found(addresses: &[SocketAddr]) -> EndpointSettings {
    EndpointSettings::at(EndpointAddress::Found(Arc::new(Found {
        host: "app.test".into(),
        authority: "app.test:80".into(),
        addresses: addresses.to_vec(),
    })))
}

fn upstream(settings: &Settings, previous: Option<&Upstream>) -> Upstream {
    let http = Default::default();
    Upstream::new(settings.clone(), &http, 1, offload(), Arc::default(), previous)
}

#[test]
fn a_name_without_an_address_says_so_and_is_reached_at_any_it_has_later() {
    let (_a, good) = listener();
    let bad = SocketAddr::new("::1".parse().unwrap(), nobody().port());
    run(|| async move {
        let name = EndpointAddress::Name("app.test".into(), good.port());
        let written = settings(vec![EndpointSettings::at(name)]);
        let before = upstream(&written, None);
        let end = before.connect(&mut before.begin(true)).await.err();
        assert_eq!(
            end,
            Some(End::new(Side::Upstream, Phase::Connect, Cause::Unresolved))
        );
        let settings = Settings {
            endpoints: vec![found(&[bad, good])],
            ..written.clone()
        };
        let after = before.with_found(&settings).unwrap();
        let (_, slot) = after.connect(&mut after.begin(true)).await.unwrap();
        assert_eq!(slot.endpoint().name(), good.to_string(), "known by that of IPv4");
        assert_eq!(slot.endpoint().authority(), "app.test:80");
        assert_eq!(after.endpoints()[0].addresses()[0], Address::Tcp(good));
        // The next generation knows what this one has learnt.
        let next = upstream(&settings, Some(&after));
        assert_eq!(next.endpoints()[0].addresses()[0], Address::Tcp(good));
        assert!(next.connect(&mut next.begin(true)).await.is_ok());
        assert!(after.with_found(&settings).is_none(), "nothing has changed");
    });
}

#[test]
fn an_address_that_does_not_answer_holds_up_nobody() {
    // A queue that is full: the kernel drops what comes after it.
    let hole = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    hole.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    hole.listen(0).unwrap();
    let silent = hole.local_addr().unwrap().as_socket().unwrap();
    let _in_queue = std::net::TcpStream::connect(silent).unwrap();
    let (_a, good) = listener();
    run(|| async move {
        let settings = Settings {
            endpoints: vec![found(&[silent, good])],
            connect_timeout: Duration::from_secs(60),
            ..settings(Vec::new())
        };
        let reached = upstream(&settings, None);
        for _ in 0..2 {
            let started = now();
            reached.connect(&mut reached.begin(true)).await.unwrap();
            assert!(
                now() - started < Duration::from_secs(10),
                "the next one is tried meanwhile"
            );
            assert_eq!(reached.endpoints()[0].addresses()[0], Address::Tcp(good));
        }
        let alone = Settings {
            endpoints: vec![found(&[silent]), found(&[silent, silent])],
            connect_timeout: Duration::from_millis(300),
            ..settings
        };
        let alone = upstream(&alone, None);
        let end = alone.connect(&mut alone.begin(true)).await.err();
        assert_eq!(
            end,
            Some(End::new(Side::Upstream, Phase::Connect, Cause::TimedOut))
        );
    });
}

#[test]
fn idle_connections_that_grow_old_together_are_let_go_of_bit_by_bit() {
    let (_a, at) = listener();
    run(|| async move {
        let upstream = upstream(&settings(vec![tcp(at)]), None);
        let (pool, times) = (&upstream.endpoints[0].pool, upstream.settings.pool_times());
        let opened = now();
        let fill = async || {
            for _ in 0..40 {
                let (transport, _) = upstream.connect(&mut upstream.begin(true)).await.unwrap();
                let idle = pool::Idle {
                    connection: Box::new(Connection::new(transport, upstream.limits.clone())),
                    address: Address::Tcp(at),
                    since: opened,
                    opened,
                };
                pool.give_back(idle, 40, times);
            }
        };
        fill().await;
        pool.sweep(opened, times);
        assert_eq!(pool.len(), 40);
        let later = opened + times.idle;
        pool.sweep(later, times);
        assert_eq!(pool.len(), 8);
        assert!(
            pool.take(later, times, true).is_none(),
            "none that is too old is used"
        );
        pool.sweep(later, times);
        assert_eq!(pool.len(), 0);
        fill().await;
        let short = pool::Times {
            lifetime: times.idle / 2,
            ..times
        };
        assert!(pool.take(opened + short.lifetime, short, true).is_none());
        assert_eq!(pool.len(), 8, "a new one is better than a look at all");
    });
}

#[test]
fn an_endpoint_that_stays_keeps_its_health_and_what_is_under_way() {
    let (_a, first) = listener();
    let (_b, second) = listener();
    run(|| async move {
        let of = |endpoints: &[SocketAddr]| Settings {
            written: Vec::new().into(),
            endpoints: endpoints.iter().map(|at| found(&[*at])).collect(),
            ..settings(Vec::new())
        };
        let before = upstream(&of(&[first]), None);
        let (_, slot) = before.connect(&mut before.begin(true)).await.unwrap();
        before.set_down(&before.endpoints[0], true);
        let after = before.with_found(&of(&[second, first])).unwrap();
        assert!(Rc::ptr_eq(&after.endpoints[1].pool, &before.endpoints[0].pool));
        assert!(after.endpoints[1].health.is_down() && !after.endpoints[0].health.is_down());
        assert_eq!((after.endpoints[1].load(), after.endpoints[0].load()), (1, 0));
        drop(slot);
        assert_eq!(after.endpoints[1].load(), 0);
    });
}

#[test]
fn what_exchanges_of_the_upstream_before_find_is_heeded() {
    run(|| async {
        let of = |endpoints: &[SocketAddr]| Settings {
            written: Vec::new().into(),
            endpoints: endpoints.iter().map(|at| found(&[*at])).collect(),
            ..settings(Vec::new())
        };
        let (hangs, well, new) = (nobody(), nobody(), nobody());
        let before = upstream(&of(&[hangs, well]), None);
        let after = before.with_found(&of(&[hangs, well, new])).unwrap();
        let later = now() + SWEEP_INTERVAL;
        after.sweep(later);
        for _ in 0..3 {
            before.note(&before.endpoints[0], Outcome::Failed(Cause::TimedOut));
        }
        after.sweep(later + SWEEP_INTERVAL);
        let asked: Vec<_> = (0..6).map(|_| after.choose(&[], None)).collect();
        assert!(
            !asked.contains(&Some(0)),
            "it is ejected, and still asked: {asked:?}"
        );
    });
}

#[test]
fn an_upstream_all_of_whose_endpoints_are_down_is_asked_by_its_successor_at_once() {
    run(|| async {
        let of = |endpoints: &[SocketAddr]| Settings {
            written: Vec::new().into(),
            endpoints: endpoints.iter().map(|at| found(&[*at])).collect(),
            health: health::Settings {
                panic_below: 50,
                ..health::Settings::default()
            },
            ..settings(Vec::new())
        };
        let (one, other) = (nobody(), nobody());
        let before = upstream(&of(&[one, other]), None);
        for endpoint in &before.endpoints {
            before.set_down(endpoint, true);
        }
        assert!(before.choose(&[], None).is_some());
        let after = before.with_found(&of(&[one])).unwrap();
        assert_eq!(after.choose(&[], None), Some(0));
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
