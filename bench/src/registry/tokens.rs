//! The registry's token service: what it grants, and what a token is good for.
//!
//! Names, scopes and the time in; tokens, grants and answers out. A token has the form of a JSON
//! Web Token (RFC 7519) signed with HMAC-SHA256 under a key that lives as long as the process. As
//! in Harbor it lasts 30 minutes and carries every action that its bearer has on the
//! repositories it was asked for, whatever the actions that were named.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ring::hmac;
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::http::{Head, Reply};
use crate::calendar;

/// Makes tokens and knows its own again.
pub(crate) struct Tokens {
    key: hmac::Key,
}

/// What a token says.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Grant {
    /// The account, empty for nobody in particular.
    pub(crate) sub: String,
    /// For whom the token is.
    aud: String,
    /// When it ends, in seconds since 1970.
    exp: u64,
    /// When it was made.
    iat: u64,
    /// What it opens.
    access: Vec<Access>,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Tokens {
    /// A service with a key of its own.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn new() -> Result<Self, ring::error::Unspecified> {
        Ok(Self { key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())? })
    }

    /// Answers a request to the service. `account` is who asks, where the password was right; a
    /// wrong one counts as nobody, as in Harbor.
    pub(crate) fn answer(&self, head: &Head, account: Option<&str>, now: u64) -> Reply {
        if head.method != "GET" {
            return Reply::error(405, "UNSUPPORTED", "the token service knows GET");
        }
        if head.parameter("service") != Some(SERVICE) {
            return Reply::error(400, "BAD_REQUEST", "there is no such service here");
        }
        let scopes: Vec<&str> =
            head.query.iter().filter(|pair| pair.0 == "scope").map(|pair| &*pair.1).collect();
        if account.is_none() && scopes.is_empty() {
            return Reply::error(401, "UNAUTHORIZED", "unauthorized: authentication required");
        }
        // One parameter may name several repositories, with spaces between them (RFC 6749 §3.3).
        let scopes = scopes.iter().flat_map(|scope| scope.split(' '));
        let access = scopes.filter_map(|scope| granted(scope, account.is_some())).collect();
        let token = self.issue(account.unwrap_or_default(), access, now);
        Reply::json(
            200,
            &json!({
                "token": token,
                "access_token": "",
                "expires_in": LIFETIME_SECONDS,
                "issued_at": calendar::timestamp(now),
            }),
        )
    }

    fn issue(&self, account: &str, access: Vec<Access>, now: u64) -> String {
        let grant = json!(Grant {
            sub: account.to_owned(),
            aud: SERVICE.to_owned(),
            exp: now + LIFETIME_SECONDS,
            iat: now,
            access,
        });
        let part = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = [part(&json!({ "alg": "HS256", "typ": "JWT" })), part(&grant)].join(".");
        let tag = hmac::sign(&self.key, signed.as_bytes());
        [signed, BASE64_URL_SAFE_NO_PAD.encode(tag)].join(".")
    }

    /// What `token` grants at `now`; `None` for one that is not ours, altered, or too old.
    pub(crate) fn grant(&self, token: &str, now: u64) -> Option<Grant> {
        let (signed, tag) = token.rsplit_once('.')?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &tag).ok()?;
        let (_, claims) = signed.split_once('.')?;
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
        let grant: Grant = serde_json::from_slice(&claims).ok()?;
        (grant.aud == SERVICE && now <= grant.exp + LEEWAY_SECONDS).then_some(grant)
    }
}

impl Grant {
    /// Whether it allows `action` on the repository `name`.
    pub(crate) fn allows(&self, name: &str, action: &str) -> bool {
        let allows = |access: &Access| {
            access.kind == "repository"
                && access.name == name
                && access.actions.iter().any(|known| known == action)
        };
        self.access.iter().any(allows)
    }
}

/// What is granted of one scope, `repository:<name>:<actions>`; nothing of any other kind.
fn granted(scope: &str, known: bool) -> Option<Access> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, _) = rest.rsplit_once(':')?;
    let actions: &[&str] = match (known, is_public(name)) {
        (true, _) => &["pull", "push", "delete"],
        (false, true) => &["pull"],
        (false, false) => &[],
    };
    let actions = actions.iter().map(|action| (*action).to_owned()).collect();
    (kind == "repository").then(|| Access { kind: kind.to_owned(), name: name.to_owned(), actions })
}

/// Whether everybody may pull from the repository `name`.
pub(crate) fn is_public(name: &str) -> bool {
    name.starts_with("library/")
}

/// The challenge that sends a caller to the service, on the Host that the caller itself used.
pub(crate) fn challenge(head: &Head, scope: Option<(&str, &str)>) -> String {
    let realm = head.url("/service/token");
    let scope = scope.map(|(name, actions)| format!(",scope=\"repository:{name}:{actions}\""));
    format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\"{}", scope.unwrap_or_default())
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

const SERVICE: &str = "harbor-registry";
const LIFETIME_SECONDS: u64 = 30 * 60;
/// Clocks differ a little; Harbor forgives a minute.
const LEEWAY_SECONDS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(tokens: &Tokens, scope: &str, known: bool) -> String {
        tokens.issue("robot$a", granted(scope, known).into_iter().collect(), 1000)
    }

    #[test]
    fn a_token_is_good_for_half_an_hour_and_a_minute() {
        let tokens = Tokens::new().unwrap();
        let token = token(&tokens, "repository:team/app:pull", true);
        assert!(tokens.grant(&token, 1000).is_some());
        assert!(tokens.grant(&token, 1000 + 30 * 60 + 60).is_some());
        assert!(tokens.grant(&token, 1000 + 30 * 60 + 61).is_none());
    }

    #[test]
    fn a_token_that_was_altered_or_is_another_services_is_worth_nothing() {
        let tokens = Tokens::new().unwrap();
        let token = token(&tokens, "repository:team/app:pull", true);
        assert!(Tokens::new().unwrap().grant(&token, 1000).is_none());
        for place in [2, token.len() / 2, token.len() - 3] {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            assert!(tokens.grant(&String::from_utf8(bytes).unwrap(), 1000).is_none(), "{place}");
        }
        assert!(tokens.grant("", 1000).is_none() && tokens.grant("a.b.c", 1000).is_none());
    }

    #[test]
    fn a_grant_holds_all_actions_of_an_account_and_nobodys_only_pulls_what_is_public() {
        let tokens = Tokens::new().unwrap();
        let allows = |scope: &str, known: bool, name: &str, action: &str| {
            tokens.grant(&token(&tokens, scope, known), 1000).unwrap().allows(name, action)
        };
        assert!(allows("repository:team/app:pull", true, "team/app", "push"));
        assert!(!allows("repository:team/app:pull", true, "team/other", "pull"));
        assert!(allows("repository:library/app:pull,push", false, "library/app", "pull"));
        assert!(!allows("repository:library/app:pull,push", false, "library/app", "push"));
        assert!(!allows("repository:team/app:pull", false, "team/app", "pull"));
        assert!(!allows("registry:catalog:*", true, "catalog", "*"));
    }
}
