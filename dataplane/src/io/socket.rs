//! A TCP connection of one core, by readiness.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::pipe::SpliceFlags;

use super::{EPOLL, descriptor, give_way, together, turns, waves, within};
use crate::pipes::Pipe;

/// A connected, non-blocking TCP socket of this core.
pub(crate) struct Socket {
    /// Shared with a send that waits for its wave, and with nothing else.
    inner: Rc<monoio::net::TcpStream>,
    /// Whether a [`Socket::receive`] is under way, or was given up: what it received is lost then.
    receiving: bool,
    /// Whether a [`Socket::send`] is under way, or was given up: nobody knows how far it came then.
    sending: bool,
    /// Bytes moved since the core's other tasks last had a turn.
    since_yield: Cell<usize>,
}

impl Socket {
    /// Makes `socket` this core's: non-blocking, without Nagle's delay, and probed by the kernel
    /// so that a peer that vanished without a FIN frees it within two minutes.
    pub(crate) fn adopt(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
        sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS_MAX)?;
        let inner = Rc::new(monoio::net::TcpStream::from_std(socket)?);
        Ok(Self { inner, receiving: false, sending: false, since_yield: Cell::new(0) })
    }

    /// Connects to `address`, or fails with `TimedOut` after `wait`.
    pub(crate) async fn connect(address: SocketAddr, wait: Duration) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let connected = Self::adopt(TcpStream::from(socket))?;
        connected.writable(wait).await?;
        match sockopt::socket_error(connected.as_fd())? {
            Ok(()) => Ok(connected),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for what comes and receives it into `into`, from its start and up to its capacity. 0
    /// is the end of the stream.
    ///
    /// One operation of the runtime where a try, a wait and a receive are three, and for that it
    /// cannot be given up half-way: whoever drops it must drop the socket too. Nothing can be
    /// received from it afterwards.
    pub(crate) async fn receive(&mut self, into: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        // On epoll a receive is tried before it is waited for: too soon, most often, if it follows
        // a send at once.
        if EPOLL.get() {
            together().await;
        }
        let (false, Some(inner)) = (self.receiving, Rc::get_mut(&mut self.inner)) else {
            return (Err(io::ErrorKind::ConnectionAborted.into()), into);
        };
        self.receiving = true;
        // Who waits for a head moves no body: however much went before, others have had turns.
        self.since_yield.set(0);
        let received = inner.read(into).await;
        self.receiving = false;
        self.note(received.0.as_ref().copied().unwrap_or_default());
        received
    }

    /// Sends `bytes`, which are few, with what else of this core is about to leave, and says how
    /// many of them went; they are handed back. May fail with `WouldBlock`, or with `TimedOut` when
    /// nothing fits for as long as `wait`: nobody knows then how many go, and nothing more is sent.
    ///
    /// As with [`Socket::receive`], whoever drops it must drop the socket too.
    pub(crate) async fn send(
        &mut self,
        bytes: Bytes,
        wait: Duration,
    ) -> (io::Result<usize>, Bytes) {
        if turns::bodies_are_about() {
            return (self.try_send(&[IoSlice::new(&bytes)]), bytes);
        }
        let (false, Some(inner)) = (self.sending, Rc::get_mut(&mut self.inner)) else {
            return (Err(io::ErrorKind::ConnectionAborted.into()), bytes);
        };
        self.sending = true;
        let sent = if EPOLL.get() {
            waves::send(Rc::clone(&self.inner), bytes).await
        } else {
            // It waits with the others until this core enters the kernel.
            match within(wait, pin!(inner.write(bytes))).await {
                Some(sent) => sent,
                None => return (Err(io::ErrorKind::TimedOut.into()), Bytes::new()),
            }
        };
        self.sending = false;
        self.note(sent.0.as_ref().copied().unwrap_or_default());
        sent
    }

    /// Receives what is there now, or fails with `WouldBlock`. 0 is the end of the stream.
    pub(crate) fn try_recv(&self, into: &mut [u8]) -> io::Result<usize> {
        if self.receiving {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (count, _) = rustix::net::recv(self, into, RecvFlags::empty())?;
        self.note(count);
        Ok(count)
    }

    /// Looks at what could be received now, or fails with `WouldBlock`. 0 is the end of the stream.
    pub(crate) fn try_peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let (count, _) = rustix::net::recv(self, into, RecvFlags::PEEK)?;
        Ok(count)
    }

    /// Sends what fits now, or fails with `WouldBlock`.
    pub(crate) fn try_send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.sending {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let count = match parts {
            [one] => rustix::net::send(self, one, SendFlags::NOSIGNAL)?,
            parts => {
                let mut control = rustix::net::SendAncillaryBuffer::default();
                rustix::net::sendmsg(self, parts, &mut control, SendFlags::NOSIGNAL)?
            }
        };
        self.note(count);
        Ok(count)
    }

    /// Receives and drops up to `limit` bytes without copying them (`MSG_TRUNC`, tcp(7)).
    pub(crate) fn try_discard(&self, into: &mut [u8]) -> io::Result<usize> {
        let (_, count) = rustix::net::recv(self, into, RecvFlags::TRUNC)?;
        self.note(count);
        Ok(count)
    }

    /// Moves up to `limit` received bytes into the empty `pipe`, or fails with `WouldBlock`. 0 is
    /// the end of the stream.
    pub(crate) fn try_splice_in(&self, pipe: &mut Pipe, limit: u64) -> io::Result<u64> {
        let piece = pipe.bytes().min(turns::piece_max());
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX).min(piece);
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = rustix::pipe::splice(self, None, pipe.writing(), None, wanted, flags)?;
        pipe.held += count;
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// Moves what fits of the first `limit` bytes in `pipe` into this socket, or fails with
    /// `WouldBlock`. `more` says that more is to follow at once, so that the kernel need not send a
    /// short packet.
    pub(crate) fn try_splice_out(
        &self,
        pipe: &mut Pipe,
        limit: usize,
        more: bool,
    ) -> io::Result<usize> {
        let more = if more { SpliceFlags::MORE } else { SpliceFlags::empty() };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK | more;
        let wanted = pipe.held.min(limit);
        let count = rustix::pipe::splice(pipe.reading(), None, self, None, wanted, flags)?;
        pipe.held = pipe.held.saturating_sub(count);
        self.note(count);
        Ok(count)
    }

    /// Whether a third of what the kernel buffers for this socket is free (poll(2), tcp(7)): then a
    /// piece of a body is likely to fit.
    pub(crate) fn has_room(&self) -> bool {
        let mut asked = [PollFd::new(self, PollFlags::OUT)];
        !matches!(poll(&mut asked, Some(&Timespec::default())), Ok(0))
    }

    /// Waits until a receive can do something, or fails with `TimedOut` after `wait`.
    pub(crate) async fn readable(&self, wait: Duration) -> io::Result<()> {
        // On the heap: where nothing has to be waited for, no task keeps room for it.
        Box::pin(timely(wait, self.inner.readable(false))).await
    }

    /// Waits until a send can do something, or fails with `TimedOut` after `wait`.
    pub(crate) async fn writable(&self, wait: Duration) -> io::Result<()> {
        Box::pin(timely(wait, self.inner.writable(false))).await
    }

    /// Gives the core's other tasks a turn once enough bytes have moved, so that a peer that is
    /// always ready cannot keep the core to itself.
    pub(crate) async fn fairly(&self) {
        if self.since_yield.get() >= turns::copied_max() {
            self.since_yield.set(0);
            give_way().await;
        }
    }

    /// Waits for a turn while small requests are about: whoever has just been woken for a piece of
    /// a body was woken with others, and all their pieces would come before a head that is due.
    pub(crate) async fn in_turn(&self) {
        if turns::small_ones_are_about() {
            self.since_yield.set(0);
            give_way().await;
        }
    }

    /// Where this end of the connection is.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(self)?;
        let address = SocketAddr::try_from(address).map_err(|_| io::ErrorKind::AddrNotAvailable)?;
        Ok(canonical(address))
    }

    /// Whether an idle connection is still good: nothing to receive, and no end of stream.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        let peeked = rustix::net::recv(self, &mut byte, RecvFlags::PEEK);
        !self.receiving && matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Sends our FIN: nothing more will be sent, much may still be received.
    pub(crate) fn finish(&self) {
        // A connection that is already gone needs no FIN.
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Write);
    }

    /// Makes the coming close a reset, so that the peer cannot take what it has for the whole.
    pub(crate) fn reset_on_close(&self) {
        // Where it cannot be set the socket is already dead.
        let _ = sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }

    /// The same connection as a plain socket, to be adopted by another core.
    pub(crate) fn detach(self) -> io::Result<TcpStream> {
        // A duplicate: dropping `self` then takes the old descriptor out of this core's driver.
        Ok(TcpStream::from(self.as_fd().try_clone_to_owned()?))
    }

    fn note(&self, count: usize) {
        self.since_yield.set(self.since_yield.get().saturating_add(count));
    }
}

