//! Which route is found: by data, and beside a look at every route.

use super::*;

/// `host path [METHOD,METHOD] [name=value] [@listener]`, numbered from 1.
fn route(number: usize, text: &str) -> Route {
    let mut words = text.split(' ');
    let host = match words.next().unwrap() {
        "*" => HostPattern::Any,
        host => match host.strip_prefix("*.") {
            Some(rest) => HostPattern::Wildcard(rest.to_owned()),
            None => HostPattern::Exact(host.to_owned()),
        },
    };
    let path = match words.next().unwrap().strip_prefix('=') {
        Some(exact) => PathPattern::Exact(exact.to_owned()),
        None => PathPattern::Prefix(text.split(' ').nth(1).unwrap().to_owned()),
    };
    let mut route = Route {
        number,
        host,
        path,
        methods: Vec::new(),
        headers: Vec::new(),
        listener: None,
        action: Action::About,
        strip_prefix: false,
        retry: Retry::default(),
        mirror: None,
    };
    for word in words {
        if let Some(listener) = word.strip_prefix('@') {
            route.listener = Some(listener.parse().unwrap());
        } else if let Some((name, value)) = word.split_once('=') {
            route.headers.push((name.to_owned(), value.to_owned()));
        } else {
            route.methods = word.split(',').map(|method| method.parse().unwrap()).collect();
        }
    }
    route
}

fn routes(lines: &[&str]) -> Vec<Route> {
    lines
        .iter()
        .enumerate()
        .map(|(at, line)| route(at + 1, line))
        .collect()
}

/// The number of the route found, 0 for none, or the allowed methods.
fn ask(table: &Table, text: &str) -> String {
    let mut words = text.split(' ');
    let method: Method = words.next().unwrap().parse().unwrap();
    let url = words.next().unwrap();
    let (authority, path) = match url.find('/') {
        Some(at) => url.split_at(at),
        None => ("", url),
    };
    let mut listener = 0;
    let mut fields = Fields::new();
    for word in words {
        match word.strip_prefix('@') {
            Some(number) => listener = number.parse().unwrap(),
            None => {
                let (name, value) = word.split_once('=').unwrap();
                fields.push(name, value);
            }
        }
    }
    let found = table.find_for(&Asked {
        listener,
        method: &method,
        authority: Some(authority).filter(|authority| !authority.is_empty()),
        path,
        fields: &fields,
    });
    match found {
        Found::Route(route) => route.number.to_string(),
        Found::NoRoute => "none".to_owned(),
        Found::Outside => "outside".to_owned(),
        Found::MethodNotAllowed(methods) => methods.iter().map(Method::as_str).collect::<Vec<_>>().join(","),
    }
}

#[test]
fn the_most_specific_route_is_found() {
    let table = Table::new(routes(&[
        "a.test /",             // 1
        "a.test /api",          // 2
        "a.test =/api",         // 3
        "*.test /",             // 4
        "* /",                  // 5
        "a.test /api POST",     // 6
        "a.test /api POST x=1", // 7
        "a.test /api/v1/",      // 8
        "* / @7",               // 9
        "[::1] /",              // 10
        "only.test /put PUT",   // 11
        "* /@me",               // 12
    ]))
    .unwrap();
    for (asked, number) in [
        ("GET a.test/", "1"),
        ("GET A.Test:8443/x", "1"),
        ("GET a.test./x", "1"),
        ("GET a.test/api", "3"),
        ("GET a.test/api/", "2"),
        ("GET a.test/apix", "1"),
        ("GET a.test/api/x", "2"),
        ("POST a.test/api/x", "6"),
        ("POST a.test/api/x x=1", "7"),
        ("POST a.test/api/x x=2 X=1", "7"),
        ("GET a.test/api/v1", "2"),
        ("GET a.test/api/v1/", "8"),
        ("GET a.test/api/v1/x", "8"),
        ("GET b.test/api", "4"),
        ("GET c.b.test/", "5"),
        ("GET .test/", "5"),
        ("GET test/", "5"),
        ("GET other/", "5"),
        ("GET /", "5"),
        ("GET other/ @7", "9"),
        ("GET [0:0::1]:443/", "10"),
        ("GET [::2]/", "5"),
        ("OPTIONS *", "5"),
        ("GET only.test/put", "4"),
        ("GET x/%40me", "12"),
        // Other spellings do not dodge a route.
        ("GET a.test/%61pi/x", "2"),
        ("GET a.test/x/../api/x", "2"),
        ("GET a.test/x/%2e%2E/api/x", "2"),
        ("GET a.test//api//x", "2"),
        ("GET a.test/./api/./x", "2"),
        ("GET a.test/api/../x", "1"),
        ("GET a.test/api%2Fx", "1"),
        ("GET a.test/../x", "outside"),
        ("GET a.test/x/../../x", "outside"),
        ("GET a.test/%2e%2e", "outside"),
    ] {
        assert_eq!(ask(&table, asked), number, "{asked}");
    }
}

#[test]
fn a_method_that_no_route_takes_is_told_which_are_taken() {
    let table = Table::new(routes(&[
        "* /a GET",
        "* /a POST",
        "* /b HEAD",
        "* /b GET",
        "* /a/b DELETE x=1",
    ]))
    .unwrap();
    for (asked, answer) in [
        ("GET h/a", "1"),
        ("HEAD h/a", "1"),
        ("POST h/a", "2"),
        ("PUT h/a", "GET,HEAD,POST"),
        ("HEAD h/b", "3"),
        ("GET h/b", "4"),
        ("PUT h/a/b", "GET,HEAD,POST"),
        ("PUT h/a/b x=1", "DELETE,GET,HEAD,POST"),
        ("PUT h/c", "none"),
    ] {
        assert_eq!(ask(&table, asked), answer, "{asked}");
    }
}

