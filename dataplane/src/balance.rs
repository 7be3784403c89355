//! Spreading work over the cores: who is counted where, and who moves.
//!
//! A connection stays on the core that accepted it, and small requests with it. A long transfer is
//! different: two of them on one core halve each other while another core idles. So a new
//! connection goes to the core with the fewest long transfers, and a request that begins a long
//! transfer takes its whole connection along to a core that has fewer. Only shared counters are
//! read here; nobody waits.

use std::sync::Arc;

use crate::counters::Counters;

/// One connection, counted on a core for as long as this lives.
pub(crate) struct Place(Arc<Counters>);

impl Place {
    /// Counts a connection on the core of `counters`.
    pub(crate) fn take(counters: &Arc<Counters>) -> Self {
        counters.connections.up();
        Self(Arc::clone(counters))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.down();
    }
}

/// One long transfer, counted on a core for as long as this lives.
pub(crate) struct Transfer(Arc<Counters>);

impl Transfer {
    /// Counts a long transfer on the core of `counters`.
    pub(crate) fn start(counters: &Arc<Counters>) -> Self {
        counters.transfers.up();
        Self(Arc::clone(counters))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.transfers.down();
    }
}

/// The core a new connection goes to: fewest long transfers, then fewest connections.
pub(crate) fn for_connection(cores: &[Arc<Counters>]) -> usize {
    cores
        .iter()
        .enumerate()
        .min_by_key(|(_, core)| (core.transfers.get(), core.connections.get()))
        .map_or(0, |(index, _)| index)
}

/// Where a long transfer that would begin on core `here` should go instead, already counted there;
/// `None` when no core has fewer.
pub(crate) fn elsewhere(cores: &[Arc<Counters>], here: usize) -> Option<(usize, Transfer)> {
    let own = cores.get(here)?.transfers.get();
    let (index, core, seen) = cores
        .iter()
        .enumerate()
        .map(|(index, core)| (index, core, core.transfers.get()))
        .min_by_key(|(_, _, transfers)| *transfers)?;
    // A claim that fails was lost to another transfer: then this one may as well stay.
    (seen < own && core.transfers.claim(seen)).then(|| (index, Transfer(Arc::clone(core))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(count: usize) -> Vec<Arc<Counters>> {
        (0..count).map(|_| Arc::default()).collect()
    }

    #[test]
    fn a_connection_goes_where_no_long_transfer_runs() {
        let cores = cores(2);
        let _busy = Transfer::start(&cores[0]);
        let _idle = [Place::take(&cores[1]), Place::take(&cores[1])];
        assert_eq!(for_connection(&cores), 1);
    }

    #[test]
    fn two_long_transfers_do_not_share_a_core_while_another_idles() {
        let cores = cores(2);
        assert!(elsewhere(&cores, 0).is_none(), "the first may stay");
        let _first = Transfer::start(&cores[0]);
        let (index, second) = elsewhere(&cores, 0).expect("the second moves");
        assert_eq!((index, cores[1].transfers.get()), (1, 1));
        assert!(elsewhere(&cores, 0).is_none(), "now they are even");
        drop(second);
        assert_eq!(cores[1].transfers.get(), 0);
    }
}
