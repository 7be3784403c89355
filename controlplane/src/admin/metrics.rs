//! The names under which counters are shown, and the sums over the cores.
//!
//! The data plane's counters and [`Status`] in, OpenMetrics text out. Labels come from closed sets
//! of the code, never from input.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::counters::STATUS_CLASSES;
use dataplane::counters::{AllCounters, BUCKETS_MS, Counter, Counters, Gauge, Histogram, Route};
use dataplane::error::{Fault, Stage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tracing_appender::non_blocking::ErrorCounter;

use super::Status;
use crate::login::Numbers;
use crate::review::kube::Counts;

/// What is shown.
pub struct Exposed {
    /// How the control plane stands.
    pub status: Arc<Status>,
    /// The counters of all cores.
    pub counters: AllCounters,
    /// `io_uring` or `epoll`.
    pub driver: &'static str,
    /// The counts of logins at registries.
    pub logins: Arc<Numbers>,
    /// Counts the lines that the log dropped.
    pub dropped: Option<ErrorCounter>,
    /// Counts the reviews of a cluster.
    pub reviews: Option<Arc<Counts>>,
}

/// Renders what is shown, on demand.
pub struct Metrics {
    registry: Registry,
    status: Arc<Status>,
}

impl Metrics {
    /// Metrics of `exposed`.
    pub fn new(exposed: Exposed) -> Self {
        let status = Arc::clone(&exposed.status);
        Self::showing(Box::new(exposed), status)
    }

    /// Metrics of whatever `collector` shows.
    pub fn showing(collector: Box<dyn Collector>, status: Arc<Status>) -> Self {
        let mut registry = Registry::with_prefix("harbor_connector");
        registry.register_collector(collector);
        Self { registry, status }
    }

    /// The text.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut rendered = String::new();
        text::encode(&mut rendered, &self.registry)?;
        Ok(rendered)
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }
}

impl fmt::Debug for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposed").finish_non_exhaustive()
    }
}

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(&mut encoder);
        self.program(&mut page)?;
        self.source(&mut page)?;
        self.exchanges(&mut page)?;
        self.connections(&mut page)?;
        self.callers_tls(&mut page)?;
        self.registries(&mut page)?;
        self.logins(&mut page)?;
        self.reviews(&mut page)?;
        page.histogram("exchange_duration", "From a request's first byte to its end", || {
            self.counters.iter().map(|core| &core.duration)
        })?;
        page.histogram("first_byte", "From a request's head to its answer's head", || {
            self.counters.iter().map(|core| &core.first_byte)
        })
    }
}

