//! Turns the caller's head into the registry's, and the registry's into the caller's.
//!
//! [`Routed`] in, [`Outbound`] out; [`ResponseHead`] in, [`Reply`] out; no I/O. Here the caller's
//! token leaves the request and the connector's credential enters it. Bodies are never looked at,
//! and everything that need not change stays byte for byte what it was (`Accept` lists, ranges,
//! upload states that the registry signed).

mod answer;
mod fields;
mod location;
mod query;

use zeroize::Zeroizing;

use crate::body::Framing;
use crate::counters::Route;
use crate::error::Kind;
use crate::login::Presented;
use crate::parse::{Method, ResponseHead, Version};
use crate::route::Routed;
use crate::target::api::api_permits;
use crate::target::{Form, Resource};
use crate::vocabulary::{Origin, Secret};

pub(crate) use answer::Reply;
pub(crate) use query::Mount;

/// A request as the registry gets it.
pub(crate) struct Outbound {
    /// The complete head, the connector's credential inside.
    pub(crate) head: Zeroizing<Vec<u8>>,
    pub(crate) method: Method,
    /// How the body is delimited: as the caller did it.
    pub(crate) framing: Framing,
    /// What the answer is rewritten by.
    pub(crate) return_path: ReturnPath,
    /// Whether it asks for a mount. A registry that refuses one is asked again by
    /// [`request_without_mount`]: a refusal would end a push that an upload can complete.
    pub(crate) mounts: bool,
}

/// What it takes to write an answer in the caller's terms. It holds no credential.
#[derive(Debug)]
pub(crate) struct ReturnPath {
    form: Form,
    /// `/namespaces/<namespace>/connectors/<name>`.
    prefix: Box<str>,
    origin: Origin,
    aliases: Vec<Origin>,
    base_path: Box<str>,
    method: Method,
    route: Route,
    /// The path asked for, without the prefix: what a relative reference is resolved against.
    asked: Box<str>,
}

/// The registry's request for `routed`, with what it is shown. `request_id` is ours, and short
/// ASCII. Without its mount it asks for a plain upload where the caller asked for a mount.
///
/// Fails where the credential is no field value, or the connector's policy keeps the path closed.
pub(crate) fn request(
    routed: &Routed,
    presented: &Presented,
    mount: Mount,
    request_id: &str,
) -> Result<Outbound, Kind> {
    let (connector, target, method) = (&*routed.connector, &routed.target, routed.head.method);
    permitted(routed)?;
    let authorization = presented.authorization().map(checked).transpose()?;
    let asked = query::rewritten(target, &connector.reference, mount);
    let authority = connector.origin.authority();

    // Enough for all of it: a vector that grew would leave a copy of the credential behind.
    let room = routed.head.fields.head_bytes() * 2
        + connector.base_path.len()
        + authority.len()
        + request_id.len()
        + authorization.map_or(0, |value| value.expose().len())
        + ROOM_FOR_OUR_FIELDS;
    let mut head = Zeroizing::new(Vec::with_capacity(room));
    let question_mark = if asked.text.is_some() { "?" } else { "" };
    let path = [connector.base_path.as_ref(), target.rest(), question_mark];
    push(&mut head, [method.as_str(), " "]);
    push(&mut head, path);
    push(&mut head, [asked.text.as_deref().unwrap_or_default(), " HTTP/1.1\r\n"]);
    push(&mut head, ["Host: ", &authority, "\r\n"]);
    fields::of_request(&routed.head.fields, &mut head);
    if let Some(value) = authorization {
        head.extend_from_slice(b"Authorization: ");
        head.extend_from_slice(value.expose());
        head.extend_from_slice(b"\r\n");
    }
    push(&mut head, ["X-Request-ID: ", request_id, "\r\n"]);
    framing_of(method, routed.framing, &mut head);
    head.extend_from_slice(b"\r\n");
    debug_assert!(head.len() <= room, "the head outgrew its estimate");

    Ok(Outbound {
        head,
        method,
        framing: routed.framing,
        return_path: return_path(routed),
        mounts: asked.mounts,
    })
}

/// The caller's answer for the registry's `head`, whose body is delimited by `framing`.
///
/// `keep_alive` says whether the caller's connection may live on. Fails with
/// [`Kind::RegistryMalformed`] where the answer points at a place the caller must not be sent to.
pub(crate) fn response(
    head: &ResponseHead,
    framing: Framing,
    back: &ReturnPath,
    keep_alive: bool,
    caller_version: Version,
) -> Result<Reply, Kind> {
    answer::reply(head, framing, back, keep_alive, caller_version)
}

/// Whether the connector's policy lets the request pass. Asked before anything is done for it.
pub(crate) fn permitted(routed: &Routed) -> Result<(), Kind> {
    if *routed.target.resource() != Resource::Api {
        return Ok(());
    }
    api_permits(routed.connector.api, routed.head.method, routed.target.rest())
}

/// The repository, in the registry's terms, that `routed` asks to mount from.
pub(crate) fn mount_source(routed: &Routed) -> Option<String> {
    query::mount_source(&routed.target, &routed.connector.reference)
}

fn return_path(routed: &Routed) -> ReturnPath {
    let (connector, target) = (&*routed.connector, &routed.target);
    let (namespace, name) = (connector.reference.namespace(), connector.reference.name());
    ReturnPath {
        form: target.form(),
        prefix: ["/namespaces/", namespace, "/connectors/", name].concat().into_boxed_str(),
        origin: connector.origin.clone(),
        aliases: connector.aliases.clone(),
        base_path: connector.base_path.clone(),
        method: routed.head.method,
        route: target.route(),
        asked: target.rest().into(),
    }
}

/// The credential, if it is one field value and nothing more.
fn checked(value: &Secret) -> Result<&Secret, Kind> {
    let text = |byte: &u8| (b' '..=b'~').contains(byte);
    if value.expose().iter().all(text) { Ok(value) } else { Err(Kind::ConnectorUnready) }
}

/// The framing fields. A length stays a length: Harbor's quota reads it (`PUT` of a blob).
fn framing_of(method: Method, framing: Framing, head: &mut Vec<u8>) {
    match (framing, method) {
        (Framing::Length(length), _) => {
            push(head, ["Content-Length: ", &length.to_string(), "\r\n"])
        }
        (Framing::Chunked | Framing::UntilClose, _) => {
            push(head, ["Transfer-Encoding: chunked\r\n"])
        }
        // RFC 9110 §8.6: these say that they have no body.
        (Framing::None, Method::Post | Method::Put | Method::Patch) => {
            push(head, ["Content-Length: 0\r\n"]);
        }
        (Framing::None, _) => {}
    }
}

fn push<const N: usize>(head: &mut Vec<u8>, parts: [&str; N]) {
    for part in parts {
        head.extend_from_slice(part.as_bytes());
    }
}

/// The names of the fields that we set, the version, the framing.
const ROOM_FOR_OUR_FIELDS: usize = 256;

#[cfg(test)]
mod tests;
