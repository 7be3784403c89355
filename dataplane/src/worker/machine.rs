//! What a core asks of the machine: a processor of its own, and randomness.
//!
//! Numbers in and out. What is refused is no reason not to serve, but for the randomness.

use std::io;

use ring::rand::{SecureRandom, SystemRandom};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A number that no other process is likely to have.
pub(super) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Keeps this thread on one of the processors the process may use. Which one core 0 gets depends
/// on the process, so that several on one machine do not all crowd the first processors.
pub(super) fn pin(index: usize) {
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let processors: Vec<usize> =
        (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).collect();
    let first = usize::try_from(std::process::id()).unwrap_or_default();
    let Some(place) = (first + index).checked_rem(processors.len()) else {
        return;
    };
    let Some(processor) = processors.get(place) else {
        return;
    };
    let mut only = CpuSet::new();
    only.set(*processor);
    if let Err(error) = sched_setaffinity(None, &only) {
        tracing::debug!(%error, "a core is not pinned");
    }
}
