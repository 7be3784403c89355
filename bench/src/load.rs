//! The load generator: a [`Plan`] in, requests over real sockets, an [`Outcome`] out.
//!
//! What a scenario needs is uploaded first, through the target. Then each thread drives its callers
//! until the plan ends or somebody says stop; what was measured by then is returned in any case.
//! Nothing is printed here: [`Progress`] goes to whoever asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod core;
mod scenario;
mod pull;
mod push;
mod held;
mod schedule;
mod exchange;
mod answer;
mod line;
mod sealed;
mod target;
mod content;
mod tally;
#[cfg(test)]
mod tests;

use self::core::{Budget, Ended, Post};
use self::scenario::Stage;
use self::tally::{Sums, Tally, Window};

use crate::plan::{Plan, Scenario};
use crate::results;

/// How far a load is.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// What is going on.
    pub(crate) phase: Phase,
    /// How long this phase has lasted.
    pub(crate) elapsed: Duration,
    /// How much of this phase is done, from 0 to 1.
    pub(crate) share: f64,
    /// Requests answered as they should be.
    pub(crate) requests: u64,
    /// Requests that failed.
    pub(crate) failed: u64,
    /// Body bytes moved.
    pub(crate) bytes: u64,
    /// Connections that are open.
    pub(crate) connections: u64,
}

/// What a load is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It uploads what is to be pulled.
    SetUp,
    /// It runs, and nothing counts yet.
    WarmUp,
    /// It counts.
    Measuring,
    /// Nothing begins any more; the last answers are waited for.
    Ending,
}

/// What came of a load.
pub(crate) struct Outcome {
    /// The figures to keep.
    pub(crate) load: results::Load,
    /// For each cause of failure one that happened, in a sentence.
    pub(crate) examples: Vec<String>,
    /// HTTP exchanges; one request of the load may be several.
    pub(crate) exchanges: u64,
    /// How late the generator itself began a request at worst but one in a hundred, in
    /// microseconds; open loops only.
    pub(crate) late_us: u64,
    /// Whether it was stopped before its end.
    pub(crate) interrupted: bool,
    /// What became of connections that were held.
    pub(crate) held: Option<Held>,
}

/// What became of connections that were held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// How many there were to be.
    pub(crate) wanted: u64,
    /// How many were there at the end.
    pub(crate) survived: u64,
    /// KiB of memory (PSS) of the plan's process, before and with all connections open.
    pub(crate) memory_kib: Option<(u64, u64)>,
}

/// Runs `plan` until it ends or `stop` becomes true; `report` hears of progress five times a second
/// and at once when a phase begins.
///
/// # Errors
/// When the plan cannot be run at all: a target that does not resolve, a set-up that fails, a
/// machine that gives no memory or threads. Requests that fail are no error but figures.
pub(crate) fn run(
    plan: &Plan,
    stop: &AtomicBool,
    mut report: impl FnMut(&Progress),
) -> anyhow::Result<Outcome> {
    plan.check()?;
    raise_descriptors();
    let stage = Arc::new(Stage::new(plan)?);
    if plan.set_up && needs_content(plan.scenario) {
        set_up(&stage, stop, &mut report)?;
    }
    measure(&stage, stop, &mut report)
}

/// Uploads what `plan` would upload first, and nothing else: for a target that is to be loaded
/// later, perhaps through something else.
///
/// # Errors
/// When the target does not take it.
pub(crate) fn prepare(
    plan: &Plan,
    stop: &AtomicBool,
    mut report: impl FnMut(&Progress),
) -> anyhow::Result<()> {
    plan.check()?;
    set_up(&Arc::new(Stage::new(plan)?), stop, &mut report)
}

fn needs_content(scenario: Scenario) -> bool {
    !matches!(scenario, Scenario::Push | Scenario::PushChunked | Scenario::ParallelPush)
}

