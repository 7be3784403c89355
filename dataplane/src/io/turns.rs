//! Who may go on next, among tasks that never have to wait.
//!
//! A body whose sender and receiver both keep up is always ready, and the runtime runs whatever is
//! ready before it looks at what the kernel has to say. So a task that has moved enough queues
//! here, and a few of them at a time go on, each time after the runtime has looked. While small
//! requests come it is one at a time, in smaller pieces: a small request then waits for one piece
//! of one body, however many bodies pass.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::heart::{is_late, lately};
use super::{TIMER_STEP, sleep, yield_now};

#[derive(Default)]
struct Turns {
    waiting: VecDeque<Waker>,
    keeper: Option<Waker>,
}

/// Waits for its turn.
pub(super) async fn wait() {
    let mut queued = false;
    poll_fn(|context| {
        // Polled for another reason, it goes on early; nobody is hurt by that.
        if queued {
            return Poll::Ready(());
        }
        queued = true;
        LAST_WAIT.set(Some(lately()));
        let keeper = TURNS.with_borrow_mut(|turns| {
            turns.waiting.push_back(context.waker().clone());
            turns.keeper.take()
        });
        if let Some(keeper) = keeper {
            keeper.wake();
        }
        Poll::Pending
    })
    .await;
}

/// Gives those who gave way their turns.
///
/// monoio 0.2.4 looks at its driver, and at its timers, when no task is ready: bodies that never
/// have to wait would keep every other connection and every deadline of the core waiting. On a
/// ring an operation of our own makes it look before each turn. On epoll it looks between rounds
/// but not at its timers: once the core's own heartbeat is late, all rest for a moment.
pub(super) async fn keep(uring: bool) {
    let nudge = UnixStream::pair().and_then(|(near, far)| {
        near.set_nonblocking(true)?;
        Ok((monoio::net::UnixStream::from_std(near)?, far))
    });
    loop {
        let next = next().await;
        match &nudge {
            // It can be written to at any time, which only the driver knows.
            Ok((near, _far)) if uring => drop(near.writable(false).await),
            _ => {
                for _ in 0..ROUNDS {
                    yield_now().await;
                }
            }
        }
        if is_late() {
            sleep(TIMER_STEP).await;
        }
        next.wake();
        if small_ones_are_about() {
            SHARP.set(SHARP.get() - 1);
        } else {
            let more = TURNS.with_borrow_mut(|turns| {
                let count = turns.waiting.len().min(MORE_AT_ONCE);
                turns.waiting.drain(..count).collect::<Vec<_>>()
            });
            more.into_iter().for_each(Waker::wake);
        }
    }
}

/// Whether a body waited for its turn a moment ago.
pub(super) fn bodies_are_about() -> bool {
    LAST_WAIT.get().is_some_and(|last| lately().saturating_duration_since(last) < BODIES_MOMENT)
}

/// Notes that something small was received, a head perhaps: what it leads to shall not wait long.
pub(super) fn note_small() {
    SHARP.set(SHARP_TURNS);
}

/// Whether something small was received a few turns ago.
pub(super) fn small_ones_are_about() -> bool {
    SHARP.get() > 0
}

/// The most that one body may take at once.
pub(super) fn piece_max() -> usize {
    if small_ones_are_about() { SHARP_PIECE_BYTES } else { usize::MAX }
}

/// Waits until somebody waits, and hands over the first of them.
async fn next() -> Waker {
    poll_fn(|context| {
        TURNS.with_borrow_mut(|turns| match turns.waiting.pop_front() {
            Some(first) => Poll::Ready(first),
            None => {
                turns.keeper = Some(context.waker().clone());
                Poll::Pending
            }
        })
    })
    .await
}

thread_local! {
    /// About when a body last waited.
    static LAST_WAIT: Cell<Option<Instant>> = const { Cell::new(None) };
    static TURNS: RefCell<Turns> = RefCell::default();
    /// For how many turns still one body goes on at a time.
    static SHARP: Cell<u32> = const { Cell::new(0) };
}

/// How many bodies besides the first go on after one look where nobody else is about: a look finds
/// more the longer ago the last one was, and costs the same.
const MORE_AT_ONCE: usize = 2;
/// Two beats of the heart, by which this is told.
const BODIES_MOMENT: Duration = Duration::from_millis(200);
/// What takes some 50 µs.
const SHARP_PIECE_BYTES: usize = 256 << 10;
/// Some milliseconds.
const SHARP_TURNS: u32 = 64;

/// How often in a row a lone task has to be ready until the runtime looks at its driver in between:
/// it runs twice as many as were ready when it began, and one more.
const ROUNDS: usize = 4;

#[cfg(test)]
mod tests {
    use super::super::{run, uring_works};
    use super::*;

    #[test]
    fn pieces_are_small_while_small_requests_come_and_not_for_long_after() {
        let drivers = if uring_works() { vec![true, false] } else { vec![false] };
        for uring in drivers {
            // What waits for turns is a thread's own.
            let core = std::thread::spawn(move || run(uring, small_for_a_while()));
            assert!(core.join().is_ok_and(|ran| ran.is_ok()));
        }
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
