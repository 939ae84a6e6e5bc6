//! Handshakes over loopback: with Atlas at both ends, and with clients that behave badly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore};

use super::super::certificates::read_roots;
use super::super::{
    Alert, Build, ClientBuild, ClientSettings, Failed, KTLS_THRESHOLD, Secured, Settings, Version, accept,
    connect,
};
use super::Authority;
use crate::offload::Offload;
use crate::offload::tests::probe;
use crate::outcome::{Carrier, Cause, End, Phase, Refusal, Side};
use crate::runtime::{self, Address, Preference, Socket, before};
use crate::time::Deadline;

const SECOND: Duration = Duration::from_secs(1);

/// On whose stream both ends stand.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Layer {
    /// monoio-rustls, since the kernel has no TLS.
    Rustls,
    /// Our own, since the kernel might take the connection on.
    Sealed,
    /// Our own, and then in the kernel if that is what is asked for.
    Kernel,
}

impl Layer {
    pub(super) fn offload(self) -> Offload {
        match self {
            Self::Rustls => Offload::absent(Refusal::NoUlp),
            Self::Sealed => Offload::assumed(),
            Self::Kernel => probe(),
        }
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Rustls => Refusal::NoUlp,
            Self::Sealed | Self::Kernel => Refusal::BelowThreshold,
        }
    }
}

const LAYERS: [Layer; 2] = [Layer::Rustls, Layer::Sealed];
pub(super) const BOTH: [Preference; 2] = [Preference::Auto, Preference::Epoll];

#[test]
fn both_ends_agree_and_the_second_time_they_resume() {
    for layer in LAYERS {
        let bench = Bench::new(layer);
        let client = bench.client(true, None);
        for preference in BOTH {
            let client = client.for_worker();
            for resumed in [false, true] {
                run(preference, async {
                    let (server, endpoint) = bench.shake(&client, "A.test").await;
                    let (server, endpoint) = (server.unwrap(), endpoint.unwrap());
                    assert_eq!(server.facts.server_name.as_deref(), Some("a.test"));
                    for secured in [&server, &endpoint] {
                        let carrier = secured.transport.carriage().carrier.get();
                        assert_eq!(carrier, Carrier::Process(layer.refusal()));
                    }
                    for facts in [&server.facts, &endpoint.facts] {
                        assert_eq!(facts.version, "TLSv1.3");
                        assert!(facts.cipher.starts_with("TLS_AES_"), "{}", facts.cipher);
                        assert_eq!(facts.alpn.as_deref(), Some("http/1.1"));
                        assert_eq!(facts.resumed, resumed);
                    }
                    talk(&server, &endpoint).await;
                });
            }
        }
    }
}

/// `offload` may do everything, and is not asked.
#[test]
fn who_does_not_want_the_kernel_keeps_its_connections() {
    let mut bench = Bench::new(Layer::Sealed);
    bench.rebuild(|build| build.prefer_ktls = false);
    let mut client = bench.client(true, None);
    (client.prefer_ktls, client.ktls_threshold) = (false, 0);
    run(Preference::Auto, async {
        let (server, endpoint) = bench.shake(&client, "a.test").await;
        let (server, endpoint) = (server.unwrap(), endpoint.unwrap());
        for secured in [&server, &endpoint] {
            let carrier = secured.transport.carriage().carrier.get();
            assert_eq!(carrier, Carrier::Process(Refusal::NotPreferred));
        }
        talk(&server, &endpoint).await;
    });
}

#[test]
fn tickets_outlive_a_reload_if_the_certificates_stay() {
    for layer in LAYERS {
        let mut bench = Bench::new(layer);
        let client = bench.client(true, None);
        let certificates = bench.settings.certificates().to_vec();
        for (certificates, resumed) in [
            (certificates.clone(), false),
            (certificates, true),
            (vec![bench.authority.certificate(&["a.test"])], false),
        ] {
            let earlier = Arc::new(bench.settings);
            bench.settings = Settings::build(Build {
                certificates,
                earlier: &[earlier],
                ..build()
            })
            .unwrap();
            run(Preference::Auto, async {
                let (server, endpoint) = bench.shake(&client, "a.test").await;
                let (server, endpoint) = (server.unwrap(), endpoint.unwrap());
                assert_eq!(server.facts.resumed, resumed);
                talk(&server, &endpoint).await;
            });
        }
    }
}

