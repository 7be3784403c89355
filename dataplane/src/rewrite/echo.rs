//! Whether a registry's error answer holds the credential that it was asked with.
//!
//! Bytes of an answer in, yes or no out; no I/O. Some servers, and some proxies in front of them,
//! show a failed request in their error page, `Authorization` field and all.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use zeroize::Zeroizing;

use crate::vocabulary::Secret;

/// Whether `answer` holds what a registry was `shown`, a value of `Authorization`: a token, the
/// encoded pair of user and password, or the password alone; as it is, percent-encoded, or escaped
/// as in JSON.
pub(super) fn reveals(answer: &[u8], shown: &Secret) -> bool {
    let value = shown.expose();
    let encoded = value.splitn(2, |byte| *byte == b' ').last().unwrap_or_default();
    let pair = Zeroizing::new(STANDARD.decode(encoded).unwrap_or_default());
    let password = pair.splitn(2, |byte| *byte == b':').nth(1).unwrap_or_default();
    let stands_in = |text: &[u8]| {
        let found = |secret: &[u8]| memmem::find(text, secret).is_some();
        let tells = password.len() >= PASSWORD_BYTES_MIN && found(password);
        (!encoded.is_empty() && found(encoded)) || tells
    };
    stands_in(answer)
        || stands_in(&decoded(answer, percent))
        || stands_in(&decoded(answer, plus_and_percent))
        || stands_in(&decoded(answer, json))
}

/// `text` with each escape that `escape` knows as what it means.
fn decoded(text: &[u8], escape: fn(&[u8]) -> Option<(Meant, usize)>) -> Zeroizing<Vec<u8>> {
    // No escape is shorter than what it means.
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let Some((meant, length)) = escape(rest) else {
            out.push(*first);
            rest = after;
            continue;
        };
        match meant {
            Meant::Byte(byte) => out.push(byte),
            Meant::Letter(letter) => {
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

/// What an escape stands for.
enum Meant {
    Byte(u8),
    Letter(char),
}

/// `%2F` (RFC 3986 §2.1).
fn percent(text: &[u8]) -> Option<(Meant, usize)> {
    let number = hexadecimal(text.strip_prefix(b"%")?.get(..2)?)?;
    Some((Meant::Byte(u8::try_from(number).ok()?), 3))
}

/// The same where a plus sign is a space, as in forms.
fn plus_and_percent(text: &[u8]) -> Option<(Meant, usize)> {
    if text.starts_with(b"+") { Some((Meant::Byte(b' '), 1)) } else { percent(text) }
}

/// `\/`, `\u0026` and the like (RFC 8259 §7); Go escapes `&`, `<` and `>` so.
fn json(text: &[u8]) -> Option<(Meant, usize)> {
    let rest = text.strip_prefix(b"\\")?;
    match rest.first()? {
        sign @ (b'"' | b'\\' | b'/') => Some((Meant::Byte(*sign), 2)),
        b'u' => {
            let letter = char::from_u32(hexadecimal(rest.get(1..5)?)?)?;
            Some((Meant::Letter(letter), 6))
        }
        _ => None,
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    // A sign would be taken as part of a number.
    let digits = str::from_utf8(digits).ok()?;
    let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if all { u32::from_str_radix(digits, 16).ok() } else { None }
}

/// A shorter password stands in every other text by chance, and errors would never be readable.
const PASSWORD_BYTES_MIN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(pair: &str) -> Secret {
        Secret::new(format!("Basic {}", STANDARD.encode(pair)).into_bytes())
    }

    #[test]
    fn a_credential_is_found_however_it_is_written() {
        let shown = basic("robot$ci:p+s/s<w?rd %");
        for answer in [
            r#"{"message":"Authorization: Basic cm9ib3QkY2k6cCtzL3M8dz9yZCAl"}"#,
            r#"{"message":"Basic cm9ib3QkY2k6cCtzL3M8dz9yZCAl"}"#,
            "p+s/s<w?rd %",
            "a=p%2Bs%2Fs%3Cw%3Frd%20%25&b",
            "a=p%2bs%2fs%3cw%3frd+%25&b",
            r#"{"a":"p+s\/s\u003cw?rd %"}"#,
            r#"{"a":"p\u002Bs/s\u003Cw?rd %"}"#,
        ] {
            assert!(reveals(answer.as_bytes(), &shown), "{answer}");
        }
        for answer in ["", "robot$ci", "p+s/s", "%", "%2", r"\u12", r"\", "cm9ib3Q"] {
            assert!(!reveals(answer.as_bytes(), &shown), "{answer}");
        }
    }

    #[test]
    fn a_password_beyond_ascii_is_found_in_both_escapes() {
        let shown = basic("robot:p\u{e4}ss\u{20ac}word");
        for answer in ["p\u{e4}ss\u{20ac}word", "p%C3%A4ss%E2%82%ACword", "p\\u00e4ss\\u20acword"] {
            assert!(reveals(answer.as_bytes(), &shown), "{answer}");
        }
    }

    #[test]
    fn a_password_of_few_letters_is_looked_for_only_with_its_user() {
        let shown = basic("robot:abc");
        assert!(!reveals(b"abcdef", &shown));
        assert!(reveals(STANDARD.encode("robot:abc").as_bytes(), &shown));
    }

    #[test]
    fn a_token_is_found() {
        let shown = Secret::new(b"Bearer eyJh.bG.ciOi-_".to_vec());
        assert!(reveals(b"{\"token\":\"eyJh.bG.ciOi-_\"}", &shown));
        assert!(!reveals(b"eyJh", &shown));
    }
}
