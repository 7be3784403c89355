//! Harbor's own API: which of its paths may pass, by the connector's policy.
//!
//! A path in, leave or refusal out. Under [`ApiPolicy::Read`] nothing passes that mints or reveals
//! a credential, or makes Harbor talk to somebody else. Under [`ApiPolicy::Full`] the connector's
//! owner has chosen that it may; what makes sessions (`/c/…`) stands outside of the API and never
//! passes, nor do the settings that Harbor's parts read from one another.

use crate::error::Kind;
use crate::parse::Method;
use crate::vocabulary::ApiPolicy;

/// Under which path Harbor serves it.
pub(crate) const ROOT: &str = "/api/v2.0/";

/// Whether a request with this method and path, which begins with [`ROOT`], passes.
pub(crate) fn api_permits(policy: ApiPolicy, method: Method, path: &str) -> Result<(), Kind> {
    let closed = Kind::PolicyDenied(
        "this connector does not pass Harbor's API on: set the class parameter api to read or full",
    );
    let beyond_reading = Kind::PolicyDenied(
        "this part of Harbor's API passes only where the class parameter api is full",
    );
    let never = Kind::PolicyDenied("this part of Harbor's API is for Harbor's own parts");
    let path = path.strip_prefix(ROOT).ok_or(closed)?;
    match policy {
        ApiPolicy::Off => Err(closed),
        ApiPolicy::Full if is_internal(path) => Err(never),
        ApiPolicy::Full => Ok(()),
        ApiPolicy::Read if !matches!(method, Method::Get | Method::Head) => Err(beyond_reading),
        ApiPolicy::Read if is_reading(path) => Ok(()),
        ApiPolicy::Read => Err(beyond_reading),
    }
}

/// Whether an answer to this path, which begins with [`ROOT`], shows accounts: of an OIDC user with
/// `oidc_user_meta.secret`, which logs that user in (src/server/v2.0/handler/model/user.go).
pub(crate) fn shows_users(path: &str) -> bool {
    let rest = path.strip_prefix(ROOT).and_then(|path| path.strip_prefix("users"));
    // Deeper ones show no account, and lose nothing by being looked through.
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Settings with every secret in clear, that Harbor's own parts read (`internalconfig`).
fn is_internal(path: &str) -> bool {
    path.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case("internalconfig"))
}

/// Projects and what is stored in them, labels, and how the system is.
fn is_reading(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    let Some((first, rest)) = segments.split_first() else {
        return false;
    };
    match (*first, rest) {
        ("ping" | "health" | "systeminfo" | "projects" | "repositories" | "labels", []) => true,
        ("labels" | "projects", [_]) => true,
        ("projects", [_, "summary" | "artifacts" | "repositories"]) => true,
        ("projects", [_, "repositories", _]) => true,
        ("projects", [_, "repositories", _, "artifacts"]) => true,
        ("projects", [_, "repositories", _, "artifacts", _]) => true,
        ("projects", [_, "repositories", _, "artifacts", _, part]) => {
            matches!(*part, "tags" | "labels" | "accessories")
        }
        ("projects", [_, "repositories", _, "artifacts", _, "additions", _]) => true,
        _ => false,
    }
}

/// Checks where percent signs stand in the path after [`ROOT`]: the slash of a nested repository
/// right after `repositories`, a digest's colon right after `artifacts`.
pub(super) fn check_path(path: &str) -> Result<(), Kind> {
    let mut before = "";
    for segment in path.split('/') {
        let slash = segment.contains("%252F") || segment.contains("%252f");
        let colon = segment.contains("%3A") || segment.contains("%3a");
        if segment.is_empty()
            || (slash && before != "repositories")
            || (colon && before != "artifacts")
        {
            return Err(Kind::NameInvalid("the path is not one of Harbor's API"));
        }
        before = segment;
    }
    Ok(())
}
