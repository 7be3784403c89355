//! Reads the head of a message, strictly: what two parsers could read differently is refused.
//!
//! Bytes in, [`RequestHead`] or [`ResponseHead`] out, or "more bytes are needed". It never looks
//! at a body, never reads a socket, and copies the head once, into memory that is wiped.

mod byte_set;
mod fields;

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;
use std::sync::LazyLock;

use memchr::{memchr, memchr2_iter, memmem};

use crate::error::Kind;
use crate::limits::Limits;
use crate::wiped::Wiped;

pub(crate) use byte_set::ByteSet;
pub(crate) use fields::{Fields, Line, Span};

/// A method of the distribution API; all others are refused while parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    /// Not one of the distribution API: a proxy is asked for a tunnel (RFC 9110 §9.3.6).
    Connect,
}

impl Method {
    /// As it stands in a request line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }

    /// The method of that name. `TRACE` and other methods in capitals are told from
    /// garbage, because the caller then learns that the method is what is wrong.
    fn of(name: &[u8]) -> Result<Self, Kind> {
        match name {
            b"GET" => Ok(Self::Get),
            b"HEAD" => Ok(Self::Head),
            b"POST" => Ok(Self::Post),
            b"PUT" => Ok(Self::Put),
            b"PATCH" => Ok(Self::Patch),
            b"DELETE" => Ok(Self::Delete),
            b"CONNECT" => Ok(Self::Connect),
            other if !other.is_empty() && other.iter().all(u8::is_ascii_uppercase) => {
                Err(Kind::MethodNotAllowed)
            }
            _ => Err(Kind::Malformed("the request line is not HTTP/1.1")),
        }
    }
}

/// A version of HTTP that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

/// A request's head, as the caller wrote it.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) fields: Fields,
    target: Span,
}

impl RequestHead {
    /// The request-target: visible ASCII, otherwise unchecked.
    pub(crate) fn target(&self) -> &str {
        self.fields.text(self.target)
    }

    /// The `Host` field: RFC 9110 §7.2's grammar without user information or percent signs. Empty
    /// where HTTP/1.0 left it out.
    pub(crate) fn host(&self) -> &str {
        self.fields.get("host").and_then(|host| str::from_utf8(host).ok()).unwrap_or_default()
    }

    /// Whether the caller wants the connection kept (RFC 9112 §9.3).
    pub(crate) fn keep_alive(&self) -> bool {
        keeps_alive(self.version, &self.fields)
    }

    /// Whether the caller waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1).
    /// Fails with [`Kind::ExpectationUnknown`] for any other expectation.
    pub(crate) fn expects_continue(&self) -> Result<bool, Kind> {
        let mut expected = false;
        for value in self.fields.all("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Kind::ExpectationUnknown);
            }
            expected = true;
        }
        Ok(expected && self.version == Version::Http11)
    }
}

/// The head of a registry's answer.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) fields: Fields,
    reason: Span,
}

impl ResponseHead {
    /// The reason phrase: printable ASCII, or empty.
    pub(crate) fn reason(&self) -> &str {
        self.fields.text(self.reason)
    }

    /// Whether the registry keeps the connection (RFC 9112 §9.3).
    pub(crate) fn keep_alive(&self) -> bool {
        keeps_alive(self.version, &self.fields)
    }
}

