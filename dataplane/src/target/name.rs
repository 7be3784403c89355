//! The grammar of paths and names (OCI distribution-spec v1.1 §"Endpoints", "Pulling manifests").
//!
//! Texts in, yes or no out. It never decodes a percent sign.

use memchr::{memchr, memrchr};

use crate::error::Kind;
use crate::parse::ByteSet;

/// Refuses a path that nginx, Go and Harbor might normalise differently: Harbor's nginx decodes
/// and merges before it chooses who serves, so `/v2/%2e%2e/api/` would reach the API.
///
/// The only percent signs are `%3A`, a digest's colon, and `%252F`, which is how Harbor's API
/// wants the slash of a nested repository; where each may stand is checked with the resource.
pub(super) fn check_path(path: &str) -> Result<(), Kind> {
    let (body, closed) = match path.strip_suffix('/') {
        Some(body) => (body, true),
        None => (path, false),
    };
    if closed && body != "/v2" && !body.ends_with("/blobs/uploads") {
        return Err(Kind::NameInvalid("the path ends with a slash"));
    }
    if is_plain(body) {
        return Ok(());
    }
    for segment in body.split('/').skip(1) {
        if matches!(segment, "" | "." | "..") {
            return Err(Kind::NameInvalid("the path has an empty segment or a dot segment"));
        }
        let mut rest = segment;
        while let Some((before, after)) = rest.split_once('%') {
            if !PATH_BYTES.has_all(before.as_bytes()) {
                return Err(Kind::NameInvalid("the path has a character that no name has"));
            }
            rest = ["3A", "3a", "252F", "252f"]
                .into_iter()
                .find_map(|code| after.strip_prefix(code))
                .ok_or(Kind::NameInvalid(
                    "only a digest's colon may be percent-encoded in a path",
                ))?;
        }
        if !PATH_BYTES.has_all(rest.as_bytes()) {
            return Err(Kind::NameInvalid("the path has a character that no name has"));
        }
    }
    Ok(())
}

/// Whether a path has neither percent signs nor segments that are empty or begin with a dot, as
/// nearly none has.
fn is_plain(path: &str) -> bool {
    let path = path.as_bytes();
    // All of it, without a look after each byte whether to go on: many are done at a time then.
    let pairs = path.iter().zip(path.get(1..).unwrap_or_default());
    let opened = pairs.fold(true, |all, (before, byte)| {
        all & ((*before != b'/') | ((*byte != b'/') & (*byte != b'.')))
    });
    opened && path.last() != Some(&b'/') && PATH_BYTES.has_all(path)
}

/// Unreserved characters (RFC 3986 §2.3), the colon and signs of digests and upload ids, and the
/// slash between segments.
static PATH_BYTES: ByteSet = ByteSet::alphanumeric_and(b"-._~:=+@/");

/// `text` before and after the first `byte`, which is ASCII.
pub(super) fn split_once(text: &str, byte: u8) -> Option<(&str, &str)> {
    let place = memchr(byte, text.as_bytes())?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

/// `text` before and after the last `byte`, which is ASCII.
pub(super) fn rsplit_once(text: &str, byte: u8) -> Option<(&str, &str)> {
    let place = memrchr(byte, text.as_bytes())?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

/// Splits `namespaces/<namespace>/connectors/<name>/<rest>`, if `path` has all of it.
pub(crate) fn split_prefix(path: &str) -> Option<((&str, &str), &str)> {
    let (namespace, rest) = split_once(path.strip_prefix("namespaces/")?, b'/')?;
    let (name, rest) = split_once(rest.strip_prefix("connectors/")?, b'/')?;
    Some(((namespace, name), rest))
}

/// Whether `name` is a repository's: at most 255 bytes, the specification's grammar.
pub(crate) fn is_repository(name: &str) -> bool {
    let mut components = name.as_bytes().split(|byte| *byte == b'/');
    name.len() <= REPOSITORY_BYTES_MAX && components.all(is_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &[u8]) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = text;
    loop {
        let word = rest.iter().take_while(|byte| plain(**byte)).count();
        let (word, after) = rest.split_at_checked(word).unwrap_or_default();
        if word.is_empty() {
            return false;
        }
        if after.is_empty() {
            return true;
        }
        let separator = after.iter().take_while(|byte| !plain(**byte)).count();
        let (separator, next) = after.split_at_checked(separator).unwrap_or_default();
        let dashes = separator.iter().all(|byte| *byte == b'-');
        if !dashes && !matches!(separator, b"." | b"_" | b"__") {
            return false;
        }
        rest = next;
    }
}

/// A tag, or a digest.
pub(super) fn check_reference(text: &str) -> Result<(), Kind> {
    let tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let starts_well = !text.starts_with(['.', '-']);
    if (1..=TAG_BYTES_MAX).contains(&text.len()) && starts_well && text.bytes().all(tag) {
        return Ok(());
    }
    if is_digest(text) { Ok(()) } else { Err(Kind::NameInvalid("this is no tag and no digest")) }
}

/// A digest; its colon may be percent-encoded.
pub(super) fn check_digest(text: &str) -> Result<(), Kind> {
    if is_digest(text) { Ok(()) } else { Err(Kind::NameInvalid("this is no digest")) }
}

/// `algorithm:encoded`, with the lengths of the registered algorithms.
fn is_digest(text: &str) -> bool {
    let parts = text.split_once(':');
    let parts = parts.or_else(|| text.split_once("%3A")).or_else(|| text.split_once("%3a"));
    let Some((algorithm, encoded)) = parts else {
        return false;
    };
    let hex = |length| {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        encoded.len() == length && encoded.bytes().all(digit)
    };
    match algorithm {
        "sha256" => hex(64),
        "sha384" => hex(96),
        "sha512" => hex(128),
        other => {
            let plain = |part: &str| {
                !part.is_empty()
                    && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            };
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte);
            other.len() + encoded.len() <= DIGEST_BYTES_MAX
                && other.split(['+', '.', '_', '-']).all(plain)
                && !encoded.is_empty()
                && encoded.bytes().all(inner)
        }
    }
}

/// An upload's id, as docker/distribution's router takes it.
pub(super) fn check_upload(text: &str) -> Result<(), Kind> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte);
    if text.len() <= UPLOAD_BYTES_MAX && text.bytes().all(inner) {
        Ok(())
    } else {
        Err(Kind::NameInvalid("this is no upload's id"))
    }
}

/// What the reference grammar that registries share allows.
const REPOSITORY_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;
const DIGEST_BYTES_MAX: usize = 512;
const UPLOAD_BYTES_MAX: usize = 512;
