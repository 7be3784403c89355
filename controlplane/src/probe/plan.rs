//! Which connector is looked at when, and how many at one time.
//!
//! Facts, results and the time in, [`Work`] out; pure. Connectors of one registry wait in one lane:
//! a ping answers for all of them, and few of their credentials are tried at one time. So a dead
//! registry holds up its own connectors, whatever their number, and no others.

use std::collections::hash_map::{DefaultHasher, Entry as Seat};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::facts::{Fact, Facts, Place};
use super::findings::Pulse;
use crate::source::Named;

/// Something to be done now.
#[derive(Debug)]
pub enum Work {
    /// Find out whether the registry of this connector is alive: [`Plan::pinged`].
    Ping(Place, Arc<Fact>),
    /// Look at this connector and report it: [`Plan::done`].
    Look(Turn),
}

/// One look at a connector.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The connector.
    pub fact: Arc<Fact>,
    /// Its registry's pulse, where there is a registry to be pinged.
    pub pulse: Option<Pulse>,
    number: u64,
}

/// Everything that is to be looked at.
#[derive(Debug)]
pub struct Plan {
    period: Duration,
    entries: HashMap<Named, Entry>,
    /// When those are due that nothing is done about.
    due: BTreeSet<(Instant, Named)>,
    lanes: HashMap<Option<Place>, Lane>,
    /// The lanes in which somebody waits, in turn.
    rota: VecDeque<Option<Place>>,
    pings: usize,
    looks: usize,
    /// Counts the looks.
    number: u64,
}

/// One connector.
#[derive(Debug)]
struct Entry {
    fact: Arc<Fact>,
    state: State,
    /// What is known must not be older than this.
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Due(Instant),
    Queued,
    /// The look of this number is under way; whether the connector has changed since.
    Looked(u64, bool),
}

/// The connectors of one registry, or those of none.
#[derive(Debug, Default)]
struct Lane {
    pulse: Option<(Pulse, Instant)>,
    is_pinged: bool,
    queue: VecDeque<Named>,
    looks: usize,
}

