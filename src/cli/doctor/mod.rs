//! `atlas doctor`: what this machine lets Atlas do, line by line, and what to change.

mod cards;
mod configuration;
mod driver;
mod files;
mod finding;
mod holes;
mod kernel_tls;
mod machine;
mod remedy;
#[cfg(test)]
mod tests;
mod unit;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use self::finding::{Findings, Verdict};
use super::{DEFAULT_FILE, Format, Output, WRONG, answer, check, complain};
use crate::config::{self, Loaded, Report};

/// Whom to look at.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The configuration file; without it /etc/atlas/atlas.toml, if it is there.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

const AFTER_HELP: &str = "\
Each line is `fine`, or `advice` (Atlas runs, and could do better), or `wrong` (the configuration asks
for what this machine cannot do), with a command where one helps. What is said holds for the user who
asks: ask as the one who runs Atlas.

It ends with 0 if nothing is wrong, 1 if something is, 2 if the configuration is not valid.";

/// Looks, says what it finds, and ends.
pub(super) fn doctor(arguments: &Arguments) -> ExitCode {
    let path = arguments.config.clone().or_else(|| {
        let usual = PathBuf::from(DEFAULT_FILE);
        usual.exists().then_some(usual)
    });
    let loaded = path.map(|path| {
        let loaded = config::load(&path);
        (path, loaded)
    });
    let found = look(loaded.as_ref().and_then(|(_, loaded)| loaded.as_ref().ok()));
    match arguments.output.format {
        Format::Text => tell(&found, loaded.as_ref()),
        Format::Json => answer(json!({
            "verdict": verdict(&found, loaded.as_ref()).as_str(),
            "findings": found.all(),
            "configuration": loaded.as_ref().map(|(path, loaded)| check::json(path, loaded)),
        })),
    }
    match (&loaded, found.worst()) {
        (Some((_, Err(_))), _) => WRONG.into(),
        (_, Verdict::Wrong) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// The worst there is; a configuration that is not valid is no better than what it could ask for.
fn verdict(found: &Findings, loaded: Option<&(PathBuf, Result<Loaded, Report>)>) -> Verdict {
    match loaded {
        Some((_, Err(_))) => Verdict::Wrong,
        _ => found.worst(),
    }
}

fn look(loaded: Option<&Loaded>) -> Findings {
    let mut found = Findings::default();
    machine::look(&mut found, loaded);
    driver::look(&mut found);
    let offload = kernel_tls::look(&mut found);
    cards::look(&mut found);
    if let Some(loaded) = loaded {
        configuration::look(&mut found, loaded, &offload);
        files::look(&mut found, &loaded.generation);
        unit::look(&mut found, loaded);
    }
    found
}

fn tell(found: &Findings, loaded: Option<&(PathBuf, Result<Loaded, Report>)>) {
    answer(found);
    match loaded {
        Some((_, Ok(_))) => {}
        Some((path, Err(report))) => {
            complain(report);
            complain(format_args!(
                "atlas: configuration {} is not valid; what it asks for was not looked at",
                path.display()
            ));
        }
        None => answer(format_args!(
            "\nNo configuration was looked at; `-c FILE` looks at its ports, certificates and limits too."
        )),
    }
}
