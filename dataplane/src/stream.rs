//! The exchange on the wire: the request to the registry, its answer back, both bodies at once.
//!
//! An upload and the registry's answer are awaited together, so an early refusal reaches a caller
//! that is still sending. What the registry could have seen is never sent a second time; a body
//! that breaks off on one side breaks off on the other.

use std::cell::Cell;
use std::mem;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use zeroize::Zeroizing;

use crate::accept::Inbound;
use crate::body::{self, Framing};
use crate::buffer::{Buffer, FIRST_BYTES};
use crate::connect::Outlet;
use crate::error::Kind;
use crate::io::within;
use crate::limits::Limits;
use crate::parse::{self, Method, ResponseHead};
use crate::rewrite::Outbound;
use crate::transport::{SMALL_BYTES_MAX, Transport, UNBOUNDED};
use crate::wiped::Wiped;
use crate::worker::Core;

mod lookahead;
mod passage;
mod sink;
mod splice;

pub(crate) use passage::Broken;
use passage::Passage;

/// A registry's answer, its body still to come.
pub(crate) struct Answered {
    /// Its head.
    pub(crate) head: ResponseHead,
    /// How its body is framed.
    pub(crate) framing: Framing,
    /// Whether it came before the request's body was at its end.
    pub(crate) early: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The registry closed the connection without a byte of an answer.
    Closed,
    /// Anything else.
    Failed(Kind),
}

/// Sends a request without a body, wipes its head, and reads the head of its answer.
pub(crate) async fn ask(
    outlet: &mut Outlet,
    outbound: &mut Outbound,
    limits: &Limits,
) -> Result<Answered, Unanswered> {
    ask_with(outlet, mem::take(&mut outbound.head), outbound.method, limits).await
}

/// The same for a `head` of a request with `method` that is not the caller's own.
pub(crate) async fn ask_with(
    outlet: &mut Outlet,
    head: Wiped,
    method: Method,
    limits: &Limits,
) -> Result<Answered, Unanswered> {
    let sent = outlet.transport.send(head, limits.answer_wait).await;
    let wait = match method {
        // A connection that broke while we sent may still hold the answer that came before.
        _ if sent.is_err() => LAST_WORD_WAIT,
        // The PUT that closes an upload has the registry hash, perhaps copy, all of it.
        Method::Put => limits.upload_answer_wait,
        _ => limits.answer_wait,
    };
    match within(wait, pin!(read_answer(outlet, method, limits))).await {
        Some(answered) => answered,
        None if sent.is_ok() => Err(Unanswered::Failed(Kind::RegistrySilent)),
        None => Err(Unanswered::Closed),
    }
}

/// Sends a request with its body, wipes its head, and reads the head of its answer, which may come
/// early. `moved` tells how many of the body's bytes the registry may have seen.
pub(crate) async fn upload(
    inbound: &mut Inbound,
    outlet: &mut Outlet,
    outbound: &mut Outbound,
    bytes_max: u64,
    moved: &Cell<u64>,
    core: &Core,
) -> Result<Answered, Kind> {
    let limits = &*core.limits;
    let Outlet { transport, buffer, .. } = outlet;
    let passage = Passage {
        from: &inbound.transport,
        input: &mut inbound.buffer,
        to: transport,
        head: mem::take(&mut outbound.head),
        framing: outbound.framing,
        chunked_out: outbound.framing == Framing::Chunked,
        moved,
        bytes_max,
        limits,
        pipes: &core.pipes,
    };
    let sending = pin!(passage.run());
    let answer = pin!(Reading { transport, buffer }.answer(outbound.method, limits));
    let interrupted = || match moved.get() {
        0 => Kind::RegistryClosed,
        _ => Kind::UploadInterrupted,
    };
    let (answered, early) = match select(sending, answer).await {
        Either::Left((Ok(()), answer)) => (within(limits.upload_answer_wait, answer).await, false),
        // The registry stopped taking the body: perhaps it has said why.
        Either::Left((Err(Broken::SinkGone), answer)) => {
            (within(LAST_WORD_WAIT, answer).await, true)
        }
        Either::Left((Err(Broken::SourceEnded), _)) => return Err(Kind::CallerGone),
        Either::Left((Err(Broken::TooLong), _)) => return Err(Kind::ManifestTooLarge),
        Either::Left((Err(Broken::SourceMalformed(why)), _)) => return Err(Kind::Malformed(why)),
        // The body may have gone and its passage only have given way to others before it said so.
        Either::Right((answered, unsent)) => {
            (Some(answered), unsent.now_or_never() != Some(Ok(())))
        }
    };
    match answered {
        Some(Ok(answered)) => Ok(Answered { early, ..answered }),
        Some(Err(Unanswered::Failed(kind))) if moved.get() == 0 => Err(kind),
        _ => Err(interrupted()),
    }
}

