//! Requests as the registry reads them, and replies as it writes them.
//!
//! A [`Wire`] in; [`Head`], [`Incoming`] and sent [`Reply`]s out. Nothing here knows a blob from a
//! manifest; what a path means is `route.rs`'s affair.

use std::io;
use std::sync::Arc;

use super::store::Blob;
use crate::framing::{Body, FIELDS_MAX, Fields};
use crate::memory::Pages;
use crate::wire::{Take, Wire, malformed};

/// One request's head.
pub(crate) struct Head {
    /// The method, as written.
    pub(crate) method: String,
    /// The target, as written.
    pub(crate) target: String,
    /// The target's path, percent-decoded.
    pub(crate) path: String,
    /// The target's query, percent-decoded pair by pair, in order.
    pub(crate) query: Vec<(String, String)>,
    /// The fields.
    pub(crate) fields: Fields,
    /// The authority that the sender meant; `Location`s are built from it.
    pub(crate) host: String,
    /// Whether it came over TLS.
    pub(crate) secured: bool,
    /// Whether the connection may serve another request.
    pub(crate) keep: bool,
}

impl Head {
    /// The first value of the query parameter `name`.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_str())
    }

    /// An absolute URL of this registry, as the sender of this request sees it.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.secured { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.host)
    }
}

/// Reads one request's head and how its body is framed; `None` at the connection's clean end.
///
/// # Errors
/// `InvalidData` for what RFC 9112 forbids (answer 400 and close), else what the socket says.
pub(crate) fn read_head(wire: &mut Wire) -> io::Result<Option<(Head, Body)>> {
    let Some(head) = wire.head(parse)? else {
        return Ok(None);
    };
    let head = Head { secured: wire.is_secured(), ..head };
    let body = head.fields.framing()?.unwrap_or(Body::NONE);
    Ok(Some((head, body)))
}

pub(super) fn parse(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let used = match request.parse(bytes).map_err(|_| malformed("bad head"))? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(used) => used,
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(malformed("bad request line"));
    };
    let fields = Fields::from_parsed(request.headers);
    let host = fields.only("host").ok_or(malformed("one Host is needed"))?.to_owned();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let head = Head {
        method: method.to_owned(),
        target: target.to_owned(),
        path: decode(path, false),
        query: query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect(),
        host,
        secured: false,
        keep: request.version == Some(1) && !fields.lists("connection", "close"),
        fields,
    };
    Ok(Some((head, used)))
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (decode(name, true), decode(value, true))
}

