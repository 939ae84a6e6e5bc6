//! What lets a client come to the endpoint it came to before: a key of its requests, or a cookie.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;

use super::EndpointSettings;
use super::balance::Ring;

/// What of an exchange decides its endpoint, where endpoints are chosen by hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address; of a client behind a trusted proxy what that one says.
    ClientAddress,
    /// The value of a field.
    Header(Arc<str>),
    /// The value of a cookie.
    Cookie(Arc<str>),
    /// The path, without the query.
    Path,
}

impl fmt::Display for HashKey {
    /// As the file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientAddress => f.write_str("client_address"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Path => f.write_str("path"),
        }
    }
}

/// How endpoints are chosen by hash.
#[derive(Clone, Debug)]
pub struct Hashing {
    /// By what.
    pub by: HashKey,
    /// The most an endpoint gets, in percent of its share; `None`: any.
    pub load_max: Option<u32>,
    /// Of those that are no backups, and of the backups.
    pub(super) rings: [Arc<Ring>; 2],
}

impl Hashing {
    /// For these endpoints. Takes some milliseconds for a thousand of them.
    pub fn new(by: HashKey, load_max: Option<u32>, endpoints: &[EndpointSettings]) -> Self {
        let names: Vec<_> = endpoints
            .iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect();
        let ring = |backups| {
            let weights = endpoints.iter().map(|endpoint| endpoint.weight_among(backups));
            Ring::new(names.iter().map(String::as_str).zip(weights))
        };
        Self {
            by,
            load_max,
            rings: [ring(false).into(), ring(true).into()],
        }
    }

    /// The same for other endpoints.
    pub(super) fn among(&self, endpoints: &[EndpointSettings]) -> Self {
        Self::new(self.by.clone(), self.load_max, endpoints)
    }
}

impl fmt::Display for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hash of {}", self.by)?;
        match self.load_max {
            Some(percent) => write!(f, ", each at most {percent}% of its share"),
            None => Ok(()),
        }
    }
}

impl PartialEq for Hashing {
    /// The rings follow from the endpoints.
    fn eq(&self, other: &Self) -> bool {
        self.by == other.by && self.load_max == other.load_max
    }
}

/// The cookie that binds a client to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name.
    pub name: Arc<str>,
    /// How long clients keep it; `None`: until they are closed.
    pub ttl: Option<Duration>,
    /// Whether it is for HTTPS only; `None`: if the client came by HTTPS.
    pub secure: Option<bool>,
    /// Whether it is hidden from scripts.
    pub http_only: bool,
    /// `Lax`, `Strict` or `None`.
    pub same_site: &'static str,
}

/// A cookie, and the value it has for each endpoint.
#[derive(Debug)]
pub struct Sticky {
    cookie: StickyCookie,
    key: hmac::Key,
    values: Vec<String>,
    indexes: HashMap<String, usize>,
}

/// So much of a keyed hash, in hex, tells endpoints apart: 128 bits.
const VALUE_LETTERS: usize = 32;

impl Sticky {
    /// Values are made of upstream and address with HMAC-SHA-256: without the secret nobody finds the
    /// address by trying all, and with it every Atlas makes the same.
    pub fn new(cookie: StickyCookie, secret: &[u8], upstream: &str, endpoints: &[EndpointSettings]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self::with_key(cookie, key, upstream, endpoints)
    }

    /// The same for other endpoints.
    pub(super) fn among(&self, upstream: &str, endpoints: &[EndpointSettings]) -> Self {
        Self::with_key(self.cookie.clone(), self.key.clone(), upstream, endpoints)
    }

    fn with_key(
        cookie: StickyCookie,
        key: hmac::Key,
        upstream: &str,
        endpoints: &[EndpointSettings],
    ) -> Self {
        let value = |endpoint: &EndpointSettings| {
            let named = format!("atlas sticky\0{upstream}\0{}", endpoint.address);
            let tag = hmac::sign(&key, named.as_bytes());
            let mut hex = String::with_capacity(64);
            for byte in tag.as_ref() {
                let _ = write!(hex, "{byte:02x}");
            }
            hex.truncate(VALUE_LETTERS);
            hex
        };
        let values: Vec<_> = endpoints.iter().map(value).collect();
        // Of an endpoint that is there twice the first.
        let indexes = values
            .iter()
            .cloned()
            .enumerate()
            .rev()
            .map(|(index, value)| (value, index));
        Self {
            cookie,
            key,
            indexes: indexes.collect(),
            values,
        }
    }

