//! `atlas fetch URL`: a small HTTP client on the modules the proxy is made of, to try things out.

mod answer;
mod connect;
mod exchange;
mod output;
mod progress;
mod source;
#[cfg(test)]
mod tests;
mod told;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::Method;

use self::answer::Next;
use self::connect::Secrecy;
use self::exchange::Asked;
use self::output::Output;
use self::source::Source;
use super::url::{Url, parse_field, parse_url};
use super::{WRONG, complain};
use crate::config::read::Word;
use crate::config::values::Time;
use crate::http::Fields;
use crate::runtime;
use told::{Harmless, Voice};

/// Redirects that are followed with `-L`.
const REDIRECTS_MAX: usize = 10;

/// What is fetched, and how.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The method; without it GET, or POST where there is data.
    #[arg(short = 'X', long = "request", value_name = "METHOD", value_parser = parse_method)]
    method: Option<Method>,
    /// What to send, byte for byte: a text, a file as @FILE, or standard input as @-.
    #[arg(short = 'd', long = "data", value_name = "DATA")]
    data: Option<String>,
    /// A field of the request, as "Name: value"; may be given several times. One without a value
    /// leaves out what would be sent by itself.
    #[arg(short = 'H', long = "header", value_name = "FIELD", value_parser = parse_sent_field)]
    fields: Vec<(String, String)>,
    /// Write the body to a file instead of standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the head of the response before its body.
    #[arg(short = 'i', long = "include")]
    include: bool,
    /// Ask for the head alone, as with `-X HEAD`.
    #[arg(short = 'I', long = "head", conflicts_with_all = ["method", "data"])]
    head: bool,
    /// Go where redirects lead, up to ten times.
    #[arg(short = 'L', long = "location")]
    follow: bool,
    /// Take a status of 400 or more for a failure, and write no body then.
    #[arg(short = 'f', long = "fail")]
    fail: bool,
    /// Believe whoever answers, whatever the certificate says.
    #[arg(short = 'k', long = "insecure")]
    insecure: bool,
    /// The authorities to trust, instead of the machine's.
    #[arg(long = "cacert", value_name = "FILE", conflicts_with = "insecure")]
    cacert: Option<PathBuf>,
    /// Leave TLS to this process, also where the kernel could take it.
    #[arg(long = "no-ktls")]
    no_ktls: bool,
    /// Speak HTTP/1.1, which is all that `atlas fetch` speaks.
    #[arg(long = "http1.1")]
    http1: bool,
    /// Tell what happens, on standard error.
    #[arg(short = 'v', long = "verbose")]
    verbose: bool,
    /// Show no progress. It is shown for long bodies, on a terminal only.
    #[arg(short = 's', long = "silent")]
    silent: bool,
    /// How long looking the name up, connecting and TLS may take together.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    connect_timeout: Duration,
    /// How long the other side may be silent.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    timeout: Duration,
    /// What is asked for, as https://a.example/path.
    #[arg(value_parser = parse_url)]
    url: Url,
}

const AFTER_HELP: &str = "\
Examples:
  atlas fetch https://a.example/              Write a page to standard output
  atlas fetch -v -o big https://a.example/b   Keep it in a file, and tell how it came
  atlas fetch -X PUT -d @big https://a.example/b
  atlas fetch --cacert ca.pem https://localhost:8443/

It ends with 0 if an answer came whole, 1 if not (with `-f` also for a status of 400 or more),
2 if the usage is wrong or a file cannot be opened.";

/// Does it and ends.
pub(super) fn fetch(arguments: &Arguments) -> ExitCode {
    match Fetch::prepare(arguments).and_then(|fetch| fetch.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            complain(format_args!("atlas fetch: {trouble}"));
            trouble.code
        }
    }
}

fn parse_method(text: &str) -> Result<Method, String> {
    match text.parse() {
        Ok(Method::CONNECT) => Err("CONNECT asks for a tunnel, which is not done here".to_owned()),
        Ok(method) => Ok(method),
        Err(_) => Err("a method is a word like GET".to_owned()),
    }
}

