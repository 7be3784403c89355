//! TLS on a connection of the load: records out and in, neither ever waiting for the other.
//!
//! Plaintext in, sent records out, and the other way round. A peer may answer before it has read a
//! whole body, and then read no more of it: whoever sends here notices what comes meanwhile, and
//! whoever reads is not held up by what could not be sent.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::line::{Look, Scratch};

/// The TLS of one connection.
pub(crate) struct Sealed {
    session: ClientConnection,
    plain: Vec<u8>,
    ended: bool,
}

impl Sealed {
    /// Shakes hands over `stream` with whoever can show to be `name`.
    ///
    /// # Errors
    /// What the socket or TLS says.
    pub(crate) async fn begin(
        stream: &TcpStream,
        config: &Arc<ClientConfig>,
        name: &ServerName<'static>,
    ) -> io::Result<Self> {
        let session = ClientConnection::new(Arc::clone(config), name.clone());
        let session = session.map_err(io::Error::other)?;
        let mut sealed = Self { session, plain: Vec::new(), ended: false };
        while sealed.session.is_handshaking() {
            sealed.push(stream)?;
            if sealed.session.is_handshaking() && sealed.more(stream).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        sealed.send(stream, &[]).await?;
        Ok(sealed)
    }

    /// Whether the peer has closed, or said something that nobody asked for. A session ticket is
    /// no news; an end or an alert is.
    pub(crate) fn is_over(&mut self, stream: &TcpStream) -> bool {
        match self.pull(stream) {
            Ok(None) => false,
            Ok(Some(_)) => self.has_news(),
            Err(_) => true,
        }
    }

    /// Whether something that has come waits to be read, or the end has come.
    pub(crate) fn has_news(&mut self) -> bool {
        let state = self.session.process_new_packets();
        let is_news =
            |state: rustls::IoState| state.plaintext_bytes_to_read() > 0 || state.peer_has_closed();
        self.ended || state.is_ok_and(is_news)
    }

    /// Sends `bytes`; false when news came before all had left, and the rest never will.
    ///
    /// # Errors
    /// What the socket or TLS says.
    pub(crate) async fn send(&mut self, stream: &TcpStream, mut bytes: &[u8]) -> io::Result<bool> {
        loop {
            let count = self.session.writer().write(bytes)?;
            bytes = bytes.get(count..).unwrap_or_default();
            if !self.push(stream)? {
                match self.pull(stream)? {
                    None => drop(stream.ready(Interest::READABLE | Interest::WRITABLE).await?),
                    Some(_) if self.has_news() => return Ok(false),
                    Some(_) => {}
                }
            } else if bytes.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Sends up to `most` bytes of `file` from `offset`; how many, and 0 when news came meanwhile.
    ///
    /// # Errors
    /// What the socket or TLS says; `UnexpectedEof` when the file is shorter.
    pub(crate) async fn send_file(
        &mut self,
        stream: &TcpStream,
        file: &File,
        offset: u64,
        most: usize,
    ) -> io::Result<usize> {
        let mut plain = std::mem::take(&mut self.plain);
        plain.resize(PIECE_BYTES, 0);
        let room = plain.get_mut(..most.min(PIECE_BYTES)).unwrap_or_default();
        let sent = match file.read_at(room, offset) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let whole = self.send(stream, plain.get(..count).unwrap_or_default()).await;
                whole.map(|whole| if whole { count } else { 0 })
            }
            Err(cause) => Err(cause),
        };
        self.plain = plain;
        sent
    }

    /// Reads at most `most` bytes; 0 when the peer closed.
    ///
    /// # Errors
    /// What the socket or TLS says.
    pub(crate) async fn read(
        &mut self,
        stream: &TcpStream,
        scratch: &Scratch,
        most: usize,
        mut look: Look<'_>,
    ) -> io::Result<usize> {
        loop {
            let read = {
                let mut pages = scratch.borrow_mut();
                let bytes = pages.bytes();
                let most = most.min(bytes.len());
                let room = bytes.get_mut(..most).unwrap_or_default();
                let read = self.session.reader().read(room);
                if let (Ok(count), Some(look)) = (&read, &mut look) {
                    look(room.get(..*count).unwrap_or_default());
                }
                read
            };
            match read {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.more(stream).await?;
        }
    }

    /// Takes records, and sends what can be sent while it waits for them; how many bytes of them.
    async fn more(&mut self, stream: &TcpStream) -> io::Result<usize> {
        loop {
            // Whoever cannot be written to any more may have answered before.
            let is_blocked = self.push(stream).is_ok_and(|all| !all);
            if let Some(count) = self.pull(stream)? {
                return Ok(count);
            }
            let both = Interest::READABLE | Interest::WRITABLE;
            stream.ready(if is_blocked { both } else { Interest::READABLE }).await?;
        }
    }

    /// Sends what is ready to be sent, as far as the socket takes it; whether that was all.
    fn push(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Nonblocking(stream)) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                written => drop(written?),
            }
        }
        Ok(true)
    }

    /// Takes the records that have come: how many bytes of them, 0 at the end; `None` where there
    /// are none.
    fn pull(&mut self, stream: &TcpStream) -> io::Result<Option<usize>> {
        match self.session.read_tls(&mut Nonblocking(stream)) {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => {
                let count = read?;
                self.ended |= count == 0;
                self.session.process_new_packets().map_err(io::Error::other)?;
                Ok(Some(count))
            }
        }
    }
}

/// A socket as rustls wants to see one.
struct Nonblocking<'a>(&'a TcpStream);

impl Read for Nonblocking<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Nonblocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const PIECE_BYTES: usize = 256 << 10;
