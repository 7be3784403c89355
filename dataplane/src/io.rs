//! The one place that knows the runtime: sockets by readiness, time, tasks.
//!
//! Every socket is non-blocking. A call is tried first; only when the kernel answers `EAGAIN` does
//! a task wait for readiness (a poll on io_uring, epoll otherwise). So a wait can be given up
//! without losing a byte, nothing is pinned while a connection idles, and nothing above this file
//! can tell which driver runs. What is small and has its connection to itself, heads above all,
//! goes the ring's own way: [`Socket::receive`] and [`Socket::send`].

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use monoio::time::TimeDriver;

mod deadlines;
mod descriptor;
mod doorbell;
mod heart;
mod line;
mod socket;
mod turns;
mod waves;

pub(crate) use self::doorbell::Doorbell;
pub(crate) use self::heart::lately;
pub(crate) use self::socket::{Socket, canonical};
pub(crate) use self::turns::{copied_max, note_small};

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
///
/// Whoever waits pins `future` where it is made: an async function keeps what it is given and what
/// it then pins apart, and every task would have room for both.
pub(crate) async fn within<F: Future + Unpin>(wait: Duration, mut future: F) -> Option<F::Output> {
    if wait < SHARP_BELOW {
        return Box::pin(monoio::time::timeout(wait, future)).await.ok();
    }
    until(wait, Pin::new(&mut future), || false).await
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

#[cfg(test)]
pub(crate) mod tests {
    use std::rc::Rc;
    use std::time::Instant;

    use super::*;

    /// Runs `test`, which is told whether it is on a ring, on a core of each driver that works.
    pub(crate) fn on_each_driver<F: Future<Output = ()> + 'static>(test: fn(bool) -> F) {
        let drivers = if uring_works() { vec![true, false] } else { vec![false] };
        for uring in drivers {
            // What waits for turns is a thread's own.
            let core = std::thread::spawn(move || run(uring, test(uring)));
            assert!(core.join().is_ok_and(|ran| ran.is_ok()), "uring: {uring}");
        }
    }

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
