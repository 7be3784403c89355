//! The objects of one kind, kept up to date by a watch and by the answers to our own writes.
//!
//! Events and answers in; which objects have changed out. An answer is newer than the event that
//! tells of the same write and comes later: an object never goes back to an older version, so
//! nothing is written twice for want of news.

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
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), fresh: HashMap::new(), is_listed: false }
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

    /// Takes an event of the watch: which objects are others now, or gone.
    pub fn take(&mut self, event: Event<K>) -> Vec<Key> {
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
            Event::Apply(object) => self.put(object).into_iter().collect(),
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

    /// Takes what a write of ours was answered with. An object that is gone meanwhile stays gone.
    pub fn learn(&mut self, object: K) {
        let known = self.objects.get(&key(&object));
        if known.is_none_or(|known| known.meta().uid == object.meta().uid) {
            self.put(object);
        }
    }

    fn put(&mut self, object: K) -> Option<Key> {
        let key = key(&object);
        let known = self.objects.get(&key).map(|known| known.meta());
        if known.is_some_and(|known| !is_newer(object.meta(), known)) {
            return None;
        }
        self.objects.insert(key.clone(), Arc::new(lean(object)));
        Some(key)
    }

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
        let changed = |key: &&Key| match (self.objects.get(*key), fresh.get(*key)) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            _ => true,
        };
        let new = fresh.keys().filter(|key| !self.objects.contains_key(*key));
        let changed = self.objects.keys().filter(changed).chain(new).cloned().collect();
        self.objects = fresh;
        changed
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

/// Whether `object` is to take the place of `known`: another object, or a later version. Versions
/// are numbers that grow (KEP-5504); of an API server where they are none, what comes last counts.
fn is_newer(object: &ObjectMeta, known: &ObjectMeta) -> bool {
    let number = |meta: &ObjectMeta| meta.resource_version.as_deref()?.parse::<u128>().ok();
    match (number(object), number(known)) {
        (Some(new), Some(old)) if object.uid == known.uid => new > old,
        _ => object.uid != known.uid || object.resource_version != known.resource_version,
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

    fn version(known: &Known<Service>, name: &str) -> Option<String> {
        known.get(&("ci".into(), name.into()))?.metadata.resource_version.clone()
    }

    #[test]
    fn an_object_never_goes_back_to_an_older_version() {
        let mut known = Known::default();
        assert_eq!(known.take(Event::Apply(object("a", "1", "9"))).len(), 1);
        known.learn(object("a", "1", "12"));
        for late in ["9", "10", "12"] {
            assert_eq!(known.take(Event::Apply(object("a", "1", late))).len(), 0, "{late}");
        }
        assert_eq!(version(&known, "a").as_deref(), Some("12"));
        assert_eq!(known.take(Event::Apply(object("a", "2", "11"))).len(), 1, "another one");
        assert_eq!(known.take(Event::Delete(object("a", "1", "13"))).len(), 0);
        assert_eq!(known.take(Event::Delete(object("a", "2", "14"))).len(), 1);
        assert_eq!(version(&known, "a"), None);
    }

    #[test]
    fn a_new_list_tells_what_changed_and_what_is_gone() {
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
        let mut changed: Vec<_> =
            known.take(Event::InitDone).into_iter().map(|(_, name)| name).collect();
        changed.sort();
        assert_eq!(changed, ["changed", "gone", "new"]);
        assert!(known.is_listed());
        assert_eq!(version(&known, "written").as_deref(), Some("8"));
    }
}