#[test]
fn an_endpoint_that_cannot_be_trusted_is_refused() {
    for layer in LAYERS {
        let bench = Bench::new(layer);
        let stranger = Bench::new(layer);
        let untrusted = End::new(Side::Upstream, Phase::Connect, Cause::CertificateUntrusted);
        run(Preference::Auto, async {
            let (server, endpoint) = bench.shake(&stranger.client(true, None), "a.test").await;
            let failed = endpoint.err().unwrap();
            assert_eq!(failed.end, untrusted);
            assert_eq!(failed.alert, Some(Alert::Sent(AlertDescription::UnknownCA)));
            let failed = server.err().unwrap();
            assert_eq!(failed.end.cause, Cause::CertificateRejected);
            assert_eq!(failed.alert, Some(Alert::Received(AlertDescription::UnknownCA)));

            let (_, endpoint) = bench.shake(&bench.client(true, None), "b.test").await;
            assert_eq!(endpoint.err().unwrap().end, untrusted);
        });
    }
}

#[test]
fn a_name_of_the_settings_and_no_verification_are_obeyed() {
    for layer in LAYERS {
        let bench = Bench::new(layer);
        run(Preference::Auto, async {
            let named = bench.client(true, Some("a.test"));
            let (server, endpoint) = bench.shake(&named, "127.0.0.1").await;
            assert_eq!(server.unwrap().facts.server_name.as_deref(), Some("a.test"));
            endpoint.unwrap();
            let (server, endpoint) = bench.shake(&bench.client(false, None), "[::1]").await;
            assert_eq!(server.unwrap().facts.server_name, None);
            endpoint.unwrap();
        });
        assert!(ClientSettings::parse_name("not a name").is_err());
    }
}

#[test]
fn a_client_without_a_common_version_is_told() {
    for layer in LAYERS {
        let mut bench = Bench::new(layer);
        bench.rebuild(|build| build.min_version = Version::Tls13);
        let failed = bench.fails(|socket| {
            let config = client_config(&[&rustls::version::TLS12]);
            assert_eq!(
                complete(socket, config).unwrap_err(),
                "received fatal alert: ProtocolVersion"
            );
        });
        assert_eq!(failed.end, downstream(Cause::NoCommonVersion));
        assert_eq!(failed.alert, Some(Alert::Sent(AlertDescription::ProtocolVersion)));
        let line = failed.to_string();
        assert!(
            line.starts_with("downstream handshake no_common_version: peer is incompatible: "),
            "{line}"
        );
        assert!(
            line.contains(
                "; sent alert protocol_version; the client offered name a.test, versions TLSv1.2, "
            ),
            "{line}"
        );
        assert!(line.contains("ciphers TLS_AES_256_GCM_SHA384 "), "{line}");
    }
}

#[test]
fn a_client_without_a_common_protocol_is_told() {
    for layer in LAYERS {
        let failed = Bench::new(layer).fails(|socket| {
            let mut config = client_config(rustls::ALL_VERSIONS);
            config.alpn_protocols = vec![b"imap".to_vec(), b"a\nb".to_vec()];
            assert_eq!(
                complete(socket, config).unwrap_err(),
                "received fatal alert: NoApplicationProtocol"
            );
        });
        assert_eq!(failed.end, downstream(Cause::NoCommonProtocol));
        let line = failed.to_string();
        assert!(line.contains("; sent alert no_application_protocol"), "{line}");
        assert!(line.contains(r"protocols imap a\nb, "), "{line}");
        assert!(line.contains("versions TLSv1.3 TLSv1.2"), "{line}");
    }
}

#[test]
fn a_client_without_a_common_cipher_is_told() {
    for layer in LAYERS {
        let mut bench = Bench::new(layer);
        let rsa = bench
            .authority
            .certificate_with(&["a.test"], &rcgen::PKCS_RSA_SHA256);
        bench.rebuild(|build| build.certificates = vec![rsa]);
        let failed = bench.fails(|socket| {
            let mut provider = rustls::crypto::aws_lc_rs::default_provider();
            let ecdsa = rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
            provider.cipher_suites = vec![ecdsa];
            let config = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            assert_eq!(
                complete(socket, config).unwrap_err(),
                "received fatal alert: HandshakeFailure"
            );
        });
        assert_eq!(failed.end, downstream(Cause::NoCommonCipher));
        assert_eq!(
            failed.alert,
            Some(Alert::Sent(AlertDescription::HandshakeFailure))
        );
    }
}

#[test]
fn a_client_that_does_not_trust_the_certificate_says_so() {
    for layer in LAYERS {
        let failed = Bench::new(layer).fails(|socket| {
            assert!(complete(socket, client_config(&[&rustls::version::TLS12])).is_err());
        });
        assert_eq!(failed.end, downstream(Cause::CertificateRejected));
        assert!(
            failed.to_string().contains("received alert unknown_ca"),
            "{failed}"
        );
    }
}

