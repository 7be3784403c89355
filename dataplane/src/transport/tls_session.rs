//! A TLS session over a socket, driven so that a byte costs little.
//!
//! Plaintext to be sent in, ciphertext out to the socket, and the other way round. rustls by itself
//! reads 4 KiB a call and takes 64 KiB of plaintext; here ciphertext is received in large pieces
//! into a [`Block`], and up to 256 KiB are encrypted at a time and leave in one call.
//! A block belongs to a session only while it holds ciphertext not yet decrypted: an idle session
//! keeps none. Nothing here waits, and bytes are never received beyond what was asked for by more
//! than a record.
//!
//! The session is rustls' buffered one. Its unbuffered one decrypts in place, but hands plaintext
//! out in a copy all the same, and what it encrypts goes through one more copy than here. Measured
//! side by side no difference showed above the noise: what counts is how much moves in a system
//! call.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::rc::Rc;

use rustls::Connection;

use crate::buffer::Block;
use crate::io::Socket;

/// A TLS session, on either side of it, and the socket under it.
pub(crate) struct TlsSession {
    socket: Socket,
    state: RefCell<State>,
}

impl TlsSession {
    /// A session over a connected socket, its handshake still to come.
    pub(super) fn new(socket: Socket, mut session: Connection, blocks: Rc<Blocks>) -> Self {
        session.set_buffer_limit(Some(ROUND_BYTES));
        Self { socket, state: RefCell::new(State { session, blocks, held: None }) }
    }

    /// The socket under it.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether its handshake is still under way.
    pub(super) fn is_handshaking(&self) -> bool {
        self.state.borrow().session.is_handshaking()
    }

    /// Takes in what the peer has sent of its handshake, or fails with `WouldBlock`. What is wrong
    /// with a certificate or the protocol is `InvalidData`; the alert that says so has been tried.
    pub(super) fn try_handshake(&self) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        if state.receive(&self.socket, 0)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Data that follows the handshake at once stays where it is until it is asked for.
        while state.session.is_handshaking() && state.held.is_some() {
            self.decrypt_piece(&mut state)?;
        }
        Ok(())
    }

    /// Reads what there is now, or fails with `WouldBlock`. 0 is the end as the peer meant it; an
    /// end without a word is `UnexpectedEof` (RFC 8446 §6.1): what runs until it was cut off.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        loop {
            match self.decrypt(&mut state, into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            state.receive(&self.socket, into.len())?;
        }
    }

    /// Encrypts what fits of `parts`; it is sent with the next call or [`TlsSession::try_flush`].
    /// Fails with `WouldBlock`, having taken nothing, while an earlier round is not all sent.
    pub(super) fn try_write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_flush()?;
        match self.state.borrow_mut().session.writer().write_vectored(parts)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    /// Sends the ciphertext that the session holds, or fails with `WouldBlock`.
    pub(super) fn try_flush(&self) -> io::Result<()> {
        self.flush(&mut self.state.borrow_mut())
    }

    /// Has the session say that nothing more will be sent; it leaves with the next flush.
    pub(super) fn close_notify(&self) {
        self.state.borrow_mut().session.send_close_notify();
    }

    /// Whether nothing has been received that a reader would have to see. A session ticket may have
    /// come since the last answer: it is taken in, not mistaken for the next one.
    pub(super) fn is_quiet(&self) -> bool {
        let mut state = self.state.borrow_mut();
        for _ in 0..QUIET_ROUNDS_MAX {
            let read = self.decrypt(&mut state, &mut [0; 1]);
            if !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return false;
            }
            match state.receive(&self.socket, 0) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => {
                    state.shrink();
                    return error.kind() == io::ErrorKind::WouldBlock;
                }
            }
        }
        false
    }

    /// Decrypts what is held as far as `into` has room. `WouldBlock`: more must be received first.
    fn decrypt(&self, state: &mut State, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let room = into.get_mut(filled..).unwrap_or_default();
            match state.session.reader().read(room) {
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if filled == 0 => return Err(error),
                Err(_) => return Ok(filled),
            }
            if filled == into.len() {
                return Ok(filled);
            }
            let fed = self.decrypt_piece(state);
            if !matches!(fed, Ok(true)) {
                // What came before an error or the end is read before it; either comes again.
                let room = into.get_mut(filled..).unwrap_or_default();
                return match state.session.reader().read(room) {
                    Ok(count) if filled + count > 0 => Ok(filled + count),
                    _ if filled > 0 => Ok(filled),
                    read => fed.and(read),
                };
            }
        }
    }

    /// Gives the session a piece of what is held. `false`: nothing was.
    fn decrypt_piece(&self, state: &mut State) -> io::Result<bool> {
        let fed = state.feed()?;
        if let Err(error) = state.session.process_new_packets() {
            // The alert that says why is worth a try, not a wait.
            let _ = self.flush(state);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(fed)
    }

    fn flush(&self, state: &mut State) -> io::Result<()> {
        while state.session.wants_write() {
            state.session.write_tls(&mut Wire(&self.socket))?;
        }
        Ok(())
    }
}

