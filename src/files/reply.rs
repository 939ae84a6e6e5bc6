//! The head of an answer and what its body is made of, decided before a byte is sent.

use std::ops::Range;
use std::rc::Rc;
use std::time::SystemTime;

use http::{Method, StatusCode};

use super::body::{Body, Broken, Piece};
use super::conditions::{self, Verdict};
use super::encoding::Coding;
use super::facts::Validators;
use super::open::Shared;
use super::path::with_slash;
use super::ranges::{self, Asked as Ranges};
use super::value::Value;
use super::{ALLOW, Asked};
use crate::http::{BodyLength, ResponseHead};

/// An answer that is ready to go.
pub(super) struct Reply {
    pub(super) head: ResponseHead,
    body: Body,
    has_piece: bool,
    /// The place among the lists that are on their way.
    slot: Option<Rc<()>>,
}

/// The file that is sent, and the coding it has where it is a precompressed neighbour.
pub(super) struct Variant {
    pub(super) file: Shared,
    pub(super) coding: Option<Coding>,
}

impl Reply {
    fn new(status: StatusCode, length: BodyLength, body: Body) -> Self {
        Self {
            head: ResponseHead::new(status, length),
            body,
            has_piece: false,
            slot: None,
        }
    }

    /// Which methods there are.
    pub(super) fn options() -> Self {
        Self::new(StatusCode::NO_CONTENT, BodyLength::None, Body::default()).with("Allow", ALLOW)
    }

    /// A folder that was asked for without its slash.
    pub(super) fn redirect(wire_path: &str, query: Option<&str>) -> Self {
        Self::brief(StatusCode::MOVED_PERMANENTLY).with("Location", with_slash(wire_path, query))
    }

    /// The list of a folder.
    pub(super) fn listing(method: &Method, page: Vec<u8>, slot: Rc<()>) -> Self {
        let length = BodyLength::Exact(page.len() as u64);
        let body = match *method {
            Method::HEAD => Body::default(),
            _ => Body::text(page),
        };
        let mut reply = Self::new(StatusCode::OK, length, body);
        reply.slot = Some(slot);
        reply.with("Content-Type", "text/html; charset=utf-8")
    }

    /// A file, as the conditions and ranges of the request want it.
    pub(super) fn file(
        asked: &Asked<'_>,
        kind: Value,
        variant: Variant,
        varies: bool,
        now: SystemTime,
    ) -> Self {
        let validators = variant.file.facts.validators(variant.coding, now);
        let coding = variant.coding;
        let mut reply = match conditions::weigh(asked.fields, &validators) {
            Verdict::Failed => Self::brief(StatusCode::PRECONDITION_FAILED),
            Verdict::NotModified => Self::new(StatusCode::NOT_MODIFIED, BodyLength::None, Body::default())
                .with_validators(&validators),
            Verdict::Send { ranges } => {
                let mut reply = Self::parts(asked, kind, variant.file, ranges);
                if reply.head.status != StatusCode::RANGE_NOT_SATISFIABLE {
                    reply = reply.with_validators(&validators).with("Accept-Ranges", "bytes");
                    if let Some(coding) = coding {
                        reply = reply.with("Content-Encoding", coding.as_str());
                    }
                }
                reply
            }
        };
        if varies {
            reply = reply.with("Vary", "Accept-Encoding");
        }
        if *asked.method == Method::HEAD {
            reply.body = Body::default();
        }
        reply
    }

    fn parts(asked: &Asked<'_>, kind: Value, file: Shared, ranges: bool) -> Self {
        let size = file.facts.size;
        let mut fields = asked.fields.get_all("range");
        // RFC 9110 §14.2: Range means something for GET only. Two of it are not one list.
        let ranges = match (fields.next(), fields.next()) {
            (Some(field), None) if ranges && *asked.method == Method::GET => ranges::read(field, size),
            _ => Ranges::Whole,
        };
        match ranges {
            Ranges::Whole => {
                let body = Body::part(file, 0..size);
                Self::new(StatusCode::OK, BodyLength::Exact(size), body).with("Content-Type", kind)
            }
            Ranges::Nothing => Self::brief(StatusCode::RANGE_NOT_SATISFIABLE)
                .with("Content-Range", Value::new().text("bytes */").decimal(size)),
            Ranges::Parts(parts) => match &parts[..] {
                [part] => Self::one_part(kind, file, part.clone()),
                parts => Self::many_parts(kind, file, parts),
            },
        }
    }

