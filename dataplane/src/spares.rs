//! Memory for heads that was let go, kept by its core for the next one.
//!
//! Every exchange needs a few pieces of some kilobytes for a moment. An allocator that is fast with
//! small ones takes its long way for these, and hands out what has left the processor's caches.

use std::cell::RefCell;

use crate::buffer::{FIRST_BYTES, IDLE_BYTES};

/// An empty vector with room for `bytes` bytes, or more: whoever lets it go may give it back.
pub(crate) fn allocated(bytes: usize) -> Vec<u8> {
    let Some((place, size)) = size_for(bytes) else {
        return Vec::with_capacity(bytes);
    };
    let spare = SPARES.try_with(|spares| spares.borrow_mut().get_mut(place).and_then(Vec::pop));
    spare.ok().flatten().unwrap_or_else(|| Vec::with_capacity(size))
}

/// Keeps the memory of `bytes`, which are wiped.
pub(crate) fn give_back(mut bytes: Vec<u8>) {
    bytes.clear();
    let Some((place, size)) = size_for(bytes.capacity()) else { return };
    if bytes.capacity() != size {
        return;
    }
    // A thread that ends keeps nothing.
    let _ = SPARES.try_with(|spares| {
        if let Some(spares) = spares.borrow_mut().get_mut(place)
            && spares.len() < SPARES_MAX
        {
            spares.push(bytes);
        }
    });
}

/// The least size that is kept and has room for `bytes` bytes, and its place; `None` where the
/// allocator does as well.
fn size_for(bytes: usize) -> Option<(usize, usize)> {
    if bytes <= SMALL_BYTES {
        return None;
    }
    SIZES.iter().enumerate().find(|(_, size)| bytes <= **size).map(|(place, size)| (place, *size))
}

thread_local! {
    static SPARES: RefCell<[Vec<Vec<u8>>; SIZES.len()]> =
        const { RefCell::new([const { Vec::new() }; SIZES.len()]) };
}

/// What idle connections hold, a request's head, and a head with what follows it.
const SIZES: [usize; 3] = [IDLE_BYTES, 4 << 10, FIRST_BYTES];
/// Up to here mimalloc finds memory in a few instructions.
const SMALL_BYTES: usize = 1 << 10;
/// How many of each size a core keeps: 0.9 MiB in all.
const SPARES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_size_that_is_kept_comes_back_and_other_does_not() {
        for (bytes, kept) in
            [(1024, false), (1025, true), (2048, true), (8192, true), (8193, false)]
        {
            let first = allocated(bytes);
            assert!(first.capacity() >= bytes);
            let address = first.as_ptr();
            give_back(first);
            let here = |spares: &RefCell<[Vec<Vec<u8>>; SIZES.len()]>| {
                spares.borrow().iter().flatten().any(|spare| spare.as_ptr() == address)
            };
            assert_eq!(SPARES.with(here), kept, "{bytes}");
        }
    }

    #[test]
    fn no_more_is_kept_than_a_core_may() {
        let all: Vec<_> = (0..SPARES_MAX * 2).map(|_| allocated(4 << 10)).collect();
        all.into_iter().for_each(give_back);
        let kept = SPARES.with_borrow(|spares| spares.iter().map(Vec::len).sum::<usize>());
        assert_eq!(kept, SPARES_MAX);
    }

    #[test]
    fn what_grew_is_handed_out_empty() {
        let mut bytes = allocated(3000);
        bytes.extend_from_slice(&[7; 3000]);
        give_back(bytes);
        assert!(allocated(3000).is_empty());
    }
}
