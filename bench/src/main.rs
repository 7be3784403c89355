//! The `bench` program: loads, comparisons and their reports, an embedded registry, and a demo.
//!
//! Flags in, an exit code out: 0 when all held, 1 when something failed, 2 for wrong usage. Each
//! verb has a file of its own; nothing is decided here.

use std::process::ExitCode;

use clap::Parser;

// The verbs.
mod run;
mod compare;
mod growth;
mod report;
mod diff;
mod counts;
mod registry;
mod demo;
mod floor;

// What a load is, and what becomes of it.
mod plan;
mod load;
mod results;

// What the verbs stand on.
mod caller;
mod wire;
mod framing;
mod memory;
mod machine;
mod meter;
mod child;
mod interrupt;
mod values;
mod calendar;

/// Load testing for people who run registries.
#[derive(clap::Parser)]
#[command(version)]
struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Put a load on a registry or a proxy, and say how it fared.
    Run(Box<run::Flags>),
    /// Measure our proxy, other people's and a bare relay on the same work.
    Compare(compare::Flags),
    /// Measure our proxy alone as there is more of everything: connectors, connections, elephants.
    Growth(growth::Flags),
    /// Draw results: a page with plots, a table.
    Report(report::Flags),
    /// Compare two runs.
    Diff(diff::Flags),
    /// Count the instructions of the data plane's pure stages.
    Counts(counts::Flags),
    /// Serve an OCI registry from memory.
    Registry(registry::Flags),
    /// Push and pull a layer through the real proxy, and say what the registry saw.
    Demo(demo::Flags),
    /// Relay bytes to an origin with splice(2) and nothing else.
    #[command(hide = true)]
    Floor(floor::Flags),
}

fn main() -> ExitCode {
    let ended = match Flags::parse().verb {
        Verb::Registry(flags) => registry::run(flags),
        Verb::Report(flags) => report::run(&flags),
        Verb::Diff(flags) => diff::run(&flags),
        Verb::Counts(flags) => counts::run(&flags),
        Verb::Demo(flags) => demo::run(&flags),
        Verb::Run(flags) => run::run(*flags),
        Verb::Compare(flags) => compare::run(&flags),
        Verb::Growth(flags) => growth::run(&flags),
        Verb::Floor(flags) => floor::run(&flags),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("bench: {cause:#}");
            ExitCode::FAILURE
        }
    }
}
