//! One blocking TCP connection that carries HTTP/1.1: heads and bodies in, bytes and files out.
//!
//! A connected socket goes in; parsed heads, body bytes and sent bytes come out. It knows framing
//! (RFC 9112 §6 and §7.1, strictly) and nothing of what a message means. It shares no code with
//! the proxy it helps to measure, so the two cannot agree on the same mistake.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::fs::sendfile;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A message's fields, in order, names as they were written.
#[derive(Default)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    /// Owned copies of what httparse found.
    pub(crate) fn from_parsed(parsed: &[httparse::Header<'_>]) -> Self {
        let owned = |field: &httparse::Header<'_>| {
            (
                field.name.to_owned(),
                String::from_utf8_lossy(field.value).into_owned(),
            )
        };
        Self(parsed.iter().map(owned).collect())
    }

    /// Every value of the field `name`, compared without case.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let named = move |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|field| field.1.as_str())
    }

    /// The first value of the field `name`.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|field| field.0.eq_ignore_ascii_case(name))
            .map(|field| field.1.as_str())
    }

    /// The value of the field `name`, if it occurs exactly once.
    pub(crate) fn only(&self, name: &str) -> Option<&str> {
        let mut named = self
            .0
            .iter()
            .filter(|field| field.0.eq_ignore_ascii_case(name));
        let first = named.next()?;
        named.next().is_none().then_some(first.1.as_str())
    }

    /// Whether a list-valued field holds `word`, compared without case.
    pub(crate) fn lists(&self, name: &str, word: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|w| w.trim().eq_ignore_ascii_case(word))
    }

    /// How the body after these fields is framed; `None` where nothing says so.
    ///
    /// # Errors
    /// `InvalidData` for whatever two parsers could read differently: both kinds of framing, a
    /// repeated or malformed length, any transfer coding but a single `chunked`.
    pub(crate) fn framing(&self) -> io::Result<Option<Body>> {
        let mut codings = self.all("transfer-encoding");
        let mut lengths = self.all("content-length");
        match (
            codings.next(),
            codings.next(),
            lengths.next(),
            lengths.next(),
        ) {
            (None, _, None, _) => Ok(None),
            (Some(coding), None, None, _) if coding.eq_ignore_ascii_case("chunked") => {
                Ok(Some(Body::Chunked(Chunk::Size)))
            }
            (None, _, Some(digits), None) if is_decimal(digits) => {
                let length = digits
                    .parse()
                    .map_err(|_| malformed("content-length too large"))?;
                Ok(Some(Body::Length(length)))
            }
            _ => Err(malformed("ambiguous framing")),
        }
    }
}

/// What is still to come of one body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// This many bytes.
    Length(u64),
    /// Chunks, up to the last one.
    Chunked(Chunk),
    /// Everything until the peer closes; answers only.
    UntilClose,
}

/// Where in a chunked body the reader stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Before a chunk's size line.
    Size,
    /// Inside a chunk, with this many bytes left.
    Data(u64),
    /// After the trailer section.
    End,
}

/// What to do with a body's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// Copy them into the buffer.
    Copy,
    /// Let the kernel drop them; the buffer only says how many at most.
    Drop,
}

impl Body {
    /// A body without a byte.
    pub(crate) const NONE: Self = Self::Length(0);

    /// Whether nothing is left to read.
    pub(crate) fn done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::End))
    }

    /// The body's next bytes, at most as many as `into` holds; 0 at its end.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closes before the end, `InvalidData` for a malformed chunk,
    /// and what the socket says.
    pub(crate) fn read(
        &mut self,
        wire: &mut Wire,
        into: &mut [u8],
        take: Take,
    ) -> io::Result<usize> {
        loop {
            match self {
                Self::Length(0) | Self::Chunked(Chunk::End) => return Ok(0),
                Self::UntilClose => return wire.read_some(into, take),
                Self::Length(left) => return read_of(left, wire, into, take),
                Self::Chunked(Chunk::Data(left)) => {
                    let count = read_of(left, wire, into, take)?;
                    if *left == 0 {
                        if !wire.line()?.is_empty() {
                            return Err(malformed("chunk longer than its size"));
                        }
                        *self = Self::Chunked(Chunk::Size);
                    }
                    return Ok(count);
                }
                Self::Chunked(chunk @ Chunk::Size) => *chunk = next_chunk(wire)?,
            }
        }
    }

    /// The whole body, which must not exceed `max` bytes; `None` when it does.
    ///
    /// # Errors
    /// As [`Body::read`].
    pub(crate) fn read_all(&mut self, wire: &mut Wire, max: usize) -> io::Result<Option<Vec<u8>>> {
        let mut whole = Vec::new();
        let mut piece = vec![0; 16 << 10];
        loop {
            let count = self.read(wire, &mut piece, Take::Copy)?;
            if count == 0 {
                return Ok(Some(whole));
            }
            if whole.len() + count > max {
                return Ok(None);
            }
            whole.extend_from_slice(&piece[..count]);
        }
    }
}

fn read_of(left: &mut u64, wire: &mut Wire, into: &mut [u8], take: Take) -> io::Result<usize> {
    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(into.len());
    let count = wire.read_some(&mut into[..most], take)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    *left -= count as u64;
    Ok(count)
}

