//! What one exchange came to: opened first, written when it is dropped.
//!
//! Stages only note what they learnt. The line and the counters are written in `Drop`, so an
//! exchange that is cancelled or panics is accounted for too. Never noted: a token, a credential,
//! a query.

mod audit;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::counters::{Counters, Route};
use crate::error::{Error, Fault, Stage};
use crate::parse::ResponseHead;
use crate::vocabulary::{Caller, ConnectorRef};

/// One exchange, from its first byte on.
pub(crate) struct Record {
    counters: Arc<Counters>,
    started: Instant,
    peer: SocketAddr,
    discarded: bool,
    /// How it ended, once it has.
    pub(crate) end: Option<Result<(), Error>>,
    /// The method's name.
    pub(crate) method: &'static str,
    /// What was asked for.
    pub(crate) route: Route,
    /// The connector that was named.
    pub(crate) connector: Option<ConnectorRef>,
    /// The host and port that a caller of the forward proxy wants to reach.
    pub(crate) host: Option<Box<str>>,
    /// Whether the caller speaks to a forward proxy, and not yet through it.
    pub(crate) proxied: bool,
    /// Who asked, once it is known.
    pub(crate) caller: Option<Arc<Caller>>,
    /// The repository.
    pub(crate) repository: Box<str>,
    /// The tag or digest.
    pub(crate) reference: Box<str>,
    /// The digest that the registry gave a manifest, or that an upload says it ends as: where the
    /// audit wants it.
    digest: Option<Box<str>>,
    /// The id that the registry logs this request under.
    pub(crate) request_id: Box<str>,
    /// A reason of the connector's own, such as `SecretNotFound`.
    pub(crate) detail: Option<Box<str>>,
    /// The status that the caller was sent; 0 if none.
    pub(crate) status: u16,
    /// The status that the registry answered; 0 if it was not asked, or did not answer.
    registry_status: u16,
    /// Body bytes from the caller to the registry.
    pub(crate) bytes_up: u64,
    /// Body bytes from the registry to the caller.
    pub(crate) bytes_down: u64,
    /// From the start until the caller was allowed.
    pub(crate) allowed_after: Option<Duration>,
    /// From the start until a connection to the registry stood.
    pub(crate) connected_after: Option<Duration>,
    /// From the start until the head of the registry's answer was there.
    answered_after: Option<Duration>,
}

impl Record {
    /// Opens the record of the exchange that begins now.
    pub(crate) fn open(counters: &Arc<Counters>, peer: SocketAddr) -> Self {
        counters.in_flight.up();
        Self {
            counters: Arc::clone(counters),
            started: Instant::now(),
            peer,
            discarded: false,
            end: None,
            method: "",
            route: Route::Unknown,
            connector: None,
            host: None,
            proxied: false,
            caller: None,
            repository: Box::default(),
            reference: Box::default(),
            digest: None,
            request_id: Box::default(),
            detail: None,
            status: 0,
            registry_status: 0,
            bytes_up: 0,
            bytes_down: 0,
            allowed_after: None,
            connected_after: None,
            answered_after: None,
        }
    }

    /// The time since it was opened.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes the head of the registry's answer, the one that is passed on.
    pub(crate) fn answered(&mut self, head: &ResponseHead) {
        self.answered_after = Some(self.elapsed());
        self.registry_status = head.status;
        if self.route == Route::Manifest && audit::is_on() {
            // distribution-spec, "Pulling manifests" and "Pushing Manifests".
            let digest = head.fields.get("docker-content-digest");
            let digest = digest.filter(|digest| digest.len() <= DIGEST_BYTES_MAX);
            self.digest = digest.and_then(|digest| str::from_utf8(digest).ok()).map(Box::from);
        }
    }

    /// Notes that an upload ends as the blob `digest`, if it is not empty.
    pub(crate) fn uploads(&mut self, digest: &str) {
        self.digest = (!digest.is_empty() && audit::is_on()).then(|| digest.into());
    }

    /// Closes it unwritten: no request came, or another core will account for it.
    pub(crate) fn discard(mut self) {
        self.discarded = true;
    }

    fn count(&self, fault: Fault, stage: Stage) {
        self.counters.exchange(self.route, self.status, fault, stage);
        self.counters.bytes_up.add(self.bytes_up);
        self.counters.bytes_down.add(self.bytes_down);
        self.counters.duration.observe(self.started.elapsed());
        if let Some(answered_after) = self.answered_after {
            self.counters.first_byte.observe(answered_after);
        }
    }

    fn log(&self, fault: Fault, stage: Stage, why: &str) {
        let text = |value: &Option<Box<str>>| value.clone().unwrap_or_default();
        tracing::info!(
            target: "access",
            connector = self.connector.as_ref().map(tracing::field::display),
            caller = self.caller.as_ref().map(|caller| &*caller.user),
            host = self.host.as_deref(),
            pod = self.caller.as_ref().and_then(|caller| caller.pod.as_deref()),
            peer = %self.peer,
            method = self.method,
            route = self.route.as_str(),
            repository = &*self.repository,
            reference = &*self.reference,
            request_id = &*self.request_id,
            status = self.status,
            bytes_up = self.bytes_up,
            bytes_down = self.bytes_down,
            allowed_ms = self.allowed_after.map(millis),
            connected_ms = self.connected_after.map(millis),
            answered_ms = self.answered_after.map(millis),
            total_ms = millis(self.started.elapsed()),
            end = %format_args!("{}/{}", fault.as_str(), stage.as_str()),
            why,
            detail = &*text(&self.detail),
        );
    }
}

impl Drop for Record {
    // Here, not at the end of an exchange: one that is cancelled must be counted too.
    fn drop(&mut self) {
        self.counters.in_flight.down();
        if self.discarded {
            return;
        }
        let (fault, stage, why) = match self.end {
            Some(Ok(())) => (Fault::Nobody, Stage::Done, ""),
            Some(Err(error)) => {
                let facts = error.kind.facts();
                (facts.fault, error.stage, facts.word)
            }
            // Dropped in the middle: only a panic, or the end of the process, does that.
            None => (Fault::Proxy, Stage::Stream, "abandoned"),
        };
        self.count(fault, stage);
        self.log(fault, stage, why);
        audit::write(self, why);
    }
}

/// `duration` in milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The longest registered digest, `sha512:` and 128 digits, and some more.
const DIGEST_BYTES_MAX: usize = 160;
