//! One connection of the load: bytes and files out, bytes in, never blocking its thread.
//!
//! An [`Endpoint`] in, an open [`Line`] out: dialled, through a tunnel and under TLS where need be.
//! In the clear, files are sent by the kernel and unwanted bytes dropped by it. What is read ahead
//! of need is kept; what a message means is `exchange.rs`'s affair.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::sendfile;
use rustix::net::{RecvFlags, recv};
use rustls::ClientConnection;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

use super::target::Endpoint;
use crate::memory::Pages;
use crate::wire::malformed;

/// An open connection.
pub(crate) struct Line {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    ahead: Vec<u8>,
    start: usize,
}

struct Tls {
    session: ClientConnection,
    plain: Vec<u8>,
}

/// Room that all connections of a thread read into; nothing stays in it.
pub(crate) type Scratch = RefCell<Pages>;

/// What is to happen to bytes that arrive.
pub(crate) type Look<'a> = Option<&'a mut dyn FnMut(&[u8])>;

impl Line {
    /// Dials. `window` bounds what the kernel receives ahead, for whoever wants to be slow.
    ///
    /// # Errors
    /// What the socket or TLS says; `PermissionDenied` when a proxy refuses the tunnel.
    pub(crate) async fn dial(endpoint: &Endpoint, window: Option<u32>) -> io::Result<Self> {
        let socket =
            if endpoint.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(window) = window {
            socket.set_recv_buffer_size(window)?;
        }
        let stream = socket.connect(endpoint.address).await?;
        stream.set_nodelay(true)?;
        let mut line = Self { stream, tls: None, ahead: Vec::new(), start: 0 };
        if let Some(tunnel) = &endpoint.tunnel {
            line.send(tunnel.as_bytes()).await?;
            line.tunnelled().await?;
        }
        if let Some((config, name)) = &endpoint.tls {
            let session = ClientConnection::new(Arc::clone(config), name.clone());
            let session = session.map_err(io::Error::other)?;
            line.tls = Some(Box::new(Tls { session, plain: Vec::new() }));
            line.shake_hands().await?;
        }
        Ok(line)
    }

