//! Refuses queries that two readers could understand differently.
//!
//! Harbor checks a mount by the query as Go's `net/url` reads it; the registry behind it reads the
//! same request again. It never changes a query: `rewrite` does that.

use super::{Resource, name};
use crate::error::Kind;

/// Checks the raw `query` of a request for `resource`.
pub(super) fn check(query: &str, resource: Resource) -> Result<(), Kind> {
    check_bytes(query, resource)?;
    // What the token service is asked never goes further.
    if matches!(resource, Resource::Api | Resource::Token) {
        return Ok(());
    }
    let mut seen = [false; SINGLE.len()];
    for pair in query.split('&') {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        // `%66rom` is `from` to the registry, and no parameter of the API needs an escape.
        if name.contains('%') {
            return Err(Kind::QueryInvalid("a parameter's name is percent-encoded"));
        }
        // beego, Harbor's router, takes another method from this one.
        if name == "_method" {
            return Err(Kind::QueryInvalid("the method stands in the request line"));
        }
        for (known, seen) in SINGLE.iter().zip(&mut seen) {
            if name == *known && std::mem::replace(seen, true) {
                return Err(Kind::QueryInvalid("from, mount, digest, _state may stand only once"));
            }
        }
    }
    Ok(())
}

/// The digest of the blob that an upload's `query` names: what it ends as, or what it mounts
/// (distribution-spec end-4b, end-6, end-11). Empty where there is none.
pub(super) fn digest(query: Option<&str>) -> &str {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| matches!(*name, "digest" | "mount"));
    let value = named.next().map(|(_, value)| value).unwrap_or_default();
    // What is no digest is the registry's to refuse, and nobody's to write down.
    if name::check_digest(value).is_ok() { value } else { "" }
}

/// Characters of RFC 3986 §3.4 without the semicolon (Go drops what has one, others split at it),
/// and percent signs only before a character that can be shown.
fn check_bytes(query: &str, resource: Resource) -> Result<(), Kind> {
    let mut rest = query.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let good = match byte {
            b'%' => match after.split_at_checked(2) {
                Some((code, after)) => {
                    rest = after;
                    decoded(code).is_some_and(|byte| byte >= b' ' && byte != 0x7f)
                }
                None => false,
            },
            b'[' | b']' | b'{' | b'}' => resource == Resource::Api,
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/?".contains(byte),
        };
        if !good {
            return Err(Kind::QueryInvalid(
                "the query has a character or an escape it must not have",
            ));
        }
    }
    Ok(())
}

/// The byte that two hexadecimal digits mean.
fn decoded(code: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (high, low) = (code.first().and_then(digit)?, code.get(1).and_then(digit)?);
    u8::try_from(high * 16 + low).ok()
}

/// Parameters of which one reader might take the first, and another the last.
const SINGLE: [&str; 5] = ["from", "mount", "digest", "_state", "ns"];