    pub(super) fn cookie(&self) -> &StickyCookie {
        &self.cookie
    }

    /// The cookie's name.
    pub fn name(&self) -> &str {
        &self.cookie.name
    }

    /// The endpoint a client is bound to that sent this value; `None`: it is gone, or never was.
    pub fn endpoint(&self, value: &[u8]) -> Option<usize> {
        self.indexes.get(std::str::from_utf8(value).ok()?).copied()
    }

    /// The value of Set-Cookie that binds a client to an endpoint.
    pub(super) fn set_cookie(&self, index: usize, is_https: bool) -> String {
        let StickyCookie {
            name,
            ttl,
            secure,
            http_only,
            same_site,
        } = &self.cookie;
        let mut text = format!("{name}={}; Path=/", self.values[index]);
        if let Some(ttl) = ttl {
            let _ = write!(text, "; Max-Age={}", ttl.as_secs());
        }
        if secure.unwrap_or(is_https) {
            text.push_str("; Secure");
        }
        if *http_only {
            text.push_str("; HttpOnly");
        }
        let _ = write!(text, "; SameSite={same_site}");
        text
    }
}

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cookie = &self.cookie;
        write!(
            f,
            "clients are bound to an endpoint by the cookie {}",
            cookie.name
        )?;
        match cookie.ttl {
            Some(ttl) => write!(f, " for {ttl:?}")?,
            None => f.write_str(" until they are closed")?,
        }
        match cookie.secure {
            Some(true) => f.write_str("; Secure")?,
            Some(false) => f.write_str("; not Secure")?,
            None => f.write_str("; Secure by HTTPS")?,
        }
        if cookie.http_only {
            f.write_str(", HttpOnly")?;
        }
        write!(f, ", SameSite={}", cookie.same_site)
    }
}

impl PartialEq for Sticky {
    fn eq(&self, other: &Self) -> bool {
        self.cookie == other.cookie && self.values == other.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::EndpointAddress;

    fn sticky(secret: &str, ports: &[u16]) -> Sticky {
        let cookie = StickyCookie {
            name: "srv".into(),
            ttl: Some(Duration::from_secs(3600)),
            secure: None,
            http_only: true,
            same_site: "Lax",
        };
        let endpoints: Vec<_> = ports
            .iter()
            .map(|port| EndpointSettings::at(EndpointAddress::Name("app.test".into(), *port)))
            .collect();
        Sticky::new(cookie, secret.as_bytes(), "app", &endpoints)
    }

    #[test]
    fn values_stay_with_their_endpoints_and_say_nothing_of_them() {
        let (one, other) = (sticky("secret", &[1, 2, 3]), sticky("secret", &[3, 1]));
        assert_eq!(other.endpoint(one.values[0].as_bytes()), Some(1));
        assert_eq!(other.endpoint(one.values[2].as_bytes()), Some(0));
        assert_eq!(other.endpoint(one.values[1].as_bytes()), None);
        assert_eq!(sticky("another", &[1]).endpoint(one.values[0].as_bytes()), None);
        for value in &one.values {
            assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        assert_eq!(one.endpoint(b"\xff"), None);
        assert_eq!(
            sticky("secret", &[5, 5]).endpoint(sticky("secret", &[5]).values[0].as_bytes()),
            Some(0)
        );
    }

    #[test]
    fn the_cookie_is_as_asked() {
        let mut sticky = sticky("secret", &[1]);
        let value = sticky.values[0].clone();
        assert_eq!(
            sticky.set_cookie(0, true),
            format!("srv={value}; Path=/; Max-Age=3600; Secure; HttpOnly; SameSite=Lax")
        );
        sticky.cookie.ttl = None;
        sticky.cookie.http_only = false;
        assert_eq!(
            sticky.set_cookie(0, false),
            format!("srv={value}; Path=/; SameSite=Lax")
        );
    }
}
