//! What a path below `/v2` names, and what nginx makes of a path before Harbor sees it.
//!
//! A request-target in, a [`Target`] or a refusal out; no decision about rights.

use super::listen::Refused;
use super::rights::refusal;

/// What a request below `/v2` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The kind of thing.
    pub(super) place: Place,
    /// The repository, or nothing.
    pub(super) repository: String,
    /// The repository to mount from.
    pub(super) from: Option<String>,
}

/// The kinds that src/server/registry/route.go tells apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `/v2/`.
    Base,
    /// `/v2/_catalog`.
    Catalog,
    /// A list of tags.
    Tags,
    /// A manifest by this tag or digest.
    Manifest(String),
    /// A blob by this digest.
    Blob(String),
    /// An upload by this name, or by none when it begins.
    Upload(String),
    /// What refers to this digest.
    Referrers(String),
    /// Nothing that Harbor recognises.
    Elsewhere,
}

/// Reads a normalised path below `/v2` (src/lib/patterns.go) and where a mount comes from.
///
/// A repository or a source of one component is refused with 400 here, before anybody asks who
/// the caller is (src/server/middleware/artifactinfo).
pub(super) fn read(path: &str, query: &[(String, String)]) -> Result<Target, Refused> {
    let plain = |place| Target { place, repository: String::new(), from: None };
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Ok(plain(Place::Elsewhere));
    };
    if rest.is_empty() {
        return Ok(plain(Place::Base));
    }
    if rest == "_catalog" || rest.starts_with("_catalog/") {
        return Ok(plain(Place::Catalog));
    }
    let Some((repository, place)) = split(rest).filter(|(name, _)| is_name(name)) else {
        return Ok(plain(Place::Elsewhere));
    };
    if let Place::Manifest(reference) = &place
        && !is_digest(reference)
        && !is_tag(reference)
    {
        return Err(Box::new(refusal(404, "NOT_FOUND", "invalid reference format")));
    }
    let mut from = None;
    if matches!(place, Place::Upload(_)) {
        from = query.iter().find(|(name, value)| name == "from" && !value.is_empty());
    }
    let from = from.map(|(_, value)| value.clone());
    for name in std::iter::once(repository).chain(from.as_deref()) {
        if !name.contains('/') {
            let message = format!("bad request: invalid repository name: {name}");
            return Err(Box::new(refusal(400, "BAD_REQUEST", &message)));
        }
    }
    Ok(Target { place, repository: repository.to_owned(), from })
}

fn split(rest: &str) -> Option<(&str, Place)> {
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return Some((repository, Place::Tags));
    }
    for word in ["/manifests/", "/referrers/", "/blobs/"] {
        let Some((repository, rest)) = rest.rsplit_once(word) else {
            continue;
        };
        let place = match word {
            "/manifests/" => Place::Manifest(rest.to_owned()),
            "/referrers/" => Place::Referrers(rest.to_owned()),
            _ => match rest.strip_prefix("uploads") {
                Some(session) => Place::Upload(session.trim_matches('/').to_owned()),
                None if is_digest(rest) => Place::Blob(rest.to_owned()),
                None => return None,
            },
        };
        return Some((repository, place));
    }
    None
}

/// Whether `name` fits the grammar of repository names.
fn is_name(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.split('/').all(|part| {
        let bytes = part.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| is_word(*first) && is_word(*last))
            && bytes.iter().all(|byte| is_word(*byte) || b"._-".contains(byte))
    })
}

/// Whether `reference` is a digest.
pub(super) fn is_digest(reference: &str) -> bool {
    let hex = |text: &str| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    reference.split_once(':').is_some_and(|(name, rest)| !name.is_empty() && hex(rest))
}

fn is_tag(reference: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = reference.as_bytes();
    bytes.first().is_some_and(|first| is_word(*first))
        && bytes.len() <= 128
        && bytes.iter().all(|byte| is_word(*byte) || b".-".contains(byte))
}

/// The path that reaches Harbor: nginx decodes it, resolves its dots and merges its slashes,
/// because its `proxy_pass` has a path of its own (make/photon/prepare/templates/nginx).
pub(super) fn normalised(path: &str) -> Option<String> {
    let decoded = decoded(path)?;
    let mut parts: Vec<&str> = Vec::new();
    let is_folder = decoded.ends_with('/') || decoded.ends_with("/.") || decoded.ends_with("/..");
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    let end = if is_folder && !parts.is_empty() { "/" } else { "" };
    Some(format!("/{}{end}", parts.join("/")))
}

/// `text` without its percent-encoding; nothing when that is broken.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

/// `path` with all but the plainest bytes percent-encoded.
pub(super) fn encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/:@!$&'()*+,;=".contains(&byte) {
            format!("{text}{}", char::from(byte))
        } else {
            format!("{text}%{byte:02X}")
        }
    })
}

/// The pairs of a query as Go's `url.ParseQuery` reads them; nothing for one that it refuses,
/// which src/server/middleware/url answers with 400.
pub(super) fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    if query.contains(';') {
        return None;
    }
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        Some((decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?))
    };
    parts.map(pair).collect()
}
