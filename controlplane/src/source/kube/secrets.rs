//! The Secrets that Connectors name, and no others: each read by its name when it may have changed.
//!
//! Connectors and notices in, the list of Secrets changed in place. A Secret that was deleted is
//! gone at once; one that could not be read stays as it was known, and is asked for again. So does
//! one that we may not read: an API server that has just started may not know our rights yet, and
//! nothing tells of a right that is granted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::core::{PartialObjectMeta, Request};
use kube::runtime::watcher::Event;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use zeroize::Zeroizing;

use super::shelf::place;
use super::{News, Read, SecretName, pause};
use crate::crd::Connector;
use crate::source::manifest;
use crate::source::{Found, Named, SecretObject};

/// The Secrets that are named, and what is known of each.
pub(super) struct Secrets {
    client: Client,
    news: mpsc::Sender<News>,
    permits: Arc<Semaphore>,
    wanted: HashMap<SecretName, Wanted>,
    /// How many of the wanted ones are not known yet.
    unknown: usize,
    /// Those that must be read.
    due: Vec<SecretName>,
    /// Where each stands in the list of Secrets.
    places: HashMap<SecretName, usize>,
    /// The versions of wanted Secrets in the list that is under way.
    listing: HashMap<SecretName, Option<String>>,
    listed: bool,
}

/// One Secret that a Connector names.
#[derive(Default)]
struct Wanted {
    /// The version that was read; nothing where there is no such Secret.
    version: Option<String>,
    is_known: bool,
    is_reading: bool,
    /// It may have changed since the reading began.
    is_stale: bool,
    failures: u32,
    /// The last failure was a refusal.
    is_refused: bool,
}

impl Wanted {
    /// How long to wait before it is read: seldom where only somebody's change of our rights can
    /// help.
    fn wait(&self) -> Duration {
        match (self.failures, self.is_refused) {
            (0, _) => Duration::ZERO,
            (failures, false) => pause(failures),
            (failures, true) => pause(failures) * REFUSED_TIMES,
        }
    }
}

impl Secrets {
    /// Knows none yet. What is read comes back as news.
    pub(super) fn new(client: Client, news: mpsc::Sender<News>) -> Self {
        Self {
            client,
            news,
            permits: Arc::new(Semaphore::new(READS_MAX)),
            wanted: HashMap::new(),
            unknown: 0,
            due: Vec::new(),
            places: HashMap::new(),
            listing: HashMap::new(),
            listed: false,
        }
    }

    /// Whether the Secrets have been listed, and each wanted one read or found missing.
    pub(super) fn are_complete(&self) -> bool {
        self.listed && self.unknown == 0
    }

    /// Forgets the Secrets that no Connector names any more, and wants those that are new.
    pub(super) fn want(
        &mut self,
        connectors: &[Found<Connector>],
        list: &mut Vec<Found<SecretObject>>,
    ) {
        let named: HashSet<SecretName> = connectors.iter().flat_map(named).collect();
        let gone: Vec<SecretName> =
            self.wanted.keys().filter(|name| !named.contains(*name)).cloned().collect();
        for name in gone {
            self.wanted.remove(&name);
            self.remove(&name, list);
        }
        for name in named {
            if !self.wanted.contains_key(&name) {
                self.wanted.insert(name.clone(), Wanted::default());
                self.due.push(name);
            }
        }
        self.unknown = self.wanted.values().filter(|wanted| !wanted.is_known).count();
    }

    /// Begins to read what is due, once the watch has listed: whatever changes after that list is
    /// noticed, so nothing is read twice.
    pub(super) fn read_due(&mut self) {
        if !self.listed {
            return;
        }
        for name in std::mem::take(&mut self.due) {
            if let Some(wanted) = self.wanted.get_mut(&name).filter(|wanted| !wanted.is_reading) {
                (wanted.is_reading, wanted.is_stale) = (true, false);
                let wait = wanted.wait();
                self.read(name, wait);
            }
        }
    }

