//! Idle connections to registries: which may be used again, and for how long.
//!
//! Pure policy, one pool per core: no socket is touched here and time is an argument. A key holds
//! everything that makes a connection somebody's: a connection that carried one connector's
//! credential is never used for another connector, nor for another version of the same Secret.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::vocabulary::{Access, Connector, ConnectorRef, Origin};

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    reference: ConnectorRef,
    uid: Box<str>,
    version: Box<str>,
    origin: Origin,
    trust: u64,
    purpose: Purpose,
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Purpose {
    /// Requests to the registry, which carry the connector's credential.
    Registry,
    /// What the registry redirects to, where nothing of the connector is ever sent.
    Storage,
}

impl Key {
    /// The key of connections that serve `connector` as it is now.
    pub(crate) fn of(connector: &Connector) -> Self {
        let version = match &connector.access {
            Access::Credential(credential) => credential.version.clone(),
            Access::Anonymous | Access::Unready(_) => Box::default(),
        };
        Self {
            reference: connector.reference.clone(),
            uid: connector.uid.clone(),
            version,
            origin: connector.origin.clone(),
            trust: connector.trust.id,
            purpose: Purpose::Registry,
        }
    }

    /// The key of connections to a storage at `origin` that the registry of `connector` redirects
    /// to. Which addresses may be dialled depends on the hosts listed: they are its version.
    pub(crate) fn of_storage(connector: &Connector, origin: &Origin) -> Self {
        let mut version = String::new();
        for listed in &connector.redirects.hosts {
            version.push_str(&listed.host);
            version.push_str(&listed.port.map_or(String::new(), |port| format!("@{port}")));
            version.push(',');
        }
        Self {
            version: version.into_boxed_str(),
            origin: origin.clone(),
            purpose: Purpose::Storage,
            ..Self::of(connector)
        }
    }

    /// Whether a connection under this key may serve `connector` as it is now.
    pub(crate) fn may_serve(&self, connector: &Connector) -> bool {
        match self.purpose {
            Purpose::Registry => self.is_of(connector),
            Purpose::Storage => *self == Self::of_storage(connector, &self.origin),
        }
    }

    /// Whether it is the key of connections to the registry of `connector` as it is now.
    pub(crate) fn is_of(&self, connector: &Connector) -> bool {
        // All fields by name: one that is added must be compared too.
        let Self { reference, uid, version, origin, trust, purpose } = self;
        let same_version = match &connector.access {
            Access::Credential(credential) => *version == credential.version,
            Access::Anonymous | Access::Unready(_) => version.is_empty(),
        };
        same_version
            && *purpose == Purpose::Registry
            && *reference == connector.reference
            && *uid == connector.uid
            && *origin == connector.origin
            && *trust == connector.trust.id
    }

    /// The connector it belongs to.
    pub(crate) fn reference(&self) -> &ConnectorRef {
        &self.reference
    }
}

/// Idle connections of one core, the most recently used first.
pub(crate) struct Pool<T> {
    /// By name, because that is looked up without a copy of anything; under a name there is one
    /// key, two for a moment after the connector has changed, and one for each storage.
    idle: HashMap<ConnectorRef, Vec<Idle<T>>>,
    age_max: Duration,
    per_key_max: usize,
}

struct Idle<T> {
    key: Arc<Key>,
    connections: Vec<(T, Instant)>,
}

impl<T> Pool<T> {
    /// A pool that keeps at most `per_key_max` connections a key, each at most `age_max` unused.
    pub(crate) fn new(age_max: Duration, per_key_max: usize) -> Self {
        Self { idle: HashMap::new(), age_max, per_key_max }
    }

    /// The connection that was used last under the key of `reference` that is `wanted`, unless it
    /// has been unused for too long.
    pub(crate) fn take(
        &mut self,
        reference: &ConnectorRef,
        wanted: impl Fn(&Key) -> bool,
        now: Instant,
    ) -> Option<(T, Arc<Key>)> {
        let mut keys = self.idle.get_mut(reference)?.iter_mut();
        let Idle { key, connections } = keys.find(|idle| wanted(&idle.key))?;
        let (connection, since) = connections.pop()?;
        (now.duration_since(since) < self.age_max).then(|| (connection, Arc::clone(key)))
    }