#[test]
fn routes_that_tie_are_refused() {
    for (lines, expected) in [
        (&["a /x", "a /x"][..], Some((0, 1))),
        (&["* /", "* /"], Some((0, 1))),
        (&["a /x", "a =/x"], None),
        (&["a /x", "*.a /x"], None),
        (&["a /x", "A. /%78"], Some((0, 1))),
        (&["a /x GET", "a /x POST"], None),
        (&["a /x GET,PUT", "a /x POST,PUT"], Some((0, 1))),
        (&["a /x GET", "a /x n=1"], None),
        (&["a /x GET", "a /x GET n=1"], None),
        (&["a /x n=1", "a /x n=2"], None),
        (&["a /x n=1", "a /x m=2"], Some((0, 1))),
        (&["a /x @1", "a /x @2"], None),
        (&["a /x @1", "b /y", "a /x GET"], None),
        (&["a /x @1", "b /y", "a /x @1"], Some((0, 2))),
    ] {
        let ties = Table::new(routes(lines)).err().unwrap_or_default();
        let expected: Vec<_> = expected
            .map(|(first, second)| Tie { first, second })
            .into_iter()
            .collect();
        assert_eq!(ties, expected, "{lines:?}");
    }
}

#[test]
fn each_of_many_routes_that_tie_is_told_once() {
    let lines = ["a /x", "b /", "a /x", "a /x GET", "a /x", "a /x GET"];
    let ties = Table::new(routes(&lines)).unwrap_err();
    let pairs: Vec<_> = ties.iter().map(|tie| (tie.first, tie.second)).collect();
    assert_eq!(pairs, [(0, 2), (0, 4), (3, 5)]);
}

/// Looks at every route, as the rules say it.
fn naive<'t>(routes: &'t [Route], asked: &Asked<'_>) -> Option<&'t Route> {
    let path = normal::path(asked.path)?;
    let host = normal::host(asked.authority.unwrap_or(""));
    let rank = |route: &Route| {
        let host_rank = match &route.host {
            HostPattern::Exact(wanted) => (*wanted == host).then_some(2)?,
            HostPattern::Wildcard(rest) => (host.split_once('.')?.1 == rest).then_some(1)?,
            HostPattern::Any => 0,
        };
        let path_rank = match &route.path {
            PathPattern::Exact(wanted) => (*wanted == path).then_some((1, 0))?,
            PathPattern::Prefix(prefix) => is_below(&path, prefix).then_some((0, prefix.len()))?,
        };
        let takes = takes_all_but_method(route, asked)
            && (route.methods.is_empty() || route.methods.contains(asked.method));
        takes.then(|| (host_rank, path_rank, rank(route)))
    };
    routes
        .iter()
        .filter_map(|route| rank(route).map(|rank| (rank, route)))
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, route)| route)
}

#[test]
fn the_table_finds_what_a_look_at_every_route_finds() {
    let mut random = fastrand::Rng::with_seed(7);
    let hosts = ["*", "a.t", "b.t", "*.t", "*.a.t"];
    let paths = [
        "/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "=/a", "=/a/b", "=/",
    ];
    let conditions = ["", " GET", " POST", " GET n=1", " n=1", " @0", " n=2", " POST @1"];
    let mut compared = 0;
    for _ in 0..2000 {
        let mut lines = Vec::new();
        for _ in 0..random.usize(1..8) {
            let host = random.choice(hosts).unwrap();
            let path = random.choice(paths).unwrap();
            lines.push(format!("{host} {path}{}", random.choice(conditions).unwrap()));
        }
        let all: Vec<_> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| route(at + 1, line))
            .collect();
        let Ok(table) = Table::new(all.clone()) else {
            continue;
        };
        for _ in 0..30 {
            let mut path = String::new();
            for _ in 0..random.usize(1..5) {
                path.push('/');
                path.push_str(random.choice(["a", "b", "ab", "c", "", ".."]).unwrap());
            }
            let mut fields = Fields::new();
            if random.bool() {
                fields.push("n", if random.bool() { "1" } else { "2" });
            }
            let method = if random.bool() { Method::GET } else { Method::POST };
            let asked = Asked {
                listener: random.usize(0..2),
                method: &method,
                authority: random.choice(["a.t", "b.t", "x.a.t", "c.t", "z"]),
                path: &path,
                fields: &fields,
            };
            let found = match table.find_for(&asked) {
                Found::Route(route) => Some(route.number),
                _ => None,
            };
            let expected = naive(&all, &asked).map(|route| route.number);
            assert_eq!(found, expected, "{lines:?} {method} {:?}{path}", asked.authority);
            // Whoever asks why is told a reason for each route, unless it is the method.
            let unmet = table.nearest(&asked, 1).remove(0).1;
            let is_met = !matches!(table.find_for(&asked), Found::NoRoute | Found::Outside);
            assert_eq!(unmet.is_empty(), is_met, "{lines:?} {:?}{path}", asked.authority);
            compared += 1;
        }
    }
    assert!(compared > 10_000);
}

#[test]
fn a_path_has_one_spelling() {
    for (sent, normal) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/", "/a/"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/a/..", "/"),
        ("/a/../", "/"),
        ("/.", "/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("//", "/"),
        ("/%7Ea", "/~a"),
        ("/%2fa", "/%2Fa"),
        ("/%2", "/%252"),
        ("/%zz", "/%25zz"),
        ("/ü", "/%C3%BC"),
        ("/%c3%bc", "/%C3%BC"),
        ("/a%00b", "/a%00b"),
        ("*", "/"),
    ] {
        assert_eq!(normal::path(sent).as_deref(), Some(normal), "{sent}");
    }
}
