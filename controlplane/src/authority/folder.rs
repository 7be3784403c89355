//! Where the CA is kept without a cluster: `ca.key` and `ca.crt` in a folder.
//!
//! A folder in, a [`Root`] out. `ca.crt` is what callers trust: the root that signs, and during a
//! rotation the one before or after it. Files are replaced whole; whoever changes them holds the
//! folder's lock, so two processes that start at once make one root. Keys are mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::rotation::Kept;
use super::{Error as Signing, Root};
use crate::config::CaStep;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or the folder itself.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// What stands in the files, or a step that does not follow from it.
    #[error("{0}: {1}")]
    Content(PathBuf, Signing),
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// What a look at the files showed; another value means that they have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen([Option<(u64, i64, i64, u64)>; 2]);

impl Folder {
    /// The folder `path`, made if it is not there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        fs::create_dir_all(path).map_err(|cause| Error::File(path.to_owned(), cause))?;
        let path = path.canonicalize().map_err(|cause| Error::File(path.to_owned(), cause))?;
        Ok(Self(path))
    }

    /// What callers are to trust.
    pub fn bundle(&self) -> PathBuf {
        self.0.join(BUNDLE)
    }

    /// The root that signs. The first to ask makes it.
    pub fn root(&self, now: OffsetDateTime) -> Result<Root, Error> {
        // Whoever may only read needs no lock where there is nothing to make.
        let lock = self.lock();
        let found = self.kept()?;
        let mut kept = found.clone();
        if kept.complete(now).map_err(|cause| self.content(cause))? {
            // Without the lock another process could be making one at the same moment.
            let _lock = lock?;
            self.save(&found, &kept)?;
        }
        let root = kept.root().map_err(|cause| self.content(cause))?;
        self.warn_of_readers();
        Ok(root)
    }

    /// Takes one step of a rotation.
    pub fn take(&self, step: CaStep, now: OffsetDateTime) -> Result<(), Error> {
        let _lock = self.lock()?;
        let found = self.kept()?;
        let mut kept = found.clone();
        kept.take(step, now).map_err(|cause| self.content(cause))?;
        self.save(&found, &kept)
    }

    /// A line about each certificate of `ca.crt`, and about the state of a rotation.
    pub fn described(&self) -> Result<Vec<String>, Error> {
        self.kept()?.described().map_err(|cause| self.content(cause))
    }

    fn kept(&self) -> Result<Kept, Error> {
        let (key, next_key) = (self.read_key(KEY)?, self.read_key(NEXT_KEY)?);
        Ok(Kept { key, next_key, bundle: self.read(BUNDLE)? })
    }

    /// Writes what differs: keys before the certificates that need them, so that a process that
    /// ends between the two leaves what can be completed.
    fn save(&self, found: &Kept, kept: &Kept) -> Result<(), Error> {
        let succeeds = kept.key != found.key && kept.key == found.next_key;
        if succeeds {
            let (from, to) = (self.0.join(NEXT_KEY), self.0.join(KEY));
            fs::rename(&from, to).map_err(|cause| Error::File(from, cause))?;
            self.sync()?;
        } else {
            for (name, was, is) in
                [(KEY, &found.key, &kept.key), (NEXT_KEY, &found.next_key, &kept.next_key)]
            {
                if let Some(key) = is.as_ref().filter(|_| is != was) {
                    self.write(name, key.as_bytes(), PRIVATE)?;
                }
            }
        }
        match &kept.bundle {
            Some(bundle) if kept.bundle != found.bundle => self.write(BUNDLE, bundle, PUBLIC),
            _ => Ok(()),
        }
    }

    /// How the files look now.
    pub fn seen(&self) -> Seen {
        let look = |name| {
            let found = fs::metadata(self.0.join(name)).ok()?;
            Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
        };
        Seen([look(KEY), look(BUNDLE)])
    }

    /// The folder's lock, until it is dropped. Waits for whoever has it.
    fn lock(&self) -> Result<File, Error> {
        let path = self.0.join(LOCK);
        let failed = |cause| Error::File(path.clone(), cause);
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).mode(PRIVATE).open(&path);
        let lock = lock.map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|cause| failed(cause.into()))?;
        Ok(lock)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::File(path, cause)),
        }
    }

    fn read_key(&self, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let Some(bytes) = self.read(name)?.map(Zeroizing::new) else { return Ok(None) };
        let unreadable = |_| self.content(Signing::Unusable(format!("{name} is no text")));
        let text = str::from_utf8(&bytes).map_err(unreadable)?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    /// Replaces a file whole, and makes sure that it survives a crash.
    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), Error> {
        let path = self.0.join(name);
        let next = self.0.join(format!(".{name}.next"));
        let replaced = || -> io::Result<()> {
            // What an interrupted writer left is nobody's: whoever writes has the lock.
            match fs::remove_file(&next) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(mode).open(&next)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&next, &path)
        };
        replaced().map_err(|cause| Error::File(path.clone(), cause))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), Error> {
        let synced = File::open(&self.0).and_then(|folder| folder.sync_all());
        synced.map_err(|cause| Error::File(self.0.clone(), cause))
    }

    fn warn_of_readers(&self) {
        let path = self.0.join(KEY);
        let open = fs::metadata(&path).is_ok_and(|found| found.mode() & 0o077 != 0);
        if open {
            tracing::warn!(path = %path.display(), "others may read the CA's key: chmod 600 it");
        }
    }

    fn content(&self, cause: Signing) -> Error {
        Error::Content(self.0.clone(), cause)
    }
}

