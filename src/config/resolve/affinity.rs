//! Which clients come to the same endpoint again: hashing, sticky sessions.

use std::path::Path;
use std::sync::Arc;

use super::super::file;
use super::super::read::At;
use super::super::values::{Balance, HashBy, SameSite};
use super::{Resolver, is_on};
use crate::upstream::{EndpointSettings, HashKey, Hashing, Sticky, StickyCookie};

/// The most an endpoint gets, in percent of its share.
const LOAD_MAX: u32 = 125;

/// What is shorter can be tried out.
const SECRET_LETTERS_MIN: usize = 16;

/// Where the secret comes from if none is written: known to this machine alone, and the same after a
/// restart (machine-id(5) wants it hashed with a key before it is shown to anybody, as it is here).
const MACHINE_ID: &str = "/etc/machine-id";

impl Resolver<'_> {
    /// Hashing, if it is asked for.
    pub(super) fn hashing(
        &mut self,
        name: &str,
        table: &file::Upstream,
        endpoints: &[EndpointSettings],
    ) -> Option<Hashing> {
        let is_wanted = table
            .balance
            .as_ref()
            .is_some_and(|one| one.value == Balance::Hash);
        let (hash, factor) = (table.hash.as_ref(), table.hash_balance_factor.as_ref());
        if !is_wanted {
            let keys = hash.map(|hash| hash.key.clone());
            for key in keys.into_iter().chain(factor.map(|factor| factor.key.clone())) {
                let help = "write beside it: balance = \"hash\"; or leave it out";
                let message = "this is for endpoints that are chosen by hash, and these are not";
                self.error("misplaced-key", key, message, help);
            }
            return None;
        }
        if let (None, Some(balance), false) = (hash, &table.balance, table.has("hash")) {
            let message = "`balance = \"hash\"` has no `hash`: by what are endpoints to be chosen?";
            let help = "write: hash = \"client_address\"; or \"path\", \"header:NAME\", \"cookie:NAME\"";
            self.error("missing-key", balance.span.clone(), message, help);
        }
        let load_max = factor.map_or(LOAD_MAX, |factor| {
            u32::try_from(factor.value.0).unwrap_or(LOAD_MAX)
        });
        if let Some(factor) = factor.filter(|_| (1..=100).contains(&load_max)) {
            let message = "no endpoint could have its share, which is 100 percent";
            let help = "write more than 100, or 0 for no bound: hash_balance_factor = 125";
            self.error("out-of-range", factor.span.clone(), message, help);
        }
        let HashBy(by) = hash?.value.clone();
        if let Some(hash) = hash.filter(|_| by != HashKey::ClientAddress && self.is_for_listeners(name)) {
            let message = "a listener in tcp mode uses this upstream, and sees no requests";
            let help = "write: hash = \"client_address\"; or give the listener an upstream of its own";
            self.error("misplaced-key", hash.span.clone(), message, help);
        }
        Some(Hashing::new(by, (load_max > 0).then_some(load_max), endpoints))
    }

    /// Sticky sessions, if they are asked for.
    pub(super) fn sticky(
        &mut self,
        name: &str,
        table: &file::Upstream,
        endpoints: &[EndpointSettings],
    ) -> Option<Arc<Sticky>> {
        let written = table.sticky.as_ref()?;
        let sticky = &written.value;
        if self.is_for_listeners(name) {
            let message = "a listener in tcp mode uses this upstream, and has no cookies";
            let help = "leave it out, or write: balance = \"hash\", hash = \"client_address\"";
            self.error("misplaced-key", written.key.clone(), message, help);
        }
        if !sticky.has("cookie") {
            let example = "sticky = { cookie = \"srv\" }";
            self.missing(
                "cookie",
                file::Sticky::TABLE.header,
                written.span.clone(),
                example,
            );
        }
        let secure = sticky.secure.as_ref();
        let same_site = sticky.same_site.as_ref();
        let needs_secure = same_site.is_some_and(|one| one.value == SameSite::None)
            || sticky
                .cookie
                .as_ref()
                .is_some_and(|name| name.value.0.starts_with("__"));
        if let Some(secure) = secure.filter(|secure| needs_secure && !secure.value) {
            let message = "browsers take such a cookie only if it is for HTTPS";
            let help = "leave `secure` out, or write: secure = true";
            self.error("conflicting-keys", secure.span.clone(), message, help);
        }
        let secret = self.secret(written)?;
        let cookie = StickyCookie {
            name: sticky.cookie.as_ref()?.value.0.clone(),
            ttl: sticky.ttl.as_ref().map(|ttl| ttl.value.0),
            secure: secure
                .map(|secure| secure.value)
                .or_else(|| needs_secure.then_some(true)),
            http_only: is_on(sticky.http_only.as_ref(), true),
            same_site: match same_site.map(|one| one.value) {
                Some(SameSite::Strict) => "Strict",
                Some(SameSite::None) => "None",
                Some(SameSite::Lax) | None => "Lax",
            },
        };
        Some(Sticky::new(cookie, secret.as_bytes(), name, endpoints).into())
    }

    fn secret(&mut self, sticky: &At<file::Sticky>) -> Option<String> {
        let help = "write: secret = \"…\", with what `openssl rand -hex 32` says";
        if sticky.value.has("secret") {
            let secret = sticky.value.secret.as_ref()?;
            if secret.value.0.len() < SECRET_LETTERS_MIN {
                let message = format!("a secret has at least {SECRET_LETTERS_MIN} letters");
                self.error("bad-value", secret.span.clone(), message, help);
            }
            return Some(secret.value.0.clone());
        }
        let read = std::fs::read_to_string(Path::new(MACHINE_ID)).unwrap_or_default();
        let id = read.trim();
        if id.len() < SECRET_LETTERS_MIN {
            let message = format!("this machine has no {MACHINE_ID} to make the secret of");
            self.error("missing-key", sticky.span.clone(), message, help);
            return None;
        }
        Some(id.to_owned())
    }
}
