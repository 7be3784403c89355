//! Ctrl-C, SIGTERM and the terminal's end, for verbs that clear up before they end.
//!
//! Signals in, calls out, on a thread of their own.

use std::io;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Calls `told` at each signal from now on: with 1, with 2, and so on.
///
/// # Errors
/// When signals cannot be listened for.
pub(crate) fn listen(mut told: impl FnMut(u32) + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered before anything is started, so that no signal can come too early.
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    drop(entered);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for time in 1.. {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
            });
            told(time);
        }
    })?;
    Ok(())
}

/// What a shell reports for a program that Ctrl-C ended.
pub(crate) const EXIT_CODE: i32 = 130;
