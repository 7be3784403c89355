//! The `_state` of an upload's URL: what the registry knew when it wrote the URL, signed.
//!
//! Name, identifier and offset in, an opaque text out, and back. As in docker/distribution an
//! altered, replayed or foreign state ends the upload, so a proxy that edits URLs is found out.

use base64::prelude::{BASE64_URL_SAFE, Engine};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// The key that states are signed with; a new one with each start.
pub(crate) struct Seal {
    key: hmac::Key,
    random: SystemRandom,
}

impl Seal {
    /// A fresh key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn new() -> Result<Self, ring::error::Unspecified> {
        let random = SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random)?;
        Ok(Self { key, random })
    }

    /// The state of an upload of `offset` bytes so far.
    pub(crate) fn close(&self, name: &str, identifier: &str, offset: u64) -> String {
        let claim = claim(name, identifier, offset);
        let mut sealed = hmac::sign(&self.key, claim.as_bytes()).as_ref().to_vec();
        sealed.extend_from_slice(claim.as_bytes());
        BASE64_URL_SAFE.encode(sealed)
    }

    /// Whether `state` is exactly what was signed for this upload at this offset.
    pub(crate) fn holds(&self, state: &str, name: &str, identifier: &str, offset: u64) -> bool {
        let Ok(sealed) = BASE64_URL_SAFE.decode(state) else {
            return false;
        };
        let Some((tag, claimed)) = sealed.split_at_checked(TAG_BYTES) else {
            return false;
        };
        claimed == claim(name, identifier, offset).as_bytes()
            && hmac::verify(&self.key, claimed, tag).is_ok()
    }

    /// A random identifier in the form of a UUID, version 4 (RFC 9562 §5.4).
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn identifier(&self) -> Result<String, ring::error::Unspecified> {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes)?;
        let drawn = u128::from_be_bytes(bytes);
        let versioned = drawn & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let mut text = format!("{versioned:032x}");
        for at in [20, 16, 12, 8] {
            text.insert(at, '-');
        }
        Ok(text)
    }
}

fn claim(name: &str, identifier: &str, offset: u64) -> String {
    serde_json::json!({ "Name": name, "UUID": identifier, "Offset": offset }).to_string()
}

const TAG_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_holds_for_its_own_upload_and_offset_only() {
        let seal = Seal::new().unwrap();
        let state = seal.close("a/b", "id", 7);
        assert!(seal.holds(&state, "a/b", "id", 7));
        for (name, identifier, offset) in [("a", "id", 7), ("a/b", "di", 7), ("a/b", "id", 8)] {
            assert!(!seal.holds(&state, name, identifier, offset));
        }
        assert!(!seal.holds(&format!("{state}A"), "a/b", "id", 7));
        assert!(!seal.holds("", "a/b", "id", 7));
        assert!(!Seal::new().unwrap().holds(&state, "a/b", "id", 7));
    }

    #[test]
    fn an_identifier_is_a_uuid_of_version_four() {
        let text = Seal::new().unwrap().identifier().unwrap();
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }
}
