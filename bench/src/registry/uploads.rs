//! Uploads: opened, continued, asked about, closed or cancelled.
//!
//! A request about an upload in, a [`Reply`] out; the bytes go into the store. Sources: OCI
//! distribution 1.1 "Pushing blobs", docker/distribution 2.8 for `_state` and what follows from it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::Shared;
use super::blobs::created;
use super::http::{Head, Incoming, Reply};
use super::store::{Upload, algorithm_of, lock};
use crate::wire::Take;

/// Answers `POST …/blobs/uploads/`: a mount, a whole blob at once, or a new upload.
///
/// # Errors
/// When the connection breaks or memory runs out.
pub(crate) fn open(
    shared: &Shared,
    head: &Head,
    incoming: &mut Incoming<'_>,
    name: &str,
) -> io::Result<Reply> {
    if let (Some(digest), Some(from)) = (head.parameter("mount"), head.parameter("from"))
        && shared.store.mount(from, digest, name)
    {
        return Ok(created(head, name, digest));
    }
    let identifier = shared.seal.identifier().map_err(|_| io::Error::other("no randomness"))?;
    shared.store.open(name, &identifier)?;
    let Some(upload) = shared.store.upload(name, &identifier) else {
        return Ok(unknown());
    };
    if head.parameter("digest").is_some() {
        return finish(shared, head, incoming, name, &identifier, &upload);
    }
    Ok(progress(shared, head, 202, name, &identifier, 0))
}

/// Answers every request to an upload's own URL.
///
/// # Errors
/// When the connection breaks or memory runs out.
pub(crate) fn go_on(
    shared: &Shared,
    head: &Head,
    incoming: &mut Incoming<'_>,
    name: &str,
    identifier: &str,
) -> io::Result<Reply> {
    let Some(upload) = shared.store.upload(name, identifier) else {
        return Ok(unknown());
    };
    let offset = lock(&upload).length;
    let state = head.parameter("_state").unwrap_or_default();
    if !shared.seal.holds(state, name, identifier, offset) {
        shared.store.cancel(identifier);
        return Ok(Reply::error(
            404,
            "BLOB_UPLOAD_INVALID",
            "the upload's state does not match it",
        ));
    }
    match head.method.as_str() {
        "GET" => Ok(progress(shared, head, 204, name, identifier, offset)),
        "DELETE" => {
            shared.store.cancel(identifier);
            Ok(Reply::empty(204))
        }
        "PATCH" => append(shared, head, incoming, name, identifier, &upload),
        "PUT" => finish(shared, head, incoming, name, identifier, &upload),
        _ => Ok(Reply::error(405, "UNSUPPORTED", "an upload knows GET, PATCH, PUT and DELETE")),
    }
}

fn append(
    shared: &Shared,
    head: &Head,
    incoming: &mut Incoming<'_>,
    name: &str,
    identifier: &str,
    upload: &Arc<Mutex<Upload>>,
) -> io::Result<Reply> {
    if !matches!(head.fields.first("content-type"), None | Some("" | "application/octet-stream")) {
        return Ok(Reply::error(415, "UNSUPPORTED", "a chunk is application/octet-stream"));
    }
    let offset = lock(upload).length;
    if !starts_at(head, offset) {
        return Ok(progress(shared, head, 416, name, identifier, offset));
    }
    receive(shared, incoming, upload)?;
    let length = lock(upload).length;
    Ok(progress(shared, head, 202, name, identifier, length))
}

fn finish(
    shared: &Shared,
    head: &Head,
    incoming: &mut Incoming<'_>,
    name: &str,
    identifier: &str,
    upload: &Arc<Mutex<Upload>>,
) -> io::Result<Reply> {
    let digest = head.parameter("digest").unwrap_or_default();
    if algorithm_of(digest).is_none() {
        return Ok(Reply::error(400, "DIGEST_INVALID", "digest must be sha256 or sha512, in hex"));
    }
    let offset = lock(upload).length;
    if !starts_at(head, offset) {
        return Ok(progress(shared, head, 416, name, identifier, offset));
    }
    receive(shared, incoming, upload)?;
    let mut upload = lock(upload);
    if upload.has(digest)? != Some(true) {
        shared.store.cancel(identifier);
        return Ok(Reply::error(400, "DIGEST_INVALID", "the bytes have another digest"));
    }
    shared.store.close(identifier, &mut upload, digest);
    Ok(created(head, name, digest))
}

/// Takes in the body. What arrived before a connection breaks stays part of the upload, as in
/// docker/distribution: the state in the sender's hand then no longer holds.
fn receive(shared: &Shared, incoming: &mut Incoming<'_>, upload: &Mutex<Upload>) -> io::Result<()> {
    let mut upload = upload.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.store.discards() {
        incoming.each(Take::Drop, |_, count| {
            upload.length += count as u64;
            Ok(())
        })?;
    } else {
        incoming.each(Take::Copy, |bytes, _| upload.append(bytes))?;
    }
    Ok(())
}

/// Whether the request's `Content-Range`, `<first>-<last>` without a unit, begins at `offset`.
fn starts_at(head: &Head, offset: u64) -> bool {
    let Some(range) = head.fields.first("content-range") else {
        return true;
    };
    let first = range.split_once('-').map(|(first, _)| first.parse::<u64>());
    matches!(first, Some(Ok(first)) if first == offset)
}

/// Says how far an upload is: `Range` with the last byte's index (`0-0` also when there is none).
fn progress(
    shared: &Shared,
    head: &Head,
    status: u16,
    name: &str,
    identifier: &str,
    length: u64,
) -> Reply {
    let state = shared.seal.close(name, identifier, length).replace('=', "%3D");
    let url = head.url(&format!("/v2/{name}/blobs/uploads/{identifier}?_state={state}"));
    Reply::empty(status)
        .with("Location", url)
        .with("Range", format!("0-{}", length.saturating_sub(1)))
        .with("Docker-Upload-UUID", identifier)
}

fn unknown() -> Reply {
    Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload in this repository")
}
