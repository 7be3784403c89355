//! Bytes read from a peer and not yet dealt with.
//!
//! [`Buffer`] holds heads, so it is wiped wherever it lets bytes go: a token or a credential does
//! not outlive its request in freed memory. [`Block`] holds bodies: page-aligned, never wiped.

use zeroize::Zeroize;

/// A growing buffer for heads and what follows them.
#[derive(Default)]
pub(crate) struct Buffer {
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

    /// Room for at least one more read; `note_read` says how much of it was used.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        if self.bytes.len() - self.end < SPARE_BYTES_MIN {
            self.make_room(SPARE_BYTES_MIN);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// `count` bytes of the spare room have been read into.
    pub(crate) fn note_read(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Appends `bytes` as if they had been read.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.bytes.len() - self.end < bytes.len() {
            self.make_room(bytes.len());
        }
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

    /// Gives the memory back: an idle connection holds none.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            self.bytes.zeroize();
            self.bytes = Vec::new();
        }
    }

    /// Moves what is unconsumed to the front of an allocation with `room` more bytes.
    fn make_room(&mut self, room: usize) {
        let held = self.end - self.start;
        let mut grown = vec![0; (held + room).next_power_of_two().max(FIRST_BYTES)];
        if let Some(front) = grown.get_mut(..held) {
            front.copy_from_slice(self.filled());
        }
        self.bytes.zeroize();
        self.bytes = grown;
        self.start = 0;
        self.end = held;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// A page-aligned buffer for a body's bytes.
///
/// Aligned, because copies to a place a few bytes into a page cost up to 1.8 times as much on some
/// processors.
pub(crate) struct Block {
    bytes: Vec<u8>,
    offset: usize,
    len: usize,
}

impl Block {
    /// A block of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + PAGE_BYTES];
        let offset = bytes.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
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
const FIRST_BYTES: usize = 8 << 10;
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
    fn a_block_starts_on_a_page() {
        let mut block = Block::new(100);
        assert_eq!(block.front(200).len(), 100);
        assert_eq!(block.front_mut(1).as_ptr().align_offset(PAGE_BYTES), 0);
    }
}
