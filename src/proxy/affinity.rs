//! What of a request decides its endpoint, where something does.

use crate::http::{Fields, RequestHead};
use crate::upstream::balance::hash;
use crate::upstream::{Attempts, HashKey, Upstream};

/// Tells the search for an endpoint where the request belongs. The fields are those for the endpoint.
pub(super) fn apply(upstream: &Upstream, fields: &Fields, path: &str, attempts: &mut Attempts) {
    let settings = upstream.settings();
    if let Some(hashing) = &settings.hash {
        let key = match &hashing.by {
            HashKey::ClientAddress => fields.get("x-real-ip"),
            HashKey::Header(name) => fields.get(name),
            HashKey::Cookie(name) => cookie(fields, name),
            HashKey::Path => Some(path.split('?').next().unwrap_or(path).as_bytes()),
        };
        attempts.belongs_to(key.map(hash));
    }
    attempts.is_bound_to(bound(upstream, fields));
}

/// Whether the request's client has been sent to one of this upstream's endpoints before, and is to come
/// back.
pub(super) fn binds(upstream: &Upstream, request: &RequestHead) -> bool {
    bound(upstream, &request.fields).is_some()
}

/// The endpoint a cookie binds the client to.
fn bound(upstream: &Upstream, fields: &Fields) -> Option<usize> {
    let sticky = upstream.settings().sticky.as_ref()?;
    sticky.endpoint(cookie(fields, sticky.name())?)
}

/// The value of a cookie, as it was sent.
fn cookie<'f>(fields: &'f Fields, name: &str) -> Option<&'f [u8]> {
    let pairs = fields
        .get_all("cookie")
        .flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
        let mut fields = Fields::new();
        fields.push("Cookie", "xa=1; a=2;b=3; c=");
        fields.push("Cookie", "d=4=5");
        let found = |name| cookie(&fields, name).map(<[u8]>::to_vec);
        assert_eq!(found("a"), Some(b"2".to_vec()));
        assert_eq!(found("b"), Some(b"3".to_vec()));
        assert_eq!(found("c"), Some(Vec::new()));
        assert_eq!(found("d"), Some(b"4=5".to_vec()));
        assert_eq!((found("x"), found("A"), found("e")), (None, None, None));
    }
}
