//! The token service, and the tokens it issues.
//!
//! A request for `/service/token` in, a signed token or a refusal out. Signed with HMAC rather
//! than with RSA: nobody but the registry reads a token, so nobody can tell.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use super::accounts::{Right, Who};
use super::listen::{Answer, Cause, json as answer_json, reply, set};
use super::{Shared, locked, rights};

/// What the token service does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum TokenService {
    /// It works.
    #[default]
    Works,
    /// It closes the connection without an answer.
    Down,
    /// It works after this time.
    Slow(Duration),
    /// 500 with the fixed text that Harbor hides its own failures behind (src/lib/http/error.go).
    Failing,
    /// 200 with what is not JSON.
    Malformed,
    /// 200 with a body of 10 MiB.
    Huge,
}

/// What the token service says of a token's lifetime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ExpiresIn {
    /// The truth.
    #[default]
    True,
    /// Nothing.
    Missing,
    /// These seconds.
    Said(i64),
}

/// What a token says: whose it is, and what it allows.
#[derive(Clone)]
pub(super) struct Claims {
    /// The account; empty for an anonymous token.
    pub(super) subject: String,
    /// Projects and the rights in them: a token for one repository opens the project
    /// (src/common/security/v2token/context.go).
    pub(super) projects: Vec<(String, Vec<Right>)>,
}

/// The key, and all that was issued.
pub(super) struct Tokens {
    key: Mutex<hmac::Key>,
    issued: Mutex<Vec<String>>,
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self { key: Mutex::new(fresh_key()), issued: Mutex::default() }
    }

    pub(super) fn forget(&self) {
        *locked(&self.key) = fresh_key();
    }

    pub(super) fn issued(&self) -> Vec<String> {
        locked(&self.issued).clone()
    }

    /// The claims of a token that is ours and not over.
    pub(super) fn read(&self, shared: &Shared, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&locked(&self.key), signed.as_bytes(), &signature).ok()?;
        let (_, claims) = signed.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let leeway = shared.switches().token_leeway.unwrap_or(LEEWAY);
        if claims["exp"].as_u64()? + leeway.as_secs() < now() {
            return None;
        }
        let access = claims["access"].as_array()?.iter().filter(|one| one["type"] == "repository");
        let projects = access.filter_map(|one| {
            let project = one["name"].as_str()?.split('/').next()?.to_owned();
            let actions = one["actions"].as_array()?.iter().filter_map(|one| right(one.as_str()?));
            Some((project, actions.collect()))
        });
        let subject = claims["sub"].as_str()?.to_owned();
        Some(Claims { subject, projects: projects.collect() })
    }

    fn issue(&self, claims: &Value) -> String {
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = hmac::sign(&locked(&self.key), signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        locked(&self.issued).push(token.clone());
        token
    }
}

/// Answers `/service/token` (src/core/service/token/token.go): GET only, so a caller that tries
/// POST first learns to ask again.
pub(super) async fn answer(
    shared: &Shared,
    method: &str,
    query: &[(String, String)],
    who: &Who,
) -> Result<Answer, Cause> {
    if method != "GET" {
        return Ok(reply(405, "text/plain; charset=utf-8", "Method Not Allowed"));
    }
    match shared.switches().token_service {
        TokenService::Works => {}
        TokenService::Down => return Err("the token service is down".into()),
        TokenService::Slow(time) => tokio::time::sleep(time).await,
        TokenService::Failing => {
            return Ok(rights::refusal(500, "UNKNOWN", "internal server error"));
        }
        TokenService::Malformed => {
            return Ok(reply(200, "application/json; charset=utf-8", "{\"token\": \"ey"));
        }
        TokenService::Huge => {
            let body = json!({"token": "x".repeat(10 << 20), "expires_in": 1800});
            return Ok(answer_json(200, &body));
        }
    }
    let service = query.iter().find(|(name, _)| name == "service").map(|(_, value)| value.as_str());
    let service = service.unwrap_or_default();
    if service != SERVICE {
        let text = format!("Unable to handle service: {service}");
        return Ok(reply(400, "text/plain; charset=utf-8", text));
    }
    let scopes = query.iter().filter(|(name, _)| name == "scope");
    let scopes: Vec<_> = scopes.flat_map(|(_, value)| value.split(' ')).collect();
    // Without a scope it is a login, which nobody can do (creator.go).
    let subject = rights::name_of(who);
    if subject.is_empty() && scopes.is_empty() {
        return Ok(reply(401, "text/plain; charset=utf-8", ""));
    }
    Ok(token(shared, who, &subject, &scopes))
}

/// Issues a token for `scopes`. The actions asked for are replaced by all that the account may do
/// in the project; a scope that makes no sense gets none (creator.go, authutils.go).
fn token(shared: &Shared, who: &Who, subject: &str, scopes: &[&str]) -> Answer {
    let switches = shared.switches();
    let access: Vec<_> = scopes
        .iter()
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, _) = rest.rsplit_once(':')?;
            let actions = if kind == "repository" { actions(shared, who, name) } else { vec![] };
            Some(json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let lifetime = switches.token_lifetime.unwrap_or(LIFETIME).as_secs();
    let issued = now();
    let mut number = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut number).expect("chance");
    let token = shared.tokens.issue(&json!({
        "iss": "harbor-token-issuer",
        "sub": subject,
        "aud": [SERVICE],
        "exp": issued + lifetime,
        "nbf": issued,
        "iat": issued,
        "jti": URL_SAFE_NO_PAD.encode(number),
        "access": access,
    }));
    let mut body = json!({"token": token, "access_token": "", "issued_at": date(issued)});
    match switches.expires_in {
        ExpiresIn::True => body["expires_in"] = lifetime.into(),
        ExpiresIn::Missing => {}
        ExpiresIn::Said(seconds) => body["expires_in"] = seconds.into(),
    }
    let mut answer = answer_json(200, &body);
    set(&mut answer, "cache-control", "no-cache");
    answer
}

fn actions(shared: &Shared, who: &Who, repository: &str) -> Vec<&'static str> {
    let Some((project, _)) = repository.split_once('/') else {
        return Vec::new();
    };
    let mut actions: Vec<_> =
        [(Right::Pull, "pull"), (Right::Push, "push"), (Right::Delete, "delete")]
            .into_iter()
            .filter(|(right, _)| rights::may(shared, who, *right, project))
            .map(|(_, name)| name)
            .collect();
    if actions.len() == 3 {
        actions.push("*");
    }
    actions
}

fn right(action: &str) -> Option<Right> {
    match action {
        "pull" => Some(Right::Pull),
        "push" => Some(Right::Push),
        "delete" => Some(Right::Delete),
        _ => None,
    }
}

fn fresh_key() -> hmac::Key {
    hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).expect("a key")
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// `seconds` since 1970 as RFC 3339 writes them.
pub(super) fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in eras of 400 years, months counted from March.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, year) =
        if month < 10 { (month + 3, year + era * 400) } else { (month - 9, year + era * 400 + 1) };
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The one service that is still known (creator.go).
pub(super) const SERVICE: &str = "harbor-registry";

/// `token_expiration`'s default (src/lib/config/metadata).
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// `JwtLeeway` (src/common/const.go).
const LEEWAY: Duration = Duration::from_secs(60);
