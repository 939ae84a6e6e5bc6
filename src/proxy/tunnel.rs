//! After a 101: all that both sides say, until that ends.

use super::forward::{MALFORMED, Passage};
use super::retry::Taken;
use super::tcp::relay_until_cut;
use super::{headers, upgrade};
use crate::http::{Fields, RequestBody, Responder, ResponseHead, Tunnel};
use crate::outcome::End;
use crate::relay::{self, Ahead, StreamReader, StreamWriter};

impl<'d> Passage<'_, '_, 'd> {
    /// Passes a 101 on, and then all that both sides say. `asked`: the fields the endpoint was sent.
    pub(super) async fn tunnel(
        &mut self,
        mut head: ResponseHead,
        asked: &Fields,
        body: &mut RequestBody<'d>,
        taken: &Taken<'_>,
    ) -> Result<End, End> {
        let is_good = upgrade::is_what_was_asked(&head, asked)
            && (!self.connects || upgrade::is_key_answered(&head, asked));
        let (true, Some((upstream, ahead))) = (is_good, self.reader.switch()) else {
            return Err(MALFORMED);
        };
        self.note_begun(head.status);
        headers::to_client_with_upgrade(&mut head.fields);
        self.bind(&mut head);
        let tunnel = self.response.switch(&head, body).await?;
        drop(head);
        let _open = self.proxy.counters.tunnel();
        let (written, spliced) = (upstream.bytes_out(), upstream.carriage().spliced.get());
        let timeout = self.proxy.generation.http.tunnel_timeout;
        let end = match tunnel {
            Tunnel::Connection {
                transport,
                ahead: downstream,
                drain,
            } => {
                let ahead = Ahead {
                    downstream,
                    upstream: ahead,
                };
                relay_until_cut(ahead, transport, upstream, timeout, drain).await
            }
            // The connection it lies in is drained as a whole.
            Tunnel::Stream => {
                let (reader, writer) = (&mut Said(body), &mut Told(&mut *self.response));
                relay::with_stream(reader, writer, ahead, upstream, timeout).await
            }
        };
        self.response.switched_ended();
        taken.note_tunnel(
            upstream.bytes_out() - written,
            upstream.carriage().spliced.get() - spliced,
        );
        match end.is_good() {
            true => Ok(end),
            false => Err(end),
        }
    }
}

/// What a client says in a tunnel on a stream.
struct Said<'b, 'd>(&'b mut RequestBody<'d>);

impl StreamReader for Said<'_, '_> {
    async fn read(&mut self) -> Result<Option<&[u8]>, End> {
        self.0.read().await
    }
}

/// What it is told there.
struct Told<'b, 'd>(&'b mut Responder<'d>);

impl StreamWriter for Told<'_, '_> {
    async fn write(&mut self, piece: &[u8]) -> Result<(), End> {
        self.0.write(piece).await
    }

    async fn finish(&mut self) -> Result<(), End> {
        self.0.finish(None).await
    }
}
