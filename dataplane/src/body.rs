//! Where a message ends (RFC 9112 §6): the framing that a head announces, and a decoder of it.
//!
//! Heads and bytes in, decisions out. It never copies or keeps payload, and its state is a few
//! bytes however the input is cut.

mod chunks;

use crate::error::Kind;
use crate::parse::{Fields, Method, RequestHead, ResponseHead, Version};

use chunks::Chunks;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// `Content-Length`, so many bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the registry closes its side; never a request's.
    UntilClose,
}

/// How the body of a request is delimited. Everything that two parsers might delimit differently is
/// refused, and so is a body on a method that has none in the distribution API.
pub(crate) fn of_request(head: &RequestHead) -> Result<Framing, Kind> {
    let framing = match (transfer_coding(&head.fields), content_length(&head.fields)) {
        (Coding::Absent, Ok(None)) => Framing::None,
        (Coding::Absent, Ok(Some(length))) => Framing::Length(length),
        (Coding::Absent, Err(why)) => return Err(Kind::Malformed(why)),
        _ if head.version == Version::Http10 => {
            return Err(Kind::Malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        (Coding::Chunked, Ok(None)) => Framing::Chunked,
        (Coding::Other, Ok(None)) => return Err(Kind::CodingUnknown),
        (Coding::Odd, Ok(None)) => {
            return Err(Kind::Malformed("Transfer-Encoding must be one field, and chunked"));
        }
        (_, _) => {
            return Err(Kind::Malformed("Transfer-Encoding and Content-Length exclude each other"));
        }
    };
    match (head.method, framing) {
        (Method::Get | Method::Head | Method::Delete, Framing::Length(0)) => Ok(Framing::None),
        (Method::Get | Method::Head | Method::Delete, Framing::Length(_) | Framing::Chunked) => {
            Err(Kind::Malformed("this method has no body here"))
        }
        _ => Ok(framing),
    }
}

/// How the body of the answer to `method` is delimited: method and status first, fields second
/// (RFC 9112 §6.3). All errors are [`Kind::RegistryMalformed`].
pub(crate) fn of_response(method: Method, head: &ResponseHead) -> Result<Framing, Kind> {
    let announced = match (transfer_coding(&head.fields), content_length(&head.fields)) {
        (Coding::Absent, Ok(None)) => Framing::UntilClose,
        (Coding::Absent, Ok(Some(length))) => Framing::Length(length),
        (Coding::Chunked, Ok(None)) if head.version == Version::Http11 => Framing::Chunked,
        _ => {
            return Err(Kind::RegistryMalformed(
                "the length of the registry's answer is ambiguous",
            ));
        }
    };
    match head.status {
        100..=199 | 204 | 304 => Ok(Framing::None),
        _ if method == Method::Head => Ok(Framing::None),
        _ => Ok(announced),
    }
}

/// What the `Transfer-Encoding` fields say.
enum Coding {
    Absent,
    Chunked,
    /// A list of registered codings that ends with `chunked` (RFC 9112 §7): legal, not spoken here.
    Other,
    /// Anything else.
    Odd,
}

fn transfer_coding(fields: &Fields) -> Coding {
    let mut values = fields.all("transfer-encoding");
    let value = match (values.next(), values.next()) {
        (None, _) => return Coding::Absent,
        (Some(_), Some(_)) => return Coding::Odd,
        (Some(value), None) => value,
    };
    if value.eq_ignore_ascii_case(b"chunked") {
        return Coding::Chunked;
    }
    let known = |coding: &[u8]| {
        let registered: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
        registered.iter().any(|name| coding.eq_ignore_ascii_case(name))
    };
    let mut codings = value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let last_is_chunked = codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    if last_is_chunked && codings.all(known) { Coding::Other } else { Coding::Odd }
}

/// The one `Content-Length`, digits only and at most 2^63-1, as servers written in C and Go count.
fn content_length(fields: &Fields) -> Result<Option<u64>, &'static str> {
    let mut values = fields.all("content-length");
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(_), Some(_)) => return Err("there are two Content-Length fields"),
        (Some(value), None) => value,
    };
    let wrong = "Content-Length is not a length";
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(wrong);
    }
    let length = str::from_utf8(value).ok().and_then(|digits| digits.parse::<i64>().ok());
    length.and_then(|length| u64::try_from(length).ok()).map(Some).ok_or(wrong)
}

/// What stands at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many bytes of framing: drop them.
    Skip(usize),
    /// So many bytes of payload, perhaps fewer than a whole chunk.
    Payload(usize),
    /// Nothing can be said without more input.
    More,
    /// The body is complete; what follows is the next message.
    End,
}

/// Where in the chunked coding the next byte stands, as far as others need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkPlace {
    /// Before the first digit of a chunk's size.
    Head,
    /// In a chunk's data, of which so many bytes are left; never 0.
    Data(u64),
    /// Between a chunk's data and its CR LF.
    AfterData,
    /// Anywhere else.
    Elsewhere,
}

/// Follows one body from its first byte to its last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    Closed,
    Broken(&'static str),
}

impl Decoder {
    /// A decoder that stands before the body's first byte.
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Length(0),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Chunks::default()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// What the front of `input` is. The bytes that the step names count as seen: the caller takes
    /// exactly those off and asks again. Once it failed it fails for good.
    pub(crate) fn step(&mut self, input: &[u8]) -> Result<Step, &'static str> {
        match &mut self.state {
            State::Length(0) | State::Closed => Ok(Step::End),
            State::Broken(why) => Err(why),
            State::Length(_) | State::UntilClose if input.is_empty() => Ok(Step::More),
            State::Length(left) => {
                let count =
                    usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left = left.saturating_sub(count as u64);
                Ok(Step::Payload(count))
            }
            State::UntilClose => Ok(Step::Payload(input.len())),
            State::Chunked(chunks) => {
                let step = chunks.step(input);
                if let Err(why) = step {
                    self.state = State::Broken(why);
                }
                step
            }
        }
    }

    /// Whether the body is complete.
    pub(crate) fn is_done(&self) -> bool {
        match &self.state {
            State::Length(left) => *left == 0,
            State::Chunked(chunks) => chunks.is_done(),
            State::Closed => true,
            State::UntilClose | State::Broken(_) => false,
        }
    }

    /// Payload bytes that are still to come, where that is known from the start.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match &self.state {
            State::Length(left) => Some(*left),
            _ => None,
        }
    }

    /// Where in the chunked coding the next byte stands; `None` for other framings.
    pub(crate) fn chunk_place(&self) -> Option<ChunkPlace> {
        match &self.state {
            State::Chunked(chunks) => Some(chunks.place()),
            _ => None,
        }
    }

    /// `count` bytes of the chunk under way went by without being shown to [`Decoder::step`].
    pub(crate) fn advance(&mut self, count: u64) {
        if let State::Chunked(chunks) = &mut self.state {
            chunks.advance(count);
        }
    }

    /// The peer closed its side. Fails unless that is how this body ends, or it had ended before.
    pub(crate) fn end_of_stream(&mut self) -> Result<(), &'static str> {
        match &self.state {
            State::UntilClose => {
                self.state = State::Closed;
                Ok(())
            }
            _ if self.is_done() => Ok(()),
            State::Broken(why) => Err(why),
            _ => Err("the body ended before its end"),
        }
    }
}

#[cfg(test)]
mod tests;
