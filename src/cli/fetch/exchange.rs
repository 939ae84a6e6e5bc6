//! One request and its answer, both at once: a server may answer while it is still told.

use std::os::fd::AsFd;
use std::pin::{Pin, pin};

use futures_util::future::{Either, select};
use http::Method;

use super::answer::{Answer, Next};
use super::progress::Progress;
use super::source::Source;
use super::{Fetch, Trouble, Url, connect};
use crate::http::h1::client::{Connection, Outgoing, RequestWriter, ResponseReader, Settings};
use crate::http::{BodyLength, Fields, ResponseHead};
use crate::outcome::{Cause, End, Phase};
use crate::time::Deadline;

/// What a head may have; the largest that browsers take.
const HEAD_BYTES_MAX: usize = 256 * 1024;
const FIELDS_MAX: usize = 1000;

/// A request.
pub(super) struct Asked {
    pub(super) url: Url,
    pub(super) method: Method,
    pub(super) fields: Fields,
}

/// How the sending of a request ended.
type Sent = Result<(), Stopped>;

/// Why no more of a request is sent.
enum Stopped {
    /// The server takes no more; it may have said why.
    ByServer(End),
    /// What is sent cannot be read.
    Here(Trouble),
}

impl From<End> for Stopped {
    fn from(end: End) -> Self {
        Self::ByServer(end)
    }
}

impl Fetch<'_> {
    /// Asks on a connection of its own.
    pub(super) async fn exchange(&mut self, asked: &Asked) -> Result<Next, Trouble> {
        let timeout = self.arguments.timeout;
        let deadline = Deadline::within(self.arguments.connect_timeout);
        let transport = connect::connect(&asked.url, self.secrecy.as_ref(), deadline, &self.voice).await?;
        let settings = Settings {
            idle_timeout: timeout,
            head_bytes_max: HEAD_BYTES_MAX,
            fields_max: FIELDS_MAX,
        };
        let mut connection = Connection::new(transport, settings);
        let result = self.ask(&mut connection, asked).await;
        let transport = connection.transport();
        self.voice.moved(transport);
        if result.is_ok() {
            // The answer is here; a server that does not hear the goodbye does no harm.
            let _ = transport.finish(timeout).await;
        }
        result
    }

    async fn ask(&mut self, connection: &mut Connection, asked: &Asked) -> Result<Next, Trouble> {
        let length = self.source.length();
        let target = asked.url.target();
        let outgoing = Outgoing {
            asks_upgrade: false,
            method: &asked.method,
            target: &target,
            fields: &asked.fields,
            body: length,
        };
        self.voice.request(&outgoing);
        let wants_progress = !self.arguments.silent;
        let total = match length {
            BodyLength::Exact(total) => Some(total),
            _ => None,
        };
        let mut sending = Progress::new("sent", total, wants_progress);
        let (mut writer, mut reader) = connection.exchange();
        let mut upload = pin!(upload(&mut writer, &outgoing, &mut self.source, &mut sending));
        let mut answer = Answer::new(self.arguments, asked, &mut self.output, &self.voice);
        let (head, sent) = until_head(&mut reader, upload.as_mut(), &answer).await?;
        match answer.begin(&head)? {
            Some(next) => Ok(next),
            None if sent || !head.status.is_success() => answer.read(&mut reader, &head).await,
            None => {
                // The rest of the request goes on: who repeats what he hears must be heard.
                match select(upload, pin!(answer.read(&mut reader, &head))).await {
                    Either::Left((Err(Stopped::Here(trouble)), _)) => Err(trouble),
                    Either::Left((_, answer)) => answer.await,
                    Either::Right((answered, _)) => answered,
                }
            }
        }
    }
}

/// Sends the request and waits for the head of the final answer. Whether all was sent by then.
async fn until_head(
    reader: &mut ResponseReader<'_>,
    mut upload: Pin<&mut impl Future<Output = Sent>>,
    answer: &Answer<'_>,
) -> Result<(ResponseHead, bool), Trouble> {
    let mut sent: Option<Sent> = None;
    // The time for an answer begins when the request is sent; until then its pieces have theirs.
    let mut deadline = Deadline::within(std::time::Duration::MAX);
    loop {
        let next = match &sent {
            Some(_) => reader.head(deadline).await,
            None => match select(upload.as_mut(), pin!(reader.head(deadline))).await {
                Either::Left((Err(Stopped::Here(trouble)), _)) => return Err(trouble),
                Either::Left((result, _)) => {
                    sent = Some(result);
                    deadline = Deadline::within(answer.timeout());
                    continue;
                }
                Either::Right((head, _)) => head,
            },
        };
        let head = match (next, &sent) {
            (Ok(head), _) => head,
            (Err(_), Some(Err(Stopped::ByServer(end)))) => return Err(answer.failed(*end)),
            (Err(end), _) => return Err(answer.failed(end)),
        };
        answer.voice().head(&head);
        if !head.status.is_informational() {
            return Ok((head, sent.is_some()));
        }
    }
}

async fn upload(
    writer: &mut RequestWriter<'_>,
    outgoing: &Outgoing<'_>,
    source: &mut Source,
    progress: &mut Progress,
) -> Sent {
    writer.start(outgoing).await?;
    if !source.is_none() {
        loop {
            if writer.takes_pipes()
                && let Some((file, part)) = source.uncopied()
            {
                let count = writer.write_file(file.as_fd(), part, || true).await?;
                source.sent(count).map_err(Stopped::Here)?;
                progress.add(count);
                continue;
            }
            let piece = source.read().await.map_err(Stopped::Here)?;
            if piece.is_empty() {
                break;
            }
            writer.write(&piece).await?;
            if outgoing.body == BodyLength::Chunked {
                writer.flush().await?; // nobody knows when more will come
            }
            progress.add(piece.len() as u64);
        }
    }
    Ok(writer.finish(None).await?)
}

/// What a server did not do, in words.
pub(super) fn words(end: End, timeout: std::time::Duration) -> String {
    let what = match end.cause {
        Cause::Closed => "the server closed the connection".to_owned(),
        Cause::Truncated => "the server closed the connection without TLS's goodbye".to_owned(),
        Cause::Reset => "the server reset the connection".to_owned(),
        Cause::TimedOut => format!("the server was silent for {timeout:?}"),
        Cause::Malformed => "what the server sends is not HTTP/1.1".to_owned(),
        Cause::LimitReached => "the server's head is too large".to_owned(),
        Cause::Alert => "the server ended TLS with an alert".to_owned(),
        Cause::RecordDamaged => "a TLS record of the server is damaged".to_owned(),
        Cause::RecordTooLong => "a TLS record of the server is longer than any may be".to_owned(),
        cause => format!("the connection failed: {}", cause.as_str()),
    };
    let when = match end.phase {
        Phase::RequestBody => " while the request was sent",
        Phase::Response => " before it answered",
        _ => "",
    };
    what + when
}
