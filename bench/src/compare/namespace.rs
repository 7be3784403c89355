//! A network of the run's own: loopback and nothing else, with the congestion control that shows
//! what proxies cost.
//!
//! The command line in, the same program once more inside a new network namespace out. Where that
//! cannot be had the run goes on outside and says which congestion control it used: BBR paces even
//! loopback, adds up to 0.3 s to every GiB, and hides the differences.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Starts this program again, with the same arguments and `flag`, in a new namespace. Returns only
/// where there is none to be had, with the reason.
pub(crate) fn enter(flag: &str) -> io::Error {
    if !rustix::process::geteuid().is_root() {
        return io::Error::other("only root may make one");
    }
    if let Err(cause) = works() {
        return cause;
    }
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(cause) => return cause,
    };
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    Command::new("unshare").arg("--net").arg("--").arg(own).args(arguments).arg(flag).exec()
}

/// Whether the tools are there and the kernel lets us.
fn works() -> io::Result<()> {
    Command::new("ip").arg("-V").output()?;
    let tried = Command::new("unshare").args(["--net", "--", "true"]).output()?;
    if tried.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&tried.stderr).trim().to_owned()))
}

/// Makes a new namespace usable: loopback up, reno.
///
/// # Errors
/// When a step fails; nothing can be measured then.
pub(crate) fn furnish() -> io::Result<()> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if !up.success() {
        return Err(io::Error::other("loopback stays down"));
    }
    // Where a kernel has no reno the run says what it has.
    drop(fs::write(CONGESTION_CONTROL, "reno"));
    Ok(())
}

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
