//! Where a comparison was made: the first line of its results.
//!
//! What /proc and uname(2) say in, a [`Machine`] out. Nothing here names the host or its people.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::contenders::Contender;
use super::namespace;
use crate::results::Machine;

/// This machine, of which the run may use `cpus` processors, and the versions of who takes part.
pub(super) fn describe(contenders: &[Contender], cpus: usize, own_namespace: bool) -> Machine {
    let mut versions: std::collections::BTreeMap<String, String> = contenders
        .iter()
        .filter(|contender| **contender != Contender::Floor)
        .map(|contender| (contender.name().to_owned(), contender.version()))
        .collect();
    versions.insert("bench".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Machine {
        unix_time: now.map(|now| now.as_secs()).unwrap_or_default(),
        cpu: after("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
        cpus,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        memory_mib: memory_kib().unwrap_or_default() >> 10,
        congestion_control: namespace::congestion_control(),
        own_namespace,
        versions,
        command: command(),
    }
}

fn memory_kib() -> Option<u64> {
    after("/proc/meminfo", "MemTotal")?.trim_end_matches(" kB").parse().ok()
}

/// What follows `name` and a colon in a file of /proc.
fn after(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The command line, with the program by its name alone and without what only we add.
fn command() -> String {
    let own = ["bench".to_owned()].into_iter();
    let given = std::env::args().skip(1).filter(|given| given != super::INSIDE);
    own.chain(given).collect::<Vec<_>>().join(" ")
}
