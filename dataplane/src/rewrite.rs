//! Turns the caller's head into the registry's, and the registry's into the caller's.
//!
//! [`Routed`] in, [`Outbound`] out; [`ResponseHead`] in, [`Reply`] out; no I/O. Here the caller's
//! token leaves the request and the connector's credential enters it. Bodies are looked at
//! only where they are errors or accounts, which may show a secret. Everything that need not change
//! stays byte for byte what it was (`Accept` lists, ranges, upload states that a registry signed).

mod answer;
mod echo;
mod fields;
pub(crate) mod location;
pub(crate) mod mask;
mod query;
pub(crate) mod via;

use std::sync::Arc;

use crate::body::Framing;
use crate::counters::Route;
use crate::error::Kind;
use crate::login::Presented;
use crate::parse::{Method, ResponseHead, Version};
use crate::route::Routed;
use crate::snapshot::Names;
use crate::target::api::{api_permits, shows_users};
use crate::target::{Asked, Form, Resource};
use crate::vocabulary::{RedirectPolicy, Secret};
use crate::wiped::Wiped;

pub(crate) use answer::{Held, Reply, is_redirection, retry_after};
pub(crate) use query::Mount;

/// A request as the registry gets it.
pub(crate) struct Outbound {
    /// The complete head, the connector's credential inside.
    pub(crate) head: Wiped,
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
    names: Arc<Names>,
    method: Method,
    route: Route,
    /// The path asked for, without the prefix: what a relative reference is resolved against.
    asked: Asked,
    /// Whether a redirection to another host is for the caller to follow.
    passes_redirects: bool,
    /// Whether accounts of Harbor are asked for.
    shows_accounts: bool,
    storage: Option<Storage>,
}

/// What is to be known where the answer is not the registry's but that of a storage it redirected
/// to.
#[derive(Debug)]
struct Storage {
    /// The registry's own `Docker-Content-Digest`, which storages do not know.
    digest: Option<Box<[u8]>>,
}

impl ReturnPath {
    /// From here on the answers are those of a storage that the registry's answer `head` led to.
    pub(crate) fn leads_to_storage(&mut self, head: &ResponseHead) {
        let digest = head.fields.get(answer::DIGEST).map(Box::from);
        self.storage.get_or_insert(Storage { digest });
    }

    /// Whether the answer is that of a storage, which was shown nothing.
    pub(crate) fn is_of_storage(&self) -> bool {
        self.storage.is_some()
    }
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
    let authority = &routed.names.authority;

    // Enough for all of it: a vector that grew would leave a copy of the credential behind.
    let room = routed.head.fields.head_bytes() * 2
        + connector.base_path.len()
        + authority.len()
        + request_id.len()
        + authorization.map_or(0, |value| value.expose().len())
        + ROOM_FOR_OUR_FIELDS;
    let mut head = Wiped::with_room(room);
    let question_mark = if asked.text.is_some() { "?" } else { "" };
    let path = [connector.base_path.as_ref(), target.rest(), question_mark];
    push(&mut head, [method.as_str(), " "]);
    push(&mut head, path);
    push(&mut head, [asked.text.as_deref().unwrap_or_default(), " HTTP/1.1\r\n"]);
    push(&mut head, ["Host: ", authority, "\r\n"]);
    fields::of_request(&routed.head.fields, shows_accounts(routed), &mut head);
    if let Some(value) = authorization {
        head.extend_from_slice(b"Authorization: ");
        head.extend_from_slice(value.expose());
        head.extend_from_slice(b"\r\n");
    }
    push(&mut head, ["X-Request-ID: ", request_id, "\r\n"]);
    // Under this name we know a request that comes back to us (RFC 9110 §7.6.3).
    push(&mut head, ["Via: 1.1 ", via::PRODUCT, via::process(request_id), "\r\n"]);
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

/// Where the registry's answer sends the reader of a blob, as written, if that is not a place of
/// its own API behind the same connector. An answer that sends nobody anywhere is `None`, and so is
/// one that [`response`] refuses.
pub(crate) fn redirection<'a>(head: &'a ResponseHead, back: &ReturnPath) -> Option<&'a [u8]> {
    answer::redirection(head, back)
}

/// The caller's head for an answer that was held and whose body, `length` bytes, may pass.
pub(crate) fn looked_through(
    head: &ResponseHead,
    length: usize,
    back: &ReturnPath,
    keep_alive: bool,
    caller_version: Version,
) -> Result<Vec<u8>, Kind> {
    let framing = Framing::Length(u64::try_from(length).unwrap_or(u64::MAX));
    answer::relayed(head, framing, back, keep_alive, caller_version).map(|answer| answer.head)
}

/// Whether an error's body, or a field of its head, shows what the registry was asked with.
pub(crate) fn reveals(head: &ResponseHead, body: &[u8], presented: &Presented) -> bool {
    let Some(shown) = presented.authorization() else {
        return false;
    };
    echo::reveals(body, shown) || head.fields.iter().any(|(_, value)| echo::reveals(value, shown))
}

/// Takes the secrets out of accounts that Harbor answered with. The error says why they cannot be
/// passed on: they came in a form in which nobody can look for them.
pub(crate) fn mask_accounts(head: &ResponseHead, body: &mut [u8]) -> Result<(), &'static str> {
    let coding = head.fields.get("content-encoding").unwrap_or(b"identity");
    if head.status != 200 || !coding.eq_ignore_ascii_case(b"identity") {
        return Err("the registry's accounts came in parts, or encoded");
    }
    mask::user_secrets(body).map_err(|_| "the registry's accounts are no JSON")
}

fn shows_accounts(routed: &Routed) -> bool {
    *routed.target.resource() == Resource::Api && shows_users(routed.target.rest())
}

/// Whether the connector's policy lets the request pass. Asked before anything is done for it.
pub(crate) fn permitted(routed: &Routed) -> Result<(), Kind> {
    let target = &routed.target;
    match target.resource() {
        Resource::Api => api_permits(routed.connector.api, routed.head.method, target.rest()),
        Resource::Token => Err(Kind::PolicyDenied("a registry's token does not pass this proxy")),
        _ => Ok(()),
    }
}

/// The repository, in the registry's terms, that `routed` asks to mount from.
pub(crate) fn mount_source(routed: &Routed) -> Option<String> {
    query::mount_source(&routed.target, &routed.connector.reference)
}

fn return_path(routed: &Routed) -> ReturnPath {
    let (connector, target) = (&*routed.connector, &routed.target);
    ReturnPath {
        form: target.form(),
        names: Arc::clone(&routed.names),
        method: routed.head.method,
        route: target.route(),
        asked: target.asked().clone(),
        passes_redirects: connector.redirects.policy == RedirectPolicy::Pass,
        shows_accounts: shows_accounts(routed),
        storage: None,
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
        (Framing::Length(length), _) => push_length(head, length),
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

fn push_length(head: &mut Vec<u8>, length: u64) {
    head.extend_from_slice(b"Content-Length: ");
    push_number(head, length);
    head.extend_from_slice(b"\r\n");
}

/// A number in decimal digits, of which it has 20 at most.
fn push_number(head: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len() - 1;
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
        first = place;
        if number == 0 {
            break;
        }
    }
    head.extend_from_slice(digits.get(first..).unwrap_or_default());
}

/// The names of the fields that we set, the version, the framing.
const ROOM_FOR_OUR_FIELDS: usize = 320;

#[cfg(test)]
mod tests;
