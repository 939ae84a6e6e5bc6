//! Certificates, keys and versions: files named in the tables to what rustls runs with.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use super::super::error::Diagnostic;
use super::super::file::{Listen, ListenTls, Tls, Upstream, UpstreamTls, UpstreamTlsValue};
use super::super::read::At;
use super::super::values::{MinVersion, Mode, Protocol};
use super::{Resolver, bytes, is_on, values};
use crate::generation::Generation;
use crate::tls::certificates::{Certificate, CertificateError, Problem, read_roots, system_roots};
use crate::tls::{Build, ClientBuild, ClientSettings, KTLS_THRESHOLD, Settings, Version};

/// The protocols this build speaks inside TLS, the dearest first.
pub(super) const SPOKEN: &[&str] = &["h2", "http/1.1"];

/// TLS of all listeners of a generation.
pub(super) fn of_generation(generation: &Generation) -> Vec<Arc<Settings>> {
    let listeners = generation.listeners.iter();
    listeners.filter_map(|listener| listener.tls.clone()).collect()
}

impl<'a> Resolver<'a> {
    /// TLS towards clients, as a table describes it for listeners of one mode.
    pub(super) fn server_tls(&mut self, table: &Tls, mode: Mode, http2: bool) -> Option<Arc<Settings>> {
        let mut certificates = vec![self.certificate(&Pair {
            header: "[tls]",
            table: &table.span,
            cert: table.cert.as_ref(),
            key: table.key.as_ref(),
            has: [table.has("cert"), table.has("key")],
        })];
        for more in table.certificate.iter().flat_map(|more| &more.value.0) {
            certificates.push(self.certificate(&Pair {
                header: "[[tls.certificate]]",
                table: &more.span,
                cert: more.cert.as_ref(),
                key: more.key.as_ref(),
                has: [more.has("cert"), more.has("key")],
            }));
        }
        let alpn = self.protocols(table, mode, http2);
        let min_version = table.min_version.as_ref().map(|version| version.value);
        let built = Settings::build(Build {
            certificates: certificates.into_iter().collect::<Option<_>>()?,
            min_version: match min_version {
                Some(MinVersion::Tls13) => Version::Tls13,
                Some(MinVersion::Tls12) | None => Version::Tls12,
            },
            alpn: alpn?,
            speaks: mode == Mode::Http,
            prefer_ktls: is_on(table.prefer_ktls.as_ref(), true),
            ktls_threshold: bytes(table.ktls_threshold.as_ref(), KTLS_THRESHOLD),
            earlier: &self.earlier,
        });
        let settings = self.or_refused(built, &table.span).map(Arc::new)?;
        // Listeners with the same certificates share their tickets: a client comes by IPv4 or by IPv6.
        self.earlier.push(settings.clone());
        Some(settings)
    }

