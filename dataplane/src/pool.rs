//! Idle connections to registries: which may be used again, and for how long.
//!
//! Pure policy, one pool per core: no socket is touched here and time is an argument. A key holds
//! everything that makes a connection somebody's: a connection that carried one connector's
//! credential is never used for another connector, nor for another version of the same Secret.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hashed::HashedMap;
use crate::limits::Limits;
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
    /// Those of a key in the order in which they were last used.
    idle: HashedMap<Arc<Key>, Vec<(T, Instant)>>,
    rules: Rules,
}

/// How long connections are kept unused.
///
/// Few stay for as long as their registry allows. A burst needs more of them, and needs them again
/// at once: each that is closed after one of its requests is dialled for the next.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// How long the last used ones of a key may stay …
    pub(crate) age_max: Duration,
    /// … and how many they are.
    pub(crate) kept_max: usize,
    /// How long the others may stay …
    pub(crate) surplus_age_max: Duration,
    /// … and how many all of a key may be: what is closed at one time keeps its core busy.
    pub(crate) most: usize,
}

impl Rules {
    /// Those that `limits` name.
    pub(crate) fn of(limits: &Limits) -> Self {
        Self {
            age_max: limits.idle_registry_wait,
            kept_max: limits.idle_registry_max,
            surplus_age_max: limits.surplus_registry_wait,
            most: limits.burst_registry_max,
        }
    }
}

impl<T> Pool<T> {
    /// An empty pool.
    pub(crate) fn new(rules: Rules) -> Self {
        Self { idle: HashedMap::default(), rules }
    }

    /// The connection that was used last under `key`, unless it has been unused for too long.
    pub(crate) fn take(&mut self, key: &Arc<Key>, now: Instant) -> Option<T> {
        let (connection, since) = self.idle.get_mut(key)?.pop()?;
        (now.duration_since(since) < self.rules.age_max).then_some(connection)
    }

    /// Keeps `connection`, used until `now`, for the next request under `key`; one too many is
    /// dropped.
    pub(crate) fn put(&mut self, key: Arc<Key>, connection: T, now: Instant) {
        let connections = self.idle.entry(key).or_default();
        if connections.len() < self.rules.most {
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
        let Rules { age_max, kept_max, surplus_age_max, .. } = self.rules;
        self.idle.retain(|key, connections| {
            let lives = is_live(key);
            let mut surplus = connections.len().saturating_sub(kept_max);
            connections.retain(|(item, since)| {
                let age_max = if surplus > 0 { surplus_age_max } else { age_max };
                surplus = surplus.saturating_sub(1);
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

    const RULES: Rules = Rules {
        age_max: Duration::from_secs(30),
        kept_max: 2,
        surplus_age_max: Duration::from_secs(5),
        most: 64,
    };

    #[test]
    fn the_last_used_connection_is_used_first_and_no_other_versions() {
        let now = Instant::now();
        let mut pool = Pool::new(RULES);
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
    fn what_is_too_old_or_dead_or_of_a_retired_key_is_dropped() {
        let start = Instant::now();
        let mut pool = Pool::new(RULES);
        pool.put(key("1"), 0, start);
        pool.put(key("1"), 1, start);
        assert_eq!(pool.take(&key("1"), start + Duration::from_secs(30)), None, "too old");
        pool.put(key("2"), 9, start + Duration::from_secs(20));
        pool.expire(start + Duration::from_secs(31), |_| true, |_| true);
        assert_eq!(pool.len(), 1, "the old ones are gone");
        pool.put(key("3"), 7, start + Duration::from_secs(20));
        pool.expire(start + Duration::from_secs(31), |key| *key.version != *"2", |item| *item != 7);
        assert_eq!(pool.len(), 0, "a retired key and a dead connection are gone");
    }

    #[test]
    fn a_burst_finds_its_connections_again_and_few_outlive_it() {
        let start = Instant::now();
        let mut pool = Pool::new(RULES);
        let burst = |pool: &mut Pool<u32>, now| {
            for connection in 0..=64 {
                pool.put(key("1"), connection, now);
            }
        };
        burst(&mut pool, start);
        assert_eq!(pool.len(), 64, "one too many");
        pool.expire(start + Duration::from_secs(4), |_| true, |_| true);
        let again = start + Duration::from_secs(4);
        assert!((0..64).all(|_| pool.take(&key("1"), again).is_some()), "none is dialled again");
        burst(&mut pool, again);
        pool.expire(again + Duration::from_secs(5), |_| true, |_| true);
        let later = again + Duration::from_secs(5);
        let left: Vec<_> = std::iter::from_fn(|| pool.take(&key("1"), later)).collect();
        assert_eq!(left, [63, 62], "the last used ones");
    }
}