/// Reads a size line and, after the last chunk, the trailer section, which is dropped. Extensions
/// are refused: nobody in this field sends them.
fn next_chunk(wire: &mut Wire) -> io::Result<Chunk> {
    let line = wire.line()?;
    let all_hex = line.bytes().all(|byte| byte.is_ascii_hexdigit());
    if line.is_empty() || line.len() > 16 || !all_hex {
        return Err(malformed("bad chunk size"));
    }
    match u64::from_str_radix(&line, 16).map_err(|_| malformed("bad chunk size"))? {
        0 => {
            for _ in 0..TRAILERS_MAX {
                if wire.line()?.is_empty() {
                    return Ok(Chunk::End);
                }
            }
            Err(malformed("too many trailers"))
        }
        size => Ok(Chunk::Data(size)),
    }
}

/// A connection and what was read from it ahead of need.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    /// Takes over a connected socket; reads and writes give up after `wait` without a byte.
    ///
    /// # Errors
    /// What setting the socket's options says.
    pub(crate) fn new(stream: TcpStream, wait: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        Ok(Self {
            stream,
            buffer: vec![0; READ_AHEAD],
            start: 0,
            end: 0,
        })
    }

    /// The next head, as `parse` makes it from the bytes so far (with how many it used); `None`
    /// when the peer closed before a first byte.
    ///
    /// # Errors
    /// `InvalidData` for a malformed or endless head, `UnexpectedEof` for half a one.
    pub(crate) fn head<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> io::Result<Option<(T, usize)>>,
    ) -> io::Result<Option<T>> {
        loop {
            if let Some((value, used)) = parse(&self.buffer[self.start..self.end])? {
                self.start += used;
                return Ok(Some(value));
            }
            if self.end - self.start >= HEAD_BYTES_MAX {
                return Err(malformed("head too long"));
            }
            if self.fill()? == 0 {
                let clean = self.start == self.end;
                return if clean {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// Sends `bytes`; `more` tells the kernel that further bytes follow at once.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn send(&mut self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        let flags = if more {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        } | SendFlags::NOSIGNAL;
        while !bytes.is_empty() {
            match send(&self.stream, bytes, flags) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(())
    }

    /// Sends `length` bytes of `file` from `offset`, copied by nobody; `sent` hears of progress.
    ///
    /// # Errors
    /// What the socket says; `UnexpectedEof` when the file is shorter.
    pub(crate) fn send_file(
        &mut self,
        file: &File,
        mut offset: u64,
        length: u64,
        mut sent: impl FnMut(u64),
    ) -> io::Result<()> {
        let end = offset + length;
        while offset < end {
            let most = usize::try_from(end - offset)
                .unwrap_or(usize::MAX)
                .min(SEND_FILE_MAX);
            match sendfile(&self.stream, file, Some(&mut offset), most) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => sent(count as u64),
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be sent, then reads and drops what the peer still sends, so that
    /// it sees the answer and not a reset. At most 64 MiB, at most five seconds without a byte.
    pub(crate) fn linger(&mut self) {
        let half_closed = self.stream.shutdown(Shutdown::Write).is_ok();
        let bounded = self.stream.set_read_timeout(Some(LINGER_WAIT)).is_ok();
        let mut scratch = vec![0; 64 << 10];
        let mut left = LINGER_BYTES_MAX;
        while half_closed && bounded && left > 0 {
            match self.read_some(&mut scratch, Take::Drop) {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    }

    fn read_some(&mut self, into: &mut [u8], take: Take) -> io::Result<usize> {
        let ahead = &self.buffer[self.start..self.end];
        if !ahead.is_empty() {
            let count = ahead.len().min(into.len());
            into[..count].copy_from_slice(&ahead[..count]);
            self.start += count;
            return Ok(count);
        }
        loop {
            let read = match take {
                Take::Copy => self.stream.read(into),
                // On TCP this flag means: count the bytes, copy none.
                Take::Drop => recv(&self.stream, &mut *into, RecvFlags::TRUNC)
                    .map(|(_, count)| count)
                    .map_err(io::Error::from),
            };
            match read {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            let ahead = &self.buffer[self.start..self.end];
            if let Some(at) = ahead.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&ahead[..at]).into_owned();
                self.start += at + 2;
                return Ok(line);
            }
            if ahead.len() > LINE_BYTES_MAX {
                return Err(malformed("line too long"));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.end + READ_AHEAD, 0);
        }
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
                Ok(count) => {
                    self.end += count;
                    return Ok(count);
                }
            }
        }
    }
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A peer broke the protocol.
pub(crate) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The fields that one head may have.
pub(crate) const FIELDS_MAX: usize = 128;
const HEAD_BYTES_MAX: usize = 64 << 10;
const LINE_BYTES_MAX: usize = 8 << 10;
const TRAILERS_MAX: usize = 16;
const READ_AHEAD: usize = 16 << 10;
const SEND_FILE_MAX: usize = 8 << 20;
const LINGER_BYTES_MAX: usize = 64 << 20;
const LINGER_WAIT: Duration = Duration::from_secs(5);
