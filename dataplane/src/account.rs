//! What one exchange came to: opened first, written when it is dropped.
//!
//! Stages only note what they learnt. The line and the counters are written in `Drop`, so an
//! exchange that is cancelled or panics is accounted for too. Never noted: a token, a credential,
//! a query.

mod audit;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::counters::{Counters, Route};
use crate::error::{Error, Fault, Stage};
use crate::parse::ResponseHead;
use crate::target::Asked;
use crate::vocabulary::{Caller, ConnectorRef};

/// One exchange, from its first byte on.
pub(crate) struct Record {
    counters: Arc<Counters>,
    started: Instant,
    /// When the clock was last looked at.
    latest: Instant,
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
    /// The repository, and the tag or digest.
    pub(crate) asked: Option<Asked>,
    /// The digest that the registry gave a manifest, or that an upload says it ends as: where the
    /// audit wants it.
    digest: Option<Box<str>>,
    /// The id that the registry logs this request under.
    pub(crate) request_id: RequestId,
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
        let now = Instant::now();
        Self {
            counters: Arc::clone(counters),
            started: now,
            latest: now,
            peer,
            discarded: false,
            end: None,
            method: "",
            route: Route::Unknown,
            connector: None,
            host: None,
            proxied: false,
            caller: None,
            asked: None,
            digest: None,
            request_id: RequestId::default(),
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

    /// Where the caller's connection comes from.
    pub(crate) fn source(&self) -> IpAddr {
        self.peer.ip()
    }

    /// Looks at the clock.
    pub(crate) fn look(&mut self) -> Instant {
        self.latest = Instant::now();
        self.latest
    }

    /// When the clock was last looked at: good enough where nothing has been waited for since.
    pub(crate) fn latest(&self) -> Instant {
        self.latest
    }

    /// From the start until the clock was last looked at.
    pub(crate) fn until_latest(&self) -> Duration {
        self.latest.duration_since(self.started)
    }

    /// Notes that `caller` is allowed, and since when that is known.
    pub(crate) fn allowed(&mut self, caller: Arc<Caller>, since: Instant) {
        self.caller = Some(caller);
        self.latest = since;
        self.allowed_after = Some(self.until_latest());
    }

    /// Notes the head of the registry's answer, the one that is passed on.
    pub(crate) fn answered(&mut self, head: &ResponseHead) {
        self.look();
        self.answered_after = Some(self.until_latest());
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

    fn count(&self, fault: Fault, stage: Stage, total: Duration) {
        self.counters.exchange(self.route, self.status, fault, stage);
        self.counters.bytes_up.add(self.bytes_up);
        self.counters.bytes_down.add(self.bytes_down);
        self.counters.duration.observe(total);
        if let Some(answered_after) = self.answered_after {
            self.counters.first_byte.observe(answered_after);
        }
    }

    fn log(&self, fault: Fault, stage: Stage, why: &str, total: Duration) {
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
            repository = self.asked.as_ref().map_or("", Asked::repository),
            reference = self.asked.as_ref().map_or("", Asked::reference),
            request_id = self.request_id.as_str(),
            status = self.status,
            bytes_up = self.bytes_up,
            bytes_down = self.bytes_down,
            allowed_ms = self.allowed_after.map(millis),
            connected_ms = self.connected_after.map(millis),
            answered_ms = self.answered_after.map(millis),
            total_ms = millis(total),
            end = %format_args!("{}/{}", fault.as_str(), stage.as_str()),
            why,
            detail = &*text(&self.detail),
        );
    }
}

/// The id of a request, unlike any other's: the process, the core, and a number.
#[derive(Clone, Copy)]
pub(crate) struct RequestId {
    text: [u8; ID_BYTES_MAX],
    length: usize,
}

impl Default for RequestId {
    /// Of a request that has not got one yet: empty.
    fn default() -> Self {
        Self { text: [0; ID_BYTES_MAX], length: 0 }
    }
}

impl RequestId {
    /// The id of the request `number` of `core` in `process`.
    pub(crate) fn new(process: u64, core: usize, number: u64) -> Self {
        let mut id = Self::default();
        id.hex(process, 16);
        id.push(b'-');
        id.hex(core as u64, 1);
        id.push(b'-');
        id.hex(number, 1);
        id
    }

    /// As it is written: hexadecimal digits and dashes.
    pub(crate) fn as_str(&self) -> &str {
        let text = self.text.get(..self.length).unwrap_or_default();
        str::from_utf8(text).unwrap_or_default()
    }

    fn hex(&mut self, value: u64, digits_min: u32) {
        let digits = (u64::BITS - value.leading_zeros()).div_ceil(4).max(digits_min);
        for place in (0..digits).rev() {
            let digit = (value >> (place * 4)) & 0xf;
            let digit = char::from_digit(digit as u32, 16).unwrap_or_default();
            self.push(digit as u8);
        }
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.text.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }
}

/// Three numbers of at most 16 digits, and two dashes.
const ID_BYTES_MAX: usize = 50;

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
        let total = self.started.elapsed();
        self.count(fault, stage, total);
        self.log(fault, stage, why, total);
        audit::write(self, why);
    }
}

/// `duration` in milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The longest registered digest, `sha512:` and 128 digits, and some more.
const DIGEST_BYTES_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_hexadecimal_and_keeps_the_width_of_its_process() {
        assert_eq!(RequestId::new(0xab, 1, 0x2f0).as_str(), "00000000000000ab-1-2f0");
        assert_eq!(RequestId::new(u64::MAX, 0, 0).as_str(), "ffffffffffffffff-0-0");
        let widest = RequestId::new(u64::MAX, usize::MAX, u64::MAX);
        assert_eq!(widest.as_str().len(), ID_BYTES_MAX);
    }
}
