//! Bodies from socket to socket without being copied: page references move through a pipe
//! (splice(2)).
//!
//! Of a known length exactly that is taken; of chunks whole pieces are, and what may not pass as it
//! is comes back to be copied. A transfer never holds more than a pipe: a slow receiver holds its
//! sender back.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use super::lookahead::{self, HEAD_BYTES_MAX, PIPED_BYTES_MIN};
use super::passage::Broken;
use super::sink::Sink;
use crate::body::ChunkPlace;
use crate::buffer::Buffer;
use crate::io::{Socket, until};
use crate::limits::Limits;
use crate::pipes::{BYTES_MIN, Pipe};

/// Moves `left` bytes from one socket to the other.
pub(super) async fn length(
    from: &Socket,
    to: &Socket,
    pipe: &mut Pipe,
    mut left: u64,
    moved: &Cell<u64>,
    limits: &Limits,
) -> Result<(), Broken> {
    let mut piece = Piece::default();
    while left > 0 {
        let paused = piece.await_room(to, limits).await?;
        let count = fill(from, pipe, left.min(piece.bytes), limits).await?;
        left = left.saturating_sub(count);
        // From here on the receiver may see it.
        moved.set(moved.get() + count);
        let waited = drain(to, pipe, pipe.held, left > 0, limits).await?;
        piece.adapt(count, paused + waited, pipe);
    }
    Ok(())
}

/// Moves chunk after chunk, each with its head, as long as heads are written as we would write
/// them: then the same bytes may pass that we would send. Where anything else stands next it ends
/// with an empty pipe; what was taken and may not pass is in `input` then, and the decoder has seen
/// all that has gone.
pub(super) async fn chunks(
    from: &Socket,
    to: &Socket,
    pipe: &mut Pipe,
    sink: &mut Sink<'_>,
    input: &mut Buffer,
) -> Result<(), Broken> {
    match pipe.lookout() {
        Some(lookout) => pipe.keep(lookout),
        None => return Ok(()),
    }
    let limits = sink.limits;
    let mut piece = Piece::default();
    let mut least = PIPED_BYTES_MIN;
    loop {
        match sink.decoder.chunk_place() {
            Some(ChunkPlace::Data(left)) if left >= least => {}
            Some(ChunkPlace::Head | ChunkPlace::AfterData) if is_next_large(from, sink).await? => {}
            _ => return Ok(()),
        }
        if sink.decoder.chunk_place() == Some(ChunkPlace::Head) {
            sink.settle().await?;
        }
        least = 0;
        let paused = piece.await_room(to, limits).await?;
        let count = fill(from, pipe, piece.bytes, limits).await?;
        let passable = lookahead::passable(pipe, sink)?;
        // A sender that is behind may pause now, and the receiver shall have what there is.
        let more = pipe.held > passable || piece.is_filled_by(count);
        let waited = drain(to, pipe, passable, more, limits).await?;
        if pipe.held > 0 {
            return spill(pipe, input);
        }
        piece.adapt(count, paused + waited, pipe);
    }
}

/// How much is taken at a time: what a receiver does not take stays in the pipe. Large for who
/// keeps up, because every piece costs the same calls; small for who makes us wait.
struct Piece {
    bytes: u64,
    /// How many in a row were full, and taken without delay.
    full: u32,
    /// What its receiver took since it last made us wait.
    taken: u64,
}

impl Default for Piece {
    fn default() -> Self {
        Self { bytes: BYTES_MIN as u64, full: 0, taken: 0 }
    }
}

impl Piece {
    /// Waits until the receiver has room, and says for how long; one that has taken much at once
    /// need not be asked. What is in the pipe stays there until it has, and that may be long.
    async fn await_room(&self, to: &Socket, limits: &Limits) -> Result<Duration, Broken> {
        if self.taken >= PROVEN_BYTES || to.has_room() {
            return Ok(Duration::ZERO);
        }
        let since = Instant::now();
        to.writable(limits.body_progress_wait).await.map_err(|_| Broken::SinkGone)?;
        let waited = since.elapsed();
        to.in_turn().await;
        Ok(waited)
    }

    /// A pipe may be full of small packets with less in it than asked for.
    fn is_filled_by(&self, count: u64) -> bool {
        count > self.bytes / 2
    }

    /// `count` bytes went through `pipe`, and `waited` for their receiver.
    fn adapt(&mut self, count: u64, waited: Duration, pipe: &mut Pipe) {
        if waited >= SLOW_WAIT {
            *self = Self { bytes: SLOW_PIECE_BYTES, ..Self::default() };
            pipe.shrink();
            return;
        }
        self.taken = self.taken.saturating_add(count);
        self.full = if self.is_filled_by(count) { self.full + 1 } else { self.full };
        if self.full >= PIECES_UNTIL_LARGER {
            self.full = 0;
            let proven = self.taken >= PROVEN_BYTES;
            let most = if proven { usize::MAX } else { UNPROVEN_PIECE_BYTES };
            let larger = usize::try_from(self.bytes * LARGER).unwrap_or(usize::MAX).min(most);
            pipe.grow(larger);
            self.bytes = larger.min(pipe.bytes()) as u64;
        }
    }
}

