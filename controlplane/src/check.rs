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

/// Prints every problem of the folder, or one line that says what it holds. Whether it is clean.
pub fn check(flags: &CheckFlags, out: &mut impl Write) -> io::Result<bool> {
    let objects = match Folder::new(&flags.folder).texts().map(|texts| texts.objects()) {
        Ok(Ok(objects)) => objects,
        Ok(Err(reasons)) => {
            for reason in reasons {
                writeln!(out, "{reason}")?;
            }
            return Ok(false);
        }
        Err(reason) => {
            writeln!(out, "{reason}")?;
            return Ok(false);
        }
    };
    // Which roots this machine has says nothing about the manifests.
    let compiled = compile(&objects, &Trust { id: 0, anchors: Vec::new() }.into());
    for problem in &compiled.problems {
        writeln!(out, "{problem}")?;
    }
    if compiled.problems.is_empty() {
        let callers = compiled.table.accounts();
        writeln!(out, "{} connectors, {callers} callers, no problems", compiled.connectors.len())?;
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
