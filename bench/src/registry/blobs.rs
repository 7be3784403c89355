//! Blobs: looked at, read whole or in part, deleted.
//!
//! A request about a blob in, a [`Reply`] out. Sources: OCI distribution 1.1 "Pulling blobs",
//! RFC 9110 §14 for ranges.

use std::sync::Arc;

use super::Shared;
use super::http::{Head, Reply};
use super::store::Blob;
use super::tokens::unix_now;

/// Answers GET, HEAD and DELETE of a blob.
pub(crate) fn answer(shared: &Shared, head: &Head, name: &str, digest: &str) -> Reply {
    if head.method == "DELETE" {
        return delete(shared, name, digest);
    }
    if !matches!(head.method.as_str(), "GET" | "HEAD") {
        return Reply::error(405, "UNSUPPORTED", "a blob knows GET, HEAD and DELETE");
    }
    let Some(blob) = shared.store.blob(name, digest) else {
        return unknown();
    };
    if let Some(storage) = &shared.storage {
        return storage.redirect(&head.method, name, digest, unix_now());
    }
    content(head, blob, digest)
}

/// The bytes of `blob`, or what of them `head` asks for.
pub(crate) fn content(head: &Head, blob: Arc<Blob>, digest: &str) -> Reply {
    let length = blob.length;
    let etag = format!("\"{digest}\"");
    if head.fields.first("if-none-match") == Some(etag.as_str()) {
        return Reply::empty(304).with("Etag", etag);
    }
    let asked = head.fields.first("range").map_or(Asked::Whole, |range| asked(range, length));
    let reply = match asked {
        Asked::Whole => Reply::blob(200, blob, 0, length),
        Asked::Part(first, last) => Reply::blob(206, blob, first, last - first + 1)
            .with("Content-Range", format!("bytes {first}-{last}/{length}")),
        Asked::Nothing => {
            return Reply::error(416, "RANGE_INVALID", "the range begins after the blob's end")
                .with("Content-Range", format!("bytes */{length}"));
        }
    };
    reply
        .with("Docker-Content-Digest", digest)
        .with("Accept-Ranges", "bytes")
        .with("Cache-Control", "max-age=31536000")
        .with("Etag", etag)
}

fn delete(shared: &Shared, name: &str, digest: &str) -> Reply {
    let mut repositories = shared.store.repositories();
    match repositories.get_mut(name).and_then(|repository| repository.blobs.remove(digest)) {
        Some(_) => Reply::empty(202),
        None => unknown(),
    }
}

fn unknown() -> Reply {
    Reply::error(404, "BLOB_UNKNOWN", "there is no such blob in this repository")
}

/// The 201 for a blob that now is in the repository `name`.
pub(crate) fn created(head: &Head, name: &str, digest: &str) -> Reply {
    Reply::empty(201)
        .with("Location", head.url(&format!("/v2/{name}/blobs/{digest}")))
        .with("Docker-Content-Digest", digest)
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(u64, u64),
    Nothing,
}

/// What of `length` bytes a `Range` asks for. Several ranges, other units and nonsense are ignored,
/// as RFC 9110 §14.2 allows: the whole is answered.
fn asked(range: &str, length: u64) -> Asked {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Asked::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => Asked::Whole,
        (Ok(first), _) if first >= length => Asked::Nothing,
        (Ok(first), Ok(last)) => Asked::Part(first, last.min(length - 1)),
        (Ok(first), Err(_)) if last.is_empty() => Asked::Part(first, length - 1),
        (Err(_), Ok(count)) if first.is_empty() && (count == 0 || length == 0) => Asked::Nothing,
        (Err(_), Ok(count)) if first.is_empty() => {
            Asked::Part(length.saturating_sub(count), length - 1)
        }
        _ => Asked::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_span_of_bytes_or_is_ignored() {
        let check =
            |range: &str, expected: Asked| assert_eq!(asked(range, 10), expected, "{range}");
        check("bytes=0-0", Asked::Part(0, 0));
        check("bytes=3-", Asked::Part(3, 9));
        check("bytes=3-99", Asked::Part(3, 9));
        check("bytes=-4", Asked::Part(6, 9));
        check("bytes=-99", Asked::Part(0, 9));
        check("bytes=-0", Asked::Nothing);
        check("bytes=10-", Asked::Nothing);
        check("bytes=5-4", Asked::Whole);
        check("bytes=0-1,3-4", Asked::Whole);
        check("lines=0-1", Asked::Whole);
        check("bytes=x-y", Asked::Whole);
    }
}
