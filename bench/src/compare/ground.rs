//! What every measurement stands on: a network of its own, a processor for what is measured and the
//! others for the load, a registry, a folder.
//!
//! The machine as it is goes in; a [`Ground`] comes out. What cannot be had is said, and the run
//! goes on without it where that makes sense.

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use super::contenders::has_taskset;
use super::namespace;
use super::origin::Origin;
use super::process::Stop;

/// What all measurements of a run share.
pub(crate) struct Ground {
    /// Configurations and logs.
    pub(crate) folder: TempDir,
    /// The registry's place.
    pub(crate) origin: Origin,
    /// The processor that contenders run on.
    pub(crate) cpu: usize,
    /// Who ends the run early.
    pub(crate) stop: Stop,
}

/// Starts this program again in a network namespace of its own, unless it is `inside` already or is
/// to `stay` where it is. It goes on outside where there is none to be had.
///
/// # Errors
/// When the namespace cannot be used.
pub(crate) fn enter(inside: bool, stay: bool) -> anyhow::Result<()> {
    if inside {
        namespace::furnish().context("in the new network namespace")?;
    } else if !stay {
        let cause = namespace::enter(INSIDE);
        eprintln!("no network namespace of its own: {cause}");
    }
    ensure!(has_taskset(), "no taskset: it comes with util-linux");
    Ok(())
}

impl Ground {
    /// Gives one processor away and starts the registry on the others.
    ///
    /// # Errors
    /// When a folder, a port, a thread or a processor cannot be had.
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let cpu = keep_apart()?;
        allow_descriptors();
        Ok(Self {
            folder: tempfile::Builder::new().prefix("bench-compare-").tempdir()?,
            origin: Origin::start()?,
            cpu,
            stop: Stop::watch()?,
        })
    }
}

/// Gives the last processor that this process may use to the contenders, and keeps this process
/// to the others. Everything that is started from here on without being pinned stays there too.
fn keep_apart() -> anyhow::Result<usize> {
    let mut allowed = sched_getaffinity(None)?;
    let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let last = usable.next_back().context("no processor to run on")?;
    if allowed.count() > 1 {
        allowed.unset(last);
        sched_setaffinity(None, &allowed)?;
    } else {
        eprintln!("one processor only: load and contenders share it, and wall time says nothing");
    }
    Ok(last)
}

/// Thousands of connections and the origin's ends of them need more than the usual 1,024.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The flag that says: this is the namespace.
pub(crate) const INSIDE: &str = "--inside-namespace";
