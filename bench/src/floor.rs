//! The floor: a relay that moves bytes with splice(2) and knows nothing of what they mean.
//!
//! Connections in, the same bytes out at the origin and back. One thread, readiness by epoll, one
//! pipe of 1 MiB a direction. No HTTP, no TLS, no timeouts: it is what a body costs at the least,
//! to hold proxies against, and no proxy to run.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context as _;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The verb `floor`: relays until it is stopped.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Where to listen; port 0 takes a free one, printed on stdout as a line of JSON.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where every connection leads.
    #[arg(long, value_name = "ADDR:PORT")]
    origin: SocketAddr,
}

/// Runs the verb `floor`. Returns only to fail.
///
/// # Errors
/// When the address is taken or the kernel has no epoll to spare.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let listener = TcpListener::bind(flags.listen)
        .with_context(|| format!("listening on {}", flags.listen))?;
    println!("{}", serde_json::json!({ "listen": listener.local_addr()?.to_string() }));
    Ok(relay(&listener, flags.origin)?)
}

/// Accepts, dials and relays, for ever.
fn relay(listener: &TcpListener, origin: SocketAddr) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut pairs: BTreeMap<u64, Pair> = BTreeMap::new();
    let mut next = LISTENER + 1;
    let mut again: Vec<u64> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        // Whoever had more to move than its turn allowed must not wait for an edge that has been.
        let wait = (!again.is_empty()).then_some(&NO_WAIT);
        match epoll::wait(&poll, spare_capacity(&mut events), wait) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
        let mut due = std::mem::take(&mut again);
        due.extend(events.drain(..).map(|event| event.data.u64()));
        due.sort_unstable();
        due.dedup();
        for number in due {
            if number == LISTENER {
                accept(listener, origin, &poll, &mut pairs, &mut next)?;
                continue;
            }
            let Some(pair) = pairs.get_mut(&number) else {
                continue;
            };
            match pair.pump() {
                Ok(Turn::Waiting) => {}
                Ok(Turn::Unfinished) => again.push(number),
                // Closing both sockets takes them out of the poll.
                Ok(Turn::Over) | Err(_) => drop(pairs.remove(&number)),
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    origin: SocketAddr,
    poll: &OwnedFd,
    pairs: &mut BTreeMap<u64, Pair>,
    next: &mut u64,
) -> io::Result<()> {
    let near = match listener.accept() {
        Ok((near, _)) => near,
        Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(cause) => return Err(cause),
    };
    // Blocking, since the origin is next door: whoever cannot be dialled is closed.
    let Ok(far) = TcpStream::connect_timeout(&origin, DIAL_WAIT) else {
        return Ok(());
    };
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(poll, socket, EventData::new_u64(*next), edges)?;
    }
    pairs.insert(*next, Pair { near, far, up: Way::new()?, down: Way::new()? });
    *next += 1;
    Ok(())
}

/// Two connections and what is between them.
struct Pair {
    near: TcpStream,
    far: TcpStream,
    up: Way,
    down: Way,
}

/// One direction: a pipe, and how far it has come.
struct Way {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    ended: bool,
    closed: bool,
}

/// How a turn ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing more can be moved before the next edge.
    Waiting,
    /// The turn was long enough; there may be more.
    Unfinished,
    /// Both directions have ended.
    Over,
}

impl Pair {
    fn pump(&mut self) -> io::Result<Turn> {
        let up = self.up.pump(&self.near, &self.far)?;
        let down = self.down.pump(&self.far, &self.near)?;
        Ok(match (up, down) {
            (Turn::Over, Turn::Over) => Turn::Over,
            (Turn::Unfinished, _) | (_, Turn::Unfinished) => Turn::Unfinished,
            _ => Turn::Waiting,
        })
    }
}

impl Way {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Where the kernel grants no more, the usual 64 KiB do, only dearer.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write, held: 0, ended: false, closed: false })
    }

    /// Moves what can be moved. The pipe is filled only when it is empty, so that "would block"
    /// can only mean the socket.
    fn pump(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<Turn> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        for _ in 0..ROUNDS {
            if self.held == 0 && !self.ended {
                match splice(from, None, &self.write, None, PIPE_BYTES, flags) {
                    Ok(0) => self.ended = true,
                    Ok(count) => self.held = count,
                    Err(Errno::AGAIN) => return Ok(Turn::Waiting),
                    Err(Errno::INTR) => {}
                    Err(cause) => return Err(cause.into()),
                }
            }
            if self.held > 0 {
                match splice(&self.read, None, to, None, self.held, flags) {
                    Ok(count) => self.held -= count,
                    Err(Errno::AGAIN) => return Ok(Turn::Waiting),
                    Err(Errno::INTR) => {}
                    Err(cause) => return Err(cause.into()),
                }
            } else if self.ended {
                if !self.closed {
                    self.closed = true;
                    to.shutdown(Shutdown::Write)?;
                }
                return Ok(Turn::Over);
            }
        }
        Ok(Turn::Unfinished)
    }
}

const LISTENER: u64 = 0;
const EVENTS: usize = 256;
const ROUNDS: usize = 16;
const PIPE_BYTES: usize = 1 << 20;
const DIAL_WAIT: Duration = Duration::from_secs(5);
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::thread;

    use super::*;
    use crate::memory::Noise;

    #[test]
    fn bytes_pass_both_ways_unchanged_and_a_half_close_is_honoured() {
        let origin = TcpListener::bind("127.0.0.1:0").unwrap();
        let floor = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, to) = (floor.local_addr().unwrap(), origin.local_addr().unwrap());
        thread::spawn(move || relay(&floor, to));

        // The origin answers only once the caller has ended its direction.
        let answering = thread::spawn(move || {
            let (mut stream, _) = origin.accept().unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).unwrap();
            stream.write_all(&asked).unwrap();
            stream.write_all(b"end").unwrap();
        });
        let mut sent = vec![0; (5 << 20) + 7];
        Noise::new(3).fill(&mut sent);
        let mut caller = TcpStream::connect(address).unwrap();
        let mut writing = caller.try_clone().unwrap();
        let copy = sent.clone();
        let writer = thread::spawn(move || {
            writing.write_all(&copy).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut read = Vec::new();
        caller.read_to_end(&mut read).unwrap();
        writer.join().unwrap();
        answering.join().unwrap();
        assert!(read.strip_suffix(b"end").is_some_and(|echoed| echoed == sent));
    }
}
