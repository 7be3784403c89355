//! An answer's head, and where its body ends.
//!
//! Bytes in, an [`Answer`] or a [`Fault`] out. Framing follows RFC 9112 §6 and §7.1 strictly; it
//! shares no code with the proxy that it helps to measure.

use super::exchange::Ask;
use super::line::{Line, Scratch};
use super::tally::Fault;
use crate::wire::malformed;

/// What came.
#[derive(Default)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The body's bytes, or what a HEAD says they would be.
    pub(crate) length: u64,
    /// The digest of the body as it arrived, where it was hashed.
    pub(crate) hashed: Option<String>,
    /// `Docker-Content-Digest`.
    pub(crate) digest: Option<String>,
    /// `Location`.
    pub(crate) location: Option<String>,
    /// The first bytes of the body where it tells of a failure.
    pub(crate) said: Vec<u8>,
    /// How much of a body is to come.
    pub(crate) framing: Framing,
    /// Whether the connection may serve another exchange.
    pub(crate) keep: bool,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// Where the connection ends.
    #[default]
    UntilClose,
}

impl Answer {
    /// Fails unless the answer to `ask` has this status.
    ///
    /// # Errors
    /// With the status as its cause and the beginning of what the answer said.
    pub(crate) fn demand(&self, ask: &Ask<'_>, status: u16) -> Result<(), Fault> {
        if self.status == status {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&self.said);
        let line: String = said.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect();
        let cause = format!("status {}", self.status);
        Err(Fault::new(cause, format!("{}: answered {} {line}", ask.named(), self.status)))
    }
}

/// The head at the beginning of `bytes` and its length; `None` where it is not whole yet.
///
/// # Errors
/// For whatever two parsers could read differently (RFC 9112 §6.3).
pub(crate) fn parse(bytes: &[u8], is_head: bool) -> Result<Option<(Answer, usize)>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(bytes).map_err(|_| malformed("the head is malformed"))?;
    let httparse::Status::Complete(used) = parsed else {
        return Ok(None);
    };
    let status = response.code.ok_or_else(|| malformed("no status"))?;
    let mut answer = Answer { status, keep: response.version == Some(1), ..Answer::default() };
    let (mut length, mut chunked) = (None, false);
    for field in response.headers.iter() {
        let value = String::from_utf8_lossy(field.value);
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let digits = value.bytes().all(|byte| byte.is_ascii_digit());
            let count = value.parse().ok().filter(|_| digits && length.is_none());
            length = Some(count.ok_or_else(|| malformed("a bad or repeated content-length"))?);
        } else if is("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case("chunked") {
                return Err(malformed("a transfer coding other than one chunked").into());
            }
            chunked = true;
        } else if is("connection") {
            answer.keep &= !value.to_ascii_lowercase().contains("close");
        } else if is("location") {
            answer.location = Some(value.into_owned());
        } else if is("docker-content-digest") {
            answer.digest = Some(value.into_owned());
        }
    }
    answer.framing = match (length, chunked) {
        (Some(_), true) => return Err(malformed("both a length and chunks").into()),
        _ if is_head || matches!(status, 100..=199 | 204 | 304) => Framing::Length(0),
        (Some(length), false) => Framing::Length(length),
        (None, true) => Framing::Chunked,
        (None, false) => Framing::UntilClose,
    };
    answer.length = length.unwrap_or_default();
    Ok(Some((answer, used)))
}

/// Reads to the next chunk's data; how much of it there is, 0 after the last.
///
/// # Errors
/// When the chunks are malformed (RFC 9112 §7.1) or end too early.
pub(crate) async fn chunk(
    line: &mut Line,
    scratch: &Scratch,
    after_data: bool,
) -> Result<u64, Fault> {
    if after_data && !text(line, scratch).await?.is_empty() {
        return Err(malformed("a chunk longer than its size").into());
    }
    let size = text(line, scratch).await?;
    let size = size.split(';').next().unwrap_or_default();
    let hex = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
    let size = u64::from_str_radix(size, 16).ok().filter(|_| hex);
    let size = size.ok_or_else(|| malformed("a bad chunk size"))?;
    for _ in 0..FIELDS_MAX {
        if size > 0 || text(line, scratch).await?.is_empty() {
            return Ok(size);
        }
    }
    Err(malformed("too many trailers").into())
}

/// The next line, without its end.
async fn text(line: &mut Line, scratch: &Scratch) -> Result<String, Fault> {
    loop {
        let ahead = line.ahead();
        if let Some(at) = ahead.windows(2).position(|pair| pair == b"\r\n") {
            let text = String::from_utf8_lossy(ahead.get(..at).unwrap_or_default()).into_owned();
            line.used(at + 2);
            return Ok(text);
        }
        if line.fill(scratch).await? == 0 {
            return Err(Fault::new("short body", "the body ended within its chunks"));
        }
    }
}

const FIELDS_MAX: usize = 96;
const SAID_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(head: &str, is_head: bool) -> Option<Framing> {
        let parsed = parse(head.as_bytes(), is_head).ok()??;
        assert_eq!(parsed.1, head.len());
        Some(parsed.0.framing)
    }

    #[test]
    fn a_body_ends_where_the_head_says() {
        let check = |fields: &str, expected: Option<Framing>| {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(framing(&head, false), expected, "{fields}");
        };
        check("Content-Length: 7\r\n", Some(Framing::Length(7)));
        check("transfer-encoding: chunked\r\n", Some(Framing::Chunked));
        check("", Some(Framing::UntilClose));
        check("Content-Length: 7\r\nContent-Length: 7\r\n", None);
        check("Content-Length: +7\r\n", None);
        check("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", None);
        check("Transfer-Encoding: gzip, chunked\r\n", None);
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", true),
            Some(Framing::Length(0))
        );
        assert_eq!(framing("HTTP/1.1 204 No\r\n\r\n", false), Some(Framing::Length(0)));
    }
}
