//! Threads that give way to all others: what a load needs beside a measurement of latency.
//!
//! A thread in, the same thread out, in the kernel's class for idle work (sched(7), `SCHED_IDLE`):
//! whoever else wakes up on its processor goes first. What it starts afterwards is in it, too. So
//! a load that fills a processor does not delay the one thread there that takes the time.

use std::io;
use std::process::{Command, Stdio};

use rustix::thread::{Pid, gettid};

/// Makes the calling thread mild.
///
/// # Errors
/// When there is no `chrt` or the kernel does not let it.
pub(super) fn this_thread() -> io::Result<()> {
    thread(gettid())
}

/// Makes another thread mild.
///
/// # Errors
/// As [`this_thread`].
pub(super) fn thread(number: Pid) -> io::Result<()> {
    let mut command = Command::new("chrt");
    command.args(["--idle", "--pid", "0"]).arg(number.as_raw_nonzero().to_string());
    let status = command.stdin(Stdio::null()).status()?;
    let refused = || io::Error::other("chrt, of util-linux, could not make a thread idle");
    status.success().then_some(()).ok_or_else(refused)
}
