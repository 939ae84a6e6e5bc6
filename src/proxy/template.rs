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
    let mut named = normal::host(request.authority().unwrap_or(host));
    if named.is_empty() {
        named = normal::host(host); // `:80` names none
    }
    fill(
        template,
        &Parts {
            host: &named,
            uri: request.path_and_query(),
            path: request.path(),
            query: request.query().unwrap_or_default(),
        },
    )
}

/// Replaces `{host}` (without port), `{uri}`, `{path}` and `{query}`; other braces stay. A path is one whatever the
/// request says: `//evil.test`, or `/\\evil.test` as browsers take it, would lead to another host.
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
    let written = &template[..template.find('{').unwrap_or(template.len())];
    let path = filled.trim_start_matches(['/', '\\']);
    match written.len() <= 1 && filled.len() - path.len() > 1 && matches!(written, "" | "/") {
        true => ["/", path].concat(),
        false => filled,
    }
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
            ("/{uri}", "/x/y?q=1&r={host}"),
            ("//b.test{uri}", "//b.test//x/y?q=1&r={host}"),
            ("/{other}{", "/{other}{"),
            ("", ""),
        ] {
            assert_eq!(fill(template, &parts), filled, "{template}");
        }
        for (query, filled) in [
            ("/evil.test/", "/evil.test/"),
            ("\\evil.test", "/evil.test"),
            ("q", "/q"),
        ] {
            let parts = Parts { query, ..parts };
            assert_eq!(fill("/{query}", &parts), filled, "{query}");
        }
    }
}