/// Looks at what comes next without taking it: whether it is a chunk that is worth a pipe.
async fn is_next_large(from: &Socket, sink: &Sink<'_>) -> Result<bool, Broken> {
    let mut peeked = [0; HEAD_BYTES_MAX];
    loop {
        match from.try_peek(&mut peeked) {
            Ok(0) => return Err(Broken::SourceEnded),
            Ok(count) => {
                let peeked = peeked.get(..count).unwrap_or_default();
                return Ok(lookahead::is_worth_a_pipe(peeked, sink));
            }
            Err(error) if is_blocked(&error) => await_readable(from, sink.limits).await?,
            Err(_) => return Err(Broken::SourceEnded),
        }
    }
}

/// Takes up to `left` bytes into the empty pipe.
async fn fill(from: &Socket, pipe: &mut Pipe, left: u64, limits: &Limits) -> Result<u64, Broken> {
    loop {
        match from.try_splice_in(pipe, left) {
            Ok(0) => return Err(Broken::SourceEnded),
            Ok(count) => return Ok(count),
            Err(error) if is_blocked(&error) => await_readable(from, limits).await?,
            Err(_) => return Err(Broken::SourceEnded),
        }
    }
}

/// Moves the first `left` bytes in the pipe to the receiver, and says how long that made us wait.
async fn drain(
    to: &Socket,
    pipe: &mut Pipe,
    mut left: usize,
    more: bool,
    limits: &Limits,
) -> Result<Duration, Broken> {
    let (mut waited, mut stalled) = (Duration::ZERO, Duration::ZERO);
    while left > 0 {
        match to.try_splice_out(pipe, left, more) {
            Ok(count) => {
                left = left.saturating_sub(count);
                stalled = Duration::ZERO;
                to.fairly().await;
            }
            Err(error) if is_blocked(&error) && stalled < limits.body_progress_wait => {
                let since = Instant::now();
                // The kernel wakes us when a third of its buffer is free. That may be megabytes
                // away where a few bytes would fit, and meanwhile they are held here.
                let wait = limits.body_progress_wait.saturating_sub(stalled);
                let writable = pin!(to.writable(wait));
                if let Some(Err(_)) = until(RETRY_AFTER, writable, || false).await {
                    return Err(Broken::SinkGone);
                }
                let wait = since.elapsed();
                (waited, stalled) = (waited + wait, stalled + wait);
                to.in_turn().await;
            }
            Err(_) => return Err(Broken::SinkGone),
        }
    }
    Ok(waited)
}

/// Copies what is left in the pipe into `input`.
fn spill(pipe: &mut Pipe, input: &mut Buffer) -> Result<(), Broken> {
    while pipe.held > 0 {
        match pipe.read(input.spare()) {
            Ok(count @ 1..) => input.note_read(count),
            _ => return Err(Broken::SourceEnded),
        }
    }
    Ok(())
}

async fn await_readable(from: &Socket, limits: &Limits) -> Result<(), Broken> {
    from.readable(limits.body_progress_wait).await.map_err(|_| Broken::SourceEnded)?;
    from.in_turn().await;
    Ok(())
}

fn is_blocked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A receiver that takes nothing for so long is slow.
const SLOW_WAIT: Duration = Duration::from_millis(100);
/// When a receiver that takes nothing is tried again, about.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// What a slow receiver gets at a time.
const SLOW_PIECE_BYTES: u64 = 16 << 10;
/// What the kernel's buffers may take at once for whoever is slow: only who has taken more is known
/// to keep up.
const PROVEN_BYTES: u64 = 4 << 20;
/// What is taken at most for a receiver that is not known to keep up.
const UNPROVEN_PIECE_BYTES: usize = 256 << 10;
/// How many full pieces make the next ones larger, and by how much.
const PIECES_UNTIL_LARGER: u32 = 2;
const LARGER: u64 = 4;

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::pipes::Pipes;

    /// What a receiver gets at a time after it has taken `pieces` full ones, each after `waited`.
    fn piece_after(pieces: usize, waited: Duration) -> (u64, usize) {
        let limits = Limits {
            pipe_bytes: 1 << 20,
            pipe_bytes_per_core: 8 << 20,
            ..crate::fuzzing::limits()
        };
        let pipes: Rc<Pipes> = Pipes::new(&limits, &Arc::default());
        let mut pipe = pipes.borrow().unwrap();
        let mut piece = Piece::default();
        for _ in 0..pieces {
            piece.adapt(piece.bytes, waited, &mut pipe);
        }
        (piece.bytes >> 10, pipe.bytes() >> 10)
    }

    #[test]
    fn only_a_receiver_that_keeps_up_gets_large_pieces() {
        let at_once = Duration::ZERO;
        assert_eq!(piece_after(0, at_once), (64, 64));
        assert_eq!(piece_after(2, at_once), (256, 256));
        assert_eq!(piece_after(10, at_once), (256, 256), "what sockets hold says nothing");
        assert_eq!(piece_after(24, at_once), (1024, 1024));
        assert_eq!(piece_after(24, SLOW_WAIT), (16, 64));
    }
}
