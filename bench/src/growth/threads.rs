//! What the kernel has counted of a proxy's threads, between one look and the next.
//!
//! A process in, nanoseconds out: proc(5), `schedstat`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// The threads of one proxy with one core.
pub(super) struct Threads {
    process: i32,
    core: Counted,
    /// Those that share the core's processor.
    others: Vec<(i32, Counted)>,
    others_listed: Option<Instant>,
}

/// What happened between two looks, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// The core worked.
    pub(super) worked: u64,
    /// The core wanted its processor and did not have it.
    pub(super) queued: u64,
    /// The other threads worked, all together.
    pub(super) others: u64,
}

impl Threads {
    /// The threads of `process`. Without `others` only the core is looked at.
    ///
    /// # Errors
    /// When it has no core, or the kernel does not count.
    pub(super) fn of(process: i32, others: bool) -> anyhow::Result<Self> {
        let core = all(process)?.into_iter().find(|(name, _)| name.starts_with("core-"));
        let (_, core) = core.context("no core")?;
        let core = Counted::open(process, core)?;
        let others_listed = others.then(Instant::now);
        let mut threads = Self { process, core, others: Vec::new(), others_listed };
        threads.list();
        Ok(threads)
    }

    /// What was spent since the last look.
    ///
    /// # Errors
    /// When the core is gone.
    pub(super) fn spent(&mut self) -> io::Result<Spent> {
        if self.others_listed.is_some_and(|listed| listed.elapsed() > LIST_EVERY) {
            self.list();
        }
        let (worked, queued) = self.core.since()?;
        let mut others = 0;
        // A thread that has ended spends nothing more.
        self.others
            .retain_mut(|(_, thread)| thread.since().map(|(worked, _)| others += worked).is_ok());
        Ok(Spent { worked, queued, others })
    }

    /// Takes in threads that began since.
    fn list(&mut self) {
        if self.others_listed.is_none() {
            return;
        }
        for (name, number) in all(self.process).unwrap_or_default() {
            let is_known = self.others.iter().any(|(known, _)| *known == number);
            if !name.starts_with("core-") && !is_known {
                self.others
                    .extend(Counted::open(self.process, number).ok().map(|new| (number, new)));
            }
        }
        self.others_listed = Some(Instant::now());
    }
}

/// One thread, and what was counted of it when it was last looked at.
struct Counted {
    schedstat: File,
    worked: u64,
    queued: u64,
}

impl Counted {
    fn open(process: i32, thread: i32) -> io::Result<Self> {
        let schedstat = File::open(format!("/proc/{process}/task/{thread}/schedstat"))?;
        let mut counted = Self { schedstat, worked: 0, queued: 0 };
        counted.since()?;
        Ok(counted)
    }

    /// What it worked, and how long it waited for a processor, since the last look.
    fn since(&mut self) -> io::Result<(u64, u64)> {
        let mut text = [0; 64];
        let count = self.schedstat.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(text.get(..count).unwrap_or_default());
        let mut numbers = text.unwrap_or_default().split_ascii_whitespace().map(str::parse);
        let (Some(Ok(worked)), Some(Ok(queued))) = (numbers.next(), numbers.next()) else {
            return Err(io::Error::other("the kernel does not count a thread's time"));
        };
        let since = (worked - self.worked, queued - self.queued);
        (self.worked, self.queued) = (worked, queued);
        Ok(since)
    }
}

/// The names and numbers of the threads of `process`.
///
/// # Errors
/// When it is gone.
pub(super) fn all(process: i32) -> anyhow::Result<Vec<(String, i32)>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?;
        let number = thread.file_name().to_string_lossy().parse()?;
        // One that ends meanwhile is none.
        let name = fs::read_to_string(thread.path().join("comm"));
        found.extend(name.ok().map(|name| (name, number)));
    }
    Ok(found)
}

/// How often it is looked for new threads.
const LIST_EVERY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn what_other_threads_work_is_told_from_what_the_core_does() {
        let (begun, begins) = mpsc::channel();
        let (work, wait) = mpsc::channel::<()>();
        let core = thread::Builder::new().name("core-test".to_owned());
        let core = core.spawn(move || {
            begun.send(()).unwrap();
            wait.recv().is_err()
        });
        let core = core.unwrap();
        // A thread takes its name once it runs.
        begins.recv().unwrap();
        let mut threads = Threads::of(std::process::id().cast_signed(), true).unwrap();
        let until = Instant::now() + Duration::from_millis(30);
        while Instant::now() < until {}
        let spent = threads.spent().unwrap();
        assert!(spent.others > spent.worked && spent.others > 1_000_000, "{spent:?}");
        let mut alone = Threads::of(std::process::id().cast_signed(), false).unwrap();
        assert_eq!(alone.spent().unwrap().others, 0);
        drop(work);
        assert!(core.join().unwrap());
    }
}
