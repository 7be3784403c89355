//! The verb `run`: a load on a registry or a proxy, and a table of how it fared.
//!
//! Flags, and a plan file if there is one, in; progress on stderr, a table on stdout, lines of JSON
//! in a file, and an error where requests failed. Ctrl-C ends the load and shows what there is.

use std::path::PathBuf;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};

mod bar;
mod table;
#[cfg(test)]
mod tests;

use bar::Bar;

use crate::interrupt;
use crate::load::{self, Outcome};
use crate::plan::{Fields, Plan};
use crate::results::{self, Line};

/// The verb `run`: every flag but these three may stand in the plan file, too.
#[derive(clap::Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    fields: Fields,
    /// TOML file with fields named like these flags; a flag wins over it
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// File to append the results to, as lines of JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Upload what the scenario needs, and end
    #[arg(long, conflicts_with = "no_set_up")]
    only_set_up: bool,
}

/// Runs the load. An interrupted one ends the process with 130, as a shell expects.
///
/// # Errors
/// When the load cannot be run, or more requests failed than may.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    interrupt::listen(move |time| match time {
        1 => asked.store(true, Ordering::Relaxed),
        _ => exit(interrupt::EXIT_CODE),
    })?;
    if carry_out(flags, &stop)? == Ending::Interrupted {
        exit(interrupt::EXIT_CODE);
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    Interrupted,
}

fn carry_out(flags: Flags, stop: &AtomicBool) -> anyhow::Result<Ending> {
    let Flags { fields, plan, json, only_set_up } = flags;
    let fields = match plan {
        Some(path) => fields.over(&path)?,
        None => fields,
    };
    let plan = fields.into_plan()?;
    let mut bar = Bar::new();
    if only_set_up {
        load::prepare(&plan, stop, |progress| bar.show(progress))?;
        bar.end();
        return Ok(Ending::Whole);
    }
    let outcome = load::run(&plan, stop, |progress| bar.show(progress))?;
    bar.end();
    print!("{}", table::table(&plan, &outcome));
    if let Some(path) = json {
        let lines = [Line::Machine(crate::machine::describe()), Line::Load(outcome.load.clone())];
        results::append(&path, &lines).with_context(|| format!("writing {}", path.display()))?;
    }
    if outcome.interrupted {
        return Ok(Ending::Interrupted);
    }
    judge(&plan, &outcome)?;
    Ok(Ending::Whole)
}

fn judge(plan: &Plan, outcome: &Outcome) -> anyhow::Result<()> {
    let failed: u64 = outcome.load.failures.values().sum();
    if failed > plan.allow_failures {
        bail!("{failed} requests failed, {} may", plan.allow_failures);
    }
    Ok(())
}