/// `address` as others know it: a socket for both families shows one of IPv4 as one of IPv6
/// (RFC 4291 §2.5.5.2, "IPv4-Mapped IPv6 Address").
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor::of(&*self.inner)
    }
}

async fn timely(wait: Duration, ready: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    within(wait, pin!(ready)).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

/// A silent peer is probed after this long, so often, so many times: about two minutes in all.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// How long sent bytes may stay unacknowledged, in milliseconds.
const UNACKNOWLEDGED_MS_MAX: u32 = 120_000;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use futures_util::FutureExt as _;

    use super::super::sleep;
    use super::super::tests::on_each_driver;
    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    /// A connection of this core, and its other end.
    async fn connection() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let near = Socket::connect(address, WAIT).await.unwrap();
        let (far, _) = listener.accept().unwrap();
        (near, far)
    }

    #[test]
    fn what_is_small_arrives_and_comes_back() {
        on_each_driver(|_| async {
            let (mut near, mut far) = connection().await;
            let (sent, bytes) = near.send(Bytes::from_static(b"HEAD / HTTP/1.1\r\n"), WAIT).await;
            assert_eq!((sent.unwrap(), bytes.len()), (17, 17));
            let mut received = [0; 17];
            far.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"HEAD / HTTP/1.1\r\n");
        });
    }

    #[test]
    fn nothing_is_sent_after_what_was_given_up() {
        on_each_driver(|uring| async move {
            let (mut near, _far) = connection().await;
            let full = vec![0; 1 << 20];
            while near.try_send(&[IoSlice::new(&full)]).is_ok() {}
            let (sent, _) = near.send(Bytes::from_static(b"more"), Duration::from_millis(20)).await;
            let sent = sent.unwrap_err().kind();
            let again = near.try_send(&[IoSlice::new(b"again")]).unwrap_err().kind();
            if uring {
                // The kernel may have taken a part of it.
                assert_eq!(sent, io::ErrorKind::TimedOut);
                assert_eq!(again, io::ErrorKind::ConnectionAborted);
            } else {
                assert_eq!(sent, io::ErrorKind::WouldBlock);
                assert_eq!(again, io::ErrorKind::WouldBlock);
            }
        });
    }

    #[test]
    fn a_send_that_was_given_up_before_its_wave_is_the_last_one() {
        on_each_driver(|_| async {
            let (mut near, mut far) = connection().await;
            assert!(near.send(Bytes::from_static(b"once"), WAIT).now_or_never().is_none());
            let again = near.try_send(&[IoSlice::new(b"again")]).unwrap_err().kind();
            assert_eq!(again, io::ErrorKind::ConnectionAborted);
            let (again, _) = near.send(Bytes::from_static(b"again"), WAIT).await;
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            drop(near);
            // What it had may have gone; nothing else has, and nothing keeps the connection.
            let reading = std::thread::spawn(move || {
                let mut received = Vec::new();
                far.read_to_end(&mut received).map(|_| received)
            });
            let read = async {
                while !reading.is_finished() {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            within(WAIT, pin!(read)).await.expect("the connection ended");
            let received = reading.join().unwrap().unwrap();
            assert!(received.is_empty() || received == b"once");
        });
    }

    #[test]
    fn many_small_requests_on_one_connection_are_no_body() {
        on_each_driver(|_| async {
            let (mut near, mut far) = connection().await;
            let mut room = Vec::with_capacity(4096);
            let mut moved = 0;
            while moved < 1 << 20 {
                far.write_all(&[1; 1024]).unwrap();
                let (received, buffer) = near.receive(room).await;
                moved += received.unwrap();
                room = buffer;
                near.fairly().await;
            }
            assert!(!turns::bodies_are_about());
        });
    }
}
