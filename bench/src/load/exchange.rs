//! A caller of the load: one exchange after another over one kept-alive connection.
//!
//! An [`Ask`] in, an [`Answer`] or a [`Fault`] out. The framing of answers follows RFC 9112 §6 and
//! §7.1 strictly; bodies are counted always, and hashed or collected where asked for. Nothing is
//! sent twice: what failed is a fault.

use std::rc::Rc;
use std::sync::Arc;

use ring::digest::{Context as Hash, SHA256};

use super::content::Piece;
use super::line::{Line, Look, Scratch};
use super::tally::{Fault, Tally};
use super::target::Endpoint;
use crate::registry::store::spelled;
use crate::wire::malformed;

/// One connection's end on this side.
pub(crate) struct Caller {
    endpoint: Arc<Endpoint>,
    tally: Arc<Tally>,
    scratch: Rc<Scratch>,
    line: Option<Line>,
    head: Vec<u8>,
}

/// What is asked.
#[derive(Default)]
pub(crate) struct Ask<'a> {
    /// The method.
    pub(crate) method: &'static str,
    /// The path and query.
    pub(crate) path: &'a str,
    /// The value of `Authorization`, if any.
    pub(crate) authorization: Option<&'a str>,
    /// The media type of what is sent.
    pub(crate) kind: Option<&'static str>,
    /// What is sent.
    pub(crate) pieces: Vec<Piece<'a>>,
    /// Whether `pieces` are chunks already.
    pub(crate) chunked: bool,
    /// What becomes of the answer's body.
    pub(crate) take: Take,
}

/// What becomes of an answer's body. One that tells of a failure is always collected.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Take {
    /// It is counted and dropped.
    #[default]
    Count,
    /// It is hashed, too.
    Hash,
}

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
    framing: Framing,
    keep: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    #[default]
    UntilClose,
}

impl Caller {
    /// A caller without a connection yet.
    pub(crate) fn new(endpoint: Arc<Endpoint>, tally: Arc<Tally>, scratch: Rc<Scratch>) -> Self {
        Self { endpoint, tally, scratch, line: None, head: Vec::new() }
    }

    /// Asks and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails, or the answer is malformed or shorter than it says.
    pub(crate) async fn ask(&mut self, ask: &Ask<'_>) -> Result<Answer, Fault> {
        let answer = self.begin(ask).await?;
        self.finish(ask, answer).await
    }

    /// Asks and reads the answer's head; the body is still to come.
    ///
    /// # Errors
    /// When the connection fails or the head is malformed.
    pub(crate) async fn begin(&mut self, ask: &Ask<'_>) -> Result<Answer, Fault> {
        self.connect(None).await?;
        let written = self.write(ask).await;
        // An answer that came early explains why sending failed; it counts more than the failure.
        let read = self.read_head(ask.method == "HEAD").await;
        self.tally.exchanged();
        match (written, read) {
            (Ok(whole), Ok(mut answer)) => {
                answer.keep &= whole;
                Ok(answer)
            }
            (Err(_), Ok(mut answer)) if answer.status >= 300 => {
                answer.keep = false;
                Ok(answer)
            }
            (Err(fault), _) | (Ok(_), Err(fault)) => {
                self.close();
                Err(fault)
            }
        }
    }

    /// Dials unless there is a connection that still holds.
    ///
    /// # Errors
    /// When nobody answers.
    pub(crate) async fn connect(&mut self, window: Option<u32>) -> Result<(), Fault> {
        // A kept connection may have been closed in between, which every caller must expect.
        if self.line.as_mut().is_some_and(Line::is_over) {
            self.close();
        }
        if self.line.is_none() {
            self.line = Some(Line::dial(&self.endpoint, window).await.map_err(Fault::from)?);
            self.tally.connected(1);
        }
        Ok(())
    }

    /// Whether the connection is open still.
    pub(crate) fn is_open(&mut self) -> bool {
        self.line.as_mut().is_some_and(|line| !line.is_over())
    }

    /// Gives up the connection.
    pub(crate) fn close(&mut self) {
        if self.line.take().is_some() {
            self.tally.connected(-1);
        }
    }