fn set_up(
    stage: &Arc<Stage>,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Progress),
) -> anyhow::Result<()> {
    let began = Instant::now();
    let tally = Arc::new(Tally::new(Window { start: began, end: None })?);
    let total = stage.image.layers.iter().map(|layer| layer.length).sum::<u64>().max(1);
    let tallies = [Arc::clone(&tally)];
    let watch = Watch { phase: |_| Phase::SetUp, began, tallies: &tallies };
    let share = |sums: &Sums, _| sums.bytes_up as f64 / total as f64;
    let ended = thread::scope(|scope| {
        let upload = || core::upload(stage, &tally, stop);
        let thread = thread::Builder::new().spawn_scoped(scope, upload)?;
        watch.until(|| thread.is_finished(), &share, report)?;
        thread.join().map_err(|_| anyhow::anyhow!("the set-up panicked"))?
    });
    match ended? {
        None => Ok(()),
        Some(fault) => bail!("setting up: {}: {}", fault.cause, fault.said),
    }
}

fn measure(
    stage: &Arc<Stage>,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Progress),
) -> anyhow::Result<Outcome> {
    let plan = &stage.plan;
    let memory_before = plan.pid.and_then(memory_kib);
    let mut memory = None;
    let mut began = Instant::now();
    let phase_at = |window: Window, now: Instant| match window.end {
        _ if now < window.start => Phase::WarmUp,
        Some(end) if now >= end => Phase::Ending,
        _ => Phase::Measuring,
    };
    // Whoever listens may measure, too, and must hear of it before the first byte.
    let first = if plan.warm_up.is_zero() { Phase::Measuring } else { Phase::WarmUp };
    report(&progress(first, Duration::ZERO, 0.0, &Sums::new()?));
    began = began.max(Instant::now());
    let start = began + plan.warm_up;
    let window = Window { start, end: plan.is_timed().then(|| start + plan.duration) };
    let budget = Arc::new(Budget::of(plan));
    let tallies = (0..plan.cores)
        .map(|_| Ok(Arc::new(Tally::new(window)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let watch = Watch { phase: |now| phase_at(window, now), began, tallies: &tallies };
    let share = |sums: &Sums, now: Instant| share_of(plan, window, sums, now);
    let ended = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, tally) in tallies.iter().enumerate() {
            let (stage, tally) = (Arc::clone(stage), Arc::clone(tally));
            let post = Post { number, stage, tally, window, budget: Arc::clone(&budget) };
            let name = format!("load-{number}");
            let builder = thread::Builder::new().name(name);
            threads.push(builder.spawn_scoped(scope, move || core::run(post, stop))?);
        }
        let over = || threads.iter().all(thread::ScopedJoinHandle::is_finished);
        watch.until(over, &share, &mut |progress| {
            if progress.phase == Phase::Measuring {
                memory = plan.pid.and_then(memory_kib).or(memory);
            }
            report(progress);
        })?;
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))?
        };
        threads.into_iter().map(join).collect::<anyhow::Result<Vec<Ended>>>()
    })?;
    let mut outcome = outcome(plan, window, &tallies, &ended)?;
    outcome.interrupted = stop.load(Ordering::Relaxed);
    if let Some(held) = &mut outcome.held {
        held.memory_kib = memory_before.zip(memory);
    }
    Ok(outcome)
}

/// Looks at a load from outside.
struct Watch<'a, P> {
    phase: P,
    began: Instant,
    tallies: &'a [Arc<Tally>],
}

impl<P: Fn(Instant) -> Phase> Watch<'_, P> {
    fn until(
        &self,
        over: impl Fn() -> bool,
        share: &dyn Fn(&Sums, Instant) -> f64,
        report: &mut dyn FnMut(&Progress),
    ) -> anyhow::Result<()> {
        let mut phase_began = self.began;
        let mut reported = self.began;
        let mut phase = (self.phase)(self.began);
        while !over() {
            thread::sleep(POLL);
            let now = Instant::now();
            let next = (self.phase)(now);
            if next == phase && now - reported < REPORT_EVERY {
                continue;
            }
            if next != phase {
                phase_began = now;
            }
            (phase, reported) = (next, now);
            let mut sums = Sums::new()?;
            for tally in self.tallies {
                sums.add(&tally.sums())?;
            }
            report(&progress(phase, now - phase_began, share(&sums, now), &sums));
        }
        Ok(())
    }
}

