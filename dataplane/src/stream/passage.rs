//! One body on its way from one connection to another, in constant memory.
//!
//! Bytes already read with the head go first. What has a length keeps it; chunks are checked and
//! framed anew, never passed on raw. Nothing is read while anything read is still unsent, so a slow
//! receiver holds its sender back. How a passage broke is told apart by whose doing it was; how the
//! other side is to learn of it is the caller's business: a broken body never ends cleanly.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;

use zeroize::Zeroizing;

use super::splice::splice;
use crate::body::{Decoder, Framing, Step};
use crate::buffer::{Block, Buffer};
use crate::io::Socket;
use crate::limits::Limits;
use crate::pipes::Pipes;
use crate::transport::Transport;

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Its sender closed the connection, or moved nothing for `body_progress_wait`.
    SourceEnded,
    /// Its framing breaks RFC 9112.
    SourceMalformed(&'static str),
    /// It is longer than it may be.
    TooLong,
    /// Its receiver closed the connection, or took nothing for `body_progress_wait`.
    SinkGone,
}

/// One body's way.
pub(crate) struct Passage<'a> {
    /// Where it comes from.
    pub(crate) from: &'a Transport,
    /// What has been read from there already; what follows the body is left in it.
    pub(crate) input: &'a mut Buffer,
    /// Where it goes.
    pub(crate) to: &'a Transport,
    /// The head to be sent before it, and wiped: it may hold a credential.
    pub(crate) head: Zeroizing<Vec<u8>>,
    /// How it arrives.
    pub(crate) framing: Framing,
    /// Whether it leaves in chunks.
    pub(crate) chunked_out: bool,
    /// Payload bytes that have gone, or may have gone, to the receiver.
    pub(crate) moved: &'a Cell<u64>,
    /// How long the payload may be.
    pub(crate) bytes_max: u64,
    /// The bounds.
    pub(crate) limits: &'a Limits,
    /// What it may be spliced through.
    pub(crate) pipes: &'a Rc<Pipes>,
}

impl Passage<'_> {
    /// Moves the body to its end.
    pub(crate) async fn run(self) -> Result<(), Broken> {
        let Self { from, input, to, head, framing, chunked_out, moved, bytes_max, limits, pipes } =
            self;
        let decoder = Decoder::new(framing);
        let mut sink = Sink { to, head, decoder, chunked_out, moved, bytes_max, limits };
        let mut block = None;
        loop {
            let (consumed, done) = sink.take(input.filled()).await?;
            input.consume(consumed);
            if done {
                return sink.send(&[]).await;
            }
            // The receiver shall not wait for the head until more of the body is here.
            sink.send(&[]).await?;
            if !input.is_empty() {
                let count = read(from, input.spare(), limits).await?;
                sink.check_end(count)?;
                input.note_read(count);
                continue;
            }
            input.release();
            if let Some((from, to, left)) = sink.spliceable(from)
                && let Some(mut pipe) = pipes.borrow()
            {
                return splice(from, to, &mut pipe, left, moved, limits).await;
            }
            let wanted = sink.wanted(limits);
            let block = block.get_or_insert_with(|| Block::new(wanted.min(FIRST_BLOCK_BYTES)));
            let count = read(from, block.front_mut(wanted), limits).await?;
            sink.check_end(count)?;
            let (consumed, done) = sink.take(block.front(count)).await?;
            // What the decoder could not use yet, or what follows the body.
            input.append(block.front(count).get(consumed..).unwrap_or_default());
            if done {
                return Ok(());
            }
            if count == block.len() && block.len() < limits.body_buffer_bytes {
                *block = Block::new((block.len() * BLOCK_GROWTH).min(limits.body_buffer_bytes));
            }
        }
    }
}

/// The receiving side of a passage.
struct Sink<'a> {
    to: &'a Transport,
    head: Zeroizing<Vec<u8>>,
    decoder: Decoder,
    chunked_out: bool,
    moved: &'a Cell<u64>,
    bytes_max: u64,
    limits: &'a Limits,
}

impl Sink<'_> {
    /// Sends on what `bytes` hold of the body, and says how many of them were used up and whether
    /// that was the end of it. Not to be called again after the end.
    async fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            match self.decoder.step(rest).map_err(Broken::SourceMalformed)? {
                Step::Skip(count) => used += count,
                Step::Payload(count) => {
                    self.payload(rest.get(..count).unwrap_or_default()).await?;
                    used += count;
                }
                Step::More => return Ok((used, false)),
                Step::End => {
                    if self.chunked_out {
                        self.send(&[b"0\r\n\r\n"]).await?;
                    }
                    return Ok((used, true));
                }
            }
        }
    }

    async fn payload(&mut self, payload: &[u8]) -> Result<(), Broken> {
        // Counted before it is sent: from here on the receiver may have seen some of it.
        let moved = self.moved.get() + u64::try_from(payload.len()).unwrap_or(u64::MAX);
        if moved > self.bytes_max {
            return Err(Broken::TooLong);
        }
        self.moved.set(moved);
        if self.chunked_out {
            let size = format!("{:x}\r\n", payload.len());
            self.send(&[size.as_bytes(), payload, b"\r\n"]).await
        } else {
            self.send(&[payload]).await
        }
    }

    /// Sends `parts`, and before them the head if that has not gone yet.
    async fn send(&mut self, parts: &[&[u8]]) -> Result<(), Broken> {
        let [a, b, c] = std::array::from_fn(|place| parts.get(place).copied().unwrap_or_default());
        let mut slices =
            [IoSlice::new(&self.head), IoSlice::new(a), IoSlice::new(b), IoSlice::new(c)];
        let sent = self.to.write_all(&mut slices, self.limits.body_progress_wait).await;
        self.head = Zeroizing::default();
        sent.map_err(|_| Broken::SinkGone)
    }

    /// What is left of the body, if all of it may go from socket to socket unseen.
    fn spliceable<'s>(&'s self, from: &'s Transport) -> Option<(&'s Socket, &'s Socket, u64)> {
        let (Transport::Plain(from), Transport::Plain(to)) = (from, self.to) else {
            return None;
        };
        let left = self.decoder.remaining()?;
        let fits = left <= self.bytes_max.saturating_sub(self.moved.get());
        (left >= self.limits.splice_bytes_min && fits).then_some((from, to, left))
    }

    /// How many bytes to read next: what has a length is never read beyond it.
    fn wanted(&self, limits: &Limits) -> usize {
        let remaining = self.decoder.remaining().unwrap_or(u64::MAX);
        usize::try_from(remaining).unwrap_or(usize::MAX).min(limits.body_buffer_bytes)
    }

    /// The sender closed its side if `count` is 0: that is the end of some bodies, and breaks
    /// others.
    fn check_end(&mut self, count: usize) -> Result<(), Broken> {
        if count > 0 {
            return Ok(());
        }
        self.decoder.end_of_stream().map_err(|_| Broken::SourceEnded)
    }
}

async fn read(from: &Transport, into: &mut [u8], limits: &Limits) -> Result<usize, Broken> {
    from.read(into, limits.body_progress_wait).await.map_err(|_| Broken::SourceEnded)
}

/// A body's first block; it grows while reads fill it.
const FIRST_BLOCK_BYTES: usize = 16 << 10;
const BLOCK_GROWTH: usize = 4;
