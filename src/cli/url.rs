//! URLs and fields as they stand on the command line.

use http::{HeaderName, Uri};

const EXAMPLE: &str = "write it as https://a.example/path";

/// The parts of a URL that decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) text: String,
    pub(super) has_tls: bool,
    /// Without port and brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
}

impl Url {
    /// Path and query.
    pub(super) fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// Scheme and authority.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.has_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// Whether fields that are meant for the one may be shown to the other.
    pub(super) fn is_same_origin(&self, other: &Self) -> bool {
        (self.has_tls, &self.host, self.port) == (other.has_tls, &other.host, other.port)
    }

    /// Where a Location leads from here.
    pub(super) fn join(&self, location: &str) -> Result<Self, String> {
        let location = location.split('#').next().unwrap_or_default();
        let (origin, path) = (self.origin(), self.path.as_str());
        let scheme = if self.has_tls { "https" } else { "http" };
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        parse_url(&match location {
            "" => format!("{origin}{}", self.target()),
            whole if has_scheme(whole) => whole.to_owned(),
            other if other.starts_with("//") => format!("{scheme}:{other}"),
            rooted if rooted.starts_with('/') => format!("{origin}{rooted}"),
            query if query.starts_with('?') => format!("{origin}{path}{query}"),
            beside => format!("{origin}{folder}/{beside}"),
        })
    }
}

fn has_scheme(location: &str) -> bool {
    let before_path = location.split(['/', '?']).next().unwrap_or_default();
    before_path.contains(':')
}

/// Reads a URL; one without a scheme means what a browser would open.
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let uri: Uri = whole.parse().map_err(|error| format!("{error}; {EXAMPLE}"))?;
    let has_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(format!("Atlas speaks https:// and http:// only; {EXAMPLE}")),
    };
    let authority = uri.authority().ok_or(EXAMPLE)?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(format!(
            "a host alone is asked for, without a user's name; {EXAMPLE}"
        ));
    }
    let default = if has_tls { 443 } else { 80 };
    let port = match authority
        .as_str()
        .strip_prefix(authority.host())
        .unwrap_or_default()
    {
        "" | ":" => default,
        port => port[1..]
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or("a port is from 1 to 65535")?,
    };
    Ok(Url {
        has_tls,
        host: authority.host().trim_matches(['[', ']']).to_owned(),
        port,
        authority: authority.to_string(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        text: whole,
    })
}

/// Reads a field of a request: `Name: value`.
pub(super) fn parse_field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as \"Name: value\"")?;
    let name: HeaderName = name
        .trim()
        .parse()
        .map_err(|_| format!("`{}` cannot be the name of a field", name.trim()))?;
    if value.contains(['\r', '\n', '\0']) {
        return Err("the value of a field is one line".to_owned());
    }
    Ok((name.to_string(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = parse_url("HTTPS://[::1]:8443/a?b#c").unwrap();
        assert_eq!((&*url.host, url.port, &*url.path), ("::1", 8443, "/a"));
        assert_eq!((url.has_tls, url.query.as_deref()), (true, Some("b")));
        assert_eq!(parse_url("a.example").unwrap().port, 443);
        assert_eq!(parse_url("http://a.example").unwrap().port, 80);
        for text in [
            "",
            "ftp://a",
            "https://",
            "https://u@a/",
            "https://a:0/",
            "https://a:99999/",
            "a b",
            "https:///x",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_are_taken_apart() {
        assert_eq!(
            parse_field("X-A:  b c "),
            Ok(("x-a".to_owned(), "b c".to_owned()))
        );
        for text in ["", "x", ": b", "x y: b", "x: a\r\nb: c"] {
            assert!(parse_field(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_location_leads_on_from_where_it_was_said() {
        let here = parse_url("https://a.test:8443/x/y?z#part").unwrap();
        for (location, there) in [
            ("https://b.test/q", "https://b.test/q"),
            ("http://b.test", "http://b.test/"),
            ("//b.test/q", "https://b.test/q"),
            ("/q?r", "https://a.test:8443/q?r"),
            ("q/r", "https://a.test:8443/x/q/r"),
            ("?r", "https://a.test:8443/x/y?r"),
            ("#top", "https://a.test:8443/x/y?z"),
            ("", "https://a.test:8443/x/y?z"),
        ] {
            let found = here.join(location).unwrap();
            assert_eq!(found.origin() + &found.target(), there, "{location}");
        }
        for location in ["ftp://b.test/", "mailto:a@b.test", "https://"] {
            assert!(here.join(location).is_err(), "{location}");
        }
    }
}
