//! The answer from a cluster: TokenReview says who calls, SubjectAccessReview what they may use.
//!
//! Questions in, each answered exactly once: from memory while that is fresh, else from the API,
//! which is asked once however many want to know. When the API cannot answer, what it last allowed
//! holds for a while longer; a new caller is told to try again, never that it may not. A token that
//! cannot be good by its own words is refused here. Tokens are kept as SHA-256 sums only.
//!
//! The rights needed: `create` on tokenreviews and subjectaccessreviews.

mod ask;
mod claims;
mod memory;
mod pace;
mod sources;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::Question;
use dataplane::snapshot::Publisher;
use dataplane::vocabulary::{ConnectorRef, Verdict};
use kube::Client;
use ring::digest;
use tokio::sync::mpsc;

use self::ask::{Failure, Identity, Way};
use self::memory::{Held, Memory};
use self::pace::Pace;
use self::sources::{Sources, Standing};

/// How reviews are made and how long they hold.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Tokens for the API server itself are taken too.
    pub accept_api_audience: bool,
    /// The verb `*` on `connectors/proxy` is asked for instead of `get` on connectors.
    pub require_proxy_right: bool,
    /// How long an answer of the API is fresh.
    pub fresh: Duration,
    /// How long a refused token is refused without another question.
    pub rejection: Duration,
    /// How long a denial holds.
    pub denial: Duration,
    /// How long what was allowed holds while the API cannot answer; nothing turns it off.
    pub stale: Duration,
    /// Reviews a second, at most.
    pub rate: u32,
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// TokenReviews sent.
    pub tokens: AtomicU64,
    /// SubjectAccessReviews sent.
    pub rights: AtomicU64,
    /// Reviews that the API did not answer.
    pub failures: AtomicU64,
    /// Reviews that were not sent because there were too many.
    pub throttled: AtomicU64,
    /// Questions answered from what was allowed earlier, because the API could not be asked.
    pub stale: AtomicU64,
}

/// A token's SHA-256.
type Sum = [u8; 32];

/// Whose right to what: the identity's sum, and the connector.
type RightKey = (Sum, ConnectorRef);

/// What the desk is told.
pub(crate) enum Word {
    /// A core asks.
    Asked(Question),
    /// A TokenReview's outcome; nobody, when the token is not good.
    Token(Sum, Result<Option<Arc<Identity>>, Failure>),
    /// A SubjectAccessReview's outcome.
    Right(RightKey, Result<bool, Failure>),
    /// Enough has been waited for a token's review.
    TokenLate(Sum),
    /// Enough has been waited for a right's review.
    RightLate(RightKey),
}

/// A review that is under way, and who waits for it.
struct UnderWay<T> {
    waiting: Vec<T>,
    /// It takes so long that whoever was allowed before waits for it no longer.
    is_late: bool,
}

impl<T> UnderWay<T> {
    fn new() -> Self {
        Self { waiting: Vec::new(), is_late: false }
    }

    /// Those who have waited long enough.
    fn give_up(&mut self) -> Vec<T> {
        self.is_late = true;
        std::mem::take(&mut self.waiting)
    }
}

/// One place where all questions meet, so that nothing is asked twice.
pub struct Desk {
    rules: Rules,
    way: Way,
    snapshots: Publisher,
    counts: Arc<Counts>,
    tokens: Memory<Sum, Option<Arc<Identity>>>,
    rights: Memory<RightKey, bool>,
    tokens_asked: HashMap<Sum, UnderWay<Question>>,
    rights_asked: HashMap<RightKey, UnderWay<(Question, Arc<Identity>)>>,
    /// For reviews of what was good before, and for those of strangers: a caller who tries random
    /// tokens must not use up what the others need.
    pace_known: Pace,
    pace_strange: Pace,
    /// For strangers from where bad tokens came lately, so that they do not use up what strangers
    /// from elsewhere need.
    pace_suspect: Pace,
    sources: Sources,
}

/// The way to a desk, and its own end of it.
pub(crate) fn words() -> (mpsc::Sender<Word>, mpsc::Receiver<Word>) {
    mpsc::channel(WORDS_MAX)
}

impl Desk {
    /// A desk that knows nobody yet. `snapshots` says which connectors there are; `words` leads to
    /// what [`Desk::serve`] receives.
    pub(crate) fn new(
        client: Client,
        rules: Rules,
        snapshots: Publisher,
        words: mpsc::Sender<Word>,
        counts: Arc<Counts>,
    ) -> Self {
        let half = (rules.rate / 2).max(1);
        Self {
            way: Way::new(client, words, Arc::clone(&counts), &rules),
            rules,
            snapshots,
            counts,
            tokens: Memory::new(ENTRIES_MAX),
            rights: Memory::new(ENTRIES_MAX),
            tokens_asked: HashMap::new(),
            rights_asked: HashMap::new(),
            pace_known: Pace::new(half),
            pace_strange: Pace::new(half - half / 4),
            pace_suspect: Pace::new(half / 4),
            sources: Sources::default(),
        }
    }

