//! The object storage that blobs are pulled from after a 307: a host of its own, with addresses
//! that are themselves the credential.
//!
//! A signed GET or HEAD in, an object or a range of it out (docker/distribution,
//! registry/storage/driver/s3-aws and registry/storage/blobserver.go). The objects are the files
//! that the docker-registry wrote. A request that brings an `Authorization` as well is refused, as
//! S3 does, and the record keeps that it came.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;

use http_body_util::BodyExt as _;
use hyper::header::{AUTHORIZATION, IF_RANGE, LOCATION, RANGE};
use ring::hmac;

use super::listen::{Answer, Cause, Piece, Request, reply, set};
use super::target::pairs;
use super::token::now;
use super::{Settings, Shared};

/// Where the object storage is, what it holds, and the key of its signatures.
pub(super) struct Place {
    address: SocketAddr,
    tls: bool,
    folder: PathBuf,
    key: hmac::Key,
}

impl Place {
    /// The storage at `address`; `folder` is where the docker-registry keeps everything.
    pub(super) fn new(settings: &Settings, address: SocketAddr, folder: PathBuf) -> Self {
        let random = ring::rand::SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random).expect("a key");
        Self { address, tls: settings.storage_tls, folder, key }
    }

    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The signed address of a blob for one method, if the repository holds it.
    pub(super) fn signed(&self, method: &str, repository: &str, digest: &str) -> Option<String> {
        let (algorithm, hex) = digest.split_once(':')?;
        let link = format!("repositories/{repository}/_layers/{algorithm}/{hex}/link");
        if !self.folder.join(link).is_file() {
            return None;
        }
        let path = format!("/docker/registry/v2/blobs/{algorithm}/{}/{hex}/data", hex.get(..2)?);
        Some(format!("{}{}", self.url(), self.sign(method, &path, 0)))
    }

    /// The file of a blob.
    pub(super) fn blob(&self, algorithm: &str, hex: &str) -> Option<PathBuf> {
        Some(self.folder.join(format!("blobs/{algorithm}/{}/{hex}/data", hex.get(..2)?)))
    }

    /// The folder of the repositories, for those who list what it holds.
    pub(super) fn repositories(&self) -> PathBuf {
        self.folder.join("repositories")
    }

    /// Whether a tag exists.
    pub(super) fn has_tag(&self, repository: &str, tag: &str) -> bool {
        self.repositories().join(repository).join("_manifests/tags").join(tag).is_dir()
    }

    fn sign(&self, method: &str, path: &str, hops: u32) -> String {
        let ends = now() + LIFETIME;
        let signature = self.signature(method, path, ends, hops);
        format!(
            "{path}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIASTORY%2Fs3\
             &X-Amz-Expires={ends}&X-Amz-SignedHeaders=host&hops={hops}&X-Amz-Signature={signature}"
        )
    }

    fn signature(&self, method: &str, path: &str, ends: u64, hops: u32) -> String {
        let text = format!("{method}\n{path}\n{ends}\n{hops}");
        let tag = hmac::sign(&self.key, text.as_bytes());
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Answers one request at the object storage.
pub(super) fn answer(shared: &Shared, request: &Request) -> Result<Answer, Cause> {
    let number = shared.record.at_storage(shared, request);
    let answer = object(shared, request)?;
    shared.record.stored(number, answer.status().as_u16());
    Ok(answer)
}

fn object(shared: &Shared, request: &Request) -> Result<Answer, Cause> {
    let method = request.method().as_str();
    if request.headers().contains_key(AUTHORIZATION) {
        let text = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, \
                    Signature query string parameter or the Authorization header should be \
                    specified";
        return Ok(refusal(403, "InvalidArgument", text));
    }
    let path = request.uri().path();
    let query = pairs(request.uri().query().unwrap_or_default()).unwrap_or_default();
    let value = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, one)| one);
    let number = |name: &str| value(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let (ends, hops) = (number("X-Amz-Expires"), u32::try_from(number("hops"))?);
    let signature = shared.storage.signature(method, path, ends, hops);
    if value("X-Amz-Signature") != Some(&signature) {
        return Ok(refusal(403, "SignatureDoesNotMatch", "The signature does not match."));
    }
    if ends < now() {
        return Ok(refusal(403, "AccessDenied", "Request has expired"));
    }
    let switches = shared.switches();
    if hops < switches.storage_hops {
        let location = shared.storage.sign(method, path, hops + 1);
        let mut answer = reply(307, "application/xml", "");
        answer.headers_mut().insert(LOCATION, location.parse()?);
        return Ok(answer);
    }
    // The signature covers the path: it is one that `signed` wrote.
    let path = path.trim_start_matches("/docker/registry/v2/");
    let Ok(file) = File::open(shared.storage.folder.join(path)) else {
        return Ok(refusal(404, "NoSuchKey", "The specified key does not exist."));
    };
    let size = fs::Metadata::len(&file.metadata()?);
    let name = path.split('/').nth(3).unwrap_or_default();
    serve(request, file, size, &format!("\"{name}\""), &switches)
}

/// The whole object, or the range that was asked for.
fn serve(
    request: &Request,
    mut file: File,
    size: u64,
    etag: &str,
    switches: &super::Switches,
) -> Result<Answer, Cause> {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_current = text(IF_RANGE).is_none_or(|known| known == etag);
    let range = text(RANGE).filter(|_| is_current && !switches.storage_ignores_ranges);
    let range = range.and_then(|range| span(range, size));
    let (status, first, length) = match range {
        None => (200, 0, size),
        Some((first, last)) if first <= last => (206, first, last - first + 1),
        Some(_) => {
            let mut answer = refusal(416, "InvalidRange", "The requested range is not satisfiable");
            set(&mut answer, "content-range", &format!("bytes */{size}"));
            return Ok(answer);
        }
    };
    file.seek(SeekFrom::Start(first))?;
    let sent = if request.method() == "HEAD" { 0 } else { length };
    let body = Piece::new(file, sent, switches.storage_cut).boxed_unsync();
    let mut answer = Answer::new(body);
    *answer.status_mut() = status.try_into()?;
    set(&mut answer, "content-type", "application/octet-stream");
    set(&mut answer, "content-length", &length.to_string());
    set(&mut answer, "accept-ranges", "bytes");
    set(&mut answer, "etag", etag);
    set(&mut answer, "server", "AmazonS3");
    if status == 206 {
        let last = first + length - 1;
        set(&mut answer, "content-range", &format!("bytes {first}-{last}/{size}"));
    }
    Ok(answer)
}

/// First and last byte of a range (RFC 9110 §14.1.2); the first is after the last for a range that
/// cannot be satisfied. Nothing for what is no range of bytes.
fn span(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let end = size.checked_sub(1);
    let (first, last) = match (first, last) {
        ("", count) => (size.saturating_sub(count.parse().ok()?), end),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, Some(last.parse().ok()?).min(end)),
    };
    Some(last.filter(|last| first <= *last).map_or(NOTHING, |last| (first, last)))
}

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    reply(status, "application/xml", body)
}

/// A range that holds nothing.
const NOTHING: (u64, u64) = (1, 0);

/// How long a signed address is good, in seconds (docker/distribution, s3-aws `URLFor`).
const LIFETIME: u64 = 20 * 60;