#[test]
fn a_request_in_clear_gets_a_hint() {
    for layer in LAYERS {
        let failed = Bench::new(layer).fails(|mut socket| {
            socket
                .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
            assert!(
                head.ends_with(&format!("Content-Length: {}", body.len())),
                "{head}"
            );
            assert!(body.contains("HTTPS"));
        });
        assert_eq!(failed.end, downstream(Cause::NotTls));
        assert!(failed.offered.is_none());
    }
}

#[test]
fn what_is_no_client_hello_is_refused() {
    for layer in LAYERS {
        let bench = Bench::new(layer);
        let bad: &[(&[u8], Cause)] = &[
            (b"\x80\x2e\x01\x00\x02", Cause::NotTls),
            (b"SSH-2.0-OpenSSH\r\n", Cause::NotTls),
            (b"\0", Cause::NotTls),
            (b"\x16\x03\x01\x00\x04\x01\0\0\0", Cause::Malformed),
            (b"\x16\x03\x01\x00\x04\x02\0\0\0", Cause::Malformed),
            (b"\x16\x03\x01\xff\xff\x01\0\0\0", Cause::Malformed),
            (b"\x16\x03\x01\x00\x00\x16\x03\x01\x00\x00", Cause::Malformed),
            (b"\x16\x99\x99\x00\x04\x01\0\0\0", Cause::Malformed),
        ];
        for (bytes, cause) in bad {
            let bytes = bytes.to_vec();
            let failed = bench.fails(move |mut socket| {
                socket.write_all(&bytes).unwrap();
                let _ = socket.read_to_end(&mut Vec::new());
            });
            assert_eq!(failed.end, downstream(*cause), "{failed}");
        }
    }
}

#[test]
fn clients_that_say_nothing_or_leave_are_not_waited_for() {
    for layer in LAYERS {
        let bench = Bench::new(layer);
        let wait = |mut socket: TcpStream| {
            let _ = socket.read_to_end(&mut Vec::new());
        };
        assert_eq!(
            bench.fails_within(SECOND / 3, wait).end,
            downstream(Cause::TimedOut)
        );
        let half = move |mut socket: TcpStream| {
            socket.write_all(b"\x16\x03\x01\x02\x00\x01\x00").unwrap();
            wait(socket);
        };
        assert_eq!(
            bench.fails_within(SECOND / 3, half).end,
            downstream(Cause::TimedOut)
        );
        assert_eq!(bench.fails(drop).end, downstream(Cause::Closed));
        let reset = |socket: TcpStream| {
            socket2::SockRef::from(&socket)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        };
        assert_eq!(bench.fails(reset).end, downstream(Cause::Reset));
    }
}

#[test]
fn a_client_hello_may_come_byte_by_byte() {
    for layer in LAYERS {
        let bench = Bench::new(layer);
        let failed = bench.fails(|mut socket| {
            socket.set_nodelay(true).unwrap();
            let name = ServerName::try_from("a.test").unwrap();
            let config = Arc::new(client_config(rustls::ALL_VERSIONS));
            let mut connection = ClientConnection::new(config, name).unwrap();
            let mut hello = Vec::new();
            connection.write_tls(&mut hello).unwrap();
            for byte in hello {
                socket.write_all(&[byte]).unwrap();
            }
            while connection.read_tls(&mut socket).is_ok() {
                if connection.process_new_packets().is_err() {
                    break;
                }
            }
            let _ = connection.write_tls(&mut socket); // its alert: it does not trust anybody
        });
        assert_eq!(failed.end, downstream(Cause::CertificateRejected));
    }
}

#[test]
fn an_endpoint_that_speaks_no_tls_or_nothing_is_given_up() {
    for layer in LAYERS {
        let bench = Bench::new(layer);
        let client = bench.client(true, None);
        for (answer, cause) in [
            (Some(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]), Cause::NotTls),
            (None, Cause::TimedOut),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::Tcp(listener.local_addr().unwrap());
            let server = std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                socket.write_all(answer.unwrap_or_default()).unwrap();
                let _ = socket.read_to_end(&mut Vec::new());
            });
            run(Preference::Auto, async {
                let socket = Socket::connect(&address).await.unwrap();
                let patience = if answer.is_some() { SECOND * 15 } else { SECOND / 5 };
                let deadline = Deadline::within(patience);
                let failed = connect(socket, &client, "a.test", &bench.offload, deadline)
                    .await
                    .err()
                    .unwrap();
                assert_eq!(
                    failed.end,
                    End::new(Side::Upstream, Phase::Connect, cause),
                    "{failed}"
                );
            });
            server.join().unwrap();
        }
    }
}