const KEY: &str = "ca.key";
const NEXT_KEY: &str = "next.key";
const BUNDLE: &str = "ca.crt";
const LOCK: &str = "lock";
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

#[cfg(test)]
mod tests {
    use std::thread;

    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn certificates(folder: &Folder) -> usize {
        CertificateDer::pem_slice_iter(&fs::read(folder.bundle()).unwrap()).count()
    }

    #[test]
    fn processes_that_start_at_once_make_one_root_and_its_key_is_private() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state/ca");
        let make = || {
            let path = path.clone();
            thread::spawn(move || {
                Folder::open(&path).unwrap().root(now()).unwrap().certificate_pem()
            })
        };
        let made: Vec<_> = (0..8).map(|_| make()).collect();
        let made: Vec<_> = made.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(made.iter().all(|pem| *pem == made[0]));
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode(KEY), mode(BUNDLE)), (0o600, 0o644));
        let folder = Folder::open(&path).unwrap();
        assert_eq!(fs::read_to_string(folder.bundle()).unwrap(), made[0]);
    }

    #[test]
    fn a_rotation_publishes_before_it_signs_and_retires_last() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        let old = folder.root(now()).unwrap().certificate_pem();
        assert!(folder.take(CaStep::SignWithNext, now()).is_err(), "nothing is published");
        folder.take(CaStep::PublishNext, now()).unwrap();
        assert_eq!(folder.root(now()).unwrap().certificate_pem(), old, "the old one signs");
        assert!(
            folder.take(CaStep::PublishNext, now()).is_err()
                && folder.take(CaStep::RetireOld, now()).is_err()
        );
        let seen = folder.seen();
        folder.take(CaStep::SignWithNext, now()).unwrap();
        assert_ne!(folder.seen(), seen);
        let new = folder.root(now()).unwrap().certificate_pem();
        assert_ne!(new, old);
        assert_eq!(certificates(&folder), 2, "both are trusted");
        let lines = folder.described().unwrap();
        assert!(lines[0].contains("signed before") && lines[1].contains(": signs"), "{lines:?}");
        folder.take(CaStep::RetireOld, now()).unwrap();
        assert_eq!(fs::read_to_string(folder.bundle()).unwrap(), new);
    }

    #[test]
    fn what_an_interrupted_start_left_is_completed_and_what_is_lost_is_said() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        folder.root(now()).unwrap();
        let key = fs::read_to_string(scratch.path().join(KEY)).unwrap();
        fs::remove_file(folder.bundle()).unwrap();
        folder.root(now()).unwrap();
        assert_eq!(fs::read_to_string(scratch.path().join(KEY)).unwrap(), key);
        fs::remove_file(scratch.path().join(KEY)).unwrap();
        let error = folder.root(now()).err().unwrap().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }
}
