//! Which of the chunks in a pipe may pass as they are.
//!
//! A piece of a chunked body lies in a pipe, unseen. Its chunks' heads are read from a lookout that
//! shows the same bytes; a chunk whose head is written as we would write it may go on with its
//! head, for the same bytes would leave. Nothing is taken out of the pipe here, and no payload is
//! looked at.

use super::passage::Broken;
use super::sink::Sink;
use crate::body::{ChunkPlace, Decoder, Step};
use crate::pipes::{Lookout, Pipe};

/// How many bytes at the front of `pipe` may pass. The decoder of `sink` has seen those then, and
/// their payload counts as moved.
pub(super) fn passable(pipe: &Pipe, sink: &mut Sink<'_>) -> Result<usize, Broken> {
    if let Some(ChunkPlace::Data(left)) = sink.decoder.chunk_place()
        && left >= pipe.held as u64
    {
        // All of it belongs to one chunk.
        pass(pipe.held, sink)?;
        return Ok(pipe.held);
    }
    let Some(mut lookout) = pipe.lookout() else { return Ok(0) };
    let passed = match lookout.show(pipe) {
        Ok(shown) => look(&mut lookout, shown, sink),
        Err(_) => Ok(0),
    };
    // One that cannot be emptied is not kept.
    let _ = lookout.skip(usize::MAX);
    pipe.keep(lookout);
    passed
}

/// Whether what comes next, the first bytes of which are `peeked`, is worth a pipe.
pub(super) fn is_worth_a_pipe(peeked: &[u8], sink: &Sink<'_>) -> bool {
    after_head(sink.decoder, peeked, PIPED_BYTES_MIN).is_some()
}

/// How many of the bytes that `lookout` shows, `shown` of them, may pass.
fn look(lookout: &mut Lookout, shown: usize, sink: &mut Sink<'_>) -> Result<usize, Broken> {
    let (mut passed, mut seen) = (0, 0);
    while passed < shown {
        if let Some(ChunkPlace::Data(left)) = sink.decoder.chunk_place() {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(shown - passed);
            if lookout.skip((passed + count).saturating_sub(seen)).is_err() {
                break;
            }
            pass(count, sink)?;
            passed += count;
            seen = seen.max(passed);
            continue;
        }
        let mut peeked = [0; HEAD_BYTES_MAX];
        let Ok(count) = lookout.read(&mut peeked) else { break };
        seen += count;
        let peeked = peeked.get(..count).unwrap_or_default();
        let Some((length, decoder)) = after_head(sink.decoder, peeked, PASSING_BYTES_MIN) else {
            break;
        };
        sink.decoder = decoder;
        sink.note_chunk_end();
        passed += length;
    }
    Ok(passed)
}

/// The length of the chunk's head that `bytes` begin with, and where `decoder` is after it. `None`:
/// it is not all there, not as we would write it, or its chunk has less than `least` bytes.
fn after_head(mut decoder: Decoder, bytes: &[u8], least: u64) -> Option<(usize, Decoder)> {
    let Ok(Step::Skip(length)) = decoder.step(bytes) else { return None };
    let Some(ChunkPlace::Data(size)) = decoder.chunk_place() else { return None };
    (size >= least && is_canonical(bytes.get(..length)?)).then_some((length, decoder))
}

/// Notes that `count` bytes of a chunk's data go on.
fn pass(count: usize, sink: &mut Sink<'_>) -> Result<(), Broken> {
    sink.note_moved(count as u64)?;
    sink.decoder.advance(count as u64);
    sink.note_chunk_end();
    Ok(())
}

/// Whether a head is what we would write ourselves: after the last chunk's CR LF, lower-case digits
/// without a leading zero and nothing else.
fn is_canonical(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let Some(digits) = head.strip_suffix(b"\r\n") else { return false };
    let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.first().is_some_and(|first| *first != b'0') && digits.iter().all(digit)
}

/// CR LF, sixteen digits, CR LF.
pub(super) const HEAD_BYTES_MAX: usize = 20;
/// Where chunks begin smaller, they are copied: a look at each costs more.
pub(super) const PIPED_BYTES_MIN: u64 = 16 << 10;
/// A chunk that lies in a pipe already may be smaller; one below this costs more to look at than to
/// copy. No head is longer.
const PASSING_BYTES_MIN: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_head_that_we_would_write_ourselves_may_pass() {
        for good in ["8000\r\n", "\r\n8000\r\n", "1f\r\n"] {
            assert!(is_canonical(good.as_bytes()), "{good:?}");
        }
        for bad in ["08000\r\n", "1F\r\n", "8000;a=b\r\n", "0\r\n", "8000", "\r\n", "\r\n\r\n", ""]
        {
            assert!(!is_canonical(bad.as_bytes()), "{bad:?}");
        }
    }
}
