//! The demo's page: what Atlas does for this very connection.

use super::headers::RequestId;
use crate::access_log::ConnectionFacts;
use crate::http::{RequestHead, Version};
use crate::outcome::Carrier;

/// Its Content-Type.
pub(super) const CONTENT_TYPE: &str = "text/html; charset=utf-8";

const OPENING: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Atlas</title>\n<style>\n\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; }\n\
table { border-collapse: collapse; width: 100%; }\n\
th, td { text-align: left; vertical-align: top; padding: .25em .75em .25em 0; border-bottom: 1px solid #8884; }\n\
th { font-weight: 600; white-space: nowrap; }\ntd { overflow-wrap: anywhere; font-family: ui-monospace, monospace; }\n\
</style>\n</head>\n<body>\n<h1>Atlas</h1>\n<p>This is what Atlas does for the connection this page came over. \
See also <a href=\"/echo\">what an origin behind it receives</a>, and <a href=\"/files/\">files</a>.</p>\n";

/// The page for a request, on a connection that `sent` so much before, if that is known. Everything that comes
/// from outside is escaped.
pub(super) fn page(
    facts: &ConnectionFacts,
    request: &RequestHead,
    id: &RequestId,
    scheme: &str,
    sent: Option<u64>,
) -> String {
    let mut page = String::from(OPENING);
    page.push_str("<h2>Connection</h2>\n<table>\n");
    connection(&mut page, facts, request.version(), scheme, sent);
    page.push_str("</table>\n<h2>Request</h2>\n<table>\n");
    row(&mut page, "Method", request.method().as_str());
    row(&mut page, "Target", request.path_and_query());
    row(&mut page, "Id", id.as_str());
    page.push_str("</table>\n<h2>Fields</h2>\n<table>\n");
    for (name, value) in request.fields.iter() {
        row(&mut page, name, &String::from_utf8_lossy(value));
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

/// What is known of the connection, a row each.
fn connection(page: &mut String, facts: &ConnectionFacts, version: Version, scheme: &str, sent: Option<u64>) {
    let address = |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
    let worker = facts.worker.to_string();
    let carrier = facts.carriage.carrier.get();
    let refusal = carrier
        .refusal()
        .map(|refusal| format!("{}: {}", refusal.as_str(), refusal.meaning()));
    let tally = facts.carriage.tally();
    let uncopied = format!("{} spliced, {} by sendfile", tally.spliced, tally.sendfile);
    let copied = sent.map(|sent| sent.saturating_sub(tally.spliced + tally.sendfile).to_string());
    let records = format!(
        "{} received, {} sent",
        facts.carriage.records_received.get(),
        facts.carriage.records_sent.get()
    );
    let key_updates = format!(
        "{} received, {} sent",
        tally.key_updates_received, tally.key_updates_sent
    );
    let is_secure = facts.tls_version.is_some();
    for (name, value) in [
        ("Client", address(facts.client).as_deref()),
        ("Connected to", address(facts.local).as_deref()),
        ("Listener", Some(&*facts.listener)),
        ("Scheme", Some(scheme)),
        ("Protocol", Some(version.as_str())),
        ("ALPN", facts.alpn.as_deref()),
        ("TLS", facts.tls_version),
        ("Cipher", facts.cipher),
        ("Server name", facts.server_name.as_deref()),
        (
            "Session resumed",
            facts
                .tls_version
                .map(|_| if facts.resumed { "yes" } else { "no" }),
        ),
        ("Who makes the TLS records", Some(carrier.as_str())),
        ("Why not the kernel", refusal.as_deref()),
        ("Bytes sent inside the kernel so far", Some(&uncopied)),
        ("Bytes sent through this process so far", copied.as_deref()),
        (
            "TLS records in the kernel so far",
            (tally.carrier == Carrier::Kernel).then_some(&records),
        ),
        ("Key updates so far", is_secure.then_some(&key_updates)),
        ("Worker", Some(&worker)),
        ("Driver", Some(&facts.driver)),
    ] {
        row(page, name, value.unwrap_or("–"));
    }
}

fn row(page: &mut String, name: &str, value: &str) {
    page.push_str("<tr><th>");
    escape(page, name);
    page.push_str("</th><td>");
    escape(page, value);
    page.push_str("</td></tr>\n");
}

fn escape(page: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            letter => page.push(letter),
        }
    }
}
