//! What refers to a manifest: the docker-registry behind does not know, Harbor does.
//!
//! A repository and a digest in, an image index out (src/server/registry/referrers.go). Read from
//! the manifests that were really pushed: those whose `subject` is the one asked about.

use std::fs;

use serde_json::{Value, json};

use super::Shared;
use super::listen::{Answer, reply, set};
use super::rights::refusal;
use super::target::is_digest;

/// Answers a GET of referrers.
pub(super) fn answer(
    shared: &Shared,
    repository: &str,
    digest: &str,
    query: &[(String, String)],
) -> Answer {
    if !is_digest(digest) {
        let message = format!("unsupported digest {digest}: invalid checksum digest format");
        return refusal(400, "BAD_REQUEST", &message);
    }
    let kind = query.iter().find(|(name, _)| name == "artifactType").map(|(_, kind)| kind);
    let mut manifests = descriptors(shared, repository, digest);
    if let Some(kind) = kind {
        manifests.retain(|one| one["artifactType"] == kind.as_str());
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let mut answer = reply(200, INDEX, index.to_string());
    if kind.is_some() {
        set(&mut answer, "oci-filters-applied", "artifactType");
    }
    answer
}

fn descriptors(shared: &Shared, repository: &str, subject: &str) -> Vec<Value> {
    let place = shared.storage.repositories().join(repository).join("_manifests/revisions/sha256");
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let hex = entry.file_name().into_string().ok()?;
            let bytes = fs::read(shared.storage.blob("sha256", &hex)?).ok()?;
            let manifest: Value = serde_json::from_slice(&bytes).ok()?;
            if manifest["subject"]["digest"] != subject {
                return None;
            }
            let own = manifest["artifactType"].as_str();
            let kind = own.or_else(|| manifest["config"]["mediaType"].as_str());
            Some(json!({
                "mediaType": manifest["mediaType"],
                "digest": format!("sha256:{hex}"),
                "size": bytes.len(),
                "artifactType": kind,
            }))
        })
        .collect();
    found.sort_by_key(|one| one["digest"].to_string());
    found
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
