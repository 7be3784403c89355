//! Maps whose keys are hashes already, or bring one along: nothing is hashed twice.
//!
//! A key's own hash in, that number mixed with two that no caller knows out: whoever searches for
//! tokens whose digests begin alike does not make them meet in a map.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map of such keys.
pub(crate) type HashedMap<K, V> = HashMap<K, V, Mixing>;

/// The two numbers of one map.
#[derive(Clone, Copy)]
pub(crate) struct Mixing {
    added: u64,
    factor: u64,
}

impl Default for Mixing {
    fn default() -> Self {
        let random = RandomState::new();
        Self { added: random.hash_one(0), factor: random.hash_one(1) | 1 }
    }
}

impl BuildHasher for Mixing {
    type Hasher = Ready;

    fn build_hasher(&self) -> Ready {
        Ready { hash: 0, mixing: *self }
    }
}

/// Takes what a key gives for its hash: a number, or the first eight bytes of a digest.
pub(crate) struct Ready {
    hash: u64,
    mixing: Mixing,
}

impl Hasher for Ready {
    fn write(&mut self, digest: &[u8]) {
        if let Some(first) = digest.first_chunk() {
            self.hash = u64::from_ne_bytes(*first);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.hash = hash;
    }

    // An array says its length before its bytes.
    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        // Both halves of the product, so that every bit of the hash counts in every bit.
        let wide = u128::from(self.hash ^ self.mixing.added) * u128::from(self.mixing.factor);
        (wide as u64) ^ ((wide >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_its_own_hash_in_each_map_another() {
        let (one, other) = (Mixing::default(), Mixing::default());
        let number = u64::from_ne_bytes([7; 8]);
        assert_eq!(one.hash_one([7_u8; 32]), one.hash_one(number));
        assert_ne!(one.hash_one([7_u8; 32]), one.hash_one([8_u8; 32]));
        assert_ne!(one.hash_one(number), other.hash_one(number));
    }

    #[test]
    fn digests_that_were_chosen_to_begin_alike_do_not_meet() {
        let mixing = Mixing { added: 0x5851_f42d_4c95_7f2d, factor: 0x9e37_79b9_7f4a_7c15 };
        // Alike in the bits by which a map of 65,536 places finds one.
        let places = (0..1000_u64).map(|chosen| mixing.hash_one(chosen << 32) & 0xffff);
        let places: std::collections::HashSet<_> = places.collect();
        assert!(places.len() > 900, "{} places", places.len());
    }
}
