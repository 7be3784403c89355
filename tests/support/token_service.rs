//! A token service of our own, for a docker-registry that takes nothing but tokens.
//!
//! Requests for tokens in, tokens signed with ES256 out (distribution "Token Authentication
//! Specification" and "Token Authentication Implementation"). The registry that checks them is the
//! real one; the service is ours because none is packaged. Anybody may pull from `library`; the
//! stories' robot may do everything.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::docker_registry::SERVICE;
use super::fake_registry::{Received, robots_authorization};
use super::{FakeRegistry, PASSWORD, answer, base64};

/// A running token service.
pub(crate) struct TokenService {
    requests: FakeRegistry,
    /// Under which its tokens are signed, PEM.
    pub(crate) certificate: String,
}

impl TokenService {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(vec!["tokens".to_owned()]);
        let certificate = parameters.expect("parameters").self_signed(&key).expect("a certificate");
        let chain = base64(certificate.der());
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.serialize_der(),
            &random,
        );
        let pair = pair.expect("a P-256 key");
        let requests = FakeRegistry::answering(move |request| {
            let Some(access) = granted(request) else {
                return answer(401, "Content-Type: application/json\r\n", b"{}");
            };
            let token = signed(&pair, &random, &chain, &access);
            let body = json!({"token": token, "expires_in": 300}).to_string();
            answer(200, "Content-Type: application/json\r\n", body.as_bytes())
        });
        Self { requests, certificate: certificate.pem() }
    }

    /// Where registries send those who want a token.
    pub(crate) fn realm(&self) -> String {
        format!("{}/token", self.requests.url())
    }

    /// The scopes of each request so far; empty for a login without scopes.
    pub(crate) fn asked(&self) -> Vec<Vec<String>> {
        self.requests.requests().iter().map(scopes).collect()
    }
}

/// The scopes of a request.
fn scopes(request: &Received) -> Vec<String> {
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let plain = |text: &str| text.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    query.split('&').filter_map(|pair| pair.strip_prefix("scope=")).map(plain).collect()
}

/// What the request's account may do of what it asks for; nothing when it may not log in.
fn granted(request: &Received) -> Option<Vec<Value>> {
    let robot = match request.field("authorization") {
        None => false,
        Some(value) if value == robots_authorization(PASSWORD) => true,
        Some(_) => return None,
    };
    let access = scopes(request).into_iter().map(|scope| {
        let parts: Vec<&str> = scope.split(':').collect();
        let [kind, name, actions] = parts[..] else { panic!("a scope of three parts: {scope}") };
        let may = |action: &&str| robot || (name.starts_with("library/") && *action == "pull");
        let actions: Vec<&str> = actions.split(',').filter(may).collect();
        json!({"type": kind, "name": name, "actions": actions})
    });
    Some(access.collect())
}

fn signed(pair: &EcdsaKeyPair, random: &SystemRandom, chain: &str, access: &[Value]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [chain]});
    let claims = json!({
        "iss": SERVICE, "sub": "robot", "aud": SERVICE, "jti": format!("{now}"),
        "exp": now + 300, "nbf": now - 10, "iat": now, "access": access,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = pair.sign(random, text.as_bytes()).expect("a signature");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}
