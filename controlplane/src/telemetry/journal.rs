//! Where the audit's lines go: stdout, stderr or a file, by a thread of its own.
//!
//! Whole lines in, written in their order. A core never waits: where lines come faster than they
//! can be written, or cannot be written, they are counted, and the next line that can be written
//! says how many are missing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};

use super::audit;
use crate::config::AuditPlace;

/// What became of the audit's lines.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Lines written.
    pub written: AtomicU64,
    /// Lines that were not: nobody could take them fast enough, or at all.
    pub lost: AtomicU64,
}

/// The writing end of the journal, for whoever has lines.
#[derive(Clone)]
pub(super) struct Lines {
    entries: Sender<Entry>,
    numbers: Arc<Numbers>,
}

impl Lines {
    /// Hands `line` over, or counts it as lost.
    pub(super) fn put(&self, line: String) {
        if self.entries.try_send(Entry::Line(line)).is_err() {
            self.numbers.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A running journal. Dropping it writes what is still waiting, if that does not take long.
pub struct Journal {
    lines: Lines,
}

enum Entry {
    Line(String),
    End(Sender<()>),
}

impl Journal {
    /// Begins to write at `place`; nothing for [`AuditPlace::Off`]. Fails where a file cannot be
    /// opened.
    pub fn open(place: &AuditPlace) -> io::Result<Option<Self>> {
        let sink = match place {
            AuditPlace::Off => return Ok(None),
            AuditPlace::Stdout => Sink::Stdout,
            AuditPlace::Stderr => Sink::Stderr,
            AuditPlace::File(path) => Sink::File(Appended::open(path)?),
        };
        let (entries, waiting) = channel::bounded(LINES_WAITING_MAX);
        let numbers = Arc::<Numbers>::default();
        let mut desk = Desk { sink, numbers: Arc::clone(&numbers), told: 0, warned: None };
        let name = thread::Builder::new().name("audit".to_owned());
        name.spawn(move || desk.serve(&waiting))?;
        Ok(Some(Self { lines: Lines { entries, numbers } }))
    }

    /// What became of its lines.
    pub fn numbers(&self) -> Arc<Numbers> {
        Arc::clone(&self.lines.numbers)
    }

    pub(super) fn lines(&self) -> Lines {
        self.lines.clone()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let (done, is_done) = channel::bounded(1);
        let until = Instant::now() + END_WAIT;
        if self.lines.entries.send_deadline(Entry::End(done), until).is_ok() {
            // Whoever reads too slowly for this has lost lines already.
            let _ = is_done.recv_deadline(until);
        }
    }
}

/// The thread's own.
struct Desk {
    sink: Sink,
    numbers: Arc<Numbers>,
    /// How many lost lines the journal itself tells of.
    told: u64,
    warned: Option<Instant>,
}

impl Desk {
    fn serve(&mut self, waiting: &Receiver<Entry>) {
        let mut batch = String::new();
        while let Ok(first) = waiting.recv() {
            let (mut count, mut end) = (0, None);
            let lost = self.numbers.lost.load(Ordering::Relaxed);
            if lost > self.told {
                batch.push_str(&audit::lost(lost - self.told));
            }
            for entry in std::iter::once(first).chain(waiting.try_iter()) {
                match entry {
                    Entry::Line(line) => {
                        batch.push_str(&line);
                        count += 1;
                    }
                    Entry::End(done) => end = Some(done),
                }
                if batch.len() >= BATCH_BYTES || end.is_some() {
                    break;
                }
            }
            self.write(&batch, count, lost);
            batch.clear();
            if let Some(done) = end {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, batch: &str, count: u64, lost: u64) {
        match self.sink.write(batch.as_bytes()) {
            Ok(()) => {
                self.numbers.written.fetch_add(count, Ordering::Relaxed);
                self.told = lost;
            }
            Err(cause) => {
                self.numbers.lost.fetch_add(count, Ordering::Relaxed);
                if self.warned.is_none_or(|warned| warned.elapsed() >= WARNING_PAUSE) {
                    self.warned = Some(Instant::now());
                    tracing::error!(%cause, "the audit cannot be written: its lines are lost");
                }
            }
        }
    }
}

enum Sink {
    Stdout,
    Stderr,
    File(Appended),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::Stderr => io::stderr().lock().write_all(bytes),
            Self::File(file) => file.write(bytes),
        }
    }
}

/// A file that is appended to, and opened anew when another one, or none, has its name.
struct Appended {
    path: PathBuf,
    file: Option<File>,
    looked: Instant,
    /// Whether the file may end in the middle of a line.
    torn: bool,
}

impl Appended {
    fn open(path: &Path) -> io::Result<Self> {
        let file = Some(append_to(path)?);
        Ok(Self { path: path.to_owned(), file, looked: Instant::now(), torn: false })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.looked.elapsed() >= LOOK_PAUSE {
            self.looked = Instant::now();
            if !self.is_in_place() {
                self.file = None;
            }
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                self.torn = false;
                append_to(&self.path)?
            }
        };
        if self.torn {
            file.write_all(b"\n")?;
            self.torn = false;
        }
        let written = file.write_all(bytes);
        self.torn = written.is_err();
        self.file = Some(file);
        written
    }

    fn is_in_place(&self) -> bool {
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        let named = fs::metadata(&self.path).ok();
        open.zip(named)
            .is_some_and(|(open, named)| (open.dev(), open.ino()) == (named.dev(), named.ino()))
    }
}

/// Only its owner reads it: it says who works on what.
fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Lines that may wait: some seconds of a busy proxy, ten megabytes at most.
const LINES_WAITING_MAX: usize = 16_384;

/// What is written at once.
const BATCH_BYTES: usize = 64 << 10;

/// How often the log complains of an audit that cannot be written.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// How often it is looked whether the file has been moved away.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How long the end waits for the last lines.
const END_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_line_that_can_be_written_says_how_many_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let journal = Journal::open(&AuditPlace::File(path.clone())).unwrap().unwrap();
        journal.numbers().lost.store(3, Ordering::Relaxed);
        journal.lines().put("{}\n".to_owned());
        let numbers = journal.numbers();
        drop(journal);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() == 2 && lines[1] == "{}", "{text}");
        assert!(lines[0].ends_with(r#""action":"lost","lines":3}"#), "{text}");
        assert_eq!(numbers.written.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_line_follows_a_torn_one_on_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let mut file = Appended::open(&path).unwrap();
        file.write(b"half").unwrap();
        file.torn = true;
        file.write(b"{}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half\n{}\n");
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let (entries, _waiting) = channel::bounded(1);
        let lines = Lines { entries, numbers: Arc::default() };
        lines.put(String::new());
        lines.put(String::new());
        assert_eq!(lines.numbers.lost.load(Ordering::Relaxed), 1);
    }
}
