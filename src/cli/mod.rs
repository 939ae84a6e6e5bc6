//! The command line: one file a command.
//!
//! Exit codes: 0 fine, 1 failed while running, 2 wrong usage or configuration. With
//! `--format json` there is one document on standard output and nothing on standard error.

mod check;
mod demo;
mod doctor;
mod explain;
mod fetch;
pub mod log;
mod run;
mod url;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Wrong usage or configuration.
pub const WRONG: u8 = 2;

/// Where the configuration is when nobody says.
const DEFAULT_FILE: &str = "/etc/atlas/atlas.toml";

/// Runs what the command line asks for, to its end.
pub fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => arguments.run(),
        Err(error) => {
            let is_help = !error.use_stderr();
            // Nobody is left to tell that standard error is closed.
            let _ = error.print();
            if is_help {
                return ExitCode::SUCCESS;
            }
            if let Some(tip) = tip(&error) {
                complain(format_args!("\n  tip: {tip}"));
            }
            WRONG.into()
        }
    }
}

const AFTER_HELP: &str = "\
Signals:
  HUP              Read the configuration again; a wrong one changes nothing
  USR1             Open the access log again
  TERM, INT, QUIT  Finish what runs, then end; a second one ends at once

Environment:
  ATLAS_LOG        How much is logged: error, warn, info (the default), debug
  ATLAS_DRIVER     `epoll` serves without io_uring; `auto` takes what the kernel has

It ends with 0 if all went well, 1 if it failed, 2 if the usage or the configuration is wrong.";

/// What one who comes from another server may have meant.
fn tip(error: &clap::Error) -> Option<&'static str> {
    let word = match error
        .get(ContextKind::InvalidSubcommand)
        .or_else(|| error.get(ContextKind::InvalidArg))?
    {
        ContextValue::String(word) => word.as_str(),
        _ => return None,
    };
    match (error.kind(), word) {
        // Of a command with options before it; two options may conflict as well.
        (ErrorKind::ArgumentConflict, _) => error
            .get(ContextKind::InvalidSubcommand)
            .map(|_| "options stand behind the command: atlas run -c FILE"),
        (_, word) if word.ends_with(".toml") => Some("name the file with `-c`: atlas run -c FILE"),
        (_, "reload" | "-s") => {
            Some("signals do that: kill -HUP PID reloads, -TERM ends, -USR1 opens logs again")
        }
        (_, "stop" | "quit") => Some("kill -TERM PID ends it, after what runs has finished"),
        (_, "start" | "serve") => Some("the command is `atlas run`"),
        (_, "test" | "validate" | "configtest") => Some("the command is `atlas check`"),
        _ => None,
    }
}

/// A TLS-terminating reverse proxy.
#[derive(Debug, Parser)]
#[command(
    name = "atlas",
    version,
    args_conflicts_with_subcommands = true,
    after_help = AFTER_HELP
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    file: File,
    /// Check the configuration and end, as `atlas check`.
    #[arg(short = 't', short_alias = 'T')]
    test: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, as the configuration says (what plain `atlas` does).
    Run(File),
    /// Say what is wrong with the configuration.
    Check {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        output: Output,
    },
    /// Serve a site of its own on https://localhost:8443, without any configuration.
    Demo {
        /// Another port.
        #[arg(long, default_value_t = 8443, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
    /// Say what this machine lets Atlas do, and what to change.
    Doctor(doctor::Arguments),
    /// Say what would serve a URL, and which lines of the configuration decide it.
    Explain(explain::Arguments),
    /// Fetch a URL, or send something there, and tell how it went.
    Fetch(Box<fetch::Arguments>),
    /// Say which Atlas this is.
    Version {
        #[command(flatten)]
        output: Output,
    },
}

/// Which configuration.
#[derive(Clone, Debug, Args)]
struct File {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = DEFAULT_FILE)]
    path: PathBuf,
}

/// How to answer.
#[derive(Clone, Copy, Debug, Args)]
struct Output {
    /// `json` for programs: one document on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Arguments {
    fn run(self) -> ExitCode {
        match self.command {
            None if self.test => check::check(&self.file.path, Format::Text),
            None => run::run(&self.file.path),
            Some(Command::Run(file)) => run::run(&file.path),
            Some(Command::Check { file, output }) => check::check(&file.path, output.format),
            Some(Command::Demo { port }) => demo::run(port),
            Some(Command::Doctor(arguments)) => doctor::doctor(&arguments),
            Some(Command::Explain(arguments)) => explain::explain(&arguments),
            Some(Command::Fetch(arguments)) => fetch::fetch(&arguments),
            Some(Command::Version { output }) => version::version(output.format),
        }
    }
}

/// Writes an answer to standard output. A reader that has gone away is no failure.
fn answer(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes to standard error.
fn complain(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
