//! Who may go on next, among tasks that never have to wait.
//!
//! A body whose sender and receiver both keep up is always ready, and the runtime runs whatever is
//! ready before it looks at what the kernel has to say. So a task that has moved enough queues
//! here, and a few of them at a time go on, each time after the runtime has looked. While small
//! requests come it is one at a time, in smaller pieces: a small request then waits for one piece
//! of one body, however many bodies pass.

use std::cell::{Cell, RefCell};
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use monoio::io::AsyncReadRent as _;

use super::heart::{is_late, lately};
use super::line::{self, Line};
use super::{TIMER_STEP, sleep, yield_now};

/// Waits for its turn.
pub(super) async fn wait() {
    LAST_WAIT.set(Some(lately()));
    line::stand(&TURNS).await;
}

/// Gives those who gave way their turns.
///
/// monoio 0.2.4 looks at its driver, and at its timers, when no task is ready: bodies that never
/// have to wait would keep every other connection and every deadline of the core waiting. So there
/// is a look before each turn. On epoll that does not see to the timers: once the core's own
/// heartbeat is late, all rest for a moment.
pub(super) async fn keep(uring: bool) {
    let mut nudge = Nudge::new();
    loop {
        let next = line::first(&TURNS).await;
        match &mut nudge {
            Ok(nudge) if uring => nudge.ring().await,
            Ok(nudge) if small_ones_are_about() => nudge.epoll().await,
            _ => rounds().await,
        }
        if is_late() {
            sleep(TIMER_STEP).await;
        }
        next.wake();
        if small_ones_are_about() {
            SHARP.set(SHARP.get() - 1);
        } else {
            line::let_on(&TURNS, MORE_AT_ONCE);
        }
    }
}

/// Has the runtime look at its driver, most often: between rounds it does on epoll, and how long a
/// round is depends on how many were ready when it began.
async fn rounds() {
    for _ in 0..ROUNDS {
        yield_now().await;
    }
}

/// What only the driver knows of: who waits for it waits for a look.
struct Nudge {
    near: monoio::net::UnixStream,
    far: UnixStream,
}

impl Nudge {
    fn new() -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let near = monoio::net::UnixStream::from_std(near)?;
        Ok(Self { near, far })
    }

    /// Has a ring looked at: the operation ends at once, and is seen to have.
    async fn ring(&self) {
        // It can be written to at any time.
        let _ = self.near.writable(false).await;
    }

    /// Has epoll looked at: what the driver believes of a socket changes only when it looks.
    async fn epoll(&mut self) {
        let mut waiting = pin!(self.near.read(Vec::with_capacity(1)));
        // Nothing is there, and with that the driver believes so until it has looked.
        let unseen = waiting.as_mut().now_or_never().is_none();
        if unseen && self.far.write(&[0]).is_ok() {
            let _ = waiting.await;
        } else {
            rounds().await;
        }
    }
}

/// Whether a body waited for its turn a moment ago.
pub(super) fn bodies_are_about() -> bool {
    LAST_WAIT.get().is_some_and(|last| lately().saturating_duration_since(last) < BODIES_MOMENT)
}

/// Notes that a small request has come: what it leads to, and the next one, shall not wait long.
pub(crate) fn note_small() {
    SHARP.set(SHARP_TURNS);
}

/// Whether a small request came a few turns ago.
pub(super) fn small_ones_are_about() -> bool {
    SHARP.get() > 0
}

/// The most that one body may take at once where pages are handed over.
pub(super) fn piece_max() -> usize {
    if small_ones_are_about() { SHARP_PIECE_BYTES } else { usize::MAX }
}

/// The most that one body may take at once where bytes are copied, and encrypted perhaps.
pub(crate) fn copied_max() -> usize {
    if small_ones_are_about() { SHARP_COPIED_BYTES } else { YIELD_BYTES }
}

thread_local! {
    /// About when a body last waited.
    static LAST_WAIT: Cell<Option<Instant>> = const { Cell::new(None) };
    static TURNS: RefCell<Line> = RefCell::default();
    /// For how many turns still one body goes on at a time.
    static SHARP: Cell<u32> = const { Cell::new(0) };
}

/// How many bodies besides the first go on after one look where nobody else is about: a look finds
/// more the longer ago the last one was, and costs the same.
const MORE_AT_ONCE: usize = 2;
/// Bytes one socket may move before the core's other tasks get a turn: less than a tenth of a
/// millisecond's work, as a rule.
const YIELD_BYTES: usize = 256 << 10;
/// Two beats of the heart, by which this is told.
const BODIES_MOMENT: Duration = Duration::from_millis(200);
/// What takes some 50 µs, and what takes some 100 with TLS.
const SHARP_PIECE_BYTES: usize = 256 << 10;
const SHARP_COPIED_BYTES: usize = 64 << 10;
/// Some milliseconds.
const SHARP_TURNS: u32 = 64;

/// How often in a row a lone task has to be ready until the runtime looks at its driver in between:
/// it runs twice as many as were ready when it began, and one more.
const ROUNDS: usize = 4;

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::spawn;
    use super::super::tests::on_each_driver;
    use super::*;

    #[test]
    fn pieces_are_small_while_small_requests_come_and_not_for_long_after() {
        on_each_driver(|_| small_for_a_while());
    }

    #[test]
    fn a_small_request_is_seen_before_the_next_turn_however_many_bodies_pass() {
        on_each_driver(|_| seen_at_once());
    }

    /// One of many bodies makes a socket readable; whoever waits for that runs within two turns.
    async fn seen_at_once() {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let near = monoio::net::UnixStream::from_std(near).unwrap();
        let (turns, seen) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        for _ in 0..16 {
            let (turns, seen) = (Rc::clone(&turns), Rc::clone(&seen));
            let mut far = far.try_clone().unwrap();
            spawn(async move {
                while !seen.get() && turns.get() < 10_000 {
                    note_small();
                    wait().await;
                    turns.set(turns.get() + 1);
                    if turns.get() == 100 {
                        far.write_all(&[1]).unwrap();
                    }
                }
            });
        }
        near.readable(false).await.unwrap();
        seen.set(true);
        assert!((100..=102).contains(&turns.get()), "seen after turn {}", turns.get());
        drop(far);
    }

    async fn small_for_a_while() {
        assert_eq!(piece_max(), usize::MAX);
        note_small();
        for _ in 0..SHARP_TURNS {
            assert_eq!(piece_max(), SHARP_PIECE_BYTES);
            wait().await;
            // Whoever gives the turns counts this one after it has woken us.
            yield_now().await;
        }
        assert_eq!(piece_max(), usize::MAX);
    }
}
