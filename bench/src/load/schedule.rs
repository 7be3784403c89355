//! When requests begin: at once in a closed loop, at given moments in an open one.
//!
//! A rate and a seed in, moments out ([`Arrivals`], pure). A [`Door`] lets the callers of a thread
//! through one by one as their moments come. Nobody waits here for an answer: a moment that has
//! passed while all callers were busy is taken as it is, and the wait counts as latency.

use std::io;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Mutex;

use super::tally::Tally;
use crate::memory::Noise;
use crate::plan;

/// The moments at which an open loop's requests begin.
pub(crate) struct Arrivals {
    next: Instant,
    gap: f64,
    poisson: bool,
    noise: Noise,
}

impl Arrivals {
    /// `rate` moments a second from `start` on.
    pub(crate) fn new(start: Instant, rate: f64, kind: plan::Arrivals, seed: u64) -> Self {
        let poisson = kind == plan::Arrivals::Poisson;
        Self { next: start, gap: 1.0 / rate, poisson, noise: Noise::new(seed) }
    }

    /// The next moment.
    pub(crate) fn take(&mut self) -> Instant {
        let at = self.next;
        let gap = if self.poisson { -draw(&mut self.noise).ln() * self.gap } else { self.gap };
        self.next += Duration::try_from_secs_f64(gap).unwrap_or_default();
        at
    }
}

/// A number above 0, up to and including 1.
pub(crate) fn draw(noise: &mut Noise) -> f64 {
    let mut bytes = [0; 8];
    noise.fill(&mut bytes);
    ((u64::from_le_bytes(bytes) >> 11) as f64 + 1.0) / (1u64 << 53) as f64
}

/// What the callers of one thread pass before each request.
pub(crate) enum Door {
    /// It stands open.
    Open,
    /// It opens at given moments, for one caller each.
    Timed(Mutex<Opener>),
}

/// The moments of a [`Door`] and the clock that it waits by.
pub(crate) struct Opener {
    arrivals: Arrivals,
    // The runtime's own timer counts in milliseconds, which is too coarse for latencies.
    // A timer that is a descriptor reads like a pipe, which is how the runtime takes it.
    timer: Receiver,
}

impl Door {
    /// A door that opens at `arrivals`, or stands open where there are none.
    ///
    /// # Errors
    /// When the kernel has no timer left.
    pub(crate) fn new(arrivals: Option<Arrivals>) -> io::Result<Self> {
        let Some(arrivals) = arrivals else {
            return Ok(Self::Open);
        };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let timer = Receiver::from_owned_fd_unchecked(timer)?;
        Ok(Self::Timed(Mutex::new(Opener { arrivals, timer })))
    }

    /// Waits for the next moment and returns it; it may lie in the past. `None` once it would lie
    /// at or after `end`, once the time is `last`, and once the plan `is_spent`.
    ///
    /// # Errors
    /// What the timer says.
    pub(crate) async fn pass(
        &self,
        end: Option<Instant>,
        last: Option<Instant>,
        is_spent: impl Fn() -> bool,
        tally: &Tally,
    ) -> io::Result<Option<Instant>> {
        let Self::Timed(opener) = self else {
            let now = Instant::now();
            let over = end.is_some_and(|end| now >= end) || is_spent();
            return Ok((!over).then_some(now));
        };
        // Callers queue here in the order in which they became free.
        let mut opener = opener.lock().await;
        let now = Instant::now();
        let over = end.is_some_and(|end| opener.arrivals.next >= end) || is_spent();
        if over || last.is_some_and(|last| now >= last) {
            return Ok(None);
        }
        let at = opener.arrivals.take();
        if at > now {
            opener.wait(at - now).await?;
            tally.late(at.elapsed());
        }
        Ok(Some(at))
    }

    /// How many moments before `end` nobody has taken.
    pub(crate) fn left(self, end: Option<Instant>) -> u64 {
        let (Self::Timed(opener), Some(end)) = (self, end) else {
            return 0;
        };
        let mut arrivals = opener.into_inner().arrivals;
        let mut left = 0;
        while arrivals.take() < end {
            left += 1;
        }
        left
    }
}

impl Opener {
    async fn wait(&self, span: Duration) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let tv_sec = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        // A timer of zero would be none at all.
        let tv_nsec = i64::from(span.subsec_nanos().max(1));
        let once = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec, tv_nsec } };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        loop {
            self.timer.readable().await?;
            match self.timer.try_read(&mut [0; 8]) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(|_| ()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_rate_whatever_their_spacing() {
        for kind in [plan::Arrivals::Constant, plan::Arrivals::Poisson] {
            let start = Instant::now();
            let mut arrivals = Arrivals::new(start, 1000.0, kind, 42);
            let last = (0..100_000).map(|_| arrivals.take()).last().unwrap();
            let seconds = (last - start).as_secs_f64();
            assert!((99.0..101.0).contains(&seconds), "{kind:?}: {seconds}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_moments() {
        let start = Instant::now();
        let drawn = |seed| {
            let mut arrivals = Arrivals::new(start, 10.0, plan::Arrivals::Poisson, seed);
            (0..10).map(|_| arrivals.take()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