/// A server's settings, the authority behind them, and a place to meet.
pub(super) struct Bench {
    authority: Authority,
    settings: Settings,
    offload: Arc<Offload>,
}

impl Bench {
    pub(super) fn new(layer: Layer) -> Self {
        let authority = Authority::new();
        let certificates = vec![authority.certificate(&["a.test"])];
        let settings = Settings::build(Build {
            certificates,
            ..build()
        })
        .unwrap();
        Self {
            authority,
            settings,
            offload: layer.offload().into(),
        }
    }

    pub(super) fn rebuild(&mut self, change: impl FnOnce(&mut Build<'_>)) {
        let mut build = Build {
            certificates: self.settings.certificates().to_vec(),
            ..build()
        };
        change(&mut build);
        self.settings = Settings::build(build).unwrap();
    }

    pub(super) fn client(&self, verify: bool, name: Option<&str>) -> ClientSettings {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, self.authority.pem()).unwrap();
        ClientSettings::build(ClientBuild {
            roots: verify.then(|| read_roots(&ca).unwrap()),
            certificate: None,
            server_name: name.map(|name| ClientSettings::parse_name(name).unwrap()),
            alpn: vec!["http/1.1".to_owned()],
            prefer_ktls: true,
            ktls_threshold: KTLS_THRESHOLD,
        })
        .unwrap()
    }

    /// Atlas at both ends: what the listener's side got, and what the upstream's side got.
    pub(super) async fn shake(
        &self,
        client: &ClientSettings,
        host: &str,
    ) -> (Result<Secured, Failed>, Result<Secured, Failed>) {
        let (listener, address) = listen();
        let socket = Socket::connect(&Address::Tcp(address)).await.unwrap();
        let accepted = Socket::new(OwnedFd::from(listener.accept().unwrap().0)).unwrap();
        let deadline = Deadline::within(SECOND * 5);
        let endpoint = async {
            let secured = connect(socket, client, host, &self.offload, deadline).await?;
            secured.transport.write_all(b"?", SECOND).await.unwrap();
            Ok(secured)
        };
        futures_util::future::join(
            accept(accepted, &self.settings, &self.offload, deadline),
            endpoint,
        )
        .await
    }

    /// The failure that a client in its own thread causes.
    fn fails(&self, client: impl FnOnce(TcpStream) + Send + 'static) -> Failed {
        self.fails_within(SECOND * 15, client)
    }

    /// As [`Self::fails`], given up after `limit`.
    fn fails_within(&self, limit: Duration, client: impl FnOnce(TcpStream) + Send + 'static) -> Failed {
        let (listener, address) = listen();
        let client = std::thread::spawn(move || client(TcpStream::connect(address).unwrap()));
        let mut failed = None;
        run(Preference::Auto, async {
            let socket = Socket::new(OwnedFd::from(listener.accept().unwrap().0)).unwrap();
            let deadline = Deadline::within(limit);
            failed = accept(socket, &self.settings, &self.offload, deadline)
                .await
                .err();
        });
        client.join().unwrap();
        failed.expect("a failure")
    }
}

/// The client has asked "?"; both ends say more and close.
pub(super) async fn talk(server: &Secured, endpoint: &Secured) {
    let mut byte = [0; 3];
    assert_eq!(server.transport.read(&mut byte).await.unwrap(), 1);
    server.transport.write_all(b"!", SECOND).await.unwrap();
    assert_eq!(endpoint.transport.read(&mut byte).await.unwrap(), 1);
    let deadline = Deadline::within(SECOND);
    let closed = futures_util::future::join(
        server.transport.close(deadline),
        endpoint.transport.close(deadline),
    );
    assert_eq!(closed.await, (true, true));
}

fn build() -> Build<'static> {
    Build {
        certificates: Vec::new(),
        min_version: Version::Tls12,
        alpn: vec!["http/1.1".to_owned()],
        speaks: true,
        prefer_ktls: true,
        ktls_threshold: 1024 * 1024,
        earlier: &[],
    }
}

fn downstream(cause: Cause) -> End {
    End::new(Side::Downstream, Phase::Handshake, cause)
}

fn client_config(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

fn complete(mut socket: TcpStream, config: ClientConfig) -> Result<(), String> {
    let name = ServerName::try_from("a.test").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    while connection.is_handshaking() {
        connection
            .complete_io(&mut socket)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(super) fn run(preference: Preference, test: impl Future<Output = ()>) {
    runtime::start(preference, |_| async {
        before(Deadline::within(SECOND * 20), test)
            .await
            .expect("in time");
    })
    .expect("a driver");
}
