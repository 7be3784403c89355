//! A connection's bytes, whether TLS lies under them or not.
//!
//! Both directions may be used at the same time from one task: every method borrows the transport
//! shared, and nothing is held across a wait.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use rustls::Connection;

use crate::buffer::Buffer;
use crate::io::{Socket, together};
use crate::wiped::Wiped;

mod tls_session;

pub(crate) use tls_session::Blocks;
use tls_session::TlsSession;

/// A connection to a caller or a registry.
pub(crate) enum Transport {
    /// TCP alone.
    Plain(Socket),
    /// TLS over TCP.
    Tls(Box<TlsSession>),
}

impl Transport {
    /// Wraps a connected socket whose handshake is still to come; see [`Transport::handshake`].
    /// `blocks` are the core's.
    pub(crate) fn tls(socket: Socket, session: impl Into<Connection>, blocks: &Rc<Blocks>) -> Self {
        Self::Tls(Box::new(TlsSession::new(socket, session.into(), Rc::clone(blocks))))
    }

    /// The socket under it.
    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.socket(),
        }
    }

    /// Reads what there is into `into`, waiting at most `wait` for the first byte. 0 is the end.
    pub(crate) async fn read(&self, into: &mut [u8], wait: Duration) -> io::Result<usize> {
        self.read_with(into, wait, false).await
    }

    /// Reads what there is of a body, as [`Transport::read`] does. Who had to wait for it waits for
    /// its turn, too, while small requests are about.
    pub(crate) async fn read_body(&self, into: &mut [u8], wait: Duration) -> io::Result<usize> {
        self.read_with(into, wait, true).await
    }

    async fn read_with(&self, into: &mut [u8], wait: Duration, in_turn: bool) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Plain(socket) => socket.try_recv(into),
                Self::Tls(tls) => tls.try_read(into),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket().readable(wait).await?;
                    if in_turn {
                        self.socket().in_turn().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    self.socket().fairly().await;
                    return done;
                }
            }
        }
    }

    /// Waits without end for what comes next and reads it into the empty `buffer`, whose memory is
    /// `bytes` if it has none. 0 is the end.
    ///
    /// Cheaper than [`Transport::read`], but whoever gives it up must give the connection up.
    pub(crate) async fn fill(&mut self, buffer: &mut Buffer, bytes: usize) -> io::Result<usize> {
        let Self::Plain(socket) = self else {
            let count = self.read(buffer.spare(), UNBOUNDED).await?;
            buffer.note_read(count);
            return Ok(count);
        };
        loop {
            let (received, bytes) = socket.receive(buffer.lend(bytes)).await;
            let count = received.as_ref().copied().unwrap_or_default();
            buffer.put_back(bytes, count);
            match received {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    socket.fairly().await;
                    return done;
                }
            }
        }
    }

    /// Sends all of `bytes`, a head and what little follows it, waiting at most `wait` each time
    /// the peer takes nothing. They are wiped once they have gone.
    ///
    /// Cheaper than [`Transport::write_all`] for what is small, but whoever gives it up must give
    /// the connection up.
    pub(crate) async fn send(&mut self, bytes: Wiped, wait: Duration) -> io::Result<()> {
        let mut bytes = Bytes::from_owner(bytes);
        if bytes.len() <= SMALL_BYTES_MAX {
            match self {
                Self::Tls(_) => together().await,
                Self::Plain(socket) => {
                    let (sent, back) = socket.send(bytes, wait).await;
                    bytes = back;
                    match sent {
                        Ok(count) => bytes.advance(count),
                        Err(error) => self.unblocked(error, wait).await?,
                    }
                }
            }
        }
        self.write_all(&mut [IoSlice::new(&bytes)], wait).await
    }

    /// Writes all of `parts`, waiting at most `wait` each time the peer takes nothing.
    pub(crate) async fn write_all(
        &self,
        mut parts: &mut [IoSlice<'_>],
        wait: Duration,
    ) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let written = match self {
                Self::Plain(socket) => socket.try_send(parts),
                Self::Tls(tls) => tls.try_write(parts),
            };
            match written {
                Ok(count) => {
                    IoSlice::advance_slices(&mut parts, count);
                    self.socket().fairly().await;
                }
                Err(error) => self.unblocked(error, wait).await?,
            }
        }
        self.flush(wait).await
    }

    /// Completes a TLS handshake; nothing to do without TLS.
    pub(crate) async fn handshake(&self, wait: Duration) -> io::Result<()> {
        let Self::Tls(tls) = self else { return Ok(()) };
        while tls.is_handshaking() {
            self.flush(wait).await?;
            match tls.try_handshake() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket().readable(wait).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.flush(wait).await
    }

    /// Says that what was sent is all (RFC 8446 §6.1): only after a whole answer, so that a broken
    /// one is not taken for whole.
    pub(crate) async fn farewell(&self, wait: Duration) {
        if let Self::Tls(tls) = self {
            tls.close_notify();
            // Whoever is gone, or takes nothing, needs no farewell.
            let _ = self.flush(wait).await;
        }
    }

    /// Whether an idle connection may carry another request.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_quiet(),
            Self::Tls(tls) => tls.is_quiet(),
        }
    }

    async fn flush(&self, wait: Duration) -> io::Result<()> {
        let Self::Tls(tls) = self else { return Ok(()) };
        loop {
            match tls.try_flush() {
                Ok(()) => return Ok(()),
                Err(error) => self.unblocked(error, wait).await?,
            }
        }
    }

    /// Waits until a send that failed with `error` may go on; any other error is final.
    async fn unblocked(&self, error: io::Error, wait: Duration) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.socket().writable(wait).await,
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        }
    }
}

/// What takes the kernel less time than to wake up whom it is for.
pub(crate) const SMALL_BYTES_MAX: usize = 16 << 10;
/// Longer than any bound: the deadline is elsewhere.
pub(crate) const UNBOUNDED: Duration = Duration::from_secs(7 * 24 * 3600);
