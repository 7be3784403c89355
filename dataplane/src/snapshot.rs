//! What the data plane knows at one moment: immutable, replaced whole, looked up in O(1).
//!
//! The control plane [`Publisher::publish`]es; each core holds one [`Reader`]. Seam 1 of the two
//! planes: one way, the latest wins, no reader ever waits for a writer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};

use crate::courtesy::{cores_first, let_go};
use crate::pool::Key;
use crate::vocabulary::{Connector, ConnectorRef, Origin};

/// Everything a request can be routed by.
#[derive(Debug, Default)]
pub struct Snapshot {
    connectors: HashMap<ConnectorRef, Served>,
    rights: u64,
    number: u64,
}

/// A connector that requests can be served by, with what is worked out once for all of them.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The connector.
    pub(crate) connector: Arc<Connector>,
    /// The account that it is at its registry.
    pub(crate) account: Arc<Key>,
    /// Its names, here and there.
    pub(crate) names: Arc<Names>,
}

/// By what a registry and its callers know the same places. It holds no credential, so that an
/// answer can be rewritten by it however long its body takes.
#[derive(Debug)]
pub(crate) struct Names {
    /// `/namespaces/<namespace>/connectors/<name>`.
    pub(crate) prefix: Box<str>,
    /// The value of `Host` for the registry.
    pub(crate) authority: Box<str>,
    /// See [`Connector::origin`].
    pub(crate) origin: Origin,
    /// See [`Connector::aliases`].
    pub(crate) aliases: Vec<Origin>,
    /// See [`Connector::base_path`].
    pub(crate) base_path: Box<str>,
}

impl Names {
    /// Whether the registry is at `origin`: by its address, or by one of the others.
    pub(crate) fn are_of(&self, origin: &Origin) -> bool {
        self.origin == *origin || self.aliases.contains(origin)
    }
}

impl Served {
    /// What there is to know of `connector`.
    pub(crate) fn of(connector: Connector) -> Self {
        let account = Arc::new(Key::of(&connector));
        let (namespace, name) = (connector.reference.namespace(), connector.reference.name());
        let names = Arc::new(Names {
            prefix: ["/namespaces/", namespace, "/connectors/", name].concat().into(),
            authority: connector.origin.authority().into(),
            origin: connector.origin.clone(),
            aliases: connector.aliases.clone(),
            base_path: connector.base_path.clone(),
        });
        Self { connector: Arc::new(connector), account, names }
    }
}

impl Snapshot {
    /// A snapshot of these connectors. `rights` is a number that differs from the previous
    /// snapshot's whenever the answer to "may this token use this connector" may differ for a
    /// reason the snapshot itself does not show: verdicts remembered under another number are
    /// asked again. A source whose rights are reviewed elsewhere (the cluster's) keeps it constant.
    pub fn new(connectors: impl IntoIterator<Item = Connector>, rights: u64) -> Self {
        let entry = |connector: Connector| {
            cores_first();
            (connector.reference.clone(), Served::of(connector))
        };
        let connectors = connectors.into_iter().map(entry).collect();
        Self { connectors, rights, number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    /// The connector of that name, if there is one.
    pub fn connector(&self, reference: &ConnectorRef) -> Option<&Arc<Connector>> {
        self.connectors.get(reference).map(|served| &served.connector)
    }

    /// The same with what goes with it.
    pub(crate) fn served(&self, reference: &ConnectorRef) -> Option<&Served> {
        self.connectors.get(reference)
    }

    /// Tells this snapshot from every other: what was looked up under the same number need not be
    /// looked up again. 0 only where there is no connector.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The first of `listed` whose registry is at `origin`: by its address or one of the others.
    pub fn serving<'a>(
        &self,
        listed: &'a [ConnectorRef],
        origin: &Origin,
    ) -> Option<&'a ConnectorRef> {
        listed.iter().find(|reference| {
            self.served(reference).is_some_and(|served| served.names.are_of(origin))
        })
    }

    /// All connectors, in no order.
    pub fn connectors(&self) -> impl Iterator<Item = &Arc<Connector>> {
        self.connectors.values().map(|served| &served.connector)
    }

    /// How many connectors there are.
    pub fn len(&self) -> usize {
        self.connectors.len()
    }

    /// Whether there is no connector at all.
    pub fn is_empty(&self) -> bool {
        self.connectors.is_empty()
    }

    /// Under which rights verdicts were given; see [`Snapshot::new`].
    pub fn rights(&self) -> u64 {
        self.rights
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let_go(self.connectors.drain());
    }
}

/// See [`Snapshot::number`].
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// The writing end: one per process, shared by reference.
#[derive(Clone, Debug, Default)]
pub struct Publisher(Arc<ArcSwap<Snapshot>>);

impl Publisher {
    /// A publisher whose current snapshot is empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the snapshot for every reader; bodies in flight keep what they started with.
    ///
    /// What it replaces is freed by a thread of its own once every reader has looked: freeing ten
    /// thousand connectors takes milliseconds, which no core has.
    pub fn publish(&self, snapshot: Snapshot) {
        let old = self.0.swap(Arc::new(snapshot));
        let reaper = thread::Builder::new().name("reaper".to_owned());
        // Where there is no thread to be had the last reader frees it.
        let _ = reaper.spawn(move || reap(old));
    }

    /// The current snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// A reading end for one core.
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.0)))
    }
}

/// Frees `old` as soon as nobody else holds it.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, not a core: it may sleep")]
fn reap(old: Arc<Snapshot>) {
    for _ in 0..REAPER_LOOKS_MAX {
        if Arc::strong_count(&old) == 1 {
            break;
        }
        thread::sleep(REAPER_PAUSE);
    }
}

/// Cores look twice a second.
const REAPER_PAUSE: Duration = Duration::from_millis(20);
/// For a reader that is kept and never used.
const REAPER_LOOKS_MAX: usize = 500;

/// The reading end of one core. It holds on to a snapshot until it next looks, so the core looks
/// on a slow tick as well: a revoked password must not live on in an idle core.
#[derive(Clone, Debug)]
pub struct Reader(Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

impl Reader {
    /// The newest snapshot; one pointer comparison when nothing changed.
    pub fn current(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_reader_lets_the_old_snapshot_go_when_it_looks() {
        let publisher = Publisher::new();
        let mut reader = publisher.reader();
        let old = Arc::downgrade(reader.current());
        publisher.publish(Snapshot::new([], 1));
        assert_eq!(old.strong_count(), 2, "the reader's, and that of whoever is to free it");
        assert_eq!(reader.current().rights(), 1);
        let asked = Instant::now();
        while old.strong_count() > 0 {
            assert!(asked.elapsed() < Duration::from_secs(5), "the old snapshot is still there");
            thread::yield_now();
        }
    }
}