impl Exposed {
    fn program(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("io", self.driver)];
        let mut info = page.0.encode_descriptor("build", "The program", None, MetricType::Info)?;
        info.encode_info(&labels)?;
        page.gauge("cores", "Cores that serve", self.counters.len() as u64)?;
        let dropped = self.dropped.as_ref().map_or(0, ErrorCounter::dropped_lines);
        page.counter("log_lines_dropped", "Lines that stderr was too slow for", dropped as u64)?;
        page.counter("panics", "Connections ended by a defect", self.sum(|core| &core.panics))
    }

    fn source(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let status = &self.status;
        let broken = u64::from(status.broken.load(Ordering::Relaxed));
        page.gauge("ready", "Whether callers should be sent here", u64::from(status.ready()))?;
        page.gauge("snapshot_connectors", "Connectors served", read(&status.connectors))?;
        page.gauge("snapshot_generation", "Snapshots published", read(&status.generation))?;
        page.gauge(
            "snapshot_changed_timestamp_seconds",
            "When the last snapshot was published",
            read(&status.changed_at),
        )?;
        page.gauge("source_problems", "Problems in the manifests", read(&status.problems))?;
        page.gauge("source_broken", "Whether the source cannot be read just now", broken)
    }

    fn exchanges(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let mut sums = [[0_u64; STATUS_CLASSES]; Route::ALL.len()];
        let mut ends = [[0_u64; Stage::ALL.len()]; Fault::ALL.len()];
        for core in self.counters.iter() {
            let rows = sums.iter_mut().flatten();
            rows.zip(core.exchanges()).for_each(|(sum, (.., count))| *sum += count);
            let rows = ends.iter_mut().flatten();
            rows.zip(core.ends()).for_each(|(sum, (.., count))| *sum += count);
        }
        let routes = Route::ALL.iter().zip(&sums).flat_map(|(route, row)| {
            row.iter()
                .zip(STATUS)
                .map(|(sum, class)| ([("route", route.as_str()), ("status", class)], *sum))
        });
        page.counters("exchanges", "Requests that have come to their end", routes)?;
        let ends = Fault::ALL.iter().zip(&ends).flat_map(|(fault, row)| {
            row.iter()
                .zip(Stage::ALL)
                .map(|(sum, stage)| ([("fault", fault.as_str()), ("stage", stage.as_str())], *sum))
        });
        page.counters("exchange_ends", "Who ended requests, and in which stage", ends)?;
        page.counters(
            "body_bytes",
            "Bytes of bodies, from callers (up) and to them (down)",
            [
                ([("direction", "up")], self.sum(|core| &core.bytes_up)),
                ([("direction", "down")], self.sum(|core| &core.bytes_down)),
            ],
        )
    }

    fn connections(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        page.gauges(
            "connections",
            "Callers' connections open",
            self.each(|core| &core.connections),
        )?;
        page.gauges(
            "exchanges_in_flight",
            "Requests under way",
            self.each(|core| &core.in_flight),
        )?;
        page.gauges("transfers", "Long transfers under way", self.each(|core| &core.transfers))?;
        let accepted = self.counters.iter().enumerate();
        page.counters(
            "connections_accepted",
            "Callers' connections accepted",
            accepted
                .map(|(core, found)| ([("core", core.to_string())], found.connections_total.get())),
        )?;
        let handed_over = self.sum(|core| &core.handed_over);
        page.counter("connections_handed_over", "Connections moved to a freer core", handed_over)
    }

    fn callers_tls(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        page.counters(
            "handshakes",
            "TLS handshakes with callers",
            [
                ([("end", "done")], self.sum(|core| &core.handshakes)),
                ([("end", "failed")], self.sum(|core| &core.handshakes_failed)),
            ],
        )?;
        let asked = self.sum(|core| &core.certificates_asked);
        page.counter("certificates_asked", "Certificates asked of the authority", asked)?;
        let intercepted = self.sum(|core| &core.interceptions);
        page.counter("interceptions", "Tunnels ended here in a registry's stead", intercepted)?;
        let tunnels = self.sum(|core| &core.tunnels);
        page.counter("tunnels", "Tunnels to hosts that are no connector's", tunnels)?;
        page.gauges(
            "tunnels_open",
            "Tunnels to hosts that are no connector's, open",
            self.each(|core| &core.tunnels_open),
        )
    }

    fn registries(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let sum = |of: fn(&Counters) -> &Counter| self.sum(of);
        page.counter(
            "registry_dials",
            "Connections to registries opened",
            sum(|core| &core.dials),
        )?;
        page.counter(
            "registry_reuses",
            "Requests on an open connection",
            sum(|core| &core.reuses),
        )?;
        page.counter(
            "registry_resends",
            "Requests sent again because a reused connection was dead",
            sum(|core| &core.resends),
        )?;
        page.counter(
            "registry_redirects",
            "Requests sent to where a registry redirected",
            sum(|core| &core.redirects),
        )?;
        page.counter(
            "pipes_lent",
            "Bodies that were spliced through a pipe",
            sum(|core| &core.pipes_lent),
        )?;
        page.counter(
            "pipes_refused",
            "Times a body was copied because there was no pipe to be had",
            sum(|core| &core.pipes_refused),
        )?;
        page.counter("questions", "Questions about callers", sum(|core| &core.questions))?;
        page.counter(
            "verdicts_remembered",
            "Verdicts about callers taken from memory",
            sum(|core| &core.verdicts_remembered),
        )
    }

    fn logins(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let own = &self.logins;
        page.counter("login_probes", "Requests that tried a credential", own.probes.get())?;
        page.counter(
            "login_probes_refused",
            "Probes whose credential the registry refused",
            own.probes_refused.get(),
        )?;
        page.counter(
            "login_standings_refused",
            "Times a credential was put aside for a while",
            own.standings_refused.get(),
        )?;
        page.counter("token_fetches", "Tokens asked of token services", own.fetches.get())?;
        page.counter("token_failures", "Token requests without a token", own.failures.get())?;
        page.counter(
            "logins_refused",
            "Requests refused unsent because the credential is put aside",
            self.sum(|core| &core.logins_refused),
        )?;
        page.counter(
            "logins_repeated",
            "Requests sent again with another token or credential",
            self.sum(|core| &core.logins_repeated),
        )?;
        page.counter(
            "login_questions",
            "Questions about logins at registries",
            self.sum(|core| &core.login_questions),
        )
    }

    fn reviews(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let Some(reviews) = &self.reviews else {
            return Ok(());
        };
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        page.counters(
            "reviews",
            "Reviews sent to the API server",
            [
                ([("kind", "token")], read(&reviews.tokens)),
                ([("kind", "right")], read(&reviews.rights)),
            ],
        )?;
        page.counter("reviews_failed", "Reviews without an answer", read(&reviews.failures))?;
        page.counter("reviews_throttled", "Reviews not sent", read(&reviews.throttled))?;
        page.counter(
            "reviews_stale",
            "Answers from what was allowed earlier, because the API server gave none",
            read(&reviews.stale),
        )
    }

    fn sum(&self, of: impl Fn(&Counters) -> &Counter) -> u64 {
        self.counters.iter().map(|core| of(core).get()).sum()
    }

    fn each(
        &self,
        of: impl Fn(&Counters) -> &Gauge,
    ) -> impl Iterator<Item = ([(&'static str, String); 1], u64)> {
        let gauges = self.counters.iter().enumerate();
        gauges.map(move |(core, found)| ([("core", core.to_string())], of(found).get()))
    }
}

/// The page under construction.
pub(crate) struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl<'a, 'b> Page<'a, 'b> {
    /// An empty one.
    pub(crate) fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Self(encoder)
    }

    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(crate) fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(crate) fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// One histogram over all cores, in seconds.
    fn histogram<'h, I: Iterator<Item = &'h Histogram>>(
        &mut self,
        name: &str,
        help: &str,
        cores: impl Fn() -> I,
    ) -> fmt::Result {
        let bounds = BUCKETS_MS.iter().map(|bound| *bound as f64 / 1000.0);
        let mut buckets: Vec<(f64, u64)> =
            bounds.chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        for core in cores() {
            for ((_, sum), count) in buckets.iter_mut().zip(core.counts()) {
                *sum += count;
            }
        }
        let seconds = cores().map(Histogram::seconds).sum();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let unit = Some(&Unit::Seconds);
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }
}

/// The words for classes of statuses; the first is for exchanges without one.
const STATUS: [&str; STATUS_CLASSES] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
