//! Connections of every carrier, both ends in this process, after a real handshake.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use atlas::offload::Offload;
use atlas::outcome::Refusal;
use atlas::runtime::{self, Socket};
use atlas::time::Deadline;
use atlas::tls::certificates::Certificate;
use atlas::tls::{self, Build, ClientBuild, ClientSettings, Settings, Version};
use atlas::transport::Transport;
use futures_util::future::join;
use rustls::crypto::aws_lc_rs::{cipher_suite as suites, default_provider};
use rustls::{ProtocolVersion, RootCertStore, ServerConfig, SupportedCipherSuite};

use super::LONG;

/// Who makes the records of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// No TLS, on both ends.
    Plain,
    /// monoio-rustls.
    Rustls,
    /// Our own stream over rustls, which could go to the kernel and does not.
    Sealed,
    /// The same, going to the kernel in the middle of its bytes.
    Midway,
    /// The kernel, from the handshake on.
    Kernel,
}

/// Bytes after which [`Carrier::Midway`] goes to the kernel.
const MIDWAY: u64 = 20_000;

/// All that the kernel takes.
pub(crate) const SUITES: [SupportedCipherSuite; 6] = [
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Whether there are keys to be renewed.
pub(crate) fn is_tls13(suite: usize) -> bool {
    SUITES[suite].version().version == ProtocolVersion::TLSv1_3
}

/// The same settings, with one suite.
fn with_only(mut settings: Settings, suite: SupportedCipherSuite) -> Settings {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let mut server = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(settings.server.cert_resolver.clone());
    server.enable_secret_extraction = settings.server.enable_secret_extraction;
    server.ticketer = settings.server.ticketer.clone();
    server.session_storage = settings.server.session_storage.clone();
    settings.server = server.into();
    settings
}

/// Bytes after which each goes to the kernel, if at all.
const THRESHOLDS: [Option<u64>; 4] = [None, Some(u64::MAX), Some(MIDWAY), Some(0)];

impl Carrier {
    /// What the other end of a connection is made of where only one of them matters: one that can
    /// renew its keys, and is no kernel.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Self::Plain => Self::Plain,
            _ => Self::Sealed,
        }
    }

    /// In [`THRESHOLDS`].
    fn place(self) -> usize {
        match self {
            Self::Plain | Self::Rustls => 0,
            Self::Sealed => 1,
            Self::Midway => 2,
            Self::Kernel => 3,
        }
    }
}

/// Settings of both sides, of every carrier this machine has.
pub(crate) struct Bench {
    offload: Arc<Offload>,
    /// By suite, and by carrier.
    server: [[Settings; 4]; SUITES.len()],
    client: [ClientSettings; 4],
}

impl Bench {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let server = |threshold: Option<u64>| {
            let certificate = Certificate::from_pem(
                made.cert.pem().as_bytes(),
                "cert.pem".as_ref(),
                made.signing_key.serialize_pem().as_bytes(),
                "key.pem".as_ref(),
            );
            Settings::build(Build {
                certificates: vec![certificate.unwrap()],
                min_version: Version::Tls12,
                alpn: Vec::new(),
                speaks: true,
                prefer_ktls: threshold.is_some(),
                ktls_threshold: threshold.unwrap_or(0),
                earlier: &[],
            })
            .unwrap()
        };
        let client = |threshold: Option<u64>| {
            let mut roots = RootCertStore::empty();
            roots.add(made.cert.der().clone()).unwrap();
            ClientSettings::build(ClientBuild {
                roots: Some(roots),
                certificate: None,
                server_name: None,
                alpn: Vec::new(),
                prefer_ktls: threshold.is_some(),
                ktls_threshold: threshold.unwrap_or(0),
            })
            .unwrap()
        };
        Self {
            offload: Offload::probe().into(),
            server: SUITES.map(|suite| THRESHOLDS.map(|threshold| with_only(server(threshold), suite))),
            client: THRESHOLDS.map(client),
        }
    }

    /// The carriers of two ends that understand each other, as far as this machine has them.
    pub(crate) fn pairs(&self) -> Vec<(Carrier, Carrier)> {
        let mut pairs = self.relays();
        pairs.retain(|(one, other)| (*one == Carrier::Plain) == (*other == Carrier::Plain));
        pairs
    }

    /// The carriers of the two connections of a relay, as far as this machine has them.
    pub(crate) fn relays(&self) -> Vec<(Carrier, Carrier)> {
        let mut carriers = vec![Carrier::Plain, Carrier::Rustls, Carrier::Sealed];
        match self.offload.refusal() {
            Some(refusal) => eprintln!("skipped: this kernel has no TLS ({})", refusal.as_str()),
            None => carriers.extend([Carrier::Midway, Carrier::Kernel]),
        }
        let pairs = carriers
            .iter()
            .flat_map(|one| carriers.iter().map(|other| (*one, *other)));
        pairs.collect()
    }

    /// Whether no kernel is involved that cannot follow a key update.
    pub(crate) fn may_renew(&self, carriers: &[Carrier]) -> bool {
        let is_kernels = |carrier: &Carrier| matches!(carrier, Carrier::Midway | Carrier::Kernel);
        self.offload.can_rekey() || !carriers.iter().any(is_kernels)
    }

    fn offload(&self, carrier: Carrier) -> Arc<Offload> {
        match carrier {
            Carrier::Plain | Carrier::Rustls => Offload::absent(Refusal::NotPreferred).into(),
            // Whatever this kernel does, it is not asked.
            Carrier::Sealed => Offload::assumed().into(),
            Carrier::Midway | Carrier::Kernel => self.offload.clone(),
        }
    }

    /// A connection: the end that accepted, and the one that connected.
    pub(crate) async fn connect(
        &self,
        accepted: Carrier,
        connected: Carrier,
        suite: usize,
    ) -> (Transport, Transport) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        let [near, far] = [near, far].map(|socket| {
            socket.set_nodelay(true).unwrap();
            Socket::new(OwnedFd::from(socket)).unwrap()
        });
        if accepted == Carrier::Plain {
            assert_eq!(connected, Carrier::Plain);
            return (Transport::plain(far), Transport::plain(near));
        }
        let deadline = Deadline::within(LONG);
        let connecting = async {
            let settings = &self.client[connected.place()];
            let secured = tls::connect(near, settings, "a.test", &self.offload(connected), deadline).await;
            // The last flight goes with the first bytes; here nobody may have any.
            if let Ok(secured) = &secured {
                secured.transport.flush(LONG).await.unwrap();
            }
            secured
        };
        let offload = self.offload(accepted);
        let accepting = tls::accept(far, &self.server[suite][accepted.place()], &offload, deadline);
        let (server, client) = join(accepting, connecting).await;
        let (server, client) = (server.unwrap().transport, client.unwrap().transport);
        for (carrier, transport) in [(accepted, &server), (connected, &client)] {
            if carrier == Carrier::Kernel {
                await_kernel(transport).await;
            }
        }
        (server, client)
    }
}

/// A ticket of which only a half has come keeps a client back for a moment.
async fn await_kernel(transport: &Transport) {
    for _ in 0..100 {
        transport.promote(u64::MAX).unwrap();
        if transport.carriage().carrier.get() == atlas::outcome::Carrier::Kernel {
            return;
        }
        runtime::sleep(Duration::from_millis(5)).await;
    }
    panic!("not in the kernel: {:?}", transport.carriage().carrier.get());
}
