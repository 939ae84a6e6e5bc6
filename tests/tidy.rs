//! Properties of the source itself: where unsafe lives, which module may know which, module docs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which module may use which, written once; `ARCHITECTURE.md` explains each line.
const KNOWS: &[(&str, &[&str])] = &[
    // The ground: knows nothing of proxying.
    ("buffer", &[]),
    ("pipe", &[]),
    ("time", &[]),
    ("drain", &[]),
    ("outcome", &[]),
    ("sys", &["buffer"]),
    ("runtime", &["sys", "time"]),
    // Bytes.
    ("offload", &["outcome", "sys", "time"]),
    ("metrics", &["offload", "outcome"]),
    (
        "transport",
        &["buffer", "offload", "outcome", "pipe", "runtime", "sys", "time"], // the pipe in tests
    ),
    (
        "relay",
        &["buffer", "outcome", "pipe", "runtime", "sys", "time", "transport"],
    ),
    // Protocols: mechanism without policy.
    ("listener", &["buffer", "outcome", "runtime", "time"]),
    (
        "tls",
        &["buffer", "offload", "outcome", "runtime", "time", "transport"],
    ),
    (
        "http",
        &[
            "buffer",
            "drain",
            "outcome",
            "pipe",
            "runtime",
            "time",
            "transport",
        ],
    ),
    // Nouns of the configuration.
    ("route", &["http"]),
    (
        "upstream",
        &[
            "http",
            "metrics",
            "offload",
            "outcome",
            "runtime",
            "sys",
            "time",
            "tls",
            "transport",
        ],
    ),
    ("files", &["buffer", "http", "outcome", "runtime", "time"]),
    ("access_log", &["metrics", "outcome", "time"]),
    // The contract.
    (
        "generation",
        &[
            "access_log",
            "files",
            "http",
            "listener",
            "offload",
            "route",
            "tls",
            "upstream",
        ],
    ),
    // Policy: the two modules that know how it all fits together.
    (
        "proxy",
        &[
            "access_log",
            "buffer",
            "drain",
            "files",
            "generation",
            "http",
            "metrics",
            "offload",
            "outcome",
            "pipe",
            "relay",
            "route",
            "runtime",
            "time",
            "transport",
            "upstream",
        ],
    ),
    (
        "connection",
        &[
            "access_log",
            "buffer",
            "drain",
            "generation",
            "http",
            "listener",
            "metrics",
            "outcome",
            "proxy",
            "runtime",
            "time",
            "tls",
            "transport",
        ],
    ),
    // The control plane.
    (
        "worker",
        &[
            "access_log",
            "connection",
            "drain",
            "generation",
            "listener",
            "metrics",
            "proxy",
            "runtime",
            "time",
            "upstream",
        ],
    ),
    (
        "admin",
        &[
            "drain",
            "http",
            "listener",
            "metrics",
            "outcome",
            "runtime",
            "time",
            "transport",
        ],
    ),
    (
        "config",
        &[
            "access_log",
            "files",
            "generation",
            "http",
            "listener",
            "offload",
            "outcome",
            "route",
            "runtime",
            "time",
            "tls",
            "upstream",
        ],
    ),
    (
        "supervisor",
        &[
            "access_log",
            "admin",
            "config",
            "drain",
            "generation",
            "listener",
            "metrics",
            "offload",
            "outcome",
            "runtime",
            "time",
            "upstream",
            "worker",
        ],
    ),
];

#[test]
fn modules_know_only_what_the_architecture_allows() {
    let allowed: BTreeMap<_, _> = KNOWS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in sources() {
        let Some(module) = top_module(&path) else {
            continue;
        };
        let Some(knows) = allowed.get(module.as_str()) else {
            wrong.push(format!(
                "{}: module `{module}` is not in the table",
                path.display()
            ));
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for used in crate_paths(line) {
                seen.insert((module.clone(), used.clone()));
                if used != module && !knows.contains(&used.as_str()) {
                    wrong.push(format!(
                        "{}:{}: `{module}` must not know `{used}`",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    for (module, knows) in KNOWS {
        for used in *knows {
            if !seen.contains(&((*module).to_owned(), (*used).to_owned())) {
                wrong.push(format!(
                    "`{module}` does not use `{used}`: take it out of the table"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_is_in_layers() {
    for (row, (module, knows)) in KNOWS.iter().enumerate() {
        for used in *knows {
            assert!(
                KNOWS[..row].iter().any(|(above, _)| above == used),
                "`{module}` knows `{used}`, which is not above it in the table"
            );
        }
    }
}

#[test]
fn unsafe_code_lives_in_sys() {
    let strays: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| {
            !path.starts_with("src/sys")
                && text
                    .lines()
                    .any(|l| code(l).contains("unsafe") && !l.contains("unsafe_"))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(strays.is_empty(), "unsafe outside src/sys: {strays:?}");
}

#[test]
fn secrets_of_connections_are_seen_by_offload_alone() {
    const SECRET: &[&str] = &[
        "dangerous_extract_secrets",
        "dangerous_into_kernel_connection",
        "ExtractedSecrets",
        "ConnectionTrafficSecrets",
        "update_tx_secret",
        "update_rx_secret",
    ];
    let is_test = |path: &Path| {
        let words = ["tests", "tests.rs", "kernel_tls"];
        path.components()
            .any(|part| words.iter().any(|word| part.as_os_str() == *word))
    };
    let strays: Vec<_> = sources()
        .into_iter()
        .filter(|(path, _)| path != Path::new("src/offload/keys.rs") && !is_test(path))
        .filter(|(_, text)| {
            text.lines()
                .any(|line| SECRET.iter().any(|name| code(line).contains(name)))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(
        strays.is_empty(),
        "secrets outside src/offload/keys.rs: {strays:?}"
    );
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(_, t)| !t.starts_with("//!"))
        .map(|(p, _)| p)
        .collect();
    assert!(silent.is_empty(), "no `//!` line at the top of {silent:?}");
}

#[test]
fn every_metric_is_counted_somewhere() {
    let counters = fs::read_to_string("src/metrics/counters.rs").expect("source is UTF-8");
    let elsewhere: String = sources()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("src/metrics") && !path.ends_with("tests.rs"))
        .map(|(_, text)| text)
        .collect();
    let uncounted: Vec<_> = counters
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("pub fn "))
        .filter(|signature| signature.contains("(&self"))
        .map(first_word)
        .filter(|name| !elsewhere.contains(&format!(".{name}(")))
        .collect();
    assert!(uncounted.is_empty(), "nobody calls {uncounted:?}");
}

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push((path.clone(), fs::read_to_string(&path).expect("source is UTF-8")));
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("src"), &mut found);
    found
}

fn top_module(path: &Path) -> Option<String> {
    let first = path
        .strip_prefix("src")
        .ok()?
        .components()
        .next()?
        .as_os_str()
        .to_str()?;
    let name = first.trim_end_matches(".rs");
    (name != "lib" && name != "main" && name != "cli").then(|| name.to_owned())
}

fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// The modules a line names after `crate::`, braces included: `use crate::{log, time};`.
fn crate_paths(line: &str) -> Vec<String> {
    let names = |text: &str| -> Vec<String> {
        match text.strip_prefix('{') {
            Some(list) => list
                .trim_end_matches(['}', ';'])
                .split(',')
                .map(|n| first_word(n.trim()))
                .collect(),
            None => vec![first_word(text)],
        }
    };
    code(line)
        .match_indices("crate::")
        .flat_map(|(at, _)| names(&line[at + "crate::".len()..]))
        .collect()
}

fn first_word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}
