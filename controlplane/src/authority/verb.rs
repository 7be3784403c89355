//! The verb `ca`: shows a CA, or takes a step of its rotation and then shows it.
//!
//! Flags in, lines for people out. The CA is that of a folder, or of a cluster; the steps are the
//! same. It makes no CA: that is the proxy's.

use std::io;

use time::OffsetDateTime;
use tokio::runtime;

use super::folder::{self, Folder};
use super::secret::{self, Place};
use crate::cluster;
use crate::config::{CaFlags, CaStep};
use crate::proxy::default_folder;

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// The objects of a cluster.
    #[error(transparent)]
    Secret(#[from] secret::Error),
    /// There is no way to a cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// There is nothing to show.
    #[error("{0}")]
    Nothing(&'static str),
    /// The next root has not reached those who must trust it.
    #[error("{0} does not hold the next root yet: a running proxy publishes it within seconds")]
    Unpublished(String),
    /// What the system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Shows the CA that `flags` name, after the step that they ask for.
pub fn step(flags: &CaFlags, out: &mut impl io::Write) -> Result<(), VerbError> {
    let lines = if flags.cluster {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(in_cluster(flags))?
    } else {
        in_folder(flags)?
    };
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn in_folder(flags: &CaFlags) -> Result<Vec<String>, VerbError> {
    let path = flags.ca_dir.clone().or_else(default_folder);
    let path = path.ok_or(VerbError::Nothing("no folder is known: name one with --ca-dir"))?;
    if !path.is_dir() {
        let nothing = "there is no CA here yet: `proxy` makes it at its first start";
        return Err(VerbError::Nothing(nothing));
    }
    let folder = Folder::open(&path)?;
    if flags.step != CaStep::Show {
        folder.take(flags.step, OffsetDateTime::now_utc())?;
    }
    let mut lines = vec![folder.bundle().display().to_string()];
    lines.extend(folder.described()?);
    Ok(lines)
}

async fn in_cluster(flags: &CaFlags) -> Result<Vec<String>, VerbError> {
    let place = Place::new(cluster::client().await?, &flags.installed.namespace);
    let published = place.published().await?;
    let stored = place.stored().await?.filter(|stored| !stored.kept.is_empty());
    let nothing = "there is no CA in this cluster yet: `proxy` makes it at its first start";
    let stored = stored.ok_or(VerbError::Nothing(nothing))?;
    let mut kept = stored.kept.clone();
    let failed = |cause| place.content(cause);
    let bundle = kept.certificates().map_err(failed)?;
    let is_published = |bundle: &str| {
        published.as_ref().is_some_and(|published| published.bundle.trim() == bundle.trim())
    };
    if flags.step == CaStep::SignWithNext && !is_published(&bundle) {
        return Err(VerbError::Unpublished(place.bundle_name()));
    }
    if flags.step != CaStep::Show {
        kept.take(flags.step, OffsetDateTime::now_utc()).map_err(failed)?;
        place.replace(&stored, &kept).await?;
    }
    let state = match is_published(&kept.certificates().map_err(failed)?) {
        true => "holds these certificates",
        false => "is to hold these certificates: a running proxy sees to it",
    };
    let mut lines = vec![place.secret_name()];
    lines.extend(kept.described().map_err(failed)?);
    lines.push(format!("{} {state}", place.bundle_name()));
    Ok(lines)
}
