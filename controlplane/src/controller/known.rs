//! The objects of one kind, kept up to date by a watch and by the answers to our own writes.
//!
//! Events and answers in; which objects are to be looked at out. An answer is newer than the event
//! that tells of the same write and comes later: an object never goes back to an older version, so
//! nothing is written twice for want of news. An older event is news all the same: somebody wrote
//! between our look and our write, and the answer that holds both was not looked at yet.

use std::collections::HashMap;
use std::sync::Arc;

use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};

use super::MANAGER;

/// Namespace (empty where there is none) and name.
pub type Key = (String, String);

/// The objects that are known.
pub struct Known<K> {
    objects: HashMap<Key, Arc<K>>,
    /// The list that is under way.
    fresh: HashMap<Key, Arc<K>>,
    is_listed: bool,
    /// The latest version that the watch has told of. It tells of all in their order.
    told: u128,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), fresh: HashMap::new(), is_listed: false, told: 0 }
    }
}

impl<K: Resource> Known<K> {
    /// Whether everything has been listed once.
    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// The object of this name.
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// All objects.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.objects.iter()
    }

    /// Takes an event of the watch: which objects are to be looked at, because they are others now,
    /// or gone, or were written to by somebody else.
    pub fn take(&mut self, event: Event<K>) -> Vec<Key> {
        if let Event::InitApply(object) | Event::Apply(object) | Event::Delete(object) = &event {
            self.told = self.told.max(version(object.meta()).unwrap_or_default());
        }
        match event {
            Event::Init => {
                self.fresh.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.fresh.insert(key(&object), Arc::new(lean(object)));
                Vec::new()
            }
            Event::InitDone => self.replace(),
            Event::Apply(object) => self.apply(object).into_iter().collect(),
            Event::Delete(object) => {
                let key = key(&object);
                let same = |known: &Arc<K>| known.meta().uid == object.meta().uid;
                // The end of an earlier object is not that of its successor.
                if !self.objects.get(&key).is_some_and(same) {
                    return Vec::new();
                }
                self.objects.remove(&key);
                vec![key]
            }
        }
    }

    /// Takes what a write of ours was answered with. An object that is gone meanwhile stays gone:
    /// one that is unknown although the watch has come further than its version was there before.
    pub fn learn(&mut self, object: K) {
        let is_there = match self.objects.get(&key(&object)) {
            Some(known) => known.meta().uid == object.meta().uid,
            None => version(object.meta()).is_none_or(|version| version > self.told),
        };
        if is_there {
            self.put(object);
        }
    }

    fn apply(&mut self, object: K) -> Option<Key> {
        let key = key(&object);
        let known = self.objects.get(&key).map(|known| known.meta());
        // The write that we have the answer to: we know what we did.
        if known.is_some_and(|known| is_same(object.meta(), known)) {
            return None;
        }
        self.put(object);
        Some(key)
    }

    fn put(&mut self, object: K) {
        let key = key(&object);
        let known = self.objects.get(&key).map(|known| known.meta());
        if known.is_none_or(|known| is_newer(object.meta(), known)) {
            self.objects.insert(key, Arc::new(lean(object)));
        }
    }

    /// The list is whole. All of it is looked at, for nobody knows which events were missed.
    fn replace(&mut self) -> Vec<Key> {
        self.is_listed = true;
        let mut fresh = std::mem::take(&mut self.fresh);
        for (key, object) in &mut fresh {
            let known = self.objects.get(key);
            // Written and answered after the list was made.
            if let Some(known) = known.filter(|known| !is_newer(object.meta(), known.meta())) {
                *object = Arc::clone(known);
            }
        }
        let gone = self.objects.keys().filter(|key| !fresh.contains_key(*key));
        let all = fresh.keys().chain(gone).cloned().collect();
        self.objects = fresh;
        all
    }
}

/// The key of an object.
pub fn key(object: &impl Resource) -> Key {
    (object.meta().namespace.clone().unwrap_or_default(), object.name_any())
}

/// Without what nobody here reads, and what is often larger than everything else: who owns which
/// field. Whether we own any is kept.
fn lean<K: Resource>(mut object: K) -> K {
    if let Some(entries) = &mut object.meta_mut().managed_fields {
        entries.retain(|entry| entry.manager.as_deref() == Some(MANAGER));
        entries.iter_mut().for_each(|entry| entry.fields_v1 = None);
    }
    object
}

