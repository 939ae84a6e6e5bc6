//! What is known of endpoints that are checked: kept here, so that it survives reloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_channel::Sender;

use super::Event;
use crate::metrics::EndpointFact;
use crate::upstream::Settings;
use crate::upstream::health::{Checked, Checker};

/// The checks, and what they have found.
pub(super) struct Checks {
    checker: Checker,
    /// Whether each endpoint that is checked is up, by its upstream and its name.
    found: BTreeMap<(Arc<str>, Arc<str>), bool>,
}

impl Checks {
    pub(super) fn new(tell: &Sender<Event>) -> Self {
        let tell = tell.clone();
        Self {
            checker: Checker::new(move |checked| drop(tell.try_send(Event::Checked(checked)))),
            found: BTreeMap::new(),
        }
    }

    /// Makes sure that there is a thread to check these with.
    pub(super) fn start(&mut self, upstreams: &[Settings]) -> Result<(), String> {
        self.checker
            .start(upstreams)
            .map_err(|error| format!("cannot start a thread to check endpoints: {error}"))
    }

    /// Checks those of these upstreams that want it. What was found of endpoints that stay is kept; new
    /// ones are up until proved down.
    pub(super) fn watch(&mut self, upstreams: &[Settings]) {
        let checked = upstreams.iter().filter(|upstream| upstream.check.is_some());
        let wanted = checked.flat_map(|upstream| {
            let endpoints = upstream.endpoints.iter();
            endpoints.map(|endpoint| (upstream.name.clone(), Arc::from(endpoint.address.to_string())))
        });
        let known = |key| {
            let is_up = self.found.get(&key).copied().unwrap_or(true);
            (key, is_up)
        };
        self.found = wanted.map(known).collect();
        self.checker.watch(upstreams);
    }

    /// An endpoint went down or up; whether it is one that is still checked.
    pub(super) fn note(&mut self, checked: &Checked) -> bool {
        let key = (checked.upstream.clone(), checked.endpoint.clone());
        let known = self.found.get_mut(&key);
        known.map(|is_up| *is_up = checked.is_up).is_some()
    }

    /// All that are down.
    pub(super) fn down(&self) -> Vec<Checked> {
        let down = self.found.iter().filter(|(_, is_up)| !**is_up);
        down.map(|((upstream, endpoint), _)| Checked {
            upstream: upstream.clone(),
            endpoint: endpoint.clone(),
            is_up: false,
        })
        .collect()
    }

    /// All that are checked, for the metrics.
    pub(super) fn facts(&self) -> Vec<EndpointFact> {
        let all = self.found.iter();
        all.map(|((upstream, endpoint), is_up)| EndpointFact {
            upstream: upstream.clone(),
            endpoint: endpoint.clone(),
            is_up: *is_up,
        })
        .collect()
    }
}
