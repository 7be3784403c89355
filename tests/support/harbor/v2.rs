//! Requests below `/v2`: refused, redirected, or handed to the docker-registry behind.
//!
//! Harbor's core takes the caller's credential out and puts its own in, as it does for its
//! registry (src/server/registry/proxy.go); bodies stream through, and a body that breaks off
//! breaks off behind as well.

use http_body_util::BodyExt as _;
use hyper::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderMap, HeaderValue, LOCATION, TRANSFER_ENCODING,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::accounts::Who;
use super::listen::{Answer, Cause, Request, reply};
use super::target::{Place, Target, encoded, is_digest};
use super::{Blobs, Shared, policy, referrers, rights};
use crate::support::base64;

/// Answers a request below `/v2`.
pub(super) async fn answer(
    shared: &Shared,
    who: &Who,
    request: Request,
    path: &str,
    target: &Target,
    query: &[(String, String)],
) -> Result<Answer, Cause> {
    if let Err(answer) = rights::check(shared, who, &request, target) {
        return Ok(*answer);
    }
    if let Err(answer) = policy::check(shared, &request, target) {
        return Ok(*answer);
    }
    let method = request.method().clone();
    let is_reading = method == "GET" || method == "HEAD";
    match &target.place {
        Place::Base => return Ok(reply(200, "application/json; charset=utf-8", "{}")),
        Place::Blob(digest) if is_reading => {
            if let Some(location) = elsewhere(shared, method.as_str(), &target.repository, digest) {
                let mut answer = reply(307, "text/html; charset=utf-8", "");
                answer.headers_mut().insert(LOCATION, location.parse()?);
                return Ok(answer);
            }
        }
        Place::Referrers(digest) if is_reading => {
            return Ok(referrers::answer(shared, &target.repository, digest, query));
        }
        Place::Manifest(tag) if method == "DELETE" && !is_digest(tag) => {
            // src/server/registry/manifest.go.
            let message = format!("unsupported digest {tag}: invalid checksum digest format");
            return Ok(rights::refusal(400, "UNSUPPORTED", &message));
        }
        _ => {}
    }
    let mut answer = behind(shared, request, path).await?;
    match &target.place {
        Place::Upload(name) if method == "PATCH" => {
            let range = answer.headers().get("range").and_then(|range| range.to_str().ok());
            shared.uploads.has_come_to(name, range.unwrap_or_default());
        }
        Place::Manifest(reference) if is_reading && answer.status() == 404 => {
            // Harbor looks it up in its database and says so in its own words
            // (src/controller/artifact/controller.go).
            let mark = if is_digest(reference) { '@' } else { ':' };
            let message = format!("artifact {}{mark}{reference} not found", target.repository);
            answer = rights::refusal(404, "NOT_FOUND", &message);
        }
        _ => {}
    }
    Ok(answer)
}

/// Where a blob is to be pulled from, when that is elsewhere and the blob is there.
fn elsewhere(shared: &Shared, method: &str, repository: &str, digest: &str) -> Option<String> {
    match shared.switches().blobs {
        Blobs::Here => None,
        Blobs::InStorage => shared.storage.signed(method, repository, digest),
        Blobs::At(location) => Some(location),
    }
}

/// Hands a request to the docker-registry, which makes absolute addresses from the caller's own
/// `Host` and from `X-Forwarded-Proto`, and signs an upload's `_state`.
async fn behind(shared: &Shared, request: Request, path: &str) -> Result<Answer, Cause> {
    let socket = TcpStream::connect(&shared.registry).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    parts.uri = format!("{}{query}", encoded(path)).parse()?;
    drop_hop_by_hop(&mut parts.headers);
    parts.headers.remove(COOKIE);
    let credential = base64(format!("{INTERNAL_USER}:{INTERNAL_PASSWORD}"));
    parts.headers.insert(AUTHORIZATION, format!("Basic {credential}").parse()?);
    let scheme = if shared.settings.tls { "https" } else { "http" };
    // nginx hands on what a proxy before it says, and speaks for itself otherwise.
    let scheme = HeaderValue::from_static(scheme);
    parts.headers.entry("x-forwarded-proto").or_insert(scheme);
    parts.headers.entry(HOST).or_insert(HeaderValue::from_static("localhost"));
    let answer = sender.send_request(hyper::Request::from_parts(parts, body)).await?;
    let (mut parts, body) = answer.into_parts();
    drop_hop_by_hop(&mut parts.headers);
    Ok(Answer::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
}

fn drop_hop_by_hop(fields: &mut HeaderMap) {
    for name in [CONNECTION, TRANSFER_ENCODING] {
        fields.remove(name);
    }
    fields.remove("keep-alive");
}

/// The account that Harbor's core has at its registry (make/photon/prepare, registry passwd).
pub(super) const INTERNAL_USER: &str = "harbor_registry_user";

/// Its password.
pub(super) const INTERNAL_PASSWORD: &str = "internal-registry-password";
