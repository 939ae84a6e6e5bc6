//! TLS as one listener or one upstream speaks it: certificates and rules, put together once.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls::{SupportedProtocolVersion, version};

use super::certificates::Certificate;
use super::choice::Choice;

/// Bytes a body must have before its connection is handed to the kernel, if nothing else is said.
///
/// By instructions the way there costs some 100 thousand. A file has earned that back at half of this length
/// and saves 8 % at it, since sendfile spares more than records do; a proxied body costs 3 % more at it and is
/// even at 4 MiB (Linux 6.12, `cargo bench --bench instructions -- --threshold 0`).
pub const KTLS_THRESHOLD: u64 = 1024 * 1024;

/// TLS towards clients, as one listener speaks it.
pub struct Settings {
    /// The kernel shall carry connections where it can.
    pub prefer_ktls: bool,
    /// Bytes a body must have before its connection is handed to the kernel.
    pub ktls_threshold: u64,
    /// What is agreed on by ALPN is spoken here, and not passed on.
    pub(super) speaks: bool,
    /// Versions, certificates, tickets, application protocols.
    pub server: Arc<ServerConfig>,
    choice: Arc<Choice>,
}

/// What [`Settings`] are made of.
pub struct Build<'a> {
    /// At least one; the first is the default.
    pub certificates: Vec<Certificate>,
    /// The oldest version that is spoken.
    pub min_version: Version,
    /// Application protocols, the dearest first. Empty: none is negotiated.
    pub alpn: Vec<String>,
    /// They are spoken here; else the bytes are passed on, whatever they mean.
    pub speaks: bool,
    /// See [`Settings::prefer_ktls`].
    pub prefer_ktls: bool,
    /// See [`Settings::ktls_threshold`].
    pub ktls_threshold: u64,
    /// Settings of the generation before. Clients resume over a reload where their listener's
    /// certificates stay: the ticket keys of the settings with the same certificates are kept.
    pub earlier: &'a [Arc<Settings>],
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2, RFC 5246.
    #[default]
    Tls12,
    /// TLS 1.3, RFC 8446.
    Tls13,
}

impl Settings {
    /// Puts the settings of a listener together.
    ///
    /// # Errors
    ///
    /// A sentence: no certificate, or the system gives no random bytes for ticket keys.
    pub fn build(build: Build<'_>) -> Result<Self, String> {
        let choice = Arc::new(Choice::new(build.certificates)?);
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(build.min_version.and_newer())
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(choice.clone());
        server.enable_secret_extraction = build.prefer_ktls;
        server.alpn_protocols = build.alpn.into_iter().map(String::into_bytes).collect();
        server.ticketer = match build.earlier.iter().find(|earlier| earlier.stands_for(&choice)) {
            Some(earlier) => earlier.server.ticketer.clone(),
            None => fresh_tickets()?,
        };
        // Tickets do it all; a store would be memory and a lock that the workers share.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            prefer_ktls: build.prefer_ktls,
            ktls_threshold: build.ktls_threshold,
            speaks: build.speaks,
            server: Arc::new(server),
            choice,
        })
    }

    /// The certificates, the default first.
    pub fn certificates(&self) -> &[Certificate] {
        self.choice.certificates()
    }

    /// The certificate a client gets that asks for `name` and can verify all of them.
    pub fn certificate_for(&self, name: &str) -> &Certificate {
        self.choice.pick(Some(name), None)
    }

    fn stands_for(&self, choice: &Choice) -> bool {
        let chains = |choice: &Choice| -> Vec<_> {
            let certificates = choice.certificates().iter();
            certificates
                .map(|certificate| certificate.key.cert.clone())
                .collect()
        };
        chains(&self.choice) == chains(choice)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("certificates", &self.certificates().len())
            .finish_non_exhaustive()
    }
}

/// Ticket keys that rotate by themselves: a key encrypts for six hours, and opens for six more.
fn fresh_tickets() -> Result<Arc<dyn ProducesTickets>, String> {
    aws_lc_rs::Ticketer::new().map_err(|error| format!("cannot make ticket keys: {error}"))
}

impl Version {
    fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match self {
            Self::Tls12 => &ALL,
            Self::Tls13 => &ALL[..1],
        }
    }
}

