//! The end: from the first signal to the process's exit.
//!
//! Signals in, whether the end was clean out. New connections are accepted a little longer, since
//! others learn late that this proxy goes away; what is under way may take until the deadline.

use std::io;
use std::time::Duration;

use dataplane::Dataplane;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::ProxyFlags;

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on both signals are ours.
    pub(super) fn listen() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Drains until nothing is open, the deadline has passed, or a second signal comes. Only the last
/// is no clean end.
pub(super) async fn drain(
    dataplane: &Dataplane,
    flags: &ProxyFlags,
    signals: &mut Signals,
) -> bool {
    tracing::info!(connections = dataplane.connections(), "draining");
    dataplane.drain();
    tokio::select! {
        () = quietly(dataplane, flags) => true,
        () = signals.next() => {
            tracing::warn!(connections = dataplane.connections(), "a second signal: ending at once");
            false
        }
    }
}

async fn quietly(dataplane: &Dataplane, flags: &ProxyFlags) {
    let deadline = Instant::now() + flags.drain_seconds;
    sleep(flags.drain_grace_seconds.min(flags.drain_seconds)).await;
    dataplane.close_listeners();
    while dataplane.connections() > 0 && Instant::now() < deadline {
        sleep_until((Instant::now() + LOOK).min(deadline)).await;
    }
    match dataplane.connections() {
        0 => tracing::info!("drained"),
        connections => tracing::warn!(connections, "cut off: --drain-seconds have passed"),
    }
}

/// How often the open connections are counted.
const LOOK: Duration = Duration::from_millis(50);
