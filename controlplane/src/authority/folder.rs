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
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::root::described;
use super::{Error as Signing, Root};
use crate::config::{CaFlags, CaStep};
use crate::proxy::default_folder;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or the folder itself.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// What stands in the files.
    #[error("{0}: {1}")]
    Content(PathBuf, Signing),
    /// A step that does not follow from the state of the folder.
    #[error("{0}")]
    Step(&'static str),
}

/// The verb `ca`: shows the CA of a folder, or takes a step of its rotation and then shows it.
pub fn step(flags: &CaFlags, out: &mut impl io::Write) -> Result<(), Error> {
    let path = flags.ca_dir.clone().or_else(default_folder);
    let path = path.ok_or(Error::Step("no folder is known: name one with --ca-dir"))?;
    if !path.is_dir() {
        return Err(Error::Step("there is no CA here yet: `proxy` makes it at its first start"));
    }
    let folder = Folder::open(&path)?;
    match flags.step {
        CaStep::Show => {}
        CaStep::PublishNext => folder.publish_next(OffsetDateTime::now_utc())?,
        CaStep::SignWithNext => folder.sign_with_next()?,
        CaStep::RetireOld => folder.retire_old()?,
    }
    for line in folder.described()? {
        writeln!(out, "{line}").map_err(|cause| Error::File(PathBuf::from("stdout"), cause))?;
    }
    Ok(())
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
        let lock = self.lock();
        let bundle = self.read(BUNDLE)?;
        let root = match (self.read_key(KEY)?, bundle) {
            (Some(key), Some(bundle)) => {
                let root = Root::read(&bundle, &key).map_err(|cause| self.content(cause))?;
                root.ok_or(Error::Step("ca.crt does not hold the certificate of ca.key"))?
            }
            (None, Some(_)) => {
                return Err(Error::Step(
                    "ca.crt is there and ca.key is not: restore the key, or remove ca.crt to start \
                     with another CA",
                ));
            }
            (Some(key), None) => {
                lock?;
                let root = Root::renew(&key, now).map_err(|cause| self.content(cause))?;
                self.write(BUNDLE, root.certificate_pem().as_bytes(), PUBLIC)?;
                root
            }
            (None, None) => {
                // Without the lock another process could be making one at the same moment.
                let _lock = lock?;
                let root = Root::make(now).map_err(|cause| self.content(cause))?;
                // The key first: a process that ends between the two leaves what can be completed.
                self.write(KEY, root.key_pem().as_bytes(), PRIVATE)?;
                self.write(BUNDLE, root.certificate_pem().as_bytes(), PUBLIC)?;
                return Ok(root);
            }
        };
        self.warn_of_readers();
        Ok(root)
    }

    /// Begins a rotation: makes the next root and adds it to `ca.crt`, so that callers learn to
    /// trust it before it signs.
    pub fn publish_next(&self, now: OffsetDateTime) -> Result<(), Error> {
        let _lock = self.lock()?;
        let bundle = self.read(BUNDLE)?.ok_or(Error::Step("there is no CA here yet"))?;
        let next = match self.read_key(NEXT_KEY)? {
            None => {
                let next = Root::make(now).map_err(|cause| self.content(cause))?;
                self.write(NEXT_KEY, next.key_pem().as_bytes(), PRIVATE)?;
                next
            }
            Some(key) => {
                if Root::read(&bundle, &key).map_err(|cause| self.content(cause))?.is_some() {
                    return Err(Error::Step("the next root is published already"));
                }
                // A process ended between the two files.
                Root::renew(&key, now).map_err(|cause| self.content(cause))?
            }
        };
        let both = [bundle, next.certificate_pem().into_bytes()].concat();
        self.write(BUNDLE, &both, PUBLIC)
    }

    /// Goes on with it: from now on the published root signs. The old one stays in `ca.crt`.
    pub fn sign_with_next(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        let missing = Error::Step("no next root is published: publish it, and let callers see it");
        let key = self.read_key(NEXT_KEY)?.ok_or(missing)?;
        let bundle = self.read(BUNDLE)?.unwrap_or_default();
        if Root::read(&bundle, &key).map_err(|cause| self.content(cause))?.is_none() {
            return Err(Error::Step("the next root is not in ca.crt: publish it first"));
        }
        let (from, to) = (self.0.join(NEXT_KEY), self.0.join(KEY));
        fs::rename(&from, to).map_err(|cause| Error::File(from, cause))?;
        self.sync()
    }

    /// Ends it: `ca.crt` holds the root that signs and no other.
    pub fn retire_old(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.read_key(NEXT_KEY)?.is_some() {
            return Err(Error::Step("the next root does not sign yet: the old one is needed"));
        }
        let key = self.read_key(KEY)?.ok_or(Error::Step("there is no CA here yet"))?;
        let bundle = self.read(BUNDLE)?.unwrap_or_default();
        let root = Root::read(&bundle, &key).map_err(|cause| self.content(cause))?;
        let root = root.ok_or(Error::Step("ca.crt does not hold the certificate of ca.key"))?;
        self.write(BUNDLE, root.certificate_pem().as_bytes(), PUBLIC)
    }

    /// A line about each certificate of `ca.crt`, and about the state of a rotation.
    pub fn described(&self) -> Result<Vec<String>, Error> {
        let bundle = self.read(BUNDLE)?.ok_or(Error::Step("there is no CA here yet"))?;
        let key = |name| self.read_key(name);
        let der_of = |key: Option<Zeroizing<String>>| -> Result<Option<String>, Error> {
            let Some(key) = key else { return Ok(None) };
            let root = Root::read(&bundle, &key).map_err(|cause| self.content(cause))?;
            Ok(root.map(|root| root.certificate_pem()))
        };
        let (signing, next) = (der_of(key(KEY)?)?, der_of(key(NEXT_KEY)?)?);
        let is = |known: &Option<String>, der: &CertificateDer<'_>| {
            let own =
                known.as_ref().and_then(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok());
            own.is_some_and(|own| own == *der)
        };
        let mut lines = vec![format!("{}", self.bundle().display())];
        for der in CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok) {
            let (name, until) = described(&der).map_err(|cause| self.content(cause))?;
            let role = match () {
                () if is(&signing, &der) => "signs",
                () if is(&next, &der) => "is published and does not sign yet",
                () => "signed before and is still trusted",
            };
            lines.push(format!("{name}: {role}; valid until {}", until.date()));
        }
        Ok(lines)
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
        let unreadable = |_| Signing::Unusable(format!("{name} is no text"));
        let text = str::from_utf8(&bytes).map_err(unreadable).map_err(|why| self.content(why))?;
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
        assert!(folder.sign_with_next().is_err(), "nothing is published");
        folder.publish_next(now()).unwrap();
        assert_eq!(folder.root(now()).unwrap().certificate_pem(), old, "the old one signs");
        assert!(folder.publish_next(now()).is_err() && folder.retire_old().is_err());
        let seen = folder.seen();
        folder.sign_with_next().unwrap();
        assert_ne!(folder.seen(), seen);
        let new = folder.root(now()).unwrap().certificate_pem();
        assert_ne!(new, old);
        assert_eq!(certificates(&folder), 2, "both are trusted");
        let lines = folder.described().unwrap();
        assert!(lines[1].contains("signed before") && lines[2].contains(": signs"), "{lines:?}");
        folder.retire_old().unwrap();
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
