//! Growth: what becomes of our proxy's costs and waits as there is more of everything.
//!
//! Names of cases in, a table and lines of JSON out. It measures our proxy alone, on one core and
//! against itself: a request beside eight large bodies against the same one without them, ten
//! thousand connectors against one, thousands of connections against a few, a core while a large
//! snapshot is published against the same one left alone. The figure is the ratio.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};

mod crowd;
mod elephants;
mod fairness;
mod folder;
mod lanes;
mod mild;
mod prober;
mod publishing;
mod table;
mod threads;
#[cfg(test)]
mod tests;

use crate::compare::Driver;
use crate::compare::ground::{self, Ground};
use crate::compare::machine;
use crate::compare::steps::Steps;
use crate::results::{self, Cost, Line};
use crate::values::Span;

/// The verb `growth`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// What to measure; everything by default.
    #[arg(long, value_delimiter = ',', value_enum)]
    cases: Vec<Case>,
    /// How often.
    #[arg(long, value_name = "N", default_value_t = 5)]
    reps: usize,
    /// Which I/O drivers to measure.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "uring,epoll")]
    io: Vec<Driver>,
    /// The most connectors; the other steps of `connectors` are a hundredth of it, and one.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connectors: usize,
    /// The most connections; the other steps of `connections` are those of 1, 64 and 1,000 below.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    connections: usize,
    /// How many requests a step of `connectors` and `connections` makes.
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    requests: usize,
    /// How much such a step moves, in sixteen transfers.
    #[arg(long, default_value = "1GiB", value_parser = crate::values::bytes)]
    size: u64,
    /// How long `fairness` takes the time of HEADs, each time.
    #[arg(long, value_name = "TIME", default_value = "2500ms")]
    window: Span,
    /// Append the results to this file, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Stay in the network namespace that is there.
    #[arg(long)]
    no_namespace: bool,
    /// Set by the program itself when it starts again in a namespace of its own.
    #[arg(long, hide = true)]
    inside_namespace: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// A HEAD's latency beside eight large bodies, of both framings and both directions.
    Fairness,
    /// The same beside bodies that go to and from a registry over TLS.
    FairnessTls,
    /// CPU time of a request and of a byte with 1, 100, 10,000 connectors.
    Connectors,
    /// CPU time of a request and of a byte with 1, 64, 1,000, 5,000 connections.
    Connections,
    /// How long a core stands still while 10,000 connectors are published.
    Publishing,
    /// The same with the control plane on other processors than the core.
    PublishingApart,
}

/// What a case needs to be measured.
struct Bench<'a> {
    flags: &'a Flags,
    ground: &'a Ground,
    driver: Driver,
    steps: Steps,
}

impl Bench<'_> {
    /// The name in results.
    fn name(&self) -> String {
        self.driver.contender().name().to_owned()
    }

    fn cost(&self, case: String, unit: &str, samples: Vec<f64>) -> Cost {
        let unit = unit.to_owned();
        Cost { contender: self.name(), case, unit, samples, ..Cost::default() }
    }
}

/// Runs the verb `growth`.
///
/// # Errors
/// When nothing can be measured, or something failed; what was measured is shown and kept even
/// then.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    ground::enter(flags.inside_namespace, flags.no_namespace)?;
    // Counted before this process gives one away.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let ground = Ground::prepare()?;
    let contenders: Vec<_> = flags.io.iter().map(|driver| driver.contender()).collect();
    let machine = machine::describe(&contenders, cpus, flags.inside_namespace);
    eprintln!(
        "{} × {}, kernel {}, congestion control {}; the proxy on processor {}",
        machine.cpus, machine.cpu, machine.kernel, machine.congestion_control, ground.cpu
    );
    let mut costs = Vec::new();
    let ended = measure(flags, &ground, &mut costs);
    print!("{}", table::of(&costs));
    let mut lines = vec![Line::Machine(machine)];
    lines.extend(costs.into_iter().map(Line::Cost));
    if let Some(path) = &flags.json {
        results::append(path, &lines).with_context(|| format!("writing {}", path.display()))?;
    }
    ended?;
    ensure!(lines.len() > 1, "nothing was measured");
    Ok(())
}

fn measure(flags: &Flags, ground: &Ground, costs: &mut Vec<Cost>) -> anyhow::Result<()> {
    let all = [
        Case::Fairness,
        Case::FairnessTls,
        Case::Connectors,
        Case::Connections,
        Case::Publishing,
        Case::PublishingApart,
    ];
    let cases = if flags.cases.is_empty() { &all[..] } else { &flags.cases };
    for case in cases {
        for driver in &flags.io {
            if ground.stop.asked() {
                eprintln!("\nended early: this is what was measured until then");
                return Ok(());
            }
            let steps = Steps::new(case.steps(flags, *driver));
            let mut bench = Bench { flags, ground, driver: *driver, steps };
            let found = case.measure(&mut bench);
            let name = format!("{case:?} with {}", bench.name());
            match found {
                Ok(found) => costs.extend(found),
                // Whatever was under way was ended with the run, and failed of that.
                Err(_) if ground.stop.asked() => {}
                Err(cause) => return Err(cause.context(name)),
            }
        }
    }
    Ok(())
}

impl Case {
    /// How many measurements it takes.
    fn steps(self, flags: &Flags, driver: Driver) -> usize {
        let each = match self {
            Self::Fairness | Self::FairnessTls => fairness::STEPS,
            Self::Connectors => crowd::connectors(flags).len(),
            Self::Connections => crowd::connections(flags, driver).len(),
            Self::Publishing | Self::PublishingApart => publishing::STEPS,
        };
        each * flags.reps
    }

    fn measure(self, bench: &mut Bench<'_>) -> anyhow::Result<Vec<Cost>> {
        match self {
            Self::Fairness => fairness::measure(bench, false),
            Self::FairnessTls => fairness::measure(bench, true),
            Self::Connectors => crowd::measure(bench, &crowd::connectors(bench.flags)),
            Self::Connections => {
                crowd::measure(bench, &crowd::connections(bench.flags, bench.driver))
            }
            Self::Publishing => publishing::measure(bench, false),
            Self::PublishingApart => publishing::measure(bench, true),
        }
    }
}
