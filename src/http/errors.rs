//! The answers Atlas gives itself when something is wrong: status, small body, Proxy-Status, and
//! an id that `docs/errors.md` explains.

use http::StatusCode;

use super::{BodyLength, ResponseHead};
use crate::outcome::{Cause, End, Phase, Side};

/// One answer of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The id, stable for ever: `docs/errors.md` explains it.
    pub id: &'static str,
    /// The status the client gets.
    pub status: StatusCode,
    /// The RFC 9209 error type, where one fits.
    pub proxy_error: Option<&'static str>,
    /// What the body of the answer says: a sentence for whoever sees it in a browser.
    pub summary: &'static str,
    /// What happened, for the operator.
    pub happened: &'static str,
    /// What the operator can do about it.
    pub advice: &'static str,
}

/// What a 405 given before any route was asked says that it allows (RFC 9110 §15.5.6).
const METHODS_ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

impl Fault {
    /// The answer for an end, where the client can still be answered.
    pub fn of(end: End) -> Self {
        let fault = match end.side {
            Side::Downstream => Self::of_downstream(end),
            Side::Upstream => Self::of_upstream(end),
            Side::Atlas => None,
        };
        fault.unwrap_or_else(|| Self::of_cause(end))
    }

    fn of_downstream(end: End) -> Option<Self> {
        let in_body = end.phase == Phase::RequestBody;
        Some(match end.cause {
            Cause::Malformed if in_body => Self::REQUEST_BODY_MALFORMED,
            Cause::Malformed => Self::REQUEST_MALFORMED,
            Cause::LimitReached if in_body => Self::REQUEST_BODY_TOO_LARGE,
            Cause::LimitReached => Self::REQUEST_HEAD_TOO_LARGE,
            Cause::TimedOut => Self::REQUEST_TIMED_OUT,
            Cause::TooSlow => Self::REQUEST_TOO_SLOW,
            Cause::Unsupported => Self::TRANSFER_CODING_UNSUPPORTED,
            Cause::Closed | Cause::Reset | Cause::Truncated | Cause::Unreachable => Self::REQUEST_INCOMPLETE,
            // TLS of the client's that ends amiss ends its request, too.
            Cause::Alert
            | Cause::NotTls
            | Cause::RecordDamaged
            | Cause::RecordTooLong
            | Cause::KeyUpdate
            | Cause::KeyUpdateStorm => Self::REQUEST_INCOMPLETE,
            _ => return None,
        })
    }

    fn of_upstream(end: End) -> Option<Self> {
        Some(match (end.phase, end.cause) {
            (Phase::Connect, Cause::TimedOut) => Self::UPSTREAM_CONNECT_TIMED_OUT,
            (Phase::Connect, Cause::LimitReached) => Self::UPSTREAM_BUSY,
            (Phase::RequestBody, Cause::TimedOut | Cause::TooSlow) => Self::UPSTREAM_WRITE_TIMED_OUT,
            (Phase::ResponseBody, Cause::TimedOut | Cause::TooSlow) => Self::UPSTREAM_BODY_TIMED_OUT,
            (_, Cause::TimedOut | Cause::TooSlow) => Self::UPSTREAM_RESPONSE_TIMED_OUT,
            (Phase::ResponseBody, Cause::Closed | Cause::Reset | Cause::Truncated) => {
                Self::UPSTREAM_RESPONSE_INCOMPLETE
            }
            (_, Cause::Closed | Cause::Reset | Cause::Truncated | Cause::Unprocessed) => {
                Self::UPSTREAM_CLOSED
            }
            (_, Cause::BadStatus) => Self::UPSTREAM_FAILED,
            (_, Cause::LimitReached) => Self::UPSTREAM_HEAD_TOO_LARGE,
            (_, Cause::Malformed | Cause::Unsupported) => Self::UPSTREAM_RESPONSE_MALFORMED,
            (_, Cause::RecordDamaged | Cause::RecordTooLong) => Self::UPSTREAM_RESPONSE_MALFORMED,
            (_, Cause::KeyUpdate | Cause::KeyUpdateStorm) => Self::UPSTREAM_RESPONSE_MALFORMED,
            (_, cause) if cause.is_excess() => Self::UPSTREAM_RESPONSE_MALFORMED,
            _ => return None,
        })
    }

