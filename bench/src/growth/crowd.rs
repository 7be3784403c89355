//! What a request and a byte cost with few and with many connectors, and connections.
//!
//! Steps in, a figure of processor time for each out, and how the largest stands to the smallest.
//! Requests are GETs of 1 KiB; what moves bytes is four pulls and four pushes at once, while all
//! connections are held. Each measurement has a proxy of its own, and the steps take turns within
//! each repetition.

use std::thread;
use std::time::Duration;

use super::folder::Folder;
use super::lanes::{self, Lanes};
use super::{Bench, Flags};
use crate::compare::Driver;
use crate::compare::cases::gib;
use crate::compare::contenders::{Contender, Ours, Running, road};
use crate::compare::drive::{self, Bodies};
use crate::meter;
use crate::results::{Cost, Verdict, ratio, ratios};

/// A number of connectors and of connections.
#[derive(Clone, Copy)]
pub(super) struct Step {
    series: &'static str,
    count: usize,
    connectors: usize,
    connections: usize,
    /// How many requests are under way at once.
    lanes: usize,
    /// Who is measured instead of our proxy.
    peer: Option<Contender>,
}

/// 1, a hundredth of the most, and the most connectors, under the same 64 connections. Each
/// connection has a connector of its own, where there are as many.
pub(super) fn connectors(flags: &Flags) -> Vec<Step> {
    let step = |count| Step { series: "connectors", count, connectors: count, ..SOME };
    [1, flags.connectors.div_ceil(100), flags.connectors].map(step).to_vec()
}

/// 1, 64, 1,000 and the most connections, with one request under way however many there are; and
/// again, from 64 on, with 64 under way. The latter also for nginx, where it is installed and the
/// driver is the first: what the kernel charges for many sockets it charges everybody.
pub(super) fn connections(flags: &Flags, driver: Driver) -> Vec<Step> {
    let counts = [1, 64, 1000, flags.connections];
    let one = |count| Step { series: "connections", count, connections: count, lanes: 1, ..SOME };
    let many = |count| Step { series: "busy-connections", lanes: 64, ..one(count) };
    let mut steps = counts.map(one).to_vec();
    steps.extend(counts[1..].iter().copied().map(many));
    let nginx = Contender::Nginx;
    if flags.io.first() == Some(&driver) && nginx.program().is_some() {
        let theirs = |count| Step { peer: Some(nginx), ..many(count) };
        steps.extend(counts[1..].iter().copied().map(theirs));
    }
    steps
}

const SOME: Step =
    Step { series: "", count: 1, connectors: 1, connections: 64, lanes: 64, peer: None };

/// Microseconds a request, and seconds a GiB.
struct Reading {
    request: f64,
    byte: f64,
}

/// Measures each step, and sets the later ones of a series against its first.
pub(super) fn measure(bench: &mut Bench<'_>, steps: &[Step]) -> anyhow::Result<Vec<Cost>> {
    let bodies = Bodies::new()?;
    let mut found: Vec<(Step, Vec<Reading>)> = steps.iter().map(|s| (*s, Vec::new())).collect();
    for repetition in 1..=bench.flags.reps {
        let places = found.len();
        for turn in 0..places {
            // Who begins changes from one repetition to the next.
            let (step, readings) = &mut found[(turn + repetition) % places];
            let name = format!("{} {} {}", step.series, step.count, step.contender(bench));
            let reading = step.read(bench, &bodies)?;
            let Reading { request, byte } = reading;
            bench.steps.end(&name, &format!("{request:.1} µs/request, {byte:.3} cpu-s/GiB"));
            readings.push(reading);
        }
    }
    let mut costs = Vec::new();
    let requests: fn(&Reading) -> f64 = |reading| reading.request;
    for (what, unit, pick) in
        [("request", "us/request", requests), ("byte", "cpu-s/GiB", |reading| reading.byte)]
    {
        costs.extend(series(bench, &found, (what, unit), pick));
    }
    Ok(costs)
}

