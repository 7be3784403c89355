//! What is measured: each case, its unit, and one measurement of it.
//!
//! A contender that serves goes in; one figure and what was moved meanwhile come out. Every case
//! does a fixed amount of work, because what work costs is the question, not how much fits into a
//! second.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::contenders::{Contender, Running};
use super::drive::{self, Bodies, Road, Slow};
use super::ground::Ground;
use super::origin::CHUNK_BYTES;
use crate::meter;

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Case {
    /// Blobs, their length known: four at once, four times.
    Pull,
    /// As many blobs, each in one PUT with a length.
    Push,
    /// As many blobs, each in one PATCH in chunks of 32 KiB.
    PushChunked,
    /// As `pull`, with TLS to the registry.
    PullTls,
    /// As `push`, with TLS to the registry.
    PushTls,
    /// As `pull-tls`, with TLS towards the caller too: ours inside a tunnel to the registry's name.
    PullTlsBoth,
    /// As `push-tls`, with TLS towards the caller too.
    PushTlsBoth,
    /// 50 pushes of 64 MiB at once.
    #[value(name = "uploads-50")]
    Uploads50,
    /// Manifests of 1 KiB over 64 kept-alive connections.
    #[value(name = "get-1k")]
    Get1k,
    /// Memory for each of 1,000 idle connections.
    Idle,
    /// Memory for each of 50 slow transfers.
    Active,
}

/// How much is done.
#[derive(Clone, Copy)]
pub(super) struct Amount {
    /// Bytes that a transfer case moves, all its transfers together.
    pub(super) size: u64,
    /// Requests of `get-1k`.
    pub(super) requests: usize,
}

impl Amount {
    /// What gets buffers, caches and connections into their usual state.
    pub(super) fn little(self) -> Self {
        Self { size: self.size.min(WARM_BYTES), requests: self.requests.min(WARM_REQUESTS) }
    }
}

/// One measurement.
#[derive(Default)]
pub(super) struct Reading {
    /// In the case's unit.
    pub(super) figure: f64,
    /// Of a memory figure: what of it is held in pipes.
    pub(super) pipes: Option<f64>,
    /// Wall time of the measured part.
    pub(super) seconds: f64,
    /// Body bytes towards the registry.
    pub(super) bytes_up: u64,
    /// Body bytes from the registry.
    pub(super) bytes_down: u64,
    /// Requests that were answered as they should be.
    pub(super) requests: u64,
    /// Microseconds of each, sorted, where they were taken.
    pub(super) latencies: Vec<u64>,
    /// CPU seconds of this process meanwhile: the load's and the origin's.
    pub(super) own_cpu: f64,
}

impl Case {
    /// All of them, in the order of the table.
    pub(super) const ALL: [Self; 11] = [
        Self::Pull,
        Self::Push,
        Self::PushChunked,
        Self::PullTls,
        Self::PushTls,
        Self::PullTlsBoth,
        Self::PushTlsBoth,
        Self::Uploads50,
        Self::Get1k,
        Self::Idle,
        Self::Active,
    ];

    /// Those that are measured where none is named: all but TLS on both sides, for the whole is
    /// long enough.
    pub(super) fn usual() -> Vec<Self> {
        let is_usual = |case: &Self| !matches!(case, Self::PullTlsBoth | Self::PushTlsBoth);
        Self::ALL.into_iter().filter(is_usual).collect()
    }