fn decode(text: &str, plus_is_space: bool) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = (byte == b'%').then(|| hex(bytes.get(at + 1)).zip(hex(bytes.get(at + 2))));
        match pair.flatten() {
            Some((high, low)) => {
                decoded.extend(u8::try_from(high * 16 + low));
                at += 3;
            }
            None => {
                decoded.push(if plus_is_space && byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The body of the request that is being answered, read only as far as somebody wants it.
pub(crate) struct Incoming<'a> {
    wire: &'a mut Wire,
    body: Body,
    buffer: &'a mut Option<Pages>,
    waits_for_continue: bool,
}

impl<'a> Incoming<'a> {
    /// The body that follows `head`. `buffer` is the connection's own and made when first needed.
    pub(crate) fn new(
        wire: &'a mut Wire,
        body: Body,
        head: &Head,
        buffer: &'a mut Option<Pages>,
    ) -> Self {
        let waits_for_continue = head.fields.lists("expect", "100-continue") && !body.done();
        Self { wire, body, buffer, waits_for_continue }
    }

    /// Hands every piece of the body to `piece`, or, when `take` says so, drops it unread; returns
    /// how many bytes it was.
    ///
    /// # Errors
    /// What the connection or `piece` says; the connection is then of no further use.
    pub(crate) fn each(
        &mut self,
        take: Take,
        mut piece: impl FnMut(&[u8], usize) -> io::Result<()>,
    ) -> io::Result<u64> {
        self.welcome()?;
        let mut total = 0;
        if self.body.done() {
            return Ok(total);
        }
        let pages = self.buffer.get_or_insert_with(|| Pages::new(BODY_BUFFER_BYTES));
        loop {
            let count = self.body.read(self.wire, pages.bytes(), take)?;
            if count == 0 {
                return Ok(total);
            }
            piece(&pages.bytes()[..count], count)?;
            total += count as u64;
        }
    }

    /// The whole body, or `None` when it is longer than `max` bytes.
    ///
    /// # Errors
    /// What the connection says.
    pub(crate) fn all(&mut self, max: usize) -> io::Result<Option<Vec<u8>>> {
        self.welcome()?;
        self.body.read_all(self.wire, max)
    }

    fn welcome(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.waits_for_continue) {
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n", false)?;
        }
        Ok(())
    }

    /// Sends `reply` and sees to what nobody read of the body; says whether the connection can
    /// serve another request.
    ///
    /// # Errors
    /// What the connection says.
    pub(crate) fn finish(mut self, head: &Head, reply: &Reply) -> io::Result<bool> {
        let short = matches!(self.body, Body::Length(left) if left <= DRAINED_MAX);
        let drained = self.body.done() || (short && !self.waits_for_continue);
        let keep = head.keep && drained;
        reply.send(self.wire, head.method == "HEAD", keep)?;
        if !drained {
            self.wire.linger();
            return Ok(false);
        }
        let mut scratch = [0; 4096];
        while self.body.read(self.wire, &mut scratch, Take::Drop)? > 0 {}
        Ok(keep)
    }
}

/// What is answered.
pub(crate) struct Reply {
    /// The status.
    pub(crate) status: u16,
    fields: Vec<(&'static str, String)>,
    payload: Payload,
}

enum Payload {
    Bytes(Vec<u8>),
    Blob { blob: Arc<Blob>, from: u64, length: u64 },
}

impl Reply {
    /// A reply without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, fields: Vec::new(), payload: Payload::Bytes(Vec::new()) }
    }

    /// A reply with a body of media type `kind`.
    pub(crate) fn bytes(status: u16, kind: &str, bytes: Vec<u8>) -> Self {
        let fields = vec![("Content-Type", kind.to_owned())];
        Self { status, fields, payload: Payload::Bytes(bytes) }
    }

    /// `length` bytes of `blob`, from `from` on.
    pub(crate) fn blob(status: u16, blob: Arc<Blob>, from: u64, length: u64) -> Self {
        let fields = vec![("Content-Type", "application/octet-stream".to_owned())];
        Self { status, fields, payload: Payload::Blob { blob, from, length } }
    }

    /// A JSON reply.
    pub(crate) fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::bytes(status, "application/json; charset=utf-8", value.to_string().into_bytes())
    }

    /// A refusal as the OCI distribution specification words it ("Error Codes").
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let error = serde_json::json!({ "code": code, "message": message });
        Self::json(status, &serde_json::json!({ "errors": [error] }))
    }

    /// The same reply with one more field. A value that could break out of its line is left out.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.contains(['\r', '\n', '\0']) {
            self.fields.push((name, value));
        }
        self
    }

    /// The value of the field `name`.
    #[cfg(test)]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }

    fn send(&self, wire: &mut Wire, bodiless: bool, keep: bool) -> io::Result<()> {
        let length = match &self.payload {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Blob { length, .. } => *length,
        };
        let mut bytes = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        bytes.push_str("Docker-Distribution-Api-Version: registry/2.0\r\n");
        for (name, value) in &self.fields {
            bytes.push_str(&[name, ": ", value, "\r\n"].concat());
        }
        if !matches!(self.status, 204 | 304) {
            bytes.push_str(&format!("Content-Length: {length}\r\n"));
        }
        bytes.push_str(if keep { "\r\n" } else { "Connection: close\r\n\r\n" });
        let mut bytes = bytes.into_bytes();
        if bodiless || matches!(self.status, 204 | 304) {
            return wire.send(&bytes, false);
        }
        match &self.payload {
            Payload::Bytes(body) => {
                bytes.extend_from_slice(body);
                wire.send(&bytes, false)
            }
            Payload::Blob { blob, from, length } => {
                wire.send(&bytes, *length > 0)?;
                blob.send(wire, *from, *length)
            }
        }
    }

    /// Sends a reply to a request that could not be read; the connection ends with it.
    pub(crate) fn send_last(&self, wire: &mut Wire) {
        if self.send(wire, false, false).is_ok() {
            wire.linger();
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        _ => "Internal Server Error",
    }
}

/// The buffer that a body is received through.
const BODY_BUFFER_BYTES: usize = 1 << 20;
/// What is read and dropped of a body that nobody wanted, to keep its connection.
const DRAINED_MAX: u64 = 256 << 10;
