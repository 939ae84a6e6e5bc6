//! Connections of every carrier, both ends in this process, after a real handshake.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use atlas::offload::Offload;
use atlas::outcome::Refusal;
use atlas::runtime::Socket;
use atlas::time::Deadline;
use atlas::tls::certificates::Certificate;
use atlas::tls::{self, Build, ClientBuild, ClientSettings, Settings, Version};
use atlas::transport::Transport;
use futures_util::future::join;
use rustls::RootCertStore;

use super::LONG;

/// Who makes the records of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// No TLS, on both ends.
    Plain,
    /// monoio-rustls.
    Rustls,
    /// Our own stream over rustls.
    Sealed,
}

impl Carrier {
    /// What the other end of a connection is made of where only one of them matters.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Self::Plain => Self::Plain,
            _ => Self::Rustls,
        }
    }

    /// What the kernel is said to do, so that an end becomes this.
    fn offload(self) -> Arc<Offload> {
        match self {
            Self::Plain | Self::Rustls => Offload::absent(Refusal::NoUlp).into(),
            Self::Sealed => Offload::assumed().into(),
        }
    }
}

/// The carriers of two ends that understand each other.
pub(crate) fn pairs() -> Vec<(Carrier, Carrier)> {
    vec![
        (Carrier::Plain, Carrier::Plain),
        (Carrier::Rustls, Carrier::Rustls),
        (Carrier::Sealed, Carrier::Rustls),
        (Carrier::Rustls, Carrier::Sealed),
        (Carrier::Sealed, Carrier::Sealed),
    ]
}

/// Settings of both sides.
pub(crate) struct Bench {
    server: Settings,
    client: ClientSettings,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let certificate = Certificate::from_pem(
            made.cert.pem().as_bytes(),
            "cert.pem".as_ref(),
            made.signing_key.serialize_pem().as_bytes(),
            "key.pem".as_ref(),
        )
        .unwrap();
        let server = Settings::build(Build {
            certificates: vec![certificate],
            min_version: Version::Tls12,
            alpn: Vec::new(),
            prefer_ktls: true,
            ktls_threshold: 0,
            earlier: &[],
        })
        .unwrap();
        let client = ClientSettings::build(ClientBuild {
            roots: Some(roots),
            certificate: None,
            server_name: None,
            alpn: Vec::new(),
        })
        .unwrap();
        Self { server, client }
    }

    /// A connection: the end that accepted, and the one that connected.
    pub(crate) async fn connect(&self, accepted: Carrier, connected: Carrier) -> (Transport, Transport) {
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
            let secured = tls::connect(near, &self.client, "a.test", &connected.offload(), deadline).await;
            // The last flight goes with the first bytes; here nobody may have any.
            if let Ok(secured) = &secured {
                secured.transport.flush(LONG).await.unwrap();
            }
            secured
        };
        let offload = accepted.offload();
        let accepting = tls::accept(far, &self.server, &offload, deadline);
        let (server, client) = join(accepting, connecting).await;
        (server.unwrap().transport, client.unwrap().transport)
    }
}
