//! The place where the kubelet wants a volume, checked before anything is made there.
//!
//! A path from the kubelet in, an open folder out. The path must be the one that a kubelet makes
//! for this Pod, and no symbolic link is followed on the way: the folders below `pods/` belong to
//! Pods, and whoever could place a link there would choose what a privileged process writes.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::refusal::{Quoted, Refusal};

/// The folder that holds the volume's own, opened.
#[derive(Debug)]
pub struct Target {
    parent: OwnedFd,
}

impl Target {
    /// The target at `path`, below the kubelet's folder. With a `uid` the path must be that Pod's.
    /// Nothing, if the folder is not there.
    pub fn open(kubelet: &Path, path: &str, uid: Option<&str>) -> Result<Option<Self>, Refusal> {
        let refused = |why| Refusal::Target(Quoted::new(path), why);
        let kubelet_text = kubelet.to_str().unwrap_or_default().trim_end_matches('/');
        let below = path.strip_prefix(kubelet_text).and_then(|rest| rest.strip_prefix('/'));
        let below = below.ok_or_else(|| refused("it is not below the kubelet's folder"))?;
        let parts: Vec<&str> = below.split('/').collect();
        let [PODS, pod, VOLUMES, DRIVERS, volume, NAME] = parts.as_slice() else {
            return Err(refused("it is not pods/UID/volumes/kubernetes.io~csi/NAME/mount"));
        };
        if [pod, volume].into_iter().any(|part| !is_plain(part)) {
            return Err(refused("it has odd parts"));
        }
        if uid.is_some_and(|uid| uid != *pod) {
            return Err(refused("it is another Pod's"));
        }
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, kubelet, folder, Mode::empty())
            .map_err(|cause| Refusal::Io("open the kubelet's folder", cause.into()))?;
        let parent = [PODS, pod, VOLUMES, DRIVERS, volume].join("/");
        match beneath(root.as_fd(), &parent, folder) {
            Ok(parent) => Ok(Some(Self { parent })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => Err(refused("it leads over a symbolic link")),
            Err(Errno::NOTDIR) => Err(refused("a part of it is no folder")),
            Err(cause) => Err(Refusal::Io("open the Pod's folder", cause.into())),
        }
    }

    /// The folder that the volume's own lies in.
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// The volume's own folder, opened for reading; nothing if it is not there.
    pub(super) fn folder(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match beneath(self.parent(), NAME, flags) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(cause.into()),
        }
    }

    /// The path of the volume's own folder for system calls that take no descriptor. It goes
    /// through the opened folder, so nobody can put another one in its place meanwhile.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}/{NAME}", self.parent.as_raw_fd())
    }
}

/// Opens `path` below `root`, over no link.
fn beneath(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = TRIES_MAX;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile (openat2(2)).
            Err(Errno::AGAIN) if tries > 1 => tries -= 1,
            opened => return opened,
        }
    }
}

/// Whether a Pod's uid or a volume's name can be this.
fn is_plain(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=253).contains(&part.len()) && part.bytes().all(plain) && !matches!(part, "." | "..")
}

/// The volume's own folder (Kubernetes, `pkg/volume/csi`, `getTargetPath`).
pub(super) const NAME: &str = "mount";
const PODS: &str = "pods";
const VOLUMES: &str = "volumes";
const DRIVERS: &str = "kubernetes.io~csi";

const TRIES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_the_pods_own_folder_is_a_target() {
        let kubelet = tempfile::tempdir().unwrap();
        let root = kubelet.path();
        let volumes = root.join("pods/u-1/volumes/kubernetes.io~csi");
        fs::create_dir_all(volumes.join("v")).unwrap();
        symlink("/etc", volumes.join("link")).unwrap();
        symlink("pods/u-1", root.join("pods/u-2")).unwrap();
        let open = |path: &str, uid| {
            let path =
                path.replace('~', root.to_str().unwrap()).replace("csi", "kubernetes.io~csi");
            match Target::open(root, &path, uid) {
                Ok(Some(_)) => "opened".to_owned(),
                Ok(None) => "absent".to_owned(),
                Err(refusal) => refusal.to_string().rsplit(": ").next().unwrap().to_owned(),
            }
        };
        for (path, expected) in [
            ("~/pods/u-1/volumes/csi/v/mount", "opened"),
            ("~/pods/u-1/volumes/csi/other/mount", "absent"),
            ("~/pods/u-1/volumes/csi/link/mount", "it leads over a symbolic link"),
            ("~/pods/u-1/volumes/csi/v/mount/", NO_FORM),
            ("~/pods/u-1/volumes/csi/v", NO_FORM),
            ("~/pods/u-1/volumes/csi/../mount", "it has odd parts"),
            ("~/pods/u-1/volumes/csi//mount", "it has odd parts"),
            ("~/../pods/u-1/volumes/csi/v/mount", NO_FORM),
            ("~/pods/u-2/volumes/csi/v/mount", "it is another Pod's"),
            ("~x/pods/u-1/volumes/csi/v/mount", OUTSIDE),
            ("/etc", OUTSIDE),
            ("pods/u-1/volumes/csi/v/mount", OUTSIDE),
            ("", OUTSIDE),
        ] {
            assert_eq!(open(path, Some("u-1")), expected, "{path}");
        }
        assert_eq!(open("~/pods/u-2/volumes/csi/v/mount", None), "it leads over a symbolic link");
    }

    const NO_FORM: &str = "it is not pods/UID/volumes/kubernetes.io~csi/NAME/mount";
    const OUTSIDE: &str = "it is not below the kubelet's folder";
}
