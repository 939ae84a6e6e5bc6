//! What answers make of an upstream, by data.

use super::*;
use crate::runtime::Address;
use crate::upstream::tests::settings;

fn source(host: &str, port: u16) -> Source {
    Source::Name(host.into(), port)
}

fn server(addresses: &[&str]) -> Server {
    Server {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        weight: None,
        is_backup: false,
    }
}

fn name(host: &str, port: u16) -> EndpointSettings {
    EndpointSettings::at(EndpointAddress::Name(host.into(), port))
}

fn told(settings: &Settings) -> Vec<(String, u32, bool)> {
    let all = settings.endpoints.iter();
    all.map(|one| (one.address.to_string(), one.weight, one.is_backup))
        .collect()
}

fn plain(names: &[&str]) -> Vec<(String, u32, bool)> {
    names.iter().map(|name| ((*name).to_owned(), 1, false)).collect()
}

#[test]
fn each_address_is_an_endpoint_and_two_families_are_two_ways_to_it() {
    let table: [(&[&str], &[&[&str]]); 5] = [
        (
            &["10.0.0.2", "10.0.0.1", "10.0.0.2"],
            &[&["10.0.0.1:80"], &["10.0.0.2:80"]],
        ),
        (
            &["10.0.0.1", "2001:db8::1"],
            &[&["[2001:db8::1]:80", "10.0.0.1:80"]],
        ),
        (
            &["2001:db8::2", "2001:db8::1"],
            &[&["[2001:db8::1]:80"], &["[2001:db8::2]:80"]],
        ),
        (
            &["10.0.0.2", "10.0.0.1", "2001:db8::1"],
            &[&["[2001:db8::1]:80", "10.0.0.1:80"], &["10.0.0.2:80"]],
        ),
        (&[], &[]),
    ];
    for (addresses, wanted) in table {
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let found: Vec<Vec<String>> = servers(&addresses, 80)
            .iter()
            .map(|server| server.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(found, wanted, "{addresses:?}");
    }
    let many: Vec<IpAddr> = (0..5000_u32)
        .map(|ip| std::net::Ipv4Addr::from(ip).into())
        .collect();
    assert_eq!(servers(&many, 80).len(), SERVERS_MAX);
}

#[test]
fn names_become_what_was_found_and_nothing_else_changes() {
    let fixed = EndpointSettings::at(EndpointAddress::Socket(Address::Tcp(
        "10.0.0.9:80".parse().unwrap(),
    )));
    let written = settings(vec![
        EndpointSettings {
            weight: 3,
            ..name("app.test", 80)
        },
        fixed,
        EndpointSettings {
            is_backup: true,
            ..name("spare.test", 80)
        },
    ]);
    let mut answers = Answers::new();
    // Those without an answer are left out while others can be asked.
    assert_eq!(told(&expand(&written, &answers)), plain(&["10.0.0.9:80"]));
    let both = [server(&["10.0.0.1:80"]), server(&["10.0.0.2:80"])];
    answers.insert(source("app.test", 80), both.into());
    answers.insert(source("app.test", 81), [server(&["10.0.0.7:81"])].into());
    answers.insert(source("spare.test", 80), [server(&["10.0.0.3:80"])].into());
    let expanded = expand(&written, &answers);
    let wanted = [
        ("10.0.0.1:80", 3, false),
        ("10.0.0.2:80", 3, false),
        ("10.0.0.9:80", 1, false),
        ("10.0.0.3:80", 1, true),
    ];
    assert_eq!(
        told(&expanded),
        wanted.map(|(name, weight, backup)| (name.to_owned(), weight, backup))
    );
    assert!(expanded.is_written_like(&written) && !expanded.is_same(&written));
    assert_eq!(told(&expand(&expanded, &Answers::new())), plain(&["10.0.0.9:80"]));
}

#[test]
fn a_name_without_an_answer_stands_for_itself_where_nobody_else_can_be_asked() {
    let written = settings(vec![name("app.test", 80)]);
    assert_eq!(told(&expand(&written, &Answers::new())), plain(&["app.test:80"]));
}

#[test]
fn two_names_of_one_server_are_one_endpoint() {
    let written = settings(vec![name("a.test", 80), name("b.test", 80)]);
    let mut answers = Answers::new();
    for host in ["a.test", "b.test"] {
        answers.insert(source(host, 80), [server(&["10.0.0.1:80"])].into());
    }
    assert_eq!(told(&expand(&written, &answers)), plain(&["10.0.0.1:80"]));
}

#[test]
fn the_records_of_a_service_tell_weights_and_backups() {
    let service: Arc<str> = "_http._tcp.app.test".into();
    let written = settings(vec![EndpointSettings::at(EndpointAddress::Service(
        service.clone(),
    ))]);
    let mut answers = Answers::new();
    let servers = [("10.0.0.1:80", 60, false), ("10.0.0.2:81", 1, true)];
    let servers = servers.map(|(address, weight, is_backup)| Server {
        weight: Some(weight),
        is_backup,
        ..server(&[address])
    });
    answers.insert(Source::Service(service), servers.into());
    let expanded = expand(&written, &answers);
    let wanted = [("10.0.0.1:80", 60, false), ("10.0.0.2:81", 1, true)];
    assert_eq!(
        told(&expanded),
        wanted.map(|(name, weight, backup)| (name.to_owned(), weight, backup))
    );
    let EndpointAddress::Found(found) = &expanded.endpoints[0].address else {
        panic!("{expanded:?}");
    };
    assert_eq!((&*found.host, &*found.authority), ("app.test", "app.test"));
}

#[test]
fn answers_are_kept_for_as_long_as_they_say_within_bounds() {
    let resolver = Resolver::default();
    for (says, kept) in [(0, 1), (1, 1), (30, 30), (60, 60), (86_400, 60)] {
        assert_eq!(
            resolver.keeps(Duration::from_secs(says)),
            Duration::from_secs(kept)
        );
    }
}