fn parse_sent_field(text: &str) -> Result<(String, String), String> {
    let field = parse_field(text)?;
    match &*field.0 {
        "content-length" | "transfer-encoding" => Err("the length is told from the data".to_owned()),
        "upgrade" | "expect" => Err(format!("`{}` asks for what is not done here", field.0)),
        _ => Ok(field),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    match Time::parse(text) {
        Ok(Time(time)) => Ok(time),
        Err(wrong) => Err(format!("{}; {}", wrong.message, wrong.help)),
    }
}

/// Why nothing came of it, and what to do.
#[derive(Debug)]
struct Trouble {
    what: String,
    help: Option<String>,
    code: ExitCode,
}

impl Trouble {
    /// It failed while running.
    fn failed(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: None,
            code: ExitCode::FAILURE,
        }
    }

    /// It could not be begun.
    fn wrong(what: impl Into<String>) -> Self {
        Self {
            code: WRONG.into(),
            ..Self::failed(what)
        }
    }

    fn file(verb: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::wrong(format!("cannot {verb} {}: {error}", path.display()))
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// All that was asked for, opened and ready.
struct Fetch<'a> {
    arguments: &'a Arguments,
    secrecy: Option<Secrecy>,
    source: Source,
    output: Output,
    voice: Voice,
}

impl<'a> Fetch<'a> {
    fn prepare(arguments: &'a Arguments) -> Result<Self, Trouble> {
        let needs_tls = arguments.url.has_tls || arguments.follow;
        Ok(Self {
            arguments,
            secrecy: needs_tls.then(|| Secrecy::prepare(arguments)).transpose()?,
            source: Source::open(arguments.data.as_deref())?,
            output: Output::open(arguments.output.as_deref())?,
            voice: Voice::new(arguments.verbose),
        })
    }

    fn run(mut self) -> Result<(), Trouble> {
        let preference = super::run::driver_preference().map_err(Trouble::wrong)?;
        let fetched = runtime::start(preference, |driver| {
            self.voice.driver(&driver);
            self.fetch()
        });
        fetched.map_err(Trouble::failed)?
    }

    async fn fetch(&mut self) -> Result<(), Trouble> {
        let first = &self.arguments.url;
        let mut url = first.clone();
        let mut method = self.method();
        for _ in 0..=REDIRECTS_MAX {
            let asked = Asked {
                fields: self.fields(&url, url.is_same_origin(first)),
                method: method.clone(),
                url,
            };
            match self.exchange(&asked).await? {
                Next::Done => return Ok(()),
                Next::Redirect { to, keeps_method } => {
                    self.voice.redirect(&to);
                    if !keeps_method && method != Method::HEAD {
                        method = Method::GET;
                        self.source = Source::None;
                    }
                    self.source.rewind()?;
                    url = to;
                }
            }
        }
        Err(Trouble::failed(format!(
            "more than {REDIRECTS_MAX} redirects, the last to {}",
            Harmless(&url.text)
        )))
    }

    fn method(&self) -> Method {
        let arguments = self.arguments;
        match &arguments.method {
            Some(method) => method.clone(),
            None if arguments.head => Method::HEAD,
            None if arguments.data.is_some() => Method::POST,
            None => Method::GET,
        }
    }

    /// What is sent by itself, unless it was given; then what was given. Secrets stay with those
    /// they were given for.
    fn fields(&self, url: &Url, is_same_origin: bool) -> Fields {
        let given = &self.arguments.fields;
        let is_meant = |name: &str| is_same_origin || !["host", "authorization", "cookie"].contains(&name);
        let mut fields = Fields::new();
        for (name, value) in [
            ("host", &*url.authority),
            ("user-agent", concat!("atlas/", env!("CARGO_PKG_VERSION"))),
            ("accept", "*/*"),
            ("content-type", "application/x-www-form-urlencoded"),
        ] {
            let is_given = given.iter().any(|(known, _)| known == name && is_meant(name));
            if !is_given && (name != "content-type" || !self.source.is_none()) {
                fields.push(name, value);
            }
        }
        for (name, value) in given {
            if !value.is_empty() && is_meant(name) {
                fields.push(name, value);
            }
        }
        fields
    }
}
