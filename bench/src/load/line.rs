//! One connection of the load: bytes and files out, bytes in, never blocking its thread.
//!
//! An [`Endpoint`] in, an open [`Line`] out: dialled, through a tunnel and under TLS where need be.
//! In the clear, files are sent by the kernel and unwanted bytes dropped by it. What is read ahead
//! of need is kept; what a message means is `exchange.rs`'s affair.

use std::cell::RefCell;
use std::fs::File;
use std::io;

use rustix::fs::sendfile;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

use super::sealed::Sealed;
use super::target::Endpoint;
use crate::memory::Pages;
use crate::wire::malformed;

/// An open connection.
pub(crate) struct Line {
    stream: TcpStream,
    sealed: Option<Box<Sealed>>,
    ahead: Vec<u8>,
    start: usize,
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
        let mut line = Self { stream, sealed: None, ahead: Vec::new(), start: 0 };
        if let Some(tunnel) = &endpoint.tunnel {
            line.send(tunnel.as_bytes()).await?;
            line.tunnelled().await?;
        }
        if let Some((config, name)) = &endpoint.tls {
            line.sealed = Some(Box::new(Sealed::begin(&line.stream, config, name).await?));
        }
        Ok(line)
    }

    /// Whether the peer has closed, or said something that nobody asked for.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.start < self.ahead.len() {
            return true;
        }
        match &mut self.sealed {
            None => self.has_news(),
            Some(sealed) => sealed.is_over(&self.stream),
        }
    }

    /// Whether bytes wait to be read, or the end has come, as far as it was noticed while sending.
    pub(crate) fn has_news(&mut self) -> bool {
        if let Some(sealed) = &mut self.sealed {
            return sealed.has_news();
        }
        let mut byte = [0];
        let peek = || recv(&self.stream, &mut byte[..], RecvFlags::PEEK).map_err(io::Error::from);
        let peeked = self.stream.try_io(Interest::READABLE, peek);
        !matches!(peeked, Err(cause) if cause.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends `bytes`; false when news came before all had left.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) async fn send(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        if let Some(sealed) = &mut self.sealed {
            return sealed.send(&self.stream, bytes).await;
        }
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
                    if self.has_news() {
                        return Ok(false);
                    }
                }
                written => bytes = bytes.get(written?..).unwrap_or_default(),
            }
        }
        Ok(true)
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
        if let Some(sealed) = &mut self.sealed {
            return sealed.send_file(&self.stream, file, offset, most).await;
        }
        let send = || Ok(sendfile(&self.stream, file, Some(&mut offset), most)?);
        match self.stream.try_io(Interest::WRITABLE, send) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
                Ok(0)
            }
            other => other,
        }
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
        if let Some(sealed) = &mut self.sealed {
            return sealed.read(&self.stream, scratch, most, look).await;
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
}

const AHEAD_STEP: usize = 16 << 10;
const AHEAD_MAX: usize = 64 << 10;
