//! One image, pushed and pulled the way containerd does it, and every byte of it compared.
//!
//! A [`Caller`] and a [`Layer`] in, digests and durations out. Whether a proxy or a registry
//! answers cannot be told from here, and need not be.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ring::digest::{Context as Hash, SHA256};
use serde_json::{Value, json};

use super::progress::Progress;
use crate::caller::{Answer, Caller, Content};
use crate::memory::{self, Noise, Pages};
use crate::registry::store::{digest_of, spelled};

/// Bytes that look random, in a file without a name, hashed while they were made.
pub(crate) struct Layer {
    file: File,
    /// How many bytes.
    pub(crate) length: u64,
    /// Their digest.
    pub(crate) digest: String,
}

impl Layer {
    /// `length` bytes, the same for the same `seed`.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn generate(length: u64, seed: u64) -> io::Result<Self> {
        let mut progress = Progress::new("making a layer", length);
        let mut file = memory::file("layer")?;
        let mut noise = Noise::new(seed);
        let mut hash = Hash::new(&SHA256);
        let mut pages = Pages::new(PIECE_BYTES);
        let mut left = length;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let piece = &mut pages.bytes()[..count];
            noise.fill(piece);
            hash.update(piece);
            file.write_all(piece)?;
            left -= count as u64;
            progress.add(count as u64);
        }
        progress.finish();
        Ok(Self { file, length, digest: spelled("sha256", hash.finish().as_ref()) })
    }
}

/// Where an image goes to and comes from.
pub(crate) struct Place<'a> {
    /// Whom to ask.
    pub(crate) address: std::net::SocketAddr,
    /// The repository with all that precedes it: `/v2/…/team/app`.
    pub(crate) path: &'a str,
    /// The tag.
    pub(crate) tag: &'a str,
}

/// An image that was pushed.
pub(crate) struct Pushed {
    config: Vec<u8>,
    manifest: Vec<u8>,
    /// The digest of the manifest.
    pub(crate) manifest_digest: String,
    /// How long the layer took.
    pub(crate) layer_took: Duration,
}

/// What was found when an image was pulled.
pub(crate) struct Pulled {
    /// The digest of the layer's bytes as they arrived.
    pub(crate) layer_digest: String,
    /// The digest of the manifest's bytes as they arrived.
    pub(crate) manifest_digest: String,
    /// How long the layer took.
    pub(crate) layer_took: Duration,
}

/// Pushes `layer`, a config and a manifest. Each blob is one POST and one PUT with the whole body
/// and its Content-Length, which is what containerd and BuildKit send.
///
/// # Errors
/// Whenever an answer is not the one the specification asks for.
pub(crate) fn push(
    caller: &mut Caller,
    place: &Place<'_>,
    layer: &Layer,
) -> anyhow::Result<Pushed> {
    let mut progress = Progress::new("pushing", layer.length);
    let started = Instant::now();
    let content = Content::File(&layer.file, layer.length);
    push_blob(caller, place, &layer.digest, &content, &mut |count| progress.add(count))?;
    let layer_took = started.elapsed();
    progress.finish();

    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    });
    let config = config.to_string().into_bytes();
    let octets = Content::Bytes("application/octet-stream", &config);
    push_blob(caller, place, &digest_of(&config, ""), &octets, &mut |_| {})?;

    let manifest = manifest_of(&config, layer).to_string().into_bytes();
    let target = format!("{}/manifests/{}", place.path, place.tag);
    let content = Content::Bytes(MANIFEST_KIND, &manifest);
    let (answer, body) = caller.ask("PUT", &target, &content, &mut |_| {})?;
    expect(&answer, &body, 201, "PUT manifest")?;
    let manifest_digest = digest_of(&manifest, "");
    same_digest(&answer, &manifest_digest)?;
    Ok(Pushed { config, manifest, manifest_digest, layer_took })
}

fn push_blob(
    caller: &mut Caller,
    place: &Place<'_>,
    digest: &str,
    content: &Content<'_>,
    sent: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let target = format!("{}/blobs/uploads/", place.path);
    let (answer, body) = caller.ask("POST", &target, &Content::Empty, &mut |_| {})?;
    expect(&answer, &body, 202, "POST upload")?;
    let location = answer.fields.first("location").context("an upload without Location")?;
    let own = format!("http://{}", place.address);
    let location = location.strip_prefix(&own).unwrap_or(location);
    ensure!(location.starts_with(place.path), "the upload's Location leads away: {location}");
    let joint = if location.contains('?') { '&' } else { '?' };
    let target = format!("{location}{joint}digest={}", digest.replace(':', "%3A"));
    let (answer, body) = caller.ask("PUT", &target, content, sent).context("PUT blob")?;
    expect(&answer, &body, 201, "PUT blob")?;
    same_digest(&answer, digest)
}

