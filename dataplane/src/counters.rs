//! What each core counts, without sharing a cache line with another, and how a scrape sums it.
//!
//! Cores add with relaxed atomics; `controlplane/src/admin.rs` reads. Every label comes from a
//! closed set of this crate, never from input. Seam 3 of the two planes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Fault, Stage};

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, unless it no longer is what was `seen`: two who saw the same do not both get it.
    pub fn claim(&self, seen: u64) -> bool {
        self.0.compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// Upper bounds of the histogram's buckets, in milliseconds; one more bucket takes the rest.
pub const BUCKETS_MS: [u64; 14] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000, 600_000];

/// Durations in fixed buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let millis = duration.as_millis();
        let place = BUCKETS_MS.iter().position(|bound| millis <= u128::from(*bound));
        if let Some(bucket) = self.buckets.get(place.unwrap_or(BUCKETS_MS.len())) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The count of each bucket (not cumulative), the last one unbounded.
    pub fn counts(&self) -> [u64; BUCKETS_MS.len() + 1] {
        std::array::from_fn(|place| {
            self.buckets.get(place).map_or(0, |bucket| bucket.load(Ordering::Relaxed))
        })
    }

    /// The sum of all durations, in seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// What a request asked for: the closed label set `route`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Route {
    /// The bare `/v2/`.
    Ping,
    /// A manifest, by tag or digest.
    Manifest,
    /// A blob, by digest.
    Blob,
    /// An upload, from its POST to its PUT.
    Upload,
    /// `tags/list`.
    Tags,
    /// `referrers/<digest>`.
    Referrers,
    /// Harbor's token service, in whose stead we answer.
    Token,
    /// Harbor's own API.
    Api,
    /// A CONNECT.
    Connect,
    /// Nothing that could be told.
    #[default]
    Unknown,
}

impl Route {
    /// All routes, in the order of [`Route::index`].
    pub const ALL: [Self; 10] = [
        Self::Ping,
        Self::Manifest,
        Self::Blob,
        Self::Upload,
        Self::Tags,
        Self::Referrers,
        Self::Token,
        Self::Api,
        Self::Connect,
        Self::Unknown,
    ];

    /// The word for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Upload => "upload",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Token => "token",
            Self::Api => "api",
            Self::Connect => "connect",
            Self::Unknown => "unknown",
        }
    }
}

/// How many status classes are told apart: 1xx to 5xx, and 0 where no status was sent.
pub const STATUS_CLASSES: usize = 6;

/// All counters of one core, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    exchanges: [[Counter; STATUS_CLASSES]; Route::ALL.len()],
    ends: [[Counter; Stage::ALL.len()]; Fault::ALL.len()],
    /// Bytes of bodies from callers to registries.
    pub bytes_up: Counter,
    /// Bytes of bodies from registries to callers.
    pub bytes_down: Counter,
    /// Callers' connections accepted.
    pub connections_total: Counter,
    /// Callers' connections open.
    pub connections: Gauge,
    /// Exchanges under way.
    pub in_flight: Gauge,
    /// Long transfers under way: what balancing goes by.
    pub transfers: Gauge,
    /// Connections handed to another core because this one had a long transfer already.
    pub handed_over: Counter,
    /// Connections to registries opened.
    pub dials: Counter,
    /// Requests sent on a connection that was already open.
    pub reuses: Counter,
    /// Bodiless requests sent again because their reused connection was dead.
    pub resends: Counter,
    /// Hops to where registries redirect.
    pub redirects: Counter,
    /// Times a body was given a pipe to be spliced through.
    pub pipes_lent: Counter,
    /// Times there was no pipe to be had and the body was copied.
    pub pipes_refused: Counter,
    /// Questions asked of the control plane.
    pub questions: Counter,
    /// Verdicts answered from memory.
    pub verdicts_remembered: Counter,
    /// TLS handshakes with callers that succeeded.
    pub handshakes: Counter,
    /// TLS handshakes with callers that failed.
    pub handshakes_failed: Counter,
    /// Certificates asked of the control plane.
    pub certificates_asked: Counter,
    /// Tunnels whose TLS was ended here, in a registry's stead.
    pub interceptions: Counter,
    /// Tunnels to hosts that are no connector's.
    pub tunnels: Counter,
    /// Such tunnels that are open.
    pub tunnels_open: Gauge,
    /// Requests answered without asking the registry, because it refuses the credential just now.
    pub logins_refused: Counter,
    /// Requests asked again with another token or credential, after the registry's 401.
    pub logins_repeated: Counter,
    /// Questions about logins asked of the control plane.
    pub login_questions: Counter,
    /// Connection tasks that panicked.
    pub panics: Counter,
    /// From a request's first byte to its end.
    pub duration: Histogram,
    /// From the request's head to the head of the registry's answer.
    pub first_byte: Histogram,
}

impl Counters {
    /// Counts one closed exchange.
    pub fn exchange(&self, route: Route, status: u16, fault: Fault, stage: Stage) {
        let class = usize::from(status / 100).min(STATUS_CLASSES - 1);
        let route = Route::ALL.iter().position(|known| *known == route).unwrap_or_default();
        if let Some(counter) = self.exchanges.get(route).and_then(|row| row.get(class)) {
            counter.add(1);
        }
        let fault = Fault::ALL.iter().position(|known| *known == fault).unwrap_or_default();
        let stage = Stage::ALL.iter().position(|known| *known == stage).unwrap_or_default();
        if let Some(counter) = self.ends.get(fault).and_then(|row| row.get(stage)) {
            counter.add(1);
        }
    }

    /// Closed exchanges by route and status class (0 to 5).
    pub fn exchanges(&self) -> impl Iterator<Item = (Route, usize, u64)> + '_ {
        self.exchanges.iter().zip(Route::ALL).flat_map(|(row, route)| {
            row.iter().enumerate().map(move |(class, counter)| (route, class, counter.get()))
        })
    }

    /// Closed exchanges by who ended them, and where.
    pub fn ends(&self) -> impl Iterator<Item = (Fault, Stage, u64)> + '_ {
        self.ends.iter().zip(Fault::ALL).flat_map(|(row, fault)| {
            row.iter().zip(Stage::ALL).map(move |(counter, stage)| (fault, stage, counter.get()))
        })
    }
}

/// The counters of all cores, in the cores' order.
pub type AllCounters = Arc<[Arc<Counters>]>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lands_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(2));
        histogram.observe(Duration::from_secs(3600));
        let counts = histogram.counts();
        assert_eq!((counts[1], counts[BUCKETS_MS.len()]), (1, 1));
    }

    #[test]
    fn an_exchange_is_counted_once_by_route_and_once_by_end() {
        let counters = Counters::default();
        counters.exchange(Route::Blob, 206, Fault::Nobody, Stage::Done);
        assert!(counters.exchanges().any(|row| row == (Route::Blob, 2, 1)));
        assert!(counters.ends().any(|row| row == (Fault::Nobody, Stage::Done, 1)));
    }
}
