//! Memory that bodies move through: page-aligned buffers, files without a name, seeded noise.
//!
//! Lengths and seeds in, buffers and files out. Nothing here touches a disk or a socket.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, memfd_create};

/// A buffer whose first byte lies on a page's first byte: a buffer that straddles pages makes the
/// kernel's copies up to 1.8 times slower on some processors.
pub(crate) struct Pages {
    raw: Vec<u8>,
    start: usize,
    length: usize,
}

impl Pages {
    /// A zeroed buffer of `length` bytes. Pages that are never written cost no memory.
    pub(crate) fn new(length: usize) -> Self {
        let raw = vec![0; length + PAGE];
        let start = raw.as_ptr().align_offset(PAGE).min(PAGE);
        Self { raw, start, length }
    }

    /// The aligned bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.length]
    }
}

/// A file that lives in memory alone and disappears with its last descriptor.
///
/// # Errors
/// What `memfd_create(2)` says.
pub(crate) fn file(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// Bytes that look random and are the same for the same seed (splitmix64, public domain).
pub(crate) struct Noise(u64);

impl Noise {
    /// The sequence that belongs to `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Overwrites `bytes` with the sequence's next ones; whole groups of eight are drawn.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for group in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            group.copy_from_slice(&mixed.to_le_bytes()[..group.len()]);
        }
    }
}

const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_starts_on_a_page() {
        for length in [1, 4096, 1 << 20] {
            let mut pages = Pages::new(length);
            assert_eq!(pages.bytes().as_ptr().align_offset(4096), 0);
            assert_eq!(pages.bytes().len(), length);
        }
    }

    #[test]
    fn noise_repeats_with_its_seed_and_only_with_it() {
        let drawn = |seed| {
            let mut bytes = [0; 37];
            Noise::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }
}
