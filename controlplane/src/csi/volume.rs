//! One volume: a folder in memory, whose files change all at once.
//!
//! [`Files`] in, a published folder out; and its end. Memory is a tmpfs of its own, bounded and
//! never executable. Every step may be the last (kill -9) and may be repeated: what a dead process
//! left behind is finished or cleared away by the next call. Whoever calls holds the target's lock.

mod generation;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, fchmod, fchown, fstat, fstatfs, mkdirat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::refusal::Refusal;
use super::render::Files;
use super::target::{NAME, Target};

/// What holds the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A tmpfs mounted at the target; needs CAP_SYS_ADMIN.
    Memory,
    /// A plain folder, for those who cannot mount. Its files may reach a disk.
    Folder,
}

/// Who may read the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Everybody in the Pod.
    All,
    /// A group: the Pod's fsGroup.
    Group(u32),
}

impl Readers {
    fn file_mode(self) -> Mode {
        Mode::from_raw_mode(if self == Self::All { 0o444 } else { 0o440 })
    }

    fn folder_mode(self) -> Mode {
        Mode::from_raw_mode(if self == Self::All { 0o555 } else { 0o550 })
    }

    fn group(self) -> Option<Gid> {
        match self {
            Self::All => None,
            Self::Group(group) => Some(Gid::from_raw(group)),
        }
    }
}

/// Whether the volume is there and its files can be read.
pub fn is_published(target: &Target, storage: Storage) -> bool {
    let Ok(Some(folder)) = target.folder() else {
        return false;
    };
    let mounted = storage == Storage::Folder || is_mounted(target, &folder).unwrap_or(false);
    mounted && generation::current(folder.as_fd()).is_ok_and(|current| current.is_some())
}

/// Makes the volume hold exactly `files`. Returns whether anything had to be written.
pub fn publish(
    target: &Target,
    storage: Storage,
    files: &Files,
    readers: Readers,
) -> Result<bool, Refusal> {
    let folder =
        prepare(target, storage).map_err(|cause| Refusal::Io("prepare the volume", cause))?;
    let written = generation::write(folder.as_fd(), files, readers)
        .map_err(|cause| Refusal::Io("write the volume", cause))?;
    // Without privileges the owner could not change the volume later.
    let mode = match storage {
        Storage::Memory => readers.folder_mode(),
        Storage::Folder => readers.folder_mode() | Mode::WUSR,
    };
    open_to(&folder, mode, readers).map_err(|cause| Refusal::Io("open the volume", cause))?;
    Ok(written)
}

/// Ends the volume: its files are overwritten and removed, and so is its folder. A volume that is
/// not there has ended already.
pub fn unpublish(target: &Target) -> Result<(), Refusal> {
    end(target).map_err(|cause| Refusal::Io("remove the volume", cause))
}

/// The volume's folder, made and mounted where it is not yet.
fn prepare(target: &Target, storage: Storage) -> io::Result<OwnedFd> {
    match mkdirat(target.parent(), NAME, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(cause) => return Err(cause.into()),
    }
    let folder = target.folder()?.ok_or(Errno::NOENT)?;
    if storage == Storage::Folder || is_mounted(target, &folder)? {
        return Ok(folder);
    }
    mount_memory(target)?;
    Ok(target.folder()?.ok_or(Errno::NOENT)?)
}

/// Mounts a tmpfs, outside swap where the kernel can (since 6.4).
fn mount_memory(target: &Target) -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = format!("size={MEMORY_BYTES_MAX},nr_inodes={INODES_MAX},mode=0700");
    let try_mount = |options: &str| {
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        mount("tmpfs", target.path(), "tmpfs", flags, options.as_c_str())
    };
    match try_mount(&format!("{options},noswap")) {
        Err(Errno::INVAL) => try_mount(&options),
        tried => tried,
    }
}

/// Whether `folder` is a tmpfs of its own.
fn is_mounted(target: &Target, folder: &OwnedFd) -> io::Result<bool> {
    let own = fstat(folder)?.st_dev;
    let outer = rustix::fs::statat(target.parent(), "", AtFlags::EMPTY_PATH)?.st_dev;
    Ok(own != outer && fstatfs(folder)?.f_type == TMPFS_MAGIC)
}

fn end(target: &Target) -> io::Result<()> {
    for _ in 0..MOUNTS_MAX {
        let Some(folder) = target.folder()? else {
            return Ok(());
        };
        generation::wipe(folder.as_fd())?;
        let mounted = is_mounted(target, &folder)?;
        // An open folder would keep the file system busy.
        drop(folder);
        if !mounted {
            break;
        }
        match unmount(target.path(), UnmountFlags::NOFOLLOW) {
            // A container that is just ending may still hold it; its files are gone already.
            Err(Errno::BUSY) => {
                unmount(target.path(), UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            }
            ended => ended?,
        }
    }
    match unlinkat(target.parent(), NAME, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

/// Opens a file or folder to its readers.
fn open_to(file: &OwnedFd, mode: Mode, readers: Readers) -> io::Result<()> {
    if let Some(group) = readers.group() {
        fchown(file, None, Some(group))?;
    }
    Ok(fchmod(file, mode)?)
}

/// The generation that is read, the one before it and the one being written, each in whole pages.
const MEMORY_BYTES_MAX: usize = 6 << 20;

/// Three generations of [`generation::FILES_MAX`] files, and the links to one.
const INODES_MAX: usize = 1024;

/// Mounts that may lie one over the other, should a kernel ever have let that happen.
const MOUNTS_MAX: usize = 4;

/// The type of a tmpfs (statfs(2)).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

#[cfg(test)]
mod tests;
