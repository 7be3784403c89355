//! The answer from manifests: token Secrets say who calls, roles and bindings what they may use.
//!
//! [`Objects`] in, a [`Table`] out, and verdicts from it: pure and in memory. Rights are evaluated
//! as the API server evaluates them for `get` on `connectors.connectors.alauda.io`
//! (Kubernetes RBAC: rules add up, nothing is denied by one). Tokens are kept as SHA-256 sums only.

mod rights;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dataplane::vocabulary::{Caller, ConnectorRef, Token, Verdict};
use ring::digest;

use self::rights::Rights;
use crate::compile::{Cause, Problem};
use crate::source::{Found, Named, Objects, SecretObject};

/// Who calls, and who may use what, at one moment.
#[derive(Debug, Default)]
pub struct Table {
    tokens: HashMap<[u8; digest::SHA256_OUTPUT_LEN], Account>,
    connectors: HashSet<ConnectorRef>,
    rights: Rights,
}

/// A service account that has a token.
#[derive(Debug)]
struct Account {
    named: Named,
    caller: Arc<Caller>,
    groups: [String; 3],
}

impl Table {
    /// The table of these objects. Only `connectors` can be used by anyone.
    pub fn new(
        objects: &Objects,
        connectors: impl IntoIterator<Item = ConnectorRef>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut tokens = HashMap::new();
        for found in objects.secrets.iter().filter(|found| is_token(found)) {
            if let Err(cause) = add(found, &mut tokens) {
                problems.push(Problem::at(found, cause));
            }
        }
        let rights = Rights::new(objects, problems);
        Self { tokens, connectors: connectors.into_iter().collect(), rights }
    }

    /// How many tokens are known.
    pub fn accounts(&self) -> usize {
        self.tokens.len()
    }

    /// The verdict on a token, and on its bearer's right to `connector` if one is named. A
    /// connector that does not exist is denied like one that may not be used.
    pub fn verdict(&self, token: &Token, connector: Option<&ConnectorRef>) -> Verdict {
        // Looking a sum up takes a time that says nothing about any token.
        let Some(account) = self.tokens.get(&sum(token.as_bytes())) else {
            return Verdict::Unauthenticated;
        };
        let allowed = connector.is_none_or(|connector| {
            self.connectors.contains(connector)
                && self.rights.allow(&account.caller.user, &account.groups, connector)
        });
        let caller = Arc::clone(&account.caller);
        if allowed { Verdict::Allowed(caller) } else { Verdict::Denied(caller) }
    }
}

fn is_token(found: &Found<SecretObject>) -> bool {
    found.object.defect.is_none()
        && found.object.secret_type == "kubernetes.io/service-account-token"
}

/// Adds the token of a Secret.
fn add(
    found: &Found<SecretObject>,
    tokens: &mut HashMap<[u8; digest::SHA256_OUTPUT_LEN], Account>,
) -> Result<(), Cause> {
    let annotations = found.object.metadata.annotations.as_ref();
    let name = annotations
        .and_then(|annotations| annotations.get("kubernetes.io/service-account.name"))
        .filter(|name| !name.is_empty())
        .ok_or(Cause::TokenNameless)?;
    let token = found.object.values.get("token").ok_or(Cause::TokenMissing)?;
    // A field value can hold neither, so such a token could never be presented.
    if token.is_empty() || token.iter().any(|byte| byte.is_ascii_whitespace()) {
        return Err(Cause::TokenMissing);
    }
    let namespace = &found.named.namespace;
    let caller =
        Caller { user: format!("system:serviceaccount:{namespace}:{name}").into(), pod: None };
    let account = Account {
        named: found.named.clone(),
        caller: Arc::new(caller),
        groups: [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
    };
    match tokens.entry(sum(token)) {
        Entry::Occupied(taken) if taken.get().caller != account.caller => {
            return Err(Cause::TokenShared(taken.get().named.clone()));
        }
        Entry::Occupied(_) => {}
        Entry::Vacant(place) => {
            place.insert(account);
        }
    }
    Ok(())
}

fn sum(token: &[u8]) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut sum = [0; digest::SHA256_OUTPUT_LEN];
    sum.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    sum
}

#[cfg(test)]
mod tests;
