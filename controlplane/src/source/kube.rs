//! Connectors, classes and the Secrets they name, from a cluster: listed, watched, listed again.
//!
//! A client in, [`Objects`] out after the first full list and after every change. Lists and
//! bookmarks are the `watcher`'s; a 410 makes it list anew, and what is missing then is gone. While
//! the API server is away everything known goes on. Of Secrets only those are read that a Connector
//! names: a watch of metadata alone says that one has changed, then that one is read by its name.
//!
//! The rights needed: `list` and `watch` on connectors, connectorclasses and secrets, `get` on
//! secrets. RBAC has no rule for metadata only, so the watch of Secrets needs more than it uses.

mod secrets;
mod shelf;

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use self::secrets::Secrets;
use self::shelf::Shelf;
use super::{Objects, SecretObject};
use crate::crd::{Connector, ConnectorClass};

/// What the watches report.
enum News {
    Connector(Event<Connector>),
    Class(Event<ConnectorClass>),
    Secret(Event<PartialObjectMeta<Secret>>),
    /// A Secret that was read by its name, or that there is none.
    Read(SecretName, Read),
}

/// The namespace and name of a Secret.
type SecretName = (Arc<str>, Arc<str>);

/// What reading a Secret gave.
enum Read {
    Found(Box<SecretObject>),
    Absent,
    /// The API server will not show it to us.
    Forbidden,
    /// It could not be asked.
    Failed,
}

/// Follows the cluster until the process ends, and hands what it knows to `changed`: first when
/// everything has been listed and read once, then whenever something differs.
pub async fn follow(client: Client, mut changed: impl FnMut(&Objects)) {
    let (sender, mut news) = mpsc::channel(NEWS_MAX);
    tokio::spawn(watch(Api::all(client.clone()), sender.clone(), News::Connector));
    tokio::spawn(watch(Api::all(client.clone()), sender.clone(), News::Class));
    tokio::spawn(watch(Api::all(client.clone()), sender.clone(), News::Secret));
    let mut known = Known::new(Secrets::new(client, sender));
    loop {
        let first = tokio::time::timeout(SECRETS_LATE, news.recv()).await.ok().flatten();
        let others = std::iter::from_fn(|| news.try_recv().ok()).take(NEWS_MAX);
        for one in first.into_iter().chain(others) {
            known.take(one);
        }
        known.read_secrets();
        if known.is_due(Instant::now()) {
            // Compiling ten thousand connectors must not keep a probe waiting.
            tokio::task::block_in_place(|| changed(&known.objects));
            known.is_changed = false;
        }
    }
}

/// Everything known, and whether it has been handed on.
struct Known {
    objects: Objects,
    connectors: Shelf<Connector>,
    classes: Shelf<ConnectorClass>,
    secrets: Secrets,
    is_changed: bool,
    /// Connectors changed, and with them perhaps the Secrets that they name.
    names_changed: bool,
    is_published: bool,
    incomplete_since: Option<Instant>,
}

impl Known {
    fn new(secrets: Secrets) -> Self {
        Self {
            objects: Objects::default(),
            connectors: Shelf::new("Connector"),
            classes: Shelf::new("ConnectorClass"),
            secrets,
            is_changed: true,
            names_changed: false,
            is_published: false,
            incomplete_since: None,
        }
    }

    fn take(&mut self, news: News) {
        let Objects { connectors, classes, secrets, .. } = &mut self.objects;
        self.is_changed |= match news {
            News::Connector(event) => {
                let changed = self.connectors.take(event, connectors);
                self.names_changed |= changed;
                changed
            }
            News::Class(event) => self.classes.take(event, classes),
            News::Secret(event) => self.secrets.notice(event, secrets),
            News::Read(name, read) => self.secrets.store(name, read, secrets),
        };
    }

    /// Begins to read the Secrets that are named and may have changed.
    fn read_secrets(&mut self) {
        if std::mem::take(&mut self.names_changed) {
            self.secrets.want(&self.objects.connectors, &mut self.objects.secrets);
        }
        self.secrets.read_due();
    }

    /// Whether what is known should be handed on at `now`. A Secret that is being read for the
    /// first time is waited for: its connector would be unready for a moment and for no reason.
    /// Once something has been published the wait is short, for one Secret must not hold up others.
    fn is_due(&mut self, now: Instant) -> bool {
        if !self.is_changed || !self.connectors.is_listed() || !self.classes.is_listed() {
            return false;
        }
        if self.secrets.are_complete() {
            self.incomplete_since = None;
        } else {
            let since = *self.incomplete_since.get_or_insert(now);
            if !self.is_published || now.duration_since(since) < SECRETS_LATE {
                return false;
            }
        }
        self.is_published = true;
        true
    }
}

/// Hands every event of one kind on, and starts again, a little later each time, when it fails.
pub(crate) async fn watch<K, N>(api: Api<K>, news: mpsc::Sender<N>, wrap: fn(Event<K>) -> N)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut failures = 0;
    loop {
        let mut events = pin!(watcher(api.clone(), config.clone()));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // The beginning of a list is said before the server is asked for it.
                    if !matches!(event, Event::Init) {
                        failures = 0;
                    }
                    if news.send(wrap(event)).await.is_err() {
                        return;
                    }
                }
                Err(cause) => {
                    // An outage is one line at first and one now and then, not one per attempt.
                    if failures % 16 == 0 {
                        tracing::warn!(%cause, "the API server cannot be followed just now");
                    }
                    tokio::time::sleep(pause(failures)).await;
                    failures += 1;
                    // A watch that may not even start is too old: only a list helps, and the
                    // watcher lists by itself only when the 410 comes inside the watch.
                    if let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = cause
                        && status.code == 410
                    {
                        break;
                    }
                }
            }
        }
    }
}

/// How long to wait after so many failures in a row: longer each time, and never quite alike.
fn pause(failures: u32) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << failures.min(8)).min(PAUSE_MAX);
    // The clock's small digits spread a fleet well enough.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let jitter = now.map_or(0, |now| now.subsec_micros() % 512);
    longest / 2 + longest * jitter / 1024
}

/// Events under way to us; a list of thousands waits here in turns.
const NEWS_MAX: usize = 1024;

/// After this the server ends a watch and we begin another where it ended: a connection that died
/// without a word is noticed within little more.
const WATCH_SECONDS: u32 = 60;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a change waits for a Secret that is read for the first time.
const SECRETS_LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_its_bound_and_is_never_nothing() {
        assert!(pause(0) >= PAUSE_MIN / 2 && pause(0) <= PAUSE_MIN);
        for failures in [8, 100, u32::MAX] {
            assert!(pause(failures) >= PAUSE_MAX / 2 && pause(failures) <= PAUSE_MAX);
        }
    }
}
