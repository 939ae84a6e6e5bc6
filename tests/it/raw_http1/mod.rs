//! Raw HTTP/1.1 as data: what a client sends, what of it may reach the origin, what the client
//! gets. One runner, over plain and TLS listeners.

mod chunked;
mod connection;
mod fields;
mod framing;
mod request_line;
mod responses;

use std::fmt::Write as _;

use crate::support::wire::latin1;
use crate::support::{Atlas, Connection, Ending, Origin, atlas, origin};

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Kept,
    Closed,
}

/// Among statuses: the connection ends without an answer.
const NO_ANSWER: u16 = 0;

/// One case.
struct Case {
    name: &'static str,
    sends: Vec<u8>,
    /// `METHOD target body` of every request that reaches the origin whole, in order.
    reaches: Vec<String>,
    /// Fields the last of them must have, or must not have.
    with: Vec<(&'static str, Option<&'static str>)>,
    /// The statuses the client gets; each one of several.
    gets: Vec<Vec<u16>>,
    after: After,
    is_head: bool,
    plain_only: bool,
    then_finishes: bool,
    may_pass: bool,
}

/// The client sends these bytes. Unless said otherwise nothing reaches the origin and the client
/// gets 400 and a close.
fn case(name: &'static str, sends: impl AsRef<[u8]>) -> Case {
    Case {
        name,
        sends: sends.as_ref().to_vec(),
        reaches: Vec::new(),
        with: Vec::new(),
        gets: vec![vec![400]],
        after: After::Closed,
        is_head: false,
        plain_only: false,
        then_finishes: false,
        may_pass: false,
    }
}

impl Case {
    /// This request reaches the origin and is answered 200; the connection is kept.
    fn reaches(mut self, summary: &str) -> Self {
        if self.reaches.is_empty() {
            self.gets.clear();
        }
        self.reaches.push(summary.to_owned());
        self.gets.push(vec![200]);
        self.after = After::Kept;
        self
    }

    /// The last request has this field.
    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.with.push((name, Some(value)));
        self
    }

    /// The last request does not have this field.
    fn without(mut self, name: &'static str) -> Self {
        self.with.push((name, None));
        self
    }

    /// After what was said so far the client gets this answer of Atlas's own, and a close.
    fn then_gets(mut self, status: u16) -> Self {
        self.gets.push(vec![status]);
        self.after = After::Closed;
        self
    }

    /// The client gets this, and nothing reaches the origin.
    fn gets(self, status: u16) -> Self {
        self.gets_one_of(&[status])
    }

    /// The client gets one of these, and nothing reaches the origin.
    fn gets_one_of(mut self, statuses: &[u16]) -> Self {
        self.gets = vec![statuses.to_vec()];
        self
    }

    /// The client closes too early: it gets 400, or no answer.
    fn finishes_too_early(self) -> Self {
        self.gets_one_of(&[400, NO_ANSWER]).then_finishes()
    }

    /// The client gets nothing at all.
    fn gets_nothing(mut self) -> Self {
        self.gets.clear();
        self
    }

    /// RFC 9112 leaves it open: refused, or understood with the dangerous part taken out.
    fn tolerated(mut self) -> Self {
        self.may_pass = true;
        self
    }

    fn kept(mut self) -> Self {
        self.after = After::Kept;
        self
    }

    fn closed(mut self) -> Self {
        self.after = After::Closed;
        self
    }

    /// The answers have no body.
    fn head(mut self) -> Self {
        self.is_head = true;
        self
    }

    /// Makes sense without TLS only, where any name may be asked for.
    fn plain_only(mut self) -> Self {
        self.plain_only = true;
        self
    }

    /// The client closes its direction behind the bytes.
    fn then_finishes(mut self) -> Self {
        self.then_finishes = true;
        self
    }
}

fn all() -> Vec<Case> {
    let mut all = request_line::cases();
    all.extend(fields::cases());
    all.extend(framing::cases());
    all.extend(chunked::cases());
    all.extend(connection::cases());
    all
}

#[test]
fn there_are_at_least_150_cases_with_names_of_their_own() {
    let all = all();
    let names: std::collections::BTreeSet<_> = all.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), all.len(), "two cases of one name");
    assert!(all.len() >= 150, "only {} cases", all.len());
}

