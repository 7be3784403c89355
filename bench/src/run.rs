//! The verb `run`.
/// Flags
#[derive(clap::Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    fields: crate::plan::Fields,
}
/// Runs.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    let plan = flags.fields.into_plan()?;
    let outcome = crate::load::run(&plan, &std::sync::atomic::AtomicBool::new(false), |p| {
        eprintln!("{p:?}")
    })?;
    println!("{:?}", outcome.load);
    Ok(())
}
