//! The receiving side of a body: payload out, framed as the receiver is to see it.
//!
//! Bytes as they came in, sent on as far as the decoder vouches for them. Chunks keep their
//! boundaries and get heads of our own: what the sender wrote besides payload is never passed on.
//! The CR LF that ends a chunk is sent with what follows it, so that a chunk costs no call of its
//! own and many small ones leave together.

use std::cell::Cell;
use std::io::IoSlice;
use std::iter;
use std::mem;

use super::passage::Broken;
use crate::body::{ChunkPlace, Decoder, Framing, Step};
use crate::io::Socket;
use crate::limits::Limits;
use crate::transport::Transport;
use crate::wiped::Wiped;

/// Where a body goes, and how far it has come.
pub(super) struct Sink<'a> {
    /// What is known of the body so far.
    pub(super) decoder: Decoder,
    /// Payload bytes that have gone, or may have gone, to the receiver.
    pub(super) moved: &'a Cell<u64>,
    /// The bounds.
    pub(super) limits: &'a Limits,
    to: &'a Transport,
    head: Wiped,
    chunked_out: bool,
    bytes_max: u64,
    /// Whether the CR LF after the last chunk's data is still to be sent.
    owes_line: bool,
}

impl<'a> Sink<'a> {
    /// The receiver `to` of a body; `head` goes before it.
    pub(super) fn new(
        to: &'a Transport,
        head: Wiped,
        framing: Framing,
        chunked_out: bool,
        moved: &'a Cell<u64>,
        bytes_max: u64,
        limits: &'a Limits,
    ) -> Self {
        let decoder = Decoder::new(framing);
        Self { decoder, moved, limits, to, head, chunked_out, bytes_max, owes_line: false }
    }

