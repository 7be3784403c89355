//! What Harbor refuses although the account has the right: read-only mode, quotas, immutable tags,
//! proxy caches, too many requests.
//!
//! A request in, nothing or Harbor's own refusal out.

use std::collections::HashMap;
use std::sync::Mutex;

use hyper::header::CONTENT_LENGTH;

use super::listen::{Refused, Request, set};
use super::rights::refusal;
use super::target::{Place, Target, is_digest};
use super::{Shared, locked};

/// What was uploaded: per upload the bytes that PATCH answers spoke of, per project the bytes
/// charged.
#[derive(Default)]
pub(super) struct Uploads(Mutex<(HashMap<String, u64>, HashMap<String, u64>)>);

impl Uploads {
    /// Remembers how far an upload has come, from the `Range` of a PATCH's answer
    /// (src/server/middleware/blob/patch_blob_upload.go).
    pub(super) fn has_come_to(&self, upload: &str, range: &str) {
        let last = range.rsplit_once('-').and_then(|(_, last)| last.parse::<u64>().ok());
        if let Some(last) = last {
            locked(&self.0).0.insert(upload.to_owned(), last + 1);
        }
    }

    fn size_of(&self, upload: &str) -> u64 {
        locked(&self.0).0.get(upload).copied().unwrap_or(0)
    }

    /// Charges `size` to `project`, or says what is used when that is too much.
    fn charge(&self, project: &str, size: u64, most: u64) -> Result<(), u64> {
        let mut held = locked(&self.0);
        let used = held.1.entry(project.to_owned()).or_default();
        if *used + size > most {
            return Err(*used);
        }
        *used += size;
        Ok(())
    }
}

/// Refuses what would modify something while nothing may be (src/server/middleware/readonly and
/// the exceptions in src/core/middlewares).
pub(super) fn read_only(shared: &Shared, request: &Request, path: &str) -> Result<(), Refused> {
    let is_safe = matches!(request.method().as_str(), "GET" | "HEAD" | "OPTIONS");
    let is_excused = path == "/service/token" || path == "/c/login" || path == "/api/v2.0/ping";
    if is_safe || is_excused || !shared.switches().read_only {
        return Ok(());
    }
    let message = "The system is in read only mode. Any modification is prohibited.";
    Err(Box::new(refusal(403, "DENIED", message)))
}

/// Refuses what the project's rules forbid, before a byte of a body is read.
pub(super) fn check(shared: &Shared, request: &Request, target: &Target) -> Result<(), Refused> {
    let switches = shared.switches();
    let project = target.repository.split('/').next().unwrap_or_default();
    let method = request.method().as_str();
    if let Some(seconds) = switches.too_many {
        let mut answer = refusal(429, "TOO_MANY_REQUEST", "too many requests to upstream registry");
        set(&mut answer, "retry-after", &seconds.to_string());
        return Err(Box::new(answer));
    }
    let begins = method == "POST" && matches!(target.place, Place::Upload(_));
    let tags = method == "PUT" && matches!(target.place, Place::Manifest(_));
    if (begins || tags) && switches.proxy_caches.iter().any(|cache| cache == project) {
        // src/server/middleware/repoproxy/proxy.go.
        let message = format!("can not push artifact to a proxy project: {project}");
        return Err(Box::new(refusal(403, "DENIED", &message)));
    }
    if let (true, Place::Manifest(tag)) = (tags, &target.place) {
        immutable(shared, &target.repository, tag, &switches.immutable)?;
    }
    let Some(most) = switches.quotas.get(project) else {
        return Ok(());
    };
    let size = match &target.place {
        Place::Upload(name) if method == "PUT" => upload_size(shared, request, name),
        Place::Manifest(_) if tags => length(request),
        _ => 0,
    };
    shared.uploads.charge(project, size, *most).map_err(|used| {
        // src/pkg/quota/errors.go.
        let message = format!(
            "adding {} of storage resource, which when updated to current usage of {} \
             will exceed the configured upper limit of {}.",
            mebibytes(size),
            mebibytes(used),
            mebibytes(*most)
        );
        Box::new(refusal(403, "DENIED", &message))
    })
}

/// A tag that exists and is immutable stays (src/server/middleware/immutable/pushmf.go).
fn immutable(
    shared: &Shared,
    repository: &str,
    tag: &str,
    immutable: &[String],
) -> Result<(), Refused> {
    let is_immutable = immutable.iter().any(|one| *one == format!("{repository}:{tag}"));
    if is_digest(tag) || !is_immutable || !shared.storage.has_tag(repository, tag) {
        return Ok(());
    }
    let (_, name) = repository.split_once('/').unwrap_or_default();
    let message =
        format!("Failed to process request due to '{name}:{tag}' configured as immutable.");
    Err(Box::new(refusal(412, "PRECONDITION", &message)))
}

/// What a PUT that ends an upload is charged with: its own `Content-Length`, or else what the
/// PATCHes came to. A PUT whose length a proxy took away is charged nothing
/// (src/server/middleware/quota/put_blob_upload.go).
fn upload_size(shared: &Shared, request: &Request, upload: &str) -> u64 {
    match length(request) {
        0 => shared.uploads.size_of(upload),
        length => length,
    }
}

fn length(request: &Request) -> u64 {
    let value = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn mebibytes(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, (bytes % (1 << 20) * 10) >> 20)
}
