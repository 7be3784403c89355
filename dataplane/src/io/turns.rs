//! Who may go on next, among tasks that never have to wait.
//!
//! A body whose sender and receiver both keep up is always ready, and the runtime runs whatever is
//! ready before it looks at what the kernel has to say. So a task that has moved enough queues
//! here, and one of them at a time goes on, each after the runtime has looked: a small request
//! waits for one piece of one body, however many bodies pass.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::task::{Poll, Waker};

use super::{TIMER_STEP, is_late, sleep, yield_now};

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
    }
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
    static TURNS: RefCell<Turns> = RefCell::default();
}

/// How often in a row a lone task has to be ready until the runtime looks at its driver in between:
/// it runs twice as many as were ready when it began, and one more.
const ROUNDS: usize = 4;