impl Plan {
    /// A plan for nothing yet, that looks at each connector once in `period`.
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            entries: HashMap::new(),
            due: BTreeSet::new(),
            lanes: HashMap::new(),
            rota: VecDeque::new(),
            pings: 0,
            looks: 0,
            number: 0,
        }
    }

    /// Takes what is known now. Connectors that are new or have changed are due at once, but for
    /// those of which `is_told` says that their status is up to date: they are spread over the
    /// period.
    pub fn take(&mut self, facts: &Facts, now: Instant, is_told: impl Fn(&Fact) -> bool) {
        let gone: Vec<_> =
            self.entries.keys().filter(|named| !facts.contains_key(named)).cloned().collect();
        for named in gone {
            if let Some(Entry { state: State::Due(at), .. }) = self.entries.remove(&named) {
                self.due.remove(&(at, named));
            }
        }
        for (named, fact) in facts {
            match self.entries.entry(named.clone()) {
                Seat::Vacant(seat) => {
                    let told = is_told(fact);
                    let at = if told { now + share(named, self.period) } else { now };
                    let since = at.checked_sub(self.period / 2).filter(|_| told).unwrap_or(now);
                    seat.insert(Entry { fact: Arc::clone(fact), state: State::Due(at), since });
                    self.due.insert((at, named.clone()));
                }
                Seat::Occupied(mut seat) => {
                    let entry = seat.get_mut();
                    let is_same = entry.fact.is_same(fact);
                    entry.fact = Arc::clone(fact);
                    if !is_same {
                        entry.since = now;
                        hasten(named, &mut entry.state, &mut self.due, now);
                    }
                }
            }
        }
        let used: HashSet<_> = self.entries.values().map(|entry| entry.fact.place()).collect();
        self.lanes.retain(|place, lane| lane.is_busy() || used.contains(place));
    }

    /// What is to be done at `now`, one thing at a time until there is nothing more.
    pub fn next(&mut self, now: Instant) -> Option<Work> {
        while let Some((_, named)) = self.due.first().filter(|(at, _)| *at <= now).cloned() {
            self.queue(named);
        }
        for _ in 0..self.rota.len() {
            let place = self.rota.pop_front()?;
            let work = self.serve(&place);
            if self.lanes.get(&place).is_some_and(|lane| !lane.queue.is_empty()) {
                self.rota.push_back(place);
            }
            if work.is_some() {
                return work;
            }
        }
        None
    }

    /// When there may be something to do although nothing else happens.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A ping has ended. Where the pulse is another than before, all connectors of the registry
    /// are due.
    pub fn pinged(&mut self, place: Place, pulse: Pulse, now: Instant) {
        self.pings -= 1;
        let key = Some(place);
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.is_pinged = false;
        let before = lane.pulse.replace((pulse, now));
        let is_news =
            matches!((&before, &lane.pulse), (Some((old, _)), Some((new, _))) if old != new);
        if !is_news {
            return;
        }
        for (named, entry) in &mut self.entries {
            if entry.fact.place() == key {
                entry.since = entry.since.min(now);
                hasten(named, &mut entry.state, &mut self.due, now);
            }
        }
    }

    /// A look has ended. The connector is due again after the period, or after `retry` where its
    /// status could not be written. `jitter` spreads the looks by a fifth.
    pub fn done(&mut self, turn: &Turn, now: Instant, retry: Option<Duration>, jitter: u8) {
        self.looks -= 1;
        if let Some(lane) = self.lanes.get_mut(&turn.fact.place()) {
            lane.looks -= 1;
        }
        let Some(entry) = self.entries.get_mut(&turn.fact.named) else { return };
        let State::Looked(number, has_changed) = entry.state else { return };
        if number != turn.number {
            return;
        }
        let spread = self.period / 5 * u32::from(jitter) / u32::from(u8::MAX);
        let wait = retry.unwrap_or(self.period - self.period / 10 + spread);
        let at = if has_changed { now } else { now + wait };
        if !has_changed {
            entry.since = at.checked_sub(self.period / 2).unwrap_or(now);
        }
        entry.state = State::Due(at);
        self.due.insert((at, turn.fact.named.clone()));
    }

    /// Puts a connector that is due into its lane.
    fn queue(&mut self, named: Named) {
        let Some(entry) = self.entries.get_mut(&named) else { return };
        if let State::Due(at) = entry.state {
            self.due.remove(&(at, named.clone()));
        }
        entry.state = State::Queued;
        let place = entry.fact.place();
        let lane = self.lanes.entry(place.clone()).or_default();
        if lane.queue.is_empty() && !self.rota.contains(&place) {
            self.rota.push_back(place);
        }
        lane.queue.push_back(named);
    }

    /// What the first connector of a lane needs, if that may be done now.
    fn serve(&mut self, place: &Option<Place>) -> Option<Work> {
        let lane = self.lanes.get_mut(place)?;
        while let Some(named) = lane.queue.front().cloned() {
            let entry = self.entries.get_mut(&named).filter(|entry| entry.state == State::Queued);
            let Some(entry) = entry.filter(|entry| entry.fact.place() == *place) else {
                // It is gone, or has changed its registry and stands in another lane.
                lane.queue.pop_front();
                continue;
            };
            let fact = Arc::clone(&entry.fact);
            let pulse = match (place, &lane.pulse) {
                (None, _) => None,
                (Some(_), Some((pulse, at))) if *at >= entry.since => Some(pulse.clone()),
                (Some(place), _) => {
                    if lane.is_pinged || self.pings >= PINGS_MAX {
                        return None;
                    }
                    lane.is_pinged = true;
                    self.pings += 1;
                    return Some(Work::Ping(place.clone(), fact));
                }
            };
            let is_full = place.is_some() && lane.looks >= LOOKS_MAX_PER_REGISTRY;
            if is_full || self.looks >= LOOKS_MAX {
                return None;
            }
            self.number += 1;
            entry.state = State::Looked(self.number, false);
            lane.queue.pop_front();
            lane.looks += 1;
            self.looks += 1;
            return Some(Work::Look(Turn { fact, pulse, number: self.number }));
        }
        None
    }
}

impl Lane {
    fn is_busy(&self) -> bool {
        self.is_pinged || self.looks > 0 || !self.queue.is_empty()
    }
}

/// Makes a connector due now; one that is looked at just now, as soon as that has ended.
fn hasten(named: &Named, state: &mut State, due: &mut BTreeSet<(Instant, Named)>, now: Instant) {
    match state {
        State::Looked(_, has_changed) => *has_changed = true,
        // It stands in a lane, perhaps in the one of its former registry.
        State::Queued => {
            *state = State::Due(now);
            due.insert((now, named.clone()));
        }
        State::Due(at) => {
            due.remove(&(*at, named.clone()));
            due.insert((now, named.clone()));
            *at = now;
        }
    }
}

/// A connector's own share of the period, the same at every start.
fn share(named: &Named, period: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    named.hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 1000).unwrap_or_default();
    period * thousandths / 1000
}

/// Registries pinged at one time; each is a socket.
const PINGS_MAX: usize = 16;

/// Connectors looked at one time; each is a socket at most.
const LOOKS_MAX: usize = 16;

/// Of those, connectors of one registry: enough for a thousand in seconds, and no burst of logins.
const LOOKS_MAX_PER_REGISTRY: usize = 4;

#[cfg(test)]
mod tests;
