//! What a token says of itself, before anyone is asked about it.
//!
//! A token in, whether it could be good out. Nothing here is proof: the signature is the API
//! server's to check. Garbage, expired tokens and those made for someone else cost no review.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dataplane::vocabulary::Token;
use serde_json::Value;

use super::{AUDIENCE, Rules};

/// Whether the token has the form of a JSON Web Token (RFC 7519) that is for us and not over. The
/// tokens of old Secrets name neither audience nor end, and are for the API server.
pub(super) fn may_be_good(token: &Token, rules: &Rules) -> bool {
    let Some(claims) = read(token) else {
        return false;
    };
    let lives = match claims.get("exp") {
        None => rules.accept_api_audience,
        Some(end) => end.as_f64().is_some_and(|end| end > now()),
    };
    let issued = claims.get("iss").and_then(Value::as_str).is_some_and(|issuer| !issuer.is_empty());
    lives && issued && (rules.accept_api_audience || is_for_us(&claims))
}

/// Whether the token says that it is for us.
pub(super) fn has_own_audience(token: &Token) -> bool {
    read(token).is_some_and(|claims| is_for_us(&claims))
}

/// For how many seconds the token still is good; forever, if it does not say.
pub(super) fn seconds_left(token: &Token) -> f64 {
    let end = read(token).and_then(|claims| claims.get("exp").and_then(Value::as_f64));
    end.map_or(f64::from(u32::MAX), |end| (end - now()).clamp(0.0, f64::from(u32::MAX)))
}

/// The claims of a token whose header names an algorithm.
fn read(token: &Token) -> Option<Value> {
    let mut parts = token.as_bytes().split(|byte| *byte == b'.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || signature.is_empty() {
        return None;
    }
    let decoded = |part: &[u8]| -> Option<Value> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    URL_SAFE_NO_PAD.decode(signature).ok()?;
    let algorithm = decoded(header)?.get("alg")?.as_str()?.to_ascii_lowercase();
    (algorithm != "none").then(|| decoded(claims))?.filter(Value::is_object)
}

fn is_for_us(claims: &Value) -> bool {
    match claims.get("aud") {
        Some(Value::String(audience)) => audience == AUDIENCE,
        Some(Value::Array(list)) => list.iter().any(|audience| audience == AUDIENCE),
        _ => false,
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn rules(accept_api_audience: bool) -> Rules {
        let second = Duration::from_secs(1);
        Rules {
            accept_api_audience,
            require_proxy_right: false,
            fresh: second,
            rejection: second,
            denial: second,
            stale: second,
            rate: 1,
        }
    }

    fn token(header: &Value, claims: &Value) -> Token {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        Token::new(format!("{}.{}.c2ln", part(header), part(claims)).into_bytes())
    }

    #[test]
    fn only_a_token_for_us_that_is_not_over_is_worth_a_review() {
        let later = now() as u64 + 60;
        let header = json!({"alg": "RS256"});
        let good = json!({"iss": "i", "exp": later, "aud": [AUDIENCE]});
        let with = |field: &str, value: Value| {
            let mut claims = good.clone();
            claims[field] = value;
            claims
        };
        for (claims, own, either) in [
            (good.clone(), true, true),
            (with("aud", AUDIENCE.into()), true, true),
            (with("aud", json!(["api"])), false, true),
            (with("aud", Value::Null), false, true),
            (with("exp", json!(1)), false, false),
            (with("exp", json!("soon")), false, false),
            (with("iss", json!("")), false, false),
            (json!({"iss": "i"}), false, true),
            (json!([]), false, false),
        ] {
            let token = token(&header, &claims);
            assert_eq!(may_be_good(&token, &rules(false)), own, "{claims}");
            assert_eq!(may_be_good(&token, &rules(true)), either, "{claims}");
        }
        let unsigned = token(&json!({"alg": "None"}), &good);
        assert!(!may_be_good(&unsigned, &rules(true)));
    }

    #[test]
    fn garbage_is_no_token() {
        for text in ["", "a", "a.b", "a.b.c", "e30.e30.e30", "....", "eyJ.eyJ.x", "e30.e30."] {
            let token = Token::new(text.as_bytes().to_vec());
            assert!(!may_be_good(&token, &rules(true)), "{text}");
        }
    }
}