    /// Its name in results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::PushChunked => "push-chunked",
            Self::PullTls => "pull-tls",
            Self::PushTls => "push-tls",
            Self::PullTlsBoth => "pull-tls-both",
            Self::PushTlsBoth => "push-tls-both",
            Self::Uploads50 => "uploads-50",
            Self::Get1k => "get-1k",
            Self::Idle => "idle",
            Self::Active => "active",
        }
    }

    /// What its figures count.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Get1k => "us/request",
            Self::Idle | Self::Active => "KiB/connection",
            _ => "cpu-s/GiB",
        }
    }

    /// Whether a contender can take part: the floor knows no TLS.
    pub(super) fn suits(self, contender: Contender) -> bool {
        let is_sealed =
            matches!(self, Self::PullTls | Self::PushTls | Self::PullTlsBoth | Self::PushTlsBoth);
        !is_sealed || contender != Contender::Floor
    }

    /// Measures it once on a contender that was just started.
    ///
    /// # Errors
    /// When a transfer fails, bytes are missing, or the registry saw a request without its
    /// credential.
    pub(super) fn measure(
        self,
        ground: &Ground,
        running: &Running,
        bodies: &Arc<Bodies>,
        amount: Amount,
    ) -> anyhow::Result<Reading> {
        let road = match self {
            Self::PullTls | Self::PushTls => running.sealed.as_ref().context("it has no TLS")?,
            Self::PullTlsBoth | Self::PushTlsBoth => {
                running.both.as_ref().context("it has no TLS for callers")?
            }
            _ => &running.plain,
        };
        let before = ground.origin.seen();
        let reading = match self {
            Self::Idle => idle(running, road),
            Self::Active => active(running, road, bodies),
            _ => self.cost(ground, running, road, bodies, amount),
        };
        let after = ground.origin.seen();
        // Checked first: it explains why everything else failed.
        let refused = after.refused - before.refused;
        ensure!(refused == 0, "{refused} requests came to the registry without its credential");
        let reading = reading?;
        ensure!(after.requests > before.requests, "nothing came to the registry");
        Ok(reading)
    }

    /// Whether it measures memory, which shows the same at each look, and takes its time.
    pub(super) fn is_of_memory(self) -> bool {
        matches!(self, Self::Idle | Self::Active)
    }

    /// Does the work twice, a little and then all of it, and takes what all of it cost.
    fn cost(
        self,
        ground: &Ground,
        running: &Running,
        road: &Road,
        bodies: &Bodies,
        amount: Amount,
    ) -> anyhow::Result<Reading> {
        self.work(road, bodies, amount.little()).context("warming up")?;
        let family = meter::family(running.process.id());
        let own = [i32::try_from(std::process::id())?];
        let received = ground.origin.seen().received;
        let (cpu, own_cpu) = (meter::cpu_seconds(&family), meter::cpu_seconds(&own));
        let started = Instant::now();
        let mut reading = self.work(road, bodies, amount)?;
        reading.seconds = started.elapsed().as_secs_f64();
        // What a contender still does after the last answer is its cost too.
        thread::sleep(SETTLE);
        let cpu = meter::cpu_seconds(&family) - cpu;
        reading.own_cpu = meter::cpu_seconds(&own) - own_cpu;
        let received = ground.origin.seen().received - received;
        ensure!(
            received == reading.bytes_up,
            "{received} bytes arrived of {} that were pushed",
            reading.bytes_up
        );
        reading.figure = match self {
            Self::Get1k => cpu * 1e6 / reading.requests.max(1) as f64,
            _ => cpu / gib(reading.bytes_up + reading.bytes_down),
        };
        Ok(reading)
    }

    fn work(self, road: &Road, bodies: &Bodies, amount: Amount) -> io::Result<Reading> {
        if self == Self::Get1k {
            let latencies = drive::gets(road, CONNECTIONS, amount.requests)?;
            let requests = latencies.len() as u64;
            let bytes_down = requests << 10;
            return Ok(Reading { requests, bytes_down, latencies, ..Reading::default() });
        }
        let each = whole_chunks(amount.size / (ROUNDS * AT_ONCE) as u64);
        let (rounds, at_once, each) = match self {
            Self::Uploads50 => (1, UPLOADS, each.min(UPLOAD_BYTES)),
            _ => (ROUNDS, AT_ONCE, each),
        };
        let transfers = (rounds * at_once) as u64;
        let (up, requests) = match self {
            Self::Push | Self::PushTls | Self::PushTlsBoth | Self::Uploads50 => (true, 2),
            Self::PushChunked => (true, 3),
            _ => (false, 1),
        };
        for _ in 0..rounds {
            drive::at_once(at_once, || match self {
                Self::PushChunked => drive::push_chunked(road, bodies, each),
                _ if up => drive::push(road, bodies, each),
                _ => drive::pull(road, each),
            })?;
        }
        let moved = transfers * each;
        let (bytes_up, bytes_down) = if up { (moved, 0) } else { (0, moved) };
        Ok(Reading { bytes_up, bytes_down, requests: requests * transfers, ..Reading::default() })
    }
}

/// What each of a thousand connections that were used once and then wait adds to a contender.
fn idle(running: &Running, road: &Road) -> anyhow::Result<Reading> {
    drop(drive::idle(road, 1)?);
    thread::sleep(LOOK);
    let before = memory(running);
    let held = drive::idle(road, IDLE)?;
    thread::sleep(IDLE_WAIT);
    let after = memory(running);
    drop(held);
    Ok(growth(before, after, IDLE))
}

/// What each of fifty transfers under way, half of them pulls, adds to a contender. The middle of
/// several looks, because what is held moves.
fn active(running: &Running, road: &Road, bodies: &Arc<Bodies>) -> anyhow::Result<Reading> {
    drive::pull(road, WARM_BYTES)?;
    drive::push(road, bodies, WARM_BYTES)?;
    thread::sleep(LOOK);
    let before = memory(running);
    let slow = Slow::start(road, bodies, ACTIVE)?;
    thread::sleep(ACTIVE_WAIT);
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        thread::sleep(LOOK);
        looks.push(memory(running));
    }
    slow.stop()?;
    looks.sort_by(|one, other| (one.0 + one.1).total_cmp(&(other.0 + other.1)));
    let after = looks.get(LOOKS / 2).copied().unwrap_or(before);
    Ok(growth(before, after, ACTIVE))
}

/// PSS and pipes of a contender, in KiB.
fn memory(running: &Running) -> (f64, f64) {
    let family = meter::family(running.process.id());
    (meter::pss_kib(&family), meter::pipes_kib(&family))
}

fn growth(before: (f64, f64), after: (f64, f64), connections: usize) -> Reading {
    let of = |before: f64, after: f64| (after - before).max(0.0) / connections as f64;
    let pipes = of(before.1, after.1);
    let requests = connections as u64;
    Reading {
        figure: of(before.0, after.0) + pipes,
        pipes: Some(pipes),
        requests,
        ..Reading::default()
    }
}

/// Bytes as GiB.
pub(crate) fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

/// A size that every case can move: whole chunks, at least one.
fn whole_chunks(size: u64) -> u64 {
    (size / CHUNK_BYTES).max(1) * CHUNK_BYTES
}

const WARM_BYTES: u64 = 64 << 20;
const WARM_REQUESTS: usize = 2048;
/// A transfer alone settles into one of several ways in which reads, chunks and buffers can lie to
/// each other, and one of them may cost half as much again as another; several at once, and then
/// several more over new connections, meet them all.
const AT_ONCE: usize = 4;
const ROUNDS: usize = 4;
const UPLOADS: usize = 50;
const UPLOAD_BYTES: u64 = 64 << 20;
const CONNECTIONS: usize = 64;
const IDLE: usize = 1000;
const ACTIVE: usize = 50;
const SETTLE: Duration = Duration::from_millis(30);
const IDLE_WAIT: Duration = Duration::from_millis(1500);
const ACTIVE_WAIT: Duration = Duration::from_millis(1000);
const LOOKS: usize = 5;
const LOOK: Duration = Duration::from_millis(200);
