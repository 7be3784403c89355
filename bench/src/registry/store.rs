//! What the registry holds: repositories with their blobs, manifests and tags, and open uploads.
//!
//! Names and bytes in, the same bytes out; all of it in memory, gone with the process. Blobs are
//! files without a name, so that they can be sent without being copied. A store that discards
//! keeps of a blob its digest and size, and serves noise in its place. Nothing here does HTTP.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest;

use crate::memory::{self, Noise, Pages};
use crate::wire::Wire;

/// A blob.
pub(crate) struct Blob {
    /// Its size in bytes.
    pub(crate) length: u64,
    content: Content,
}

enum Content {
    /// The bytes themselves.
    Kept(File),
    /// Bytes that stand in for those dropped, repeated as often as it takes.
    Noise(Arc<File>),
}

impl Blob {
    /// Sends `length` bytes from `from` on.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn send(&self, wire: &mut Wire, from: u64, length: u64) -> io::Result<()> {
        let noise = match &self.content {
            Content::Kept(file) => return wire.send_file(file, from, length, |_| {}),
            Content::Noise(noise) => noise,
        };
        let (mut at, end) = (from, from + length);
        while at < end {
            let within = at % NOISE_BYTES;
            let piece = (NOISE_BYTES - within).min(end - at);
            wire.send_file(noise, within, piece, |_| {})?;
            at += piece;
        }
        Ok(())
    }
}

/// A manifest, byte for byte.
#[derive(Clone)]
pub(crate) struct Manifest {
    /// Its media type, as the one who put it said.
    pub(crate) kind: String,
    /// Its bytes.
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// What one repository holds. Manifests are keyed by digest.
#[derive(Default)]
pub(crate) struct Repository {
    /// Blobs by digest.
    pub(crate) blobs: HashMap<String, Arc<Blob>>,
    /// Manifests by digest.
    pub(crate) manifests: BTreeMap<String, Manifest>,
    /// Digests by tag.
    pub(crate) tags: BTreeMap<String, String>,
}

/// Bytes that become a blob.
pub(crate) struct Upload {
    /// How many bytes there are so far.
    pub(crate) length: u64,
    repository: String,
    file: Option<File>,
    hash: digest::Context,
}

impl Upload {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(bytes, self.length)?;
            self.hash.update(bytes);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether the bytes so far have `digest`; `None` for an algorithm that is not known. A store
    /// that discards believes every well-formed digest.
    ///
    /// # Errors
    /// When the bytes cannot be read again for an algorithm other than SHA-256.
    pub(crate) fn has(&self, digest: &str) -> io::Result<Option<bool>> {
        let Some(algorithm) = algorithm_of(digest) else {
            return Ok(None);
        };
        let Some(file) = &self.file else {
            return Ok(Some(true));
        };
        let actual = if algorithm == "sha256" {
            spelled(algorithm, self.hash.clone().finish().as_ref())
        } else {
            let mut hash = digest::Context::new(&digest::SHA512);
            let mut pages = Pages::new(REREAD_BYTES);
            let mut at = 0;
            while at < self.length {
                let count = file.read_at(pages.bytes(), at)?;
                hash.update(&pages.bytes()[..count]);
                at += count as u64;
            }
            spelled(algorithm, hash.finish().as_ref())
        };
        Ok(Some(actual == digest))
    }
}

/// All repositories and uploads.
pub(crate) struct Store {
    noise: Option<Arc<File>>,
    repositories: Mutex<BTreeMap<String, Repository>>,
    uploads: Mutex<HashMap<String, Arc<Mutex<Upload>>>>,
}

impl Store {
    /// An empty store; one that `discard`s keeps digests and sizes only.
    ///
    /// # Errors
    /// When there is no memory for the noise.
    pub(crate) fn new(discard: bool) -> io::Result<Self> {
        let noise = if discard {
            let file = memory::file("noise")?;
            let mut bytes = vec![0; NOISE_BYTES as usize];
            Noise::new(NOISE_SEED).fill(&mut bytes);
            file.write_all_at(&bytes, 0)?;
            Some(Arc::new(file))
        } else {
            None
        };
        Ok(Self { noise, repositories: Mutex::default(), uploads: Mutex::default() })
    }

