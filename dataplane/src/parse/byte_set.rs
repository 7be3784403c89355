//! Sets of bytes, told by one look each.

/// Which bytes may stand in a part of a message.
pub(crate) struct ByteSet([bool; 256]);

impl ByteSet {
    /// ASCII letters, digits, and `others`.
    pub(crate) const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut all = [false; 256];
        let mut rest = all.as_mut_slice();
        let mut byte = 0_u8;
        while let [known, after @ ..] = rest {
            *known = byte.is_ascii_alphanumeric() || is_among(byte, others);
            byte = byte.wrapping_add(1);
            rest = after;
        }
        Self(all)
    }

    /// Whether all of `bytes` are among them.
    pub(crate) fn has_all(&self, bytes: &[u8]) -> bool {
        // Without a look after each whether to go on: most are good, and few.
        bytes.iter().fold(true, |all, byte| all & self.has(*byte))
    }

    fn has(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte)).copied().unwrap_or_default()
    }
}

const fn is_among(byte: u8, mut others: &[u8]) -> bool {
    while let [first, rest @ ..] = others {
        if *first == byte {
            return true;
        }
        others = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_letters_digits_and_what_was_named_and_nothing_else() {
        const SET: ByteSet = ByteSet::alphanumeric_and(b"-/");
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/');
            assert_eq!(SET.has_all(&[b'a', byte]), expected, "{byte}");
        }
        assert!(SET.has_all(b""));
    }
}
