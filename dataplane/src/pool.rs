//! Idle connections to registries: which may be used again, and for how long.
//!
//! Pure policy, one pool per core: no socket is touched here and time is an argument. A key holds
//! everything that makes a connection somebody's: a connection that carried one connector's
//! credential is never used for another connector, nor for another version of the same Secret.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hashed::HashedMap;
use crate::vocabulary::{Access, Connector, ConnectorRef, Origin};

/// Whose connection it is, and whose login: a connector as its registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Of all that follows, worked out once: a key is looked up with every request.
    hash: u64,
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
    pub fn of(connector: &Connector) -> Self {
        let version = match &connector.access {
            Access::Credential(credential) => credential.version.clone(),
            Access::Anonymous | Access::Unready(_) => Box::default(),
        };
        Self {
            hash: 0,
            reference: connector.reference.clone(),
            uid: connector.uid.clone(),
            version,
            origin: connector.origin.clone(),
            trust: connector.trust.id,
            purpose: Purpose::Registry,
        }
        .hashed()
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
        .hashed()
    }

    fn hashed(mut self) -> Self {
        // Without a secret: what goes in is the operator's, and no caller's.
        let mut hasher = DefaultHasher::new();
        let Self { hash: _, reference, uid, version, origin, trust, purpose } = &self;
        (reference, uid, version, origin, trust, purpose).hash(&mut hasher);
        self.hash = hasher.finish();
        self
    }

    /// Whether what this key stands for may still serve `connector`, whose own key is `account`.
    pub(crate) fn may_serve(&self, connector: &Connector, account: &Self) -> bool {
        match self.purpose {
            Purpose::Registry => self == account,
            Purpose::Storage => *self == Self::of_storage(connector, &self.origin),
        }
    }

    /// The connector it belongs to.
    pub fn reference(&self) -> &ConnectorRef {
        &self.reference
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Idle connections of one core, the most recently used first.
pub(crate) struct Pool<T> {
    idle: HashedMap<Arc<Key>, Vec<(T, Instant)>>,
    age_max: Duration,
    per_key_max: usize,
}

impl<T> Pool<T> {
    /// A pool that keeps at most `per_key_max` connections a key, each at most `age_max` unused.
    pub(crate) fn new(age_max: Duration, per_key_max: usize) -> Self {
        Self { idle: HashedMap::default(), age_max, per_key_max }
    }

    /// The connection that was used last under `key`, unless it has been unused for too long.
    pub(crate) fn take(&mut self, key: &Arc<Key>, now: Instant) -> Option<T> {
        let (connection, since) = self.idle.get_mut(key)?.pop()?;
        (now.duration_since(since) < self.age_max).then_some(connection)
    }

    /// Keeps `connection` for the next request under `key`; one too many is dropped.
    pub(crate) fn put(&mut self, key: Arc<Key>, connection: T, now: Instant) {
        let connections = self.idle.entry(key).or_default();
        if connections.len() < self.per_key_max {
            connections.push((connection, now));
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
        self.idle.retain(|key, connections| {
            let lives = is_live(key);
            connections.retain(|(item, since)| {
                lives && now.duration_since(*since) < age_max && is_good(item)
            });
            !connections.is_empty()
        });
    }

    /// How many connections are idle.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.idle.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{ListedHost, Scheme};

    fn key(version: &str) -> Arc<Key> {
        let origin = Origin { scheme: Scheme::Http, host: "harbor".into(), port: 80 };
        let reference = ConnectorRef::new("ci", "harbor");
        let (uid, version) = ("u".into(), version.into());
        let purpose = Purpose::Registry;
        Arc::new(Key { hash: 0, reference, uid, version, origin, trust: 1, purpose }.hashed())
    }

    #[test]
    fn the_last_used_connection_is_used_first_and_no_other_versions() {
        let now = Instant::now();
        let mut pool = Pool::new(Duration::from_secs(30), 8);
        pool.put(key("1"), "older", now);
        pool.put(key("1"), "newer", now);
        assert_eq!(pool.take(&key("2"), now), None, "another Secret version has its own");
        assert_eq!(pool.take(&key("1"), now), Some("newer"));
        assert_eq!(pool.take(&key("1"), now), Some("older"));
        assert_eq!(pool.take(&key("1"), now), None);
    }

    #[test]
    fn a_storages_connection_is_never_the_registrys_and_goes_with_the_list_of_hosts() {
        let mut connector = crate::fuzzing::connector(ConnectorRef::new("ci", "harbor"));
        let registry = Key::of(&connector);
        let storage = Key::of_storage(&connector, &connector.origin);
        assert_ne!(registry, storage, "even where both are at one address");
        let serve =
            |key: &Key, connector: &Connector| key.may_serve(connector, &Key::of(connector));
        assert!(serve(&registry, &connector) && serve(&storage, &connector));
        let host = ListedHost { host: "minio".into(), port: None };
        connector.redirects.hosts.push(host);
        assert!(serve(&registry, &connector) && !serve(&storage, &connector));
    }

    #[test]
    fn what_is_too_old_or_too_much_or_not_live_is_dropped() {
        let start = Instant::now();
        let mut pool = Pool::new(Duration::from_secs(30), 2);
        for connection in 0..3 {
            pool.put(key("1"), connection, start);
        }
        assert_eq!(pool.len(), 2, "one too many");
        assert_eq!(pool.take(&key("1"), start + Duration::from_secs(30)), None, "too old");
        pool.put(key("2"), 9, start + Duration::from_secs(20));
        pool.expire(start + Duration::from_secs(31), |_| true, |_| true);
        assert_eq!(pool.len(), 1, "the old ones are gone");
        pool.put(key("3"), 7, start + Duration::from_secs(20));
        pool.expire(start + Duration::from_secs(31), |key| *key.version != *"2", |item| *item != 7);
        assert_eq!(pool.len(), 0, "a retired key and a dead connection are gone");
    }
}
