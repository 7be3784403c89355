//! How many reviews a second: a burst of one second's worth, then evenly, with a short queue.
//!
//! The time in, how long to wait out, or that the queue is too long. No clock inside.

use std::time::{Duration, Instant};

/// Turns at an even pace.
pub(super) struct Pace {
    interval: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// So many turns a second.
    pub(super) fn new(rate: u32) -> Self {
        Self { interval: Duration::from_secs(1) / rate.max(1), next: None }
    }

    /// A turn: how long to wait for it, or nothing where that is more than [`QUEUE`].
    pub(super) fn turn(&mut self, now: Instant) -> Option<Duration> {
        let next = self.next.unwrap_or(now);
        // Unused turns are kept for a burst, but only those of the last second.
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let next = next.max(earliest);
        let wait = next.saturating_duration_since(now);
        if wait > QUEUE {
            return None;
        }
        self.next = Some(next + self.interval);
        Some(wait)
    }
}

const BURST: Duration = Duration::from_secs(1);

/// Longer than this nobody waits for a turn: 503 and Retry-After are better.
const QUEUE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_evenly_after_a_burst_and_the_queue_is_short() {
        let start = Instant::now();
        let mut pace = Pace::new(10);
        let waits: Vec<_> = (0..30).filter_map(|_| pace.turn(start)).collect();
        assert_eq!(waits.len(), 11, "a second's worth waits, and no more");
        let later = start + Duration::from_secs(10);
        let free = (0..30).filter_map(|_| pace.turn(later)).filter(Duration::is_zero).count();
        assert_eq!(free, 11, "unused turns are kept for a second only");
    }
}
