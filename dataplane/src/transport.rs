//! A connection's bytes, whether TLS lies under them or not.
//!
//! Both directions may be used at the same time from one task: every method borrows the transport
//! shared, and nothing is held across a wait.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::time::Duration;

use rustls::ClientConnection;

use crate::io::Socket;

/// A connection to a caller or a registry.
pub(crate) enum Transport {
    /// TCP alone.
    Plain(Socket),
    /// TLS over TCP, our side being the one that connected.
    Tls(Box<Tls>),
}

/// A TLS session and the socket under it.
pub(crate) struct Tls {
    socket: Socket,
    session: RefCell<ClientConnection>,
}

impl Transport {
    /// Wraps a connected socket whose handshake is still to come; see [`Transport::handshake`].
    pub(crate) fn tls(socket: Socket, session: ClientConnection) -> Self {
        Self::Tls(Box::new(Tls { socket, session: RefCell::new(session) }))
    }

    /// The socket under it.
    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.socket,
        }
    }

    /// Reads what there is into `into`, waiting at most `wait` for the first byte. 0 is the end.
    pub(crate) async fn read(&self, into: &mut [u8], wait: Duration) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Plain(socket) => socket.try_recv(into),
                Self::Tls(tls) => tls.try_read(into),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket().readable(wait).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    self.socket().fairly().await;
                    return done;
                }
            }
        }
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
        while tls.session.borrow().is_handshaking() {
            self.flush(wait).await?;
            if !tls.session.borrow().is_handshaking() {
                break;
            }
            match tls.try_receive() {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket().readable(wait).await?;
                }
                Err(error) => {
                    // The alert that says why is worth a try, not a wait.
                    let _ = tls.try_flush();
                    return Err(error);
                }
            }
        }
        self.flush(wait).await
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

impl Tls {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            // Ends with UnexpectedEof when the peer closed without saying so (RFC 8446 §6.1):
            // a body that runs until the close was then cut off.
            match self.session.borrow_mut().reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.try_receive()?;
        }
    }

    /// Takes ciphertext from the socket into the session.
    fn try_receive(&self) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        let count = session.read_tls(&mut Wire(&self.socket))?;
        session
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(count)
    }

    fn try_write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_flush()?;
        self.session.borrow_mut().writer().write_vectored(parts)
    }

    /// Sends the ciphertext that the session holds, or fails with `WouldBlock`.
    fn try_flush(&self) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        while session.wants_write() {
            session.write_tls(&mut Wire(&self.socket))?;
        }
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        // A session ticket may have arrived since: it is taken in, not mistaken for an answer.
        loop {
            match self.try_receive() {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => {
                    let nothing = error.kind() == io::ErrorKind::WouldBlock;
                    let mut byte = [0; 1];
                    let read = self.session.borrow_mut().reader().read(&mut byte);
                    let silent = read.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
                    return nothing && silent;
                }
            }
        }
    }
}

/// The socket as rustls wants to see it.
struct Wire<'a>(&'a Socket);

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_recv(into)
    }
}

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
