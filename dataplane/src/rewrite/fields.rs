//! Which fields pass, in which direction.
//!
//! The caller's token, cookies, and whatever a registry builds addresses from stay here; so do the
//! registry's challenges and cookies. Framing fields are never copied: they are written anew.

use crate::parse::Fields;

/// Copies the caller's fields that the registry may see. `plain`: the answer is to be whole and not
/// encoded, so that it can be looked through.
pub(super) fn of_request(fields: &Fields, plain: bool, head: &mut Vec<u8>) {
    let names_some = fields.get("connection").is_some();
    for (name, value) in fields.iter() {
        let named = names_some && fields.has_token("connection", name);
        if named || is_hop_by_hop(name) || is_callers_own(name) {
            continue;
        }
        if plain && is_any(name, &["accept-encoding", "range", "if-range"]) {
            continue;
        }
        // Harbor takes this agent for a part of itself and keeps no record of what it does.
        let is_agent = name.eq_ignore_ascii_case(b"user-agent");
        let value = match value {
            b"harbor-registry-client" if is_agent => b"harbor-connector",
            other => other,
        };
        push(head, name, value);
    }
    if plain {
        push(head, b"Accept-Encoding", b"identity");
    }
}

/// Copies the registry's fields that the caller may see; `Location` and `Link` are not among them.
pub(super) fn of_response(fields: &Fields, head: &mut Vec<u8>) {
    let names_some = fields.get("connection").is_some();
    for (name, value) in fields.iter() {
        let named = names_some && !is_end_to_end(name) && fields.has_token("connection", name);
        if is_hop_by_hop(name) || is_registrys_own(name) || named {
            continue;
        }
        push(head, name, value);
    }
}

/// One field line.
pub(super) fn push(head: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    head.extend_from_slice(name);
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// Fields of one connection (RFC 9110 §7.6.1), framing among them.
fn is_hop_by_hop(name: &[u8]) -> bool {
    starts(name, "proxy-")
        || is_any(
            name,
            &[
                "connection",
                "content-length",
                "http2-settings",
                "keep-alive",
                "te",
                "trailer",
                "transfer-encoding",
                "upgrade",
            ],
        )
}

/// Fields of a request that end here: who the caller is, and what could turn the registry's idea of
/// its own address, of the method or of the session.
fn is_callers_own(name: &[u8]) -> bool {
    ["x-forwarded-", "x-harbor-", "xsrf-", "x-original-"].iter().any(|start| starts(name, start))
        || is_any(
            name,
            &[
                "authorization",
                "cookie",
                "cookie2",
                "expect",
                "forwarded",
                "host",
                "vendortype",
                "x-http-method",
                "x-http-method-override",
                "x-method-override",
                "x-real-ip",
                "x-request-id",
                "x-rewrite-url",
                "x-xsrf-token",
            ],
        )
}

/// Fields of an answer that end here: challenges, sessions, promises about a host name that is not
/// the caller's, and addresses that nobody rewrites.
fn is_registrys_own(name: &[u8]) -> bool {
    is_any(
        name,
        &[
            "alt-svc",
            "authentication-info",
            "clear-site-data",
            "content-location",
            "link",
            "location",
            "public-key-pins",
            "refresh",
            "set-cookie",
            "set-cookie2",
            "strict-transport-security",
            "www-authenticate",
            "x-harbor-csrf-token",
        ],
    )
}

/// Fields that a registry's clients cannot do without: a `Connection` that names one is mistaken.
fn is_end_to_end(name: &[u8]) -> bool {
    ["content-", "docker-", "oci-", "ratelimit-"].iter().any(|start| starts(name, start))
        || is_any(name, &["accept-ranges", "etag", "range", "retry-after", "warning"])
}

fn is_any(name: &[u8], known: &[&str]) -> bool {
    known.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

fn starts(name: &[u8], start: &str) -> bool {
    name.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start.as_bytes()))
}
