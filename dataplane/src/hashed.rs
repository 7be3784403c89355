//! Maps whose keys are hashes already, or bring one along: nothing is hashed twice.
//!
//! A key's own hash in, the same number out. It defends against nobody who chooses keys: it is for
//! keys that are digests, or that an operator wrote.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map of such keys.
pub(crate) type HashedMap<K, V> = HashMap<K, V, BuildHasherDefault<Ready>>;

/// Takes what a key gives for its hash: a number, or the first eight bytes of a digest.
#[derive(Default)]
pub(crate) struct Ready(u64);

impl Hasher for Ready {
    fn write(&mut self, digest: &[u8]) {
        if let Some(first) = digest.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    // An array says its length before its bytes.
    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, BuildHasherDefault};

    use super::*;

    #[test]
    fn a_digest_is_its_own_hash() {
        let hash = |byte: u8| BuildHasherDefault::<Ready>::default().hash_one([byte; 32]);
        assert_eq!(hash(7), u64::from_ne_bytes([7; 8]));
        assert_ne!(hash(7), hash(8));
    }
}
