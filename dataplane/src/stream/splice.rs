//! A body of known length from socket to socket without being copied: page references move through
//! a pipe (splice(2)).
//!
//! Exactly the length is taken, never more, so what follows the body stays in the socket. While the
//! pipe holds anything nothing is read: a slow receiver holds its sender back, and a transfer never
//! holds more than a pipe.

use std::cell::Cell;
use std::io;

use super::passage::Broken;
use crate::io::Socket;
use crate::limits::Limits;
use crate::pipes::Pipe;

/// Moves `left` bytes from one socket to the other.
pub(super) async fn splice(
    from: &Socket,
    to: &Socket,
    pipe: &mut Pipe,
    mut left: u64,
    moved: &Cell<u64>,
    limits: &Limits,
) -> Result<(), Broken> {
    while left > 0 || pipe.held > 0 {
        if pipe.held > 0 {
            match to.try_splice_out(pipe, left > 0) {
                Ok(()) => to.fairly().await,
                Err(error) if is_blocked(&error) => {
                    let writable = to.writable(limits.body_progress_wait).await;
                    writable.map_err(|_| Broken::SinkGone)?;
                }
                Err(_) => return Err(Broken::SinkGone),
            }
            continue;
        }
        match from.try_splice_in(pipe, left) {
            Ok(0) => return Err(Broken::SourceEnded),
            Ok(count) => {
                left = left.saturating_sub(count);
                // From here on the receiver may see it.
                moved.set(moved.get() + count);
            }
            Err(error) if is_blocked(&error) => {
                let readable = from.readable(limits.body_progress_wait).await;
                readable.map_err(|_| Broken::SourceEnded)?;
            }
            Err(_) => return Err(Broken::SourceEnded),
        }
    }
    Ok(())
}

fn is_blocked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
