//! Where a redirect leads: its template, filled in from the request.

use crate::http::RequestHead;
use crate::route::normal;

/// The parts of a request a template may name.
pub struct Parts<'r> {
    /// The host, without port.
    pub host: &'r str,
    /// Path, `?` and query.
    pub uri: &'r str,
    /// The path.
    pub path: &'r str,
    /// What follows `?`; else empty.
    pub query: &'r str,
}

/// The value of Location for a request; `host` is taken where the request names none.
pub(super) fn location(template: &str, request: &RequestHead, host: &str) -> String {
    let host = normal::host(request.authority().unwrap_or(host));
    fill(
        template,
        &Parts {
            host: &host,
            uri: request.path_and_query(),
            path: request.path(),
            query: request.query().unwrap_or_default(),
        },
    )
}

/// Replaces `{host}` (without port), `{uri}`, `{path}` and `{query}`; other braces stay.
pub fn fill(template: &str, parts: &Parts<'_>) -> String {
    let mut filled = String::with_capacity(template.len() + parts.uri.len() + parts.host.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let names = [
            ("{host}", parts.host),
            ("{uri}", parts.uri),
            ("{path}", parts.path),
            ("{query}", parts.query),
        ];
        match names.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                // `//evil.test` alone would lead to another host.
                let value = match filled.is_empty() && value.starts_with('/') {
                    true => &value[value.len() - value.trim_start_matches('/').len() - 1..],
                    false => value,
                };
                filled.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_from_the_request() {
        let parts = Parts {
            host: "a.test",
            uri: "//x/y?q=1&r={host}",
            path: "//x/y",
            query: "q=1&r={host}",
        };
        for (template, filled) in [
            ("https://{host}{uri}", "https://a.test//x/y?q=1&r={host}"),
            ("https://b.test/", "https://b.test/"),
            ("/new{path}?{query}", "/new//x/y?q=1&r={host}"),
            ("{uri}", "/x/y?q=1&r={host}"),
            ("/{other}{", "/{other}{"),
            ("", ""),
        ] {
            assert_eq!(fill(template, &parts), filled, "{template}");
        }
    }
}
