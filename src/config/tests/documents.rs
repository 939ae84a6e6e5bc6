//! The example and the documentation against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::super::file::TABLES;
use super::super::read::Table;
use super::super::{Loaded, Report, parse};
use super::{folder, project, same_as_file};

fn example() -> String {
    fs::read_to_string(project("atlas.toml.example")).unwrap()
}

/// The example with every option on.
fn example_in_full() -> String {
    let is_off = |line: &str| {
        let mut letters = line.chars();
        letters.next() == Some('#')
            && letters
                .next()
                .is_some_and(|letter| letter.is_ascii_alphabetic() || letter == '[')
    };
    let lines = example();
    let on = lines
        .lines()
        .map(|line| if is_off(line) { &line[1..] } else { line });
    on.fold(String::new(), |all, line| all + line + "\n")
}

/// Loads a text with the example's paths, which this machine may not have, replaced by some it has.
fn load_here(text: &str, folder: &Path) -> Result<Loaded, Report> {
    let mut text = text.to_owned();
    for (there, here) in [
        ("/etc/ssl/certs/server.crt", "good.crt"),
        ("/etc/ssl/private/server.key", "good.key"),
        ("/etc/ssl/certs/other.crt", "other.crt"),
        ("/etc/ssl/private/other.key", "other.key"),
        ("/etc/ssl/certs/client.crt", "good.crt"),
        ("/etc/ssl/private/client.key", "good.key"),
        ("/etc/ssl/certs/internal-ca.crt", "other.crt"),
        ("/var/www/static", "www"),
        ("/etc/atlas/endpoints.json", "endpoints.json"),
    ] {
        text = text.replace(there, here);
    }
    parse("atlas.toml.example", &text, folder)
}

/// What is written for each key of each table.
fn written(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut tables: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut header = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            header = match line.trim_matches(['[', ']']) {
                "listen" => "[[listen]]".to_owned(),
                name if name.starts_with("upstream.") && name.ends_with(".tls") => {
                    "[upstream.NAME.tls]".to_owned()
                }
                name if name.starts_with("upstream.") && name.ends_with(".health") => {
                    "[upstream.NAME.health]".to_owned()
                }
                name if name.starts_with("upstream.") && name.ends_with(".outliers") => {
                    "[upstream.NAME.outliers]".to_owned()
                }
                name if name.starts_with("upstream.") && name.ends_with(".sticky") => {
                    "[upstream.NAME.sticky]".to_owned()
                }
                name if name.starts_with("upstream.") && name.ends_with(".endpoints") => {
                    "[[upstream.NAME.endpoints]]".to_owned()
                }
                name if name.starts_with("upstream.") => "[upstream.NAME]".to_owned(),
                _ => line.to_owned(),
            };
            tables.entry(header.clone()).or_default();
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let table = tables.entry(header.clone()).or_default();
            table.push((key.to_owned(), value.to_owned()));
        }
    }
    tables
}

fn is_subtable(table: &Table, key: &str) -> bool {
    let parent = table.header.trim_matches(['[', ']']);
    let name = if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    };
    TABLES.iter().any(|other| {
        let other = other.header.trim_matches(['[', ']']);
        other == name || other == format!("{name}.NAME")
    })
}

#[test]
fn the_example_configuration_loads() {
    let folder = folder();
    let loaded = load_here(&example(), folder.path()).unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let full = load_here(&example_in_full(), folder.path()).unwrap_or_else(|report| panic!("{report}"));
    assert!(full.warnings.is_empty(), "{}", full.warnings);
    assert_eq!(full.generation.listeners.len(), 3);
    assert_eq!(full.generation.routes.routes().len(), 6);
}

#[test]
fn every_option_is_in_the_example() {
    let written = written(&example_in_full());
    for table in TABLES {
        let keys = written.get(table.header);
        assert!(keys.is_some(), "{} is not in the example", table.header);
        for key in table.keys {
            let is_there = keys.is_some_and(|keys| keys.iter().any(|(name, _)| name == key.name));
            assert!(
                is_there || is_subtable(table, key.name),
                "`{}` of `{}` is not in the example",
                key.name,
                table.header
            );
        }
    }
}

#[test]
fn the_example_shows_the_defaults() {
    let written = written(&example_in_full());
    for table in TABLES {
        for key in table.keys {
            let is_value = key.default.starts_with(['"', '[']) || key.default.parse::<u64>().is_ok();
            if !is_value && !matches!(key.default, "true" | "false") || key.default == "\"\"" {
                continue;
            }
            let values: BTreeSet<_> = written[table.header]
                .iter()
                .filter(|(name, _)| name == key.name)
                .map(|(_, value)| value.as_str())
                .collect();
            assert!(
                values.contains(key.default),
                "`{}` of `{}` is {values:?} in the example, {} in the code",
                key.name,
                table.header,
                key.default
            );
        }
    }
}

#[test]
fn the_documentation_has_every_key() {
    let path = project("docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let mark = "## All keys\n";
    let (prose, _) = text
        .split_once(mark)
        .expect("docs/configuration.md has a list of keys");
    let wanted = format!("{prose}{mark}{}", all_keys());
    if let Err(difference) = same_as_file(&path, &wanted) {
        panic!("{difference}");
    }
}

/// One section a table, one row a key.
fn all_keys() -> String {
    let mut text = String::new();
    for table in TABLES {
        let title = if table.header.is_empty() {
            "At the top"
        } else {
            table.header
        };
        let title = if table.header.is_empty() {
            title.to_owned()
        } else {
            format!("`{title}`")
        };
        let about = table.about.trim();
        write!(
            text,
            "\n### {title}\n\n{about}\n\n| Key | Takes | Default | Means |\n|---|---|---|---|\n"
        )
        .unwrap();
        for key in table.keys {
            let is_words = !key.default.starts_with(['"', '['])
                && key.default.parse::<u64>().is_err()
                && !matches!(key.default, "true" | "false");
            let default = match is_words {
                true => key.default.to_owned(),
                false => format!("`{}`", key.default),
            };
            let (name, takes, means) = (key.name, key.takes, key.means.trim());
            writeln!(text, "| `{name}` | {takes} | {default} | {means} |").unwrap();
        }
    }
    text
}

#[test]
fn every_code_of_a_message_is_documented() {
    let text = fs::read_to_string(project("docs/configuration.md")).unwrap();
    for code in codes_in_messages() {
        assert!(
            text.contains(&format!("`{code}`")),
            "docs/configuration.md does not tell `{code}`"
        );
    }
}

/// The words in brackets at the end of the first line of each message.
fn codes_in_messages() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for entry in fs::read_dir(project("tests/config_errors")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "txt") {
            let text = fs::read_to_string(&path).unwrap();
            let first_lines = text.lines().filter(|line| line.starts_with("atlas.toml"));
            codes.extend(first_lines.filter_map(|line| {
                let (_, code) = line.rsplit_once('[')?;
                code.strip_suffix(']').map(str::to_owned)
            }));
        }
    }
    codes
}