/// The request head at the front of `bytes` and its length, or `None` while it is incomplete.
///
/// One empty line before the request line is tolerated (RFC 9112 §2.2) and counted. What can be
/// refused before the head is complete, is: garbage, a method that never was one, a target beyond
/// `target_bytes_max`, a head beyond `head_bytes_max`.
pub(crate) fn request(bytes: &[u8], limits: &Limits) -> Result<Option<(RequestHead, usize)>, Kind> {
    let (skipped, bytes) = match bytes.strip_prefix(b"\r\n") {
        Some(rest) => (2, rest),
        None if bytes == b"\r" => return Ok(None),
        None => (0, bytes),
    };
    check_request_line(bytes, limits)?;
    let bounded = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
    let Some(head) = complete_head(bounded).map_err(Kind::Malformed)? else {
        let full = bounded.len() >= limits.head_bytes_max;
        return if full { Err(Kind::HeadTooLarge) } else { Ok(None) };
    };
    // Before the rest is looked at, so that `PRI * HTTP/2.0` is told what is wrong with it.
    let name = memchr(b' ', head).and_then(|end| head.get(..end)).unwrap_or(head);
    let method = Method::of(name)?;

    let mut places = [const { MaybeUninit::uninit() }; FIELDS_CEILING];
    let places = places.get_mut(..limits.head_fields_max.min(FIELDS_CEILING)).unwrap_or_default();
    let mut parsed = httparse::Request::new(&mut []);
    let version = match parsed.parse_with_uninit_headers(head, places) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => version(parsed.version),
        Err(httparse::Error::TooManyHeaders) => return Err(Kind::HeadTooLarge),
        _ => return Err(Kind::Malformed("the request's head is not HTTP/1.1")),
    };
    let target = Span::of(head, parsed.path.unwrap_or_default().as_bytes());
    let fields = Fields::new(Wiped::copied(head), head, parsed.headers);
    check_request_fields(version, &fields)?;
    let head_length = skipped + head.len();
    Ok(Some((RequestHead { method, version, fields, target }, head_length)))
}

/// The head of an answer at the front of `bytes` and its length, or `None` while it is incomplete.
/// All errors are [`Kind::RegistryMalformed`].
pub(crate) fn response(
    bytes: &[u8],
    limits: &Limits,
) -> Result<Option<(ResponseHead, usize)>, Kind> {
    let start = b"HTTP/1.";
    let seen = bytes.get(..start.len()).unwrap_or(bytes);
    if !start.starts_with(seen) {
        return Err(Kind::RegistryMalformed("the registry does not answer in HTTP/1.1"));
    }
    let bounded = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
    let too_large = Kind::RegistryMalformed("the head of the registry's answer is too large");
    let Some(head) = complete_head(bounded).map_err(|_| ANSWER_MALFORMED)? else {
        return if bounded.len() >= limits.head_bytes_max { Err(too_large) } else { Ok(None) };
    };

    let mut places = [const { MaybeUninit::uninit() }; FIELDS_CEILING];
    let places = places.get_mut(..limits.head_fields_max.min(FIELDS_CEILING)).unwrap_or_default();
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, places) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(too_large),
        _ => return Err(ANSWER_MALFORMED),
    }
    let status = parsed.code.unwrap_or_default();
    if !(100..=599).contains(&status) {
        return Err(Kind::RegistryMalformed("the registry's status is none that HTTP knows"));
    }
    let reason = Span::of(head, parsed.reason.unwrap_or_default().as_bytes());
    let version = version(parsed.version);
    let fields = Fields::new(Wiped::copied(head), head, parsed.headers);
    Ok(Some((ResponseHead { status, version, fields, reason }, head.len())))
}

/// Refuses early what can never become a request line of ours; `bytes` may end anywhere.
fn check_request_line(bytes: &[u8], limits: &Limits) -> Result<(), Kind> {
    let front = bytes.get(..=METHOD_BYTES_MAX).unwrap_or(bytes);
    let end = memchr(b' ', front);
    let method = front.get(..end.unwrap_or(front.len())).unwrap_or_default();
    if method.len() > METHOD_BYTES_MAX || !method.iter().all(u8::is_ascii_uppercase) {
        return Err(Kind::Malformed("the request line is not HTTP/1.1"));
    }
    let Some(rest) = end.and_then(|end| bytes.get(end + 1..)) else {
        return Ok(());
    };
    if method.is_empty() {
        return Err(Kind::Malformed("the request line has no method"));
    }
    let length = rest.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(rest.len());
    if length > limits.target_bytes_max {
        return Err(Kind::TargetTooLong);
    }
    match rest.get(length) {
        None | Some(b' ' | b'\r' | b'\n') => Ok(()),
        Some(_) => Err(Kind::Malformed("the request-target has bytes that no URI has")),
    }
}