    /// Answers until nobody asks any more.
    pub(crate) async fn serve(mut self, mut words: mpsc::Receiver<Word>) {
        while let Some(word) = words.recv().await {
            self.take(word, Instant::now());
        }
    }

    fn take(&mut self, word: Word, now: Instant) {
        match word {
            Word::Asked(question) => self.asked(question, now),
            Word::Token(sum, outcome) => self.token_reviewed(sum, outcome, now),
            Word::Right(key, outcome) => self.right_reviewed(key, outcome, now),
            Word::TokenLate(sum) => {
                let waiting = self.tokens_asked.get_mut(&sum).map(UnderWay::give_up);
                self.token_unreviewed(&sum, waiting.unwrap_or_default(), now);
            }
            Word::RightLate(key) => {
                let waiting = self.rights_asked.get_mut(&key).map(UnderWay::give_up);
                self.right_unreviewed(&key, waiting.unwrap_or_default(), now);
            }
        }
    }

    fn asked(&mut self, question: Question, now: Instant) {
        let sum = sum(question.token.as_bytes());
        let held = self.tokens.get(&sum);
        if let Some((identity, is_old)) = held.and_then(|held| held.fresh(now)) {
            if is_old {
                self.review_token(sum, &question, now);
            }
            return match identity {
                Some(identity) => self.identified(question, identity, now),
                None => question.answer(Verdict::Unauthenticated),
            };
        }
        let must_wait = held.is_some_and(|held| now < held.retry_at);
        if !claims::may_be_good(&question.token, &self.rules) {
            return question.answer(Verdict::Unauthenticated);
        }
        // A moment after the API failed, what it allowed is used without another attempt.
        if must_wait || !self.review_token(sum, &question, now) {
            return self.token_unreviewed(&sum, vec![question], now);
        }
        match self.tokens_asked.get_mut(&sum) {
            Some(asked) if !asked.is_late && asked.waiting.len() < WAITING_MAX => {
                asked.waiting.push(question);
            }
            _ => self.token_unreviewed(&sum, vec![question], now),
        }
    }

