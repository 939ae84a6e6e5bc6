//! What the command line takes.

use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split(' '))
}

#[test]
fn the_command_line_is_well_formed() {
    Arguments::command().debug_assert();
}

#[test]
fn plain_atlas_runs_the_default_file() {
    let arguments = parse("atlas").unwrap();
    assert!(arguments.command.is_none());
    assert_eq!(arguments.file.path, PathBuf::from("/etc/atlas/atlas.toml"));
    assert!(!arguments.test);
}

#[test]
fn old_habits_of_testing_a_configuration_work() {
    for line in ["atlas -t -c a.toml", "atlas -T -c a.toml", "atlas -tc a.toml"] {
        let arguments = parse(line).unwrap();
        assert!(arguments.test, "{line}");
        assert_eq!(arguments.file.path, PathBuf::from("a.toml"), "{line}");
    }
}

#[test]
fn each_command_is_taken() {
    for line in [
        "atlas -c a.toml",
        "atlas run",
        "atlas run -c a.toml",
        "atlas check --config a.toml",
        "atlas check -c a.toml --format json",
        "atlas demo",
        "atlas doctor",
        "atlas doctor -c a.toml --format json",
        "atlas explain https://a.example/",
        "atlas explain -c a.toml --format json -X POST -H X-A:b https://a.example/",
        "atlas fetch https://a.example/",
        "atlas fetch -X PATCH -d x -H A:b -o f -k -v -i -f -L -s --no-ktls --http1.1 a.example",
        "atlas fetch -I --cacert f --connect-timeout 1s --timeout 2m http://[::1]:80/",
        "atlas version",
        "atlas version --format json",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn what_is_not_there_is_refused() {
    for line in [
        "atlas doctor a.toml",
        "atlas fetch",
        "atlas fetch -X CONNECT a.example",
        "atlas fetch -H Content-Length:5 a.example",
        "atlas fetch -H Transfer-Encoding:chunked a.example",
        "atlas fetch -k --cacert f a.example",
        "atlas fetch -I -d x a.example",
        "atlas fetch --timeout 5 a.example",
        "atlas fetch ftp://a.example",
        "atlas -t run",
        "atlas explain",
        "atlas check --format xml",
        "atlas -c a.toml run",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn habits_of_other_servers_get_a_tip() {
    for (line, word) in [
        ("atlas reload", "kill -HUP"),
        ("atlas -s reload", "kill -HUP"),
        ("atlas stop", "kill -TERM"),
        ("atlas start", "atlas run"),
        ("atlas validate", "atlas check"),
        ("atlas a.toml", "-c FILE"),
        ("atlas run a.toml", "-c FILE"),
        ("atlas -c a.toml run", "atlas run -c FILE"),
        ("atlas -t run", "atlas run -c FILE"),
    ] {
        let tip = tip(&parse(line).unwrap_err()).unwrap_or_else(|| panic!("no tip for {line}"));
        assert!(tip.contains(word), "{line}: {tip}");
    }
    for line in [
        "atlas frobnicate",
        "atlas fetch -k --cacert f a.example",
        "atlas fetch -I -d x a.example",
    ] {
        assert_eq!(tip(&parse(line).unwrap_err()), None, "{line}");
    }
}