/// The costs of each step, and after each series the largest of its ratios to the first.
fn series(
    bench: &Bench<'_>,
    found: &[(Step, Vec<Reading>)],
    (what, unit): (&str, &str),
    pick: fn(&Reading) -> f64,
) -> Vec<Cost> {
    let mut costs = Vec::new();
    for of_series in found.chunk_by(|one, other| one.0.is_of_one_series_with(other.0)) {
        let cost = |(step, readings): &(Step, Vec<Reading>)| {
            let case = format!("{what}-{}-{}", step.series, step.count);
            let cost = bench.cost(case, unit, readings.iter().map(pick).collect());
            Cost { contender: step.contender(bench), ..cost }
        };
        let all: Vec<Cost> = of_series.iter().map(cost).collect();
        costs.extend(
            all.split_first().map(|(first, later)| flat(what, of_series[0].0, first, later)),
        );
        costs.extend(all);
    }
    costs
}

/// The later costs of a series as multiples of its `first`: the largest of them.
fn flat(what: &str, step: Step, first: &Cost, later: &[Cost]) -> Cost {
    let larger = |one: &&Cost, other: &&Cost| ratio(one, first).total_cmp(&ratio(other, first));
    let worst = later.iter().max_by(larger);
    let bar = |worst: &Cost| Verdict {
        must: format!("{} at most {FLAT:.2} of {}", worst.case, first.case),
        figure: ratio(worst, first),
        limit: FLAT,
    };
    Cost {
        contender: first.contender.clone(),
        case: format!("{what}-{}", step.series),
        unit: "ratio".to_owned(),
        samples: worst.map(|worst| ratios(worst, first)).unwrap_or_default(),
        // A peer is there to be seen, not to be judged.
        verdict: worst.filter(|_| step.peer.is_none()).map(bar),
        ..Cost::default()
    }
}

impl Step {
    fn contender(self, bench: &Bench<'_>) -> String {
        self.peer.map_or_else(|| bench.name(), |peer| peer.name().to_owned())
    }

    fn is_of_one_series_with(self, other: Self) -> bool {
        self.series == other.series && self.peer == other.peer
    }

    fn read(self, bench: &Bench<'_>, bodies: &Bodies) -> anyhow::Result<Reading> {
        let ground = bench.ground;
        let folder = Folder::make(ground.folder.path(), "crowd", &ground.origin)?;
        folder.fill(self.connectors, ground.origin.plain, 0)?;
        let (process, address, peer) = match self.peer {
            None => {
                let Ours { process, address, .. } = lanes::serve(bench, &folder)?;
                (process, address, None)
            }
            Some(peer) => {
                let Running { process, plain, .. } = peer.start(ground)?;
                (process, plain.address, Some(plain))
            }
        };
        let road = |number: usize| {
            // As far apart as there are connectors.
            let place = number * self.connectors / self.connections;
            peer.clone().unwrap_or_else(|| road(address, &format!("c{place}")))
        };
        let mut lanes = Lanes::open(self.lanes, self.connections, road)?;
        let requests = bench.flags.requests / if self.lanes == 1 { 2 } else { 1 };
        lanes.ask(self.connections.max(WARM_REQUESTS.min(requests)))?;
        let family = meter::family(process.id());
        let spent = || {
            // What is still done after the last answer is a cost, too.
            thread::sleep(SETTLE);
            meter::cpu_seconds(&family)
        };
        let before = spent();
        let asked = lanes.ask(requests)?;
        let request = (spent() - before) * 1e6 / asked as f64;

        let each = bench.flags.size / (2 * ROUNDS * AT_ONCE) as u64;
        let last = road(self.connections - 1);
        drive::at_once(AT_ONCE, || drive::pull(&last, each.min(WARM_BYTES)))?;
        drive::at_once(AT_ONCE, || drive::push(&last, bodies, each.min(WARM_BYTES)))?;
        let before = spent();
        for _ in 0..ROUNDS {
            drive::at_once(AT_ONCE, || drive::pull(&last, each))?;
            drive::at_once(AT_ONCE, || drive::push(&last, bodies, each))?;
        }
        let moved = (2 * ROUNDS * AT_ONCE) as u64 * each;
        let byte = (spent() - before) / gib(moved);
        drop(lanes);
        Ok(Reading { request, byte })
    }
}

const WARM_REQUESTS: usize = 2048;
const AT_ONCE: usize = 4;
const ROUNDS: usize = 2;
const WARM_BYTES: u64 = 8 << 20;
const SETTLE: Duration = Duration::from_millis(30);
/// What still counts as flat: two measurements of the same repeat within about as much.
const FLAT: f64 = 1.10;
