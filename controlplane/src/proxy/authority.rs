//! Where the interception CA is kept, and whether there is one.
//!
//! A flag in, a folder and a root out. A folder that was asked for must work; the default one may
//! be out of reach, and then callers are served without TLS.

use std::env;
use std::path::PathBuf;

use rustix::process::geteuid;
use time::OffsetDateTime;

use crate::authority::folder::{self, Folder};
use crate::authority::{self, Authority};
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

/// Opens the CA that `flags` name. `None`, with a line in the log, where the default cannot be had.
pub(super) fn open(flags: &ProxyFlags) -> Result<Option<(Folder, Authority)>, Error> {
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

fn at(path: PathBuf) -> Result<(Folder, Authority), Error> {
    let folder = Folder::open(&path)?;
    let root = folder.root(OffsetDateTime::now_utc())?;
    let left = root.until() - OffsetDateTime::now_utc();
    if left < time::Duration::days(EXPIRY_NOTICE_DAYS) {
        tracing::warn!(days = left.whole_days(), "the CA's root ends soon: rotate it");
    }
    Ok((folder, Authority::new(root)?))
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