    /// Keeps `connection` for the next request under `key`; one too many is dropped.
    pub(crate) fn put(&mut self, key: Arc<Key>, connection: T, now: Instant) {
        let keys = match self.idle.get_mut(&key.reference) {
            Some(keys) => keys,
            None => self.idle.entry(key.reference.clone()).or_default(),
        };
        let same = |idle: &&mut Idle<T>| Arc::ptr_eq(&idle.key, &key) || idle.key == key;
        match keys.iter_mut().find(same) {
            Some(idle) if idle.connections.len() >= self.per_key_max => {}
            Some(idle) => idle.connections.push((connection, now)),
            None => keys.push(Idle { key, connections: vec![(connection, now)] }),
        }
    }

    /// Drops what has been unused for too long, what `is_good` finds dead, and everything whose key
    /// `is_live` denies.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        is_live: impl Fn(&Key) -> bool,
        is_good: impl Fn(&T) -> bool,
    ) {
        let age_max = self.age_max;
        self.idle.retain(|_, keys| {
            keys.retain_mut(|Idle { key, connections }| {
                let lives = is_live(key);
                connections.retain(|(item, since)| {
                    lives && now.duration_since(*since) < age_max && is_good(item)
                });
                !connections.is_empty()
            });
            !keys.is_empty()
        });
    }

    /// How many connections are idle.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.idle.values().flatten().map(|idle| idle.connections.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{RedirectHost, Scheme};

    fn key(version: &str) -> Arc<Key> {
        let origin = Origin { scheme: Scheme::Http, host: "harbor".into(), port: 80 };
        let reference = ConnectorRef::new("ci", "harbor");
        let (uid, version) = ("u".into(), version.into());
        Arc::new(Key { reference, uid, version, origin, trust: 1, purpose: Purpose::Registry })
    }

    fn take<T>(pool: &mut Pool<T>, key: &Key, now: Instant) -> Option<T> {
        pool.take(&key.reference, |known| known == key, now).map(|(connection, _)| connection)
    }

    #[test]
    fn the_last_used_connection_is_used_first_and_no_other_versions() {
        let now = Instant::now();
        let mut pool = Pool::new(Duration::from_secs(30), 8);
        pool.put(key("1"), "older", now);
        pool.put(key("1"), "newer", now);
        assert_eq!(take(&mut pool, &key("2"), now), None, "another Secret version has its own");
        assert_eq!(take(&mut pool, &key("1"), now), Some("newer"));
        assert_eq!(take(&mut pool, &key("1"), now), Some("older"));
        assert_eq!(take(&mut pool, &key("1"), now), None);
    }

    #[test]
    fn a_storages_connection_is_never_the_registrys_and_goes_with_the_list_of_hosts() {
        let mut connector = crate::fuzzing::connector(ConnectorRef::new("ci", "harbor"));
        let registry = Key::of(&connector);
        let storage = Key::of_storage(&connector, &connector.origin);
        assert_ne!(registry, storage, "even where both are at one address");
        assert!(registry.may_serve(&connector) && storage.may_serve(&connector));
        let host = RedirectHost { host: "minio".into(), port: None };
        connector.redirects.hosts.push(host);
        assert!(registry.may_serve(&connector) && !storage.may_serve(&connector));
    }

    #[test]
    fn what_is_too_old_or_too_much_or_not_live_is_dropped() {
        let start = Instant::now();
        let mut pool = Pool::new(Duration::from_secs(30), 2);
        for connection in 0..3 {
            pool.put(key("1"), connection, start);
        }
        assert_eq!(pool.len(), 2, "one too many");
        assert_eq!(take(&mut pool, &key("1"), start + Duration::from_secs(30)), None, "too old");
        pool.put(key("2"), 9, start + Duration::from_secs(20));
        pool.expire(start + Duration::from_secs(31), |_| true, |_| true);
        assert_eq!(pool.len(), 1, "the old ones are gone");
        pool.put(key("3"), 7, start + Duration::from_secs(20));
        pool.expire(start + Duration::from_secs(31), |key| *key.version != *"2", |item| *item != 7);
        assert_eq!(pool.len(), 0, "a retired key and a dead connection are gone");
    }
}
