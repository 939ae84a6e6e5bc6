//! Who the endpoints are now: kept here, so that it survives reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};

use super::Event;
use super::files::{self, FileNews, Wanted};
use crate::generation::Generation;
use crate::metrics::{CountedEndpoint, EndpointCounters, NameFact, Process};
use crate::runtime::before;
use crate::time::Deadline;
use crate::upstream::discovery::{Answers, News, Resolver, Source, Watcher, expand};
use crate::upstream::{Counted, FromFile, Settings};

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
    resolver: Resolver,
    /// The upstreams that have files, which are looked at by a task.
    files: Wanted,
    file_news: Receiver<FileNews>,
    /// Whether the file of an upstream is wrong.
    are_wrong: BTreeMap<Arc<str>, bool>,
    /// How many count each endpoint.
    workers: usize,
    /// Of the generation in force, with the endpoints they have now.
    upstreams: Vec<Settings>,
}

impl Discovery {
    pub(super) fn new(tell: &Sender<Event>, process: Arc<Process>, workers: usize) -> Self {
        let (to_news, news) = async_channel::unbounded();
        let (to_file_news, file_news) = async_channel::unbounded();
        let (files, to_events) = (Wanted::default(), tell.clone());
        files::watch(files.clone(), move |one| {
            drop(to_file_news.try_send(one));
            drop(to_events.try_send(Event::Found));
        });
        Self {
            resolver: Resolver::default(),
            files,
            file_news,
            are_wrong: BTreeMap::new(),
            workers,
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

    /// Makes sure that there is a thread to look up what these have to look up.
    pub(super) fn start(&mut self, upstreams: &[Settings]) -> Result<(), String> {
        if self.watcher.is_some() || Source::all_of(upstreams).next().is_none() {
            return Ok(());
        }
        let (tell, news) = (self.tell.clone(), self.to_news.clone());
        let started = Watcher::start(self.process.clone(), move |one| {
            drop(news.try_send(one));
            drop(tell.try_send(Event::Found));
        });
        let watcher = started.map_err(|error| format!("cannot start a thread to look up names: {error}"))?;
        self.watcher = Some(watcher);
        Ok(())
    }

    /// Looks up what a generation wants looked up, once this was [started](Self::start) for it, and gives its
    /// upstreams the endpoints that are found, as far as that is quick: so that the first request finds them.
    pub(super) async fn watch(&mut self, generation: &mut Generation) {
        self.resolver = generation.resolver.clone();
        if let Some(settled) = self.look_up(&generation.upstreams) {
            // Looking goes on after that, and what cannot be found is said.
            let _ = before(Deadline::within(FIRST_LOOKUP_TIMEOUT), settled.recv()).await;
        }
        self.note_all();
        for upstream in &mut generation.upstreams {
            let before = self.upstreams.iter().find(|before| before.name == upstream.name);
            let before = before.map(|before| before.counted.clone()).unwrap_or_default();
            *upstream = expand(upstream, &self.answers);
            upstream.counted = counted(upstream, &before, self.workers);
        }
        self.upstreams.clone_from(&generation.upstreams);
        // Each was right when the configuration was read.
        let with_files = || {
            self.upstreams
                .iter()
                .filter(|upstream| upstream.from_file.is_some())
        };
        self.are_wrong = with_files()
            .map(|upstream| (upstream.name.clone(), false))
            .collect();
        self.files.replace(with_files().cloned().map(Arc::new).collect());
    }

    /// Looks up what these have to look up, and nothing else; the channel closes when all has been once.
    fn look_up(&mut self, upstreams: &[Settings]) -> Option<Receiver<()>> {
        let sources: BTreeSet<_> = Source::all_of(upstreams).collect();
        self.answers.retain(|source, _| sources.contains(source));
        let before = std::mem::take(&mut self.is_failing);
        let known = |source: &Source| (source.clone(), before.get(source).copied().unwrap_or(false));
        self.is_failing = sources.iter().map(known).collect();
        let watcher = self.watcher.as_ref();
        watcher.map(|watcher| watcher.watch(sources, &self.resolver))
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
        let is_any = self.note_files();
        if !self.note_all() && !is_any {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for upstream in &mut self.upstreams {
            let may_change = upstream.is_looked_up() || upstream.from_file.is_some();
            let now = may_change.then(|| expand(upstream, &self.answers));
            if let Some(mut now) = now.filter(|now| now.endpoints != upstream.endpoints) {
                now.counted = counted(&now, &upstream.counted, self.workers);
                *upstream = now;
                changed.push(upstream.clone().into());
            }
        }
        changed
    }

    /// Takes the news of files; whether one has changed.
    fn note_files(&mut self) -> bool {
        let mut is_any = false;
        while let Ok(news) = self.file_news.try_recv() {
            is_any |= self.note_file(news);
        }
        if is_any {
            // There may be names among them.
            let upstreams = std::mem::take(&mut self.upstreams);
            if let Err(why) = self.start(&upstreams) {
                tracing::error!("{why}");
            }
            self.look_up(&upstreams);
            self.upstreams = upstreams;
        }
        is_any
    }

    fn note_file(&mut self, news: FileNews) -> bool {
        let mut upstreams = self.upstreams.iter_mut();
        let Some(upstream) = upstreams.find(|upstream| upstream.name == news.upstream) else {
            return false; // a reload has taken it away
        };
        let Some(file) = upstream.from_file.as_mut().filter(|file| file.path == news.path) else {
            return false;
        };
        let was_wrong = self
            .are_wrong
            .insert(news.upstream.clone(), news.endpoints.is_err());
        let (upstream, path) = (&*news.upstream, news.path.display());
        match news.endpoints {
            Ok(endpoints) if endpoints == file.endpoints && was_wrong != Some(true) => false,
            Ok(endpoints) => {
                tracing::info!(upstream, "{} endpoints were read from {path}", endpoints.len());
                *file = FromFile {
                    endpoints,
                    ..file.clone()
                };
                true
            }
            Err(why) => {
                tracing::error!(upstream, "the endpoints of {path} stay as they were:\n{why}");
                false
            }
        }
    }

    /// All endpoints and where they are counted, for the metrics.
    pub(super) fn counted(&self) -> Vec<CountedEndpoint> {
        let all = self.upstreams.iter().flat_map(|upstream| {
            let endpoints = upstream.endpoints.iter();
            let names = endpoints.map(|one| Arc::<str>::from(one.address.to_string()));
            names.filter_map(|endpoint| {
                Some(CountedEndpoint {
                    upstream: upstream.name.clone(),
                    counters: upstream.counted.get(&endpoint)?.clone(),
                    endpoint,
                })
            })
        });
        all.collect()
    }

    /// Which upstreams have a file, and whether it is wrong, for the metrics.
    pub(super) fn files(&self) -> Vec<(Arc<str>, bool)> {
        let all = self.are_wrong.iter();
        all.map(|(upstream, is_wrong)| (upstream.clone(), *is_wrong))
            .collect()
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

/// Where the endpoints of an upstream are counted: those that stay go on where they were.
fn counted(upstream: &Settings, before: &Counted, workers: usize) -> Counted {
    let one = |name: Arc<str>| {
        let known = before.get(&name).cloned();
        let counters = known.unwrap_or_else(|| (0..workers).map(|_| EndpointCounters::default()).collect());
        (name, counters)
    };
    let names = upstream
        .endpoints
        .iter()
        .map(|one| one.address.to_string().into());
    Arc::new(names.map(one).collect())
}
