//! How an exchange or a connection ended: one vocabulary for the log, the metrics and retries.

use std::fmt;

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
        /// A limit of the configuration was reached.
        LimitReached = "limit_reached",
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
        /// The endpoint refused the connection.
        Refused = "refused",
        /// The endpoint cannot be reached.
        Unreachable = "unreachable",
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
        /// What came is not TLS.
        NotTls = "not_tls",
        /// An error of the operating system on Atlas's own side.
        System = "system",
        /// A fault in Atlas: the connection's task panicked.
        Panicked = "panicked",
    }
}

/// Who makes and opens the TLS records of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// No TLS.
    None,
    /// rustls, in this process, and why it is not the kernel.
    Process(Refusal),
}

impl Carrier {
    /// The word as logs and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process(_) => "process",
        }
    }

    /// Why the kernel does not carry it, where there is TLS.
    pub const fn refusal(self) -> Option<Refusal> {
        match self {
            Self::None => None,
            Self::Process(refusal) => Some(refusal),
        }
    }
}

words! {
    /// Why the kernel does not carry a connection.
    Refusal {
        /// This build cannot hand connections to the kernel.
        NotInThisBuild = "kernel_tls_not_in_this_build",
        /// `prefer_ktls = false`.
        NotPreferred = "not_preferred",
    }
}
