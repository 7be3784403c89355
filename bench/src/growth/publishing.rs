//! How long a core stands still while a snapshot of many connectors is published.
//!
//! A proxy with many connectors, requests that flow, and one caller that asks, as fast as it is
//! answered, what the core answers by itself. What the kernel says of the proxy's threads before
//! and after each wait tells how much of it was the proxy's doing: the core worked at something
//! else, or it wanted to work and another thread of the proxy had its processor. Windows in which
//! all manifests change and are published take turns with windows in which nothing happens.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use super::folder::Folder;
use super::lanes;
use super::prober::Prober;
use super::threads::{Spent, Threads, all};
use super::{Bench, mild};
use crate::compare::contenders::{Ours, road};
use crate::compare::drive::Road;
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
    let (mut alone, mut published) = (Vec::new(), Vec::new());
    for repetition in 1..=bench.flags.reps {
        let still = window(&proxy, count, apart, || {
            thread::sleep(ALONE);
            Ok(())
        })?;
        let next = generation(proxy.admin)? + 1;
        let busy = window(&proxy, count, apart, || {
            folder.fill(count, ground.origin.plain, repetition)?;
            until(|| Ok(generation(proxy.admin)? >= next))?;
            // Until every core has looked and the old one is freed.
            thread::sleep(AFTER);
            Ok(())
        })?;
        let step = format!("publishing{suffix} {repetition} {}", bench.name());
        let (without, with) = (still.stall(), busy.stall());
        bench.steps.end(&step, &format!("{without:.0} µs left alone, {with:.0} µs published"));
        alone.push(still);
        published.push(busy);
    }
    let of = |case: &str, windows: &[Longest], pick: fn(&Longest) -> f64| {
        bench.cost(format!("{case}{suffix}"), "us", windows.iter().map(pick).collect())
    };
    let mut stall = of("stall-published", &published, Longest::stall);
    stall.verdict = Some(Verdict {
        must: format!("at most 1,000 µs while {count} connectors are published"),
        figure: stall.median(),
        limit: 1000.0,
    });
    Ok(vec![
        of("wait-left-alone", &alone, |longest| longest.wait),
        of("wait-published", &published, |longest| longest.wait),
        of("work-left-alone", &alone, |longest| longest.worked),
        of("work-published", &published, |longest| longest.worked),
        of("queue-left-alone", &alone, |longest| longest.queued),
        of("queue-published", &published, |longest| longest.queued),
        of("held-left-alone", &alone, |longest| longest.held),
        of("held-published", &published, |longest| longest.held),
        of("stall-left-alone", &alone, Longest::stall),
        stall,
    ])
}

/// The longest of a window, each by itself, in microseconds.
#[derive(Default)]
struct Longest {
    /// From a question to its answer.
    wait: f64,
    /// What the core worked within one wait.
    worked: f64,
    /// How long it waited for its processor within one wait, whoever had that.
    queued: f64,
    /// How much of this time the proxy's other threads worked.
    held: f64,
}

impl Longest {
    /// How long the proxy itself kept the core from answering, whichever way.
    fn stall(&self) -> f64 {
        self.worked.max(self.held)
    }

    fn see(&mut self, wait: u64, spent: Spent) {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        // More than the wait itself was not within it.
        let within = |nanos: u64| micros(nanos.min(wait));
        self.wait = self.wait.max(micros(wait));
        self.worked = self.worked.max(within(spent.worked));
        self.queued = self.queued.max(within(spent.queued));
        self.held = self.held.max(within(spent.queued.min(spent.others)));
    }
}

/// What was longest while something `happens`.
fn window(
    proxy: &Ours,
    count: usize,
    apart: bool,
    happens: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Longest> {
    let going_on = AtomicBool::new(true);
    let goes_on = || going_on.load(Ordering::Relaxed);
    let mut threads = Threads::of(proxy.process.id(), !apart)?;
    let mut of_the_core = Prober::of_the_core(&road(proxy.address, "c0"))?;
    of_the_core.once()?;
    thread::scope(|scope| -> anyhow::Result<Longest> {
        let probing = scope.spawn(|| -> io::Result<Longest> {
            let mut longest = Longest::default();
            threads.spent()?;
            of_the_core.at_once(goes_on, |wait| {
                longest.see(wait, threads.spent()?);
                Ok(())
            })?;
            Ok(longest)
        });
        let flowing: Vec<_> = (0..FLOWS)
            .map(|number| {
                let road = road(proxy.address, &format!("c{}", number * count / FLOWS));
                scope.spawn(move || flow(&road, goes_on))
            })
            .collect();
        let happened = happens();
        going_on.store(false, Ordering::Relaxed);
        let ended = || io::Error::other("a prober panicked");
        let longest = probing.join().map_err(|_| ended())??;
        for flow in flowing {
            flow.join().map_err(|_| ended())?.context("a request while it was published")?;
        }
        happened?;
        Ok(longest)
    })
}

/// HEADs with a token, by the clock; each must be answered as it should be.
fn flow(road: &Road, goes_on: impl Fn() -> bool) -> io::Result<()> {
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
    for (name, number) in all(proxy.process.id())? {
        if name.starts_with("core-") {
            continue;
        }
        let number = Pid::from_raw(number).context("a thread without a number")?;
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
