//! Generations of files within a volume: one link says which is read.
//!
//! The form is the kubelet's own for Secrets and ConfigMaps (Kubernetes, `pkg/volume/util`,
//! AtomicWriter): files lie in `..N`, `..data` links to it, and every visible name links to
//! `..data/name`. Renaming one link changes all files at once. Unlike there, the generation before
//! stays until the next change: a reader that has just resolved `..data` still finds its file.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, ftruncate, mkdirat, openat, readlinkat,
    renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::{Readers, open_to};
use crate::csi::render::Files;

/// Makes `folder` hold exactly `files`; whether anything had to be written.
pub(super) fn write(folder: BorrowedFd<'_>, files: &Files, readers: Readers) -> io::Result<bool> {
    if files.names().count() > FILES_MAX {
        return Err(io::Error::other(format!("more than {FILES_MAX} files")));
    }
    let before = current(folder)?;
    if let Some(before) = &before
        && holds(folder, before, files, readers)?
    {
        let linked = link_all(folder, files)?;
        return Ok(linked);
    }
    let next = next_number(folder)?;
    fill(folder, &next, files, readers)?;
    link(folder, &next, DATA)?;
    link_all(folder, files)?;
    prune(folder, &[Some(next), before])?;
    Ok(true)
}

/// The generation that is read.
pub(super) fn current(folder: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let Some(name) = read_link(folder, DATA)? else {
        return Ok(None);
    };
    // A link that names no folder here was not made by us, and is replaced.
    Ok(is_generation(&name).then_some(name))
}

/// Overwrites and removes everything that a volume consists of.
pub(super) fn wipe(folder: BorrowedFd<'_>) -> io::Result<()> {
    for (name, kind) in entries(folder)? {
        if kind == FileType::Symlink {
            unlinkat(folder, name.as_str(), AtFlags::empty())?;
        }
    }
    for (name, kind) in entries(folder)? {
        if kind == FileType::Directory && is_generation(&name) {
            remove(folder, &name, After::Overwriting)?;
        }
    }
    Ok(())
}

