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
pub(crate) mod via;

use zeroize::Zeroizing;

use crate::body::Framing;
use crate::counters::Route;
use crate::error::Kind;
use crate::parse::{Method, ResponseHead, Version};
use crate::route::Routed;
use crate::target::api::api_permits;
use crate::target::{Form, Resource};
use crate::vocabulary::{Access, Credential, Origin};

pub(crate) use answer::Reply;

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

/// The registry's request for `routed`. `request_id` is ours, and short ASCII.
///
/// Fails where the connector has no credential just now, or its policy keeps the path closed.
pub(crate) fn request(routed: &Routed, request_id: &str) -> Result<Outbound, Kind> {
    outbound(routed, request_id, query::Mount::Keep)
}

/// The same, asking for a plain upload where the caller asked for a mount.
pub(crate) fn request_without_mount(routed: &Routed, request_id: &str) -> Result<Outbound, Kind> {
    outbound(routed, request_id, query::Mount::Drop)
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

fn outbound(routed: &Routed, request_id: &str, mount: query::Mount) -> Result<Outbound, Kind> {
    let (connector, target, method) = (&*routed.connector, &routed.target, routed.head.method);
    if *target.resource() == Resource::Api {
        api_permits(connector.api, method, target.rest())?;
    }
    let credential = match &connector.access {
        Access::Anonymous => None,
        Access::Credential(credential) => Some(checked(credential)?),
        Access::Unready(_) => return Err(Kind::ConnectorUnready),
    };
    let asked = query::rewritten(target, &connector.reference, mount);
    let authority = connector.origin.authority();

    // Enough for all of it: a vector that grew would leave a copy of the credential behind.
    let room = routed.head.fields.head_bytes() * 2
        + connector.base_path.len()
        + authority.len()
        + request_id.len()
        + credential.map_or(0, |credential| credential.authorization.expose().len())
        + ROOM_FOR_OUR_FIELDS;
    let mut head = Zeroizing::new(Vec::with_capacity(room));
    let question_mark = if asked.text.is_some() { "?" } else { "" };
    let path = [connector.base_path.as_ref(), target.rest(), question_mark];
    push(&mut head, [method.as_str(), " "]);
    push(&mut head, path);
    push(&mut head, [asked.text.as_deref().unwrap_or_default(), " HTTP/1.1\r\n"]);
    push(&mut head, ["Host: ", &authority, "\r\n"]);
    fields::of_request(&routed.head.fields, &mut head);
    if let Some(credential) = credential {
        head.extend_from_slice(b"Authorization: ");
        head.extend_from_slice(credential.authorization.expose());
        head.extend_from_slice(b"\r\n");
    }
    push(&mut head, ["X-Request-ID: ", request_id, "\r\n"]);
    // Under this name we know a request that comes back to us (RFC 9110 §7.6.3).
    push(&mut head, ["Via: 1.1 ", &via::pseudonym(request_id), "\r\n"]);
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
fn checked(credential: &Credential) -> Result<&Credential, Kind> {
    let text = |byte: &u8| (b' '..=b'~').contains(byte);
    let is_value = credential.authorization.expose().iter().all(text);
    if is_value { Ok(credential) } else { Err(Kind::ConnectorUnready) }
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
const ROOM_FOR_OUR_FIELDS: usize = 320;

#[cfg(test)]
mod tests;
