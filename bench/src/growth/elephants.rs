//! Large bodies that stream without end, both ways and in both framings.
//!
//! Roads in, bytes moved out, until they are told to stop. They run as mild threads: whoever takes
//! the time of something else beside them goes first.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::mild;
use crate::compare::drive::{self, Bodies, Road};
use crate::compare::link::Link;
use crate::compare::origin::{Origin, digest, digest_in_chunks, framed};

/// Some that stream.
pub(super) struct Elephants {
    shared: Arc<Shared>,
    threads: JoinHandle<io::Result<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    moved: AtomicU64,
}

/// A way to stream.
#[derive(Clone, Copy)]
enum Way {
    Pull,
    PullChunks,
    Push,
    PushChunks,
}

/// A registry whose threads are mild, for elephants alone.
///
/// # Errors
/// When it does not start.
pub(super) fn origin() -> anyhow::Result<Origin> {
    let started = thread::spawn(|| {
        mild::this_thread()?;
        Origin::start()
    });
    started.join().map_err(|_| io::Error::other("the registry panicked"))?
}

impl Elephants {
    /// Sends eight of them along `road`: two of each direction and framing.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub(super) fn start(road: &Road, bodies: &Arc<Bodies>) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (road, bodies, of_theirs) = (road.clone(), Arc::clone(bodies), Arc::clone(&shared));
        let threads = thread::Builder::new().spawn(move || {
            mild::this_thread()?;
            thread::scope(|scope| {
                let ways = [Way::Pull, Way::PullChunks, Way::Push, Way::PushChunks];
                let threads: Vec<_> = ways
                    .into_iter()
                    .chain(ways)
                    .map(|way| {
                        scope.spawn({
                            let (road, bodies, shared) = (&road, &bodies, &of_theirs);
                            move || way.go(road, bodies, shared)
                        })
                    })
                    .collect();
                threads.into_iter().try_for_each(|ended| ended.join().unwrap_or_else(panicked))
            })
        })?;
        Ok(Self { shared, threads })
    }

    /// Bytes of bodies moved so far.
    pub(super) fn moved(&self) -> u64 {
        self.shared.moved.load(Ordering::Relaxed)
    }

    /// Ends them all.
    ///
    /// # Errors
    /// When one had ended by itself.
    pub(super) fn stop(self) -> io::Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.join().unwrap_or_else(panicked)
    }
}

impl Way {
    fn go(self, road: &Road, bodies: &Bodies, shared: &Shared) -> io::Result<()> {
        let mut link = road.open()?;
        match self {
            Self::Pull | Self::PullChunks => {
                let of = if matches!(self, Self::Pull) { digest } else { digest_in_chunks };
                let asked = road.head("GET", &format!("{}/blobs/{}", road.path, of(ENDLESS)), "");
                link.send(asked.as_bytes(), false)?;
                let answer = drive::answer(&mut link)?;
                if answer.status != 200 {
                    return Err(drive::unexpected("GET", &answer));
                }
                // Chunk heads are dropped with the rest: whoever stops does not care where.
                shared.repeat(PIECE, || link.skip(PIECE))
            }
            Self::Push => {
                let more = format!("Content-Length: {ENDLESS}\r\n");
                begin(road, &mut link, "PUT", &more)?;
                shared.repeat(PIECE, || link.send_stock(&bodies.plain, PIECE))
            }
            Self::PushChunks => {
                begin(road, &mut link, "PATCH", "Transfer-Encoding: chunked\r\n")?;
                shared.repeat(PIECE, || link.send_stock(&bodies.chunked, framed(PIECE)))
            }
        }
    }
}

/// Opens an upload and sends the head of the request that carries its bytes.
fn begin(road: &Road, link: &mut Link, method: &str, framing: &str) -> io::Result<()> {
    let target = format!("{}&digest={}", road.begin(link)?, digest(ENDLESS));
    let more = format!("Content-Type: application/octet-stream\r\n{framing}");
    link.send(road.head(method, &target, &more).as_bytes(), true)
}

impl Shared {
    /// Does `piece`, of `bytes`, until told to stop.
    fn repeat(&self, bytes: u64, mut piece: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            piece()?;
            self.moved.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn panicked<T>(_: Box<dyn std::any::Any + Send>) -> io::Result<T> {
    Err(io::Error::other("an elephant panicked"))
}

/// A tebibyte, in whole chunks.
const ENDLESS: u64 = 1 << 40;
const PIECE: u64 = 1 << 20;
