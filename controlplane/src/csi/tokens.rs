//! The Pod's token, as the kubelet brings it.
//!
//! The secrets and the attributes of a call in, one token out: that for our audience. Newer
//! kubelets put tokens among the secrets (`serviceAccountTokenInSecrets`, KEP-5538), older ones
//! among the attributes, so the secrets are looked at first. Tokens for others are wiped unread.
//! Nothing here decides whether a token is good: whoever is asked about it does.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use zeroize::{Zeroize as _, Zeroizing};

use super::refusal::{Quoted, Refusal, written};

/// A token and what it says about its time.
pub struct Brought {
    /// The token.
    pub text: Zeroizing<String>,
    /// From its making to its end, where it says so.
    pub life: Option<Duration>,
    /// Its end, where it or the kubelet says so.
    end: Option<SystemTime>,
}

/// A token as the kubelet writes it (Kubernetes, `pkg/volume/csi`, by audience).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    token: String,
    #[serde(default)]
    expiration_timestamp: Option<String>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

/// The times in a JWT (RFC 7519 §4.1).
#[derive(Deserialize)]
struct Claims {
    iat: Option<u64>,
    exp: Option<u64>,
}

/// The token for `audience`, if it is one and has not expired at `now`.
pub fn find(
    secrets: &HashMap<String, String>,
    context: &HashMap<String, String>,
    audience: &str,
    now: SystemTime,
) -> Result<Brought, Refusal> {
    let missing = || Refusal::TokenMissing(Quoted::new(audience));
    let text = secrets.get(TOKENS).or_else(|| context.get(TOKENS)).ok_or_else(missing)?;
    let mut entries: HashMap<String, Entry> =
        serde_json::from_str(text).map_err(|_| Refusal::TokenForm(Quoted::new(audience)))?;
    let entry = entries.remove(audience).ok_or_else(missing)?;
    let plain = |byte: u8| byte.is_ascii_graphic();
    if !(1..=TOKEN_BYTES_MAX).contains(&entry.token.len()) || !entry.token.bytes().all(plain) {
        return Err(Refusal::TokenForm(Quoted::new(audience)));
    }
    let claims = claims(&entry.token);
    let told =
        entry.expiration_timestamp.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    let end = told.map(SystemTime::from).or_else(|| {
        let seconds = claims.as_ref()?.exp?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    });
    let life = claims
        .as_ref()
        .and_then(|claims| Some(Duration::from_secs(claims.exp?.checked_sub(claims.iat?)?)));
    let brought = Brought { text: Zeroizing::new(entry.token.clone()), life, end };
    if brought.end.is_some_and(|end| end <= now) {
        return Err(Refusal::TokenExpired(Quoted::new(audience)));
    }
    Ok(brought)
}

impl Brought {
    /// Refuses where tokens live shorter than was asked for.
    pub fn lives(&self, asked: Option<Duration>) -> Result<(), Refusal> {
        match (asked, self.life) {
            // The API server may shave off a second.
            (Some(asked), Some(given)) if given + SHAVED < asked => {
                Err(Refusal::ExpirationLong { asked: written(asked), given: written(given) })
            }
            _ => Ok(()),
        }
    }
}

/// What a JWT says about itself; nothing, if it is none.
fn claims(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
    serde_json::from_slice(&bytes).ok()
}

/// Where the kubelet puts tokens.
pub(super) const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A projected token is about 1 KiB; the proxy takes as much.
const TOKEN_BYTES_MAX: usize = 16 << 10;

const SHAVED: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn jwt(claims: serde_json::Value) -> String {
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(&json!({"alg": "none"})), part(&claims))
    }

    fn map(tokens: serde_json::Value) -> HashMap<String, String> {
        HashMap::from([(TOKENS.to_owned(), tokens.to_string())])
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn secrets_come_before_attributes_and_other_audiences_are_passed_over() {
        let secrets = map(json!({"connectors-proxy": {"token": "a.b.c"}, "": {"token": "other"}}));
        let context = map(json!({"connectors-proxy": {"token": "old"}}));
        let find = |secrets, context| find(secrets, context, "connectors-proxy", at(0));
        let none = HashMap::new();
        assert_eq!(*find(&secrets, &context).unwrap().text, "a.b.c");
        assert_eq!(*find(&none, &context).unwrap().text, "old");
        assert!(matches!(find(&none, &none), Err(Refusal::TokenMissing(_))));
        let others = map(json!({"vault": {"token": "x"}}));
        assert!(matches!(find(&others, &none), Err(Refusal::TokenMissing(_))));
        for bad in [
            json!({"connectors-proxy": {"token": ""}}),
            json!([]),
            json!({"connectors-proxy": {"token": "a\nb"}}),
        ] {
            let refusal = super::find(&map(bad), &none, "connectors-proxy", at(0)).err().unwrap();
            assert!(matches!(refusal, Refusal::TokenForm(_)));
        }
    }

    #[test]
    fn a_token_says_how_long_it_lives() {
        let token = jwt(json!({"iat": 1000, "exp": 4600}));
        let tokens =
            map(json!({"a": {"token": token, "expirationTimestamp": "1970-01-01T01:00:00Z"}}));
        let none = HashMap::new();
        let brought = find(&tokens, &none, "a", at(1200)).unwrap();
        assert_eq!(brought.life, Some(Duration::from_secs(3600)));
        assert!(brought.lives(None).is_ok());
        assert!(brought.lives(Some(Duration::from_secs(3600))).is_ok());
        let refusal = brought.lives(Some(Duration::from_secs(7200))).unwrap_err();
        assert!(
            refusal.to_string().contains("2h cannot be honoured: the kubelet's tokens live 1h")
        );
        assert!(matches!(find(&tokens, &none, "a", at(3600)), Err(Refusal::TokenExpired(_))));
        let bare = map(json!({"a": {"token": jwt(json!({"exp": 4600}))}}));
        assert!(find(&bare, &none, "a", at(4599)).is_ok());
        assert!(matches!(find(&bare, &none, "a", at(4600)), Err(Refusal::TokenExpired(_))));
    }
}
