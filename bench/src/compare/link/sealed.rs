//! The TLS of one blocking connection, of either side.
//!
//! A socket and a session's state in, plaintext and noise out and in. What is sent as a body is
//! noise of its own: only what it costs counts.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use rustls::Connection;

use super::{SCRATCH_BYTES, SEED};
use crate::memory::Noise;

/// The TLS of a connection; the reader spares the many small reads that rustls would make.
pub(super) struct Sealed {
    state: Box<Connection>,
    reader: BufReader<TcpStream>,
    piece: Vec<u8>,
}

impl Sealed {
    /// Begins with `state`, a side's of `stream`.
    pub(super) fn new(stream: &TcpStream, state: Connection) -> io::Result<Self> {
        let reader = BufReader::with_capacity(SCRATCH_BYTES, stream.try_clone()?);
        let mut piece = vec![0; SCRATCH_BYTES];
        Noise::new(SEED).fill(&mut piece);
        Ok(Self { state: Box::new(state), reader, piece })
    }

    /// Waits until both know each other.
    pub(super) fn shake_hands(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        while self.state.is_handshaking() {
            if self.more(stream)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Reads what the peer said, waiting for the first byte; 0 when it closed.
    pub(super) fn read(&mut self, stream: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state.reader().read(into) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.more(stream)?;
        }
    }

    /// Sends what waits to be sent and receives once; 0 when the other side closed.
    fn more(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        self.flush(stream)?;
        let count = self.state.read_tls(&mut self.reader)?;
        self.state.process_new_packets().map_err(io::Error::other)?;
        self.flush(stream)?;
        Ok(count)
    }

    /// Sends `bytes`.
    pub(super) fn write(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        self.state.writer().write_all(bytes)?;
        self.flush(stream)
    }

    /// Sends noise, and at most `most` bytes of it. What is sent need not be what a file holds,
    /// only as dear to encrypt.
    pub(super) fn write_noise(&mut self, stream: &mut TcpStream, most: u64) -> io::Result<u64> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.piece.len());
        let count = self.state.writer().write(&self.piece[..most])?;
        self.flush(stream)?;
        Ok(count as u64)
    }

    /// Sends the beginning of `bytes`, and says how much of it.
    pub(super) fn write_some(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<u64> {
        let count = self.state.writer().write(bytes)?;
        self.flush(stream)?;
        Ok(count as u64)
    }

    fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        while self.state.wants_write() {
            self.state.write_tls(stream)?;
        }
        Ok(())
    }
}
