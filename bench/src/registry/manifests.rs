//! Manifests: put, read, deleted; and what lists them: tags, referrers, the catalogue.
//!
//! A request in, a [`Reply`] out. Bytes are kept as they came. Sources: OCI distribution 1.1
//! "Pushing manifests", "Listing tags", "Listing referrers"; deletion by tag as Harbor refuses it.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Shared;
use super::http::{Head, Incoming, Reply};
use super::route::is_tag;
use super::store::{Manifest, Repository, algorithm_of, digest_of};

/// Answers GET, HEAD, PUT and DELETE of a manifest by tag or digest.
///
/// # Errors
/// When the connection breaks while a manifest is received.
pub(crate) fn answer(
    shared: &Shared,
    head: &Head,
    incoming: &mut Incoming<'_>,
    name: &str,
    reference: &str,
) -> io::Result<Reply> {
    Ok(match head.method.as_str() {
        "GET" | "HEAD" => read(shared, head, name, reference),
        "PUT" => match incoming.all(MANIFEST_BYTES_MAX)? {
            Some(bytes) => put(shared, head, name, reference, bytes),
            None => Reply::error(413, "SIZE_INVALID", "a manifest has at most 4 MiB"),
        },
        "DELETE" => delete(shared, name, reference),
        _ => Reply::error(405, "UNSUPPORTED", "a manifest knows GET, HEAD, PUT and DELETE"),
    })
}

fn read(shared: &Shared, head: &Head, name: &str, reference: &str) -> Reply {
    let repositories = shared.store.repositories();
    let found = repositories.get(name).and_then(|repository| {
        let digest = repository.tags.get(reference).map_or(reference, String::as_str);
        Some((digest.to_owned(), repository.manifests.get(digest)?.clone()))
    });
    let Some((digest, manifest)) = found else {
        return unknown();
    };
    let etag = format!("\"{digest}\"");
    if head.fields.first("if-none-match") == Some(etag.as_str()) {
        return Reply::empty(304).with("Etag", etag);
    }
    Reply::bytes(200, &manifest.kind, manifest.bytes.to_vec())
        .with("Docker-Content-Digest", digest)
        .with("Etag", etag)
}

fn put(shared: &Shared, head: &Head, name: &str, reference: &str, bytes: Vec<u8>) -> Reply {
    let by_digest = reference.contains(':');
    if by_digest && algorithm_of(reference).is_none() || !by_digest && !is_tag(reference) {
        return Reply::error(400, "MANIFEST_INVALID", "neither a tag nor a known digest");
    }
    let digest = digest_of(&bytes, reference);
    if by_digest && digest != reference {
        return Reply::error(400, "DIGEST_INVALID", "the manifest has another digest");
    }
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
        return Reply::error(400, "MANIFEST_INVALID", "not JSON");
    };
    let inside = value["mediaType"].as_str();
    let kind = head.fields.first("content-type").or(inside).unwrap_or_default().to_owned();
    if kind.is_empty() || inside.is_some_and(|inside| inside != kind) {
        return Reply::error(400, "MANIFEST_INVALID", "media type is missing or contradicted");
    }
    let mut repositories = shared.store.repositories();
    let repository = repositories.entry(name.to_owned()).or_default();
    if let Some(missing) = missing_in(repository, &value) {
        return Reply::error(400, "MANIFEST_BLOB_UNKNOWN", &format!("{missing} is not here"));
    }
    repository.manifests.insert(digest.clone(), Manifest { kind, bytes: Arc::new(bytes) });
    if !by_digest {
        repository.tags.insert(reference.to_owned(), digest.clone());
    }
    let reply = Reply::empty(201)
        .with("Location", head.url(&format!("/v2/{name}/manifests/{digest}")))
        .with("Docker-Content-Digest", digest);
    match value["subject"]["digest"].as_str() {
        Some(subject) => reply.with("OCI-Subject", subject),
        None => reply,
    }
}

/// The first thing a manifest refers to that its repository does not hold. Layers that live
/// elsewhere by their own account need not be here, nor need the subject.
fn missing_in(repository: &Repository, manifest: &Value) -> Option<String> {
    let listed = |key: &str| manifest[key].as_array().into_iter().flatten();
    let elsewhere = |layer: &Value| {
        let kind = layer["mediaType"].as_str().unwrap_or_default();
        kind.contains("nondistributable") || kind.contains("foreign")
    };
    let digest = |descriptor: &Value| descriptor["digest"].as_str().map(str::to_owned);
    let config = Some(&manifest["config"]).filter(|config| config.is_object());
    let layers = listed("layers").filter(|layer| !elsewhere(layer));
    let blob = config.into_iter().chain(layers).filter_map(digest);
    let child = listed("manifests").filter_map(digest);
    let mut absent = blob
        .filter(|digest| !repository.blobs.contains_key(digest))
        .chain(child.filter(|digest| !repository.manifests.contains_key(digest)));
    absent.next()
}

