//! The `bench` program: an embedded registry, a demo, and room for the load harness.
//!
//! Flags in, an exit code out: 0 when all held, 1 when something failed, 2 for wrong usage. Each
//! verb has a file of its own; nothing is decided here.

use std::process::ExitCode;

use clap::Parser;

mod registry;
mod demo;
mod run;

mod plan;
mod load;

mod results;
mod calendar;
mod report;
mod diff;
mod counts;
mod caller;
mod framing;
mod wire;
mod memory;

/// Load testing for people who run registries.
#[derive(clap::Parser)]
#[command(version)]
struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Serve an OCI registry from memory.
    Registry(registry::Flags),
    /// Draw results: a page with plots, a table.
    Report(report::Flags),
    /// Compare two runs.
    Diff(diff::Flags),
    /// Count the instructions of the data plane's pure stages.
    Counts(counts::Flags),
    /// Push and pull a layer through the real proxy, and say what the registry saw.
    Demo(demo::Flags),
    /// Put a load on a registry or a proxy, and say how it fared.
    Run(Box<run::Flags>),
}

fn main() -> ExitCode {
    let ended = match Flags::parse().verb {
        Verb::Registry(flags) => registry::run(flags),
        Verb::Report(flags) => report::run(&flags),
        Verb::Diff(flags) => diff::run(&flags),
        Verb::Counts(flags) => counts::run(&flags),
        Verb::Demo(flags) => demo::run(&flags),
        Verb::Run(flags) => run::run(*flags),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("bench: {cause:#}");
            ExitCode::FAILURE
        }
    }
}
