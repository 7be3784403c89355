//! Harbor's own API: which of its paths may pass, by the connector's policy.
//!
//! A path in, leave or refusal out. Under [`ApiPolicy::Read`] nothing passes that mints or reveals
//! a credential, or makes Harbor talk to somebody else.

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
    let path = path.strip_prefix(ROOT).ok_or(closed)?;
    match policy {
        ApiPolicy::Off => Err(closed),
        ApiPolicy::Full => Ok(()),
        ApiPolicy::Read if !matches!(method, Method::Get | Method::Head) => Err(beyond_reading),
        ApiPolicy::Read if is_reading(path) => Ok(()),
        ApiPolicy::Read => Err(beyond_reading),
    }
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
