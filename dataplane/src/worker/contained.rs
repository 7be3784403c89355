//! A connection's task, and the panic that ends it alone.
//!
//! A future in, one that never panics out. What it was that panicked stands in the log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;

use crate::counters::Counters;

/// Runs `connection` to its end. A panic ends it and is counted; the core and its other connections
/// go on (monoio would let it end the whole thread).
pub(super) fn contained(
    connection: impl Future<Output = ()>,
    counters: Arc<Counters>,
) -> impl Future<Output = ()> {
    // No async block, which would hold the connection's future twice: as given and as awaited.
    AssertUnwindSafe(connection).catch_unwind().map(move |ended| {
        if ended.is_err() {
            counters.panics.add(1);
            tracing::error!("a connection's task panicked");
        }
    })
}