    /// Reads at most `most` bytes of a body of known length; 0 at the connection's end.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) async fn some(&mut self, most: u64) -> Result<usize, Fault> {
        let line = self.line.as_mut().ok_or_else(no_line)?;
        let count = line.take(&self.scratch, most, None).await?;
        self.tally.arrived(count);
        Ok(count)
    }

    async fn write(&mut self, ask: &Ask<'_>) -> Result<bool, Fault> {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        self.endpoint.write_head(&mut head, ask);
        let line = self.line.as_mut().ok_or_else(no_line)?;
        // A small body goes with its head.
        let mut pieces = ask.pieces.as_slice();
        while let [Piece::Bytes(bytes), rest @ ..] = pieces
            && bytes.len() <= TOGETHER_MAX
        {
            head.extend_from_slice(bytes);
            self.tally.sent(bytes.len());
            pieces = rest;
        }
        let sent = line.send(&head).await;
        self.head = head;
        sent?;
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    line.send(bytes).await?;
                    self.tally.sent(bytes.len());
                }
                Piece::File(file, from, count) => {
                    let (mut at, end) = (*from, from + count);
                    while at < end {
                        let most = usize::try_from(end - at).unwrap_or(usize::MAX);
                        let count = line.send_file(file, at, most.min(SEND_MAX)).await?;
                        self.tally.sent(count);
                        at += count as u64;
                        if count == 0 && line.has_news() {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    async fn read_head(&mut self, is_head: bool) -> Result<Answer, Fault> {
        let line = self.line.as_mut().ok_or_else(no_line)?;
        for _ in 0..INTERIM_MAX {
            let answer = loop {
                if let Some((answer, used)) = parse(line.ahead(), is_head)? {
                    line.used(used);
                    break answer;
                }
                let begun = !line.ahead().is_empty();
                if line.fill(&self.scratch).await? == 0 {
                    let said = if begun { "within the answer's head" } else { "without an answer" };
                    return Err(Fault::new("cut short", format!("the connection ended {said}")));
                }
            };
            if answer.status >= 200 {
                return Ok(answer);
            }
        }
        Err(malformed("too many interim answers").into())
    }

    /// Reads the body that belongs to `answer`.
    ///
    /// # Errors
    /// When it is shorter than it should be, or its chunks are malformed.
    pub(crate) async fn finish(
        &mut self,
        ask: &Ask<'_>,
        mut answer: Answer,
    ) -> Result<Answer, Fault> {
        if ask.method != "HEAD" {
            match self.body(ask.take, &mut answer).await {
                Ok(length) => answer.length = length,
                Err(fault) => {
                    self.close();
                    return Err(fault);
                }
            }
        }
        if !answer.keep || answer.framing == Framing::UntilClose {
            self.close();
        }
        Ok(answer)
    }

    async fn body(&mut self, take: Take, answer: &mut Answer) -> Result<u64, Fault> {
        let line = self.line.as_mut().ok_or_else(no_line)?;
        let mut hash = (take == Take::Hash).then(|| Hash::new(&SHA256));
        let failed = answer.status >= 300;
        let mut arrived = 0;
        loop {
            let left = match answer.framing {
                Framing::Length(length) => length - arrived,
                Framing::UntilClose => u64::MAX,
                Framing::Chunked => chunk(line, &self.scratch, arrived > 0).await?,
            };
            let mut rest = left;
            while rest > 0 {
                let said = &mut answer.said;
                let mut look = |bytes: &[u8]| {
                    if let Some(hash) = &mut hash {
                        hash.update(bytes);
                    }
                    let room = SAID_MAX.saturating_sub(said.len()).min(bytes.len());
                    said.extend_from_slice(bytes.get(..room).unwrap_or_default());
                };
                let look: Look<'_> =
                    if failed || take == Take::Hash { Some(&mut look) } else { None };
                let count = line.take(&self.scratch, rest, look).await?;
                self.tally.arrived(count);
                arrived += count as u64;
                rest -= count as u64;
                if count == 0 && answer.framing == Framing::UntilClose {
                    rest = 0;
                } else if count == 0 {
                    let said = format!("the body ended after {arrived} bytes");
                    return Err(Fault::new("short body", said));
                }
            }
            if left == 0 || answer.framing != Framing::Chunked {
                answer.hashed = hash.map(|hash| spelled("sha256", hash.finish().as_ref()));
                return Ok(arrived);
            }
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.close();
    }
}

impl Endpoint {
    fn write_head(&self, head: &mut Vec<u8>, ask: &Ask<'_>) {
        let mut put = |parts: &[&str]| {
            for part in parts {
                head.extend_from_slice(part.as_bytes());
            }
        };
        put(&[ask.method, " ", &self.before_path, ask.path, " HTTP/1.1\r\nHost: "]);
        put(&[&self.authority, "\r\nUser-Agent: bench\r\nAccept: */*\r\n", &self.proxy_field]);
        if let Some(authorization) = ask.authorization {
            put(&["Authorization: ", authorization, "\r\n"]);
        }
        if let Some(kind) = ask.kind {
            put(&["Content-Type: ", kind, "\r\n"]);
        }
        if ask.chunked {
            put(&["Transfer-Encoding: chunked\r\n"]);
        } else if !matches!(ask.method, "GET" | "HEAD") {
            let length = |piece: &Piece<'_>| match piece {
                Piece::File(_, _, count) => *count,
                Piece::Bytes(bytes) => bytes.len() as u64,
            };
            let length: u64 = ask.pieces.iter().map(length).sum();
            put(&["Content-Length: ", &length.to_string(), "\r\n"]);
        }
        put(&["\r\n"]);
    }
}

fn no_line() -> Fault {
    Fault::new("broken connection", "there is no connection")
}

fn parse(bytes: &[u8], is_head: bool) -> Result<Option<(Answer, usize)>, Fault> {
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
async fn chunk(line: &mut Line, scratch: &Scratch, after_data: bool) -> Result<u64, Fault> {
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
const INTERIM_MAX: usize = 8;
const SAID_MAX: usize = 4 << 10;
const SEND_MAX: usize = 1 << 20;
const TOGETHER_MAX: usize = 4 << 10;