/// aws-lc-rs, with X25519MLKEM768 first (rustls' feature `prefer-post-quantum`).
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// TLS towards endpoints, as one upstream speaks it.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The name to ask for and to verify, instead of the endpoint's.
    pub server_name: Option<ServerName<'static>>,
    /// The kernel shall carry connections where it can.
    pub prefer_ktls: bool,
    /// Bytes a body must have before its connection is handed to the kernel.
    pub ktls_threshold: u64,
    /// Roots, client certificate, versions.
    pub client: Arc<ClientConfig>,
}

/// What [`ClientSettings`] are made of.
pub struct ClientBuild {
    /// The authorities that may vouch for the endpoint; see [`super::certificates::read_roots`] and
    /// [`super::certificates::system_roots`]. `None`: **whoever answers is believed**.
    pub roots: Option<RootCertStore>,
    /// What Atlas shows of itself where the endpoint asks.
    pub certificate: Option<Certificate>,
    /// See [`ClientSettings::server_name`].
    pub server_name: Option<ServerName<'static>>,
    /// Application protocols, the dearest first. Empty: none is offered.
    pub alpn: Vec<String>,
    /// See [`ClientSettings::prefer_ktls`].
    pub prefer_ktls: bool,
    /// See [`ClientSettings::ktls_threshold`].
    pub ktls_threshold: u64,
}

impl ClientSettings {
    /// Puts the settings of an upstream together.
    ///
    /// # Errors
    ///
    /// A sentence, if rustls does not take them.
    pub fn build(build: ClientBuild) -> Result<Self, String> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(Version::Tls12.and_newer())
            .map_err(|error| error.to_string())?;
        let builder = match build.roots {
            Some(roots) => builder.with_root_certificates(roots),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(DangerousNoVerification(algorithms))),
        };
        let mut client = match build.certificate {
            Some(certificate) => {
                let own = CertifiedKey::clone(&certificate.key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
            None => builder.with_no_client_auth(),
        };
        client.alpn_protocols = build.alpn.into_iter().map(String::into_bytes).collect();
        client.resumption = sessions();
        client.enable_secret_extraction = build.prefer_ktls;
        Ok(Self {
            server_name: build.server_name,
            prefer_ktls: build.prefer_ktls,
            ktls_threshold: build.ktls_threshold,
            client: Arc::new(client),
        })
    }

    /// The same with an own store of sessions, so that workers share none.
    #[must_use]
    pub fn for_worker(&self) -> Self {
        let mut client = ClientConfig::clone(&self.client);
        client.resumption = sessions();
        Self {
            server_name: self.server_name.clone(),
            prefer_ktls: self.prefer_ktls,
            ktls_threshold: self.ktls_threshold,
            client: Arc::new(client),
        }
    }

    /// As [`Self::for_worker`], with these application protocols.
    #[must_use]
    pub fn offering(&self, alpn: &[&str]) -> Self {
        let mut offering = self.for_worker();
        let mut client = ClientConfig::clone(&offering.client);
        client.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        offering.client = Arc::new(client);
        offering
    }

    /// As [`Self::for_worker`], for connections that only look whether an endpoint is well, in this
    /// process.
    #[must_use]
    pub fn for_checks(&self, server_name: Option<ServerName<'static>>) -> Self {
        let mut settings = self.for_worker();
        let mut client = ClientConfig::clone(&settings.client);
        client.enable_secret_extraction = false;
        settings.client = Arc::new(client);
        settings.prefer_ktls = false;
        settings.server_name = server_name.or(settings.server_name);
        settings
    }

    /// The name to verify for an endpoint's host: a DNS name or an address.
    ///
    /// # Errors
    ///
    /// A sentence, if it is neither.
    pub fn parse_name(host: &str) -> Result<ServerName<'static>, String> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let name = bare.unwrap_or(host);
        let name = name.strip_suffix('.').unwrap_or(name);
        ServerName::try_from(name.to_owned())
            .map_err(|_| format!("`{host}` is neither a DNS name nor an address"))
    }
}

/// Endpoints whose sessions are remembered, of each upstream.
const SESSIONS_MAX: usize = 256;

fn sessions() -> Resumption {
    Resumption::in_memory_sessions(SESSIONS_MAX)
}

/// Believes whoever answers: `verify = false`. The signatures are checked, the person is not.
#[derive(Debug)]
struct DangerousNoVerification(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for DangerousNoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