fn progress(phase: Phase, elapsed: Duration, share: f64, sums: &Sums) -> Progress {
    Progress {
        phase,
        elapsed,
        share: share.clamp(0.0, 1.0),
        requests: sums.requests,
        failed: sums.failed(),
        bytes: sums.bytes_up + sums.bytes_down,
        connections: sums.connections,
    }
}

fn share_of(plan: &Plan, window: Window, sums: &Sums, now: Instant) -> f64 {
    if now < window.start {
        let left = window.start - now;
        return 1.0 - left.as_secs_f64() / plan.warm_up.as_secs_f64().max(1e-9);
    }
    let of = |done: u64, all: u64| done as f64 / all.max(1) as f64;
    match (plan.requests, plan.bytes) {
        (Some(all), _) => of(sums.requests + sums.failed(), all),
        (None, Some(all)) => of(sums.bytes_up + sums.bytes_down, all),
        (None, None) => (now - window.start).as_secs_f64() / plan.duration.as_secs_f64().max(1e-9),
    }
}

fn outcome(
    plan: &Plan,
    window: Window,
    tallies: &[Arc<Tally>],
    ended: &[Ended],
) -> anyhow::Result<Outcome> {
    let mut sums = Sums::new()?;
    for tally in tallies {
        sums.add(&tally.sums())?;
    }
    let now = Instant::now();
    let over = match window.end {
        Some(end) => end.min(now),
        None => sums.last.unwrap_or(now),
    };
    let seconds = over.saturating_duration_since(window.start).as_secs_f64();
    let cpu: f64 = ended.iter().map(|ended| ended.cpu_seconds).sum();
    let cores = plan.cores.min(plan.concurrency);
    let late_us = sums.lateness.value_at_quantile(0.99);
    let busy = seconds > 0.0 && cpu >= seconds * cores as f64 * BUSY;
    let survived = ended.iter().map(|ended| ended.survived).sum();
    let holds = matches!(plan.scenario, Scenario::Idle | Scenario::SlowReaders);
    let wanted = plan.concurrency as u64;
    let failures: BTreeMap<_, _> =
        sums.failures.iter().map(|(cause, (count, _))| (cause.to_string(), *count)).collect();
    let examples = sums.failures.iter().map(|(cause, (_, said))| format!("{cause}: {said}"));
    let at = |percentile: &f64| sums.latency.value_at_quantile(percentile / 100.0);
    Ok(Outcome {
        load: results::Load {
            contender: plan.contender.clone(),
            case: plan.scenario.name(),
            repetition: 0,
            seconds,
            requests: sums.requests,
            failures,
            bytes_up: sums.bytes_up,
            bytes_down: sums.bytes_down,
            latency_us: results::PERCENTILES.iter().map(at).collect(),
            bytes_by_second: sums.by_second.clone(),
            generator_cpu_seconds: cpu,
            generator_bound: busy || late_us >= LATE_US,
        },
        examples: examples.collect(),
        exchanges: sums.exchanges,
        late_us,
        interrupted: false,
        held: holds.then_some(Held { wanted, survived, memory_kib: None }),
    })
}

/// The proportional set size of a process, in KiB; see proc(5), `smaps_rollup`.
fn memory_kib(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Thousands of connections need more descriptors than a shell gives; as many as may be had.
fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where it is refused, connections fail later and say why.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

const POLL: Duration = Duration::from_millis(10);
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// From this share of its processors on the generator is taken for the bottleneck.
const BUSY: f64 = 0.9;
/// So late the generator was starved, whatever its own processor time.
const LATE_US: u64 = 2_000;