    fn one_part(kind: Value, file: Shared, part: Range<u64>) -> Self {
        let length = BodyLength::Exact(part.end - part.start);
        let range = content_range(&part, file.facts.size);
        Self::new(StatusCode::PARTIAL_CONTENT, length, Body::part(file, part))
            .with("Content-Type", kind)
            .with("Content-Range", range)
    }

    /// RFC 9110 §14.6: multipart/byteranges.
    fn many_parts(kind: Value, file: Shared, parts: &[Range<u64>]) -> Self {
        // 128 random bits: nobody can have put them into the file before.
        let boundary = Value::new()
            .hex(fastrand::u64(..))
            .text("-")
            .hex(fastrand::u64(..));
        let mut pieces = Vec::with_capacity(2 * parts.len() + 1);
        let mut length = 0;
        for part in parts {
            let mut head = b"\r\n--".to_vec();
            head.extend_from_slice(boundary.as_ref());
            head.extend_from_slice(b"\r\nContent-Type: ");
            head.extend_from_slice(kind.as_ref());
            head.extend_from_slice(b"\r\nContent-Range: ");
            head.extend_from_slice(content_range(part, file.facts.size).as_ref());
            head.extend_from_slice(b"\r\n\r\n");
            length += head.len() as u64 + part.end - part.start;
            pieces.extend([Piece::Text(head), Piece::Part(part.clone())]);
        }
        let end = [b"\r\n--", boundary.as_ref(), b"--\r\n"].concat();
        length += end.len() as u64;
        pieces.push(Piece::Text(end));
        let multipart = [b"multipart/byteranges; boundary=", boundary.as_ref()].concat();
        let body = Body::pieces(file, pieces);
        Self::new(StatusCode::PARTIAL_CONTENT, BodyLength::Exact(length), body)
            .with("Content-Type", multipart)
    }

    /// A status that says it all.
    fn brief(status: StatusCode) -> Self {
        let text = format!("{status}\n").into_bytes();
        let length = BodyLength::Exact(text.len() as u64);
        Self::new(status, length, Body::text(text)).with("Content-Type", "text/plain; charset=utf-8")
    }

    fn with_validators(self, validators: &Validators) -> Self {
        let reply = match validators.last_modified() {
            Some(date) => self.with("Last-Modified", date),
            None => self,
        };
        match validators.etag {
            Some(etag) => reply.with("ETag", etag),
            None => reply,
        }
    }

    fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.head.fields.push(name, value);
        self
    }

    /// Bytes of the body, if there is one.
    pub(super) fn length(&self) -> Option<u64> {
        match self.head.body {
            BodyLength::Exact(length) if !self.body.is_empty() => Some(length),
            _ => None,
        }
    }

    /// The body, for what goes straight.
    pub(super) fn body(&mut self) -> &mut Body {
        &mut self.body
    }

    /// Reads the next bytes of the body.
    pub(super) async fn advance(&mut self) -> Result<(), Broken> {
        self.has_piece = self.body.advance().await?;
        Ok(())
    }

    /// The bytes at hand; `None` after the last.
    pub(super) fn piece(&self) -> Option<&[u8]> {
        self.has_piece.then(|| self.body.piece())
    }
}

fn content_range(part: &Range<u64>, size: u64) -> Value {
    let value = Value::new().text("bytes ").decimal(part.start);
    let value = value.text("-").decimal(part.end - 1);
    value.text("/").decimal(size)
}
