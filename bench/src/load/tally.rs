//! What a load has done so far: counted by the threads that make it, read by whoever shows it.
//!
//! Requests, bytes and [`Fault`]s in; sums, a latency histogram and one example a cause out. Each
//! thread has a tally of its own, so its lock is almost never contended.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Why one request failed.
#[derive(Debug)]
pub(crate) struct Fault {
    /// A short name, the same for everything of this kind.
    pub(crate) cause: Cow<'static, str>,
    /// What was asked and what came, in a sentence; no credential and no query.
    pub(crate) said: String,
}

impl Fault {
    /// A fault of the kind `cause`.
    pub(crate) fn new(cause: impl Into<Cow<'static, str>>, said: impl Into<String>) -> Self {
        Self { cause: cause.into(), said: said.into() }
    }

    /// Says what was being done.
    pub(crate) fn during(mut self, what: &str) -> Self {
        self.said = format!("{what}: {}", self.said);
        self
    }
}

impl From<io::Error> for Fault {
    fn from(cause: io::Error) -> Self {
        let name = match cause.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused",
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset",
            io::ErrorKind::UnexpectedEof => "cut short",
            io::ErrorKind::InvalidData => "malformed answer",
            io::ErrorKind::PermissionDenied => "tunnel refused",
            io::ErrorKind::TimedOut => "timed out",
            io::ErrorKind::AddrNotAvailable => "out of local ports",
            _ => "broken connection",
        };
        let said = match cause.kind() {
            io::ErrorKind::UnexpectedEof => "the connection ended too early".to_owned(),
            _ => cause.to_string(),
        };
        Self::new(name, said)
    }
}

/// When a load counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// When the warm-up is over.
    pub(crate) start: Instant,
    /// When it is enough; `None` where a number of requests or bytes decides.
    pub(crate) end: Option<Instant>,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        at >= self.start && self.end.is_none_or(|end| at < end)
    }
}

/// The counts of one thread.
pub(crate) struct Tally {
    window: Window,
    sums: Mutex<Sums>,
}

/// What has been counted.
pub(crate) struct Sums {
    /// Requests answered as they should be.
    pub(crate) requests: u64,
    /// HTTP exchanges that ended, of whatever status.
    pub(crate) exchanges: u64,
    /// Body bytes sent.
    pub(crate) bytes_up: u64,
    /// Body bytes received.
    pub(crate) bytes_down: u64,
    /// Body bytes by second of the window.
    pub(crate) by_second: Vec<u64>,
    /// Latencies in microseconds, from the intended start.
    pub(crate) latency: Histogram<u64>,
    /// How late a caller that was free began, in microseconds: the generator's own fault.
    pub(crate) lateness: Histogram<u64>,
    /// Failures by cause, with the first one's story.
    pub(crate) failures: BTreeMap<Cow<'static, str>, (u64, String)>,
    /// Connections that are open now.
    pub(crate) connections: u64,
    /// When the last request that counts was over.
    pub(crate) last: Option<Instant>,
}

impl Sums {
    /// Nothing yet.
    ///
    /// # Errors
    /// When the histograms cannot be made.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            requests: 0,
            exchanges: 0,
            bytes_up: 0,
            bytes_down: 0,
            by_second: Vec::new(),
            latency: Histogram::new(DIGITS)?,
            lateness: Histogram::new(DIGITS)?,
            failures: BTreeMap::new(),
            connections: 0,
            last: None,
        })
    }

    /// How many requests failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().map(|failure| failure.0).sum()
    }

    /// Adds what `other` counted.
    ///
    /// # Errors
    /// When the histograms do not fit together, which none do that were made here.
    pub(crate) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.requests += other.requests;
        self.exchanges += other.exchanges;
        self.bytes_up += other.bytes_up;
        self.bytes_down += other.bytes_down;
        self.connections += other.connections;
        self.last = self.last.max(other.last);
        self.by_second.resize(self.by_second.len().max(other.by_second.len()), 0);
        for (sum, more) in self.by_second.iter_mut().zip(&other.by_second) {
            *sum += more;
        }
        self.latency.add(&other.latency)?;
        self.lateness.add(&other.lateness)?;
        for (cause, (count, said)) in &other.failures {
            let entry = self.failures.entry(cause.clone()).or_insert((0, said.clone()));
            entry.0 += count;
        }
        Ok(())
    }

    fn fail(&mut self, fault: Fault, count: u64) {
        self.failures.entry(fault.cause).or_insert((0, fault.said)).0 += count;
    }

    fn bytes_at(&mut self, second: u64) -> Option<&mut u64> {
        let place = usize::try_from(second).ok()?;
        if place >= self.by_second.len() {
            self.by_second.resize(place + 1, 0);
        }
        self.by_second.get_mut(place)
    }
}