/// Pulls what was pushed: the manifest by its tag, then what it names.
///
/// # Errors
/// Whenever an answer is not the one the specification asks for, or a byte differs.
pub(crate) fn pull(
    caller: &mut Caller,
    place: &Place<'_>,
    layer: &Layer,
    pushed: &Pushed,
) -> anyhow::Result<Pulled> {
    let target = format!("{}/manifests/{}", place.path, place.tag);
    let (answer, manifest) = caller.ask("GET", &target, &Content::Empty, &mut |_| {})?;
    expect(&answer, &manifest, 200, "GET manifest")?;
    ensure!(manifest == pushed.manifest, "the manifest came back changed");
    let value: Value = serde_json::from_slice(&manifest)?;
    let digest_at = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let config = digest_at("/config/digest").context("a manifest without config")?;
    let wanted = digest_at("/layers/0/digest").context("a manifest without layer")?;

    let target = format!("{}/blobs/{config}", place.path);
    let (answer, config) = caller.ask("GET", &target, &Content::Empty, &mut |_| {})?;
    expect(&answer, &config, 200, "GET config")?;
    ensure!(config == pushed.config, "the config came back changed");

    let mut progress = Progress::new("pulling", layer.length);
    let mut hash = Hash::new(&SHA256);
    let mut arrived = 0;
    let started = Instant::now();
    let answer = caller.stream(&format!("{}/blobs/{wanted}", place.path), &mut |piece| {
        hash.update(piece);
        arrived += piece.len() as u64;
        progress.add(piece.len() as u64);
        Ok(())
    })?;
    let layer_took = started.elapsed();
    progress.finish();
    expect(&answer, b"", 200, "GET layer")?;
    let layer_digest = spelled("sha256", hash.finish().as_ref());
    ensure!(arrived == layer.length, "{arrived} bytes of {} arrived", layer.length);
    ensure!(layer_digest == layer.digest, "the layer came back as {layer_digest}");
    let manifest_digest = digest_of(&manifest, "");
    Ok(Pulled { layer_digest, manifest_digest, layer_took })
}

fn manifest_of(config: &[u8], layer: &Layer) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_KIND,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config, ""),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.digest,
            "size": layer.length,
        }],
    })
}

fn expect(answer: &Answer, body: &[u8], status: u16, what: &str) -> anyhow::Result<()> {
    if answer.status != status {
        bail!("{what}: answered {} {}", answer.status, said(body));
    }
    Ok(())
}

fn same_digest(answer: &Answer, digest: &str) -> anyhow::Result<()> {
    let theirs = answer.fields.first("docker-content-digest").unwrap_or("no digest");
    ensure!(theirs == digest, "sent {digest}, but the registry took it for {theirs}");
    Ok(())
}

/// Code and message of an OCI error body, on one line.
pub(crate) fn said(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| value["errors"][0][key].as_str().unwrap_or_default().to_owned();
    let line = format!("{}: {}", text("code"), text("message"));
    line.chars().filter(|letter| !letter.is_control()).take(SAID_MAX).collect()
}

const MANIFEST_KIND: &str = "application/vnd.oci.image.manifest.v1+json";
const PIECE_BYTES: usize = 1 << 20;
const SAID_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Registry, Settings};

    #[test]
    fn an_image_goes_straight_to_the_registry_and_comes_back_the_same() {
        let registry = Registry::start(Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            login: Some(("robot$demo".to_owned(), "right".to_owned())),
            discard: false,
            log_accounts: false,
            markers: vec!["pod-token".to_owned()],
        })
        .unwrap();
        let layer = Layer::generate((3 << 20) + 17, 1).unwrap();
        let place = Place { address: registry.address(), path: "/v2/team/app", tag: "demo" };
        let mut caller = Caller::new(registry.address(), Some(("robot$demo", "right")));

        let pushed = push(&mut caller, &place, &layer).unwrap();
        let pulled = pull(&mut caller, &place, &layer, &pushed).unwrap();

        assert_eq!(pulled.layer_digest, layer.digest);
        let seen = registry.seen();
        assert_eq!(seen.users["robot$demo"], seen.requests);
        assert_eq!((seen.refused, seen.foreign, seen.marked), (0, 0, 0));
    }

    #[test]
    fn a_store_that_lies_about_the_bytes_is_found_out() {
        let registry = Registry::start(Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            login: None,
            discard: true,
            log_accounts: false,
            markers: Vec::new(),
        })
        .unwrap();
        let layer = Layer::generate(1 << 20, 1).unwrap();
        let place = Place { address: registry.address(), path: "/v2/team/app", tag: "demo" };
        let mut caller = Caller::new(registry.address(), None);

        let pushed = push(&mut caller, &place, &layer).unwrap();

        assert!(pull(&mut caller, &place, &layer, &pushed).is_err());
    }
}
