//! One blocking connection of the comparison: heads in a buffer, bodies that nobody copies.
//!
//! A socket, plain or inside TLS of either side, goes in; heads and byte counts come out. It is as
//! cheap as a blocking socket allows, because what it costs is taken from the processor that it
//! shares with the other end. It looks at no body's bytes.

mod sealed;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use self::sealed::Sealed;
use crate::memory::{Noise, Pages, file};
use crate::wire::malformed;

/// A connection and what was read from it ahead of need.
pub(crate) struct Link {
    stream: TcpStream,
    sealed: Option<Sealed>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    scratch: Pages,
}

/// Bytes to send again and again, in memory.
pub(crate) struct Stock {
    file: File,
    length: u64,
    pieces: u64,
    is_framed: bool,
    taken: AtomicU64,
}

impl Stock {
    /// `length` bytes of noise.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub(crate) fn noise(length: u64) -> io::Result<Self> {
        Self::framed(length, length)
    }

    /// `length` bytes of noise in chunks of `chunk` bytes (RFC 9112 §7.1), without the last chunk.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub(crate) fn chunks(length: u64, chunk: u64) -> io::Result<Self> {
        Self::framed(length, chunk)
    }

    fn framed(length: u64, chunk: u64) -> io::Result<Self> {
        let mut stock = file("bench-stock")?;
        let mut noise = Noise::new(SEED);
        let mut piece = vec![0; usize::try_from(chunk.min(MIB)).unwrap_or_default()];
        let framed = chunk < length;
        let (mut left, mut pieces) = (length, 0);
        while left > 0 {
            pieces += 1;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            noise.fill(&mut piece[..take]);
            if framed {
                write!(stock, "{take:x}\r\n")?;
            }
            stock.write_all(&piece[..take])?;
            if framed {
                stock.write_all(b"\r\n")?;
            }
            left -= take as u64;
        }
        let length = stock.metadata()?.len();
        Ok(Self { length, file: stock, pieces, is_framed: framed, taken: AtomicU64::new(0) })
    }

    /// Where the next body begins: at another piece than those before it, as far away as can be.
    /// Of bodies that are sent at once from one place the later find the earlier one's bytes in the
    /// processor's cache, or do not, and it is chance how dear a copy of them is.
    fn place(&self) -> u64 {
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        // Multiples of the golden section lie apart however many of them there are.
        let piece = (turn as f64 * GOLDEN_SECTION).fract() * self.pieces as f64;
        piece as u64 * (self.length / self.pieces)
    }
}

impl Link {
    /// Takes over a connected socket, with our side of TLS if `tls` is given; reads and writes give
    /// up after `wait` without a byte.
    ///
    /// # Errors
    /// What setting the socket's options says.
    pub(crate) fn new(
        stream: TcpStream,
        tls: Option<&Arc<ServerConfig>>,
        wait: Duration,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        let accepted = |settings: &Arc<ServerConfig>| {
            let state = ServerConnection::new(Arc::clone(settings)).map_err(io::Error::other)?;
            Sealed::new(&stream, state.into())
        };
        let sealed = tls.map(accepted).transpose()?;
        let scratch = Pages::new(SCRATCH_BYTES);
        Ok(Self { stream, sealed, buffer: vec![0; HEAD_BYTES_MAX], start: 0, end: 0, scratch })
    }

    /// Goes on inside TLS, as its client, and does the handshake.
    ///
    /// # Errors
    /// When bytes were read ahead of it, or the other side is not who it should be.
    pub(crate) fn seal(
        &mut self,
        settings: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        if !self.ahead().is_empty() {
            return Err(malformed("bytes before the handshake"));
        }
        let state = ClientConnection::new(Arc::clone(settings), name).map_err(io::Error::other)?;
        let mut sealed = Sealed::new(&self.stream, state.into())?;
        sealed.shake_hands(&mut self.stream)?;
        self.sealed = Some(sealed);
        Ok(())
    }