    /// The answer that follows from the cause alone.
    fn of_cause(end: End) -> Self {
        match end.cause {
            Cause::NoRoute => Self::ROUTE_NOT_FOUND,
            Cause::NotFound => Self::FILE_NOT_FOUND,
            Cause::MethodNotAllowed => Self::METHOD_NOT_ALLOWED,
            Cause::Misdirected => Self::MISDIRECTED,
            Cause::Unresolved => Self::UPSTREAM_UNRESOLVED,
            Cause::AllDown => Self::UPSTREAM_DOWN,
            Cause::Refused => Self::UPSTREAM_REFUSED,
            Cause::Unreachable => Self::UPSTREAM_UNREACHABLE,
            Cause::CertificateRejected | Cause::CertificateUntrusted => Self::UPSTREAM_CERTIFICATE_REJECTED,
            Cause::Alert => Self::UPSTREAM_TLS_ALERT,
            Cause::NoCommonVersion | Cause::NoCommonCipher | Cause::NoCommonProtocol | Cause::NotTls => {
                Self::UPSTREAM_TLS_FAILED
            }
            Cause::LimitReached => Self::UPSTREAM_BUSY,
            Cause::QueueFull => Self::UPSTREAM_QUEUE_FULL,
            Cause::QueueTimedOut => Self::UPSTREAM_QUEUE_TIMED_OUT,
            Cause::RequestsFull => Self::UPSTREAM_REQUESTS_FULL,
            _ => Self::INTERNAL,
        }
    }

    /// Head and body of the answer. Whether the connection ends with it is the
    /// [`Responder`](super::Responder)'s to say.
    pub fn response(&self) -> (ResponseHead, String) {
        self.response_because("")
    }

    /// As [`Self::response`], with a sentence that says more. It must hold no word of the
    /// client's: it is not escaped.
    pub fn response_because(&self, why: &str) -> (ResponseHead, String) {
        let reason = self.status.canonical_reason().unwrap_or_default();
        let colon = if why.is_empty() { "" } else { "\n" };
        let body = format!(
            "{} {reason}\n\n{}{colon}{why}\n\natlas: {}\n",
            self.status.as_u16(),
            self.summary,
            self.id
        );
        let mut head = ResponseHead::new(self.status, BodyLength::Exact(body.len() as u64));
        head.fields.push("Content-Type", "text/plain; charset=utf-8");
        // Some of these statuses may be cached by whoever sees no word against it.
        head.fields.push("Cache-Control", "no-store");
        head.fields.push("Proxy-Status", self.proxy_status());
        if let Some(seconds) = self.retry_after() {
            head.fields.push("Retry-After", seconds);
        }
        if *self == Self::METHOD_UNSUPPORTED {
            head.fields.push("Allow", METHODS_ALLOWED);
        }
        (head, body)
    }

    /// In how many seconds the request may go through (RFC 9110 §10.2.3), where there is a bound that others
    /// have reached. They may be done any moment, and less than a second cannot be said.
    fn retry_after(&self) -> Option<&'static str> {
        let is_for_now = [
            Self::UPSTREAM_BUSY,
            Self::UPSTREAM_QUEUE_FULL,
            Self::UPSTREAM_QUEUE_TIMED_OUT,
            Self::UPSTREAM_REQUESTS_FULL,
        ];
        is_for_now.contains(self).then_some("1")
    }

    /// The answer to a call of gRPC, whose clients look for a status of their own: "Trailers-Only", in
    /// the words of its protocol over HTTP/2.
    pub fn response_to_call(&self) -> ResponseHead {
        let mut head = ResponseHead::new(StatusCode::OK, BodyLength::None);
        head.fields.push("Content-Type", "application/grpc");
        head.fields.push("Grpc-Status", self.call_status());
        head.fields
            .push("Grpc-Message", format!("{} atlas: {}", self.summary, self.id));
        head.fields.push("Proxy-Status", self.proxy_status());
        head
    }

    /// As gRPC's clients themselves read a status of HTTP ("HTTP to gRPC Status Code Mapping").
    fn call_status(&self) -> &'static str {
        match self.status.as_u16() {
            400 => "13",                   // INTERNAL
            404 | 405 => "12",             // UNIMPLEMENTED
            429 | 502 | 503 | 504 => "14", // UNAVAILABLE
            _ => "2",                      // UNKNOWN
        }
    }

    /// The value of Proxy-Status (RFC 9209): who answers, the error's type, the id.
    fn proxy_status(&self) -> String {
        match self.proxy_error {
            Some(error) => format!("atlas; error={error}; details=\"{}\"", self.id),
            None => format!("atlas; details=\"{}\"", self.id),
        }
    }
}

