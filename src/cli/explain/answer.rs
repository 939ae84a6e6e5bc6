//! What `atlas explain` answers, as text and as JSON.

use std::fmt;

use serde::Serialize;

use crate::upstream::EndpointSettings;

/// A line of the file.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) text: String,
}

/// All there is to say about a request.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    pub(super) url: String,
    pub(super) method: String,
    pub(super) file: String,
    pub(super) listener: Option<Served>,
    /// More listeners a client may come to, where the name leads to them.
    pub(super) also_listening: Vec<String>,
    pub(super) certificate: Option<Certificate>,
    pub(super) route: Option<Served>,
    pub(super) result: Result,
}

/// A listener or a route.
#[derive(Debug, Serialize)]
pub(super) struct Served {
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) what: String,
    pub(super) lines: Vec<Line>,
}

/// The certificate shown.
#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) path: String,
    pub(super) names: Vec<String>,
    pub(super) names_the_host: bool,
    pub(super) is_default: bool,
    pub(super) lines: Vec<Line>,
}

/// What becomes of the request.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Result {
    /// An upstream answers.
    Upstream(Box<Upstream>),
    /// One of several upstreams answers.
    Split { upstreams: Vec<Upstream> },
    /// A file is sent, if it is there.
    Files {
        root: String,
        path: String,
        lines: Vec<Line>,
    },
    /// The client is sent elsewhere.
    Redirect { status: u16, location: String },
    /// Atlas answers as the route says.
    Respond { status: u16, bytes: usize },
    /// The page about this very connection.
    About,
    /// Atlas answers with an error.
    Refused {
        status: u16,
        why: String,
        /// Where no route matches, those that come nearest, and why they do not.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        near: Vec<Served>,
    },
    /// The request never comes to Atlas.
    NotServed { why: String },
}

/// An upstream that answers, and how it is asked.
#[derive(Debug, Serialize)]
pub(super) struct Upstream {
    pub(super) name: String,
    /// Its share of what comes, in percent, where others have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percent: Option<f64>,
    pub(super) endpoints: Vec<String>,
    /// How those are found that are not written in the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) found: Vec<String>,
    /// How one of them is chosen, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) balance: Option<String>,
    /// How clients come back to the one they came to before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sticky: Option<String>,
    /// Who waits while all are as busy as they may be, where there is such a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<String>,
    pub(super) tls: bool,
    pub(super) http2: bool,
    /// How many requests may be under way at a time, where there is a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests_max: Option<usize>,
    /// How they are checked, when one is left alone, and how it comes back.
    pub(super) health: Vec<String>,
    /// When its requests are tried again; none are in tcp mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retries: Option<String>,
    /// Where its requests are sent as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mirror: Option<String>,
    /// The path it is asked for; in tcp mode there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    pub(super) lines: Vec<Line>,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(percent) = self.percent {
            write!(f, ", {} %", (percent * 100.0).round() / 100.0)?;
        }
        write!(f, ": {}", self.endpoints.join(", "))?;
        if let Some(balance) = &self.balance {
            write!(f, " by {balance}")?;
        }
        f.write_str(match (self.tls, self.http2) {
            (false, false) => "",
            (true, false) => " over TLS",
            (false, true) => " by HTTP/2",
            (true, true) => " over TLS, by HTTP/2 if it chooses that",
        })?;
        if let Some(path) = &self.path {
            write!(f, ", asked for {path}")?;
        }
        if let Some(most) = self.requests_max {
            write!(f, "\n  at most {most} requests at a time")?;
        }
        let first = self.found.iter().chain(&self.sticky).chain(&self.queue);
        for line in first.chain(&self.health).chain(&self.retries).chain(&self.mirror) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// An endpoint, and what is said of it beyond its address.
pub(super) fn endpoint(endpoint: &EndpointSettings) -> String {
    let mut said = Vec::new();
    if endpoint.weight != 1 {
        said.push(format!("weight {}", endpoint.weight));
    }
    said.extend(endpoint.is_backup.then(|| "backup".to_owned()));
    said.extend(endpoint.is_drained.then(|| "drained".to_owned()));
    let most = endpoint.connections_max;
    said.extend(most.map(|most| format!("at most {most} at a time")));
    match said.is_empty() {
        true => endpoint.address.to_string(),
        false => format!("{} ({})", endpoint.address, said.join(", ")),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)?;
        if let Some(listener) = &self.listener {
            let what = format!("{} ({})", listener.name, listener.what);
            self.section(f, "listener", &what, &listener.lines)?;
            for other in &self.also_listening {
                write!(f, "\n  or {other}, where the name leads there")?;
            }
        }
        if let Some(certificate) = &self.certificate {
            self.section(f, "certificate", &certificate.to_string(), &certificate.lines)?;
        }
        if let Some(route) = &self.route {
            self.section(f, "route", &route.name, &route.lines)?;
        }
        for (title, what, lines) in self.result.told() {
            self.section(f, title, &what, lines)?;
        }
        Ok(())
    }
}

impl Explanation {
    /// What, where the file says so, and the lines there.
    fn section(&self, f: &mut fmt::Formatter<'_>, title: &str, what: &str, lines: &[Line]) -> fmt::Result {
        write!(f, "\n\n{title}: {what}")?;
        if let Some(first) = lines.first() {
            write!(f, "\n  {}:{}", self.file, first.number)?;
        }
        let width = lines.last().map_or(0, |line| line.number.to_string().len());
        for Line { number, text } in lines {
            write!(f, "\n  {number:>width$} | {text}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path, self.names.join(", "))?;
        match (self.names_the_host, self.is_default) {
            (true, _) => Ok(()),
            (false, true) => f.write_str(", the default: none names this host"),
            (false, false) => f.write_str(", which does not name this host"),
        }
    }
}

impl Result {
    /// Titles, what, and the lines that say so.
    fn told(&self) -> Vec<(&'static str, String, &[Line])> {
        let answer = |what| vec![("answer", what, &[][..])];
        let upstream = |upstream| -> (_, _, &[Line]) {
            let upstream: &Upstream = upstream;
            ("upstream", upstream.to_string(), &upstream.lines)
        };
        match self {
            Self::Upstream(one) => vec![upstream(one)],
            Self::Split { upstreams } => upstreams.iter().map(upstream).collect(),
            Self::Files { root, path, lines } => vec![("files", format!("{root}, asked for {path}"), lines)],
            Self::Redirect { status, location } => {
                vec![("redirect", format!("{status} to {location}"), &[])]
            }
            Self::Respond { status, bytes } => answer(format!("{status}, with a body of {bytes} bytes")),
            Self::About => answer("the page about this connection".to_owned()),
            Self::Refused { status, why, near } => {
                let near = near.iter().map(|Served { name, what, lines }| {
                    let line = lines.first().map_or(0, |line| line.number);
                    format!("\n  nor does route {name} of line {line}: {what}")
                });
                answer(format!("{status}: {why}{}", near.collect::<String>()))
            }
            Self::NotServed { why } => vec![("not served", why.clone(), &[])],
        }
    }
}