    /// Waits for a whole head and says how long it is; `None` when the peer closed before it.
    ///
    /// # Errors
    /// What the socket says, and an endless or cut head.
    pub(crate) fn head(&mut self) -> io::Result<Option<usize>> {
        let mut searched = 0;
        loop {
            let ahead = self.ahead();
            let from = searched.max(3) - 3;
            if let Some(at) = ahead[from..].windows(4).position(|four| four == b"\r\n\r\n") {
                return Ok(Some(from + at + 4));
            }
            searched = ahead.len();
            if self.fill(HEAD_BYTES_MAX)? == 0 {
                let clean = self.start == self.end;
                return if clean { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// What was read and not used.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next `count` bytes were used; there must be as many.
    pub(crate) fn used(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Drops at most `most` bytes, waiting for the first; 0 when the peer closed.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn drop_some(&mut self, most: u64) -> io::Result<u64> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let ahead = self.end - self.start;
        if ahead > 0 {
            let count = ahead.min(most);
            self.start += count;
            return Ok(count as u64);
        }
        let into = self.scratch.bytes();
        let most = most.min(into.len());
        if let Some(sealed) = &mut self.sealed {
            return Ok(sealed.read(&mut self.stream, &mut into[..most])? as u64);
        }
        loop {
            // On TCP this flag means: count the bytes, copy none.
            match recv(&self.stream, &mut into[..most], RecvFlags::TRUNC) {
                Ok((_, count)) => return Ok(count as u64),
                Err(Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    /// Drops exactly `count` bytes.
    ///
    /// # Errors
    /// What the socket says; `UnexpectedEof` when the peer closes before.
    pub(crate) fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            match self.drop_some(count)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                dropped => count -= dropped,
            }
        }
        Ok(())
    }

    /// Drops a chunked body (RFC 9112 §7.1) and says how many bytes it carried.
    ///
    /// # Errors
    /// What the socket says, a malformed chunk, trailers.
    pub(crate) fn skip_chunks(&mut self) -> io::Result<u64> {
        let mut carried = 0;
        loop {
            let size = self.chunk_size()?;
            carried += size;
            self.skip(size)?;
            while self.end - self.start < 2 {
                self.fill_some()?;
            }
            if !self.ahead().starts_with(b"\r\n") {
                return Err(malformed("a chunk that does not end where it should"));
            }
            self.used(2);
            if size == 0 {
                return Ok(carried);
            }
        }
    }

    fn chunk_size(&mut self) -> io::Result<u64> {
        loop {
            if let Some(at) = self.ahead().windows(2).position(|two| two == b"\r\n") {
                let digits = std::str::from_utf8(&self.ahead()[..at]).ok();
                let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
                self.used(at + 2);
                return size.ok_or_else(|| malformed("bad chunk size"));
            }
            if self.ahead().len() > CHUNK_HEAD_MAX {
                return Err(malformed("endless chunk size"));
            }
            self.fill_some()?;
        }
    }

    /// Reads a little: whatever is read here is copied, and most of it is payload.
    fn fill_some(&mut self) -> io::Result<()> {
        match self.fill(CHUNK_HEAD_MAX)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn fill(&mut self, most: usize) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let limit = self.buffer.len().min(self.end + most);
        let into = &mut self.buffer[self.end..limit];
        if into.is_empty() {
            return Err(malformed("a head that is too long"));
        }
        let count = match &mut self.sealed {
            Some(sealed) => sealed.read(&mut self.stream, into)?,
            None => read(&mut self.stream, into)?,
        };
        self.end += count;
        Ok(count)
    }

    /// Sends `bytes`; `more` tells the kernel that further bytes follow at once.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn send(&mut self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        if let Some(sealed) = &mut self.sealed {
            return sealed.write(&mut self.stream, bytes);
        }
        let flags = if more { SendFlags::MORE } else { SendFlags::empty() } | SendFlags::NOSIGNAL;
        while !bytes.is_empty() {
            match send(&self.stream, bytes, flags) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(())
    }

    /// Sends `length` bytes of `stock`, over and over, from a place of their own in it. Of chunks
    /// it sends whole ones if `length` is that of whole ones.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn send_stock(&mut self, stock: &Stock, mut length: u64) -> io::Result<()> {
        let mut offset = stock.place();
        while length > 0 {
            let most = length.min(stock.length - offset).min(SEND_MAX);
            let sent = match &mut self.sealed {
                // Framing has to arrive as it is; of noise any will do.
                Some(sealed) if stock.is_framed => {
                    let most = usize::try_from(most).unwrap_or(usize::MAX);
                    let into = self.scratch.bytes();
                    let most = most.min(into.len());
                    let count = stock.file.read_at(&mut into[..most], offset)?;
                    sealed.write_some(&mut self.stream, &into[..count])?
                }
                Some(sealed) => sealed.write_noise(&mut self.stream, most)?,
                None => self.send_file(stock, offset, most)?,
            };
            length -= sent;
            offset = (offset + sent) % stock.length;
        }
        Ok(())
    }

    fn send_file(&mut self, stock: &Stock, mut offset: u64, most: u64) -> io::Result<u64> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        loop {
            match sendfile(&self.stream, &stock.file, Some(&mut offset), most) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => return Ok(count as u64),
                Err(Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
    }
}

fn read(stream: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(into) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

const HEAD_BYTES_MAX: usize = 16 << 10;
const CHUNK_HEAD_MAX: usize = 64;
const SCRATCH_BYTES: usize = 256 << 10;
const GOLDEN_SECTION: f64 = 0.618_033_988_749_895;
const SEND_MAX: u64 = 8 << 20;
const MIB: u64 = 1 << 20;
const SEED: u64 = 0x0063_6f6d_7061_7265;
