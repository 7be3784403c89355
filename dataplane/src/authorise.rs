//! May this caller use this connector? Asked of the control plane once, remembered per core.
//!
//! [`Parsed`] in, [`Allowed`] out, and nothing else makes one. The token is taken from the
//! request's `Authorization`, hashed for the memory and forgotten; it goes to the control plane and
//! nowhere else. Whoever cannot be asked is never a refusal: the caller is told to try again (503).

mod forward;
pub(crate) mod listed;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crossbeam::channel::Sender;
use futures_channel::oneshot;
use memchr::memchr;
use ring::digest;

use crate::accept::Parsed;
use crate::account::Record;
use crate::counters::Counters;
use crate::error::{Error, Kind, Stage};
use crate::hashed::HashedMap;
use crate::io::within;
use crate::limits::Limits;
use crate::mailbox::{Postbox, Question};
use crate::parse::Fields;
use crate::snapshot::Snapshot;
use crate::target::{Form, Target};
use crate::vocabulary::{ConnectorRef, Token, Verdict};
use crate::wiped::Wiped;
use crate::worker::Core;

/// A request whose caller may use the connector it names (or, for the bare `/v2/`, whose token is
/// good). Only this module can make one, and `route` takes nothing else: a request that was not
/// authorised cannot reach a credential.
pub(crate) struct Allowed {
    parsed: Box<Parsed>,
    /// The token, where more than this request may come of it: in the forward form.
    token: Option<Token>,
    /// The connectors that were asked about, where none of them serves: a tunnel may come of it.
    listed: Vec<ConnectorRef>,
}

impl Allowed {
    /// What it names.
    pub(crate) fn target(&self) -> &Target {
        &self.parsed.target
    }

    /// The token by which it is allowed, if requests may follow under it.
    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// The request.
    pub(crate) fn into_parsed(self) -> Box<Parsed> {
        self.parsed
    }
}

/// Checks the caller's right to what `parsed` names.
pub(crate) async fn check(
    parsed: Box<Parsed>,
    core: &Core,
    record: &mut Record,
) -> Result<Allowed, Error> {
    if parsed.target.form() == Form::Forward {
        return Box::pin(forward::check(parsed, core, record)).await;
    }
    let fail = |kind| Error::new(Stage::Authorise, kind);
    let token = token(&parsed.head.fields, core.limits.token_bytes_max).map_err(fail)?;
    let rights = core.with_snapshot(Snapshot::rights);
    let connector = parsed.target.connector();
    let (asker, now, limits) =
        (Asker { rights, source: record.source() }, record.look(), &core.limits);
    match core.verdicts.of(token, connector, asker, now, limits).await.map_err(fail)? {
        (Verdict::Allowed(caller), since) => {
            record.allowed(caller, since);
            Ok(Allowed { parsed, token: None, listed: Vec::new() })
        }
        (Verdict::Denied(caller), _) => {
            record.caller = Some(caller);
            Err(fail(Kind::Denied))
        }
        (Verdict::Unauthenticated, _) => Err(fail(Kind::TokenRejected)),
        (Verdict::Unavailable, _) => Err(fail(Kind::ReviewUnavailable)),
    }
}

/// Whether a caller that was `allowed` still is, where something of it outlives the request. Fails
/// like [`check`].
pub(crate) async fn again(
    allowed: &Allowed,
    core: &Core,
    record: &mut Record,
) -> Result<(), Error> {
    forward::again(allowed, core, record).await
}

/// The caller's token: a Bearer token (RFC 6750 §2.1), or the password of Basic with any user
/// (RFC 7617 §2).
fn token(fields: &Fields, bytes_max: usize) -> Result<Token, Kind> {
    let mut all = fields.all("authorization");
    let value = all.next().ok_or(Kind::TokenMissing)?;
    if all.next().is_some() {
        return Err(Kind::Malformed("more than one Authorization field"));
    }
    let space = memchr(b' ', value).ok_or(Kind::TokenMissing)?;
    let (scheme, rest) = value.split_at(space);
    let rest = rest.trim_ascii();
    let token = if scheme.eq_ignore_ascii_case(b"bearer") {
        Wiped::copied(rest)
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let mut pair = Wiped::with_room(base64::decoded_len_estimate(rest.len()));
        STANDARD.decode_vec(rest, &mut pair).map_err(|_| Kind::TokenRejected)?;
        let colon = memchr(b':', &pair).ok_or(Kind::TokenRejected)?;
        pair.drain(..=colon);
        pair
    } else {
        return Err(Kind::TokenRejected);
    };
    let token = Token::of(token);
    match token.as_bytes().len() {
        0 => Err(Kind::TokenMissing),
        length if length > bytes_max => Err(Kind::TokenRejected),
        _ => Ok(token),
    }
}

/// What one core remembers of verdicts, and the questions it has under way.
pub(crate) struct Verdicts {
    questions: Sender<Question>,
    postbox: Postbox,
    counters: Arc<Counters>,
    state: RefCell<State>,
}

/// A token and a connector, hashed: the token itself is not kept.
type Key = [u8; 32];

#[derive(Default)]
struct State {
    memory: Memory,
    pending: HashMap<Key, Pending>,
    asked: HashMap<u64, Key>,
    next_number: u64,
}

struct Pending {
    number: u64,
    asked_at: Instant,
    rights: u64,
    waiting: Vec<oneshot::Sender<Verdict>>,
}

