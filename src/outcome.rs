//! How an exchange or a connection ended: one vocabulary for the log, the metrics and retries.

use std::cell::Cell;
use std::fmt;
use std::io;

/// The end of an exchange or a connection, told the same way everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Who ended it.
    pub side: Side,
    /// What was going on.
    pub phase: Phase,
    /// Why.
    pub cause: Cause,
}

impl End {
    /// Puts the three together.
    pub const fn new(side: Side, phase: Phase, cause: Cause) -> Self {
        Self { side, phase, cause }
    }

    /// Everything went through and both sides closed in order.
    pub const fn finished(side: Side) -> Self {
        Self::new(side, Phase::Done, Cause::Finished)
    }

    /// Whether nothing went wrong.
    pub fn is_good(self) -> bool {
        matches!(self.cause, Cause::Finished | Cause::Idle | Cause::Drained)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.side.as_str(),
            self.phase.as_str(),
            self.cause.as_str()
        )
    }
}

/// Defines a closed list of words with the text each has in logs and metrics.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word as logs and metrics write it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

words! {
    /// Who ended it.
    Side {
        /// Atlas itself: a limit, a rule, a drain.
        Atlas = "atlas",
        /// The client.
        Downstream = "downstream",
        /// The endpoint.
        Upstream = "upstream",
    }
}

words! {
    /// What was going on, in the order of a connection's life.
    Phase {
        /// Before the first byte: accepting, the PROXY header.
        Accept = "accept",
        /// TLS with the client.
        Handshake = "handshake",
        /// Waiting for a request on a connection that has nothing to do.
        Idle = "idle",
        /// Reading a request head.
        Request = "request",
        /// Finding the route, checking the request against it.
        Route = "route",
        /// Opening or reading a file.
        File = "file",
        /// Connecting to an endpoint, its TLS included.
        Connect = "connect",
        /// Sending the request to the endpoint, or reading its body from the client.
        RequestBody = "request_body",
        /// Waiting for, or reading, a response head.
        Response = "response",
        /// Moving a response body.
        ResponseBody = "response_body",
        /// Moving raw bytes both ways: TCP mode, upgrades.
        Relay = "relay",
        /// Saying goodbye: close_notify, FIN.
        Close = "close",
        /// After everything that was owed.
        Done = "done",
    }
}