/// The head at the front of `bytes`, empty line included, or `None` while it is incomplete.
///
/// httparse takes a bare LF for a line's end, and so do some servers, while others do not; that
/// difference is what smuggles requests, so here a line ends with CR LF or the head is refused. A
/// bare CR and NUL httparse refuses itself, once it sees the head.
fn complete_head(bytes: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    let head = EMPTY_LINE.find(bytes).and_then(|place| bytes.get(..place + 4));
    if !ends_lines_with_crlf(head.unwrap_or(bytes)) {
        return Err("a line must end with CR LF");
    }
    if head.is_some() {
        return Ok(head);
    }
    for place in memchr2_iter(b'\r', 0, bytes) {
        match (bytes.get(place), bytes.get(place + 1)) {
            (Some(b'\r'), None | Some(b'\n')) => {}
            (Some(b'\r'), _) => return Err("a line must end with CR LF"),
            _ => return Err("a head has no NUL"),
        }
    }
    Ok(None)
}

static EMPTY_LINE: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));

/// Whether every LF follows a CR. Told of all bytes, without a look after each whether to go on:
/// many are done at a time then.
fn ends_lines_with_crlf(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    let paired =
        pairs.fold(true, |all, (before, byte)| all & ((*byte != b'\n') | (*before == b'\r')));
    paired && bytes.first() != Some(&b'\n')
}

/// What RFC 9112 demands of a request's fields beyond their grammar.
fn check_request_fields(version: Version, fields: &Fields) -> Result<(), Kind> {
    // CGI-like servers read `Content_Length` as `Content-Length`.
    if fields.has_byte(b'_') && fields.iter().any(|(name, _)| name.contains(&b'_')) {
        return Err(Kind::Malformed("a field's name has an underscore"));
    }
    let mut hosts = fields.all("host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(Kind::Malformed("the Host field is not a host")),
        (Some(_), Some(_)) => Err(Kind::Malformed("there are two Host fields")),
        (None, _) if version == Version::Http10 => Ok(()),
        (None, _) => Err(Kind::Malformed("the Host field is missing")),
    }
}

/// Whether `host` is a name or an address, perhaps with a port: what RFC 3986 §3.2.2 allows, less
/// what no registry's name needs (percent signs and sub-delimiters).
pub(crate) fn is_host(host: &[u8]) -> bool {
    let (name_is_good, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let end = memchr(b']', rest).unwrap_or(rest.len());
            let (address, rest) = rest.split_at_checked(end).unwrap_or_default();
            let address = str::from_utf8(address).unwrap_or_default();
            (address.parse::<Ipv6Addr>().is_ok(), rest.strip_prefix(b"]").unwrap_or(b"?"))
        }
        None => {
            let end = memchr(b':', host).unwrap_or(host.len());
            let (name, port) = host.split_at_checked(end).unwrap_or_default();
            (!name.is_empty() && HOST_BYTES.has_all(name), port)
        }
    };
    let port_is_good = match port.strip_prefix(b":") {
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
            str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
        }
        Some(_) => false,
        None => port.is_empty(),
    };
    name_is_good && port_is_good
}

static HOST_BYTES: ByteSet = ByteSet::alphanumeric_and(b"-._");

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::Http10 } else { Version::Http11 }
}

fn keeps_alive(version: Version, fields: &Fields) -> bool {
    match version {
        Version::Http11 => !fields.has_token("connection", b"close"),
        Version::Http10 => {
            fields.has_token("connection", b"keep-alive")
                && !fields.has_token("connection", b"close")
        }
    }
}

const ANSWER_MALFORMED: Kind =
    Kind::RegistryMalformed("the head of the registry's answer is not HTTP/1.1");

/// Room for fields on the stack: `head_fields_max` counts up to here.
const FIELDS_CEILING: usize = 256;

/// Longer than any registered method.
const METHOD_BYTES_MAX: usize = 24;

#[cfg(test)]
mod tests;
