//! Which fields pass, in which direction.
//!
//! The caller's token, cookies, and whatever a registry builds addresses from stay here; so do the
//! registry's challenges and cookies. Framing fields are never copied: they are written anew.

use crate::parse::{Fields, Line};

/// Copies the caller's fields that the registry may see. `plain`: the answer is to be whole and not
/// encoded, so that it can be looked through.
pub(super) fn of_request(fields: &Fields, plain: bool, head: &mut Vec<u8>) {
    let names_some = fields.get("connection").is_some();
    for line in fields.lines() {
        let name = line.name;
        let named = names_some && fields.has_token("connection", name);
        if named || is_hop_by_hop(name) || is_callers_own(name) {
            continue;
        }
        if plain && asks_for_less(name) {
            continue;
        }
        // Harbor takes this agent for a part of itself and keeps no record of what it does.
        match line.value {
            b"harbor-registry-client" if name.eq_ignore_ascii_case(b"user-agent") => {
                push(head, name, b"harbor-connector");
            }
            _ => push_line(head, line),
        }
    }
    if plain {
        push(head, b"Accept-Encoding", b"identity");
    }
}

/// Copies the registry's fields that the caller may see; `Location` and `Link` are not among them.
pub(super) fn of_response(fields: &Fields, head: &mut Vec<u8>) {
    let names_some = fields.get("connection").is_some();
    for line in fields.lines() {
        let name = line.name;
        let named = names_some && !is_end_to_end(name) && fields.has_token("connection", name);
        if is_hop_by_hop(name) || is_registrys_own(name) || named {
            continue;
        }
        push_line(head, line);
    }
}

/// A line that passes: most are written as we would write them.
fn push_line(head: &mut Vec<u8>, line: Line<'_>) {
    match line.plain {
        Some(bytes) => head.extend_from_slice(bytes),
        None => push(head, line.name, line.value),
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
    const NAMES: Names<8> = Names::new([
        "connection",
        "content-length",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]);
    starts(name, "proxy-") || NAMES.has(name)
}

/// Fields of a request that end here: who the caller is, and what could turn the registry's idea of
/// its own address, of the method or of the session.
fn is_callers_own(name: &[u8]) -> bool {
    const NAMES: Names<14> = Names::new([
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
    ]);
    let beginnings = ["x-forwarded-", "x-harbor-", "xsrf-", "x-original-"];
    NAMES.has(name) || starts(name, "x") && beginnings.iter().any(|start| starts(name, start))
}

/// Fields of an answer that end here: challenges, sessions, promises about a host name that is not
/// the caller's, and addresses that nobody rewrites.
fn is_registrys_own(name: &[u8]) -> bool {
    const NAMES: Names<13> = Names::new([
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
    ]);
    NAMES.has(name)
}

/// What keeps an answer from being looked through: parts of it, or it encoded.
fn asks_for_less(name: &[u8]) -> bool {
    const NAMES: Names<3> = Names::new(["accept-encoding", "range", "if-range"]);
    NAMES.has(name)
}

/// Fields that a registry's clients cannot do without: a `Connection` that names one is mistaken.
fn is_end_to_end(name: &[u8]) -> bool {
    const NAMES: Names<5> =
        Names::new(["accept-ranges", "etag", "range", "retry-after", "warning"]);
    let beginnings = ["content-", "docker-", "oci-", "ratelimit-"];
    NAMES.has(name) || beginnings.iter().any(|start| starts(name, start))
}

/// Some names of fields. Most names that are looked for here are not among them, and their length
/// tells.
struct Names<const N: usize> {
    names: [&'static str; N],
    /// A bit for each length that one of them has; none is longer than 63 bytes.
    lengths: u64,
}

impl<const N: usize> Names<N> {
    const fn new(names: [&'static str; N]) -> Self {
        let mut lengths = 0;
        let mut rest = names.as_slice();
        while let [first, others @ ..] = rest {
            lengths |= 1 << first.len();
            rest = others;
        }
        Self { names, lengths }
    }

    fn has(&self, name: &[u8]) -> bool {
        let known =
            u32::try_from(name.len()).ok().and_then(|length| self.lengths.checked_shr(length));
        known.is_some_and(|lengths| lengths & 1 == 1)
            && self.names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    }
}

fn starts(name: &[u8], start: &str) -> bool {
    name.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start.as_bytes()))
}
