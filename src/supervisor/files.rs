//! Files of endpoints: looked at every second, read when they have changed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::endpoints_file;
use crate::runtime;
use crate::time::wall;
use crate::upstream::{EndpointSettings, Settings};

/// How often each is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file that was written in this time may be written once more without a change of its times.
const YOUNG: Duration = Duration::from_secs(2);

/// What a file says now.
pub(super) struct FileNews {
    /// The upstream it is for.
    pub(super) upstream: Arc<str>,
    pub(super) path: Arc<Path>,
    /// Or what is wrong with it.
    pub(super) endpoints: Result<Arc<[EndpointSettings]>, String>,
}

/// The upstreams whose files are looked at.
pub(super) type Wanted = Rc<RefCell<Vec<Arc<Settings>>>>;

/// By what a file is known that has not changed: which one it is, its size and its times.
type Stamp = Option<[i64; 7]>;

/// What was last seen of one.
#[derive(Clone, Default)]
struct Seen {
    path: Option<Arc<Path>>,
    stamp: Stamp,
    is_young: bool,
    /// What was wrong with it.
    wrong: Option<String>,
}

/// Looks at them for as long as the process lives.
pub(super) fn watch(wanted: Wanted, tell: impl Fn(FileNews) + 'static) {
    let look = async move {
        let mut seen: HashMap<Arc<str>, Seen> = HashMap::new();
        loop {
            runtime::sleep(INTERVAL).await;
            let all = wanted.borrow().clone();
            seen.retain(|name, _| all.iter().any(|upstream| upstream.name == *name));
            for upstream in all {
                let before = seen.get(&upstream.name).cloned().unwrap_or_default();
                let name = upstream.name.clone();
                // The disk may be slow, and this is the thread that answers health checks.
                if let Ok(Some((now, news))) = runtime::blocking(move || look_at(&upstream, &before)).await {
                    seen.insert(name, now);
                    news.into_iter().for_each(&tell);
                }
            }
        }
    };
    runtime::spawn(look, |panic| {
        tracing::error!("files of endpoints are no longer looked at: {panic}");
    });
}

/// What has changed since.
fn look_at(upstream: &Settings, before: &Seen) -> Option<(Seen, Option<FileNews>)> {
    let path = upstream.from_file.as_ref()?.path.clone();
    let (stamp, is_young) = stamp(&path);
    let is_same = before.path.as_ref() == Some(&path) && before.stamp == stamp;
    if is_same && !before.is_young {
        return None;
    }
    let endpoints = endpoints_file::load(&path, upstream);
    let endpoints = endpoints.map_err(|wrong| wrong.to_string().trim_end().to_owned());
    let wrong = endpoints.as_ref().err().cloned();
    let is_told = wrong.is_some() && wrong == before.wrong;
    let news = FileNews {
        upstream: upstream.name.clone(),
        path: path.clone(),
        endpoints,
    };
    let seen = Seen {
        path: Some(path),
        stamp,
        is_young,
        wrong,
    };
    Some((seen, (!is_told).then_some(news)))
}

fn stamp(path: &Path) -> (Stamp, bool) {
    let Ok(facts) = std::fs::metadata(path) else {
        return (None, false);
    };
    let is_young = facts.modified().is_ok_and(|at| {
        let age = wall().duration_since(at);
        age.is_ok_and(|age| age < YOUNG)
    });
    let stamp = [
        facts.dev().cast_signed(),
        facts.ino().cast_signed(),
        facts.size().cast_signed(),
        facts.mtime(),
        facts.mtime_nsec(),
        facts.ctime(),
        facts.ctime_nsec(),
    ];
    (Some(stamp), is_young)
}
