//! Bodies from socket to socket without being copied: page references move through a pipe
//! (splice(2)).
//!
//! Exactly the length or the chunk is taken, never more, so what follows stays in the socket. A
//! transfer never holds more than a pipe: a slow receiver holds its sender back.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use super::passage::Broken;
use super::sink::Sink;
use crate::body::{ChunkPlace, Step};
use crate::io::Socket;
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
        let count = fill(from, pipe, left.min(piece.bytes), limits).await?;
        left = left.saturating_sub(count);
        // From here on the receiver may see it.
        moved.set(moved.get() + count);
        let waited = drain(to, pipe, left > 0, limits).await?;
        piece.adapt(count, waited, pipe);
    }
    Ok(())
}

/// How much is taken at a time: what a receiver does not take stays in the pipe. Large for who
/// keeps up, because every piece costs the same calls; small for who makes us wait.
struct Piece {
    bytes: u64,
    /// How many in a row were full, and taken without delay.
    full: u32,
}

impl Default for Piece {
    fn default() -> Self {
        Self { bytes: BYTES_MIN as u64, full: 0 }
    }
}

impl Piece {
    /// `count` bytes went through `pipe`, and `waited` for their receiver.
    fn adapt(&mut self, count: u64, waited: Duration, pipe: &mut Pipe) {
        if waited >= SLOW_WAIT {
            *self = Self { bytes: SLOW_PIECE_BYTES, full: 0 };
            pipe.shrink();
            return;
        }
        // A pipe may be full of small packets with less in it than asked for.
        self.full = if count > self.bytes / 2 { self.full + 1 } else { self.full };
        if self.full >= PIECES_UNTIL_LARGER {
            self.full = 0;
            if self.bytes * 2 > pipe.bytes() as u64 {
                pipe.grow();
            }
            self.bytes = (self.bytes * 2).min(pipe.bytes() as u64);
        }
    }
}

/// Moves chunk after chunk, each with its head, as long as heads are written as we would write
/// them: then the same bytes may pass that we would send. Ends with an empty pipe where anything
/// else stands next; the decoder has then seen all that has gone.
pub(super) async fn chunks(
    from: &Socket,
    to: &Socket,
    pipe: &mut Pipe,
    sink: &mut Sink<'_>,
) -> Result<(), Broken> {
    if sink.decoder.chunk_place() == Some(ChunkPlace::Head) {
        sink.settle().await?;
    }
    let begun = sink.moved.get();
    loop {
        if sink.moved.get() - begun >= CHUNKED_UNTIL_LARGER {
            pipe.grow();
        }
        let framing = match sink.decoder.chunk_place() {
            Some(ChunkPlace::Data(_)) => 0,
            Some(ChunkPlace::Head | ChunkPlace::AfterData) => {
                match next_head(from, to, pipe, sink).await? {
                    Some(length) => length,
                    None => break,
                }
            }
            _ => break,
        };
        one_chunk(from, to, pipe, sink, framing).await?;
    }
    drain(to, pipe, false, sink.limits).await?;
    Ok(())
}

/// Looks at the head of the next chunk without taking it. `None`: it is not one that may pass.
async fn next_head(
    from: &Socket,
    to: &Socket,
    pipe: &mut Pipe,
    sink: &mut Sink<'_>,
) -> Result<Option<u64>, Broken> {
    let mut peeked = [0; HEAD_BYTES_MAX];
    let count = loop {
        match from.try_peek(&mut peeked) {
            Ok(0) => return Err(Broken::SourceEnded),
            Ok(count) => break count,
            Err(error) if is_blocked(&error) => {
                // While there is nothing to take the receiver gets what is there.
                drain(to, pipe, false, sink.limits).await?;
                await_readable(from, sink.limits).await?;
            }
            Err(_) => return Err(Broken::SourceEnded),
        }
    };
    let peeked = peeked.get(..count).unwrap_or_default();
    let mut ahead = sink.decoder;
    let Ok(Step::Skip(length)) = ahead.step(peeked) else { return Ok(None) };
    let head = peeked.get(..length).unwrap_or_default();
    match ahead.chunk_place() {
        Some(ChunkPlace::Data(size)) if size >= CHUNK_BYTES_MIN && is_canonical(head) => {
            sink.decoder = ahead;
            Ok(Some(length as u64))
        }
        _ => Ok(None),
    }
}

