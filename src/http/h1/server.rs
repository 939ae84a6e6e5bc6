//! One downstream HTTP/1 connection: reads requests, frames bodies, writes responses.

use std::marker::PhantomData;

use http::StatusCode;

use super::super::{Fields, ResponseHead, Service, Settings};
use crate::drain::Drain;
use crate::outcome::End;
use crate::transport::Transport;

/// Serves exchanges on a connection until it ends; how and why it ended.
///
/// Does not close the transport: the caller does, in the way the end asks for.
pub async fn serve(
    _transport: &Transport,
    _settings: &Settings,
    _service: &impl Service,
    _drain: &Drain,
) -> End {
    todo!()
}

/// A request's body on an HTTP/1 connection.
pub struct RequestBody<'c>(PhantomData<&'c ()>);

#[expect(missing_docs, reason = "to be written")]
impl RequestBody<'_> {
    pub async fn read(&mut self) -> Result<Option<&[u8]>, End> {
        todo!()
    }
    pub fn is_finished(&self) -> bool {
        todo!()
    }
    pub fn has_begun(&self) -> bool {
        todo!()
    }
    pub fn trailers(&self) -> Option<&Fields> {
        todo!()
    }
    pub async fn client_gone(&self) -> End {
        todo!()
    }
}

/// The way back on an HTTP/1 connection.
pub struct Responder<'c>(PhantomData<&'c ()>);

#[expect(missing_docs, reason = "to be written")]
impl Responder<'_> {
    pub async fn inform(&mut self, _head: &ResponseHead) -> Result<(), End> {
        todo!()
    }
    pub async fn start(&mut self, _head: &ResponseHead) -> Result<(), End> {
        todo!()
    }
    pub async fn write(&mut self, _piece: &[u8]) -> Result<(), End> {
        todo!()
    }
    pub async fn flush(&mut self) -> Result<(), End> {
        todo!()
    }
    pub async fn finish(&mut self, _trailers: Option<&Fields>) -> Result<(), End> {
        todo!()
    }
    pub fn has_started(&self) -> bool {
        todo!()
    }
    pub fn status(&self) -> Option<StatusCode> {
        todo!()
    }
    pub fn body_bytes(&self) -> u64 {
        todo!()
    }
    pub fn close_after(&mut self) {
        todo!()
    }
}
