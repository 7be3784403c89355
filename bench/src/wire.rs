//! One blocking TCP connection that carries HTTP/1.1: heads and bodies in, bytes and files out.
//!
//! A connected socket goes in, with a TLS session on top where one is wanted; parsed heads, raw
//! bytes and sent bytes come out. It buffers what it read ahead, and knows neither where a body
//! ends (`framing.rs`) nor what a message means.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::sendfile;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// What to do with a body's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// Copy them into the buffer.
    Copy,
    /// Let the kernel drop them; the buffer only says how many at most.
    Drop,
}

/// A connection and what was read from it ahead of need.
pub(crate) struct Wire {
    stream: TcpStream,
    session: Option<Box<rustls::Connection>>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    /// Takes over a connected socket; reads and writes give up after `wait` without a byte.
    ///
    /// # Errors
    /// What setting the socket's options says.
    pub(crate) fn new(stream: TcpStream, wait: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        Ok(Self { stream, session: None, buffer: vec![0; READ_AHEAD], start: 0, end: 0 })
    }

    /// The same with TLS on top. The handshake is made with the first byte read or sent.
    ///
    /// # Errors
    /// As [`Wire::new`].
    pub(crate) fn secured(
        stream: TcpStream,
        wait: Duration,
        session: impl Into<rustls::Connection>,
    ) -> io::Result<Self> {
        let mut session = session.into();
        session.set_buffer_limit(Some(PIECE_BYTES));
        Ok(Self { session: Some(Box::new(session)), ..Self::new(stream, wait)? })
    }

    /// Whether there is TLS on it.
    pub(crate) fn is_secured(&self) -> bool {
        self.session.is_some()
    }

