//! Handshakes in memory, and what the kernel makes of their keys over loopback.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::crypto::aws_lc_rs::{cipher_suite as suites, default_provider};
use rustls::pki_types::PrivateKeyDer;
use rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionCommon, Error, ExtractedSecrets, RootCertStore,
    ServerConfig, ServerConnection, SideData, SupportedCipherSuite,
};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::*;

/// All that the kernel takes: of TLS 1.2 first, then of 1.3.
pub(crate) const SUITES: [SupportedCipherSuite; 6] = [
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
];

/// What this kernel does; tried again where the machine may have been too busy to find out.
pub(crate) fn probe() -> Offload {
    let is_sure = |offload: &Offload| {
        !matches!(
            offload.refusal(),
            Some(
                Refusal::ProbeTimedOut
                    | Refusal::ProbeControlRecord
                    | Refusal::ProbeEarlyData
                    | Refusal::ProbeDelivery
            )
        )
    };
    let mut tries = std::iter::repeat_with(Offload::probe).take(4);
    tries.find(is_sure).unwrap_or_else(Offload::probe)
}

/// From now on whoever wants the kernel's TLS for a socket on this thread gets this answer, and the kernel does
/// not hear of it: an error, or 0 as if it had been attached.
pub(crate) fn answer_who_attaches(error: i32) {
    answer_who_sets(&[(1, libc::IPPROTO_TCP), (2, libc::TCP_ULP)], error);
}

/// From now on whoever hands keys to the kernel on this thread gets this error.
pub(crate) fn refuse_keys(error: i32) {
    answer_who_sets(&[(1, libc::SOL_TLS)], error);
}

/// The same for the keys of one direction.
pub(crate) fn refuse_keys_of(direction: Direction, error: i32) {
    let option = match direction {
        Direction::Send => libc::TLS_TX,
        Direction::Receive => libc::TLS_RX,
    };
    answer_who_sets(&[(1, libc::SOL_TLS), (2, option)], error);
}