words! {
    /// Why.
    Cause {
        /// All bytes went through and both sides closed in order.
        Finished = "finished",
        /// Nothing came for as long as an idle connection may stay.
        Idle = "idle",
        /// Atlas is going away and had told so.
        Drained = "drained",
        /// The drain's deadline cut it.
        Cut = "cut",
        /// The peer closed where more was owed.
        Closed = "closed",
        /// The peer closed TLS without close_notify where that matters.
        Truncated = "truncated",
        /// The peer reset the connection.
        Reset = "reset",
        /// The peer sent something its protocol does not allow.
        Malformed = "malformed",
        /// The peer wants something Atlas does not do.
        Unsupported = "unsupported",
        /// A deadline passed.
        TimedOut = "timed_out",
        /// The peer sends or reads more slowly than the least rate.
        TooSlow = "too_slow",
        /// All endpoints have as many connections as they may, and as many exchanges wait as may.
        QueueFull = "queue_full",
        /// No endpoint had room for one more connection in time.
        QueueTimedOut = "queue_timed_out",
        /// Another endpoint, asked beside this one because it was slow, was faster.
        Hedged = "hedged",
        /// The upstream has as many requests under way as it may.
        RequestsFull = "requests_full",
        /// A limit of the configuration was reached.
        LimitReached = "limit_reached",
        /// HTTP/2: the peer cancelled requests again and again.
        RapidReset = "rapid_reset",
        /// HTTP/2: the client made Atlas cancel its requests again and again.
        ProvokedResets = "provoked_resets",
        /// HTTP/2: the peer split a head into more and more CONTINUATION frames.
        ContinuationFlood = "continuation_flood",
        /// HTTP/2: the peer sent PING again and again.
        PingFlood = "ping_flood",
        /// HTTP/2: the peer changed its settings again and again.
        SettingsFlood = "settings_flood",
        /// HTTP/2: the peer opened its windows again and again, for nothing.
        WindowUpdateFlood = "window_update_flood",
        /// HTTP/2: the peer sent DATA with nothing or next to nothing in it, again and again.
        EmptyFrames = "empty_frames",
        /// HTTP/2: the peer sent frames that say nothing (PRIORITY, unknown ones) again and again.
        FrameFlood = "frame_flood",
        /// No route matches.
        NoRoute = "no_route",
        /// The file is not there, or must not be served.
        NotFound = "not_found",
        /// The file changed while it was served.
        FileChanged = "file_changed",
        /// The method is not allowed here.
        MethodNotAllowed = "method_not_allowed",
        /// The request's name is not one this connection's certificate stands for.
        Misdirected = "misdirected",
        /// The name of an endpoint has no address yet.
        Unresolved = "unresolved",
        /// HTTP/2: the endpoint has not looked at the request: it refused the stream, or went away.
        Unprocessed = "unprocessed",
        /// The endpoint refused the connection.
        Refused = "refused",
        /// The endpoint cannot be reached.
        Unreachable = "unreachable",
        /// Checks found all endpoints of the upstream down: none was asked.
        AllDown = "all_down",
        /// The endpoint answered with a status that is a failure.
        BadStatus = "bad_status",
        /// TLS: the peers have no protocol version in common.
        NoCommonVersion = "no_common_version",
        /// TLS: the peers have no cipher, group or signature in common.
        NoCommonCipher = "no_common_cipher",
        /// TLS: the peers have no application protocol in common.
        NoCommonProtocol = "no_common_protocol",
        /// TLS: the peer does not accept the certificate.
        CertificateRejected = "certificate_rejected",
        /// TLS: Atlas does not accept the peer's certificate.
        CertificateUntrusted = "certificate_untrusted",
        /// TLS: the peer ended with an alert.
        Alert = "alert",
        /// TLS: a record that cannot be opened.
        RecordDamaged = "record_damaged",
        /// TLS: a record longer than RFC 8446 §5.2 allows.
        RecordTooLong = "record_too_long",
        /// TLS: the peer renewed its keys, which this kernel cannot do.
        KeyUpdate = "key_update",
        /// TLS: the peer renewed its keys again and again.
        KeyUpdateStorm = "key_update_storm",
        /// TLS: so much was sent under one key that it must not be used any longer.
        KeyWornOut = "key_worn_out",
        /// TLS: the kernel had taken the connection on, and then refused its keys.
        KernelRefusedKeys = "kernel_refused_keys",
        /// What came is not TLS.
        NotTls = "not_tls",
        /// An error of the operating system on Atlas's own side.
        System = "system",
        /// A fault in Atlas: the connection's task panicked.
        Panicked = "panicked",
    }
}

impl Cause {
    /// Whether the peer did what HTTP/2 allows too often.
    pub const fn is_excess(self) -> bool {
        matches!(
            self,
            Self::RapidReset
                | Self::ProvokedResets
                | Self::ContinuationFlood
                | Self::PingFlood
                | Self::SettingsFlood
                | Self::WindowUpdateFlood
                | Self::EmptyFrames
                | Self::FrameFlood
        )
    }

