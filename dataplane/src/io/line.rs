//! A line of tasks that let others go first, and the keeper who lets them go on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::thread::LocalKey;

/// The tasks of a core that stand in line, first come first.
#[derive(Default)]
pub(super) struct Line {
    standing: VecDeque<Waker>,
    /// The task that lets them go on, while it has nobody to.
    keeper: Option<Waker>,
}

/// Stands in `line` until its keeper lets this task go on.
pub(super) async fn stand(line: &'static LocalKey<RefCell<Line>>) {
    let mut stood = false;
    poll_fn(|context| {
        // Polled for another reason, it goes on early; nobody is hurt by that.
        if stood {
            return Poll::Ready(());
        }
        stood = true;
        let keeper = line.with_borrow_mut(|line| {
            line.standing.push_back(context.waker().clone());
            line.keeper.take()
        });
        if let Some(keeper) = keeper {
            keeper.wake();
        }
        Poll::Pending
    })
    .await;
}

/// Waits until somebody stands in `line`, and hands over the first. For the line's one keeper.
pub(super) async fn first(line: &'static LocalKey<RefCell<Line>>) -> Waker {
    poll_fn(|context| {
        line.with_borrow_mut(|line| match line.standing.pop_front() {
            Some(first) => Poll::Ready(first),
            None => {
                line.keeper = Some(context.waker().clone());
                Poll::Pending
            }
        })
    })
    .await
}

/// Lets all those go on who stand in `line` now, or the first `most` of them.
pub(super) fn let_on(line: &'static LocalKey<RefCell<Line>>, most: usize) {
    let count = line.with_borrow(|line| line.standing.len()).min(most);
    for _ in 0..count {
        // Woken outside of the borrow: nobody here knows what that leads to.
        if let Some(next) = line.with_borrow_mut(|line| line.standing.pop_front()) {
            next.wake();
        }
    }
}
