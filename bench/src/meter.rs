//! What the kernel says a process costs: processor time, memory, and bytes held in pipes.
//!
//! Process numbers in, figures out, all from proc(5). A process that is gone costs nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_getpipe_size;

/// A process and everything it started, directly or not.
pub(crate) fn family(first: i32) -> Vec<i32> {
    let mut parents: BTreeMap<i32, i32> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = stat_field(process, PARENT) {
            parents.insert(process, i32::try_from(parent).unwrap_or_default());
        }
    }
    let mut found = vec![first];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, p)| **p == parent).map(|(process, _)| *process));
        next += 1;
    }
    found
}

/// User and system time of a family, in seconds, io_uring's workers included.
///
/// The scheduler's count of a thread is exact but goes with the thread; the process's own count
/// keeps ended threads but comes in ticks of a hundredth. The larger of the two is the better.
pub(crate) fn cpu_seconds(family: &[i32]) -> f64 {
    family.iter().map(|process| ticks(*process).max(scheduled(*process))).sum()
}

/// `utime` and `stime` of proc(5), `stat`. Rounded down, so that it is never above the exact sum.
fn ticks(process: i32) -> f64 {
    let count = stat_field(process, USER).unwrap_or_default()
        + stat_field(process, USER + 1).unwrap_or_default();
    count as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The time on a processor of all threads that live, in seconds: proc(5), `schedstat`.
fn scheduled(process: i32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let nanoseconds: u64 = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    nanoseconds as f64 / 1e9
}

/// A number of proc(5), `stat`, by its place after the name: 0 is the state. The name may hold
/// spaces and parentheses, so counting begins after the last one.
fn stat_field(process: i32, place: usize) -> Option<u64> {
    field_in(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?, place)
}

fn field_in(stat: &str, place: usize) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(place)?.parse().ok()
}

/// The proportional set size of a family, in KiB: pages shared with others count by their share.
pub(crate) fn pss_kib(family: &[i32]) -> f64 {
    let of = |process: &i32| {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    family.iter().filter_map(of).sum()
}

/// What a family's pipes hold, in KiB: the bytes in them now, rounded up to pages, and the kernel's
/// table of each, 40 bytes a page of capacity. Capacity itself costs nothing until it is filled.
pub(crate) fn pipes_kib(family: &[i32]) -> f64 {
    let mut counted = BTreeSet::new();
    let mut bytes = 0;
    for process in family {
        let entries = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
        for entry in entries.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let is_pipe = target.to_string_lossy().starts_with("pipe:");
            if is_pipe && counted.insert(target) {
                bytes += pipe_bytes(&entry.path()).unwrap_or_default();
            }
        }
    }
    bytes as f64 / 1024.0
}

fn pipe_bytes(path: &std::path::Path) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let pipe = open(path, flags, Mode::empty()).ok()?;
    let held = ioctl_fionread(&pipe).ok()?.next_multiple_of(PAGE);
    let capacity = fcntl_getpipe_size(&pipe).ok()? as u64;
    Some(held + capacity / PAGE * SLOT_BYTES)
}

const PARENT: usize = 1;
const USER: usize = 11;
const PAGE: u64 = 4096;
/// The size of the kernel's `struct pipe_buffer` on 64-bit machines.
const SLOT_BYTES: u64 = 40;

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use rustix::pipe::{fcntl_setpipe_size, pipe};

    use super::*;

    fn own() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn a_family_holds_what_a_process_started() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = i32::try_from(child.id()).unwrap();
        assert!(family(own()).contains(&id));
        assert_eq!(family(id), [id]);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_field_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20";
        assert_eq!((field_in(stat, PARENT), field_in(stat, USER)), (Some(1), Some(30)));
        assert_eq!(field_in("7 (a) S 1", USER), None);
    }

    #[test]
    fn work_shows_as_processor_time_and_memory_as_memory() {
        let (before, started) = (cpu_seconds(&[own()]), Instant::now());
        while started.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert!(cpu_seconds(&[own()]) > before);
        assert!(pss_kib(&[own()]) > 100.0);
    }

    #[test]
    fn a_pipe_counts_by_what_is_in_it() {
        let (_reading, writing) = pipe().unwrap();
        fcntl_setpipe_size(&writing, 1 << 20).unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&_reading);
        let path = format!("/proc/self/fd/{descriptor}");
        let empty = pipe_bytes(path.as_ref()).unwrap();
        assert_eq!(empty, 256 * 40);
        rustix::io::write(&writing, &[0; 5000]).unwrap();
        assert_eq!(pipe_bytes(path.as_ref()).unwrap(), empty + 8192);
    }
}