    /// Why a socket, or the TLS on it, gave this error. A FIN where more was owed is told by the
    /// caller, who knows whether there was TLS.
    pub fn of(error: &io::Error) -> Self {
        if let Some(named) = error.get_ref().and_then(|inner| inner.downcast_ref::<Named>()) {
            return named.0;
        }
        if let Some(refused) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return Self::of_records(refused);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            io::ErrorKind::InvalidData => Self::Malformed,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => Self::Reset,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            _ => Self::System,
        }
    }

    /// Why rustls does not open records any more: in the words the kernel's errors have, too.
    fn of_records(refused: &rustls::Error) -> Self {
        use rustls::InvalidMessage::{InvalidContentType, MessageTooLarge, UnknownProtocolVersion};
        use rustls::PeerMisbehaved as Misbehaved;
        match refused {
            rustls::Error::PeerMisbehaved(Misbehaved::TooManyKeyUpdateRequests) => Self::KeyUpdateStorm,
            rustls::Error::PeerMisbehaved(
                Misbehaved::TooManyEmptyFragments
                | Misbehaved::TooManyWarningAlertsReceived
                | Misbehaved::TooManyRenegotiationRequests,
            ) => Self::LimitReached,
            rustls::Error::AlertReceived(_) => Self::Alert,
            rustls::Error::DecryptError => Self::RecordDamaged,
            rustls::Error::PeerSentOversizedRecord | rustls::Error::InvalidMessage(MessageTooLarge) => {
                Self::RecordTooLong
            }
            rustls::Error::InvalidMessage(InvalidContentType | UnknownProtocolVersion) => Self::NotTls,
            _ => Self::Malformed,
        }
    }

    /// An error of a byte stream that says which cause it is, for [`Self::of`].
    pub fn into_error(self, kind: io::ErrorKind) -> io::Error {
        io::Error::new(kind, Named(self))
    }
}

/// A cause inside an `io::Error`.
#[derive(Debug)]
struct Named(Cause);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl std::error::Error for Named {}

/// Who makes and opens the TLS records of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// No TLS.
    #[default]
    None,
    /// rustls, in this process, and why it is not the kernel.
    Process(Refusal),
    /// The kernel.
    Kernel,
}

impl Carrier {
    /// The word as logs and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process(_) => "process",
            Self::Kernel => "kernel",
        }
    }

    /// Why the kernel does not carry it, where there is TLS.
    pub const fn refusal(self) -> Option<Refusal> {
        match self {
            Self::None | Self::Kernel => None,
            Self::Process(refusal) => Some(refusal),
        }
    }
}

words! {
    /// Why the kernel does not carry a connection.
    Refusal {
        /// `prefer_ktls = false`.
        NotPreferred = "not_preferred",
        /// This kernel has no TLS (`CONFIG_TLS`).
        NoUlp = "no_ulp",
        /// The kernel's module `tls` is not loaded, and this process may not load it.
        NoPermission = "no_permission",
        /// It goes over a Unix socket; the kernel has TLS for TCP only.
        UnixSocket = "unix_socket",
        /// The kernel does not take this version of TLS.
        Version = "version",
        /// The kernel does not take this cipher.
        Cipher = "cipher",
        /// Probe: a record that is not data cannot be told from data, or is lost.
        ProbeControlRecord = "probe_control_record",
        /// Probe: what was sent in clear before the keys were set does not come out whole.
        ProbeEarlyData = "probe_early_data",
        /// Probe: bytes were lost or changed on the way.
        ProbeDelivery = "probe_delivery",
        /// Probe: it was not through in time, so nothing is known of this kernel.
        ProbeTimedOut = "probe_timed_out",
        /// The peer had closed, or said that it sends no more, before its connection could move.
        PeerClosedEarly = "peer_closed_early",
        /// No body was large enough to be worth it.
        BelowThreshold = "below_threshold",
        /// A body was large enough, but records or an answer to a key update stood in the way to
        /// the end.
        NoBoundary = "no_boundary",
        /// The kernel had refused others shortly before.
        Breaker = "breaker",
        /// HTTP/2 is spoken on it, whose frames are made in this process.
        Http2 = "http2",
        /// `setsockopt(TCP_ULP)` failed for want of memory: ENOMEM, ENOBUFS.
        AttachNoMemory = "attach_no_memory",
        /// `setsockopt(TCP_ULP)` is forbidden to this process: EPERM, EACCES.
        AttachNotPermitted = "attach_not_permitted",
        /// `setsockopt(TCP_ULP)` is not known here: ENOPROTOOPT, EOPNOTSUPP, EINVAL, ENOSYS.
        AttachUnknown = "attach_unknown",
        /// `setsockopt(TCP_ULP)` failed by another error; the log tells which.
        AttachFailed = "attach_failed",
    }
}