    /// Where kernel TLS is asked for in so many words, for each listener.
    pub(super) fn listener_ktls_places(&self) -> Vec<Option<Range<usize>>> {
        let table_of = |listen: &'a Listen| match listen.tls.as_ref().map(|tls| &tls.value) {
            Some(ListenTls::Table(own)) => Some(&**own),
            Some(ListenTls::Short(_)) => None,
            None => self.file.tls.as_ref().map(|tls| &tls.value),
        };
        let place_of = |listen| asked_at(table_of(listen)?.prefer_ktls.as_ref());
        self.listens().iter().map(place_of).collect()
    }

    /// As [`Self::listener_ktls_places`], for each upstream.
    pub(super) fn upstream_ktls_places(&self) -> Vec<Option<Range<usize>>> {
        let place_of = |table: &Upstream| match &table.tls.as_ref()?.value {
            UpstreamTlsValue::Table(own) => asked_at(own.prefer_ktls.as_ref()),
            UpstreamTlsValue::Short(_) => None,
        };
        let tables = self.upstream_tables().iter();
        tables.map(|(_, table)| place_of(table)).collect()
    }

    /// TLS towards the endpoints of an upstream, written at `place`.
    pub(super) fn client_tls(
        &mut self,
        table: &UpstreamTls,
        place: &Range<usize>,
        alpn: &[&str],
    ) -> Option<Arc<ClientSettings>> {
        let certificate = (table.has("cert") || table.has("key")).then(|| {
            self.certificate(&Pair {
                header: "[upstream.NAME.tls]",
                table: &table.span,
                cert: table.cert.as_ref(),
                key: table.key.as_ref(),
                has: [table.has("cert"), table.has("key")],
            })
        });
        let is_verified = is_on(table.verify.as_ref(), true);
        let roots = is_verified.then(|| self.roots(table, place));
        if let Some(ca) = table.ca.as_ref().filter(|_| !is_verified) {
            let message = "`ca` has no meaning with `verify = false`";
            self.error(
                "conflicting-keys",
                ca.key.clone(),
                message,
                "leave one of the two out",
            );
        }
        let server_name = table.server_name.as_ref().map(|name| self.server_name(name));
        let built = ClientSettings::build(ClientBuild {
            roots: all_or_nothing(roots)?,
            certificate: all_or_nothing(certificate)?,
            server_name: all_or_nothing(server_name)?,
            alpn: alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
            prefer_ktls: is_on(table.prefer_ktls.as_ref(), true),
            ktls_threshold: bytes(table.ktls_threshold.as_ref(), KTLS_THRESHOLD),
        });
        self.or_refused(built, place).map(Arc::new)
    }

    fn or_refused<T>(&mut self, built: Result<T, String>, place: &Range<usize>) -> Option<T> {
        let told = |why| {
            self.error(
                "bad-tls",
                place.clone(),
                why,
                "look at the files this table names",
            )
        };
        built.map_err(told).ok()
    }

    pub(super) fn server_name(&mut self, name: &At<String>) -> Option<ServerName<'static>> {
        let help = "write: server_name = \"app.internal\"";
        let told = |why| self.error("bad-host", name.span.clone(), why, help);
        ClientSettings::parse_name(&name.value).map_err(told).ok()
    }

    /// The authorities that may vouch for the endpoints.
    fn roots(&mut self, table: &UpstreamTls, place: &Range<usize>) -> Option<RootCertStore> {
        if let Some(ca) = &table.ca {
            let told = |error| self.found.push(diagnostic(&error, ca));
            return read_roots(&self.folder.join(&ca.value)).map_err(told).ok();
        }
        if table.has("ca") {
            return None; // told already
        }
        let help = "name a file: tls = { ca = \"/path/ca.pem\" }";
        let told = |why| self.error("missing-file", place.clone(), why, help);
        system_roots().map_err(told).ok()
    }

    /// A certificate with its key, read and checked.
    fn certificate(&mut self, pair: &Pair<'_>) -> Option<Certificate> {
        let examples = [
            ("cert", "cert = \"/etc/ssl/certs/server.crt\""),
            ("key", "key = \"/etc/ssl/private/server.key\""),
        ];
        for ((key, example), has) in examples.into_iter().zip(pair.has) {
            if !has {
                self.missing(key, pair.header, pair.table.clone(), example);
            }
        }
        let (cert, key) = (pair.cert?, pair.key?);
        let (cert_path, key_path) = (self.path(&cert.value), self.path(&key.value));
        match Certificate::read(&cert_path, &key_path) {
            Ok(certificate) => {
                self.check_dates(&certificate, cert);
                self.check_names(&certificate, cert);
                Some(certificate)
            }
            Err(error) => {
                let place = if error.in_key_file { key } else { cert };
                self.found.push(diagnostic(&error, place));
                if !error.in_key_file {
                    self.check_key_is_there(key_path, key);
                }
                None
            }
        }
    }

    /// When the certificate is at fault, the key has not been looked at yet.
    fn check_key_is_there(&mut self, path: PathBuf, key: &At<PathBuf>) {
        if let Err(reason) = std::fs::metadata(&path) {
            let error = CertificateError {
                in_key_file: true,
                is_of_authorities: false,
                path,
                problem: Problem::Unreadable(reason),
            };
            self.found.push(diagnostic(&error, key));
        }
    }

    fn check_dates(&mut self, certificate: &Certificate, cert: &At<PathBuf>) {
        const DAY: i64 = 24 * 3600;
        let path = certificate.path.display();
        let left = certificate.seconds_left(self.now);
        if left <= 0 {
            let since = match -left / DAY {
                0 => "today".to_owned(),
                1 => "a day ago".to_owned(),
                days => format!("{days} days ago"),
            };
            let message = format!("the certificate in {path} expired {since}");
            let help = "get a new one: clients refuse this one";
            self.warning("expired-certificate", cert.span.clone(), message, help);
        } else if certificate.not_before > self.now {
            let message = format!("the certificate in {path} is not valid yet");
            let help = "look at this machine's clock: clients refuse the certificate until its time comes";
            self.warning("certificate-not-yet-valid", cert.span.clone(), message, help);
        }
    }

    fn check_names(&mut self, certificate: &Certificate, cert: &At<PathBuf>) {
        if !certificate.has_alternative_names {
            let message = format!(
                "the certificate in {} has no subjectAltName",
                certificate.path.display()
            );
            let help = "get a new one with its names there: clients look nowhere else, and refuse this one";
            self.warning("certificate-without-names", cert.span.clone(), message, help);
        }
    }

    /// What is offered by ALPN. A listener that does not speak HTTP/2 leaves it out of what others do.
    fn protocols(&mut self, table: &Tls, mode: Mode, http2: bool) -> Option<Vec<String>> {
        let is_spoken = |name: &str| mode == Mode::Tcp || http2 || name != "h2";
        let Some(list) = &table.alpn else {
            let default = if mode == Mode::Http { SPOKEN } else { &[] };
            let default = default.iter().filter(|name| is_spoken(name));
            return (!table.has("alpn")).then(|| default.map(|&name| name.to_owned()).collect());
        };
        let is_unspoken =
            |protocol: &&At<Protocol>| mode == Mode::Http && !SPOKEN.contains(&&*protocol.value.0);
        let unspoken: Vec<_> = list.value.iter().filter(is_unspoken).collect();
        for protocol in &unspoken {
            let message = format!("this build does not speak `{}`", protocol.value.0);
            let help =
                "write: alpn = [\"h2\", \"http/1.1\"], or leave it out; in tcp mode it may be anything";
            self.error("bad-alpn", protocol.span.clone(), message, help);
        }
        let names = || values(Some(list), |protocol| protocol.0.clone());
        let names = unspoken.is_empty().then(names)?;
        let offered: Vec<_> = names.into_iter().filter(|name| is_spoken(name)).collect();
        if offered.is_empty() && !list.value.is_empty() {
            let message = "a listener with `http2 = false` offers nothing of this list";
            let help = "write: alpn = [\"http/1.1\"], or take `http2 = false` out of the listener";
            self.warning("no-effect", list.key.clone(), message, help);
        }
        Some(offered)
    }
}

