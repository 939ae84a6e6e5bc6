//! What was found, and whether it is well so.

use std::fmt;

use serde::Serialize;

/// Whether it is well so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It is.
    Fine,
    /// Atlas runs, and could do better.
    Advice,
    /// The configuration asks for what this machine cannot do.
    Wrong,
}

impl Verdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Advice => "advice",
            Self::Wrong => "wrong",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) topic: &'static str,
    pub(super) verdict: Verdict,
    pub(super) what: String,
    /// What that means, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
    /// What to type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<String>,
}

impl Finding {
    pub(super) fn fine(topic: &'static str, what: impl Into<String>) -> Self {
        Self {
            topic,
            verdict: Verdict::Fine,
            what: what.into(),
            advice: None,
            command: None,
        }
    }

    pub(super) fn advice(topic: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Advice,
            advice: Some(advice.into()),
            ..Self::fine(topic, what)
        }
    }

    pub(super) fn wrong(topic: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Wrong,
            ..Self::advice(topic, what, advice)
        }
    }

    /// Adds what to type.
    pub(super) fn command(self, command: impl Into<String>) -> Self {
        self.maybe(Some(command.into()))
    }

    /// As [`Self::command`], where there is one.
    pub(super) fn maybe(mut self, command: Option<String>) -> Self {
        self.command = command;
        self
    }
}

/// All that was found, in order.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    pub(super) fn all(&self) -> &[Finding] {
        &self.0
    }

    /// `Fine` if nothing was found.
    pub(super) fn worst(&self) -> Verdict {
        let verdicts = self.0.iter().map(|finding| finding.verdict);
        verdicts.max().unwrap_or(Verdict::Fine)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut topic = "";
        for (at, finding) in self.0.iter().enumerate() {
            if finding.topic != topic {
                topic = finding.topic;
                let gap = if at == 0 { "" } else { "\n\n" };
                write!(f, "{gap}{topic}")?;
            }
            write!(f, "\n  {:<6}  {}", finding.verdict.as_str(), finding.what)?;
            for (mark, line) in [("", &finding.advice), ("$ ", &finding.command)] {
                if let Some(line) = line {
                    write!(f, "\n          {mark}{line}")?;
                }
            }
        }
        Ok(())
    }
}
