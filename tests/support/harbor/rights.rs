//! Who may do what below `/v2`, and how a refusal is written.
//!
//! [`Who`] and a [`Target`] in, nothing or a refusal out. Every refusal is 401, whatever its
//! reason (src/server/middleware/v2auth/auth.go): no caller can tell a bad password from a missing
//! right or a missing project.

use hyper::header::{AUTHORIZATION, HOST};
use serde_json::json;

use super::accounts::{Kind, Right, Who};
use super::listen::{Answer, Refused, Request, json as answer_json, set};
use super::target::{Place, Target};
use super::token::SERVICE;
use super::{Shared, Visibility};

/// A refusal in Harbor's form (src/lib/http/error.go).
pub(super) fn refusal(status: u16, code: &str, message: &str) -> Answer {
    answer_json(status, &json!({"errors": [{"code": code, "message": message}]}))
}

/// The name that a token is issued to; empty for nobody.
pub(super) fn name_of(who: &Who) -> String {
    match who {
        Who::Nobody => String::new(),
        Who::Account(account) => account.name.clone(),
        Who::Bearer(claims) => claims.subject.clone(),
    }
}

/// Whether `project` is public; nothing when there is none of that name.
pub(super) fn visibility(shared: &Shared, project: &str) -> Option<Visibility> {
    let mut known = shared.settings.projects.iter();
    known.find(|(name, _)| *name == project).map(|(_, visibility)| *visibility)
}

/// Whether `who` may do `right` in `project`. Anybody may pull from a public one; a robot that may
/// push may pull (src/common/security/robot/context.go); a token allows what it says and no more.
pub(super) fn may(shared: &Shared, who: &Who, right: Right, project: &str) -> bool {
    let Some(visibility) = visibility(shared, project) else {
        return false;
    };
    let is_open = visibility == Visibility::Public && right == Right::Pull;
    let granted = |list: &[(String, Vec<Right>)]| {
        let mut rights = list.iter().filter(|(name, _)| name == project).flat_map(|(_, all)| all);
        rights.any(|one| *one == right || (*one == Right::Push && right == Right::Pull))
    };
    match who {
        Who::Nobody => is_open,
        Who::Account(account) if account.kind == Kind::Administrator => true,
        Who::Account(account) => is_open || granted(&account.rights),
        Who::Bearer(claims) => {
            let mut all = claims.projects.iter().filter(|(name, _)| name == project);
            all.any(|(_, rights)| rights.contains(&right))
        }
    }
}

/// Refuses what `who` may not do.
pub(super) fn check(
    shared: &Shared,
    who: &Who,
    request: &Request,
    target: &Target,
) -> Result<(), Refused> {
    let path = request.uri().path();
    let challenged = |challenge: &str, message: &str| {
        // Harbor joins a message to its cause, and here both are the same text.
        let mut answer = refusal(401, "UNAUTHORIZED", &format!("{message}: {message}"));
        set(&mut answer, "docker-distribution-api-version", "registry/2.0");
        set(&mut answer, "www-authenticate", challenge);
        Err(Box::new(answer))
    };
    let needs = match &target.place {
        Place::Base if name_of(who).is_empty() => {
            return challenged(&challenge(shared, request, &[]), "unauthorized");
        }
        Place::Base => return Ok(()),
        Place::Catalog => {
            let is_let = matches!(who, Who::Account(one) if one.kind == Kind::Administrator);
            // The catalogue has no scope: its challenge is always Basic.
            return if is_let { Ok(()) } else { challenged(BASIC, "unauthorized to list catalog") };
        }
        Place::Elsewhere => {
            let message = format!("un-recognized request: {} {path}", request.method());
            return challenged("", &message);
        }
        _ => needs(request, target),
    };
    if needs.is_empty() {
        return challenged("", &format!("un-recognized request: {} {path}", request.method()));
    }
    let is_reading = matches!(request.method().as_str(), "GET" | "HEAD");
    if is_reading && !request.headers().contains_key(AUTHORIZATION) {
        // Also for public projects, so that the callers of the day learn where tokens are (#11271).
        let message = "authorize header needed to send HEAD to repository";
        return challenged(&challenge(shared, request, &needs), message);
    }
    for (repository, right) in &needs {
        let project = repository.split('/').next().unwrap_or_default();
        if visibility(shared, project).is_none() {
            return challenged("", &format!("project {project} not found"));
        }
        if !may(shared, who, *right, project) {
            let action = format!("{right:?}").to_lowercase();
            let message =
                format!("unauthorized to access repository: {repository}, action: {action}");
            return challenged(&challenge(shared, request, &needs), &message);
        }
    }
    Ok(())
}

/// The repositories a request touches and the right it needs there: a mount also pulls from its
/// source (src/server/middleware/v2auth/access.go).
fn needs(request: &Request, target: &Target) -> Vec<(String, Right)> {
    let right = match request.method().as_str() {
        "GET" | "HEAD" => Right::Pull,
        "POST" | "PUT" | "PATCH" => Right::Push,
        "DELETE" => Right::Delete,
        _ => return Vec::new(),
    };
    let mut needs = vec![(target.repository.clone(), right)];
    if let (Right::Push, "POST", Some(from)) = (right, request.method().as_str(), &target.from) {
        needs.push((from.clone(), Right::Pull));
    }
    needs
}

/// What to come back with. Whoever had an `Authorization` is told to use Basic; everybody else is
/// sent to the token service on the host that they asked (since v2.14, #21898).
fn challenge(shared: &Shared, request: &Request, needs: &[(String, Right)]) -> String {
    if request.headers().contains_key(AUTHORIZATION) {
        return BASIC.to_owned();
    }
    let scheme = if shared.settings.tls { "https" } else { "http" };
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let realm = shared.switches().realm;
    let realm = realm.unwrap_or_else(|| format!("{scheme}://{host}/service/token"));
    let scopes = needs.iter().map(|(repository, right)| {
        let actions = match right {
            Right::Pull => "pull",
            Right::Push => "pull,push",
            Right::Delete => "delete",
        };
        format!("repository:{repository}:{actions}")
    });
    let scopes: Vec<_> = scopes.collect();
    let base = format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\"");
    if scopes.is_empty() { base } else { format!("{base},scope=\"{}\"", scopes.join(" ")) }
}

/// The challenge of last resort.
const BASIC: &str = "Basic realm=\"harbor\"";
