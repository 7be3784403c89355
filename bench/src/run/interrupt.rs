//! Ctrl-C: once to end the load, twice to end the program.
//!
//! Signals in, a flag out that becomes true.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// A flag that Ctrl-C or SIGTERM sets; the second of them ends the process.
///
/// # Errors
/// When signals cannot be listened for.
pub(crate) fn watch() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered before anything is started, so that no signal can come too early.
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(entered);
    let set = Arc::clone(&stop);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if set.swap(true, Ordering::Relaxed) {
                    std::process::exit(EXIT_CODE);
                }
            }
        });
    })?;
    Ok(stop)
}

/// What a shell reports for a program that Ctrl-C ended.
pub(crate) const EXIT_CODE: i32 = 130;
