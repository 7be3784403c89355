//! The contenders' processes: started on one processor, ended on every path, and never by name.
//!
//! Commands in, running processes out. Ctrl-C ends the one that runs, which makes the load that it
//! carries fail at once; whoever drives the load then finds [`Stop::asked`] true.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::meter;

/// Whether somebody wants the run to end, and whom that ends.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<State>);

#[derive(Default)]
struct State {
    asked: AtomicBool,
    running: Mutex<Option<Pid>>,
}

/// A process that ends when it is dropped.
pub(super) struct Process {
    child: Child,
    stop: Stop,
}

impl Stop {
    /// Begins to listen for Ctrl-C, SIGTERM and the terminal's end. The second one ends this
    /// process at once.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub(super) fn watch() -> io::Result<Self> {
        let stop = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Registered before anything is started, so that no signal can come too early.
        let entered = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        drop(entered);
        let watched = stop.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for round in 0..2 {
                runtime.block_on(async {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hang_up.recv() => {}
                    }
                });
                watched.0.asked.store(true, Ordering::Relaxed);
                watched.tell(if round == 0 { Signal::TERM } else { Signal::KILL });
            }
            std::process::exit(INTERRUPTED);
        })?;
        Ok(stop)
    }

    /// Whether the run is to end.
    pub(super) fn asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Signals the process that runs, if one does. The lock keeps its number its own meanwhile.
    fn tell(&self, what: Signal) {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        for process in running.iter().flat_map(|first| meter::family(first.as_raw_pid())) {
            let _ = Pid::from_raw(process).map(|process| kill_process(process, what));
        }
    }

    fn set(&self, process: Option<Pid>) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }
}

impl Process {
    /// Starts `command`. What it prints on stderr goes to the end of the file `log`; stdout can be
    /// read with [`Process::said`].
    ///
    /// # Errors
    /// When it cannot be started, or the run is ending.
    pub(super) fn start(mut command: Command, log: &Path, stop: &Stop) -> anyhow::Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // A group of its own: Ctrl-C reaches the bench alone, which then ends the contender.
        command.process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        stop.set(Some(Pid::from_child(&child)));
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
    pub(super) fn said(&mut self) -> anyhow::Result<String> {
        let stdout: ChildStdout = self.child.stdout.take().context("no stdout")?;
        let (sender, receiver) = channel();
        thread::Builder::new().spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            drop(reader.read_line(&mut line));
            drop(sender.send(line));
            drop(io::copy(&mut reader, &mut io::sink()));
        })?;
        receiver.recv_timeout(READY_WAIT).context("it said nothing in time")
    }

    /// Its number.
    pub(super) fn id(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_pid()
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut family = Vec::new();
        // One that has ended was reaped by asking, and its number may be somebody else's.
        if !self.has_ended() {
            family = meter::family(self.id());
            self.stop.tell(Signal::TERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE && !self.has_ended() {
            thread::sleep(POLL);
        }
        self.stop.set(None);
        if !self.has_ended() {
            for process in family.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(process, Signal::KILL);
            }
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

/// A command that runs `program` on the processor `cpu` only, from its first instruction on.
pub(super) fn pinned(program: &Path, cpu: usize) -> Command {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(cpu.to_string()).arg(program);
    command
}

/// How long a contender may take until it serves.
pub(super) const READY_WAIT: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(5);
/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;
