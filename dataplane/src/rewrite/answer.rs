//! The registry's answer in the caller's terms.
//!
//! A head in, a decision and a head out. It never lets a challenge or a cookie of the registry, nor
//! an address that leads around this proxy, reach the caller.

use super::location::{Place, place};
use super::{ReturnPath, fields, push, push_length, push_number};
use crate::body::Framing;
use crate::counters::Route;
use crate::error::Kind;
use crate::parse::{Method, ResponseHead, Version};

/// A complete head for the caller.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Vec<u8>,
    pub(crate) status: u16,
}

/// What becomes of a registry's answer.
#[derive(Debug)]
pub(crate) enum Reply {
    /// This head, then the registry's body.
    Relay(Answer),
    /// An answer of our own; the registry's body is not relayed.
    Replace(Kind),
    /// The registry's answer, once it has been looked through; see [`super::looked_through`].
    Hold(Held),
    /// The registry's status with a body of our own: no client of a registry reads HTML.
    ReplaceBody {
        status: u16,
        /// The registry's `Retry-After`.
        retry_after: Option<Box<str>>,
    },
}

/// Why an answer is looked through before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It is an error, which may show what the registry was asked with.
    Error,
    /// It shows accounts of Harbor, with their secrets.
    Accounts,
}

/// See [`super::response`].
pub(super) fn reply(
    head: &ResponseHead,
    framing: Framing,
    back: &ReturnPath,
    keep_alive: bool,
    caller_version: Version,
) -> Result<Reply, Kind> {
    match head.status {
        // The credential never went there. To a client 401 would mean that its own token is bad.
        401 if back.storage.is_some() => {
            return Ok(Reply::ReplaceBody { status: 403, retry_after: None });
        }
        // Harbor says 401 for a wrong password, a missing right and an unknown project alike; the
        // caller's own token was good, so it must not hear 401.
        401 => return Ok(Reply::Replace(Kind::CredentialRefused)),
        100..=199 | 407 => {
            return Err(Kind::RegistryMalformed("an answer of this status was not asked for"));
        }
        400.. if back.route != Route::Api && has_body(framing) && !is_json(head) => {
            return Ok(Reply::ReplaceBody { status: head.status, retry_after: retry_after(head) });
        }
        // A storage has never seen the credential.
        400.. if has_body(framing) && back.storage.is_none() => {
            return Ok(Reply::Hold(Held::Error));
        }
        200..=299 if has_body(framing) && back.shows_accounts => {
            return Ok(Reply::Hold(Held::Accounts));
        }
        _ => {}
    }
    relayed(head, framing, back, keep_alive, caller_version).map(Reply::Relay)
}

/// The caller's head for an answer that is passed on.
pub(super) fn relayed(
    head: &ResponseHead,
    framing: Framing,
    back: &ReturnPath,
    keep_alive: bool,
    caller_version: Version,
) -> Result<Answer, Kind> {
    let location = location(head, back)?;
    let mut bytes = Vec::with_capacity(head.fields.head_bytes() + ROOM_FOR_OUR_FIELDS);
    bytes.extend_from_slice(b"HTTP/1.1 ");
    push_number(&mut bytes, head.status.into());
    push(&mut bytes, [" ", head.reason(), "\r\n"]);
    fields::of_response(&head.fields, &mut bytes);
    if let Some(digest) = kept_digest(head, back) {
        fields::push(&mut bytes, DIGEST.as_bytes(), digest);
    }
    if let Some(location) = location {
        fields::push(&mut bytes, b"Location", location.as_bytes());
    }
    for value in head.fields.all("link").filter(|_| back.storage.is_none()) {
        if let Some(link) = link(value, back)? {
            fields::push(&mut bytes, b"Link", link.as_bytes());
        }
    }
    push_framing(&mut bytes, head, framing, keep_alive, caller_version);
    bytes.extend_from_slice(b"\r\n");
    Ok(Answer { head: bytes, status: head.status })
}

/// The caller's `Location`, where an answer of this status has one (RFC 9110 §10.2.2, and 202 and
/// 204 in the distribution API).
fn location(head: &ResponseHead, back: &ReturnPath) -> Result<Option<String>, Kind> {
    let redirects = (300..=399).contains(&head.status);
    if back.storage.is_some() || (!redirects && !matches!(head.status, 201 | 202 | 204)) {
        return Ok(None);
    }
    let mut values = head.fields.all("location");
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => {
            return Err(Kind::RegistryMalformed("the registry answers with two Location fields"));
        }
    };
    match place(value, back) {
        Some(Place::Here(path)) => Ok(Some(path)),
        // An upload's address is https behind an http balancer's back; a redirection means it.
        Some(Place::Secured(_)) if redirects => {
            Err(Kind::RegistryMalformed("the registry wants https: write https:// in spec.address"))
        }
        Some(Place::Secured(path)) => Ok(Some(path)),
        // A blob store's pre-signed address; the caller fetches it without our credential.
        Some(Place::Elsewhere) if redirects && back.passes_redirects && is_blob_read(back) => {
            Ok(str::from_utf8(value).ok().map(str::to_owned))
        }
        Some(Place::Elsewhere) => {
            Err(Kind::RegistryMalformed("the registry's Location leads to another host"))
        }
        None => Err(Kind::RegistryMalformed("the registry's Location leads out of its API")),
    }
}

