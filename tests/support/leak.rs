//! Finds a marked secret in whatever a story captured: raw, in Base64 at any offset, URL-encoded.
//!
//! Every proxy, caller, registry and program of a story searches what it captured when it is
//! dropped, so no story can forget to.

use super::manifests::{NEXT_PASSWORD, PASSWORD, STRANGER_TOKEN, TOKEN};

/// The connector's passwords: nobody but the registry may see them.
pub(crate) fn passwords() -> Vec<&'static str> {
    vec![PASSWORD, NEXT_PASSWORD]
}

/// The callers' tokens: nobody but the proxy may see them.
pub(crate) fn tokens() -> Vec<&'static str> {
    vec![TOKEN, STRANGER_TOKEN]
}

/// Passwords and tokens.
pub(crate) fn everything() -> Vec<&'static str> {
    [passwords(), tokens()].concat()
}

/// Fails when one of `secrets` stands in `captured` in any form. A story that is failing already
/// is not searched: one failure is enough to read.
pub(crate) fn assert_absent(secrets: &[&str], captured: &[u8], place: &str) {
    if std::thread::panicking() {
        return;
    }
    if let Some(form) = find(secrets, captured) {
        // The message names the form, never the secret: it lands in a log as well.
        panic!("a marked secret stands in {place} ({form})");
    }
}

/// The form in which one of `secrets` stands in `captured`, if one does.
pub(crate) fn find(secrets: &[&str], captured: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(captured);
    secrets.iter().find_map(|secret| {
        forms(secret).into_iter().find(|(_, form)| text.contains(form)).map(|(name, _)| name)
    })
}

/// `secret` as it may be written.
fn forms(secret: &str) -> Vec<(&'static str, String)> {
    let escaped = |upper: bool| {
        secret.bytes().fold(String::new(), |text, byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                format!("{text}{}", char::from(byte))
            }
            _ if upper => format!("{text}%{byte:02X}"),
            _ => format!("{text}%{byte:02x}"),
        })
    };
    let mut forms = vec![
        ("raw", secret.to_owned()),
        ("URL-encoded", escaped(true)),
        ("URL-encoded", escaped(false)),
        ("JSON", serde_json::Value::from(secret).to_string().trim_matches('"').to_owned()),
    ];
    // In the Base64 of a longer text the secret starts at one of three offsets; the characters at
    // its ends mix with its neighbours and are left out.
    for before in 0..3 {
        let encoded = super::base64(format!("{}{secret}", "x".repeat(before)));
        let inner = encoded.get(4..encoded.len() - 4).unwrap_or_default();
        forms.push(("Base64", inner.to_owned()));
        forms.push(("Base64 for URLs", inner.replace('+', "-").replace('/', "_")));
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_secret_is_found_in_every_form_it_may_take() {
        for captured in [
            format!("password={PASSWORD}."),
            format!("Authorization: Basic {}", crate::support::base64(format!("u:{PASSWORD}"))),
            format!("Authorization: Basic {}", crate::support::base64(format!("us:{PASSWORD}"))),
            format!("Authorization: Basic {}", crate::support::base64(format!("use:{PASSWORD}"))),
            "p=canary-K7x%2Fpw%2BQ9%3Dzz%3F%253%3Bb".to_owned(),
            "p=canary-K7x%2fpw%2bQ9%3dzz%3f%253%3bb".to_owned(),
        ] {
            assert!(find(&passwords(), captured.as_bytes()).is_some(), "{captured}");
            assert!(find(&tokens(), captured.as_bytes()).is_none(), "{captured}");
        }
        assert_eq!(find(&everything(), b"canary-K7x and nothing more"), None);
    }
}
