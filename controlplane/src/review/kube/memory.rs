//! What reviews said, for as long as it may be used.
//!
//! Outcomes and the time in, outcomes out; no clock inside. Bounded: two generations, of which the
//! older is forgotten when the younger is full.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::time::{Duration, Instant};

/// An outcome.
#[derive(Clone, Debug)]
pub(super) struct Held<V> {
    /// What was said.
    pub(super) value: V,
    /// Not before this is the API asked about it again, after it failed.
    pub(super) retry_at: Instant,
    said_at: Instant,
    refresh_at: Instant,
    fresh_until: Instant,
}

impl<V: Clone> Held<V> {
    /// `value`, said at `now` and fresh for so long. It is asked for anew at three quarters of that
    /// time, a tenth sooner or later by `jitter`, so that a fleet does not ask in step.
    pub(super) fn new(value: V, now: Instant, fresh: Duration, jitter: u8) -> Self {
        let share = 0.65 + 0.2 * f64::from(jitter) / 255.0;
        let (refresh_at, fresh_until) = (now + fresh.mul_f64(share), now + fresh);
        Self { value, retry_at: now, said_at: now, refresh_at, fresh_until }
    }

    /// The value while it is fresh, and whether it is time to ask anew.
    pub(super) fn fresh(&self, now: Instant) -> Option<(V, bool)> {
        let is_old = now >= self.refresh_at && now >= self.retry_at;
        (now < self.fresh_until).then(|| (self.value.clone(), is_old))
    }

    /// How long ago it was said.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.said_at)
    }
}

/// Outcomes by what they are about.
pub(super) struct Memory<K, V> {
    young: HashMap<K, Held<V>>,
    old: HashMap<K, Held<V>>,
    count_max: usize,
}

impl<K: Hash + Eq, V> Memory<K, V> {
    /// Holds at most `count_max`.
    pub(super) fn new(count_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), count_max }
    }

    pub(super) fn get(&self, key: &K) -> Option<&Held<V>> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut Held<V>> {
        self.young.get_mut(key).or_else(|| self.old.get_mut(key))
    }

    pub(super) fn put(&mut self, key: K, held: Held<V>) {
        if self.young.len() >= self.count_max / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_asked_for_anew_before_it_is_over() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        for jitter in [0, 128, 255] {
            let held = Held::new((), now, minute, jitter);
            let at = |seconds| held.fresh(now + Duration::from_secs(seconds)).map(|(_, old)| old);
            assert_eq!((at(0), at(38)), (Some(false), Some(false)));
            assert_eq!((at(52), at(59), at(60)), (Some(true), Some(true), None));
        }
    }

    #[test]
    fn the_memory_forgets_the_oldest_and_stays_within_its_bound() {
        let now = Instant::now();
        let mut memory = Memory::new(10);
        for key in 0..1000 {
            memory.put(key, Held::new(key, now, Duration::from_secs(1), 0));
            assert!(memory.young.len() + memory.old.len() <= 10);
        }
        assert!(memory.get(&999).is_some() && memory.get(&900).is_none());
    }
}
