//! Sequences of frames as data: what a client sends, and what it gets for it. One runner.

use std::fmt::Write as _;
use std::time::Duration;

use super::works;
use crate::support::frames::{Http2, PREFACE, SETTINGS, frame};
use crate::support::{Atlas, Origin};

/// What becomes of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: the connection goes on.
    Ignored,
    /// The request on stream 1 is answered with this; the connection goes on.
    Answered(u16),
    /// It is answered with 200, and the origin has seen this field in it.
    Passed(&'static str, &'static str),
    /// So many bytes of its answer come, and no more.
    Content(usize),
    /// So many SETTINGS of the client are acknowledged, and as many PINGs answered.
    Acknowledged { settings: usize, pings: usize },
    /// Stream 1 is reset with one of these; the connection goes on.
    Reset(&'static [u32]),
    /// The connection ends with one of these.
    Goaway(&'static [u32]),
    /// Stream 1 is reset, or the connection ends, with one of these: the RFC allows both.
    Refused(&'static [u32]),
    /// The connection ends, with or without a word.
    Closed,
}

/// One case.
pub struct Case {
    pub name: &'static str,
    /// After the preface and settings.
    pub sends: Vec<u8>,
    /// Once so many bytes of the answer on stream 1 have come, or all.
    pub later: Option<(usize, Vec<u8>)>,
    pub outcome: Outcome,
    /// Instead of preface and settings.
    pub begins: Option<Vec<u8>>,
}

pub fn case(name: &'static str, sends: impl AsRef<[u8]>, outcome: Outcome) -> Case {
    Case {
        name,
        sends: sends.as_ref().to_vec(),
        later: None,
        outcome,
        begins: None,
    }
}

/// Where [`Case::later`] waits for all of the answer.
pub const ALL: usize = usize::MAX;

impl Case {
    /// Sends more, once so many bytes of the answer have come.
    pub fn later(mut self, content: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.later = Some((content, bytes.as_ref().to_vec()));
        self
    }

    /// Begins otherwise than with the preface and settings.
    pub fn begins(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.begins = Some(bytes.as_ref().to_vec());
        self
    }
}

/// Runs them all; what was refused must not have reached the origin: its path is `/bad`.
pub fn run(atlas: &Atlas, origin: &Origin, cases: &[Case]) {
    let mut wrong = String::new();
    for case in cases {
        if let Err(why) = check(atlas, origin, case) {
            let _ = write!(wrong, "\n{}: {why}", case.name);
        }
        let bad = origin
            .requests()
            .iter()
            .filter(|seen| seen.head.word(1).starts_with("/bad"))
            .count();
        if bad > 0 {
            panic!("{}: it has reached the origin", case.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn check(atlas: &Atlas, origin: &Origin, case: &Case) -> Result<(), String> {
    let mut http2 = atlas.http2_silent(0);
    http2.connection.patience(Duration::from_secs(5));
    http2.reads = !matches!(case.outcome, Outcome::Content(_));
    let usual = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    http2.send(case.begins.as_ref().unwrap_or(&usual));
    http2.send(&case.sends);
    if let Some((content, bytes)) = &case.later {
        comes(&mut http2, *content)?;
        http2.send(bytes);
    }
    match &case.outcome {
        Outcome::Ignored => works(&mut http2),
        Outcome::Answered(status) => is_answered(&mut http2, *status),
        Outcome::Passed(name, value) => {
            comes(&mut http2, ALL)?;
            let requests = origin.requests();
            let seen = requests.last().and_then(|seen| seen.head.field(name));
            match seen == Some(*value) {
                true => is_answered(&mut http2, 200),
                false => Err(format!("the origin has seen {name}: {seen:?}")),
            }
        }
        Outcome::Content(content) => {
            comes(&mut http2, *content)?;
            http2.round_trip();
            match http2.so_far(1).body.len() {
                come if come == *content => Ok(()),
                come => Err(format!("{come} bytes come instead of {content}")),
            }
        }
        Outcome::Acknowledged { settings, pings } => {
            while http2.acks() < *settings || http2.pongs < *pings {
                if !http2.read_frame() {
                    return Err(format!("not acknowledged: {}", told(&http2)));
                }
            }
            works(&mut http2)
        }
        Outcome::Reset(codes) => {
            while http2.so_far(1).reset.is_none() {
                if !http2.read_frame() {
                    return Err(format!("stream 1 is not reset: {}", told(&http2)));
                }
            }
            let code = http2.so_far(1).reset.unwrap_or_default();
            if !codes.contains(&code) {
                return Err(format!("stream 1 is reset with {code}, not {codes:?}"));
            }
            works(&mut http2)
        }
        Outcome::Goaway(codes) => match http2.end() {
            Some(goaway) if codes.contains(&goaway.code) => Ok(()),
            _ => Err(format!("not ended with {codes:?}: {}", told(&http2))),
        },
        Outcome::Refused(codes) => {
            while http2.so_far(1).reset.is_none() && http2.read_frame() {}
            let goaway = http2.goaways.last().map(|goaway| goaway.code);
            match http2.so_far(1).reset.or(goaway) {
                Some(code) if codes.contains(&code) => Ok(()),
                _ => Err(format!("not refused with {codes:?}: {}", told(&http2))),
            }
        }
        Outcome::Closed => {
            http2.end();
            match http2.ending {
                None => Err("the connection was not ended".to_owned()),
                Some(_) => Ok(()),
            }
        }
    }
}

/// Waits for so many bytes of the answer on stream 1, or for its end.
fn comes(http2: &mut Http2, content: usize) -> Result<(), String> {
    while !http2.so_far(1).has_ended && http2.so_far(1).body.len() < content {
        if http2.so_far(1).reset.is_some() || !http2.read_frame() {
            return Err(format!("no answer: {}", told(http2)));
        }
    }
    Ok(())
}

fn is_answered(http2: &mut Http2, status: u16) -> Result<(), String> {
    comes(http2, ALL)?;
    match http2.so_far(1).status() == status {
        true => works(http2),
        false => Err(format!("{} instead of {status}", http2.so_far(1).status())),
    }
}

fn told(http2: &Http2) -> String {
    format!("{:?}, {:?}, {:?}", http2.goaways, http2.ending, http2.so_far(1))
}