/// Defines the catalogue: a constant for each answer, and all of them in one list.
macro_rules! catalogue {
    ($($name:ident = $id:literal, $status:ident, $error:expr, $summary:literal, $happened:literal, $advice:literal;)*) => {
        impl Fault {
            $(
                #[doc = $happened]
                pub const $name: Self = Self {
                    id: $id,
                    status: StatusCode::$status,
                    proxy_error: $error,
                    summary: $summary,
                    happened: $happened,
                    advice: $advice,
                };
            )*

            /// All of them, by status.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

const REQUEST_ERROR: Option<&str> = Some("http_request_error");

catalogue! {
    REQUEST_MALFORMED = "request_malformed", BAD_REQUEST, REQUEST_ERROR,
        "The request is not valid HTTP.",
        "The request's head breaks a rule of HTTP/1.1, or could be read in two ways: for example a bare line feed, a space before a colon, Transfer-Encoding together with Content-Length, a missing Host.",
        "Look at the client. Atlas refuses what another server might read differently, because that is how requests are smuggled. If TLS was meant, check that the client speaks to the TLS listener, and the other way round.";
    REQUEST_BODY_MALFORMED = "request_body_malformed", BAD_REQUEST, REQUEST_ERROR,
        "The request's body is not valid HTTP.",
        "The chunks of the request's body are not as RFC 9112 has them.",
        "Look at the client, or at the proxy between it and Atlas.";
    REQUEST_INCOMPLETE = "request_incomplete", BAD_REQUEST, REQUEST_ERROR,
        "The request ended before all of it came.",
        "The client closed its connection, or its sending half, before the body it had announced was complete.",
        "Usually nothing: the user went away, or the network broke.";
    ROUTE_NOT_FOUND = "route_not_found", NOT_FOUND, Some("destination_not_found"),
        "There is nothing here.",
        "No route of the configuration matches the request's host, path, method and fields.",
        "Run `atlas explain` with the URL: of the five routes that come nearest it shows what each asks for beyond. A route without `host` and `path` matches everything.";
    FILE_NOT_FOUND = "file_not_found", NOT_FOUND, None,
        "There is nothing here.",
        "The route serves files and has none of this name; or the file must not be served: it lies outside the root, its name begins with a dot, it is not a regular file, or Atlas may not read it.",
        "Check the route's `root` and the file's permissions for the user Atlas runs as. `dotfiles` and `listing` are off unless asked for.";
    METHOD_NOT_ALLOWED = "method_not_allowed", METHOD_NOT_ALLOWED, REQUEST_ERROR,
        "The method is not allowed here.",
        "The request matches a route but for its method, or asks something else of files than GET, HEAD and OPTIONS (which is answered 204).",
        "If the method should be allowed, add it to the route's `method`.";
    METHOD_UNSUPPORTED = "method_unsupported", METHOD_NOT_ALLOWED, REQUEST_ERROR,
        "The method is not allowed here.",
        "CONNECT or TRACE. Atlas is no forward proxy, and echoing requests leaks the fields that other proxies added.",
        "Nothing, unless a client takes Atlas for a forward proxy by mistake.";
    REQUEST_TIMED_OUT = "request_timed_out", REQUEST_TIMEOUT, REQUEST_ERROR,
        "The request did not come in time.",
        "The head was not complete `timeouts.header` after its first byte, or no piece of the body came for `timeouts.body`.",
        "Slow networks are normal; many of these from one address are an attack that the timeout has stopped.";
    REQUEST_TOO_SLOW = "request_too_slow", REQUEST_TIMEOUT, REQUEST_ERROR,
        "The request came too slowly.",
        "The body came at less than `limits.min_rate` bytes per second after the first seconds.",
        "Lower `limits.min_rate` if honest clients are that slow; \"0B\" allows any rate.";
    LENGTH_REQUIRED = "length_required", LENGTH_REQUIRED, REQUEST_ERROR,
        "The request must say how long its body is.",
        "An HTTP/1.0 request with POST, PUT or PATCH has no Content-Length, so the end of its body cannot be known.",
        "Look at the client: it should send Content-Length or speak HTTP/1.1.";
    REQUEST_BODY_TOO_LARGE = "request_body_too_large", PAYLOAD_TOO_LARGE, REQUEST_ERROR,
        "The request's body is too large.",
        "The body has more bytes than `limits.body` allows.",
        "Raise `limits.body` if such uploads are wanted.";
    REQUEST_LINE_TOO_LONG = "request_line_too_long", URI_TOO_LONG, REQUEST_ERROR,
        "The address of the request is too long.",
        "The request line has more bytes than `limits.request_line` allows.",
        "Raise `limits.request_line` if the application needs such addresses; a form sent by POST has no such limit.";
    EXPECTATION_FAILED = "expectation_failed", EXPECTATION_FAILED, REQUEST_ERROR,
        "The request expects something this server does not do.",
        "The field Expect holds something else than `100-continue`.",
        "Look at the client.";
    MISDIRECTED = "misdirected", MISDIRECTED_REQUEST, REQUEST_ERROR,
        "This connection is for another name.",
        "The request's Host is not a name the connection's certificate stands for: the client used a connection it had opened for another name.",
        "Clients try again on a new connection. If they should not have to, add the name to the certificate.";
    REQUEST_HEAD_TOO_LARGE = "request_head_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, REQUEST_ERROR,
        "The request's fields are too large or too many.",
        "The head has more bytes than `limits.head`, or more fields than `limits.fields`.",
        "Mostly cookies that have grown. Raise the limit if the application needs it; its server has such a limit too.";
    INTERNAL = "internal", INTERNAL_SERVER_ERROR, Some("proxy_internal_error"),
        "Something went wrong in this server.",
        "The operating system refused something Atlas needs, a file changed while it was read, or Atlas has a fault.",
        "Look into the error log at this time; the access log's `phase` and `cause` say where it happened. A panic there is worth a report.";
    TRANSFER_CODING_UNSUPPORTED = "transfer_coding_unsupported", NOT_IMPLEMENTED, REQUEST_ERROR,
        "The request uses a transfer coding this server does not know.",
        "Transfer-Encoding names a coding other than `chunked`.",
        "Look at the client. Compressed bodies belong under Content-Encoding, which Atlas passes on.";
    UPSTREAM_REFUSED = "upstream_refused", BAD_GATEWAY, Some("connection_refused"),
        "The server behind this one does not answer.",
        "Every endpoint of the upstream that was tried refused the connection.",
        "Check that the application runs and listens on the address written in `endpoints`.";
    UPSTREAM_UNREACHABLE = "upstream_unreachable", BAD_GATEWAY, Some("destination_ip_unroutable"),
        "The server behind this one cannot be reached.",
        "There is no way to the endpoint's address, or its Unix socket is not there or may not be opened.",
        "Check the address, the network and, for `unix:` endpoints, the path and its permissions.";
    UPSTREAM_FAILED = "upstream_failed", BAD_GATEWAY, Some("http_request_error"),
        "The server behind this one does not answer.",
        "The endpoint answered with a status that the route's `retry` asks for elsewhere, and then no other endpoint could be asked.",
        "The record's `failed_attempts` name the endpoints and what became of them.";
    UPSTREAM_CLOSED = "upstream_closed", BAD_GATEWAY, Some("connection_terminated"),
        "The server behind this one closed the connection.",
        "The endpoint closed or reset the connection before its response's head had come.",
        "Look into the application's log at this time: mostly it crashed or was restarted. If it happens on idle connections, let `pool_idle_timeout` be shorter than the application's own.";
    UPSTREAM_CERTIFICATE_REJECTED = "upstream_certificate_rejected", BAD_GATEWAY, Some("tls_certificate_error"),
        "The server behind this one could not be verified.",
        "The endpoint's certificate has expired, is for another name, or is signed by nobody Atlas trusts.",
        "Set `ca` and `server_name` under the upstream's `tls`, or renew the certificate.";
    UPSTREAM_TLS_ALERT = "upstream_tls_alert", BAD_GATEWAY, Some("tls_alert_received"),
        "The server behind this one refused a secure connection.",
        "The endpoint ended TLS with an alert, in the handshake or instead of an answer.",
        "The error log names the alert. `certificate_required` means that the upstream's `tls` needs `cert` and `key`; `unrecognized_name` that it needs `server_name`. With TLS 1.3 an endpoint that wants a certificate says so only after the handshake, instead of an answer: the record's `phase` is `response` then, and the log names nothing.";
    UPSTREAM_TLS_FAILED = "upstream_tls_failed", BAD_GATEWAY, Some("tls_protocol_error"),
        "No secure connection to the server behind this one is possible.",
        "The endpoint speaks no TLS, or no version or cipher in common with Atlas.",
        "If the endpoint speaks plain HTTP, set the upstream's `tls = false`.";
    UPSTREAM_RESPONSE_MALFORMED = "upstream_response_malformed", BAD_GATEWAY, Some("http_protocol_error"),
        "The server behind this one sent something that is not valid HTTP.",
        "The response breaks a rule of HTTP/1.1, or could be read in two ways; or it switches to a protocol nobody asked for.",
        "Check that the endpoint speaks HTTP/1.1 on this port, or HTTP/2 if the upstream has `http2 = true`, and look at its response with `curl -v`.";
    UPSTREAM_HEAD_TOO_LARGE = "upstream_head_too_large", BAD_GATEWAY, Some("http_response_header_section_size"),
        "The server behind this one sent too large a head.",
        "The response's head has more bytes or fields than Atlas takes, or too many informational responses came before it.",
        "Mostly cookies that have grown. Raise `limits.head` or `limits.fields` if the application needs it.";
    UPSTREAM_RESPONSE_INCOMPLETE = "upstream_response_incomplete", BAD_GATEWAY, Some("http_response_incomplete"),
        "The server behind this one broke off its answer.",
        "The endpoint closed the connection before all of the response's body had come.",
        "Look into the application's log at this time.";
    UPSTREAM_UNRESOLVED = "upstream_unresolved", SERVICE_UNAVAILABLE, Some("dns_error"),
        "The server behind this one is not known at the moment.",
        "No endpoint of the upstream has an address: its name has not been found yet.",
        "Check the name in `endpoints` and the machine's resolver; Atlas looks again by itself.";
    UPSTREAM_DOWN = "upstream_down", SERVICE_UNAVAILABLE, Some("destination_unavailable"),
        "The server behind this one is down at the moment.",
        "Health checks have found every endpoint of the upstream down, so none was asked.",
        "The error log says of each endpoint why it is down. If the checks are wrong and not the endpoints, correct `[upstream.NAME.health]`; `panic_below = 1` asks endpoints that are down where no other is left (of up to 100; of more, where less than a hundredth is).";
    UPSTREAM_BUSY = "upstream_busy", SERVICE_UNAVAILABLE, Some("connection_limit_reached"),
        "The server behind this one has too much to do.",
        "Nothing more may be started at the moment: a limit of connections or of open files is reached.",
        "Look for what is slow behind Atlas; if it is only many clients, raise the limit (`LimitNOFILE` in systemd).";
    UPSTREAM_QUEUE_FULL = "upstream_queue_full", SERVICE_UNAVAILABLE, Some("connection_limit_reached"),
        "The server behind this one has too much to do.",
        "Every endpoint has its `connections_max`, and as many requests wait for one as `queue_max` of the upstream allows.",
        "Look for what is slow behind Atlas. Raise `connections_max` if the endpoints can do more, or add endpoints; a longer queue only makes clients wait.";
    UPSTREAM_QUEUE_TIMED_OUT = "upstream_queue_timed_out", SERVICE_UNAVAILABLE, Some("connection_limit_reached"),
        "The server behind this one has too much to do.",
        "Every endpoint has its `connections_max`, and none had room for this request within the upstream's `queue_timeout`.",
        "Look for what is slow behind Atlas. Raise `connections_max` if the endpoints can do more, or add endpoints.";
    UPSTREAM_REQUESTS_FULL = "upstream_requests_full", SERVICE_UNAVAILABLE, Some("connection_limit_reached"),
        "The server behind this one has too much to do.",
        "The upstream has as many requests under way as its `requests_max` allows.",
        "Look for what is slow behind Atlas: requests pile up there. Raise `requests_max` if the endpoints can do more, or add endpoints.";
    UPSTREAM_CONNECT_TIMED_OUT = "upstream_connect_timed_out", GATEWAY_TIMEOUT, Some("connection_timeout"),
        "The server behind this one does not answer.",
        "No connection to an endpoint came about within `connect_timeout`, its TLS handshake included.",
        "Check the address and the firewall between; an endpoint with a full accept queue looks the same.";
    UPSTREAM_WRITE_TIMED_OUT = "upstream_write_timed_out", GATEWAY_TIMEOUT, Some("connection_write_timeout"),
        "The server behind this one does not take the request.",
        "The endpoint took no byte of the request for the upstream's `idle_timeout`.",
        "Look at what the application does with uploads; raise `idle_timeout` if it is slow for a reason.";
    UPSTREAM_RESPONSE_TIMED_OUT = "upstream_response_timed_out", GATEWAY_TIMEOUT, Some("http_response_timeout"),
        "The server behind this one did not answer in time.",
        "No response's head came within the upstream's `response_timeout` of the end of the request.",
        "Look at the application; raise `response_timeout` if the request takes that long for a reason.";
    UPSTREAM_BODY_TIMED_OUT = "upstream_body_timed_out", GATEWAY_TIMEOUT, Some("connection_read_timeout"),
        "The server behind this one stopped in the middle of its answer.",
        "No byte of the response's body came for the upstream's `idle_timeout`.",
        "Look at the application; raise `idle_timeout` for streams that are silent for long.";
    VERSION_UNSUPPORTED = "version_unsupported", HTTP_VERSION_NOT_SUPPORTED, REQUEST_ERROR,
        "The request uses a version of HTTP this server does not speak here.",
        "The request line names another version than HTTP/1.0 and HTTP/1.1, or none; for example HTTP/2 over TLS that was not agreed on by ALPN.",
        "Look at the client. HTTP/2 is agreed on in the TLS handshake.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_words() {
        let mut seen = BTreeSet::new();
        for fault in Fault::ALL {
            assert!(seen.insert(fault.id), "{} is there twice", fault.id);
            assert!(
                fault
                    .id
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            );
        }
    }

    #[test]
    fn the_document_explains_each_answer_and_no_other() {
        let document = include_str!("../../docs/errors.md");
        let mut sections = document.split("\n## ").skip(1);
        for fault in Fault::ALL {
            let reason = fault.status.canonical_reason().unwrap_or_default();
            let retry_after = fault.retry_after();
            let retry_after = retry_after.map(|seconds| format!(", `Retry-After: {seconds}`"));
            let retry_after = retry_after.unwrap_or_default();
            let expected = format!(
                "`{}`\n\n**The client sees** {} {reason}: \"{}\", and `Proxy-Status: {}`{retry_after}.\n\n\
                 **What happened.** {}\n\n**What to do.** {}",
                fault.id,
                fault.status.as_u16(),
                fault.summary,
                fault.proxy_status(),
                fault.happened,
                fault.advice
            );
            let written = sections.next().unwrap_or_default().trim_end();
            assert_eq!(
                written, expected,
                "docs/errors.md; it should read:\n\n## {expected}\n"
            );
        }
        assert_eq!(sections.next(), None, "docs/errors.md explains what is not there");
    }

    #[test]
    fn an_answer_names_its_id_in_body_and_field() {
        let (head, body) = Fault::UPSTREAM_REFUSED.response();
        assert_eq!(head.status, StatusCode::BAD_GATEWAY);
        assert_eq!(
            head.fields.get("proxy-status"),
            Some(&b"atlas; error=connection_refused; details=\"upstream_refused\""[..])
        );
        assert_eq!(head.body, BodyLength::Exact(body.len() as u64));
        assert_eq!(
            body,
            "502 Bad Gateway\n\nThe server behind this one does not answer.\n\natlas: upstream_refused\n"
        );
    }

    #[test]
    fn a_call_gets_a_status_of_its_own() {
        let head = Fault::UPSTREAM_REFUSED.response_to_call();
        assert_eq!((head.status, head.body), (StatusCode::OK, BodyLength::None));
        assert_eq!(head.fields.get("grpc-status"), Some(&b"14"[..]));
        let message = head.fields.get("grpc-message").unwrap();
        // Of all that is written there nothing needs gRPC's %-escapes.
        for fault in Fault::ALL {
            let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
            assert!(fault.summary.bytes().all(plain), "{}", fault.summary);
        }
        assert!(message.ends_with(b"atlas: upstream_refused"));
    }

    /// What either peer may do once its connection is made.
    const BROKEN: [Cause; 15] = [
        Cause::Closed,
        Cause::Truncated,
        Cause::Reset,
        Cause::Malformed,
        Cause::Unsupported,
        Cause::TimedOut,
        Cause::TooSlow,
        Cause::LimitReached,
        Cause::Unreachable,
        Cause::Alert,
        Cause::RecordDamaged,
        Cause::RecordTooLong,
        Cause::KeyUpdate,
        Cause::KeyUpdateStorm,
        Cause::NotTls,
    ];

    #[test]
    fn every_end_has_an_answer_of_its_side() {
        for &side in Side::ALL {
            for &phase in Phase::ALL {
                for &cause in Cause::ALL {
                    let end = End::new(side, phase, cause);
                    let fault = Fault::of(end);
                    assert!((400..=599).contains(&fault.status.as_u16()));
                    let is_of_side = match side {
                        Side::Downstream => fault.status.is_client_error(),
                        Side::Upstream => fault.id.starts_with("upstream_"),
                        Side::Atlas => true,
                    };
                    let unsupported = Fault::TRANSFER_CODING_UNSUPPORTED;
                    assert!(
                        is_of_side || !BROKEN.contains(&cause) || fault == unsupported,
                        "{end}"
                    );
                }
            }
        }
        let table = [
            (Side::Atlas, Phase::Route, Cause::NoRoute, 404),
            (Side::Atlas, Phase::File, Cause::NotFound, 404),
            (Side::Atlas, Phase::Route, Cause::MethodNotAllowed, 405),
            (Side::Atlas, Phase::Route, Cause::Misdirected, 421),
            (Side::Atlas, Phase::File, Cause::System, 500),
            (Side::Downstream, Phase::Request, Cause::Malformed, 400),
            (Side::Downstream, Phase::Request, Cause::LimitReached, 431),
            (Side::Downstream, Phase::RequestBody, Cause::LimitReached, 413),
            (Side::Downstream, Phase::RequestBody, Cause::TimedOut, 408),
            (Side::Downstream, Phase::RequestBody, Cause::TooSlow, 408),
            (Side::Upstream, Phase::Connect, Cause::Refused, 502),
            (Side::Upstream, Phase::Connect, Cause::TimedOut, 504),
            (Side::Upstream, Phase::Connect, Cause::Unresolved, 503),
            (Side::Upstream, Phase::Connect, Cause::CertificateRejected, 502),
            (Side::Upstream, Phase::Response, Cause::Closed, 502),
            (Side::Upstream, Phase::Response, Cause::Malformed, 502),
            (Side::Upstream, Phase::Response, Cause::LimitReached, 502),
            (Side::Upstream, Phase::Response, Cause::TimedOut, 504),
            (Side::Upstream, Phase::ResponseBody, Cause::Closed, 502),
            (Side::Upstream, Phase::RequestBody, Cause::TimedOut, 504),
            (Side::Atlas, Phase::Connect, Cause::LimitReached, 503),
        ];
        for (side, phase, cause, status) in table {
            let end = End::new(side, phase, cause);
            assert_eq!(Fault::of(end).status.as_u16(), status, "{end}");
        }
    }
}