struct State {
    session: Connection,
    blocks: Rc<Blocks>,
    /// Ciphertext received and not yet given to the session.
    held: Option<Held>,
}

/// The part of a block that is still of use; never empty.
struct Held {
    block: Block,
    start: usize,
    end: usize,
}

impl State {
    /// Receives ciphertext, about `wanted` bytes of it but never less than a record's worth. Only
    /// to be called when nothing is held. 0 is the end of the stream, which the session is told.
    fn receive(&mut self, socket: &Socket, wanted: usize) -> io::Result<usize> {
        let mut block = self.blocks.take();
        match socket.try_recv(block.front_mut(wanted.max(RECEIVED_BYTES_MIN))) {
            Ok(0) => {
                self.blocks.give(block);
                self.session.read_tls(&mut io::empty())
            }
            Ok(end) => {
                self.held = Some(Held { block, start: 0, end });
                Ok(end)
            }
            Err(error) => {
                self.blocks.give(block);
                Err(error)
            }
        }
    }

    /// Moves as much of what is held into the session as it takes at a time.
    fn feed(&mut self) -> io::Result<bool> {
        let Some(mut held) = self.held.take() else { return Ok(false) };
        let mut rest = held.block.front(held.end).get(held.start..).unwrap_or_default();
        let fed = self.session.read_tls(&mut rest);
        held.start = held.end.saturating_sub(rest.len());
        // What follows the peer's close_notify is nobody's: the session takes none of it.
        if rest.is_empty() || !matches!(fed, Ok(1..)) {
            self.blocks.give(held.block);
        } else {
            self.held = Some(held);
        }
        fed.map(|_| true)
    }

    /// Has the session give back what it used for a large record.
    fn shrink(&mut self) {
        // It looks at the size of its buffer whenever it is about to read, and only then.
        let _ = self.session.read_tls(&mut Nothing);
    }
}

/// The blocks of one core that are not in use, a few of them.
#[derive(Default)]
pub(crate) struct Blocks {
    spare: RefCell<Vec<Block>>,
}

impl Blocks {
    fn take(&self) -> Block {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| Block::new(ROUND_BYTES))
    }

    fn give(&self, block: Block) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_BLOCKS_MAX {
            spare.push(block);
        }
    }
}

/// The socket as rustls wants to see it when it sends.
struct Wire<'a>(&'a Socket);

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_send(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_send(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ciphertext that is not there.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// How much is received or encrypted at a time.
const ROUND_BYTES: usize = 256 << 10;
/// Received at least: a record (RFC 8446 §5.2: 2^14 + 256 bytes and its head).
const RECEIVED_BYTES_MIN: usize = (16 << 10) + 512;
/// Blocks a core keeps for the next sessions that need one.
const SPARE_BLOCKS_MAX: usize = 4;
/// How often a session that is to be quiet may have sent something. Tickets are small and few.
const QUIET_ROUNDS_MAX: usize = 4;

#[cfg(test)]
mod tests;