    /// Takes a notice that a Secret has changed. Whether the list of Secrets differs for it.
    pub(super) fn notice(
        &mut self,
        event: Event<PartialObjectMeta<Secret>>,
        list: &mut Vec<Found<SecretObject>>,
    ) -> bool {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                let (name, version) = seen(&object);
                if self.wanted.contains_key(&name) {
                    self.listing.insert(name, version);
                }
            }
            Event::InitDone => {
                let listing = std::mem::take(&mut self.listing);
                if !std::mem::replace(&mut self.listed, true) {
                    return true;
                }
                for (name, wanted) in &mut self.wanted {
                    let version = listing.get(name).cloned().flatten();
                    if version != wanted.version {
                        wanted.is_stale = true;
                        self.due.push(name.clone());
                    }
                }
            }
            Event::Apply(object) => {
                let (name, version) = seen(&object);
                if let Some(wanted) = self.wanted.get_mut(&name)
                    && version != wanted.version
                {
                    wanted.is_stale = true;
                    self.due.push(name);
                }
            }
            Event::Delete(object) => {
                let (name, _) = seen(&object);
                if let Some(wanted) = self.wanted.get_mut(&name) {
                    // Gone now, whatever becomes of the API server; it may also be back already.
                    (wanted.is_stale, wanted.version) = (true, None);
                    self.due.push(name.clone());
                    return self.remove(&name, list);
                }
            }
        }
        false
    }

    /// Takes what a reading gave. Whether the list of Secrets, or its completeness, differs.
    pub(super) fn store(
        &mut self,
        name: SecretName,
        read: Read,
        list: &mut Vec<Found<SecretObject>>,
    ) -> bool {
        let Some(wanted) = self.wanted.get_mut(&name) else {
            return false;
        };
        wanted.is_reading = false;
        wanted.is_refused = matches!(read, Read::Forbidden);
        let failed = wanted.is_refused || matches!(read, Read::Failed);
        if wanted.is_refused && wanted.failures % 16 == 0 {
            let (namespace, name) = &name;
            tracing::error!(%namespace, %name, "we may not get this Secret: grant it by RBAC");
        }
        wanted.failures = if failed { wanted.failures.saturating_add(1) } else { 0 };
        // What was read before the Secret is known to have changed is not taken: it may be gone.
        if failed || (wanted.is_stale && matches!(read, Read::Found(_))) {
            wanted.is_stale = true;
            self.due.push(name);
            // Nobody waits for what we may not read.
            let is_new = wanted.is_refused && !std::mem::replace(&mut wanted.is_known, true);
            self.unknown -= usize::from(is_new);
            return is_new;
        }
        if wanted.is_stale {
            self.due.push(name.clone());
        }
        let is_new = !std::mem::replace(&mut wanted.is_known, true);
        self.unknown -= usize::from(is_new);
        let Read::Found(object) = read else {
            wanted.version = None;
            return self.remove(&name, list) || is_new;
        };
        wanted.version = object.metadata.resource_version.clone();
        let (namespace, own) = name.clone();
        let named = Named { kind: "Secret", namespace, name: own };
        let found = Found { place: place(), named, unknown_fields: Vec::new(), object };
        let known = self.places.get(&name).and_then(|place| list.get_mut(*place));
        if let Some(known) = known {
            *known = found;
        } else {
            self.places.insert(name, list.len());
            list.push(found);
        }
        true
    }

    fn remove(&mut self, name: &SecretName, list: &mut Vec<Found<SecretObject>>) -> bool {
        let Some(place) = self.places.remove(name) else {
            return false;
        };
        list.swap_remove(place);
        if let Some(moved) = list.get(place) {
            let Named { namespace, name, .. } = &moved.named;
            self.places.insert((Arc::clone(namespace), Arc::clone(name)), place);
        }
        true
    }

    /// Reads a Secret after `wait`; a few at a time.
    fn read(&self, name: SecretName, wait: Duration) {
        let (client, news) = (self.client.clone(), self.news.clone());
        let permits = Arc::clone(&self.permits);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The semaphore is never closed.
            let permit = permits.acquire().await;
            let read = tokio::time::timeout(READ_WAIT, get(&client, &name)).await;
            drop(permit);
            // Nobody takes it when the process ends.
            let _ = news.send(News::Read(name, read.unwrap_or(Read::Failed))).await;
        });
    }
}

/// Reads one Secret. Its values are decoded by us, so that no copy of ours outlives its use.
async fn get(client: &Client, (namespace, name): &SecretName) -> Read {
    let path = Secret::url_path(&(), Some(namespace));
    let Ok(request) = Request::new(path).get(name, &Default::default()) else {
        // No Secret can have such a name.
        return Read::Absent;
    };
    match client.request_text(request).await.map(Zeroizing::new) {
        Ok(text) => match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(fields)) => Read::Found(Box::new(manifest::secret(fields))),
            _ => Read::Failed,
        },
        Err(kube::Error::Api(status)) if status.code == 404 => Read::Absent,
        Err(kube::Error::Api(status)) if status.code == 403 => Read::Forbidden,
        Err(cause) => {
            tracing::debug!(%namespace, %name, %cause, "a Secret could not be read");
            Read::Failed
        }
    }
}

/// The Secrets that a Connector names. One of another namespace is refused by `compile`, and not
/// read.
fn named(found: &Found<Connector>) -> impl Iterator<Item = SecretName> {
    let spec = &found.object.spec;
    let namespace = &found.named.namespace;
    let own = |other: &Option<String>| {
        other.as_deref().is_none_or(|other| other.is_empty() || other == &**namespace)
    };
    let credential = spec.auth.as_ref().and_then(|auth| auth.secret_ref.as_ref());
    let credential = credential.filter(|secret| own(&secret.namespace));
    let credential = credential.and_then(|secret| secret.name.as_deref());
    let trust = spec.ca_cert_secret_ref.as_ref().and_then(|secret| secret.name.as_deref());
    let names = credential.into_iter().chain(trust).filter(|name| !name.is_empty());
    let names: Vec<_> = names.map(|name| (Arc::clone(namespace), Arc::from(name))).collect();
    names.into_iter()
}

/// Which Secret a notice speaks of, and its version.
fn seen(object: &PartialObjectMeta<Secret>) -> (SecretName, Option<String>) {
    let namespace = object.namespace().unwrap_or_default();
    ((namespace.into(), object.name_any().into()), object.resource_version())
}

/// How much longer than after a failure is waited after a refusal: two minutes at most.
const REFUSED_TIMES: u32 = 12;

/// Secrets read at one time.
const READS_MAX: usize = 32;

/// How long reading one may take.
const READ_WAIT: Duration = Duration::from_secs(10);
