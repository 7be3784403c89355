//! A process that this one started: what it says first, and its end.
//!
//! A [`Child`] in, a line or nothing out. Nobody is found by name, and nobody is signalled whose
//! number may be another's by then.

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, ChildStdout};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::meter;

/// The first line, as soon as there is one; the empty line if there is none. What follows is read
/// and dropped, so that the process can always write.
///
/// # Errors
/// When a thread cannot be had.
pub(crate) fn first_line(stdout: ChildStdout) -> io::Result<Receiver<String>> {
    let (sender, receiver) = channel();
    thread::Builder::new().spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        drop(reader.read_line(&mut line));
        drop(sender.send(line));
        drop(io::copy(&mut reader, &mut io::sink()));
    })?;
    Ok(receiver)
}

/// Asks a process and all that it started to end, insists after `patience`, and reaps it. Each step
/// may find it gone already, which is what is wanted.
pub(crate) fn end(child: &mut Child, patience: Duration) {
    // One that has ended was reaped by asking, and its number may be somebody else's.
    if has_ended(child) {
        return;
    }
    let family = meter::family(Pid::from_child(child).as_raw_pid());
    signal(&family, Signal::TERM);
    let asked = Instant::now();
    while asked.elapsed() < patience {
        if has_ended(child) {
            return;
        }
        thread::sleep(POLL);
    }
    signal(&family, Signal::KILL);
    drop(child.wait());
}

/// Whether it has ended; it is reaped then.
pub(crate) fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

/// Signals every process of `family`.
pub(crate) fn signal(family: &[i32], what: Signal) {
    for process in family.iter().filter_map(|process| Pid::from_raw(*process)) {
        let _ = kill_process(process, what);
    }
}

const POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_ignores_the_request_to_end_is_killed_after_a_while() {
        let script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done";
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        // Only once it has said so is it deaf; before, the signal would simply end it.
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        let (id, patience, asked) = (child.id(), Duration::from_millis(300), Instant::now());
        end(&mut child, patience);
        assert!(!Path::new(&format!("/proc/{id}")).exists() && asked.elapsed() >= patience);
    }

    #[test]
    fn the_first_line_comes_before_the_end_and_none_is_an_empty_one() {
        let said = |script: &str| {
            let mut command = Command::new("sh");
            let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            let lines = first_line(child.stdout.take().unwrap()).unwrap();
            let line = lines.recv_timeout(Duration::from_secs(10)).unwrap();
            end(&mut child, Duration::from_secs(1));
            line
        };
        assert_eq!(said("echo here; exec sleep 60"), "here\n");
        assert_eq!(said("exit 0"), "");
    }
}
