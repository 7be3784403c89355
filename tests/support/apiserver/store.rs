//! What the stand-in holds: objects, one growing number, and the changes that watches read.
//!
//! Objects in and out as JSON. Every write takes the next resourceVersion, as etcd's revision does;
//! changes before a compaction are gone, and whoever asks for them gets 410 (Kubernetes API
//! Concepts, "410 Gone responses").

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};

use super::resources::Resource;

/// Which object: plural with group, namespace, name.
pub(super) type Key = (String, String, String);

/// One write.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    /// The last resourceVersion given.
    pub(super) version: u64,
    /// Changes up to this one are forgotten.
    pub(super) compacted: u64,
    objects: BTreeMap<Key, Value>,
    changes: VecDeque<Change>,
    uids: u64,
}

impl Store {
    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    /// The objects of a resource, in one namespace or in all, in the order of their names.
    pub(super) fn list<'a>(
        &'a self,
        resource: &str,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        let first = (resource.to_owned(), String::new(), String::new());
        let resource = resource.to_owned();
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.0 == resource)
            .filter(move |(key, _)| namespace.is_empty() || key.1 == namespace)
    }

    /// Stores a new object: the fields that the server fills in are filled in.
    pub(super) fn create(&mut self, resource: &Resource, key: Key, mut object: Value) -> Value {
        self.uids += 1;
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", self.version + 1, self.uids);
        let metadata = metadata(&mut object);
        metadata.insert("uid".into(), uid.into());
        metadata.insert("creationTimestamp".into(), now().into());
        if resource.definition.is_some() {
            metadata.insert("generation".into(), 1.into());
        }
        if resource.namespaced {
            metadata.insert("namespace".into(), key.1.clone().into());
        }
        self.write("ADDED", key, object)
    }

    /// Stores another content of an object, unless nothing differs: then nothing is written.
    pub(super) fn replace(&mut self, resource: &Resource, key: Key, mut object: Value) -> Value {
        let Some(old) = self.objects.get(&key) else {
            return self.write("ADDED", key, object);
        };
        let kept = old["metadata"].clone();
        let metadata = metadata(&mut object);
        for field in ["uid", "creationTimestamp", "generation", "resourceVersion", "namespace"] {
            match kept.get(field) {
                Some(value) => metadata.insert(field.into(), value.clone()),
                None => metadata.remove(field),
            };
        }
        // What differs in nothing is not written, so that a repeated apply makes no event.
        if *old == object {
            return object;
        }
        if resource.definition.is_some() && old.get("spec") != object.get("spec") {
            let generation = kept["generation"].as_u64().unwrap_or(1) + 1;
            self::metadata(&mut object).insert("generation".into(), generation.into());
        }
        self.write("MODIFIED", key, object)
    }

    /// Removes an object; what its last state was.
    pub(super) fn delete(&mut self, key: &Key) -> Option<Value> {
        let mut object = self.objects.remove(key)?;
        self.version += 1;
        metadata(&mut object).insert("resourceVersion".into(), self.version.to_string().into());
        self.log("DELETED", key.clone(), object.clone());
        Some(object)
    }

    /// Forgets all changes so far.
    pub(super) fn compact(&mut self) {
        // A write of nobody's, so that even a watch that has seen everything is too old.
        self.version += 1;
        self.compacted = self.version;
        self.changes.clear();
    }

    /// The changes after `version`, or nothing if some of them are forgotten.
    pub(super) fn since(&self, version: u64) -> Option<Vec<&Change>> {
        let start = self.changes.partition_point(|change| change.version <= version);
        (version >= self.compacted).then(|| self.changes.range(start..).collect())
    }

    fn write(&mut self, kind: &'static str, key: Key, mut object: Value) -> Value {
        self.version += 1;
        metadata(&mut object).insert("resourceVersion".into(), self.version.to_string().into());
        self.objects.insert(key.clone(), object.clone());
        self.log(kind, key, object.clone());
        object
    }

    fn log(&mut self, kind: &'static str, key: Key, object: Value) {
        self.changes.push_back(Change { version: self.version, key, kind, object });
        if self.changes.len() > CHANGES_MAX
            && let Some(forgotten) = self.changes.pop_front()
        {
            self.compacted = forgotten.version;
        }
    }
}

/// The metadata of an object, made if it has none.
pub(super) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("an object")
}

/// The time in the form of `metav1.Time`: RFC 3339 in whole seconds.
pub(super) fn now() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or_default());
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date of the proleptic Gregorian calendar, eras of 400 years from March on.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + late;
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// What etcd compacts after minutes, a busy story compacts after this many writes.
const CHANGES_MAX: usize = 50_000;