    /// Asks the API about a token, unless that is under way. Whether an outcome will come.
    fn review_token(&mut self, sum: Sum, question: &Question, now: Instant) -> bool {
        if self.tokens_asked.contains_key(&sum) {
            return true;
        }
        let Question { token, source, .. } = question;
        let is_known = self.tokens.get(&sum).is_some_and(|held| held.value.is_some());
        let (pace, may_ask) = match self.sources.standing(source, now) {
            _ if is_known => (&mut self.pace_known, true),
            Standing::Clean => (&mut self.pace_strange, true),
            Standing::Suspect => (&mut self.pace_suspect, true),
            Standing::Shut => (&mut self.pace_suspect, false),
        };
        let may_ask = may_ask && self.tokens_asked.len() < ASKED_MAX;
        let Some(delay) = may_ask.then(|| pace.turn(now)).flatten() else {
            self.counts.throttled.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        self.tokens_asked.insert(sum, UnderWay::new());
        if is_known {
            self.way.late(Word::TokenLate(sum));
        }
        let own_audience = claims::has_own_audience(token);
        self.way.review_token(sum, token.clone(), own_audience, delay);
        true
    }

    fn token_reviewed(
        &mut self,
        sum: Sum,
        outcome: Result<Option<Arc<Identity>>, Failure>,
        now: Instant,
    ) {
        let waiting = self.tokens_asked.remove(&sum).map(|asked| asked.waiting).unwrap_or_default();
        match outcome {
            Ok(Some(identity)) => {
                let fresh = self.rules.fresh.min(identity.left);
                let held = Held::new(Some(Arc::clone(&identity)), now, fresh, sum[0]);
                self.tokens.put(sum, held);
                for question in waiting {
                    self.identified(question, Arc::clone(&identity), now);
                }
            }
            Ok(None) => {
                if let Some(question) = waiting.first() {
                    self.sources.missed(question.source, now);
                }
                self.tokens.put(sum, Held::new(None, now, self.rules.rejection, sum[0]));
                for question in waiting {
                    question.answer(Verdict::Unauthenticated);
                }
            }
            Err(Failure) => {
                if let Some(held) = self.tokens.get_mut(&sum) {
                    held.retry_at = now + RETRY;
                }
                self.token_unreviewed(&sum, waiting, now);
            }
        }
    }

    /// Answers without the API: as it last allowed, or that nobody can be asked.
    fn token_unreviewed(&mut self, sum: &Sum, waiting: Vec<Question>, now: Instant) {
        let held = self.tokens.get(sum).filter(|held| held.age(now) < self.rules.stale);
        let identity = held.and_then(|held| held.value.clone());
        for question in waiting {
            match &identity {
                Some(identity) => {
                    self.counts.stale.fetch_add(1, Ordering::Relaxed);
                    self.identified(question, Arc::clone(identity), now);
                }
                None => question.answer(Verdict::Unavailable),
            }
        }
    }

    /// The second half: may this identity use the connector?
    fn identified(&mut self, question: Question, identity: Arc<Identity>, now: Instant) {
        let Some(connector) = question.connector.clone() else {
            return question.answer(Verdict::Allowed(Arc::clone(&identity.caller)));
        };
        // What is not there is denied like what may not be used, and costs no review.
        if self.snapshots.current().connector(&connector).is_none() {
            return question.answer(Verdict::Denied(Arc::clone(&identity.caller)));
        }
        let key = (identity.sum, connector);
        let held = self.rights.get(&key);
        if let Some((is_allowed, is_old)) = held.and_then(|held| held.fresh(now)) {
            if is_old {
                self.review_right(&key, &identity, now);
            }
            return question.answer(verdict(is_allowed, &identity));
        }
        let must_wait = held.is_some_and(|held| now < held.retry_at);
        if must_wait || !self.review_right(&key, &identity, now) {
            return self.right_unreviewed(&key, vec![(question, identity)], now);
        }
        match self.rights_asked.get_mut(&key) {
            Some(asked) if !asked.is_late && asked.waiting.len() < WAITING_MAX => {
                asked.waiting.push((question, identity));
            }
            _ => self.right_unreviewed(&key, vec![(question, identity)], now),
        }
    }

    /// Asks the API about a right, unless that is under way. Whether an outcome will come.
    fn review_right(&mut self, key: &RightKey, identity: &Arc<Identity>, now: Instant) -> bool {
        if self.rights_asked.contains_key(key) {
            return true;
        }
        // Whoever comes here has a good token, so the budget is that of the known.
        let turn = self.pace_known.turn(now).filter(|_| self.rights_asked.len() < ASKED_MAX);
        let Some(delay) = turn else {
            self.counts.throttled.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        if self.rights.get(key).is_some_and(|held| held.value) {
            self.way.late(Word::RightLate(key.clone()));
        }
        self.rights_asked.insert(key.clone(), UnderWay::new());
        self.way.review_right(key.clone(), Arc::clone(identity), delay);
        true
    }

    fn right_reviewed(&mut self, key: RightKey, outcome: Result<bool, Failure>, now: Instant) {
        let waiting = self.rights_asked.remove(&key).map(|asked| asked.waiting).unwrap_or_default();
        match outcome {
            Ok(is_allowed) => {
                let fresh = if is_allowed { self.rules.fresh } else { self.rules.denial };
                let jitter = key.0[1];
                self.rights.put(key, Held::new(is_allowed, now, fresh, jitter));
                for (question, identity) in waiting {
                    question.answer(verdict(is_allowed, &identity));
                }
            }
            Err(Failure) => {
                if let Some(held) = self.rights.get_mut(&key) {
                    held.retry_at = now + RETRY;
                }
                self.right_unreviewed(&key, waiting, now);
            }
        }
    }

    /// Answers without the API: as it last allowed. What it last denied is not a denial now.
    fn right_unreviewed(
        &mut self,
        key: &RightKey,
        waiting: Vec<(Question, Arc<Identity>)>,
        now: Instant,
    ) {
        let held = self.rights.get(key).filter(|held| held.age(now) < self.rules.stale);
        let is_allowed = held.is_some_and(|held| held.value);
        for (question, identity) in waiting {
            if is_allowed {
                self.counts.stale.fetch_add(1, Ordering::Relaxed);
                question.answer(verdict(true, &identity));
            } else {
                question.answer(Verdict::Unavailable);
            }
        }
    }
}

fn verdict(is_allowed: bool, identity: &Identity) -> Verdict {
    let caller = Arc::clone(&identity.caller);
    if is_allowed { Verdict::Allowed(caller) } else { Verdict::Denied(caller) }
}

fn sum(bytes: &[u8]) -> Sum {
    let mut sum = Sum::default();
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
}

/// The audience of tokens that are made for us.
pub const AUDIENCE: &str = "connectors-proxy";

/// Words on their way to the desk: it takes one in microseconds.
const WORDS_MAX: usize = 4096;

/// Tokens, and rights, of which something is remembered; about 300 bytes each.
const ENTRIES_MAX: usize = 100_000;

/// Reviews of each kind under way.
const ASKED_MAX: usize = 4096;

/// Questions that wait for one review: one or two of each core.
const WAITING_MAX: usize = 1024;

/// How soon after a failure the API is asked again about the same thing.
const RETRY: Duration = Duration::from_secs(1);
