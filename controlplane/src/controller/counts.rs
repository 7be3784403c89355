//! What the controller counts, and how it is shown.
//!
//! Numbers in, OpenMetrics out. Labels come from closed sets, never from input.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::admin::Page;

/// The numbers.
#[derive(Debug, Default)]
pub struct Counts {
    /// Whether this replica acts.
    pub acts: AtomicU64,
    /// Writes by what was written, in the order of [`Object::ALL`].
    writes: [AtomicU64; Object::ALL.len()],
    /// Writes that failed or were refused.
    pub failures: AtomicU64,
    /// Connectors that wait to be looked at.
    pub waiting: AtomicU64,
    /// Connectors by the status of `Ready`: True, False, Unknown.
    pub ready: [AtomicU64; 3],
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub enum Object {
    /// A connector's Service.
    Service,
    /// A connector's label.
    Label,
    /// A status.
    Status,
    /// An Event.
    Event,
}

impl Object {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Service, "service"),
        (Self::Label, "label"),
        (Self::Status, "status"),
        (Self::Event, "event"),
    ];
}

impl Counts {
    /// A write of `object` was sent.
    pub fn wrote(&self, object: Object) {
        if let Some(count) = self.writes.get(object as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The numbers as the admin address shows them.
#[derive(Debug)]
pub struct Shown(pub Arc<Counts>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(&mut encoder);
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let Counts { acts, writes, failures, waiting, ready } = &*self.0;
        page.gauge("controller_acts", "Whether this replica holds the Lease", read(acts))?;
        page.gauge("controller_waiting", "Connectors to be looked at", read(waiting))?;
        let rows = ["True", "False", "Unknown"].into_iter().zip(ready);
        page.gauges(
            "controller_connectors",
            "Connectors by the status of Ready",
            rows.map(|(status, count)| ([("ready", status)], read(count))),
        )?;
        let rows = Object::ALL.iter().zip(writes);
        page.counters(
            "controller_writes",
            "Writes to the API server",
            rows.map(|((_, name), count)| ([("object", *name)], read(count))),
        )?;
        page.counter("controller_failures", "Writes that did not succeed", read(failures))
    }
}
