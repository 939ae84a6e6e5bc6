//! Who the endpoints are now: kept here, so that it survives reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};

use super::Event;
use crate::generation::Generation;
use crate::metrics::{NameFact, Process};
use crate::runtime::before;
use crate::time::Deadline;
use crate::upstream::Settings;
use crate::upstream::discovery::{Answers, News, Source, Watcher, expand};

/// How long names may be looked up before traffic is accepted without them.
const FIRST_LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The look-ups, and what they have found.
pub(super) struct Discovery {
    /// There is none until there is something to look up.
    watcher: Option<Watcher>,
    process: Arc<Process>,
    to_news: Sender<News>,
    news: Receiver<News>,
    tell: Sender<Event>,
    answers: Answers,
    is_failing: BTreeMap<Source, bool>,
    /// Of the generation in force, with the endpoints they have now.
    upstreams: Vec<Settings>,
}

impl Discovery {
    pub(super) fn new(tell: &Sender<Event>, process: Arc<Process>) -> Self {
        let (to_news, news) = async_channel::unbounded();
        Self {
            watcher: None,
            process,
            to_news,
            news,
            tell: tell.clone(),
            answers: Answers::new(),
            is_failing: BTreeMap::new(),
            upstreams: Vec::new(),
        }
    }

    /// Looks up what a generation wants looked up, and gives its upstreams the endpoints that are found, as
    /// far as that is quick: so that the first request finds them.
    pub(super) async fn watch(&mut self, generation: &mut Generation) -> Result<(), String> {
        let sources: BTreeSet<_> = Source::all_of(&generation.upstreams).collect();
        self.answers.retain(|source, _| sources.contains(source));
        self.is_failing = sources
            .iter()
            .map(|source| {
                (
                    source.clone(),
                    self.is_failing.get(source).copied().unwrap_or(false),
                )
            })
            .collect();
        if self.watcher.is_none() && !sources.is_empty() {
            self.watcher = Some(self.start()?);
        }
        if let Some(watcher) = &self.watcher {
            let settled = watcher.watch(sources, &generation.resolver);
            // Looking goes on after that, and what cannot be found is said.
            let _ = before(Deadline::within(FIRST_LOOKUP_TIMEOUT), settled.recv()).await;
        }
        self.note_all();
        for upstream in &mut generation.upstreams {
            *upstream = expand(upstream, &self.answers);
        }
        self.upstreams.clone_from(&generation.upstreams);
        Ok(())
    }

    fn start(&self) -> Result<Watcher, String> {
        let (tell, news) = (self.tell.clone(), self.to_news.clone());
        Watcher::start(self.process.clone(), move |one| {
            drop(news.try_send(one));
            drop(tell.try_send(Event::Found));
        })
        .map_err(|error| format!("cannot start a thread to look up names: {error}"))
    }

    fn note_all(&mut self) -> bool {
        let mut is_any = false;
        while let Ok(News {
            source,
            servers,
            is_failing,
        }) = self.news.try_recv()
        {
            if let Some(known) = self.is_failing.get_mut(&source) {
                *known = is_failing;
                self.answers.extend(servers.map(|servers| (source, servers)));
                is_any = true;
            }
        }
        is_any
    }

    /// Takes the news; those upstreams that have other endpoints now.
    pub(super) fn changed(&mut self) -> Vec<Arc<Settings>> {
        if !self.note_all() {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for upstream in &mut self.upstreams {
            let now = upstream.is_looked_up().then(|| expand(upstream, &self.answers));
            if let Some(now) = now.filter(|now| now.endpoints != upstream.endpoints) {
                *upstream = now;
                changed.push(upstream.clone().into());
            }
        }
        changed
    }

    /// The upstreams with the endpoints they have now.
    pub(super) fn upstreams(&self) -> &[Settings] {
        &self.upstreams
    }

    /// The names, for the metrics.
    pub(super) fn names(&self) -> Vec<NameFact> {
        let all = self.is_failing.iter();
        all.map(|(source, is_failing)| NameFact {
            name: source.to_string(),
            is_failing: *is_failing,
        })
        .collect()
    }
}