impl Tally {
    /// A tally of what happens within `window`.
    ///
    /// # Errors
    /// As [`Sums::new`].
    pub(crate) fn new(window: Window) -> anyhow::Result<Self> {
        Ok(Self { window, sums: Mutex::new(Sums::new()?) })
    }

    /// What has been counted so far.
    pub(crate) fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `count` bytes of a body were sent.
    pub(crate) fn sent(&self, count: usize) {
        self.moved(count, true);
    }

    /// `count` bytes of a body arrived.
    pub(crate) fn arrived(&self, count: usize) {
        self.moved(count, false);
    }

    fn moved(&self, count: usize, up: bool) {
        let now = Instant::now();
        if !self.window.holds(now) {
            return;
        }
        let count = count as u64;
        let mut sums = self.sums();
        *if up { &mut sums.bytes_up } else { &mut sums.bytes_down } += count;
        if let Some(bytes) = sums.bytes_at((now - self.window.start).as_secs()) {
            *bytes += count;
        }
    }

    /// One HTTP exchange ended.
    pub(crate) fn exchanged(&self) {
        if self.window.holds(Instant::now()) {
            self.sums().exchanges += 1;
        }
    }

    /// A connection was opened (1) or closed (-1).
    pub(crate) fn connected(&self, change: i64) {
        let mut sums = self.sums();
        sums.connections = sums.connections.saturating_add_signed(change);
    }

    /// The request meant to begin at `intended` ended like this. A failure counts even in the
    /// warm-up: a wrong byte is one whenever it comes.
    pub(crate) fn ended(&self, intended: Instant, ended: Result<(), Fault>) {
        let now = Instant::now();
        match ended {
            Err(fault) => self.sums().fail(fault, 1),
            Ok(()) if self.window.holds(intended) => {
                let mut sums = self.sums();
                sums.requests += 1;
                sums.last = Some(now);
                record(&mut sums.latency, now.saturating_duration_since(intended));
            }
            Ok(()) => {}
        }
    }

    /// `count` requests failed that nobody waits for any more.
    pub(crate) fn failed(&self, fault: Fault, count: u64) {
        if count > 0 {
            self.sums().fail(fault, count);
        }
    }

    /// A caller that was free began this long after it should have.
    pub(crate) fn late(&self, by: Duration) {
        record(&mut self.sums().lateness, by);
    }
}

fn record(histogram: &mut Histogram<u64>, span: Duration) {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_MAX_US);
    // It grows as it must, and nothing within the bounds is refused.
    let _ = histogram.record(micros);
}

/// Significant digits that a histogram keeps.
const DIGITS: u8 = 3;
/// Longer than any timeout that makes sense: a day.
const LATENCY_MAX_US: u64 = 86_400_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_within_the_window_counts_but_every_failure_does() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let tally = Tally::new(Window { start: later, end: None }).unwrap();
        tally.sent(7);
        tally.ended(now, Ok(()));
        tally.ended(now, Err(Fault::new("wrong digest", "it differs")));
        let sums = tally.sums();
        assert_eq!((sums.bytes_up, sums.requests, sums.failed()), (0, 0, 1));
    }

    #[test]
    fn two_threads_add_up_and_the_first_story_is_kept() {
        let now = Instant::now();
        let tally = Tally::new(Window { start: now, end: None }).unwrap();
        tally.arrived(5);
        tally.ended(now, Ok(()));
        tally.ended(now, Err(Fault::new("timed out", "the first")));
        tally.ended(now, Err(Fault::new("timed out", "the second")));
        let mut all = Sums::new().unwrap();
        all.add(&tally.sums()).unwrap();
        all.add(&tally.sums()).unwrap();
        assert_eq!((all.requests, all.bytes_down, all.latency.len()), (2, 10, 2));
        assert_eq!(all.by_second, [10]);
        assert_eq!(all.failures["timed out"], (4, "the first".to_owned()));
    }
}
