//! Unix sockets that the kubelet connects to.
//!
//! An address in, a listening socket out, for root alone. Callers must send an `:authority` that
//! is one, such as `localhost`: kubelets before 1.26 send the socket's path, which h2 refuses as
//! RFC 9113 §8.3.1 wants (kubernetes/kubernetes, pull request 112597). What a process that ended
//! left in the socket's place is removed; anything else that lies there is not.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A socket that is removed with its owner.
pub(super) struct Socket {
    /// The listener, until it is taken.
    pub(super) listener: Option<UnixListener>,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::other("something lies there that is no socket")),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
        let listener = Some(UnixListener::bind(path)?);
        // The mask of the process has kept others out since it was bound.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whoever starts next removes what could not be removed here.
        let _ = fs::remove_file(&self.path);
    }
}

/// The path in an endpoint as CSI drivers are given it: `unix:///path`, `unix:/path` or `/path`.
pub(super) fn path_of(endpoint: &str) -> Option<PathBuf> {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let path = path.strip_prefix("//").unwrap_or(path);
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_path_in_one_of_three_forms() {
        for (endpoint, path) in [
            ("unix:///csi/csi.sock", Some("/csi/csi.sock")),
            ("unix:/csi/csi.sock", Some("/csi/csi.sock")),
            ("/csi/csi.sock", Some("/csi/csi.sock")),
            ("csi.sock", None),
            ("tcp://127.0.0.1:1", None),
            ("unix://csi.sock", None),
        ] {
            assert_eq!(path_of(endpoint).as_deref(), path.map(Path::new), "{endpoint}");
        }
    }

    #[tokio::test]
    async fn a_left_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/csi.sock");
        let first = Socket::listen(&path).unwrap();
        std::mem::forget(first);
        let second = Socket::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(Socket::listen(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
