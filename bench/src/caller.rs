//! A caller of a registry: requests out, answers in, one kept-alive connection, blocking.
//!
//! Methods, targets and bodies in; statuses, fields and bodies out. Redirects, challenges and
//! retries are left to whoever calls: what was sent once is sent once.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::framing::{Body, FIELDS_MAX, Fields};
use crate::memory::Pages;
use crate::wire::{Take, Wire, malformed};

/// Somebody who asks one address, always with the same credential.
pub(crate) struct Caller {
    address: SocketAddr,
    authorization: Option<String>,
    wire: Option<Wire>,
    buffer: Pages,
}

/// What is sent after a request's head.
pub(crate) enum Content<'a> {
    /// Nothing.
    Empty,
    /// Bytes of a media type.
    Bytes(&'a str, &'a [u8]),
    /// A file's first bytes, as many as given, as `application/octet-stream`.
    File(&'a File, u64),
}

/// An answer's head.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The fields.
    pub(crate) fields: Fields,
}

impl Caller {
    /// A caller of `address` with Basic credentials, if any.
    pub(crate) fn new(address: SocketAddr, login: Option<(&str, &str)>) -> Self {
        let basic = |(user, password): (&str, &str)| {
            format!("Basic {}", BASE64_STANDARD.encode([user, ":", password].concat()))
        };
        let buffer = Pages::new(BUFFER_BYTES);
        Self { address, authorization: login.map(basic), wire: None, buffer }
    }

    /// Asks, and collects the answer's body.
    ///
    /// # Errors
    /// When the connection breaks, the answer is malformed, or its body exceeds 4 MiB.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        target: &str,
        content: &Content<'_>,
        sent: &mut dyn FnMut(u64),
    ) -> io::Result<(Answer, Vec<u8>)> {
        let mut bytes = Vec::new();
        let answer = self.exchange(method, target, content, sent, &mut |piece| {
            if bytes.len() + piece.len() > COLLECTED_MAX {
                return Err(malformed("answer too long to collect"));
            }
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok((answer, bytes))
    }

    /// Gets `target`, handing every piece of the body to `piece`.
    ///
    /// # Errors
    /// When the connection breaks, the answer is malformed, or `piece` fails.
    pub(crate) fn stream(
        &mut self,
        target: &str,
        piece: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Answer> {
        self.exchange("GET", target, &Content::Empty, &mut |_| {}, piece)
    }

    fn exchange(
        &mut self,
        method: &str,
        target: &str,
        content: &Content<'_>,
        sent: &mut dyn FnMut(u64),
        piece: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Answer> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::new(TcpStream::connect_timeout(&self.address, CONNECT_WAIT)?, WAIT)?,
        };
        let written = self.write(&mut wire, method, target, content, sent);
        // An answer that came early explains why sending failed; it counts more than the failure.
        let read = read_answer(&mut wire);
        let answer = match (written, read) {
            (_, Ok(answer)) => answer,
            (Err(cause), Err(_)) | (Ok(()), Err(cause)) => return Err(cause),
        };
        let bodiless = method == "HEAD" || matches!(answer.status, 204 | 304);
        let mut body = match answer.fields.framing()? {
            _ if bodiless => Body::NONE,
            Some(body) => body,
            None => Body::UntilClose,
        };
        let keep = body != Body::UntilClose && !answer.fields.lists("connection", "close");
        loop {
            let count = body.read(&mut wire, self.buffer.bytes(), Take::Copy)?;
            if count == 0 {
                break;
            }
            piece(&self.buffer.bytes()[..count])?;
        }
        self.wire = keep.then_some(wire);
        Ok(answer)
    }

    fn write(
        &self,
        wire: &mut Wire,
        method: &str,
        target: &str,
        content: &Content<'_>,
        sent: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if let Some(authorization) = &self.authorization {
            head.push_str(&["Authorization: ", authorization, "\r\n"].concat());
        }
        head.push_str("User-Agent: bench\r\nAccept: */*\r\n");
        let (kind, length) = match content {
            Content::Empty => (None, 0),
            Content::Bytes(kind, bytes) => (Some(*kind), bytes.len() as u64),
            Content::File(_, length) => (Some("application/octet-stream"), *length),
        };
        if let Some(kind) = kind {
            head.push_str(&["Content-Type: ", kind, "\r\n"].concat());
        }
        if !matches!(method, "GET" | "HEAD") {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        wire.send(head.as_bytes(), length > 0)?;
        match content {
            Content::Empty => Ok(()),
            Content::Bytes(_, bytes) => wire.send(bytes, false),
            Content::File(file, length) => wire.send_file(file, 0, *length, sent),
        }
    }
}

/// Reads heads until one is final: interim answers (1xx) say nothing that matters here.
fn read_answer(wire: &mut Wire) -> io::Result<Answer> {
    for _ in 0..INTERIM_MAX {
        let answer = wire.head(parse)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if answer.status >= 200 {
            return Ok(answer);
        }
    }
    Err(malformed("too many interim answers"))
}

fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes).map_err(|_| malformed("bad answer"))? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(used) => {
            let status = response.code.ok_or(malformed("no status"))?;
            Ok(Some((Answer { status, fields: Fields::from_parsed(response.headers) }, used)))
        }
    }
}

const BUFFER_BYTES: usize = 1 << 20;
const COLLECTED_MAX: usize = 4 << 20;
const CONNECT_WAIT: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_secs(120);
const INTERIM_MAX: usize = 8;