/// Sends the caller `head`, and after it the body that follows `answered`.
pub(crate) async fn relay(
    inbound: &mut Inbound,
    outlet: &mut Outlet,
    head: Vec<u8>,
    framing: Framing,
    chunked_out: bool,
    moved: &Cell<u64>,
    core: &Core,
) -> Result<(), Broken> {
    if let Some(length) = small_and_here(&outlet.buffer, framing) {
        let body = outlet.buffer.filled().get(..length).unwrap_or_default();
        let mut answer = Wiped::with_room(head.len() + length);
        answer.extend_from_slice(&head);
        answer.extend_from_slice(body);
        outlet.buffer.consume(length);
        moved.set(u64::try_from(length).unwrap_or(u64::MAX));
        let sent = inbound.transport.send(answer, core.limits.body_progress_wait).await;
        return sent.map_err(|_| Broken::SinkGone);
    }
    let passage = Passage {
        from: &outlet.transport,
        input: &mut outlet.buffer,
        to: &inbound.transport,
        head: Wiped::new(head),
        framing,
        chunked_out,
        moved,
        bytes_max: u64::MAX,
        limits: &core.limits,
        pipes: &core.pipes,
    };
    // On the heap, because most requests are answered by what came whole with its head.
    Box::pin(passage.run()).await
}

/// How long a body is that came whole with its head, and may leave with it.
fn small_and_here(buffer: &Buffer, framing: Framing) -> Option<usize> {
    let length = match framing {
        Framing::None => 0,
        Framing::Length(length) => usize::try_from(length).ok()?,
        Framing::Chunked | Framing::UntilClose => return None,
    };
    (length <= buffer.filled().len().min(SMALL_BYTES_MAX / 2)).then_some(length)
}

/// Reads a body that nobody is to see, so that its connection can be used again. `false`: it was
/// too long, not there yet or broken, and the connection cannot. Not waited for: some registries
/// announce more than they send (docker-registry's 416 has the length of the blob).
pub(crate) async fn swallow(outlet: &mut Outlet, framing: Framing, limits: &Limits) -> bool {
    let mut decoder = body::Decoder::new(framing);
    let mut left = limits.error_body_bytes_max;
    let swallowed = async {
        loop {
            match decoder.step(outlet.buffer.filled()) {
                Ok(body::Step::Skip(count) | body::Step::Payload(count)) => {
                    outlet.buffer.consume(count);
                    left = left.saturating_sub(count);
                }
                Ok(body::Step::End) => return true,
                Ok(body::Step::More) if left > 0 => {
                    let spare = outlet.buffer.spare();
                    match outlet.transport.read(spare, SWALLOW_WAIT).await {
                        Ok(0) | Err(_) => return false,
                        Ok(count) => outlet.buffer.note_read(count),
                    }
                }
                Ok(body::Step::More) | Err(_) => return false,
            }
        }
    };
    framing != Framing::UntilClose && within(SWALLOW_WAIT, pin!(swallowed)).await.unwrap_or(false)
}

