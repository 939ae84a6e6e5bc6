//! The upstream that something goes to, or several that share it.

use std::ops::Range;

use super::super::error::Diagnostic;
use super::super::file::{UpstreamShare, UpstreamShareValue, Upstreams};
use super::super::read::At;
use super::{Resolver, number};
use crate::route::{Share, Split};

impl Resolver<'_> {
    /// Who gets how much; `None` if something is wrong with it.
    pub(super) fn split(&mut self, upstreams: &At<Upstreams>) -> Option<Split> {
        let written = &upstreams.value.0;
        if let [one] = written.as_slice()
            && let UpstreamShareValue::Short(name) = &one.value
        {
            return self.upstream_index(name, &one.span).map(Split::one);
        }
        // All are looked at, so that all that is wrong with them is told at once.
        let shares: Vec<_> = written.iter().map(|share| self.share(share)).collect();
        let shares: Vec<_> = shares.into_iter().collect::<Option<_>>()?;
        let (Ok(()), Ok(())) = (
            self.check_sum(upstreams, &shares),
            self.check_twice(written, &shares),
        ) else {
            return None;
        };
        self.check_sticky(upstreams, &shares);
        Split::new(shares)
    }

    fn share(&mut self, share: &At<UpstreamShareValue>) -> Option<Share> {
        let (name, place, weight): (&str, &Range<usize>, _) = match &share.value {
            UpstreamShareValue::Short(name) => (name, &share.span, 1),
            UpstreamShareValue::Table(table) => {
                if !table.has("name") {
                    let header = UpstreamShare::TABLE.header;
                    self.missing("name", header, table.span.clone(), "name = \"app\"");
                }
                let name = table.name.as_ref()?;
                if table.has("weight") && table.weight.is_none() {
                    return None; // told already
                }
                (&name.value, &name.span, number(table.weight.as_ref(), 1))
            }
        };
        let upstream = self.upstream_index(name, place)?;
        Some(Share { upstream, weight })
    }

    fn check_sum(&mut self, upstreams: &At<Upstreams>, shares: &[Share]) -> Result<(), ()> {
        let (code, message, help) = match shares {
            [] => (
                "empty-upstreams",
                "there is no upstream in this list",
                "write the name of one: upstream = \"app\"",
            ),
            _ if shares.iter().all(|share| share.weight == 0) => (
                "no-weight",
                "every upstream has the weight 0, so none is ever asked",
                "give one of them a weight: { name = \"app\", weight = 1 }",
            ),
            _ => return Ok(()),
        };
        // What could not be read was told already, and leaves the list shorter.
        let is_told = self.found.iter().any(|one| {
            let place = one.span.as_ref();
            place.is_some_and(|place| upstreams.span.contains(&place.start))
        });
        if !is_told {
            self.error(code, upstreams.span.clone(), message, help);
        }
        Err(())
    }

    fn check_twice(&mut self, written: &[At<UpstreamShareValue>], shares: &[Share]) -> Result<(), ()> {
        let mut result = Ok(());
        for (at, share) in shares.iter().enumerate() {
            let is_same = |other: &Share| other.upstream == share.upstream;
            let Some(first) = shares[..at].iter().position(is_same) else {
                continue;
            };
            let name = self.upstream_names().nth(share.upstream).unwrap_or_default();
            let message = format!("the upstream `{name}` is there twice");
            let diagnostic = Diagnostic::error("duplicate-upstream", written[at].span.clone(), message)
                .help("write it once, with the sum of both weights")
                .related(written[first].span.clone(), "the other one");
            self.found.push(diagnostic);
            result = Err(());
        }
        result
    }

    /// A client that has once come to an upstream with a cookie stays, one that came to another may be
    /// drawn again: in the end all would be with the one.
    fn check_sticky(&mut self, upstreams: &At<Upstreams>, shares: &[Share]) {
        let tables = self.file.upstream.as_ref().map_or(&[][..], |all| &all.value);
        let with_weight = shares.iter().filter(|share| share.weight > 0);
        let (with, without): (Vec<_>, Vec<_>) = with_weight
            .filter_map(|share| tables.get(share.upstream))
            .partition(|(_, table)| table.has("sticky"));
        if let ([(with, _), ..], [(without, _), ..]) = (with.as_slice(), without.as_slice()) {
            let (with, without) = (&with.value, &without.value);
            let message = format!(
                "clients of `{with}` stay with it by its cookie, those of `{without}` do not stay: in time all will be with `{with}`"
            );
            let help = "give all of them `sticky`, or none";
            self.warning("uneven-sticky", upstreams.span.clone(), message, help);
        }
    }
}