    /// Sends on what `bytes` hold of the body, and says how many of them were used up and whether
    /// that was the end of it. Not to be called again after the end.
    pub(super) async fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let mut used = 0;
        let mut batch = Batch::default();
        let done = loop {
            let rest = bytes.get(used..).unwrap_or_default();
            match self.decoder.step(rest).map_err(Broken::SourceMalformed)? {
                Step::Skip(count) => {
                    used += count;
                    if self.chunked_out
                        && let Some(ChunkPlace::Data(size)) = self.decoder.chunk_place()
                    {
                        batch.chunk_head(mem::take(&mut self.owes_line), size);
                    }
                }
                Step::Payload(count) => {
                    self.note_moved(count as u64)?;
                    batch.payload(rest.get(..count).unwrap_or_default());
                    used += count;
                    self.note_chunk_end();
                }
                Step::More => break false,
                Step::End => {
                    if self.chunked_out {
                        batch.last_chunk(mem::take(&mut self.owes_line));
                    }
                    break true;
                }
            }
            if batch.is_full() {
                self.send(mem::take(&mut batch)).await?;
            }
        };
        self.send(batch).await?;
        Ok((used, done))
    }

    /// Sends the head now, if it has not gone yet.
    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        self.send(Batch::default()).await
    }

    /// Sends the CR LF that is owed, so that what follows may begin with a chunk's head.
    pub(super) async fn settle(&mut self) -> Result<(), Broken> {
        let mut batch = Batch::default();
        if mem::take(&mut self.owes_line) {
            batch.line_end();
        }
        self.send(batch).await
    }

    /// The sender closed its side: that is the end of some bodies, and breaks others.
    pub(super) fn end_of_stream(&mut self) -> Result<(), Broken> {
        self.decoder.end_of_stream().map_err(|_| Broken::SourceEnded)
    }

    /// How many bytes to read next: what has a length is never read beyond it.
    pub(super) fn wanted(&self) -> usize {
        let remaining = self.decoder.remaining().unwrap_or(u64::MAX);
        usize::try_from(remaining).unwrap_or(usize::MAX).min(self.limits.body_buffer_bytes)
    }

    /// The receiver's socket, if nothing lies over it.
    pub(super) fn socket(&self) -> Option<&'a Socket> {
        match self.to {
            Transport::Plain(socket) => Some(socket),
            Transport::Tls(_) => None,
        }
    }

    /// What is left of a body of known length, if it is worth a pipe and within bounds.
    pub(super) fn length_to_splice(&self) -> Option<u64> {
        let left = self.decoder.remaining()?;
        let fits = left <= self.bytes_max.saturating_sub(self.moved.get());
        (left >= self.limits.splice_bytes_min && fits).then_some(left)
    }

    /// Whether chunks may go by unseen: they arrive, leave and are bounded by nothing as such.
    pub(super) fn may_splice_chunks(&self) -> bool {
        self.chunked_out && self.bytes_max == u64::MAX && self.decoder.chunk_place().is_some()
    }

    /// Notes that `count` bytes of payload go to the receiver. Before they do: from then on it may
    /// have seen some of them.
    pub(super) fn note_moved(&self, count: u64) -> Result<(), Broken> {
        let moved = self.moved.get().saturating_add(count);
        if moved > self.bytes_max {
            return Err(Broken::TooLong);
        }
        self.moved.set(moved);
        Ok(())
    }

    /// Notes that a chunk's data may have come to its end; its CR LF is owed then.
    pub(super) fn note_chunk_end(&mut self) {
        self.owes_line = self.decoder.chunk_place() == Some(ChunkPlace::AfterData);
    }

    /// Sends `batch`, and before it the head if that has not gone yet.
    async fn send(&mut self, batch: Batch<'_>) -> Result<(), Broken> {
        let slices = batch.parts.iter().map(|part| match part {
            Part::Framing(from, until) => {
                IoSlice::new(batch.framing.get(*from..*until).unwrap_or_default())
            }
            Part::Payload(payload) => IoSlice::new(payload),
        });
        let slices = iter::once(IoSlice::new(&self.head)).chain(slices);
        // A head and a small body need no memory to be sent together.
        let mut few = [IoSlice::new(&[]); FEW_PARTS];
        let mut many = Vec::new();
        let room = match few.get_mut(..=batch.parts.len()) {
            Some(few) => few,
            None => {
                many.resize(batch.parts.len() + 1, IoSlice::new(&[]));
                many.as_mut_slice()
            }
        };
        room.iter_mut().zip(slices).for_each(|(slot, slice)| *slot = slice);
        let sent = self.to.write_all(room, self.limits.body_progress_wait).await;
        self.head = Wiped::default();
        sent.map_err(|_| Broken::SinkGone)
    }
}

/// Pieces of a body that leave in one call.
#[derive(Default)]
struct Batch<'a> {
    framing: Vec<u8>,
    parts: Vec<Part<'a>>,
}

enum Part<'a> {
    /// A range of the batch's own framing bytes.
    Framing(usize, usize),
    Payload(&'a [u8]),
}

impl<'a> Batch<'a> {
    fn payload(&mut self, payload: &'a [u8]) {
        self.parts.push(Part::Payload(payload));
    }

    fn chunk_head(&mut self, after_another: bool, size: u64) {
        let line = if after_another { "\r\n" } else { "" };
        self.framing(&format!("{line}{size:x}\r\n"));
    }

    fn last_chunk(&mut self, after_another: bool) {
        self.framing(if after_another { "\r\n0\r\n\r\n" } else { "0\r\n\r\n" });
    }

    fn line_end(&mut self) {
        self.framing("\r\n");
    }

    /// Whether it should leave before more is added.
    fn is_full(&self) -> bool {
        self.parts.len() >= PARTS_MAX
    }

    fn framing(&mut self, text: &str) {
        let from = self.framing.len();
        self.framing.extend_from_slice(text.as_bytes());
        self.parts.push(Part::Framing(from, self.framing.len()));
    }
}

/// A head, a chunk's head and its data.
const FEW_PARTS: usize = 4;
/// The kernel takes 1,024 pieces a call (`IOV_MAX`).
const PARTS_MAX: usize = 512;
