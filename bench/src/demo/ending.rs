//! What must be gone when the demo ends, however it ends: the proxy's process, the copied folder.
//!
//! A process and a folder in; nothing comes out. Success, failure, panic and Ctrl-C all end in
//! [`Ending::clear`]. Only what was handed over here is ever ended or removed.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// Clears up when it is dropped.
pub(crate) struct Ending(Arc<State>);

#[derive(Default)]
struct State {
    leftovers: Mutex<Leftovers>,
    held: AtomicBool,
}

#[derive(Default)]
struct Leftovers {
    child: Option<Child>,
    folder: Option<TempDir>,
    over: bool,
}

impl Ending {
    /// Begins to listen for Ctrl-C, SIGTERM and the terminal's end, each of which clears up and
    /// then ends this process: with 0 once everything has held, else with 130.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub(crate) fn watch() -> io::Result<Self> {
        let state = Arc::new(State::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Registered before anything is started, so that no signal can come too early.
        let entered = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        drop(entered);
        let watched = Arc::clone(&state);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
            });
            watched.clear();
            std::process::exit(if watched.held.load(Ordering::Relaxed) { 0 } else { INTERRUPTED });
        })?;
        Ok(Self(state))
    }

    /// Starts a process that ends with the demo; `look` sees it first.
    ///
    /// # Errors
    /// When it cannot be started, or the demo is ending already.
    pub(crate) fn adopt<T>(
        &self,
        start: impl FnOnce() -> io::Result<Child>,
        look: impl FnOnce(&mut Child) -> T,
    ) -> io::Result<T> {
        let mut leftovers = self.0.lock();
        if leftovers.over {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(look(leftovers.child.insert(start()?)))
    }

    /// Takes a folder that goes with the demo.
    pub(crate) fn keep(&self, folder: TempDir) {
        self.0.lock().folder = Some(folder);
    }

    /// How the process ended, if it has.
    pub(crate) fn child_ended(&self) -> Option<ExitStatus> {
        self.0.lock().child.as_mut()?.try_wait().ok()?
    }

    /// From now on being interrupted is success.
    pub(crate) fn all_held(&self) {
        self.0.held.store(true, Ordering::Relaxed);
    }

    /// Ends and reaps the process, and removes the folder. Nothing happens the second time.
    pub(crate) fn clear(&self) {
        self.0.clear();
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.clear();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Leftovers> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&self) {
        let mut leftovers = self.lock();
        leftovers.over = true;
        if let Some(child) = leftovers.child.take() {
            end(child);
        }
        drop(leftovers.folder.take());
    }
}

/// Asks a process to end, insists after a while, and reaps it. Each step may find it gone already,
/// which is what is wanted.
fn end(mut child: Child) {
    if let Ok(None) = child.try_wait() {
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    }
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL);
    }
    drop(child.kill());
    drop(child.wait());
}

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;
const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    #[test]
    fn an_adopted_process_and_folder_are_gone_when_the_ending_is_dropped() {
        let ending = Ending(Arc::default());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        ending.keep(folder);
        // The second shell is deaf to SIGTERM and has to be killed.
        for script in ["exec sleep 60", "trap '' TERM; while :; do sleep 1; done"] {
            let ending = Ending(Arc::default());
            let start = || Command::new("sh").args(["-c", script]).spawn();
            let id = ending.adopt(start, |child| child.id()).unwrap();
            assert!(ending.child_ended().is_none());
            drop(ending);
            assert!(!Path::new(&format!("/proc/{id}")).exists());
        }
        drop(ending);
        assert!(!path.exists());
    }
}
