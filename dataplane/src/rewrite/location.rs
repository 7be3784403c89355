//! Addresses that a registry answers with, in the terms of the caller who asked.
//!
//! A URI reference in, a path-absolute one out, which is right whatever host and scheme the caller
//! used. It never lets a reference through that leads elsewhere; whether one may, says `answer`.

use super::ReturnPath;
use crate::counters::Route;
use crate::target::Form;
use crate::target::{api, name};
use crate::vocabulary::{Origin, Scheme};

/// What a registry's reference leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A path behind this connector, as the caller asks for it.
    Here(String),
    /// The same, written with https where the connector's address says http.
    Secured(String),
    /// A well-formed http or https URL of another host.
    Elsewhere,
}

/// Where `reference` leads. `None` if it is malformed, ambiguous, or leaves the API.
pub(super) fn place(reference: &[u8], back: &ReturnPath) -> Option<Place> {
    let text = str::from_utf8(reference).ok()?;
    if text.is_empty() || !text.bytes().all(is_reference_byte) || text.starts_with("//") {
        return None;
    }
    let (head, query) = match text.split_once('?') {
        Some((head, query)) => (head, Some(query)),
        None => (text, None),
    };
    let mut secured = false;
    let path = if head.starts_with('/') {
        below_base(head, back)?.to_owned()
    } else if let Some((scheme, rest)) = head.split_once("://") {
        let scheme = scheme_of(scheme)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !is_ours(authority, scheme, back)? {
            return Some(Place::Elsewhere);
        }
        secured = scheme == Scheme::Https && back.names.origin.scheme == Scheme::Http;
        below_base(path, back)?.to_owned()
    } else if head.is_empty() {
        back.asked.rest().to_owned()
    } else {
        // `http:evil` has a scheme and no authority; some read it as a host.
        if head.split('/').next().is_some_and(|first| first.contains(':')) {
            return None;
        }
        let (directory, _) = back.asked.rest().rsplit_once('/')?;
        [directory, "/", head].concat()
    };
    if !stays_within(&path, back) {
        return None;
    }
    let path = for_caller(&path, query, back);
    Some(if secured { Place::Secured(path) } else { Place::Here(path) })
}

/// Whether a URI reference without a fragment may hold `byte` (RFC 3986 §2, appendix A): visible
/// ASCII without `"<>\^`{|}` and `#`, as ranges, because an upload's state is a thousand bytes
/// long.
pub(crate) fn is_reference_byte(byte: u8) -> bool {
    let punctuation = matches!(byte, b'!' | b'=' | b']' | b'_' | b'~');
    punctuation || matches!(byte, b'$'..=b';' | b'?'..=b'[' | b'a'..=b'z')
}

/// The path without the base path of the connector's address, if it has it: a registry that does
/// not know what it is mounted under leaves it out.
fn below_base<'a>(path: &'a str, back: &ReturnPath) -> Option<&'a str> {
    let stripped = path.strip_prefix(back.names.base_path.as_ref());
    stripped.filter(|rest| rest.starts_with('/')).or(Some(path)).filter(|path| !path.is_empty())
}

/// http or https, in any case.
pub(crate) fn scheme_of(text: &str) -> Option<Scheme> {
    match text {
        _ if text.eq_ignore_ascii_case("http") => Some(Scheme::Http),
        _ if text.eq_ignore_ascii_case("https") => Some(Scheme::Https),
        _ => None,
    }
}

/// Whether `authority` is the registry's: by name and port as written, since a registry behind a
/// load balancer that ends TLS writes `http://` before its own name. `None` if it is malformed.
fn is_ours(authority: &str, scheme: Scheme, back: &ReturnPath) -> Option<bool> {
    let (host, port) = split_authority(authority)?;
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let same = |origin: &Origin| {
        let as_written = port.is_none() && origin.port == origin.scheme.default_port();
        let as_meant = port.unwrap_or(scheme.default_port()) == origin.port;
        *origin.host == *host && (as_written || as_meant)
    };
    Some(same(&back.names.origin) || back.names.aliases.iter().any(same))
}

/// Host without brackets, and port; `None` for user information and everything else odd.
pub(crate) fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => {
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port)
        }
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            (!host.is_empty() && host.bytes().all(inner)).then_some((host, port))?
        }
    };
    let port = match port.strip_prefix(':') {
        // Neither 0 nor a leading one: some read those as octal.
        Some(digits) if digits.starts_with('0') => return None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        None if port.is_empty() => None,
        _ => return None,
    };
    Some((host, port))
}

/// Whether `path` stays in the API that was asked, however it is normalised.
fn stays_within(path: &str, back: &ReturnPath) -> bool {
    let root = if back.route == Route::Api { api::ROOT } else { "/v2/" };
    let Some(rest) = path.strip_prefix(root) else {
        return false;
    };
    let is_whole =
        |segment: &str| !matches!(segment, "" | "." | "..") && escapes_are_plain(segment);
    // An upload's address may end with a slash, as the request did.
    let segments = rest.strip_suffix('/').unwrap_or(rest);
    // In the host form such a path would name another connector when it comes back.
    let names_another = back.form == Form::Host && name::split_prefix(rest).is_some();
    segments.split('/').all(is_whole) && !names_another
}

/// Whether no percent sign hides a dot, a slash, a percent sign or a control character. Harbor's
/// own `%252F` may stand in a path of its API.
fn escapes_are_plain(segment: &str) -> bool {
    let Some((_, escapes)) = segment.split_once('%') else {
        return true;
    };
    escapes.split('%').all(|part| {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(b'%') => part.get(2..4).is_some_and(|next| next.eq_ignore_ascii_case("2f")),
            Some(byte) => byte.is_ascii_graphic() && !b"./\\".contains(&byte),
            None => false,
        }
    })
}

/// `path` under the form by which the caller named the connector.
fn for_caller(path: &str, query: Option<&str>, back: &ReturnPath) -> String {
    let (question_mark, query) = query.map_or(("", ""), |query| ("?", query));
    match (back.form, path.strip_prefix("/v2")) {
        (Form::Host | Form::Forward, _) => [path, question_mark, query].concat(),
        (Form::Path, Some(rest)) => {
            ["/v2", &back.names.prefix, rest, question_mark, query].concat()
        }
        (Form::Path, None) => [&back.names.prefix, path, question_mark, query].concat(),
    }
}
