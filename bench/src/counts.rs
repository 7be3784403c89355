//! How many instructions the pure stages of the data plane take, and whether that rose.
//!
//! Stages in; a table, an exit code and, where asked, a file of figures to keep in git out. On a
//! machine that does other things time is noise, but the same work takes the same instructions. It
//! says nothing of caches, of the kernel, or of what a stage waits for.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

mod callgrind;
mod kept;

use kept::{Counts, Kept};

/// The verb `counts`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Keep the figures of this run as the ones to compare with.
    #[arg(long)]
    update: bool,
    /// Fail when a stage takes more instructions than this many percent beyond the kept figure.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    fail_over: f64,
    /// The folder of kept figures.
    #[arg(long, value_name = "DIR", default_value = "bench/counts")]
    kept: PathBuf,
    /// Do one stage's work and nothing else: what is run under callgrind.
    #[arg(long, hide = true, requires = "iterations")]
    stage: Option<String>,
    /// How often.
    #[arg(long, hide = true, requires = "stage")]
    iterations: Option<u64>,
}

/// Runs the verb `counts`.
///
/// # Errors
/// When a count cannot be made, or rose beyond the limit.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    if let (Some(stage), Some(times)) = (&flags.stage, flags.iterations) {
        return repeat(stage, times);
    }
    ensure!(!stages().is_empty(), "{HOW_TO_BUILD}");
    let Some(version) = callgrind::version() else {
        // Not a failure: a machine without the tool has shown nothing, for or against.
        println!("skipped: valgrind is not installed (Debian: apt-get install valgrind)");
        return Ok(());
    };
    let path = flags.kept.join(format!("{}-{PROFILE}.json", std::env::consts::ARCH));
    let kept = kept::read(&path)?;
    let counts = count_all()?;
    print!("{}", kept::table(&counts, kept.as_ref()));
    if flags.update {
        return keep(&path, Kept { valgrind: version, instructions: counts });
    }
    let Some(kept) = kept else {
        bail!("no figures are kept in {}: keep these with `bench counts --update`", path.display());
    };
    let risen = kept::risen(&counts, &kept.instructions, flags.fail_over);
    if kept.valgrind != version {
        println!("kept figures are of {}, these of {version}", kept.valgrind);
    }
    ensure!(
        risen.is_empty(),
        "more than {} % above the kept figures: {}\nWhere the rise is worth its price, keep the \
         new figures with `bench counts --update` and say why in the commit.",
        flags.fail_over,
        risen.join(", ")
    );
    Ok(())
}

fn keep(path: &Path, kept: Kept) -> anyhow::Result<()> {
    kept::write(path, &kept).with_context(|| format!("writing {}", path.display()))?;
    println!("kept in {}", path.display());
    Ok(())
}

/// Instructions an operation of every stage. Start-up and the making of inputs cancel out: they are
/// the same in a run of N operations and in one of 2N.
fn count_all() -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for stage in stages() {
        let once = callgrind::count(stage, ITERATIONS)?;
        let twice = callgrind::count(stage, ITERATIONS * 2)?;
        ensure!(twice > once, "{stage}: twice the work took no more instructions");
        counts.insert((*stage).to_owned(), (twice - once).div_ceil(ITERATIONS));
    }
    Ok(counts)
}

#[cfg(feature = "counts")]
fn stages() -> &'static [&'static str] {
    &dataplane::counting::STAGES
}

#[cfg(not(feature = "counts"))]
fn stages() -> &'static [&'static str] {
    &[]
}

#[cfg(feature = "counts")]
fn repeat(stage: &str, times: u64) -> anyhow::Result<()> {
    dataplane::counting::repeat(stage, times).map_err(|why| anyhow::anyhow!("{stage}: {why}"))
}

#[cfg(not(feature = "counts"))]
fn repeat(_stage: &str, _times: u64) -> anyhow::Result<()> {
    bail!("{HOW_TO_BUILD}")
}

const HOW_TO_BUILD: &str = "this build has no stages to count; they come with a feature: \
    cargo run --release -p bench --features counts -- counts";
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };
/// Enough that what happens once in many operations, such as a table that grows, is spread thin.
const ITERATIONS: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "counts")]
    #[test]
    fn every_stage_can_be_repeated() {
        assert!(!stages().is_empty());
        for stage in stages() {
            repeat(stage, 2).unwrap();
        }
        assert!(repeat("other", 1).is_err());
    }

    #[cfg(not(feature = "counts"))]
    #[test]
    fn a_build_without_stages_says_how_to_get_them() {
        let kept = PathBuf::from("none");
        let flags = Flags { update: false, fail_over: 5.0, kept, stage: None, iterations: None };
        let why = run(&flags).unwrap_err().to_string();
        assert!(why.contains("--features counts"), "{why}");
    }
}