/// Reads a body of at most `bytes_max` into memory, to be wiped with it. `None`: it is longer,
/// breaks off, or does not end in the time that an answer may take.
pub(crate) async fn gather(
    outlet: &mut Outlet,
    framing: Framing,
    bytes_max: usize,
    limits: &Limits,
) -> Option<Zeroizing<Vec<u8>>> {
    let room = match framing {
        Framing::Length(length) => {
            usize::try_from(length).ok().filter(|room| *room <= bytes_max)?
        }
        _ => bytes_max,
    };
    let mut decoder = body::Decoder::new(framing);
    // All of it at once: a vector that grew would leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    let gathered = async {
        loop {
            match decoder.step(outlet.buffer.filled()).ok()? {
                body::Step::End => return Some(()),
                body::Step::Skip(count) => outlet.buffer.consume(count),
                body::Step::Payload(count) => {
                    if body.len() + count > room {
                        return None;
                    }
                    body.extend_from_slice(outlet.buffer.filled().get(..count)?);
                    outlet.buffer.consume(count);
                }
                body::Step::More => {
                    let wait = limits.body_progress_wait;
                    match outlet.transport.read(outlet.buffer.spare(), wait).await.ok()? {
                        0 => return decoder.end_of_stream().ok(),
                        count => outlet.buffer.note_read(count),
                    }
                }
            }
        }
    };
    within(limits.answer_wait, pin!(gathered)).await.flatten()?;
    Some(body)
}

async fn read_answer(
    outlet: &mut Outlet,
    method: Method,
    limits: &Limits,
) -> Result<Answered, Unanswered> {
    let Outlet { transport, buffer, .. } = outlet;
    // Whoever gives up waiting gives the connection up.
    if buffer.is_empty() && !matches!(transport.fill(buffer, FIRST_BYTES).await, Ok(1..)) {
        return Err(Unanswered::Closed);
    }
    Reading { transport, buffer }.answer(method, limits).await
}

/// The receiving half of a connection to a registry.
struct Reading<'a> {
    transport: &'a Transport,
    buffer: &'a mut Buffer,
}

impl Reading<'_> {
    /// The head of the final answer; interim ones (RFC 9110 §15.2) are dropped. Waits without end:
    /// whoever calls knows how long an answer may take.
    async fn answer(mut self, method: Method, limits: &Limits) -> Result<Answered, Unanswered> {
        let failed = Unanswered::Failed;
        let mut interim = 0;
        loop {
            let parsed = parse::response(self.buffer.filled(), limits).map_err(failed)?;
            let Some((head, length)) = parsed else {
                self.read_more().await?;
                continue;
            };
            self.buffer.consume(length);
            if head.status >= 200 {
                let framing = body::of_response(method, &head).map_err(failed)?;
                return Ok(Answered { head, framing, early: false });
            }
            interim += 1;
            if head.status == 101 || interim > limits.interim_answers_max {
                return Err(failed(Kind::RegistryMalformed("interim answers without end")));
            }
        }
    }

    async fn read_more(&mut self) -> Result<(), Unanswered> {
        let begun = !self.buffer.is_empty();
        if let Transport::Plain(socket) = self.transport {
            // Nothing is held ready for an answer that may be as long in coming as its upload; what
            // is wrong with the connection the read will say.
            let _ = socket.readable(UNBOUNDED).await;
        }
        match self.transport.read(self.buffer.spare(), UNBOUNDED).await {
            Ok(count) if count > 0 => {
                self.buffer.note_read(count);
                Ok(())
            }
            _ if begun => {
                Err(Unanswered::Failed(Kind::RegistryMalformed("the answer's head broke off")))
            }
            _ => Err(Unanswered::Closed),
        }
    }
}

/// How long a body that nobody is to see may take.
const SWALLOW_WAIT: Duration = Duration::from_millis(50);
/// How long we listen to a registry that has stopped listening to us.
const LAST_WORD_WAIT: Duration = Duration::from_secs(2);