/// Moves `framing` bytes that the decoder has seen, and the rest of the chunk after them.
async fn one_chunk(
    from: &Socket,
    to: &Socket,
    pipe: &mut Pipe,
    sink: &mut Sink<'_>,
    mut framing: u64,
) -> Result<(), Broken> {
    while let Some(ChunkPlace::Data(left)) = sink.decoder.chunk_place() {
        if pipe.held >= pipe.bytes() / 2 {
            drain(to, pipe, true, sink.limits).await?;
        }
        match from.try_splice_in(pipe, framing + left) {
            Ok(0) => return Err(Broken::SourceEnded),
            Ok(count) => {
                let payload = count.saturating_sub(framing);
                framing = framing.saturating_sub(count);
                sink.note_moved(payload)?;
                sink.decoder.advance(payload);
            }
            // Nothing to take just now, or no slot left in the pipe.
            Err(error) if is_blocked(&error) && pipe.held > 0 => {
                drain(to, pipe, false, sink.limits).await?;
            }
            Err(error) if is_blocked(&error) => await_readable(from, sink.limits).await?,
            Err(_) => return Err(Broken::SourceEnded),
        }
    }
    sink.note_chunk_end();
    Ok(())
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

/// Empties the pipe into the receiver, and says how long that made us wait.
async fn drain(
    to: &Socket,
    pipe: &mut Pipe,
    more: bool,
    limits: &Limits,
) -> Result<Duration, Broken> {
    let mut waited = Duration::ZERO;
    while pipe.held > 0 {
        match to.try_splice_out(pipe, more) {
            Ok(()) => to.fairly().await,
            Err(error) if is_blocked(&error) => {
                let since = Instant::now();
                let writable = to.writable(limits.body_progress_wait).await;
                writable.map_err(|_| Broken::SinkGone)?;
                waited += since.elapsed();
            }
            Err(_) => return Err(Broken::SinkGone),
        }
    }
    Ok(waited)
}

async fn await_readable(from: &Socket, limits: &Limits) -> Result<(), Broken> {
    from.readable(limits.body_progress_wait).await.map_err(|_| Broken::SourceEnded)
}

/// Whether a head is what we would write ourselves: after the last chunk's CR LF, lower-case digits
/// without a leading zero and nothing else.
fn is_canonical(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let Some(digits) = head.strip_suffix(b"\r\n") else { return false };
    let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.first() != Some(&b'0') && digits.iter().all(digit)
}

fn is_blocked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A receiver that takes nothing for so long is slow.
const SLOW_WAIT: Duration = Duration::from_millis(100);
/// What a slow receiver gets at a time.
const SLOW_PIECE_BYTES: u64 = 16 << 10;
/// How many full pieces in a row make the next ones larger.
const PIECES_UNTIL_LARGER: u32 = 8;
/// How much of a chunked body makes its pipe larger.
const CHUNKED_UNTIL_LARGER: u64 = 512 << 10;
/// CR LF, sixteen digits, CR LF.
const HEAD_BYTES_MAX: usize = 20;
/// Below it a look and a splice cost more than the copy.
const CHUNK_BYTES_MIN: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_head_that_we_would_write_ourselves_may_pass() {
        for good in ["8000\r\n", "\r\n8000\r\n", "1f\r\n"] {
            assert!(is_canonical(good.as_bytes()), "{good:?}");
        }
        for bad in ["08000\r\n", "1F\r\n", "8000;a=b\r\n", "0\r\n", "8000", "\r\n"] {
            assert!(!is_canonical(bad.as_bytes()) || bad == "\r\n", "{bad:?}");
        }
    }
}
