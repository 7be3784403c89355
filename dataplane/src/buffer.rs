//! Bytes read from a peer and not yet dealt with.
//!
//! [`Buffer`] holds heads, so it is wiped wherever it lets bytes go: a token or a credential does
//! not outlive its request in freed memory. [`Block`] holds bodies: its place within a page is
//! chosen, and it is never wiped.

use std::mem;

use zeroize::Zeroize;

use crate::spares::{allocated, give_back};

/// A growing buffer for heads and what follows them.
#[derive(Default)]
pub(crate) struct Buffer {
    /// What was ever read into, and perhaps more. Outside of `start..end` it holds nothing: bytes
    /// are wiped as they are consumed.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What has been read and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether everything read has been consumed.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Lends the memory of an empty buffer to whoever reads into it from its start: as much as
    /// there is, or `bytes`. [`Buffer::put_back`] brings it back.
    pub(crate) fn lend(&mut self, bytes: usize) -> Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = allocated(bytes);
        }
        mem::take(&mut self.bytes)
    }

    /// Takes lent memory back, `count` bytes of which have been read into.
    pub(crate) fn put_back(&mut self, bytes: Vec<u8>, count: usize) {
        self.start = 0;
        self.end = count.min(bytes.len());
        self.bytes = bytes;
    }

    /// Room for at least one more read; `note_read` says how much of it was used.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.make_room(SPARE_BYTES_MIN);
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// `count` bytes of the spare room have been read into.
    pub(crate) fn note_read(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Appends `bytes` as if they had been read.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.make_room(bytes.len());
        if let Some(room) = self.bytes.get_mut(self.end..self.end + bytes.len()) {
            room.copy_from_slice(bytes);
            self.end += bytes.len();
        }
    }

    /// Drops the first `count` unconsumed bytes, and wipes them.
    pub(crate) fn consume(&mut self, count: usize) {
        let until = (self.start + count).min(self.end);
        if let Some(gone) = self.bytes.get_mut(self.start..until) {
            gone.zeroize();
        }
        self.start = until;
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives the memory back, if it is more than `bytes_max`: an idle connection holds little.
    pub(crate) fn release_above(&mut self, bytes_max: usize) {
        if self.is_empty() && self.bytes.capacity() > bytes_max {
            give_back(mem::take(&mut self.bytes));
        }
    }

    /// Gives the memory back, if it holds nothing.
    pub(crate) fn release(&mut self) {
        self.release_above(0);
    }

    /// Sees to it that `room` more bytes fit behind the unconsumed ones, and that all that there
    /// is of it can be read into.
    fn make_room(&mut self, room: usize) {
        if self.bytes.len() - self.end >= room {
            return;
        }
        if self.bytes.capacity() - self.end < room {
            let held = self.end - self.start;
            let mut grown = allocated((held + room).next_power_of_two().max(FIRST_BYTES));
            grown.extend_from_slice(self.filled());
            self.wipe();
            give_back(mem::replace(&mut self.bytes, grown));
            self.start = 0;
            self.end = held;
        }
        self.bytes.resize(self.bytes.capacity(), 0);
    }

    fn wipe(&mut self) {
        if let Some(held) = self.bytes.get_mut(self.start..self.end) {
            held.zeroize();
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.wipe();
        give_back(mem::take(&mut self.bytes));
    }
}

/// A buffer for a body's bytes that begins in the middle of a page.
///
/// A copy whose source and destination lie a few bytes apart within their pages takes up to twice
/// as long on some processors: a load looks as if it had to wait for the store before it. The
/// kernel's pages are filled from their beginning, and a TLS record has its payload 5 bytes into a
/// block that often begins on a page. Half a page is far from both.
pub(crate) struct Block {
    bytes: Vec<u8>,
    offset: usize,
    len: usize,
}

impl Block {
    /// A block of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + 2 * PAGE_BYTES];
        let page = bytes.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        let offset = page + PAGE_BYTES / 2;
        Self { bytes, offset, len }
    }

    /// Its size.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first `count` bytes of it, or all.
    pub(crate) fn front(&self, count: usize) -> &[u8] {
        self.bytes.get(self.offset..self.offset + count.min(self.len)).unwrap_or_default()
    }

    /// The first `count` bytes of it, or all, to be read into.
    pub(crate) fn front_mut(&mut self, count: usize) -> &mut [u8] {
        let until = self.offset + count.min(self.len);
        self.bytes.get_mut(self.offset..until).unwrap_or_default()
    }
}

const PAGE_BYTES: usize = 4096;
/// A head, and a small body behind it.
pub(crate) const FIRST_BYTES: usize = 8 << 10;
/// What an idle connection holds to receive into: most heads fit, whatever else follows.
pub(crate) const IDLE_BYTES: usize = 2 << 10;
const SPARE_BYTES_MIN: usize = 2 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumed_bytes_are_wiped_and_the_rest_stays_in_order() {
        let mut buffer = Buffer::default();
        buffer.append(b"secret head, then a body");
        buffer.consume(13);
        assert_eq!(buffer.filled(), b"then a body");
        assert!(!buffer.bytes.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn a_buffer_grows_without_losing_what_it_holds() {
        let mut buffer = Buffer::default();
        for round in 0..4000_u32 {
            buffer.append(&round.to_be_bytes());
        }
        let expected: Vec<u8> = (0..4000_u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(buffer.filled(), expected);
        buffer.consume(16_000);
        buffer.release();
        assert!(buffer.is_empty() && buffer.bytes.capacity() == 0);
    }

    #[test]
    fn a_block_starts_in_the_middle_of_a_page() {
        let mut block = Block::new(100);
        assert_eq!(block.front(200).len(), 100);
        assert_eq!(block.front_mut(1).as_ptr().align_offset(PAGE_BYTES), PAGE_BYTES / 2);
    }
}
