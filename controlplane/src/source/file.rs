//! The same manifests as in a cluster, from a folder: read whole, and read again when it changes.
//!
//! A folder in, [`Objects`] out, or the reason why they cannot be read. The folder itself is
//! watched and, because a notification can get lost, looked at now and then as well. Hidden
//! files and subfolders are passed over, which makes a mounted Secret or ConfigMap (files that are
//! links into `..data`) work as it is. Nothing is ever written.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use dataplane::courtesy::cores_first;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher as _};
use ring::digest;
use zeroize::Zeroize as _;

use super::Objects;
use super::manifest::{self, Unreadable};

/// A folder of manifests.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// A file's bytes, wiped when dropped: they may hold a password. They never move.
struct Text(Vec<u8>);

impl Drop for Text {
    fn drop(&mut self) {
        for piece in self.0.chunks_mut(PIECE_BYTES) {
            piece.zeroize();
            cores_first();
        }
    }
}

/// The texts of a folder at one moment.
pub struct Texts {
    files: Vec<(Arc<str>, io::Result<Text>)>,
    digest: [u8; digest::SHA256_OUTPUT_LEN],
}

impl Texts {
    /// The objects in them, or everything that keeps them from being read: one reason per file.
    pub fn objects(&self) -> Result<Objects, Vec<Unreadable>> {
        let mut objects = Objects::default();
        let mut reasons = Vec::new();
        for (file, text) in &self.files {
            let read = match text {
                Ok(text) => manifest::read(file, &text.0, &mut objects),
                Err(cause) => {
                    Err(Unreadable::File { file: Arc::clone(file), what: cause.to_string() })
                }
            };
            reasons.extend(read.err());
        }
        if reasons.is_empty() { Ok(objects) } else { Err(reasons) }
    }
}

impl Folder {
    /// The folder at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Reads every manifest file. Fails only if the folder itself cannot be read, and names it.
    pub fn texts(&self) -> Result<Texts, Unreadable> {
        let names = self.names().map_err(|cause| Unreadable::File {
            file: self.0.display().to_string().into(),
            what: cause.to_string(),
        })?;
        let mut sum = digest::Context::new(&digest::SHA256);
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let text = read_file(&self.0.join(&*name));
            let failure = text.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let bytes = text.as_ref().map_or(failure.as_bytes(), |text| &text.0);
            for part in [name.as_bytes(), &[u8::from(text.is_ok())], bytes] {
                sum.update(&(part.len() as u64).to_le_bytes());
                for piece in part.chunks(PIECE_BYTES) {
                    sum.update(piece);
                    cores_first();
                }
            }
            files.push((name, text));
        }
        let mut whole = [0; digest::SHA256_OUTPUT_LEN];
        whole.copy_from_slice(sum.finish().as_ref());
        Ok(Texts { files, digest: whole })
    }

    /// The names of the manifest files, in order.
    fn names(&self) -> io::Result<Vec<Arc<str>>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().filter(|name| is_manifest(name))
                && !entry.path().is_dir()
            {
                names.push(Arc::from(name));
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Whether a file of this name holds manifests.
fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The file's bytes, in a buffer that never moves.
fn read_file(path: &Path) -> io::Result<Text> {
    let found = fs::metadata(path)?;
    // Opening a pipe would wait for its other end.
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let length = usize::try_from(found.len()).unwrap_or(usize::MAX);
    if length > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    let mut text = Text(Vec::with_capacity(length + 1));
    // A file that grows meanwhile is read again when it has settled.
    let mut file = fs::File::open(path)?.take(length as u64 + 1);
    while file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut text.0)? > 0 {
        cores_first();
    }
    Ok(text)
}

/// What the watch reports: the folder's texts after a change, or why they cannot be read.
pub type Change = Result<Texts, Unreadable>;

