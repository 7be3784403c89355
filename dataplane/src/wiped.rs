//! Bytes that are wiped when they are let go: tokens, credentials, and heads that hold them.
//!
//! A vector in, the same vector out, wiped with all the room it has when it is dropped. Wiped in
//! one sweep: `Zeroizing<Vec<u8>>` goes over it byte by byte, which a request with a token of a
//! thousand bytes notices.

use std::mem;
use std::ops::{Deref, DerefMut};

use zeroize::Zeroize as _;

use crate::spares;

/// See the module. A vector that grows leaves a copy behind: whoever fills it with a secret gives
/// it its room first.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Wiped(Vec<u8>);

impl Wiped {
    /// An empty one with room for `bytes` bytes, from what this core keeps.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self(spares::allocated(bytes))
    }

    /// A copy of `bytes`.
    pub(crate) fn copied(bytes: &[u8]) -> Self {
        let mut copy = Self::with_room(bytes.len());
        copy.extend_from_slice(bytes);
        copy
    }

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
        // A vector without room points nowhere, and to write nothing there costs a processor with
        // masked stores hundreds of cycles: it has to find out that this is no fault.
        if self.0.capacity() > 0 {
            self.0.as_mut_slice().zeroize();
            self.0.spare_capacity_mut().zeroize();
            spares::give_back(mem::take(&mut self.0));
        }
    }
}
