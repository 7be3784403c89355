//! Bytes that are wiped when they are let go: tokens, credentials, and heads that hold them.
//!
//! A vector in, the same vector out, wiped with all the room it has when it is dropped. Wiped in
//! one sweep: `Zeroizing<Vec<u8>>` goes over it byte by byte, which a request with a token of a
//! thousand bytes notices.

use std::ops::{Deref, DerefMut};

use zeroize::Zeroize as _;

/// See the module. A vector that grows leaves a copy behind: whoever fills it with a secret gives
/// it its room first.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Wiped(Vec<u8>);

impl Wiped {
    /// Takes `bytes` over.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Wiped {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
        self.0.spare_capacity_mut().zeroize();
    }
}
