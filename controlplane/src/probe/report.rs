//! Writes a connector's conditions, and only where they differ from what stands there.
//!
//! Findings in, a server-side apply to the status subresource out, under a field manager of our own
//! and with the connector's uid, so that one made again under its name is not taken for it. What
//! stands there is followed by a watch; our own writes are known before the watch tells of them.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::{Timestamp, Unit};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::{Client, Error, ResourceExt as _};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::facts::{Fact, Facts};
use crate::condition::{self, Finding, PROBERS};
use crate::crd::{Condition, Connector, GROUP, VERSION};
use crate::lease::Tenure;
use crate::source::{self, Named};

/// Who writes.
pub struct Reporter {
    client: Client,
    tenure: Tenure,
    store: Store<Connector>,
    /// What we wrote and the watch has perhaps not told of yet.
    written: Mutex<HashMap<Named, Connector>>,
    /// Changes whenever the watch has told something.
    news: watch::Sender<()>,
}

/// What became of a report.
#[derive(Debug, PartialEq, Eq)]
pub enum Reported {
    /// It was written.
    Written,
    /// Nothing differs.
    Same,
    /// The connector is no more, or another one by now.
    Gone,
}

impl Reporter {
    /// A reporter that may write during `tenure`, and what keeps it up to date.
    pub fn new(client: Client, tenure: Tenure) -> (Self, impl Future<Output = ()>) {
        let (store, mut writer) = reflector::store();
        let connectors = Api::<Connector>::all(client.clone());
        let news = watch::Sender::default();
        let told = news.clone();
        let (sender, mut events) = mpsc::channel(EVENTS_MAX);
        let taking = async move {
            while let Some(event) = events.recv().await {
                writer.apply_watcher_event(&lean(event));
                told.send_replace(());
            }
        };
        let following = async move {
            tokio::join!(source::kube::watch(connectors, sender, |event| event), taking);
        };
        (Self { client, tenure, store, written: Mutex::default(), news }, following)
    }

    /// Waits until it is known what stands in the cluster.
    pub async fn is_ready(&self) {
        // An error means that nobody follows any more, and then nobody waits either.
        let _ = self.store.wait_until_ready().await;
    }

    /// Forgets what it wrote to connectors that are no more.
    pub fn keep(&self, facts: &Facts) {
        self.written().retain(|named, _| facts.contains_key(named));
    }

    /// Whether all conditions of ours speak of this state of the connector.
    pub fn is_told(&self, fact: &Fact) -> bool {
        let Some(connector) = self.standing(fact) else { return false };
        let conditions = conditions(&connector);
        PROBERS.iter().all(|kind| {
            conditions.iter().any(|condition| {
                condition.kind == *kind && condition.observed_generation == fact.generation
            })
        })
    }

    /// Writes `findings`, if they are news.
    pub async fn report(&self, fact: &Fact, findings: &[Finding]) -> Result<Reported, Error> {
        let Ok(before) = timeout(NEWS_WAIT, self.met(fact)).await else {
            return Ok(Reported::Gone);
        };
        let standing = conditions(&before);
        let now = Timestamp::now().round(Unit::Second).unwrap_or_default().to_string();
        let wanted = condition::written(findings, standing, fact.generation, &now);
        if wanted.iter().all(|condition| standing.contains(condition)) {
            return Ok(Reported::Same);
        }
        // A process that was frozen may wake up long after another was elected.
        if !self.tenure.is_ours() {
            return Ok(Reported::Gone);
        }
        let (namespace, name) = (&*fact.named.namespace, &*fact.named.name);
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "Connector",
            "metadata": {"namespace": namespace, "name": name, "uid": fact.uid},
            "status": {"conditions": wanted},
        });
        let connectors = Api::<Connector>::namespaced(self.client.clone(), namespace);
        let apply = PatchParams::apply(MANAGER).force();
        match connectors.patch_status(name, &apply, &Patch::Apply(&object)).await {
            Ok(after) => {
                tell(fact, standing, &wanted);
                self.written().insert(fact.named.clone(), after);
                Ok(Reported::Written)
            }
            // Deleted, or made again, in the meantime.
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Reported::Gone),
            Err(cause) => Err(cause),
        }
    }

    /// The newest state of a connector, as soon as it is known: the source's watch may have been
    /// faster than ours.
    async fn met(&self, fact: &Fact) -> Connector {
        let mut news = self.news.subscribe();
        loop {
            if let Some(connector) = self.standing(fact) {
                return connector;
            }
            if news.changed().await.is_err() {
                // It cannot end before us, who hold its sending end.
                pending::<()>().await;
            }
        }
    }

    /// The newest state known of the connector that `fact` speaks of.
    fn standing(&self, fact: &Fact) -> Option<Connector> {
        let named = &fact.named;
        let watched = self.store.get(&ObjectRef::new(&named.name).within(&named.namespace));
        let mut written = self.written();
        let own = written
            .get(named)
            .filter(|own| watched.as_ref().is_some_and(|watched| version(own) > version(watched)));
        let newest = own.cloned().or_else(|| {
            written.remove(named);
            watched.map(|watched| (*watched).clone())
        })?;
        (newest.metadata.uid == fact.uid).then_some(newest)
    }

    fn written(&self) -> MutexGuard<'_, HashMap<Named, Connector>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without who owns which field, which takes more room than all the rest.
fn lean(mut event: Event<Connector>) -> Event<Connector> {
    if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = &mut event {
        object.metadata.managed_fields = None;
    }
    event
}

fn conditions(connector: &Connector) -> &[Condition] {
    connector.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
}

/// Versions of one resource grow (Kubernetes, "Resource versions", since 1.35 by promise).
fn version(connector: &Connector) -> u128 {
    connector.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// A line for each condition whose status has changed.
fn tell(fact: &Fact, before: &[Condition], after: &[Condition]) {
    let (namespace, name) = (&fact.named.namespace, &fact.named.name);
    for now in after {
        let was = before.iter().find(|was| was.kind == now.kind).map(|was| was.status.as_str());
        if was == Some(now.status.as_str()) {
            continue;
        }
        let (condition, status) = (&now.kind, &now.status);
        let reason = now.reason.as_deref().unwrap_or_default();
        let message = now.message.as_deref().unwrap_or_default();
        tracing::info!(%namespace, %name, condition, status, reason, message, "a condition");
    }
}

/// Under which our conditions are ours.
const MANAGER: &str = "harbor-connector-prober";

/// Events under way to us; a list of thousands waits here in turns.
const EVENTS_MAX: usize = 1024;

/// How long a connector that the source knows may be unknown to our own watch.
const NEWS_WAIT: Duration = Duration::from_secs(2);
