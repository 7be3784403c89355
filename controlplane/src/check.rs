//! The verbs that only print: `check`, which says what is wrong with a folder, and `crds`.
//!
//! A folder in, lines on stdout and a yes or no out. Nothing is started and nothing is connected
//! to, so `check` can run wherever manifests are reviewed.

use std::io::{self, Write};

use dataplane::vocabulary::Trust;
use kube::CustomResourceExt as _;

use crate::compile::compile;
use crate::config::CheckFlags;
use crate::crd::{Connector, ConnectorClass};
use crate::source::file::Folder;
use crate::source::manifest::Unreadable;

/// Why nothing could be checked or printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder itself could not be read.
    #[error("{0}")]
    Folder(#[from] Unreadable),
    /// Nobody takes the lines.
    #[error("stdout: {0}")]
    Print(#[from] io::Error),
}

/// Prints every problem of the folder, or one line that says what it holds. Whether it is clean.
pub fn check(flags: &CheckFlags, out: &mut impl Write) -> Result<bool, Error> {
    let objects = match Folder::new(&flags.folder).texts()?.objects() {
        Ok(objects) => objects,
        Err(reasons) => {
            for reason in reasons {
                writeln!(out, "{reason}")?;
            }
            return Ok(false);
        }
    };
    // Which roots this machine has says nothing about the manifests.
    let compiled = compile(&objects, &Trust { id: 0, anchors: Vec::new() }.into());
    for problem in &compiled.problems {
        writeln!(out, "{problem}")?;
    }
    if compiled.problems.is_empty() {
        let (connectors, callers) = (compiled.connectors.len(), compiled.table.accounts());
        writeln!(out, "no problems (connectors: {connectors}, callers: {callers})")?;
    }
    Ok(compiled.problems.is_empty())
}

/// Prints both custom resource definitions as YAML.
pub fn crds(out: &mut impl Write) -> io::Result<()> {
    for definition in [Connector::crd(), ConnectorClass::crd()] {
        let text = serde_saphyr::to_string(&definition).map_err(io::Error::other)?;
        writeln!(out, "---\n{}", text.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
