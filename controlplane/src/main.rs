//! The verbs. Exit codes: 0 clean, 1 failed, 2 usage.

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use controlplane::config::{CommandLine, Verb};
use controlplane::{authority, check, controller, csi, proxy, seccomp};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = CommandLine::parse();
    match run(command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cause) => {
            // Each error tells its cause itself.
            eprintln!("harbor-connector: {cause}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the verb; whether it ended clean.
fn run(command: CommandLine) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match command.verb {
        Verb::Proxy(flags) => {
            drop(out);
            Ok(proxy::run(&flags)?)
        }
        Verb::Csi(flags) => {
            drop(out);
            Ok(csi::run(&flags)?)
        }
        Verb::Controller(flags) => {
            drop(out);
            controller::run(&flags)?;
            Ok(true)
        }
        Verb::Ca(flags) => {
            authority::step(&flags, &mut out)?;
            Ok(true)
        }
        Verb::Check(flags) => Ok(check::check(&flags, &mut out)?),
        Verb::Crds => {
            check::crds(&mut out)?;
            Ok(true)
        }
        Verb::Seccomp(flags) => {
            seccomp::seccomp(&flags, &mut out)?;
            Ok(true)
        }
    }
}
