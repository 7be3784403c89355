//! The verb `seccomp`: the profile under which the proxy may use io_uring, for a node's runtime.
//!
//! Nothing in but where to; the profile out, as this version of the program needs it. It never
//! changes anything else of the node.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::SeccompFlags;

/// Why the profile is not where it was wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be written to the file.
    #[error("cannot install the profile as {0}: {1}")]
    Install(PathBuf, #[source] io::Error),
    /// Nobody takes the text.
    #[error("stdout: {0}")]
    Print(#[from] io::Error),
}

/// Prints the profile, or installs it.
pub fn seccomp(flags: &SeccompFlags, out: &mut impl Write) -> Result<(), Error> {
    let Some(path) = &flags.install else {
        return Ok(out.write_all(PROFILE.as_bytes())?);
    };
    install(path).map_err(|cause| Error::Install(path.clone(), cause))?;
    Ok(writeln!(out, "installed {}", path.display())?)
}

/// Puts the profile at `path`, whole or not at all.
fn install(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let mut next = name.to_owned();
    // Two installers at once each write a file of their own.
    next.push(format!(".{}.next", std::process::id()));
    let next = path.with_file_name(next);
    let written = write(&next).and_then(|()| fs::rename(&next, path));
    if written.is_err() {
        // What was there before stays; what is half written goes, if it can.
        let _ = fs::remove_file(&next);
    }
    written
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    // The runtime that reads it may be another user than the one that installs it.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(PROFILE.as_bytes())?;
    file.sync_all()
}

/// The profile that `deploy/io-uring` describes.
const PROFILE: &str = include_str!("../../deploy/io-uring/seccomp.json");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_profile_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("io-uring.json");
        fs::write(&path, "{}").unwrap();
        let flags = SeccompFlags { install: Some(path.clone()) };
        seccomp(&flags, &mut Vec::new()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), PROFILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let flags = SeccompFlags { install: Some(folder.path().join("no/profile.json")) };
        let refused = seccomp(&flags, &mut Vec::new()).unwrap_err().to_string();
        assert!(refused.contains("no/profile.json"), "{refused}");
    }
}