    /// The next head, as `parse` makes it from the bytes so far (with how many it used); `None`
    /// when the peer closed before a first byte.
    ///
    /// # Errors
    /// `InvalidData` for a malformed or endless head, `UnexpectedEof` for half a one.
    pub(crate) fn head<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> io::Result<Option<(T, usize)>>,
    ) -> io::Result<Option<T>> {
        loop {
            if let Some((value, used)) = parse(&self.buffer[self.start..self.end])? {
                self.start += used;
                return Ok(Some(value));
            }
            if self.end - self.start >= HEAD_BYTES_MAX {
                return Err(malformed("head too long"));
            }
            if self.fill()? == 0 {
                let clean = self.start == self.end;
                return if clean { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Sends `bytes`; `more` tells the kernel that further bytes follow at once.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn send(&mut self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        if let Some(session) = &mut self.session {
            return send_encrypted(&mut self.stream, session, bytes);
        }
        let flags = if more { SendFlags::MORE } else { SendFlags::empty() } | SendFlags::NOSIGNAL;
        while !bytes.is_empty() {
            match send(&self.stream, bytes, flags) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(())
    }

    /// Sends `length` bytes of `file` from `offset`, copied by nobody unless they are encrypted;
    /// `sent` hears of progress.
    ///
    /// # Errors
    /// What the socket says; `UnexpectedEof` when the file is shorter.
    pub(crate) fn send_file(
        &mut self,
        file: &File,
        mut offset: u64,
        length: u64,
        mut sent: impl FnMut(u64),
    ) -> io::Result<()> {
        let end = offset + length;
        if self.is_secured() {
            return self.send_file_encrypted(file, offset, end, &mut sent);
        }
        while offset < end {
            let most = usize::try_from(end - offset).unwrap_or(usize::MAX).min(SEND_FILE_MAX);
            match sendfile(&self.stream, file, Some(&mut offset), most) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => sent(count as u64),
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(())
    }

    fn send_file_encrypted(
        &mut self,
        file: &File,
        mut offset: u64,
        end: u64,
        sent: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        while offset < end {
            let most = usize::try_from(end - offset).unwrap_or(usize::MAX).min(piece.len());
            let count = file.read_at(&mut piece[..most], offset)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.send(&piece[..count], false)?;
            offset += count as u64;
            sent(count as u64);
        }
        Ok(())
    }

    /// Says inside TLS, where there is TLS, that all was sent; without it the peer must take the
    /// end of the connection for a cut.
    pub(crate) fn close(&mut self) {
        if let Some(session) = &mut self.session {
            session.send_close_notify();
            // Should it not leave, the peer sees a cut after a complete answer: no harm.
            let _ = session.write_tls(&mut self.stream);
        }
    }

    /// Says that nothing more will be sent, then reads and drops what the peer still sends, so that
    /// it sees the answer and not a reset. At most 64 MiB, at most five seconds without a byte.
    pub(crate) fn linger(&mut self) {
        self.close();
        let half_closed = self.stream.shutdown(Shutdown::Write).is_ok();
        let bounded = self.stream.set_read_timeout(Some(LINGER_WAIT)).is_ok();
        let mut scratch = vec![0; 64 << 10];
        let mut left = LINGER_BYTES_MAX;
        while half_closed && bounded && left > 0 {
            match self.read_some(&mut scratch, Take::Drop) {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    }

    /// Reads once, from what was read ahead or else from the socket; 0 when the peer closed.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn read_some(&mut self, into: &mut [u8], take: Take) -> io::Result<usize> {
        let ahead = &self.buffer[self.start..self.end];
        if !ahead.is_empty() {
            let count = ahead.len().min(into.len());
            into[..count].copy_from_slice(&ahead[..count]);
            self.start += count;
            return Ok(count);
        }
        let Self { stream, session, .. } = self;
        if take == Take::Drop && session.is_none() {
            // On TCP this flag means: count the bytes, copy none.
            let mut drop = || recv(&*stream, &mut *into, RecvFlags::TRUNC);
            return retried(|| drop().map(|(_, count)| count).map_err(io::Error::from));
        }
        receive(stream, session, into)
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// `InvalidData` when it is too long, `UnexpectedEof` when the peer closes within it.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        loop {
            let ahead = &self.buffer[self.start..self.end];
            if let Some(at) = ahead.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&ahead[..at]).into_owned();
                self.start += at + 2;
                return Ok(line);
            }
            if ahead.len() > LINE_BYTES_MAX {
                return Err(malformed("line too long"));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.end + READ_AHEAD, 0);
        }
        let Self { stream, session, buffer, end, .. } = self;
        let count = receive(stream, session, &mut buffer[*end..])?;
        *end += count;
        Ok(count)
    }
}

/// Reads once, decrypted where there is a session.
fn receive(
    stream: &mut TcpStream,
    session: &mut Option<Box<rustls::Connection>>,
    into: &mut [u8],
) -> io::Result<usize> {
    match session {
        Some(session) => loop {
            match session.reader().read(into) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    session.complete_io(stream)?;
                }
                other => return other,
            }
        },
        None => retried(|| stream.read(into)),
    }
}

fn send_encrypted(
    stream: &mut TcpStream,
    session: &mut rustls::Connection,
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        if session.is_handshaking() {
            session.complete_io(stream)?;
        }
        let count = session.writer().write(bytes)?;
        bytes = &bytes[count..];
        while session.wants_write() {
            if retried(|| session.write_tls(stream))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
    }
    Ok(())
}

/// `read`, again where a signal came between.
fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A peer broke the protocol.
pub(crate) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

const HEAD_BYTES_MAX: usize = 64 << 10;
const LINE_BYTES_MAX: usize = 8 << 10;
const READ_AHEAD: usize = 16 << 10;
const SEND_FILE_MAX: usize = 8 << 20;
/// What is encrypted at a time.
const PIECE_BYTES: usize = 256 << 10;
const LINGER_BYTES_MAX: usize = 64 << 20;
const LINGER_WAIT: Duration = Duration::from_secs(5);