/// Whether generation `name` holds exactly `files`, for `readers`.
fn holds(folder: BorrowedFd<'_>, name: &str, files: &Files, readers: Readers) -> io::Result<bool> {
    let Some(generation) = subfolder(folder, name)? else {
        return Ok(false);
    };
    let there: BTreeSet<String> =
        entries_of(&generation)?.into_iter().map(|(name, _)| name).collect();
    if !there.iter().map(String::as_str).eq(files.names()) {
        return Ok(false);
    }
    for (file, content) in files.iter() {
        let opened = openat(&generation, file, OFlags::RDONLY | PLAIN, Mode::empty())?;
        let status = fstat(&opened)?;
        let mode = Mode::from_raw_mode(status.st_mode) & Mode::from_raw_mode(0o777);
        let group = readers.group().is_none_or(|group| group.as_raw() == status.st_gid);
        if usize::try_from(status.st_size) != Ok(content.len())
            || mode != readers.file_mode()
            || !group
        {
            return Ok(false);
        }
        // Room for all of it, so that the bytes never move.
        let mut bytes = Zeroizing::new(Vec::with_capacity(content.len() + 1));
        std::fs::File::from(opened).take(content.len() as u64 + 1).read_to_end(&mut bytes)?;
        if *bytes != content {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes generation `name`. Nobody sees it yet.
fn fill(folder: BorrowedFd<'_>, name: &str, files: &Files, readers: Readers) -> io::Result<()> {
    mkdirat(folder, name, Mode::RWXU)?;
    let generation = subfolder(folder, name)?.ok_or(Errno::NOENT)?;
    for (file, content) in files.iter() {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | PLAIN;
        let opened = openat(&generation, file, flags, Mode::RUSR | Mode::WUSR)?;
        let mut opened = std::fs::File::from(opened);
        opened.write_all(content)?;
        open_to(&OwnedFd::from(opened), readers.file_mode(), readers)?;
    }
    open_to(&generation, readers.folder_mode(), readers)
}

/// Makes every file visible, and no other name; whether anything had to be changed.
fn link_all(folder: BorrowedFd<'_>, files: &Files) -> io::Result<bool> {
    let mut changed = false;
    for name in files.names() {
        let place = format!("{DATA}/{name}");
        if read_link(folder, name)?.as_deref() != Some(&*place) {
            link(folder, &place, name)?;
            changed = true;
        }
    }
    for (name, kind) in entries(folder)? {
        if kind == FileType::Symlink && name != DATA && !files.contains(&name) {
            unlinkat(folder, name.as_str(), AtFlags::empty())?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Makes `name` a link to `place`, in one step.
fn link(folder: BorrowedFd<'_>, place: &str, name: &str) -> io::Result<()> {
    // A process that ended here has left one behind.
    match unlinkat(folder, NEXT_LINK, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(cause) => return Err(cause.into()),
    }
    symlinkat(place, folder, NEXT_LINK)?;
    Ok(renameat(folder, NEXT_LINK, folder, name)?)
}

/// Removes every generation but `kept`.
fn prune(folder: BorrowedFd<'_>, kept: &[Option<String>]) -> io::Result<()> {
    for (name, kind) in entries(folder)? {
        let is_kept = kept.iter().any(|kept| kept.as_deref() == Some(&*name));
        if kind == FileType::Directory && is_generation(&name) && !is_kept {
            remove(folder, &name, After::Nothing)?;
        }
    }
    Ok(())
}

/// What happens to files before they are removed.
#[derive(PartialEq, Eq)]
enum After {
    /// Nothing: somebody may be reading one, and reads it to its end.
    Nothing,
    /// Their bytes are overwritten: the Pod has ended.
    Overwriting,
}

/// Removes the files of a generation, and its folder.
fn remove(folder: BorrowedFd<'_>, name: &str, after: After) -> io::Result<()> {
    let Some(generation) = subfolder(folder, name)? else {
        return Ok(());
    };
    fchmod(&generation, Mode::RWXU)?;
    for (file, kind) in entries_of(&generation)? {
        if kind == FileType::RegularFile && after == After::Overwriting {
            overwrite(&generation, &file)?;
        }
        unlinkat(&generation, file.as_str(), AtFlags::empty())?;
    }
    Ok(unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

/// Zeroes over a file's bytes, then nothing: pages that are given back are not cleared at once.
fn overwrite(generation: &OwnedFd, file: &str) -> io::Result<()> {
    let opened = openat(generation, file, OFlags::RDONLY | PLAIN, Mode::empty())?;
    let length = usize::try_from(fstat(&opened)?.st_size).unwrap_or(0);
    fchmod(&opened, Mode::RUSR | Mode::WUSR)?;
    let opened = openat(generation, file, OFlags::WRONLY | PLAIN, Mode::empty())?;
    let mut opened = std::fs::File::from(opened);
    opened.write_all(&vec![0; length])?;
    Ok(ftruncate(&opened, 0)?)
}

/// A number that no generation here has.
fn next_number(folder: BorrowedFd<'_>) -> io::Result<String> {
    let numbers = entries(folder)?.into_iter().filter_map(|(name, _)| number(&name));
    Ok(format!("..{}", numbers.max().unwrap_or(0).saturating_add(1)))
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix("..")?.parse().ok()
}

fn is_generation(name: &str) -> bool {
    number(name).is_some()
}

fn subfolder(folder: BorrowedFd<'_>, name: &str) -> io::Result<Option<OwnedFd>> {
    match openat(folder, name, OFlags::RDONLY | OFlags::DIRECTORY | PLAIN, Mode::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(cause) => Err(cause.into()),
    }
}

/// What the link `name` says; nothing if it is not there or no link.
fn read_link(folder: BorrowedFd<'_>, name: &str) -> io::Result<Option<String>> {
    match readlinkat(folder, name, Vec::new()) {
        Ok(place) => Ok(place.into_string().ok()),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(cause) => Err(cause.into()),
    }
}

fn entries(folder: BorrowedFd<'_>) -> io::Result<Vec<(String, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if let Ok(name) = CStr::to_str(entry.file_name())
            && !matches!(name, "." | "..")
        {
            found.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

fn entries_of(folder: &OwnedFd) -> io::Result<Vec<(String, FileType)>> {
    use std::os::fd::AsFd as _;
    entries(folder.as_fd())
}

/// The link to the generation that is read.
const DATA: &str = "..data";

/// A link that is about to be renamed.
const NEXT_LINK: &str = "..data_tmp";

/// No link is followed, and none is left open to a child.
const PLAIN: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// The files of a volume.
pub(super) const FILES_MAX: usize = 128;