fn delete(shared: &Shared, name: &str, reference: &str) -> Reply {
    if !reference.contains(':') {
        return Reply::error(400, "UNSUPPORTED", "delete a manifest by its digest");
    }
    let mut repositories = shared.store.repositories();
    let Some(repository) = repositories.get_mut(name) else {
        return unknown();
    };
    if repository.manifests.remove(reference).is_none() {
        return unknown();
    }
    repository.tags.retain(|_, digest| digest != reference);
    Reply::empty(202)
}

/// Answers `GET …/tags/list`, a page at a time where `n` asks for it.
pub(crate) fn tags(shared: &Shared, head: &Head, name: &str) -> Reply {
    let repositories = shared.store.repositories();
    let Some(repository) = repositories.get(name) else {
        return Reply::error(404, "NAME_UNKNOWN", "there is no such repository");
    };
    let (tags, link) = page(head, repository.tags.keys(), &format!("/v2/{name}/tags/list"));
    linked(Reply::json(200, &json!({ "name": name, "tags": tags })), link)
}

/// Answers `GET /v2/_catalog`, a page at a time where `n` asks for it.
pub(crate) fn catalogue(shared: &Shared, head: &Head) -> Reply {
    let repositories = shared.store.repositories();
    let (names, link) = page(head, repositories.keys(), "/v2/_catalog");
    linked(Reply::json(200, &json!({ "repositories": names })), link)
}

/// The names after `last`, at most `n`, and the URL of the next page if there is one.
fn page<'a>(
    head: &Head,
    names: impl Iterator<Item = &'a String>,
    path: &str,
) -> (Vec<String>, Option<String>) {
    let last = head.parameter("last").unwrap_or_default();
    let most = head.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let mut names = names.filter(|name| name.as_str() > last);
    let page: Vec<String> = names.by_ref().take(most).cloned().collect();
    let more = names.next().is_some();
    let end = page.last().filter(|_| more);
    let link = end.map(|end| {
        let end = end.replace('/', "%2F");
        format!("<{path}?last={end}&n={most}>; rel=\"next\"")
    });
    (page, link)
}

fn linked(reply: Reply, link: Option<String>) -> Reply {
    match link {
        Some(link) => reply.with("Link", link),
        None => reply,
    }
}

/// Answers `GET …/referrers/<digest>`: an index of the manifests whose subject it is.
pub(crate) fn referrers(shared: &Shared, head: &Head, name: &str, subject: &str) -> Reply {
    if algorithm_of(subject).is_none() {
        return Reply::error(400, "DIGEST_INVALID", "not a digest");
    }
    let wanted = head.parameter("artifactType");
    let repositories = shared.store.repositories();
    let manifests = repositories.get(name).into_iter().flat_map(|found| &found.manifests);
    let descriptors: Vec<Value> = manifests
        .filter_map(|(digest, manifest)| referrer(digest, manifest, subject))
        .filter(|descriptor| wanted.is_none_or(|wanted| descriptor["artifactType"] == wanted))
        .collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX_KIND,
        "manifests": descriptors,
    });
    let reply = Reply::bytes(200, INDEX_KIND, index.to_string().into_bytes());
    if wanted.is_some() { reply.with("OCI-Filters-Applied", "artifactType") } else { reply }
}

fn referrer(digest: &str, manifest: &Manifest, subject: &str) -> Option<Value> {
    let value = serde_json::from_slice::<Value>(&manifest.bytes).ok()?;
    if value["subject"]["digest"].as_str() != Some(subject) {
        return None;
    }
    let mut descriptor = json!({
        "mediaType": manifest.kind,
        "digest": digest,
        "size": manifest.bytes.len(),
    });
    let artifact = value["artifactType"].as_str().or(value["config"]["mediaType"].as_str());
    if let Some(artifact) = artifact {
        descriptor["artifactType"] = artifact.into();
    }
    if value["annotations"].is_object() {
        descriptor["annotations"] = value["annotations"].clone();
    }
    Some(descriptor)
}

fn unknown() -> Reply {
    Reply::error(404, "MANIFEST_UNKNOWN", "there is no such manifest in this repository")
}

const INDEX_KIND: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_BYTES_MAX: usize = 4 << 20;
