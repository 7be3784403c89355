//! What the process asks of the system: no core dumps, enough files and pipes, listening sockets.
//!
//! Addresses in, sockets out. Memory holds passwords and tokens, so nothing may read it from
//! outside; what the system refuses is logged by whoever calls, never fatal.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen as start, socket_with};
use rustix::param::page_size;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, capabilities};

/// Keeps the memory of this process from core files, debuggers and `/proc/<pid>/mem`.
pub(crate) fn harden() {
    // Where a sandbox forbids these calls it forbids what they prevent as well.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Raises the limit on open files as far as it goes, and returns it.
pub(super) fn raise_files_max() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now });
    let limit = if raised.is_ok() { now.maximum } else { now.current };
    limit.unwrap_or(u64::MAX)
}

/// How many bytes the pipes of this process may hold. Without privileges all processes of a user
/// share `fs.pipe-user-pages-soft` (pipe(7)): a quarter of it is left to others.
pub(super) fn pipes_max() -> usize {
    let unlimited = CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN;
    let privileged = capabilities(None).is_ok_and(|sets| sets.effective.intersects(unlimited));
    let pages = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft");
    let pages = pages.ok().and_then(|pages| pages.trim().parse().ok()).unwrap_or(PIPE_PAGES);
    match pages {
        // No limit is written as 0.
        0 => PIPE_BYTES_MAX,
        _ if privileged => PIPE_BYTES_MAX,
        pages => (page_size().saturating_mul(pages) / 4 * 3).min(PIPE_BYTES_MAX),
    }
}

/// A listening socket. A fixed port that is still busy is tried again for a moment: the kernel
/// keeps the sockets of a process with io_uring up to some 50 ms beyond its end. `[::]` is every
/// address of both families; where the kernel has no IPv6, of the other one.
pub(crate) fn listen(mut address: SocketAddr) -> io::Result<TcpListener> {
    let started = Instant::now();
    loop {
        match try_listen(address) {
            Err(Errno::AFNOSUPPORT) if address.ip() == Ipv6Addr::UNSPECIFIED => {
                address.set_ip(Ipv4Addr::UNSPECIFIED.into());
            }
            Err(Errno::ADDRINUSE) if address.port() != 0 && started.elapsed() < BUSY_WAIT => {
                thread::sleep(BUSY_PAUSE);
            }
            tried => return Ok(tried?),
        }
    }
}

fn try_listen(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    start(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`. A burst
/// of pods that start together must not run into the second-long repeat of a dropped SYN.
const BACKLOG: i32 = 4096;

/// Pipes of a proxy that may have as many as it likes: memory ends before that.
const PIPE_BYTES_MAX: usize = 1 << 30;

/// The kernel's own default, where it cannot be read.
const PIPE_PAGES: usize = 16_384;

const BUSY_WAIT: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_that_becomes_free_soon_is_waited_for() {
        let first = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = first.local_addr().unwrap();
        let waiting = thread::spawn(move || listen(address));
        thread::sleep(Duration::from_millis(60));
        drop(first);
        assert_eq!(waiting.join().unwrap().unwrap().local_addr().unwrap(), address);
    }

    #[test]
    fn every_address_is_one_of_both_families() {
        let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }
}
