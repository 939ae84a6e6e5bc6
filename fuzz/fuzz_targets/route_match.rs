//! However a path is spelt, it finds the route it names.

#![no_main]

use std::sync::{Arc, LazyLock};

use atlas::http::Fields;
use atlas::route::{Action, Asked, Found, HostPattern, PathPattern, Retry, Route, Table};
use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let prefix = |path: &str| PathPattern::Prefix(path.to_owned());
    let routes = vec![
        route(1, HostPattern::Any, prefix("/")),
        route(2, HostPattern::Any, prefix("/a")),
        route(3, HostPattern::Any, prefix("/a/b")),
        route(4, HostPattern::Any, PathPattern::Exact("/a/b/c".to_owned())),
        route(5, HostPattern::Exact("a.test".to_owned()), prefix("/a")),
        route(6, HostPattern::Wildcard("test".to_owned()), prefix("/b")),
    ];
    Table::new(routes).expect("no two of them tie")
});

fuzz_target!(|data: (&str, &str)| {
    let (host, path) = data;
    if !path.starts_with('/') {
        return;
    }
    let found = number(host, path);
    assert_eq!(found, number(host, &format!("/.{path}")), "a dot segment changes nothing");
    assert_eq!(found, number(&host.to_ascii_uppercase(), path), "hosts have no case");
    if let Some(rest) = path.strip_prefix("/a") {
        assert_eq!(found, number(host, &format!("/%61{rest}")), "an encoded letter is the letter");
    }
});

fn number(host: &str, path: &str) -> Option<usize> {
    let fields = Fields::new();
    let asked = Asked {
        listener: 0,
        method: &Method::GET,
        authority: Some(host),
        path,
        fields: &fields,
    };
    match TABLE.find_for(&asked) {
        Found::Route(route) => Some(route.number),
        _ => None,
    }
}

fn route(number: usize, host: HostPattern, path: PathPattern) -> Route {
    Route {
        number,
        host,
        path,
        methods: Vec::new(),
        headers: Vec::new(),
        listener: None,
        action: Action::Respond {
            status: StatusCode::OK,
            body: Arc::from(""),
            content_type: Arc::from("text/plain"),
        },
        strip_prefix: false,
        retry: Retry::default(),
        mirror: None,
    }
}
