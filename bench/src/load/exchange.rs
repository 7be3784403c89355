//! A caller of the load: one exchange after another over one kept-alive connection.
//!
//! An [`Ask`] in, an [`Answer`] or a [`Fault`] out. The framing of answers follows RFC 9112 §6 and
//! §7.1 strictly; bodies are counted always, and hashed or collected where asked for. Nothing is
//! sent twice: what failed is a fault.

use std::rc::Rc;
use std::sync::Arc;

use ring::digest::{Context as Hash, SHA256};

use super::answer::{Answer, Framing, chunk, parse};
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

impl Ask<'_> {
    /// Method and path. A query is left out: it may hold what opens an upload.
    pub(crate) fn named(&self) -> String {
        format!("{} {}", self.method, self.path.split('?').next().unwrap_or_default())
    }
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

    /// Sends head and body; false when the answer came before all had left.
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
        if !sent? {
            return Ok(false);
        }
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    if !line.send(bytes).await? {
                        return Ok(false);
                    }
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

const INTERIM_MAX: usize = 8;
const SAID_MAX: usize = 4 << 10;
const SEND_MAX: usize = 1 << 20;
const TOGETHER_MAX: usize = 4 << 10;