/// `setsockopt` with these arguments is not made, and answered so.
fn answer_who_sets(arguments: &[(u8, i32)], error: i32) {
    let is = |&(place, value): &(u8, i32)| {
        let value = value.unsigned_abs().into();
        SeccompCondition::new(place, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
    };
    let rule = SeccompRule::new(arguments.iter().map(is).collect()).unwrap();
    let filter = SeccompFilter::new(
        [(libc::SYS_setsockopt, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(error.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Two connections after their handshake in memory, and all that the server and the client have sent.
fn handshake(suite: SupportedCipherSuite) -> (ServerConnection, ClientConnection, [Vec<u8>; 2]) {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let provider = Arc::new(provider);
    let version = [suite.version()];
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["atlas.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&version)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&version)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let name = "atlas.test".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut sent = [Vec::new(), Vec::new()];
    while client.wants_write() || server.wants_write() {
        sent[1].extend(pass(&mut client, &mut server));
        sent[0].extend(pass(&mut server, &mut client));
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    (server, client, sent)
}

fn pass<A: SideData, B: SideData>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) -> Vec<u8> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
    wire
}

/// As [`Keys::of_server`] does it: rustls's connections in memory are of another kind.
fn first(version: ProtocolVersion, secrets: Result<ExtractedSecrets, Error>) -> FirstKeys {
    keys::first_keys(version, secrets.unwrap()).unwrap()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    (ours, theirs)
}

#[test]
fn what_is_absent_carries_nothing() {
    let offload = Offload::absent(Refusal::NotPreferred);
    assert_eq!(offload.refusal(), Some(Refusal::NotPreferred));
    let suite = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let carried = offload.carries(ProtocolVersion::TLSv1_3, suite);
    assert_eq!(carried, Err(Refusal::NotPreferred));
}

#[test]
fn a_probe_that_has_no_time_says_so_and_blames_nothing_else() {
    Offload::probe(); // the kernel loads what it has
    let offload = Offload::probe_until(Deadline::within(Duration::ZERO));
    assert_eq!(offload.refusal(), Some(Refusal::ProbeTimedOut));
    let late = Consequence::Refused(Refusal::ProbeTimedOut);
    let rows = offload.rows();
    assert!(rows.iter().any(|row| row.otherwise == Some(late)), "{rows:?}");
    for row in rows {
        assert_eq!(row.finding, Err("no time was left to try it".to_owned()));
    }
}

/// Each row that is reached is right, the others say so, and nobody is blamed for them.
#[test]
fn a_probe_whose_time_runs_out_on_the_way_blames_nothing_else() {
    let whole = Offload::probe();
    print(&whole);
    let (refusal, whole) = (whole.refusal(), whole.rows());
    let longer = |time: &Duration| Some(*time * 5 / 4);
    for time in std::iter::successors(Some(Duration::from_micros(100)), longer) {
        let cut = Offload::probe_until(Deadline::within(time));
        let rows = cut.rows();
        let is_late = |row: &&Row| row.finding == Err("no time was left to try it".to_owned());
        let late = rows.iter().filter(is_late).count();
        if late == 0 {
            assert_eq!(rows, whole);
            break;
        }
        let is_true = [refusal, Some(Refusal::ProbeTimedOut)].contains(&cut.refusal());
        assert!(is_true, "{:?}: {rows:?}", cut.refusal());
        for (row, same) in rows.iter().zip(&whole) {
            assert!(row.finding == same.finding || is_late(&row), "{row:?} {same:?}");
        }
    }
}

/// Measured on Debian's 6.1, 6.12, 6.18 and 7.2, on 7.2 without the module, and with the module but
/// without its ciphers. The program goes by what it finds, this test by the number.
#[test]
fn the_probe_finds_what_is_known_of_this_kernel() {
    let offload = Offload::probe();
    let failed = |what: &str| {
        let rows = offload.rows();
        rows.iter()
            .filter(|row| row.what.starts_with(what) && row.finding.is_err())
            .count()
    };
    let suite = CipherSuite::TLS13_AES_256_GCM_SHA384;
    let carried = offload.carries(ProtocolVersion::TLSv1_3, suite);
    assert_eq!(carried.err(), offload.refusal());
    match offload.refusal() {
        Some(Refusal::NoUlp | Refusal::NoPermission) => assert_eq!(failed("TLS in the kernel"), 1),
        Some(Refusal::Cipher) => assert_eq!(failed("TLS 1."), 12),
        refusal => {
            assert_eq!(refusal, None);
            assert_eq!(failed("TLS 1."), 0);
            assert_eq!(offload.must_pause(), kernel() < (6, 5));
            assert_eq!(offload.can_rekey(), kernel() >= (6, 14));
            let old = offload.carries(ProtocolVersion::TLSv1_1, suite);
            assert_eq!(old, Err(Refusal::Version));
            let aes_ccm = offload.carries(ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_CCM_SHA256);
            assert_eq!(aes_ccm, Err(Refusal::Cipher));
        }
    }
}

/// Its number, as (6, 12).
fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_str().unwrap().split(['.', '-']);
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

#[expect(clippy::print_stdout, reason = "the table of the kernel the test runs on")]
fn print(offload: &Offload) {
    println!("{:?}", offload.refusal());
    for row in offload.rows() {
        println!("{:35} {:?} {:?}", row.what, row.finding, row.otherwise);
    }
}

#[test]
fn the_breaker_refuses_by_name() {
    let offload = Offload::absent(Refusal::NoUlp);
    for _ in 0..3 {
        assert_eq!(offload.allows(), Ok(()));
        offload.failed();
    }
    assert_eq!(offload.allows(), Err(Refusal::Breaker));
}

#[test]
fn a_socket_whose_peer_has_closed_is_refused_or_there_is_no_kernel_tls() {
    let (ours, theirs) = pair();
    drop(theirs);
    assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
    let refusal = attach(&ours).unwrap_err();
    assert!(
        matches!(refusal, Refusal::PeerClosedEarly | Refusal::NoUlp),
        "{refusal:?}"
    );
}

#[test]
fn keys_the_kernel_refuses_end_the_connection_by_name() {
    let (server, _, _) = handshake(suites::TLS13_AES_128_GCM_SHA256);
    let (ours, _theirs) = pair();
    let keys = first(ProtocolVersion::TLSv1_3, server.dangerous_extract_secrets());
    let error = install(&ours, keys).unwrap_err();
    assert_eq!(
        Cause::of(&error),
        Cause::KernelRefusedKeys,
        "it was never attached"
    );
}

/// Those that need a kernel with TLS.
mod kernel_tls {
    use super::*;

    fn is_missing() -> bool {
        let (ours, _theirs) = pair();
        let is_missing = attach(&ours) == Err(Refusal::NoUlp);
        if is_missing {
            #[expect(clippy::print_stderr, reason = "who reads the test's output has to know")]
            {
                eprintln!("skipped: this kernel has no TLS");
            }
        }
        is_missing
    }

    #[test]
    fn the_kernel_goes_on_where_rustls_stopped_in_all_suites() {
        if is_missing() {
            return;
        }
        for suite in SUITES {
            let (server, client, _) = handshake(suite);
            let (mut ours, mut theirs) = pair();
            attach(&ours).unwrap();
            attach(&ours).expect("a second time changes nothing");
            attach(&theirs).unwrap();
            let version = suite.version().version;
            install(&ours, first(version, server.dangerous_extract_secrets())).unwrap();
            install(&theirs, first(version, client.dangerous_extract_secrets())).unwrap();
            for (from, to) in [(0, 1), (1, 0)] {
                let ends = [&mut ours, &mut theirs];
                let bytes: Vec<u8> = (0..40_000_u32).map(|at| (at % 251) as u8).collect();
                (&*ends[from]).write_all(&bytes).unwrap();
                let mut received = vec![0; bytes.len()];
                (&*ends[to]).read_exact(&mut received).unwrap();
                assert!(received == bytes, "{suite:?} {from}->{to}");
            }
        }
    }

    #[test]
    fn explicit_nonces_of_tls_1_2_go_on_and_never_come_twice_on_the_wire() {
        if is_missing() {
            return;
        }
        for suite in &SUITES[..2] {
            for before in [0, 1, 7, 300] {
                let (server, client, [of_server, of_client]) = handshake(*suite);
                nonces_go_on(server.into(), of_server, before);
                nonces_go_on(client.into(), of_client, before);
            }
        }
    }

    /// rustls makes so many records of data, then the kernel some. `wire`: the handshake.
    fn nonces_go_on(mut connection: Connection, mut wire: Vec<u8>, before: u64) {
        for _ in 0..before {
            connection.writer().write_all(b"made by rustls").unwrap();
            while connection.wants_write() {
                connection.write_tls(&mut wire).unwrap();
            }
        }
        let (mut ours, mut theirs) = pair();
        attach(&ours).unwrap();
        let secrets = connection.dangerous_extract_secrets().unwrap();
        assert_eq!(secrets.tx.0, 1 + before, "Finished and these were sent by rustls");
        install(&ours, first(ProtocolVersion::TLSv1_2, Ok(secrets))).unwrap();
        for size in 1..=300 {
            ours.write_all(&vec![7; size]).unwrap();
        }
        drop(ours);
        theirs.read_to_end(&mut wire).unwrap();
        let nonces = explicit_nonces(&wire);
        assert_eq!(
            nonces.len() as u64,
            1 + before + 300,
            "Finished and the records of data"
        );
        let different: HashSet<_> = nonces.iter().collect();
        assert_eq!(different.len(), nonces.len(), "one came twice after {before}");
        // rustls goes from one to the next by xor, the kernel by addition.
        let start = nonces[0];
        for (number, nonce) in (0_u64..).zip(nonces) {
            let expected = match number <= before {
                true => start ^ number,
                false => start.wrapping_add(number),
            };
            assert_eq!(
                nonce, expected,
                "record {number} after {before} of rustls from {start:x}"
            );
        }
    }

    /// Of the records after ChangeCipherSpec.
    fn explicit_nonces(mut wire: &[u8]) -> Vec<u64> {
        const CHANGE_CIPHER_SPEC: u8 = 20;
        let mut is_encrypted = false;
        let mut nonces = Vec::new();
        while let [kind, _, _, high, low, rest @ ..] = wire {
            let (record, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            if is_encrypted {
                nonces.push(u64::from_be_bytes(record[..8].try_into().unwrap()));
            }
            is_encrypted |= *kind == CHANGE_CIPHER_SPEC;
            wire = rest;
        }
        nonces
    }

    #[test]
    fn a_peer_is_told_when_only_the_receiving_key_was_refused() {
        if is_missing() {
            return;
        }
        let (server, client, _) = handshake(suites::TLS13_AES_128_GCM_SHA256);
        let (other, _, _) = handshake(suites::TLS13_AES_256_GCM_SHA384);
        let (ours, theirs) = pair();
        attach(&ours).unwrap();
        attach(&theirs).unwrap();
        let version = ProtocolVersion::TLSv1_3;
        install(&theirs, first(version, client.dangerous_extract_secrets())).unwrap();
        // Both directions have to have one cipher.
        let unlike = FirstKeys {
            send: first(version, server.dangerous_extract_secrets()).send,
            receive: first(version, other.dangerous_extract_secrets()).receive,
        };
        let error = install(&ours, unlike).unwrap_err();
        assert_eq!(Cause::of(&error), Cause::KernelRefusedKeys);
        let mut alert = [0; 64];
        let long = Timespec::try_from(Duration::from_secs(30)).unwrap();
        poll(&mut [PollFd::new(&theirs, PollFlags::IN)], Some(&long)).unwrap();
        let record = ktls::receive_record(theirs.as_fd(), &mut alert).unwrap();
        assert_eq!(record.kind, Some(ALERT));
        assert_eq!(alert[..record.count], [FATAL, INTERNAL_ERROR]);
    }
}
