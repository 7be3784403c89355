//! The verbs' results, drawn: a page to look at and a table to paste.
//!
//! Results files in; a self-contained HTML page, a Markdown table, or the table on stdout out. The
//! page needs no network and no script, so it can be mailed, kept, and opened years later. Nothing
//! here measures, and no figure is smoothed: what is drawn is what was written.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub(crate) mod runs;
pub(crate) mod words;
mod canvas;
mod bars;
mod curves;
mod markdown;
mod page;
#[cfg(test)]
mod tests;

use runs::Run;

/// The verb `report`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Results files, as `run` and `compare` write them.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write a page with plots; it needs neither network nor scripts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the table as Markdown; without this and --html it goes to stdout.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Runs the verb `report`.
///
/// # Errors
/// When a file cannot be read or written, or holds no results.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for path in &flags.files {
        all.extend(read(path)?);
    }
    if let Some(path) = &flags.html {
        write(path, &page::of(&all))?;
    }
    if let Some(path) = &flags.markdown {
        write(path, &markdown::of(&all))?;
    }
    if flags.html.is_none() && flags.markdown.is_none() {
        print!("{}", markdown::of(&all));
    }
    Ok(())
}

/// The runs in the file at `path`, oldest first; there is at least one.
///
/// # Errors
/// When the file cannot be read or holds no figures.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Run>> {
    let shown = path.display();
    let lines = crate::results::read(path).with_context(|| format!("reading {shown}"))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let runs = runs::of(&name, lines);
    anyhow::ensure!(!runs.is_empty(), "{shown} holds no figures: is it what `run` wrote?");
    Ok(runs)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