/// Who wants a verdict.
#[derive(Clone, Copy)]
struct Asker {
    /// The rights under which it is to hold.
    rights: u64,
    /// Where the token came from.
    source: IpAddr,
}

impl Verdicts {
    /// Remembers nothing yet; answers come to `postbox`.
    pub(crate) fn new(
        questions: Sender<Question>,
        postbox: Postbox,
        counters: Arc<Counters>,
    ) -> Self {
        Self { questions, postbox, counters, state: RefCell::default() }
    }

    /// The verdict on `token` for `connector`, wanted at `now`, and when it was known: remembered,
    /// or asked for once however many want it.
    async fn of(
        &self,
        token: Token,
        connector: Option<&ConnectorRef>,
        asker: Asker,
        now: Instant,
        limits: &Limits,
    ) -> Result<(Verdict, Instant), Kind> {
        let key = key(&token, connector);
        if let Some(verdict) = self.state.borrow().memory.get(&key, asker.rights, now, limits) {
            self.counters.verdicts_remembered.add(1);
            return Ok((verdict, now));
        }
        let answer = self.ask(key, token, connector, asker, limits)?;
        match within(limits.verdict_wait, answer).await {
            Some(Ok(verdict)) => Ok((verdict, Instant::now())),
            _ => Err(Kind::ReviewUnavailable),
        }
    }

    /// Joins the question that is under way for `key`, or asks.
    fn ask(
        &self,
        key: Key,
        token: Token,
        connector: Option<&ConnectorRef>,
        Asker { rights, source }: Asker,
        limits: &Limits,
    ) -> Result<oneshot::Receiver<Verdict>, Kind> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        if let Entry::Occupied(mut pending) = state.pending.entry(key) {
            let pending = pending.get_mut();
            if pending.asked_at.elapsed() < limits.verdict_wait && pending.rights == rights {
                pending.waiting.push(sender);
                return Ok(answer);
            }
        }
        state.next_number += 1;
        let number = state.next_number;
        let connector = connector.cloned();
        let postbox = self.postbox.clone();
        let question = Question { token, connector, source, number, postbox };
        self.questions.try_send(question).map_err(|_| Kind::Overloaded)?;
        self.counters.questions.add(1);
        let pending = Pending { number, asked_at: Instant::now(), rights, waiting: vec![sender] };
        if let Some(unanswered) = state.pending.insert(key, pending) {
            // Nobody answered in time, or rights have changed since: the new answer is for all.
            if let Some(pending) = state.pending.get_mut(&key) {
                pending.waiting.extend(unanswered.waiting);
            }
        }
        state.asked.insert(number, key);
        Ok(answer)
    }

    /// Takes the answer to question `number`.
    pub(crate) fn deliver(&self, number: u64, verdict: &Verdict, limits: &Limits) {
        let mut state = self.state.borrow_mut();
        let Some(key) = state.asked.remove(&number) else {
            return;
        };
        // The answer to a question that was asked again since was given under rights that are gone.
        let Entry::Occupied(pending) = state.pending.entry(key) else {
            return;
        };
        if pending.get().number != number {
            return;
        }
        let pending = pending.remove();
        if *verdict != Verdict::Unavailable {
            let answer =
                Answer { verdict: verdict.clone(), at: Instant::now(), rights: pending.rights };
            state.memory.put(key, answer, limits.verdicts_max);
        }
        for waiting in pending.waiting {
            // Whoever gave up waiting needs no answer.
            let _ = waiting.send(verdict.clone());
        }
    }

    /// Forgets questions that nobody answered in time.
    pub(crate) fn expire(&self, limits: &Limits) {
        let mut state = self.state.borrow_mut();
        state.pending.retain(|_, pending| pending.asked_at.elapsed() < limits.verdict_wait * 2);
        let State { pending, asked, .. } = &mut *state;
        asked.retain(|_, key| pending.contains_key(key));
    }
}

fn key(token: &Token, connector: Option<&ConnectorRef>) -> Key {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(token.as_bytes());
    // A byte that no token field can hold keeps the two apart.
    hash.update(&[0]);
    if let Some(connector) = connector {
        hash.update(connector.as_str().as_bytes());
    }
    let mut key = Key::default();
    key.copy_from_slice(hash.finish().as_ref());
    key
}

struct Answer {
    verdict: Verdict,
    at: Instant,
    rights: u64,
}

/// Verdicts in two generations: when the young one is full it becomes the old one, and what was
/// old is forgotten. Bounded, and every operation takes constant time.
#[derive(Default)]
struct Memory {
    young: HashedMap<Key, Answer>,
    old: HashedMap<Key, Answer>,
}

impl Memory {
    fn get(&self, key: &Key, rights: u64, now: Instant, limits: &Limits) -> Option<Verdict> {
        let answer = self.young.get(key).or_else(|| self.old.get(key))?;
        let age_max = match answer.verdict {
            Verdict::Allowed(_) => limits.verdict_age_max,
            Verdict::Denied(_) => limits.denial_age_max,
            Verdict::Unauthenticated => limits.rejection_age_max,
            Verdict::Unavailable => return None,
        };
        let fresh = now.duration_since(answer.at) < age_max && answer.rights == rights;
        fresh.then(|| answer.verdict.clone())
    }

    fn put(&mut self, key: Key, answer: Answer, count_max: usize) {
        if self.young.len() >= count_max / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, answer);
    }
}

#[cfg(any(test, feature = "counting"))]
pub(crate) mod counting;
#[cfg(test)]
mod tests;