/// A certificate and its key, as a table names them.
struct Pair<'a> {
    header: &'a str,
    table: &'a Range<usize>,
    cert: Option<&'a At<PathBuf>>,
    key: Option<&'a At<PathBuf>>,
    /// Whether the two keys are there, right or wrong.
    has: [bool; 2],
}

/// Where `prefer_ktls = true` is written.
fn asked_at(flag: Option<&At<bool>>) -> Option<Range<usize>> {
    flag.filter(|flag| flag.value).map(|flag| flag.key.clone())
}

/// What may be left out, but has to be right if it is there.
#[expect(clippy::option_option, reason = "outer: right or wrong; inner: there or not")]
fn all_or_nothing<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        Some(None) => None,
        Some(right) => Some(right),
        None => Some(None),
    }
}

fn diagnostic(error: &CertificateError, place: &At<PathBuf>) -> Diagnostic {
    let code = match &error.problem {
        Problem::Unreadable(reason) if reason.kind() == io::ErrorKind::NotFound => "missing-file",
        Problem::Unreadable(reason) if reason.kind() == io::ErrorKind::IsADirectory => "not-a-file",
        Problem::NotAFile => "not-a-file",
        Problem::Unreadable(_) => "unreadable-file",
        Problem::MalformedPem(_) => "bad-pem",
        Problem::NoCertificate => "no-certificate",
        Problem::MalformedCertificate => "bad-certificate",
        Problem::NoKey => "no-key",
        Problem::EncryptedKey => "encrypted-key",
        Problem::KeyOfAnotherCertificate => "key-mismatch",
        Problem::UnusableKey(_) => "bad-key",
    };
    Diagnostic::error(code, place.span.clone(), error.to_string()).help(error.help())
}
