//! What must be gone when the demo ends, however it ends: the proxy's process, the copied folder.
//!
//! A process and a folder in; nothing comes out. Success, failure, panic and Ctrl-C all end in
//! [`Ending::clear`]. Only what was handed over here is ever ended or removed.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::{child, interrupt};

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
        let watched = Arc::clone(&state);
        interrupt::listen(move |_| {
            watched.clear();
            let held = watched.held.load(Ordering::Relaxed);
            std::process::exit(if held { 0 } else { interrupt::EXIT_CODE });
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
        if let Some(mut child) = leftovers.child.take() {
            child::end(&mut child, PATIENCE);
        }
        drop(leftovers.folder.take());
    }
}

/// More than the proxy's own default grace, so that it is killed only when it hangs.
const PATIENCE: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn gone(id: u32) -> bool {
        !Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn an_adopted_process_and_folder_are_gone_when_the_ending_is_dropped() {
        let ending = Ending(Arc::default());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        ending.keep(folder);
        let start = || Command::new("sleep").arg("60").spawn();
        let id = ending.adopt(start, |child| child.id()).unwrap();
        assert!(ending.child_ended().is_none());
        drop(ending);
        assert!(gone(id) && !path.exists());
    }

    #[test]
    fn nothing_is_started_once_the_end_has_begun() {
        let ending = Ending(Arc::default());
        ending.clear();
        let start = || panic!("started after the end");
        assert!(ending.adopt(start, |_| ()).is_err());
    }
}