/// Who carries a connection and what was moved on it, as it stands now.
///
/// The transport keeps it; records read it when they end.
#[derive(Debug)]
pub struct Carriage {
    /// Who makes the TLS records.
    pub carrier: Cell<Carrier>,
    /// Bytes written to the peer that came from another socket inside the kernel.
    pub spliced: Cell<u64>,
    /// Bytes written to the peer that came from a file inside the kernel.
    pub sendfile: Cell<u64>,
    /// Key updates that came from the peer.
    pub key_updates_received: Cell<u32>,
    /// Key updates that were sent to the peer.
    pub key_updates_sent: Cell<u32>,
    /// TLS records from the peer, handshake excluded, when they were last counted; 0 where the kernel does not
    /// open them.
    pub records_received: Cell<u64>,
    /// The same of those to the peer.
    pub records_sent: Cell<u64>,
}

/// What a [`Carriage`] had come to at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Who makes the records; the kernel, too, where it had just refused to.
    pub carrier: Carrier,
    /// As [`Carriage::spliced`].
    pub spliced: u64,
    /// As [`Carriage::sendfile`].
    pub sendfile: u64,
    /// As [`Carriage::key_updates_received`].
    pub key_updates_received: u32,
    /// As [`Carriage::key_updates_sent`].
    pub key_updates_sent: u32,
}

impl Carriage {
    /// Nothing was moved yet.
    pub const fn new(carrier: Carrier) -> Self {
        Self {
            carrier: Cell::new(carrier),
            spliced: Cell::new(0),
            sendfile: Cell::new(0),
            key_updates_received: Cell::new(0),
            key_updates_sent: Cell::new(0),
            records_received: Cell::new(0),
            records_sent: Cell::new(0),
        }
    }

    /// What it has come to.
    pub fn tally(&self) -> Tally {
        Tally {
            carrier: self.carrier.get(),
            spliced: self.spliced.get(),
            sendfile: self.sendfile.get(),
            key_updates_received: self.key_updates_received.get(),
            key_updates_sent: self.key_updates_sent.get(),
        }
    }
}

impl Refusal {
    /// What it means, for a person: the rest of "the kernel does not make its records: …".
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::NotPreferred => "it was not asked for",
            Self::NoUlp => "this kernel has no TLS",
            Self::NoPermission => "the kernel's module `tls` is not loaded, and Atlas may not load it",
            Self::UnixSocket => "it goes over a Unix socket, and the kernel has TLS for TCP only",
            Self::Version => "the kernel does not take this version of TLS",
            Self::Cipher => "the kernel does not take this cipher",
            Self::ProbeControlRecord => "this kernel loses or hides records that are not data",
            Self::ProbeEarlyData => "this kernel loses what was sent before it had the keys",
            Self::ProbeDelivery => "this kernel loses or changes bytes",
            Self::ProbeTimedOut => "the kernel could not be tried in time; a reload tries again",
            Self::PeerClosedEarly => "the peer had closed before it could be handed over",
            Self::BelowThreshold => "no body was large enough to be worth it",
            Self::NoBoundary => "half a record or a key update stood in the way",
            Self::Breaker => "the kernel had refused others shortly before",
            Self::Http2 => "it speaks HTTP/2, whose frames are made in this process",
            Self::AttachNoMemory => "the kernel had no memory for it",
            Self::AttachNotPermitted => {
                "a system call filter, a security module or a BPF program forbids it (TCP_ULP)"
            }
            Self::AttachUnknown => "this kernel, or what stands in its place, does not know TCP_ULP",
            Self::AttachFailed => "the kernel would not take it; the log tells why",
        }
    }
}
