//! What has to be looked at, what is being worked at, and what is tried again later.
//!
//! Subjects in, subjects out, each one at a time: what changes while it is worked at is looked at
//! once more afterwards. No clock inside.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How a piece of work went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// The API server could not be asked: it is asked again soon.
    Failed,
    /// It refused: only somebody's change can help, so it is asked again seldom.
    Refused,
}

/// The work that there is.
pub struct Queue<S> {
    due: VecDeque<S>,
    is_due: HashSet<S>,
    /// Under way, and whether it has changed since it began.
    running: HashMap<S, bool>,
    later: BTreeSet<(Instant, S)>,
    failures: HashMap<S, u32>,
}

impl<S> Default for Queue<S> {
    fn default() -> Self {
        Self {
            due: VecDeque::new(),
            is_due: HashSet::new(),
            running: HashMap::new(),
            later: BTreeSet::new(),
            failures: HashMap::new(),
        }
    }
}

impl<S: Clone + Eq + Hash + Ord> Queue<S> {
    /// Something has changed about the subject.
    pub fn add(&mut self, subject: S) {
        if let Some(changed) = self.running.get_mut(&subject) {
            *changed = true;
        } else if self.is_due.insert(subject.clone()) {
            self.due.push_back(subject);
        }
    }

    /// The next subject to look at; it counts as under way until [`Queue::finish`].
    pub fn start(&mut self) -> Option<S> {
        let subject = self.due.pop_front()?;
        self.is_due.remove(&subject);
        self.running.insert(subject.clone(), false);
        Some(subject)
    }

    /// The work at the subject has ended, at `now`. `jitter` is from 0 to 1.
    pub fn finish(&mut self, subject: S, outcome: Outcome, now: Instant, jitter: f64) {
        let changed = self.running.remove(&subject).unwrap_or_default();
        if outcome == Outcome::Done {
            self.failures.remove(&subject);
        } else {
            let failures = self.failures.entry(subject.clone()).or_default();
            let pause = pause(*failures, outcome, jitter);
            *failures = failures.saturating_add(1);
            self.later.insert((now + pause, subject.clone()));
        }
        if changed {
            self.add(subject);
        }
    }

    /// Makes due what is to be tried again by `now`.
    pub fn wake(&mut self, now: Instant) {
        while let Some((at, _)) = self.later.first()
            && *at <= now
        {
            if let Some((_, subject)) = self.later.pop_first() {
                self.add(subject);
            }
        }
    }

    /// When [`Queue::wake`] has something to do.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// How many are under way.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many are waiting, now or for later.
    pub fn waiting(&self) -> usize {
        self.due.len() + self.later.len()
    }

    /// Whether nothing is due and nothing under way.
    pub fn is_idle(&self) -> bool {
        self.due.is_empty() && self.running.is_empty()
    }
}

/// How long to wait after so many failures before this one: longer each time, never quite alike.
fn pause(failures: u32, outcome: Outcome, jitter: f64) -> Duration {
    let most = if outcome == Outcome::Refused { REFUSED_PAUSE_MAX } else { PAUSE_MAX };
    let pause = PAUSE_MIN.saturating_mul(1 << failures.min(12)).min(most);
    pause / 2 + (pause / 2).mul_f64(jitter.clamp(0.0, 1.0))
}

const PAUSE_MIN: Duration = Duration::from_secs(1);

/// An API server that is back is noticed within this.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Whoever mends a right or a quota waits no longer than this.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_worked_at_once_at_a_time_and_again_if_it_changed_meanwhile() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a");
        queue.add("a");
        assert_eq!((queue.start(), queue.start()), (Some("a"), None));
        queue.add("a");
        assert_eq!(queue.start(), None, "it is under way");
        queue.finish("a", Outcome::Done, now, 0.0);
        assert_eq!(queue.start(), Some("a"));
        queue.finish("a", Outcome::Done, now, 0.0);
        assert!(queue.is_idle() && queue.waiting() == 0);
    }

    #[test]
    fn a_failure_is_tried_again_later_each_time_within_a_bound() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add("a");
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert_eq!(queue.start(), Some("a"));
            queue.finish("a", Outcome::Failed, now, 1.0);
            let at = queue.wakes_at().unwrap();
            pauses.push((at - now).as_secs());
            queue.wake(at - Duration::from_millis(1));
            assert!(queue.is_idle());
            now = at;
            queue.wake(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(pause(20, Outcome::Refused, 1.0).as_secs(), 120);
        assert_eq!(pause(0, Outcome::Failed, 0.0), PAUSE_MIN / 2);
    }
}
