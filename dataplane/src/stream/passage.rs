//! One body on its way from one connection to another, in constant memory.
//!
//! Bytes already read with the head go first. What has a length keeps it; chunks are checked and
//! framed anew, never passed on raw. Nothing is read while anything read is still unsent, so a slow
//! receiver holds its sender back. How a passage broke is told apart by whose doing it was; how the
//! other side is to learn of it is the caller's business: a broken body never ends cleanly.

use std::cell::Cell;
use std::rc::Rc;

use super::sink::Sink;
use super::splice;
use crate::body::Framing;
use crate::buffer::{Block, Buffer};
use crate::io::copied_max;
use crate::limits::Limits;
use crate::pipes::Pipes;
use crate::transport::Transport;
use crate::wiped::Wiped;

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Its sender closed the connection, or moved nothing for `body_progress_wait`.
    SourceEnded,
    /// Its framing breaks RFC 9112.
    SourceMalformed(&'static str),
    /// It is longer than it may be.
    TooLong,
    /// Its receiver closed the connection, or took nothing for `body_progress_wait`.
    SinkGone,
}

/// One body's way.
pub(crate) struct Passage<'a> {
    /// Where it comes from.
    pub(crate) from: &'a Transport,
    /// What has been read from there already; what follows the body is left in it.
    pub(crate) input: &'a mut Buffer,
    /// Where it goes.
    pub(crate) to: &'a Transport,
    /// The head to be sent before it, and wiped: it may hold a credential.
    pub(crate) head: Wiped,
    /// How it arrives.
    pub(crate) framing: Framing,
    /// Whether it leaves in chunks.
    pub(crate) chunked_out: bool,
    /// Payload bytes that have gone, or may have gone, to the receiver.
    pub(crate) moved: &'a Cell<u64>,
    /// How long the payload may be.
    pub(crate) bytes_max: u64,
    /// The bounds.
    pub(crate) limits: &'a Limits,
    /// What it may be spliced through.
    pub(crate) pipes: &'a Rc<Pipes>,
}

impl Passage<'_> {
    /// Moves the body to its end.
    pub(crate) async fn run(self) -> Result<(), Broken> {
        let Self { from, input, to, head, framing, chunked_out, moved, bytes_max, limits, pipes } =
            self;
        let mut sink = Sink::new(to, head, framing, chunked_out, moved, bytes_max, limits);
        let mut block = None;
        let mut splice_from = 0;
        loop {
            let (consumed, done) = sink.take(input.filled()).await?;
            input.consume(consumed);
            if done {
                return sink.flush().await;
            }
            // The receiver shall not wait for the head until more of the body is here.
            sink.flush().await?;
            if !input.is_empty() {
                let count = read(from, input.spare(), limits).await?;
                check_end(&mut sink, count)?;
                input.note_read(count);
                continue;
            }
            input.release();
            if moved.get() >= splice_from && spliced(from, &mut sink, input, pipes).await? {
                return Ok(());
            }
            if !input.is_empty() {
                if input.filled().len() > ODD_BYTES_MAX {
                    splice_from = moved.get() + COPIED_AFTER_ODD_BYTES;
                }
                continue;
            }
            let wanted = sink.wanted().min(copied_max());
            let block = block.get_or_insert_with(|| Block::new(wanted.min(FIRST_BLOCK_BYTES)));
            let count = read(from, block.front_mut(wanted), limits).await?;
            check_end(&mut sink, count)?;
            let (consumed, done) = sink.take(block.front(count)).await?;
            // What the decoder could not use yet, or what follows the body.
            input.append(block.front(count).get(consumed..).unwrap_or_default());
            if done {
                return Ok(());
            }
            if count == block.len() && block.len() < limits.body_buffer_bytes {
                *block = Block::new((block.len() * BLOCK_GROWTH).min(limits.body_buffer_bytes));
            }
        }
    }
}

/// Tells the sink when the sender has closed its side.
fn check_end(sink: &mut Sink<'_>, count: usize) -> Result<(), Broken> {
    if count > 0 { Ok(()) } else { sink.end_of_stream() }
}

/// Lets as much of the body as may go from socket to socket unseen do so. `true`: that was all.
///
/// What was taken and may not is in `input` afterwards.
async fn spliced(
    from: &Transport,
    sink: &mut Sink<'_>,
    input: &mut Buffer,
    pipes: &Rc<Pipes>,
) -> Result<bool, Broken> {
    let (Transport::Plain(from), Some(to)) = (from, sink.socket()) else {
        return Ok(false);
    };
    if let Some(left) = sink.length_to_splice() {
        let Some(mut pipe) = pipes.borrow() else { return Ok(false) };
        splice::length(from, to, &mut pipe, left, sink.moved, sink.limits).await?;
        return Ok(true);
    }
    if sink.may_splice_chunks()
        && let Some(mut pipe) = pipes.borrow()
    {
        splice::chunks(from, to, &mut pipe, sink, input).await?;
    }
    Ok(false)
}

async fn read(from: &Transport, into: &mut [u8], limits: &Limits) -> Result<usize, Broken> {
    from.read_body(into, limits.body_progress_wait).await.map_err(|_| Broken::SourceEnded)
}

/// More than this behind what could be spliced is no last chunk: chunks that may not pass unseen
/// came between those that may. It is cheaper to copy the next ones, too.
const ODD_BYTES_MAX: usize = 4 << 10;
const COPIED_AFTER_ODD_BYTES: u64 = 8 << 20;
/// A body's first block; it grows while reads fill it.
const FIRST_BLOCK_BYTES: usize = 16 << 10;
const BLOCK_GROWTH: usize = 4;
