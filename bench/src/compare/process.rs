//! The contenders' processes: started on one processor, ended on every path, and never by name.
//!
//! Commands in, running processes out. Ctrl-C ends the one that runs, which makes the load that it
//! carries fail at once; whoever drives the load then finds [`Stop::asked`] true.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};

use crate::{child, interrupt, meter};

/// Whether somebody wants the run to end, and whom that ends.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<State>);

#[derive(Default)]
struct State {
    asked: AtomicBool,
    running: Mutex<Option<Pid>>,
}

/// A process that ends when it is dropped.
pub(crate) struct Process {
    child: Child,
    stop: Stop,
}

impl Stop {
    /// Begins to listen for Ctrl-C, SIGTERM and the terminal's end. The second one ends this
    /// process at once.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub(crate) fn watch() -> io::Result<Self> {
        let stop = Self::default();
        let watched = stop.clone();
        interrupt::listen(move |time| {
            watched.0.asked.store(true, Ordering::Relaxed);
            watched.tell(if time == 1 { Signal::TERM } else { Signal::KILL });
            if time > 1 {
                std::process::exit(interrupt::EXIT_CODE);
            }
        })?;
        Ok(stop)
    }

    /// Whether the run is to end.
    pub(crate) fn asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Signals the process that runs, if one does. The lock keeps its number its own meanwhile.
    fn tell(&self, what: Signal) {
        let running = self.running();
        for first in running.iter() {
            child::signal(&meter::family(first.as_raw_pid()), what);
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Starts `command`. What it prints on stderr goes to the end of the file `log`; stdout can be
    /// read with [`Process::said`].
    ///
    /// # Errors
    /// When it cannot be started, or the run is ending.
    pub(crate) fn start(mut command: Command, log: &Path, stop: &Stop) -> anyhow::Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // A group of its own: Ctrl-C reaches the bench alone, which then ends the contender.
        command.process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        *stop.running() = Some(Pid::from_child(&child));
        let started = Self { child, stop: stop.clone() };
        // Whoever asked before it was known could not end it.
        if stop.asked() {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        Ok(started)
    }

    /// Its first line on stdout; what follows is read and dropped, so that it can always write.
    ///
    /// # Errors
    /// When there is none in time.
    pub(crate) fn said(&mut self) -> anyhow::Result<String> {
        let stdout = self.child.stdout.take().context("no stdout")?;
        let line = child::first_line(stdout)?.recv_timeout(READY_WAIT);
        line.context("it said nothing in time")
    }

    /// Its number.
    pub(crate) fn id(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_pid()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        child::has_ended(&mut self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Held to the end, so that nobody signals a number that is another's by then.
        let mut running = self.stop.running();
        child::end(&mut self.child, PATIENCE);
        *running = None;
    }
}

/// A command that runs `program` on the processor `cpu` only, from its first instruction on.
pub(crate) fn pinned(program: &Path, cpu: usize) -> Command {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(cpu.to_string()).arg(program);
    command
}

/// How long a contender may take until it serves.
pub(crate) const READY_WAIT: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(3);
