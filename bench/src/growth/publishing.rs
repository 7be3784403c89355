//! How long a core stands still while a snapshot of many connectors is published.
//!
//! A proxy with many connectors, requests that flow, and one caller that asks, as fast as it is
//! answered, what the core answers by itself: the longest of its waits is the longest that the core
//! did nothing for it. Windows in which all manifests change and are published take turns with
//! windows in which nothing happens, so that what the machine itself does can be told apart.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, ensure};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use super::folder::Folder;
use super::lanes;
use super::prober::Prober;
use super::{Bench, mild};
use crate::compare::contenders::{Ours, road};
use crate::results::{Cost, Verdict};

/// Measurements a repetition.
pub(super) const STEPS: usize = 1;

/// Measures it: with all threads of the proxy on one processor, or with those of its control plane
/// `apart`, on the load's.
pub(super) fn measure(bench: &mut Bench<'_>, apart: bool) -> anyhow::Result<Vec<Cost>> {
    let ground = bench.ground;
    let folder = Folder::make(ground.folder.path(), "publishing", &ground.origin)?;
    let count = bench.flags.connectors;
    folder.fill(count, ground.origin.plain, 0)?;
    let proxy = lanes::serve(bench, &folder)?;
    if apart {
        move_away(&proxy)?;
    }
    let suffix = if apart { "-apart" } else { "" };
    let (mut left_alone, mut published) = (Vec::new(), Vec::new());
    for repetition in 1..=bench.flags.reps {
        let still = window(&proxy, count, || {
            thread::sleep(ALONE);
            Ok(())
        })?;
        let next = generation(proxy.admin)? + 1;
        let busy = window(&proxy, count, || {
            folder.fill(count, ground.origin.plain, repetition)?;
            until(|| Ok(generation(proxy.admin)? >= next))?;
            // Until every core has looked and the old one is freed.
            thread::sleep(AFTER);
            Ok(())
        })?;
        let step = format!("publishing{suffix} {repetition} {}", bench.name());
        bench.steps.end(&step, &format!("{still:.0} µs left alone, {busy:.0} µs published"));
        left_alone.push(still);
        published.push(busy);
    }
    let still = bench.cost(format!("stall-left-alone{suffix}"), "us", left_alone);
    let mut busy = bench.cost(format!("stall-published{suffix}"), "us", published);
    busy.verdict = Some(Verdict {
        must: format!("at most 1,000 µs while {count} connectors are published"),
        figure: busy.median(),
        limit: 1000.0,
    });
    Ok(vec![still, busy])
}

/// The longest wait, in microseconds, while `happens`.
fn window(
    proxy: &Ours,
    count: usize,
    happens: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let going_on = AtomicBool::new(true);
    let goes_on = || going_on.load(Ordering::Relaxed);
    let mut of_the_core = Prober::of_the_core(&road(proxy.address, "c0"))?;
    of_the_core.once()?;
    let waits = thread::scope(|scope| -> anyhow::Result<Vec<u64>> {
        let probing = scope.spawn(|| of_the_core.at_once(goes_on));
        let flowing: Vec<_> = (0..FLOWS)
            .map(|number| {
                let road = road(proxy.address, &format!("c{}", number * count / FLOWS));
                scope.spawn(move || flow(&road, goes_on))
            })
            .collect();
        let happened = happens();
        going_on.store(false, Ordering::Relaxed);
        let ended = || io::Error::other("a prober panicked");
        let waits = probing.join().map_err(|_| ended())??;
        for flow in flowing {
            flow.join().map_err(|_| ended())?.context("a request while it was published")?;
        }
        happened?;
        Ok(waits)
    })?;
    Ok(waits.last().copied().unwrap_or_default() as f64 / 1e3)
}

/// HEADs with a token, by the clock; each must be answered as it should be.
fn flow(road: &crate::compare::drive::Road, goes_on: impl Fn() -> bool) -> io::Result<()> {
    let mut prober = Prober::of_heads(road)?;
    while goes_on() {
        prober.paced(PAUSE, PAUSE)?;
    }
    Ok(())
}

/// How many snapshots the proxy has published, as its metrics say.
fn generation(admin: SocketAddr) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let asked = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let line = page.lines().find(|line| {
        line.split(' ').next().is_some_and(|name| name.ends_with("snapshot_generation"))
    });
    let value = line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value);
    value.and_then(|value| value.parse().ok()).context("no generation in its metrics")
}

fn until(mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let asked = Instant::now();
    while !is_so()? {
        ensure!(asked.elapsed() < PATIENCE, "nothing was published");
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Moves all threads of the proxy but its core to this process's processors, where they give way.
fn move_away(proxy: &Ours) -> anyhow::Result<()> {
    let ours: CpuSet = sched_getaffinity(None)?;
    for thread in fs::read_dir(format!("/proc/{}/task", proxy.process.id()))? {
        let thread = thread?;
        if fs::read_to_string(thread.path().join("comm"))?.starts_with("core-") {
            continue;
        }
        let number = thread.file_name().to_string_lossy().parse().ok();
        let number = number.and_then(Pid::from_raw).context("a thread without a number")?;
        sched_setaffinity(Some(number), &ours)?;
        mild::thread(number)?;
    }
    Ok(())
}

const FLOWS: usize = 4;
const PAUSE: Duration = Duration::from_millis(2);
const ALONE: Duration = Duration::from_millis(2000);
const AFTER: Duration = Duration::from_millis(600);
const LOOK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(20);