#[test]
fn raw_requests_without_tls() {
    let origin = origin().start();
    let atlas = atlas()
        .listener(false, "http2 = false")
        .forwards_to(&origin)
        .start();
    run(&atlas, &origin, all());
}

#[test]
fn raw_requests_inside_tls() {
    let origin = origin().start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    run(
        &atlas,
        &origin,
        all().into_iter().filter(|case| !case.plain_only).collect(),
    );
}

fn run(atlas: &Atlas, origin: &Origin, cases: Vec<Case>) {
    let mut wrong = String::new();
    for case in &cases {
        if let Err(why) = check(atlas, origin, case) {
            let _ = write!(
                wrong,
                "\n{}: {why}\n    sent {:?}\n",
                case.name,
                shortened(&latin1(&case.sends))
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn check(atlas: &Atlas, origin: &Origin, case: &Case) -> Result<(), String> {
    let before = origin.requests().len();
    let mut client = atlas.connect();
    client
        .try_send(&case.sends)
        .map_err(|error| format!("sending failed: {error}"))?;
    if case.then_finishes {
        client.finish();
    }
    for (at, statuses) in case.gets.iter().enumerate() {
        let method = if case.is_head { "HEAD" } else { "GET" };
        let answer = match client.try_answer_to(method) {
            Ok(answer) => answer,
            Err(error)
                if error.kind() == std::io::ErrorKind::ConnectionAborted && statuses.contains(&NO_ANSWER) =>
            {
                break;
            }
            Err(error) => return Err(format!("answer {at}, {statuses:?} expected: {error}")),
        };
        if case.may_pass && answer.status == 200 {
            return Ok(());
        }
        if !statuses.contains(&answer.status) {
            return Err(format!("answer {at} is {}, not {statuses:?}", answer.status));
        }
        if answer.status >= 400 {
            proper_refusal(&answer, case.after)?;
        }
    }
    let mut reaches = case.reaches.clone();
    match case.after {
        After::Kept => {
            let again = "GET /again HTTP/1.1\r\nHost: a.test\r\n\r\n";
            let status = client
                .try_send(again)
                .and_then(|()| client.try_answer())
                .map_err(|error| format!("the connection was not kept: {error}"))?
                .status;
            if status != 200 {
                return Err(format!("the request behind it got {status}"));
            }
            reaches.push("GET /again".to_owned());
        }
        After::Closed => closed(&mut client)?,
    }
    let came = origin.requests().split_off(before);
    let whole: Vec<_> = came.iter().filter(|seen| seen.whole).collect();
    let summaries: Vec<_> = whole.iter().map(|seen| seen.summary()).collect();
    if summaries != reaches {
        return Err(format!("the origin got {summaries:?}, not {reaches:?}"));
    }
    for (name, value) in &case.with {
        let last = &whole[case.reaches.len() - 1].head;
        if last.field(name) != *value {
            return Err(format!(
                "{name} at the origin is {:?}, not {value:?}",
                last.field(name)
            ));
        }
    }
    Ok(())
}

/// Answers of Atlas's own say who answered and why, shortly, and whether the connection goes on.
fn proper_refusal(answer: &crate::support::Answer, after: After) -> Result<(), String> {
    let closes = answer
        .field("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    if answer.field("proxy-status").is_none() {
        return Err(format!("{} without Proxy-Status", answer.status));
    }
    if closes != (after == After::Closed) {
        return Err(format!(
            "Connection is {:?}, {after:?} expected",
            answer.field("connection")
        ));
    }
    if answer.body.len() > 1024 {
        return Err(format!("a body of {} bytes", answer.body.len()));
    }
    Ok(())
}

fn closed(client: &mut Connection) -> Result<(), String> {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.read_to_end()));
    match ended {
        Ok((rest, Ending::Closed)) if rest.is_empty() => Ok(()),
        Ok((rest, ending)) => Err(format!("ended {ending:?} behind {:?}", shortened(&latin1(&rest)))),
        Err(_) => Err("the connection was not closed".to_owned()),
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= 300 {
        text.to_owned()
    } else {
        format!("{}… ({} bytes)", &text[..300], text.len())
    }
}

/// A GET with these lines behind its request line.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")
}

/// A POST with these lines and this body.
fn post(lines: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{body}")
}
