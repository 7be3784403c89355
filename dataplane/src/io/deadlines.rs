//! Deadlines that cost next to nothing, because they may pass a little late.
//!
//! Almost every wait here has a deadline, almost none passes, and all are seconds away. A place in
//! a list, looked through each time the core's heart beats, does for them what a timer of its own
//! would do, without a look at the clock. Never early by more than the heart is late, late by at
//! most two beats; whoever needs it sharper uses the runtime's timers (`io::within` chooses).

use std::cell::RefCell;
use std::task::Waker;
use std::time::{Duration, Instant};

/// The place of one task that waits. Free again when it is dropped.
#[derive(Default)]
pub(super) struct Place(Option<usize>);

/// What one core's tasks wait for.
struct Waits {
    /// When the heart first beat.
    epoch: Option<Instant>,
    /// The time of the last beat, after `epoch`.
    now: Duration,
    places: Vec<Option<(Duration, Waker)>>,
    free: Vec<usize>,
}

impl Place {
    /// Has `waker` woken when `deadline` has passed; to be called again each time it is polled.
    pub(super) fn wait(&mut self, deadline: Duration, waker: &Waker) {
        let old = WAITS.with_borrow_mut(|waits| {
            let index =
                *self.0.get_or_insert_with(|| waits.free.pop().unwrap_or(waits.places.len()));
            if index >= waits.places.len() {
                waits.places.resize(index + 1, None);
            }
            match waits.places.get_mut(index) {
                Some(Some((_, known))) if known.will_wake(waker) => None,
                Some(place) => place.replace((deadline, waker.clone())),
                None => None,
            }
        });
        // Not while the list is borrowed: the last waker of a task takes the task with it.
        drop(old);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(index) = self.0 else { return };
        let old = WAITS.with_borrow_mut(|waits| {
            waits.free.push(index);
            waits.places.get_mut(index).and_then(Option::take)
        });
        drop(old);
    }
}

/// The deadline of a wait that begins now.
pub(super) fn after(wait: Duration) -> Duration {
    WAITS.with_borrow(|waits| waits.now.saturating_add(wait))
}

/// Whether `deadline` had passed when the heart last beat.
pub(super) fn has_passed(deadline: Duration) -> bool {
    WAITS.with_borrow(|waits| waits.now > deadline)
}

/// The heart beats: wakes whoever has waited long enough.
pub(super) fn beat(now: Instant) {
    wake(|deadline, now| now > deadline, Some(now));
}

/// Wakes all who wait, so that they see what has changed.
pub(super) fn wake_all() {
    wake(|_, _| true, None);
}

fn wake(is_due: impl Fn(Duration, Duration) -> bool, clock: Option<Instant>) {
    let due: Vec<Waker> = WAITS.with_borrow_mut(|waits| {
        if let Some(clock) = clock {
            waits.now = clock.saturating_duration_since(*waits.epoch.get_or_insert(clock));
        }
        let now = waits.now;
        let due = waits.places.iter().flatten().filter(|(deadline, _)| is_due(*deadline, now));
        due.map(|(_, waker)| waker.clone()).collect()
    });
    due.into_iter().for_each(Waker::wake);
}

thread_local! {
    static WAITS: RefCell<Waits> = const {
        RefCell::new(Waits {
            epoch: None,
            now: Duration::ZERO,
            places: Vec::new(),
            free: Vec::new(),
        })
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_has_waited_long_enough_is_woken_and_nobody_else() {
        let start = Instant::now();
        beat(start);
        let (one, other) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let (mut soon, mut late) = (Place::default(), Place::default());
        let second = Duration::from_secs(1);
        soon.wait(after(second), &Waker::from(Arc::clone(&one)));
        late.wait(after(second * 10), &Waker::from(Arc::clone(&other)));
        let seen = || (one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed));
        beat(start + second);
        assert_eq!(seen(), (0, 0), "not before its time");
        beat(start + second * 2);
        assert_eq!(seen(), (1, 0));
        drop(soon);
        beat(start + second * 3);
        assert_eq!(seen(), (1, 0), "whoever left is not woken");
        let mut again = Place::default();
        again.wait(after(second), &Waker::from(Arc::clone(&one)));
        assert_eq!(WAITS.with_borrow(|waits| waits.places.len()), 2, "a free place is used");
        beat(start + second * 20);
        assert_eq!(seen(), (2, 1));
    }
}
