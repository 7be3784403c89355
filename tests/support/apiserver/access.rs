//! Who asks, and what they may do: tokens, TokenReview, and RBAC from the stored objects.
//!
//! Tokens are JSON Web Tokens with the claims of a bound service account token (KEP-1205), signed
//! with a key of this server. Rights add up over the stored roles and bindings, as RBAC does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use super::store::Store;

/// Someone whose token is good.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    /// Values by key, as in `status.user.extra`.
    pub(super) extra: Value,
}

impl User {
    /// The member of `system:masters`, whom RBAC does not bind.
    pub(super) fn admin() -> Self {
        let groups = vec!["system:masters".to_owned(), "system:authenticated".to_owned()];
        Self { name: "kubernetes-admin".to_owned(), uid: String::new(), groups, extra: json!({}) }
    }
}

/// What is asked for: all texts as in `SubjectAccessReview.spec.resourceAttributes`.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    pub(super) verb: String,
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) subresource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Signs tokens and knows its own.
#[derive(Debug)]
pub(super) struct Signer {
    key: hmac::Key,
    issued: AtomicU64,
}

impl Signer {
    pub(super) fn new() -> Self {
        let random = ring::rand::SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random).expect("randomness");
        Self { key, issued: AtomicU64::new(0) }
    }

    /// A token for a stored service account, for `seconds`, bound to `pod` if one is given.
    pub(super) fn issue(
        &self,
        account: &Value,
        pod: Option<&Value>,
        audiences: &[String],
        seconds: u64,
    ) -> String {
        let (namespace, name) = (&account["metadata"]["namespace"], &account["metadata"]["name"]);
        let subject = format!(
            "system:serviceaccount:{}:{}",
            namespace.as_str().unwrap_or_default(),
            name.as_str().unwrap_or_default()
        );
        let issued = unix_now();
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let mut bound = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": account["metadata"]["uid"]},
        });
        if let Some(pod) = pod {
            bound["pod"] = json!({"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]});
        }
        let claims = json!({
            "aud": audiences, "exp": issued + seconds, "iat": issued, "nbf": issued,
            "iss": ISSUER, "jti": format!("{number:032x}"), "kubernetes.io": bound,
            "sub": subject,
        });
        // A real server signs with a private key; who presents a token cannot tell the difference.
        let header = json!({"alg": "RS256", "kid": "stand-in"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The claims of a token of ours whose time has not passed.
    fn claims(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        let claims = URL_SAFE_NO_PAD.decode(signed.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        (claims["exp"].as_u64()? > unix_now()).then_some(claims)
    }

    /// Whose token it is, and which of the `audiences` it is for. Without any, it must be for the
    /// server itself.
    pub(super) fn authenticate(
        &self,
        store: &Store,
        token: &str,
        audiences: &[String],
    ) -> Option<(User, Vec<String>)> {
        let claims = self.claims(token)?;
        let own = [API_AUDIENCE.to_owned()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        let has = |audience: &&String| {
            claims["aud"]
                .as_array()
                .is_some_and(|list| list.iter().any(|found| found == audience.as_str()))
        };
        let matched: Vec<String> = wanted.iter().filter(has).cloned().collect();
        if matched.is_empty() {
            return None;
        }
        let bound = &claims["kubernetes.io"];
        let namespace = bound["namespace"].as_str()?;
        let name = bound["serviceaccount"]["name"].as_str()?;
        let key = |resource: &str, name: &str| {
            (resource.to_owned(), namespace.to_owned(), name.to_owned())
        };
        let account = store.get(&key("serviceaccounts", name))?;
        if account["metadata"]["uid"] != bound["serviceaccount"]["uid"] {
            return None;
        }
        let mut extra = json!({
            "authentication.kubernetes.io/credential-id":
                [format!("JTI={}", claims["jti"].as_str().unwrap_or_default())],
        });
        if let Some(pod) = bound["pod"]["name"].as_str() {
            // A bound token ends with its Pod.
            let found = store.get(&key("pods", pod))?;
            if found["metadata"]["uid"] != bound["pod"]["uid"] {
                return None;
            }
            extra["authentication.kubernetes.io/pod-name"] = json!([pod]);
            extra["authentication.kubernetes.io/pod-uid"] = json!([bound["pod"]["uid"]]);
        }
        let user = User {
            name: claims["sub"].as_str()?.to_owned(),
            uid: bound["serviceaccount"]["uid"].as_str().unwrap_or_default().to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
            extra,
        };
        Some((user, matched))
    }
}

/// Whether RBAC lets the user do it.
pub(super) fn allowed(store: &Store, user: &str, groups: &[String], wish: &Wish) -> bool {
    if groups.iter().any(|group| group == "system:masters") {
        return true;
    }
    let granted = |bindings: &str, namespace: &str| {
        let resource = format!("{bindings}.rbac.authorization.k8s.io");
        store.list(&resource, namespace).any(|(key, binding)| {
            let here = !namespace.is_empty() || bindings == "clusterrolebindings";
            here && speaks_of(binding, &key.1, user, groups)
                && rules(store, binding, &key.1).iter().any(|rule| grants(rule, wish))
        })
    };
    let in_namespace = !wish.namespace.is_empty() && granted("rolebindings", &wish.namespace);
    in_namespace || granted("clusterrolebindings", "")
}

fn speaks_of(binding: &Value, own: &str, user: &str, groups: &[String]) -> bool {
    binding["subjects"].as_array().into_iter().flatten().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => name == user,
            Some("Group") => groups.iter().any(|group| group == name),
            Some("ServiceAccount") => {
                let namespace = subject["namespace"].as_str().unwrap_or(own);
                user == format!("system:serviceaccount:{namespace}:{name}")
            }
            _ => false,
        }
    })
}

/// The rules of the role that a binding names.
fn rules(store: &Store, binding: &Value, own: &str) -> Vec<Value> {
    let role = &binding["roleRef"];
    let (resource, namespace) = match role["kind"].as_str() {
        Some("Role") => ("roles", own),
        _ => ("clusterroles", ""),
    };
    let key = (
        format!("{resource}.rbac.authorization.k8s.io"),
        namespace.to_owned(),
        role["name"].as_str().unwrap_or_default().to_owned(),
    );
    store.get(&key).and_then(|role| role["rules"].as_array().cloned()).unwrap_or_default()
}

/// Whether a rule grants it (`rbac.RuleAllows` of k8s.io/kubernetes).
fn grants(rule: &Value, wish: &Wish) -> bool {
    let list = |field: &str| -> Vec<&str> {
        rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let has =
        |field: &str, word: &str| list(field).iter().any(|entry| *entry == "*" || *entry == word);
    let resource = match wish.subresource.as_str() {
        "" => wish.resource.clone(),
        subresource => format!("{}/{subresource}", wish.resource),
    };
    let wildcard = format!("*/{}", wish.subresource);
    let resources = list("resources");
    let resource_matches = has("resources", &resource)
        || !wish.subresource.is_empty() && resources.contains(&wildcard.as_str());
    let names = list("resourceNames");
    has("verbs", &wish.verb)
        && has("apiGroups", &wish.group)
        && resource_matches
        && (names.is_empty() || names.contains(&wish.name.as_str()))
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The audience of tokens for the API server itself.
pub(super) const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

const ISSUER: &str = API_AUDIENCE;