/// Whether both are one object in one version.
fn is_same(object: &ObjectMeta, known: &ObjectMeta) -> bool {
    object.uid == known.uid && object.resource_version == known.resource_version
}

/// Versions are numbers that grow (KEP-5504); nothing of an API server where they are none.
fn version(meta: &ObjectMeta) -> Option<u128> {
    meta.resource_version.as_deref()?.parse().ok()
}

/// Whether `object` is to take the place of `known`: another object, or a later version. Where
/// versions are no numbers, what comes last counts.
fn is_newer(object: &ObjectMeta, known: &ObjectMeta) -> bool {
    match (version(object), version(known)) {
        (Some(new), Some(old)) if object.uid == known.uid => new > old,
        _ => !is_same(object, known),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn object(name: &str, uid: &str, version: &str) -> Service {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ci".into()),
            uid: Some(uid.into()),
            resource_version: Some(version.into()),
            ..Default::default()
        };
        Service { metadata, ..Default::default() }
    }

    fn version_of(known: &Known<Service>, name: &str) -> Option<String> {
        known.get(&("ci".into(), name.into()))?.metadata.resource_version.clone()
    }

    #[test]
    fn an_object_never_goes_back_to_an_older_version() {
        let mut known = Known::default();
        assert_eq!(known.take(Event::Apply(object("a", "1", "9"))).len(), 1);
        known.learn(object("a", "1", "12"));
        for late in ["10", "11", "12"] {
            known.take(Event::Apply(object("a", "1", late)));
        }
        assert_eq!(version_of(&known, "a").as_deref(), Some("12"));
        assert_eq!(known.take(Event::Apply(object("a", "2", "11"))).len(), 1, "another one");
        assert_eq!(known.take(Event::Delete(object("a", "1", "13"))).len(), 0);
        assert_eq!(known.take(Event::Delete(object("a", "2", "14"))).len(), 1);
        assert_eq!(version_of(&known, "a"), None);
    }

    /// We look at version 9 and write; the answer is 12, and holds what somebody wrote as 11. Of
    /// that nobody has thought yet, however late its event comes.
    #[test]
    fn what_somebody_wrote_between_our_look_and_our_write_is_looked_at() {
        let mut known = Known::default();
        known.take(Event::Apply(object("a", "1", "9")));
        known.learn(object("a", "1", "12"));
        assert_eq!(known.take(Event::Apply(object("a", "1", "11"))).len(), 1);
        assert_eq!(known.take(Event::Apply(object("a", "1", "12"))).len(), 0, "our own");
        assert_eq!(version_of(&known, "a").as_deref(), Some("12"));
    }

    #[test]
    fn an_answer_does_not_bring_back_what_is_gone() {
        let mut known = Known::default();
        known.learn(object("made", "1", "9"));
        assert_eq!(version_of(&known, "made").as_deref(), Some("9"), "before the watch told of it");
        known.take(Event::Apply(object("b", "2", "12")));
        known.take(Event::Delete(object("b", "2", "14")));
        known.learn(object("b", "2", "13"));
        assert_eq!(version_of(&known, "b"), None);
    }

    #[test]
    fn a_new_list_tells_what_is_there_and_what_is_gone() {
        let mut known = Known::default();
        for name in ["kept", "changed", "gone", "written"] {
            known.take(Event::Apply(object(name, "1", "5")));
        }
        known.learn(object("written", "1", "8"));
        known.take(Event::Init);
        for (name, version) in [("kept", "5"), ("changed", "6"), ("written", "5"), ("new", "7")] {
            known.take(Event::InitApply(object(name, "1", version)));
        }
        assert!(!known.is_listed());
        let mut told: Vec<_> =
            known.take(Event::InitDone).into_iter().map(|(_, name)| name).collect();
        told.sort();
        assert_eq!(told, ["changed", "gone", "kept", "new", "written"]);
        assert!(known.is_listed());
        assert_eq!(version_of(&known, "written").as_deref(), Some("8"));
    }
}
