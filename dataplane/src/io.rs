//! The one place that knows the runtime: sockets by readiness, time, tasks.
//!
//! Every socket is non-blocking. A call is tried first; only when the kernel answers `EAGAIN` does
//! a task wait for readiness (a poll on io_uring, epoll otherwise). So a wait can be given up
//! without losing a byte, nothing is pinned while a connection idles, and nothing above this file
//! can tell which driver runs.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use monoio::io::AsyncReadRent;
use monoio::time::TimeDriver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::pipe::SpliceFlags;

use crate::pipes::Pipe;

mod deadlines;
mod descriptor;
mod doorbell;
mod heart;
mod turns;
mod waves;

pub(crate) use self::doorbell::Doorbell;
pub(crate) use self::heart::lately;

/// A connected, non-blocking TCP socket of this core.
pub(crate) struct Socket {
    inner: monoio::net::TcpStream,
    /// Whether a [`Socket::receive`] is under way, or was given up: what it received is lost then.
    receiving: bool,
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
        let inner = monoio::net::TcpStream::from_std(socket)?;
        Ok(Self { inner, receiving: false, since_yield: Cell::new(0) })
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
        if self.receiving {
            return (Err(io::ErrorKind::ConnectionAborted.into()), into);
        }
        self.receiving = true;
        // On epoll a receive is tried before it is waited for: too soon, most often, if it follows
        // a send at once.
        if EPOLL.get() {
            together().await;
        }
        let received = self.inner.read(into).await;
        self.receiving = false;
        self.note(received.0.as_ref().copied().unwrap_or_default());
        turns::note_small();
        received
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
        if self.since_yield.get() >= YIELD_BYTES {
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
        descriptor::of(&self.inner)
    }
}

/// Runs `main` on this thread's own runtime until it ends, on io_uring if `uring`.
pub(crate) fn run<F: Future<Output = ()>>(uring: bool, main: F) -> io::Result<()> {
    let main = async {
        spawn(heart::beat());
        spawn(turns::keep(uring));
        spawn(waves::keep());
        EPOLL.set(!uring);
        main.await;
    };
    if uring {
        let mut runtime = uring_runtime()?;
        runtime.block_on(main);
        // Operations may be in flight, into buffers that would be freed with the runtime while the
        // kernel still writes: a runtime is never dropped, the process exits instead.
        std::mem::forget(runtime);
    } else {
        let mut runtime =
            monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build()?;
        runtime.block_on(main);
        std::mem::forget(runtime);
    }
    Ok(())
}

/// Whether the kernel lets this process use io_uring, with all that the driver needs.
pub(crate) fn uring_works() -> bool {
    monoio::utils::detect_uring() && { uring_runtime().is_ok() }
}

/// A runtime on a ring of this thread. What completes is dealt with when the thread asks for it
/// (Linux 6.1), or else when it enters the kernel anyway (6.0), instead of interrupting it.
fn uring_runtime() -> io::Result<monoio::Runtime<TimeDriver<monoio::IoUringDriver>>> {
    let build = |ring: &io_uring::Builder| {
        let ring = ring.clone();
        let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().uring_builder(ring);
        builder.enable_timer().build()
    };
    let plain = io_uring::IoUring::builder();
    let (mut asked, mut entering) = (plain.clone(), plain.clone());
    asked.setup_single_issuer().setup_defer_taskrun();
    entering.setup_single_issuer().setup_coop_taskrun();
    build(&asked).or_else(|_| build(&entering)).or_else(|_| build(&plain))
}

/// Starts a task on this core.
#[expect(clippy::disallowed_methods, reason = "this is the file that may")]
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    // Dropping the handle lets the task run on by itself.
    drop(monoio::spawn(task));
}

/// Sleeps.
pub(crate) async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// The outcome of `future`, or `None` when it takes longer than `wait`. The future is dropped then:
/// everything this file offers may be dropped without losing a byte, but for [`Socket::receive`].
///
/// A wait of seconds may be given up a fraction of a second late.
pub(crate) async fn within<F: Future>(wait: Duration, future: F) -> Option<F::Output> {
    if wait < SHARP_BELOW {
        return Box::pin(monoio::time::timeout(wait, future)).await.ok();
    }
    until(wait, pin!(future), || false).await
}

/// The outcome of `future`, or `None` when it takes longer than `wait` or when `stop` says so:
/// whoever makes that come true calls [`wake_all`].
pub(crate) async fn until<F: Future>(
    wait: Duration,
    mut future: Pin<&mut F>,
    stop: impl Fn() -> bool,
) -> Option<F::Output> {
    let deadline = deadlines::after(wait);
    let mut place = deadlines::Place::default();
    poll_fn(|context| {
        if let Poll::Ready(outcome) = future.as_mut().poll(context) {
            return Poll::Ready(Some(outcome));
        }
        if stop() || deadlines::has_passed(deadline) {
            return Poll::Ready(None);
        }
        place.wait(deadline, context.waker());
        Poll::Pending
    })
    .await
}

/// Has everybody who waits on this core look again whether there is reason to.
pub(crate) fn wake_all() {
    deadlines::wake_all();
}

/// Lets every other ready task of this core run once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Lets everybody who is ready now come as far before something small is sent: see [`waves`].
/// Beside bodies, which are ready all the time, what is small goes at once.
pub(crate) async fn together() {
    if !turns::bodies_are_about() {
        waves::wait().await;
    }
}

/// Lets everybody go first who has less to do, and the timers too if they have not for a while.
pub(crate) async fn give_way() {
    turns::wait().await;
}

thread_local! {
    /// Whether this core runs on epoll.
    static EPOLL: Cell<bool> = const { Cell::new(false) };
}

/// Waits below this get a timer of their own.
const SHARP_BELOW: Duration = Duration::from_secs(2);
/// The least that a timer can wait.
const TIMER_STEP: Duration = Duration::from_millis(1);

async fn timely(wait: Duration, ready: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    within(wait, ready).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

/// Bytes one socket may move before the core's other tasks get a turn: less than a tenth of a
/// millisecond's work.
const YIELD_BYTES: usize = 256 << 10;

/// A silent peer is probed after this long, so often, so many times: about two minutes in all.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// How long sent bytes may stay unacknowledged, in milliseconds.
const UNACKNOWLEDGED_MS_MAX: u32 = 120_000;

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn timers_run_while_a_body_never_has_to_wait() {
        let drivers = if uring_works() { vec![true, false] } else { vec![false] };
        for uring in drivers {
            let started = Instant::now();
            let ran = run(uring, async {
                let late = Rc::new(Cell::new(false));
                let seen = Rc::clone(&late);
                spawn(async move {
                    sleep(Duration::from_millis(100)).await;
                    late.set(true);
                });
                let (ended, end) = futures_channel::oneshot::channel();
                spawn(async move {
                    while !seen.get() && started.elapsed() < Duration::from_secs(5) {
                        give_way().await;
                    }
                    ended.send(()).expect("somebody waits");
                });
                end.await.expect("the body ended");
            });
            assert!(ran.is_ok() && started.elapsed() < Duration::from_secs(2), "timers starved");
        }
    }
}
