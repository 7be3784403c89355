//! What other threads owe the cores: long work in short pieces.
//!
//! A node's processors are all cores' as a rule, so whatever else this process works at takes the
//! processor of one. The kernel takes it back at a tick, 4 ms later as a rule, however low the
//! worker's priority. So work that grows with the number of connectors offers its processor every
//! fraction of a millisecond, and a core that wants it goes first.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// Lets the cores go first, if this thread has worked for a while since it last did. To be called
/// once for each object, or each so many bytes; it costs a look at the clock.
pub fn cores_first() {
    if BEGAN.get().is_some_and(|began| began.elapsed() < PIECE) {
        return;
    }
    thread::yield_now();
    BEGAN.set(Some(Instant::now()));
}

/// Frees `items`, one after another.
pub fn let_go<T>(items: impl IntoIterator<Item = T>) {
    for item in items {
        drop(item);
        cores_first();
    }
}

thread_local! {
    /// When the piece of work began that is under way.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A tenth of the millisecond that a core may be kept waiting.
const PIECE: Duration = Duration::from_micros(100);
