//! Fields, and where a body ends: what both sides of HTTP/1.1 need to agree on.
//!
//! Parsed heads and a [`Wire`] in; [`Fields`] and body bytes out. Framing follows RFC 9112 §6 and
//! §7.1 strictly. It shares no code with the proxy it helps to measure, so the two cannot agree on
//! the same mistake.

use std::io;

use crate::wire::{Take, Wire, malformed};

/// A message's fields, in order, names as they were written.
#[derive(Default)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    /// Owned copies of what httparse found.
    pub(crate) fn from_parsed(parsed: &[httparse::Header<'_>]) -> Self {
        let owned = |field: &httparse::Header<'_>| {
            (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned())
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
        self.0.iter().find(|field| field.0.eq_ignore_ascii_case(name)).map(|field| field.1.as_str())
    }

    /// The value of the field `name`, if it occurs exactly once.
    pub(crate) fn only(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|field| field.0.eq_ignore_ascii_case(name));
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
        match (codings.next(), codings.next(), lengths.next(), lengths.next()) {
            (None, _, None, _) => Ok(None),
            (Some(coding), None, None, _) if coding.eq_ignore_ascii_case("chunked") => {
                Ok(Some(Body::Chunked(Chunk::Size)))
            }
            (None, _, Some(digits), None) if is_decimal(digits) => {
                let length = digits.parse().map_err(|_| malformed("content-length too large"))?;
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

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The fields that one head may have.
pub(crate) const FIELDS_MAX: usize = 128;
const TRAILERS_MAX: usize = 16;
