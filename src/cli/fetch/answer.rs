//! What is done with an answer: followed, refused or written out.

use std::time::Duration;

use http::{Method, StatusCode};

use super::exchange::{Asked, words};
use super::output::Output;
use super::progress::Progress;
use super::told::{self, Voice};
use super::{Arguments, Trouble, Url};
use crate::http::h1::client::ResponseReader;
use crate::http::{BodyLength, ResponseHead};
use crate::outcome::{Cause, End};
use crate::pipe::Pipe;

/// What comes after an answer.
pub(super) enum Next {
    /// Nothing: it was the one.
    Done,
    /// Another request.
    Redirect { to: Url, keeps_method: bool },
}

/// An answer on its way out.
pub(super) struct Answer<'a> {
    arguments: &'a Arguments,
    asked: &'a Asked,
    output: &'a mut Output,
    voice: &'a Voice,
}

impl<'a> Answer<'a> {
    pub(super) fn new(
        arguments: &'a Arguments,
        asked: &'a Asked,
        output: &'a mut Output,
        voice: &'a Voice,
    ) -> Self {
        Self {
            arguments,
            asked,
            output,
            voice,
        }
    }

    pub(super) fn voice(&self) -> &Voice {
        self.voice
    }

    pub(super) fn timeout(&self) -> Duration {
        self.arguments.timeout
    }

    /// A server that did not answer as it should, in words.
    pub(super) fn failed(&self, end: End) -> Trouble {
        let trouble = Trouble::failed(words(end, self.timeout()));
        let url = &self.asked.url;
        match end.cause {
            Cause::Malformed if !url.has_tls => trouble.help(format!(
                "perhaps it speaks TLS: try https://{}{}",
                url.authority, url.path
            )),
            Cause::TimedOut => trouble.help("`--timeout 5m` waits longer"),
            _ => trouble,
        }
    }

    /// Takes the head. `Some`: the body is not wanted.
    pub(super) fn begin(&mut self, head: &ResponseHead) -> Result<Option<Next>, Trouble> {
        if let Some(next) = self.redirect(head)? {
            return Ok(Some(next));
        }
        if self.arguments.fail && head.status.as_u16() >= 400 {
            return Err(Trouble::failed(format!(
                "{} answers {}",
                self.asked.url.text,
                told::status(head.status)
            )));
        }
        self.output.begin()?;
        // Of HEAD the head is all there is to see.
        if self.arguments.include || self.asked.method == Method::HEAD {
            self.output.write(&told::head_bytes(head))?;
        }
        Ok(None)
    }

    fn redirect(&self, head: &ResponseHead) -> Result<Option<Next>, Trouble> {
        let keeps_method = match head.status {
            _ if !self.arguments.follow => return Ok(None),
            // RFC 9110 §15.4: a POST becomes a GET, as everybody has always done.
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.asked.method != Method::POST,
            StatusCode::SEE_OTHER => false,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            _ => return Ok(None),
        };
        let Some(location) = head.fields.get("location") else {
            return Ok(None);
        };
        let location = String::from_utf8_lossy(location);
        match self.asked.url.join(&location) {
            Ok(to) => Ok(Some(Next::Redirect { to, keeps_method })),
            Err(error) => Err(Trouble::failed(format!(
                "the redirect to `{}` cannot be followed: {error}",
                location.escape_debug()
            ))),
        }
    }

    /// Writes the body out.
    pub(super) async fn read(
        &mut self,
        reader: &mut ResponseReader<'_>,
        head: &ResponseHead,
    ) -> Result<Next, Trouble> {
        let total = match head.body {
            BodyLength::Exact(total) => Some(total),
            _ => None,
        };
        // On a terminal the body itself shows how far it is.
        let wanted = !self.arguments.silent && !self.output.is_terminal();
        let mut progress = Progress::new("received", total, wanted);
        let mut count = 0_u64;
        loop {
            let wants_pipe = self.output.takes_pipes() && is_bulk(reader.ahead(), count);
            let piece = match next(reader, wants_pipe).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(Next::Done),
                Err(end) => return Err(self.cut(end, count, total)),
            };
            let (length, is_wanted) = match piece {
                Piece::Copied(bytes) => (bytes.len() as u64, self.output.write(bytes)?),
                Piece::Spliced(pipe) => {
                    let length = pipe.len() as u64;
                    self.voice.received_spliced(length);
                    (length, self.output.write_piped(pipe)?)
                }
            };
            count += length;
            progress.add(length);
            if !is_wanted {
                return Ok(Next::Done); // nobody reads on
            }
        }
    }

    fn cut(&self, end: End, count: u64, total: Option<u64>) -> Trouble {
        let mut trouble = self.failed(end);
        let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
        trouble.what = format!("{} after {count}{of} bytes of the body", trouble.what);
        if let Some(path) = &self.arguments.output {
            trouble.what += &format!("; {} holds what came", path.display());
        }
        trouble
    }
}

/// So much is worth a pipe.
const BULK_MIN: u64 = 64 * 1024;

/// Where nobody knows how much is ahead, as much has to have passed.
fn is_bulk(ahead: u64, passed: u64) -> bool {
    match ahead {
        u64::MAX => passed >= BULK_MIN,
        known => known >= BULK_MIN,
    }
}

/// Some of a body.
enum Piece<'a> {
    Copied(&'a [u8]),
    Spliced(Pipe),
}

async fn next<'r>(reader: &'r mut ResponseReader<'_>, wants_pipe: bool) -> Result<Option<Piece<'r>>, End> {
    if wants_pipe
        && let Some(pipe) = reader.read_piped().await?
        && !pipe.is_empty()
    {
        return Ok(Some(Piece::Spliced(pipe)));
    }
    Ok(reader.read().await?.map(Piece::Copied))
}
