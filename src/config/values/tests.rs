//! Words that are right and words that are wrong.

use super::*;

#[test]
fn times_have_units() {
    for (text, milliseconds) in [
        ("1ms", 1),
        ("30s", 30_000),
        ("30 s", 30_000),
        ("5m", 300_000),
        ("1m30s", 90_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("007s", 7_000),
    ] {
        assert_eq!(
            Time::parse(text),
            Ok(Time(Duration::from_millis(milliseconds))),
            "{text}"
        );
    }
    for text in [
        "",
        "s",
        "5",
        "0s",
        "0",
        "5x",
        "5S",
        "1.5s",
        "-5s",
        "5s5",
        " 5s",
        "5min",
        "99999999999999999999s",
        "18446744073709551615d",
        "10000000000000000000ms10000000000000000000ms",
        "5µs",
        "五s",
    ] {
        assert!(Time::parse(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in [
        ("0B", 0),
        ("240B", 240),
        ("64KiB", 65_536),
        ("64 KiB", 65_536),
        ("1MiB", 1_048_576),
        ("3GiB", 3 << 30),
        ("1TiB", 1 << 40),
        ("10KB", 10_000),
        ("10kB", 10_000),
        ("10MB", 10_000_000),
    ] {
        assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
    }
    for text in [
        "",
        "64",
        "64k",
        "64K",
        "64m",
        "64KIB",
        "64kib",
        "KiB",
        "-1B",
        "1.5MiB",
        "unlimited",
        "64KiBs",
        "1é",
        "99999999999999999999B",
        "18446744073709551615KiB",
    ] {
        assert!(Size::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_size_in_the_manner_of_others_gets_the_right_one_told() {
    for (text, meant) in [
        ("64k", "64KiB"),
        ("8K", "8KiB"),
        ("1m", "1MiB"),
        ("2G", "2GiB"),
        ("5b", "5B"),
    ] {
        let help = Size::parse(text).unwrap_err().help;
        assert!(help.contains(&format!("\"{meant}\"")), "{text}: {help}");
    }
}

#[test]
fn a_bound_is_a_size_or_unlimited() {
    assert_eq!(Bound::parse("unlimited"), Ok(Bound(None)));
    assert_eq!(Bound::parse("0B"), Ok(Bound(Some(0))));
    assert!(Bound::parse("none").unwrap_err().help.contains("unlimited"));
}

#[test]
fn endpoints_are_addresses_names_or_sockets() {
    let named = |host: &str, port| Ok(Endpoint(EndpointAddress::Name(host.into(), port)));
    let tcp = |text: &str| {
        Ok(Endpoint(EndpointAddress::Socket(Address::Tcp(
            text.parse().unwrap(),
        ))))
    };
    let unix = |text: &str| Ok(Endpoint(EndpointAddress::Socket(Address::Unix(text.into()))));
    assert_eq!(Endpoint::parse("127.0.0.1:3000"), tcp("127.0.0.1:3000"));
    assert_eq!(Endpoint::parse("[::1]:3000"), tcp("[::1]:3000"));
    assert_eq!(Endpoint::parse("app:80"), named("app", 80));
    assert_eq!(
        Endpoint::parse("My-App_1.internal:80"),
        named("my-app_1.internal", 80)
    );
    assert_eq!(Endpoint::parse("unix:/run/app.sock"), unix("/run/app.sock"));
    for text in [
        "",
        ":80",
        "app",
        "app:",
        "app:0",
        "app:65536",
        "::1",
        "[::1]",
        "127.0.0.1",
        "127.0.0.1:0",
        "256.1.1.1:80",
        "10.0.0:80",
        "1.2.3.4.5:80",
        "app.1.:80",
        "-a:80",
        "a..b:80",
        "a b:80",
        "a/b:80",
        "http://a:80",
        "unix:",
        "unix:app.sock",
        "/run/app.sock",
        "é:80",
    ] {
        assert!(Endpoint::parse(text).is_err(), "{text}");
    }
    assert!(Endpoint::parse(&format!("unix:/{}", "x".repeat(107))).is_err());
}

#[test]
fn hosts_have_at_most_one_wildcard_in_front() {
    let exact = |text: &str| Ok(Host(route::HostPattern::Exact(text.into())));
    let wildcard = |text: &str| Ok(Host(route::HostPattern::Wildcard(text.into())));
    assert_eq!(Host::parse("A.Example."), exact("a.example"));
    assert_eq!(Host::parse("127.0.0.1"), exact("127.0.0.1"));
    assert_eq!(Host::parse("[::1]"), exact("[::1]"));
    assert_eq!(Host::parse("*.a.example"), wildcard("a.example"));
    for text in [
        "",
        "*",
        "*.",
        "*.a.*",
        "a.*",
        "**.a",
        "*a.example",
        "a:80",
        "http://a",
        "a b",
        "a/b",
        "[::1",
        "é.example",
    ] {
        assert!(Host::parse(text).is_err(), "{text}");
    }
}

#[test]
fn paths_are_as_urls_have_them() {
    for text in ["/", "/x", "/x/", "/x/y.html", "/caf%C3%A9", "/~a/@b"] {
        assert_eq!(UrlPath::parse(text), Ok(UrlPath(text.to_owned())));
    }
    for text in [
        "", "x", "/x?y", "/x#y", "/*", "/a/./b", "/..", "/a//b", "/a b", "/é", "/a\u{7f}",
    ] {
        assert!(UrlPath::parse(text).is_err(), "{text}");
    }
}

#[test]
fn redirects_lead_to_urls_or_paths() {
    for text in [
        "/",
        "/new{uri}",
        "https://{host}{uri}",
        "http://a.example/{path}?{query}",
        "{path}",
    ] {
        assert!(Template::parse(text).is_ok(), "{text}");
    }
    for text in [
        "",
        "a.example",
        "https://{",
        "https://{hst}",
        "https://a b",
        "ftp://a",
        "https://a/\r\nX: y",
        "https://$host$request_uri",
    ] {
        assert!(Template::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn files_stay_below_their_root() {
    for text in ["index.html", "a b", ".x"] {
        assert!(FileName::parse(text).is_ok(), "{text}");
        assert!(FileBelow::parse(text).is_ok(), "{text}");
    }
    assert!(FileBelow::parse("app/index.html").is_ok());
    for text in ["", ".", "..", "a/b", "/a", "a\0"] {
        assert!(FileName::parse(text).is_err(), "{text:?}");
    }
    for text in ["", ".", "..", "a/../b", "/a", "a//b", "a/", "a\0"] {
        assert!(FileBelow::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn networks_are_written_as_networks() {
    for text in ["10.0.0.0/8", "::/0", "fd00::/8", "192.0.2.7", "::1"] {
        assert!(Network::parse(text).is_ok(), "{text}");
    }
    for text in [
        "",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "a.example",
        "10.0.0",
        "10.0.0.0/-1",
    ] {
        assert!(Network::parse(text).is_err(), "{text}");
    }
}

/// What a help puts in quotes has to be right itself.
fn helps_hold<T: Word + fmt::Debug>(words: &[&str]) {
    for word in words {
        let wrong = T::parse(word).unwrap_err();
        for (at, suggested) in wrong.help.split('"').enumerate().filter(|(at, _)| at % 2 == 1) {
            assert!(T::parse(suggested).is_ok(), "{word:?}: {} ({at})", wrong.help);
        }
    }
}

#[test]
fn what_is_suggested_is_right_itself() {
    helps_hold::<Time>(&["", "5", "0", "00", "-5", "1.5s", "5min", "99999999999999999999"]);
    helps_hold::<Size>(&["", "64", "64k", "1.5MiB", "99999999999999999m", "m"]);
    helps_hold::<UrlPath>(&[
        "", "api", "~ ^/a", "~^/a", "^~ /a", "= /a", "=/a", "*", "/*", "/api/*", "/a b/*", "/a b?x", "/a?b",
        "/a/../b", "a/../b", "/a%zz", "/%%", "/100%", "/ü",
    ]);
    helps_hold::<CheckTarget>(&["health", "a b", "http://a/b", "/#"]);
    helps_hold::<Endpoint>(&[
        "app",
        "my app",
        "app:0",
        "my app:0",
        "http://app",
        "http://app:8080/x/",
        "https://app",
        "https://[::1]/",
        "http://my app",
        "/run/a.sock",
        "::1",
        "::1:3000",
        "srv:app.internal:80",
        "srv:_a._tcp.b:80",
        "1.2.3:80",
    ]);
    helps_hold::<Template>(&[
        "www.a.test",
        "{host}/b",
        "{query}",
        "ftp://a.test/",
        "$host",
        "{uri",
    ]);
    helps_hold::<FileBelow>(&["/index.html", "/../a", "", "a//b"]);
}

#[test]
fn a_time_is_written_as_it_is_read() {
    for milliseconds in [1, 999, 1000, 1500, 60_000, 90_001] {
        let time = Time(Duration::from_millis(milliseconds));
        assert_eq!(Time::parse(&time.to_string()), Ok(time));
    }
}

#[test]
fn a_redirect_begins_with_a_scheme_or_a_path() {
    for text in [
        "/a",
        "https://{host}{uri}",
        "{uri}",
        "{path}?x",
        "/?{query}",
        "//b.test{uri}",
    ] {
        assert!(Template::parse(text).is_ok(), "{text}");
    }
    for text in ["{host}/b", "{host}", "{query}", "a.test"] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
}
