//! What a caller of the forward proxy says about itself: `Proxy-Authorization`.
//!
//! A field's value in, the listed connectors and the token out; pure. The user of Basic is
//! `<namespace>/<name>`, or several of them with commas between, as the proxy's URL has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::error::Kind;
use crate::limits::Limits;
use crate::parse::Fields;
use crate::vocabulary::{ConnectorRef, Token, is_dns_label};

/// The connectors, in the order listed, and the token (RFC 9110 §11.7.2, RFC 7617 §2).
pub(crate) fn of(fields: &Fields, limits: &Limits) -> Result<(Vec<ConnectorRef>, Token), Kind> {
    let mut all = fields.all("proxy-authorization");
    let value = all.next().ok_or(Kind::TokenMissing)?;
    if all.next().is_some() {
        return Err(Kind::Malformed("more than one Proxy-Authorization field"));
    }
    parse(value, limits)
}

/// The same for one value.
pub(crate) fn parse(value: &[u8], limits: &Limits) -> Result<(Vec<ConnectorRef>, Token), Kind> {
    let space = value.iter().position(|byte| *byte == b' ').ok_or(Kind::TokenMissing)?;
    let (scheme, rest) = value.split_at(space);
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return Err(Kind::TokenRejected);
    }
    let decoded = STANDARD.decode(rest.trim_ascii());
    let pair = Zeroizing::new(decoded.map_err(|_| Kind::TokenRejected)?);
    let colon = pair.iter().position(|byte| *byte == b':').ok_or(Kind::ListInvalid)?;
    let (user, token) = pair.split_at(colon);
    let token = Token::new(token.get(1..).unwrap_or_default().to_vec());
    match token.as_bytes().len() {
        0 => return Err(Kind::TokenMissing),
        length if length > limits.token_bytes_max => return Err(Kind::TokenRejected),
        _ => {}
    }
    let user = str::from_utf8(user).map_err(|_| Kind::ListInvalid)?;
    let mut listed = Vec::new();
    for one in user.split(',') {
        let reference = reference(one.trim()).ok_or(Kind::ListInvalid)?;
        if listed.len() >= limits.listed_connectors_max {
            return Err(Kind::ListInvalid);
        }
        if !listed.contains(&reference) {
            listed.push(reference);
        }
    }
    Ok((listed, token))
}

/// `<namespace>/<name>`, with the slash as it is or percent-encoded: some clients send the user of
/// a proxy's URL decoded, some do not.
fn reference(text: &str) -> Option<ConnectorRef> {
    let parts = ["/", "%2F", "%2f"].iter().find_map(|slash| text.split_once(slash));
    let (namespace, name) = parts?;
    (is_dns_label(namespace) && is_dns_label(name)).then(|| ConnectorRef::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pair: &str, expected: Result<&str, Kind>) {
        let value = format!("Basic {}", STANDARD.encode(pair));
        let limits = Limits { listed_connectors_max: 3, ..crate::fuzzing::limits() };
        let found = parse(value.as_bytes(), &limits).map(|(listed, token)| {
            let listed: Vec<_> = listed.iter().map(ConnectorRef::as_str).collect();
            format!("{} {}", listed.join(" "), String::from_utf8_lossy(token.as_bytes()))
        });
        assert_eq!(found, expected.map(str::to_owned), "{pair}");
    }

    #[test]
    fn a_user_lists_connectors_in_order_and_the_password_is_the_token() {
        check("ci/harbor:token", Ok("ci/harbor token"));
        check("ci%2Fharbor:to:ken", Ok("ci/harbor to:ken"));
        check("ci%2fharbor,ops/quay:t", Ok("ci/harbor ops/quay t"));
        check("b/b, a/a,b/b:t", Ok("b/b a/a t"));
    }

    #[test]
    fn what_is_no_list_is_said_to_be_none() {
        for odd in ["", "harbor", "ci/", "/harbor", "ci/h/x", "CI/h", "ci/h,", "ci%252Fh", "ci/h_"]
        {
            check(&format!("{odd}:token"), Err(Kind::ListInvalid));
        }
        check("a/a,b/b,c/c,d/d:t", Err(Kind::ListInvalid));
        check("ci/harbor", Err(Kind::ListInvalid));
        check("ci/harbor:", Err(Kind::TokenMissing));
        let limits = crate::fuzzing::limits();
        for (value, kind) in [
            ("Basic", Kind::TokenMissing),
            ("Basic ???", Kind::TokenRejected),
            ("Bearer abc", Kind::TokenRejected),
        ] {
            assert_eq!(parse(value.as_bytes(), &limits).err(), Some(kind), "{value}");
        }
    }
}
