//! Where the interception CA is kept, and whether there is one.
//!
//! Flags in, a keeper and what signs out. A folder that was asked for must work; the default one,
//! and the objects of a cluster, may be out of reach, and then callers are served without TLS.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use rustix::process::geteuid;
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::authority::commission::Keeper;
use crate::authority::folder::{self, Folder};
use crate::authority::secret::Place;
use crate::authority::{self, Authority, cluster};
use crate::config::ProxyFlags;

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// What signs.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// Neither a home nor a state directory.
    #[error("no folder for it: name one with --ca-dir")]
    Nowhere,
}

/// Where the CA is kept, and what signs if its root is known already.
pub(super) type Ca = (Keeper, Option<Authority>);

/// Opens the CA of a folder. `None`, with a line in the log, where the default cannot be had.
pub(super) fn in_folder(flags: &ProxyFlags) -> Result<Option<Ca>, Error> {
    let opened = match &flags.forward.ca_dir {
        Some(path) => return at(path.clone()).map(Some),
        None => default_folder().ok_or(Error::Nowhere).and_then(at),
    };
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(cause) => {
            tracing::warn!(%cause, "no interception CA: callers are served without TLS");
            Ok(None)
        }
    }
}

/// Opens the CA of a cluster, unless a folder was asked for. Its root is waited for a moment, and
/// may come later.
pub(super) async fn in_cluster(flags: &ProxyFlags, client: Client) -> Result<Option<Ca>, Error> {
    if flags.forward.ca_dir.is_some() {
        return in_folder(flags);
    }
    let place = Place::new(client, &flags.forward.installed.namespace);
    let name = place.bundle_name();
    let (roots, first) = cluster::follow(place, flags.forward.ca_overlap_seconds);
    if timeout(FIRST_WAIT, first).await.is_err() {
        tracing::warn!("no interception CA so far: callers are served without TLS");
    }
    let authority = roots.take().map(Authority::new).transpose()?;
    Ok(Some((Keeper::Cluster(roots, name), authority)))
}

fn at(path: PathBuf) -> Result<Ca, Error> {
    let folder = Folder::open(&path)?;
    // Looked at before it is read: what changes between the two is seen as a change.
    let seen = folder.seen();
    let root = folder.root(OffsetDateTime::now_utc())?;
    let left = root.until() - OffsetDateTime::now_utc();
    if left < time::Duration::days(EXPIRY_NOTICE_DAYS) {
        tracing::warn!(days = left.whole_days(), "the CA's root ends soon: rotate it");
    }
    Ok((Keeper::Folder(folder, seen), Some(Authority::new(root)?)))
}

/// Where state is kept that is not configured (systemd.exec(5), the XDG base directories).
pub(crate) fn default_folder() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(state) = variable("STATE_DIRECTORY") {
        return Some(PathBuf::from(state).join("ca"));
    }
    if geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/harbor-connector/ca"));
    }
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = variable("XDG_STATE_HOME").map(PathBuf::from).or_else(home)?;
    Some(state.join("harbor-connector/ca"))
}

const EXPIRY_NOTICE_DAYS: i64 = 60;

/// How long a start waits for the CA of a cluster. The API server has answered a moment ago.
const FIRST_WAIT: Duration = Duration::from_secs(5);
