//! The objects of one kind, kept up to date by the events of a watch.
//!
//! Events in, a list of [`Found`] objects changed in place, and whether the change matters. A list
//! that comes anew replaces everything; an event that is older than what is known changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};

use crate::source::{Found, Named, Place};

/// Where each object stands in its list.
pub(super) struct Shelf<K> {
    kind: &'static str,
    places: HashMap<Named, usize>,
    /// The list that is under way.
    fresh: Vec<Found<K>>,
    listed: bool,
}

impl<K: Resource> Shelf<K> {
    /// An empty one.
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, places: HashMap::new(), fresh: Vec::new(), listed: false }
    }

    /// Whether everything has been listed once.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    /// Takes an event. Whether something has changed that `compile` reads.
    pub(super) fn take(&mut self, event: Event<K>, list: &mut Vec<Found<K>>) -> bool {
        match event {
            Event::Init => {
                self.fresh.clear();
                false
            }
            Event::InitApply(object) => {
                let found = self.found(object);
                self.fresh.push(found);
                false
            }
            Event::InitDone => self.replace(list),
            Event::Apply(object) => self.put(object, list),
            Event::Delete(object) => self.remove(&object, list),
        }
    }

    fn replace(&mut self, list: &mut Vec<Found<K>>) -> bool {
        let fresh = std::mem::take(&mut self.fresh);
        let same = self.listed
            && fresh.len() == list.len()
            && fresh.iter().all(|found| {
                let known = self.places.get(&found.named).and_then(|place| list.get(*place));
                known.is_some_and(|known| is_same(&*known.object, &*found.object))
            });
        self.places =
            fresh.iter().enumerate().map(|(place, found)| (found.named.clone(), place)).collect();
        *list = fresh;
        self.listed = true;
        !same
    }

    fn put(&mut self, object: K, list: &mut Vec<Found<K>>) -> bool {
        let found = self.found(object);
        let known = self.places.get(&found.named).and_then(|place| list.get_mut(*place));
        let Some(known) = known else {
            self.places.insert(found.named.clone(), list.len());
            list.push(found);
            return true;
        };
        if is_older(&*found.object, &*known.object) {
            return false;
        }
        let same = is_same(&*known.object, &*found.object);
        *known = found;
        !same
    }

    fn remove(&mut self, object: &K, list: &mut Vec<Found<K>>) -> bool {
        let named = self.named(object);
        let Some(place) = self.places.get(&named).copied() else {
            return false;
        };
        let known = list.get(place).and_then(|known| known.object.meta().uid.as_deref());
        // The end of an earlier object is not that of its successor.
        if known != object.meta().uid.as_deref() {
            return false;
        }
        self.places.remove(&named);
        list.swap_remove(place);
        if let Some(moved) = list.get(place) {
            self.places.insert(moved.named.clone(), place);
        }
        true
    }

    fn found(&self, object: K) -> Found<K> {
        // The server prunes what the schema does not know, so no field is unknown here.
        Found {
            place: place(),
            named: self.named(&object),
            unknown_fields: Vec::new(),
            object: Box::new(object),
        }
    }

    fn named(&self, object: &K) -> Named {
        let namespace = object.namespace().unwrap_or_default();
        Named { kind: self.kind, namespace: namespace.into(), name: object.name_any().into() }
    }
}

/// Where the objects of a cluster stand.
pub(super) fn place() -> Place {
    Place { file: Arc::from("cluster"), document: 0 }
}

/// Whether both are one object with one content: the generation counts changes of `spec`, and a
/// change of status or labels means nothing here.
fn is_same<K: Resource>(known: &K, new: &K) -> bool {
    let (known, new) = (known.meta(), new.meta());
    known.uid == new.uid && known.generation.is_some() && known.generation == new.generation
}

/// Whether `new` is an earlier state of the same object than `known`. Versions of one resource
/// grow; one that is no number says nothing.
fn is_older<K: Resource>(new: &K, known: &K) -> bool {
    let version = |object: &K| object.meta().resource_version.as_ref()?.parse::<u128>().ok();
    let same = new.meta().uid == known.meta().uid;
    same && matches!((version(new), version(known)), (Some(new), Some(known)) if new < known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{Connector, ConnectorSpec};

    fn connector(name: &str, uid: &str, generation: i64, version: &str) -> Connector {
        let mut connector = Connector::new(name, ConnectorSpec::default());
        connector.metadata.namespace = Some("ci".to_owned());
        connector.metadata.uid = Some(uid.to_owned());
        connector.metadata.generation = Some(generation);
        connector.metadata.resource_version = Some(version.to_owned());
        connector
    }

    fn names(list: &[Found<Connector>]) -> Vec<String> {
        let mut names: Vec<_> = list
            .iter()
            .map(|found| format!("{} {:?}", found.named.name, found.object.metadata.uid))
            .map(|text| text.replace("Some(\"", "").replace("\")", ""))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_list_that_comes_anew_replaces_everything() {
        let (mut shelf, mut list) = (Shelf::new("Connector"), Vec::new());
        let mut listed = |objects: &[Connector]| {
            let mut changed = shelf.take(Event::Init, &mut list);
            for object in objects {
                changed |= shelf.take(Event::InitApply(object.clone()), &mut list);
            }
            changed |= shelf.take(Event::InitDone, &mut list);
            (changed, names(&list))
        };
        let (a, b) = (connector("a", "1", 1, "5"), connector("b", "2", 1, "6"));
        assert_eq!(listed(&[]), (true, vec![]), "an empty cluster is known to be empty");
        assert_eq!(listed(&[a.clone(), b.clone()]).1, ["a 1", "b 2"]);
        assert_eq!(listed(&[b.clone(), a]), (false, vec!["a 1".into(), "b 2".into()]));
        assert_eq!(listed(&[b]).1, ["b 2"], "what is missing is gone");
    }

    #[test]
    fn what_is_known_never_goes_backwards() {
        let (mut shelf, mut list) = (Shelf::new("Connector"), Vec::new());
        let mut take = |event| shelf.take(event, &mut list);
        assert!(take(Event::Apply(connector("a", "1", 2, "10"))));
        assert!(!take(Event::Apply(connector("a", "1", 1, "9"))), "an older state");
        assert!(!take(Event::Apply(connector("a", "1", 2, "11"))), "only its status");
        assert!(take(Event::Apply(connector("a", "1", 3, "12"))));
        assert!(take(Event::Apply(connector("a", "7", 1, "13"))), "created again");
        assert!(!take(Event::Delete(connector("a", "1", 3, "12"))), "the end of the first");
        assert!(take(Event::Apply(connector("b", "8", 1, "14"))));
        assert!(take(Event::Delete(connector("a", "7", 1, "15"))));
        assert!(take(Event::Apply(connector("b", "8", 2, "16"))), "found where it moved to");
        assert_eq!(names(&list), ["b 8"]);
    }
}
