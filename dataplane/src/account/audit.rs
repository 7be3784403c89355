//! The audit's line: who pulled, pushed or deleted what through which connector, or was refused.
//!
//! A closed [`Record`] in, at most one event of the target `audit` out; docs/reference/audit.md is
//! its schema. Where nobody listens to that target it costs one comparison. Never in it: what the
//! record has not, which is tokens, credentials and queries.

use tracing::Level;

use super::Record;
use crate::counters::Route;
use crate::error::Kind;

/// Whether anybody listens.
pub(super) fn is_on() -> bool {
    tracing::enabled!(target: "audit", Level::INFO)
}

/// Writes the line of `record`, if it leaves one. `why` is the word of the error that ended it.
pub(super) fn write(record: &Record, why: &str) {
    if !is_on() {
        return;
    }
    let (Some((action, object)), Some(decision)) = (subject(record), decision(record)) else {
        return;
    };
    if !(moves_content(record) || decision != ALLOWED || is_refused_by_registry(record)) {
        return;
    }
    let (repository, _) = names(record);
    let (tag, digest) = tag_and_digest(record);
    tracing::info!(
        target: "audit",
        action,
        object,
        decision,
        why,
        caller = record.caller.as_ref().map_or("", |caller| &caller.user),
        pod = record.caller.as_ref().and_then(|caller| caller.pod.as_deref()).unwrap_or_default(),
        peer = %record.peer,
        connector = record.connector.as_ref().map_or("", |connector| connector.as_str()),
        host = record.host.as_deref().unwrap_or_default(),
        repository,
        tag,
        digest = &*digest.replace("%3A", ":").replace("%3a", ":"),
        method = record.method,
        status = record.status,
        registry_status = record.registry_status,
        bytes_up = record.bytes_up,
        bytes_down = record.bytes_down,
        duration_ms = super::millis(record.started.elapsed()),
        request_id = record.request_id.as_str(),
    );
}

const ALLOWED: &str = "allowed";

/// What was to be done, and to what. The method decides, as for Harbor itself
/// (src/server/middleware/v2auth/access.go: GET and HEAD pull, POST, PATCH and PUT push).
fn subject(record: &Record) -> Option<(&'static str, &'static str)> {
    let object = match record.route {
        Route::Manifest => "manifest",
        Route::Blob => "blob",
        // The request that ends an upload makes it a blob.
        Route::Upload if record.method == "PUT" || record.digest.is_some() => "blob",
        Route::Upload => "upload",
        Route::Tags => "tags",
        Route::Referrers => "referrers",
        Route::Connect => return Some(("tunnel", "host")),
        Route::Ping | Route::Token | Route::Api | Route::Unknown => return None,
    };
    let action = match record.method {
        "GET" | "HEAD" => "pull",
        "DELETE" => "delete",
        _ => "push",
    };
    Some((action, object))
}

/// What was decided about the caller. Nothing for a challenge, with which half of all clients
/// begin, and for what was wrong before anything was decided.
fn decision(record: &Record) -> Option<&'static str> {
    let kind = match record.end {
        Some(Err(error)) => Some(error.kind),
        _ => None,
    };
    match kind {
        Some(Kind::TokenMissing) => None,
        Some(Kind::TokenRejected | Kind::ListInvalid) => Some("unauthenticated"),
        Some(Kind::Denied | Kind::PolicyDenied(_) | Kind::HostDenied | Kind::HostForbidden) => {
            Some("denied")
        }
        _ if record.allowed_after.is_some() => Some(ALLOWED),
        Some(Kind::ReviewUnavailable | Kind::Overloaded) => Some("undecided"),
        _ => None,
    }
}

/// Whether content comes, goes or ends with such a request, when it is allowed. The others look
/// (HEAD, tags, referrers), prepare (the start of an upload) or give up.
fn moves_content(record: &Record) -> bool {
    match (record.route, record.method) {
        (Route::Manifest, "GET" | "PUT" | "DELETE") => true,
        (Route::Blob, "GET" | "DELETE") | (Route::Upload, "PATCH" | "PUT") => true,
        // A mount, or an upload in one request, after which the blob is there (distribution-spec
        // end-11, end-4b).
        (Route::Upload, "POST") => record.status == 201,
        // Of a tunnel that ends here each request has its own line.
        (Route::Connect, _) => record.connector.is_none(),
        _ => false,
    }
}

/// Whether the registry refused the connector, so that what the caller was about to do never came.
fn is_refused_by_registry(record: &Record) -> bool {
    let unsent = matches!(
        record.end,
        Some(Err(error)) if matches!(error.kind, Kind::CredentialRefused | Kind::PushAnonymous)
    );
    unsent || matches!(record.registry_status, 401 | 403)
}

/// The repository, and the reference as the caller wrote it.
fn names(record: &Record) -> (&str, &str) {
    record.asked.as_ref().map_or(("", ""), |asked| (asked.repository(), asked.reference()))
}

/// The tag and the digest, as far as they are known.
fn tag_and_digest(record: &Record) -> (&str, &str) {
    let (_, reference) = names(record);
    // No tag has a colon, nor a percent sign (distribution-spec, "Pulling manifests").
    if reference.contains([':', '%']) {
        ("", reference)
    } else {
        (reference, record.digest.as_deref().unwrap_or_default())
    }
}
