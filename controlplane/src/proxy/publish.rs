//! A change of the source becomes what the data plane and the review work with.
//!
//! Texts in; out go a table for the review, a snapshot for the cores, facts for the probes, and a
//! line in the log for each problem. What cannot be read changes nothing: the last good state stays
//! in force.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::vocabulary::Trust;
use tokio::sync::watch;

use crate::admin::Status;
use crate::bridge::SharedTable;
use crate::compile::{compile, system_trust};
use crate::probe::facts::{self, Facts};
use crate::source::Objects;
use crate::source::file::Texts;
use crate::source::manifest::Unreadable;

/// Where compiled objects go.
pub(super) struct Publication {
    snapshots: Publisher,
    table: SharedTable,
    facts: watch::Sender<Arc<Facts>>,
    status: Arc<Status>,
    system: Arc<Trust>,
    rights: u64,
    /// The problems that the log has been told of, where the same come again and again.
    told: HashSet<String>,
}

impl Publication {
    /// A publication of nothing yet.
    pub(super) fn new(status: Arc<Status>) -> Self {
        let system = Arc::new(system_trust());
        let snapshots = Publisher::new();
        Self {
            snapshots,
            table: SharedTable::default(),
            facts: watch::Sender::default(),
            status,
            system,
            rights: 0,
            told: HashSet::new(),
        }
    }

    /// Where snapshots appear.
    pub(super) fn snapshots(&self) -> Publisher {
        self.snapshots.clone()
    }

    /// Where the newest table is.
    pub(super) fn table(&self) -> SharedTable {
        Arc::clone(&self.table)
    }

    /// What is known of the connectors of a cluster, and every change of it.
    pub(super) fn facts(&self) -> watch::Receiver<Arc<Facts>> {
        self.facts.subscribe()
    }

    /// Publishes what the texts say. Whether they could be read.
    pub(super) fn update(&mut self, texts: Result<&Texts, &Unreadable>) -> bool {
        let texts = match texts {
            Ok(texts) => texts,
            Err(reason) => return self.keep([reason]),
        };
        // A defect that some manifest brings to light must not end the thread that would take the
        // next, mended one.
        let read = || texts.objects().map(|objects| compile(&objects, &self.system));
        let compiled = match catch_unwind(AssertUnwindSafe(read)) {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(reasons)) => return self.keep(&reasons),
            Err(_) => return self.keep([]),
        };
        for problem in &compiled.problems {
            tracing::warn!("{problem}");
        }
        let (connectors, problems) = (compiled.connectors.len(), compiled.problems.len());
        self.rights += 1;
        // The table first: a core that sees the new number asks again, and must not be answered
        // from the old table under it.
        self.table.store(Arc::new(compiled.table));
        self.snapshots.publish(Snapshot::new(compiled.connectors, self.rights));
        self.status.published(connectors, problems);
        tracing::info!(connectors, problems, generation = self.rights, "published");
        true
    }

    /// Publishes what a cluster holds. Its rights are reviewed elsewhere, so their number stays;
    /// only problems that are new are logged. A defect that an object brings to light keeps the
    /// last good state.
    pub(super) fn follow(&mut self, objects: &Objects) {
        let compiled = catch_unwind(AssertUnwindSafe(|| compile(objects, &self.system)));
        let Ok(compiled) = compiled else {
            self.keep([]);
            return;
        };
        let problems: HashSet<String> = compiled.problems.iter().map(ToString::to_string).collect();
        for problem in problems.difference(&self.told) {
            tracing::warn!("{problem}");
        }
        self.told = problems;
        let (connectors, problems) = (compiled.connectors.len(), compiled.problems.len());
        let snapshot = Snapshot::new(compiled.connectors, 0);
        let facts = facts::facts(objects, &snapshot, &compiled.problems);
        // The snapshot first: a credential is tried only while the snapshot has it.
        self.snapshots.publish(snapshot);
        self.facts.send_replace(Arc::new(facts));
        self.status.published(connectors, problems);
        tracing::debug!(connectors, problems, "published");
    }

    fn keep<'a>(&self, reasons: impl IntoIterator<Item = &'a Unreadable>) -> bool {
        for reason in reasons {
            tracing::error!("{reason}");
        }
        if self.rights > 0 {
            tracing::error!("the last good state stays in force until this is mended");
        }
        self.status.broke();
        false
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dataplane::vocabulary::ConnectorRef;

    use super::*;
    use crate::source::file::Folder;

    const CONNECTOR: &str = "{apiVersion: connectors.alauda.io/v1alpha1, kind: Connector, \
         metadata: {name: h}, spec: {connectorClassName: harbor, address: 'https://h.example'}}";

    #[test]
    fn a_broken_edit_keeps_the_last_good_state_until_it_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        let folder = Folder::new(directory.path());
        let mut publication = Publication::new(Arc::default());
        let mut take = |text: &str| {
            fs::write(&file, text).unwrap();
            let readable = publication.update(folder.texts().as_ref());
            let snapshot = publication.snapshots().current();
            let found = snapshot.connector(&ConnectorRef::new("default", "h"));
            (readable, found.map(|found| found.origin.to_string()), snapshot.rights())
        };
        let address = Some("https://h.example".to_owned());
        assert_eq!(take(CONNECTOR), (true, address.clone(), 1));
        assert_eq!(take("kind: ["), (false, address.clone(), 1));
        assert_eq!(take(&CONNECTOR.replace("h.example", "new.example")).2, 2);
        assert_eq!(take(""), (true, None, 3));
    }
}