    /// Whether the peer has closed, or said something that nobody asked for.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.start < self.ahead.len() {
            return true;
        }
        let mut byte = [0];
        match &mut self.tls {
            None => !would_block(&self.stream.try_read(&mut byte)),
            Some(tls) => {
                let read = tls.session.read_tls(&mut Nonblocking(&self.stream));
                if would_block(&read) {
                    return false;
                }
                // A session ticket is no news; an end or an alert is.
                let state = tls.session.process_new_packets();
                !read.is_ok_and(|count| count > 0)
                    || !state.is_ok_and(|state| {
                        !state.peer_has_closed() && state.plaintext_bytes_to_read() == 0
                    })
            }
        }
    }

    /// Whether bytes wait to be read. Under TLS nobody can tell, so it says no.
    pub(crate) fn has_news(&self) -> bool {
        let mut byte = [0];
        let peek = || recv(&self.stream, &mut byte[..], RecvFlags::PEEK).map_err(io::Error::from);
        self.tls.is_none() && self.stream.try_io(Interest::READABLE, peek).is_ok()
    }

    /// Sends `bytes`.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = match &mut self.tls {
                None => match self.stream.try_write(bytes) {
                    Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                        self.stream.writable().await?;
                        0
                    }
                    written => written?,
                },
                Some(tls) => {
                    let count = tls.session.writer().write(bytes)?;
                    flush(&self.stream, tls).await?;
                    count
                }
            };
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends up to `most` bytes of `file` from `offset`; how many. It may be woken by news instead
    /// and then says 0.
    ///
    /// # Errors
    /// What the socket says; `UnexpectedEof` when the file is shorter.
    pub(crate) async fn send_file(
        &mut self,
        file: &File,
        mut offset: u64,
        most: usize,
    ) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let send = || Ok(sendfile(&self.stream, file, Some(&mut offset), most)?);
            return match self.stream.try_io(Interest::WRITABLE, send) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
                    Ok(0)
                }
                other => other,
            };
        };
        let mut plain = std::mem::take(&mut tls.plain);
        plain.resize(SEALED_BYTES, 0);
        let most = most.min(SEALED_BYTES);
        let read = file.read_at(plain.get_mut(..most).unwrap_or_default(), offset);
        let sent = match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let piece = plain.get(..count).unwrap_or_default();
                self.send(piece).await.map(|()| count)
            }
            Err(cause) => Err(cause),
        };
        if let Some(tls) = &mut self.tls {
            tls.plain = plain;
        }
        sent
    }

    /// What was read ahead and not used yet.
    pub(crate) fn ahead(&self) -> &[u8] {
        self.ahead.get(self.start..).unwrap_or_default()
    }

    /// Marks `count` bytes of [`Line::ahead`] as used.
    pub(crate) fn used(&mut self, count: usize) {
        self.start = (self.start + count).min(self.ahead.len());
    }

    /// Reads more ahead; 0 when the peer closed.
    ///
    /// # Errors
    /// What the socket says, and `InvalidData` where more is ahead than any head needs.
    pub(crate) async fn fill(&mut self, scratch: &Scratch) -> io::Result<usize> {
        self.ahead.drain(..self.start);
        self.start = 0;
        if self.ahead.len() >= AHEAD_MAX {
            return Err(malformed("head too long"));
        }
        let mut ahead = std::mem::take(&mut self.ahead);
        let mut keep = |bytes: &[u8]| ahead.extend_from_slice(bytes);
        let read = self.receive(scratch, AHEAD_STEP, Some(&mut keep)).await;
        self.ahead = ahead;
        read
    }

    /// Takes at most `most` bytes, from what is ahead or else from the socket; 0 when the peer
    /// closed. Without `look` the kernel drops them.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) async fn take(
        &mut self,
        scratch: &Scratch,
        most: u64,
        look: Look<'_>,
    ) -> io::Result<usize> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let ahead = self.ahead();
        if ahead.is_empty() {
            return self.receive(scratch, most, look).await;
        }
        let count = ahead.len().min(most);
        if let Some(look) = look {
            look(ahead.get(..count).unwrap_or_default());
        }
        self.used(count);
        Ok(count)
    }

    async fn receive(
        &mut self,
        scratch: &Scratch,
        most: usize,
        mut look: Look<'_>,
    ) -> io::Result<usize> {
        if let Some(tls) = &mut self.tls {
            return read_sealed(&self.stream, tls, scratch, most, look).await;
        }
        // On TCP this flag means: count the bytes, copy none.
        let flags = if look.is_some() { RecvFlags::empty() } else { RecvFlags::TRUNC };
        let mut once = || {
            let mut pages = scratch.borrow_mut();
            let bytes = pages.bytes();
            let most = most.min(bytes.len());
            let room = bytes.get_mut(..most).unwrap_or_default();
            let (_, count) = recv(&self.stream, &mut *room, flags)?;
            if let Some(look) = &mut look {
                look(room.get(..count).unwrap_or_default());
            }
            Ok(count)
        };
        self.stream.async_io(Interest::READABLE, &mut once).await
    }

    /// Reads a proxy's answer to CONNECT, byte by byte so that none of what follows is taken.
    async fn tunnelled(&mut self) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > AHEAD_MAX {
                return Err(malformed("head too long"));
            }
            self.stream.readable().await?;
            let mut byte = [0];
            match self.stream.try_read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => head.push(byte[0]),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause),
            }
        }
        let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        if first.starts_with(b"HTTP/1.1 2") || first.starts_with(b"HTTP/1.0 2") {
            return Ok(());
        }
        let said = String::from_utf8_lossy(first);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("CONNECT answered {said}")))
    }

    async fn shake_hands(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        while tls.session.is_handshaking() {
            flush(&self.stream, tls).await?;
            if tls.session.is_handshaking() && more(&self.stream, tls).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        flush(&self.stream, tls).await
    }
}

async fn flush(stream: &TcpStream, tls: &mut Tls) -> io::Result<()> {
    while tls.session.wants_write() {
        match tls.session.write_tls(&mut Nonblocking(stream)) {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            written => drop(written?),
        }
    }
    Ok(())
}

/// Reads records; how many bytes of them.
async fn more(stream: &TcpStream, tls: &mut Tls) -> io::Result<usize> {
    loop {
        match tls.session.read_tls(&mut Nonblocking(stream)) {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            read => {
                let count = read?;
                tls.session.process_new_packets().map_err(io::Error::other)?;
                return Ok(count);
            }
        }
    }
}

async fn read_sealed(
    stream: &TcpStream,
    tls: &mut Tls,
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
            let read = tls.session.reader().read(room);
            if let (Ok(count), Some(look)) = (&read, &mut look) {
                look(room.get(..*count).unwrap_or_default());
            }
            read
        };
        match read {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                flush(stream, tls).await?;
                more(stream, tls).await?;
            }
            other => return other,
        }
    }
}

fn would_block(read: &io::Result<usize>) -> bool {
    matches!(read, Err(cause) if cause.kind() == io::ErrorKind::WouldBlock)
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

const AHEAD_STEP: usize = 16 << 10;
const AHEAD_MAX: usize = 64 << 10;
const SEALED_BYTES: usize = 256 << 10;