/// Watches the folder and hands every change to `changed`, until the process ends. `last` is what
/// was seen last, so that a change between that reading and this call is not missed.
pub fn watch(folder: &Folder, mut last: Seen, mut changed: impl FnMut(Change)) {
    let (ring, doorbell) = bounded(1);
    let notice = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is reported too, and must not make us read again.
        if event.is_ok_and(|event| is_reading(event.kind)) {
            return;
        }
        // A bell that already rings need not be rung.
        let _ = ring.try_send(());
    })
    .and_then(|mut watcher| {
        watcher.watch(&folder.0, RecursiveMode::NonRecursive).map(|()| watcher)
    });
    if let Err(cause) = &notice {
        tracing::warn!(%cause, "the folder cannot be watched: it is looked at now and then instead");
    }
    loop {
        let mut now = folder.texts();
        let mut seen = Seen::of(now.as_ref());
        if seen == last {
            await_change(&doorbell);
            continue;
        }
        // Whoever writes a file without replacing it leaves it half-written for a moment.
        for _ in 0..SETTLE_ROUNDS_MAX {
            std::thread::sleep(SETTLE);
            now = folder.texts();
            let again = Seen::of(now.as_ref());
            if std::mem::replace(&mut seen, again) == seen {
                break;
            }
        }
        if seen != last {
            last = seen;
            changed(now);
        }
    }
}

/// Waits for a notification and for the quiet after it, or for the time of the next look.
fn await_change(doorbell: &Receiver<()>) {
    match doorbell.recv_timeout(RESCAN) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => return,
        Err(RecvTimeoutError::Disconnected) => return std::thread::sleep(RESCAN),
    }
    let started = Instant::now();
    while started.elapsed() < QUIET_WAIT_MAX && doorbell.recv_timeout(SETTLE).is_ok() {}
}

/// Whether an event says only that someone reads.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// What a look at the folder showed, small enough to keep: a sum of the texts, or why there are
/// none.
#[derive(PartialEq, Eq)]
pub struct Seen(Result<[u8; digest::SHA256_OUTPUT_LEN], String>);

impl Seen {
    /// What these texts are recognised by.
    pub fn of(texts: Result<&Texts, &Unreadable>) -> Self {
        Self(texts.map(|texts| texts.digest).map_err(ToString::to_string))
    }
}

/// How often the folder is looked at although nothing was reported: with the time to settle, a
/// change is live within 2 s even if its notification is lost.
const RESCAN: Duration = Duration::from_millis(1500);

/// How long the folder must stay as it is before a change is taken.
const SETTLE: Duration = Duration::from_millis(100);

/// After how many looks a folder that keeps changing is taken as it is.
const SETTLE_ROUNDS_MAX: usize = 8;

/// How long notifications may keep a change from being looked at.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(500);

/// What is read, or summed, between two looks whether a core wants the processor.
const PIECE_BYTES: usize = 64 << 10;

/// The size of one file.
const FILE_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn secret(name: &str) -> String {
        format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}}}}\n")
    }

    #[test]
    fn hidden_files_and_other_files_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yml", ".hidden.yaml", "notes.txt", "c.yaml~"] {
            fs::write(folder.path().join(name), secret("s")).unwrap();
        }
        let objects = Folder::new(folder.path()).texts().unwrap().objects().unwrap();
        assert_eq!(objects.secrets.len(), 2);
    }

    #[test]
    fn a_folder_mounted_by_a_kubelet_is_read_through_its_links() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("..1")).unwrap();
        fs::write(folder.path().join("..1/a.yaml"), secret("s")).unwrap();
        std::os::unix::fs::symlink("..1", folder.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
        let objects = Folder::new(folder.path()).texts().unwrap().objects().unwrap();
        assert_eq!(objects.secrets.len(), 1);
    }

    #[test]
    fn every_file_that_cannot_be_read_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "[").unwrap();
        fs::write(folder.path().join("b.yaml"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("c.yaml")).unwrap();
        let reasons = Folder::new(folder.path()).texts().unwrap().objects().unwrap_err();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert!(Folder::new(folder.path().join("absent")).texts().is_err());
    }

    #[test]
    fn a_change_is_reported_once_and_within_two_seconds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, secret("s")).unwrap();
        let folder = Folder::new(directory.path());
        let first = Seen::of(folder.texts().as_ref());
        let (report, reports) = mpsc::channel();
        thread::spawn(move || watch(&folder, first, |change| drop(report.send(change))));
        for (name, text) in
            [("a.yaml", secret("t")), ("b.yaml", secret("u")), ("a.yaml", "[".into())]
        {
            let started = Instant::now();
            fs::write(directory.path().join(name), text).unwrap();
            reports.recv_timeout(Duration::from_secs(5)).unwrap().unwrap();
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        }
        fs::write(&path, "[").unwrap();
        assert!(reports.recv_timeout(Duration::from_millis(300)).is_err(), "nothing changed");
    }
}
