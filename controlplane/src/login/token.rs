//! One token of a registry's token service.
//!
//! A connector, its token service and scopes in, a token and its lifetime out (distribution "Token
//! Authentication"), or which of three ways it failed. What the service answers is believed only as
//! far as it is bounded; nothing of it is logged.

use std::time::Duration;

use dataplane::vocabulary::{Access, Connector, Secret};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::challenge::Realm;
use crate::registry::{Ask, Dialer};

/// What came of asking.
pub(super) enum Fetched {
    /// A whole field value, and for how long it is good from the moment it was asked for.
    Token(Secret, Duration),
    /// 401: the credential was refused.
    Rejected,
    /// 403: the account has no right to these scopes.
    Denied,
    /// Anything else; why, for the log.
    Failed(String),
}

/// Asks for a token; without scopes it is the credential alone that is put to the test.
pub(super) async fn fetch(
    dialer: &Dialer,
    connector: &Connector,
    realm: &Realm,
    scopes: &str,
) -> Fetched {
    let authorization = match &connector.access {
        Access::Credential(credential) => Some(&credential.authorization),
        Access::Anonymous | Access::Unready(_) => None,
    };
    let target = target(realm, scopes);
    let ask = Ask {
        origin: &realm.origin,
        trust: &connector.trust,
        target: &target,
        authorization,
        purpose: "token",
    };
    let reply = match dialer.get(&ask).await {
        Ok(reply) => reply,
        Err(failure) => return Fetched::Failed(failure.to_string()),
    };
    match reply.status {
        200..=299 => read(&reply.body),
        401 => Fetched::Rejected,
        403 => Fetched::Denied,
        status => Fetched::Failed(format!("it answers {status}")),
    }
}

/// The realm's path and query, with `service` and each scope added.
fn target(realm: &Realm, scopes: &str) -> String {
    let mut target = realm.target.clone();
    let service = realm.service.as_deref().map(|service| ("service", service));
    let scopes = scopes.split(' ').filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope));
    for (name, value) in service.into_iter().chain(scopes) {
        let joint = if target.contains('?') { '&' } else { '?' };
        target.push(joint);
        target.push_str(name);
        target.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    target.push(char::from(byte));
                }
                other => target.push_str(&format!("%{other:02X}")),
            }
        }
    }
    target
}

/// The fields that count. `expires_in` may be any JSON: what is no number says nothing.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

fn read(body: &[u8]) -> Fetched {
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return Fetched::Failed("its answer is not the JSON of a token".to_owned());
    };
    let given = [answer.token, answer.access_token].map(|token| token.map(Zeroizing::new));
    let Some(token) = given.iter().flatten().find(|token| !token.is_empty()) else {
        return Fetched::Failed("its answer holds no token".to_owned());
    };
    // RFC 6750 §2.1; anything else could not stand in a field, or not alone.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.len() > TOKEN_BYTES_MAX || !token.bytes().all(is_token) {
        return Fetched::Failed("its token is none that can be sent".to_owned());
    }
    let mut value = Vec::with_capacity(SCHEME.len() + token.len());
    value.extend_from_slice(SCHEME);
    value.extend_from_slice(token.as_bytes());
    let seconds = answer.expires_in.as_ref().and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    Fetched::Token(Secret::new(value), lifetime(seconds))
}

/// A missing or tiny lifetime is 60 s, the least that the specification lets a service give; an
/// enormous one is an hour, so that a token which was taken away is not believed in for long.
fn lifetime(seconds: f64) -> Duration {
    let bounded = seconds.clamp(LIFETIME_MIN.as_secs_f64(), LIFETIME_MAX.as_secs_f64());
    Duration::try_from_secs_f64(bounded).unwrap_or(LIFETIME_MIN)
}

const SCHEME: &[u8] = b"Bearer ";
const TOKEN_BYTES_MAX: usize = 32 << 10;
const LIFETIME_MIN: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::address;

    #[test]
    fn a_token_is_asked_for_by_service_and_scopes() {
        let (origin, _) = address::parse("https://h.example").unwrap();
        let realm = |target: &str, service: Option<&str>| Realm {
            origin: origin.clone(),
            target: target.to_owned(),
            service: service.map(str::to_owned),
        };
        for (realm, scopes, expected) in [
            (realm("/t", Some("harbor registry")), "", "/t?service=harbor%20registry"),
            (
                realm("/t?a=b", None),
                "repository:a/b:pull,push repository:c:pull",
                "/t?a=b&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull",
            ),
        ] {
            assert_eq!(target(&realm, scopes), expected);
        }
    }

    /// F57, and the ways in which an answer can be none.
    #[test]
    fn a_lifetime_is_at_least_a_minute_and_at_most_an_hour() {
        for (body, expected) in [
            (r#"{"token":"a","expires_in":1800}"#, "Bearer a 1800"),
            (r#"{"token":"","access_token":"b"}"#, "Bearer b 60"),
            (r#"{"token":"a","expires_in":0}"#, "Bearer a 60"),
            (r#"{"token":"a","expires_in":-5}"#, "Bearer a 60"),
            (r#"{"token":"a","expires_in":1e300}"#, "Bearer a 3600"),
            (r#"{"token":"a","expires_in":"soon"}"#, "Bearer a 60"),
            (r#"{"token":"a\r\nX: y"}"#, "its token is none that can be sent"),
            (r#"{"expires_in":60}"#, "its answer holds no token"),
            ("<html>", "its answer is not the JSON of a token"),
        ] {
            let found = match read(body.as_bytes()) {
                Fetched::Token(value, lifetime) => {
                    let value = String::from_utf8_lossy(value.expose()).into_owned();
                    format!("{value} {}", lifetime.as_secs())
                }
                Fetched::Failed(why) => why,
                Fetched::Rejected | Fetched::Denied => "refused".to_owned(),
            };
            assert_eq!(found, expected, "{body}");
        }
    }
}