/// See [`super::redirection`].
pub(super) fn redirection<'a>(head: &'a ResponseHead, back: &ReturnPath) -> Option<&'a [u8]> {
    if back.passes_redirects || !is_blob_read(back) || !is_redirection(head.status) {
        return None;
    }
    let mut values = head.fields.all("location");
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        _ => return None,
    };
    match place(value, back) {
        Some(Place::Here(_) | Place::Secured(_)) => None,
        Some(Place::Elsewhere) | None => Some(value),
    }
}

/// Whether the status sends a reader to the address in `Location` (RFC 9110 §15.4).
pub(crate) fn is_redirection(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The digest that the registry gave for what a storage now answers, unless that gives one. Of an
/// error it would say nothing true.
fn kept_digest<'a>(head: &ResponseHead, back: &'a ReturnPath) -> Option<&'a [u8]> {
    let digest = back.storage.as_ref()?.digest.as_deref()?;
    let own = head.fields.get(DIGEST).is_some();
    (!own && matches!(head.status, 200 | 206 | 304)).then_some(digest)
}

fn is_blob_read(back: &ReturnPath) -> bool {
    back.route == Route::Blob && matches!(back.method, Method::Get | Method::Head)
}

/// One `Link` field with every address in it rewritten (RFC 8288 §3), or `None` where it leads
/// elsewhere. A next page that cannot be followed is an error: a shorter list would be a lie.
fn link(value: &[u8], back: &ReturnPath) -> Result<Option<String>, Kind> {
    let foreign = || {
        let pages = matches!(back.route, Route::Tags | Route::Referrers | Route::Api);
        let why = "the registry's Link leads out of its API";
        if pages { Err(Kind::RegistryMalformed(why)) } else { Ok(None) }
    };
    let Ok(mut rest) = str::from_utf8(value) else {
        return foreign();
    };
    let mut rewritten = String::with_capacity(rest.len() + back.names.prefix.len());
    while let Some((before, after)) = rest.split_once('<') {
        let Some((address, after)) = after.split_once('>') else {
            return foreign();
        };
        let Some(Place::Here(path) | Place::Secured(path)) = place(address.as_bytes(), back) else {
            return foreign();
        };
        for part in [before, "<", &path, ">"] {
            rewritten.push_str(part);
        }
        rest = after;
    }
    rewritten.push_str(rest);
    Ok(Some(rewritten))
}

/// Whether bytes of a body follow.
fn has_body(framing: Framing) -> bool {
    !matches!(framing, Framing::None | Framing::Length(0))
}

/// Whether the body is JSON by its type: `application/json`, or a type made of it.
fn is_json(head: &ResponseHead) -> bool {
    let value = head.fields.get("content-type").unwrap_or_default();
    let main = value.split(|byte| *byte == b';').next().unwrap_or_default();
    let main = main.trim_ascii().to_ascii_lowercase();
    main == b"application/json" || main.ends_with(b"+json")
}

/// The registry's `Retry-After`, if it is a short text.
pub(crate) fn retry_after(head: &ResponseHead) -> Option<Box<str>> {
    let value = str::from_utf8(head.fields.get("retry-after")?).ok()?;
    let text = |byte: u8| (b' '..=b'~').contains(&byte);
    (value.len() <= RETRY_AFTER_BYTES_MAX && value.bytes().all(text)).then(|| value.into())
}

/// The fields that say where the body ends and whether another answer follows.
fn push_framing(
    bytes: &mut Vec<u8>,
    head: &ResponseHead,
    framing: Framing,
    keep_alive: bool,
    caller_version: Version,
) {
    let old_caller = caller_version == Version::Http10;
    match framing {
        Framing::Length(length) => push_length(bytes, length),
        Framing::Chunked if !old_caller => push(bytes, ["Transfer-Encoding: chunked\r\n"]),
        Framing::Chunked | Framing::UntilClose => {}
        // What `HEAD` and 304 say is the length of a body that is not here: a client reads a
        // blob's size from it. `body` has checked that it is one number.
        Framing::None if head.status != 204 => {
            if let Some(length) = head.fields.get("content-length") {
                fields::push(bytes, b"Content-Length", length);
            }
        }
        Framing::None => {}
    }
    let ends_by_closing =
        framing == Framing::UntilClose || (framing == Framing::Chunked && old_caller);
    if !keep_alive || ends_by_closing {
        push(bytes, ["Connection: close\r\n"]);
    } else if old_caller {
        push(bytes, ["Connection: keep-alive\r\n"]);
    }
}

/// The field by which a registry says what it sends (distribution-spec end-2, end-3).
pub(super) const DIGEST: &str = "Docker-Content-Digest";
/// The status line, the framing, the spaces that fields came without, and what an address gets.
const ROOM_FOR_OUR_FIELDS: usize = 320;
/// A date is 29 bytes.
const RETRY_AFTER_BYTES_MAX: usize = 64;
