//! A small request beside large bodies: how much longer a HEAD takes on a core that streams.
//!
//! One proxy on one core, HEADs by the clock on one kept connection, and eight elephants that come
//! and go. In each repetition the HEADs are timed without and with them, a moment apart, and the
//! figure is the ratio of the two. Whoever takes the time goes before the load on the processor
//! that both share; what they still delay each other shows in HEADs that pass no proxy.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::elephants::{self, Elephants};
use super::folder::Folder;
use super::prober::Prober;
use super::{Bench, lanes};
use crate::compare::at;
use crate::compare::contenders::road;
use crate::compare::drive::{Bodies, Road};
use crate::compare::origin;
use crate::results::{Cost, Verdict, ratio};

/// Measurements a repetition.
pub(super) const STEPS: usize = 1;

/// What one window of HEADs showed, in microseconds.
#[derive(Clone, Copy)]
struct Window {
    p50: f64,
    p99: f64,
}

/// One repetition.
struct Round {
    idle: Window,
    beside: Window,
    direct: Window,
    gib_per_second: f64,
}

/// Measures it, with the elephants' registry in plaintext or `sealed`.
pub(super) fn measure(bench: &mut Bench<'_>, sealed: bool) -> anyhow::Result<Vec<Cost>> {
    let ground = bench.ground;
    let theirs = elephants::origin()?;
    let folder = Folder::make(ground.folder.path(), "fairness", &ground.origin)?;
    folder.add("small", ground.origin.plain, None)?;
    match sealed {
        false => folder.add("large", theirs.plain, None)?,
        true => folder.add("large", theirs.sealed, Some(&theirs.ca))?,
    }
    let proxy = lanes::serve(bench, &folder)?;
    let straight = Road {
        address: ground.origin.plain,
        path: "/v2/team/app".to_owned(),
        authorization: origin::authorization(origin::USER, origin::PASSWORD),
        inside: None,
    };
    let mut through = Prober::of_heads(&road(proxy.address, "small"))?;
    let mut past = Prober::of_heads(&straight)?;
    let (large, bodies) = (road(proxy.address, "large"), Arc::new(Bodies::new()?));
    let mut rounds = Vec::new();
    for repetition in 0..=bench.flags.reps {
        let step = format!("fairness {repetition}/{} {}", bench.flags.reps, bench.name());
        let round = round(&mut through, &mut past, &large, &bodies, bench.flags.window.0)?;
        // The first one warms everything up.
        if repetition > 0 {
            let (idle, beside) = (round.idle.p99, round.beside.p99);
            bench.steps.end(&step, &format!("p99 {idle:.0} µs, beside elephants {beside:.0} µs"));
            rounds.push(round);
        }
    }
    drop(proxy);
    Ok(costs(bench, &rounds, if sealed { "-tls" } else { "" }))
}

fn round(
    through: &mut Prober,
    past: &mut Prober,
    large: &Road,
    bodies: &Arc<Bodies>,
    time: Duration,
) -> anyhow::Result<Round> {
    let idle = window(through, time)?;
    let herd = Elephants::start(large, bodies)?;
    thread::sleep(RAMP);
    let (moved, started) = (herd.moved(), Instant::now());
    let beside = window(through, time).context("beside elephants")?;
    let seconds = started.elapsed().as_secs_f64();
    let moved = herd.moved() - moved;
    let direct = window(past, time / 2)?;
    herd.stop()?;
    thread::sleep(RAMP);
    ensure!(moved > 0, "the elephants stood still");
    let gib_per_second = moved as f64 / seconds / (1_u64 << 30) as f64;
    Ok(Round { idle, beside, direct, gib_per_second })
}

fn window(prober: &mut Prober, window: Duration) -> anyhow::Result<Window> {
    let took = prober.paced(PAUSE, window)?;
    let of = |share| at(&took, share).unwrap_or_default() as f64 / 1e3;
    Ok(Window { p50: of(50.0), p99: of(99.0) })
}

fn costs(bench: &Bench<'_>, rounds: &[Round], suffix: &str) -> Vec<Cost> {
    let of = |case: &str, pick: fn(&Round) -> f64| {
        let samples = rounds.iter().map(pick).collect();
        bench.cost(format!("{case}{suffix}"), "us", samples)
    };
    let idle = of("head-p99-idle", |round| round.idle.p99);
    let mut beside = of("head-p99-elephants", |round| round.beside.p99);
    beside.gib_per_second = rounds.iter().map(|round| round.gib_per_second).collect();
    let mut fairness = bench.cost(
        format!("fairness{suffix}"),
        "ratio",
        rounds.iter().map(|round| round.beside.p99 / round.idle.p99).collect(),
    );
    fairness.verdict = Some(Verdict {
        must: "a HEAD's p99 beside eight elephants at most 2.00 of an idle core's".to_owned(),
        figure: ratio(&beside, &idle),
        limit: 2.0,
    });
    vec![
        of("head-p50-idle", |round| round.idle.p50),
        of("head-p50-elephants", |round| round.beside.p50),
        idle,
        beside,
        of("head-p50-direct", |round| round.direct.p50),
        of("head-p99-direct", |round| round.direct.p99),
        fairness,
    ]
}

/// About 700 HEADs a second: a core that has nothing else to do sleeps between them.
const PAUSE: Duration = Duration::from_millis(1);
/// Until pipes and windows have the size that they keep.
const RAMP: Duration = Duration::from_millis(300);