    /// Whether blobs' bytes are dropped.
    pub(crate) fn discards(&self) -> bool {
        self.noise.is_some()
    }

    /// The repositories, for as long as the guard lives.
    pub(crate) fn repositories(&self) -> MutexGuard<'_, BTreeMap<String, Repository>> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob `digest` of `repository`.
    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Arc<Blob>> {
        self.repositories().get(repository)?.blobs.get(digest).cloned()
    }

    /// Opens an upload into `repository` under `identifier`.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn open(&self, repository: &str, identifier: &str) -> io::Result<()> {
        let upload = Upload {
            length: 0,
            repository: repository.to_owned(),
            file: if self.discards() { None } else { Some(memory::file("blob")?) },
            hash: digest::Context::new(&digest::SHA256),
        };
        self.uploads().insert(identifier.to_owned(), Arc::new(Mutex::new(upload)));
        Ok(())
    }

    /// The open upload `identifier` of `repository`.
    pub(crate) fn upload(&self, repository: &str, identifier: &str) -> Option<Arc<Mutex<Upload>>> {
        let upload = self.uploads().get(identifier).cloned()?;
        let belongs = lock(&upload).repository == repository;
        belongs.then_some(upload)
    }

    /// Forgets the upload `identifier`.
    pub(crate) fn cancel(&self, identifier: &str) {
        self.uploads().remove(identifier);
    }

    /// Makes the upload `identifier` the blob `digest`, whose bytes were checked before.
    pub(crate) fn close(&self, identifier: &str, upload: &mut Upload, digest: &str) {
        self.cancel(identifier);
        let content = match (upload.file.take(), &self.noise) {
            (Some(file), _) => Content::Kept(file),
            (None, Some(noise)) => Content::Noise(Arc::clone(noise)),
            (None, None) => return,
        };
        let blob = Arc::new(Blob { length: upload.length, content });
        let mut repositories = self.repositories();
        let repository = repositories.entry(upload.repository.clone()).or_default();
        repository.blobs.insert(digest.to_owned(), blob);
    }

    /// Lets `repository` hold a blob of `from` too; says whether there was one.
    pub(crate) fn mount(&self, from: &str, digest: &str, repository: &str) -> bool {
        let Some(blob) = self.blob(from, digest) else {
            return false;
        };
        let mut repositories = self.repositories();
        repositories
            .entry(repository.to_owned())
            .or_default()
            .blobs
            .insert(digest.to_owned(), blob);
        true
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Arc<Mutex<Upload>>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an upload for oneself.
pub(crate) fn lock(upload: &Mutex<Upload>) -> MutexGuard<'_, Upload> {
    upload.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The algorithm of a well-formed digest that this registry can check.
pub(crate) fn algorithm_of(digest: &str) -> Option<&str> {
    let (algorithm, encoded) = digest.split_once(':')?;
    let hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    let length = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ => return None,
    };
    (encoded.len() == length && encoded.bytes().all(hex)).then_some(algorithm)
}

/// The digest of `bytes` by the algorithm that `like` has, SHA-256 where it has none.
pub(crate) fn digest_of(bytes: &[u8], like: &str) -> String {
    match algorithm_of(like) {
        Some(name @ "sha512") => spelled(name, digest::digest(&digest::SHA512, bytes).as_ref()),
        _ => spelled("sha256", digest::digest(&digest::SHA256, bytes).as_ref()),
    }
}

/// A digest as the specification spells it: algorithm, colon, lower-case hexadecimal.
pub(crate) fn spelled(algorithm: &str, bytes: &[u8]) -> String {
    let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
    [algorithm, ":"].into_iter().map(str::to_owned).chain(hex).collect()
}

const NOISE_BYTES: u64 = 8 << 20;
const NOISE_SEED: u64 = 0x6e6f_6973_65;
const REREAD_BYTES: usize = 1 << 20;
