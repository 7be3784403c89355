//! The heartbeat of a core: its timers run, and everybody knows about what time it is.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{deadlines, sleep};

/// Keeps the heartbeat of this core.
pub(super) async fn beat() {
    loop {
        let now = Instant::now();
        HEARTBEAT.set(Some(now));
        deadlines::beat(now);
        sleep(HEARTBEAT_EVERY).await;
    }
}

/// The time, as it was when this core's heart last beat: a tenth of a second ago at most as a rule.
pub(crate) fn lately() -> Instant {
    HEARTBEAT.get().unwrap_or_else(Instant::now)
}

/// Whether this core's timers have not run for a while.
pub(super) fn is_late() -> bool {
    HEARTBEAT.get().is_some_and(|beat| beat.elapsed() > HEARTBEAT_LATE)
}

thread_local! {
    /// When this core's timers last ran.
    static HEARTBEAT: Cell<Option<Instant>> = const { Cell::new(None) };
}

const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);
const HEARTBEAT_LATE: Duration = Duration::from_millis(200);
