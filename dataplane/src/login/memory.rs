//! Registries' tokens as one core remembers them, and who waits for one.
//!
//! Pure policy; time is an argument. Bounded by two generations: when the young one is full it
//! becomes the old one, and what was old is forgotten.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use super::is_recent;
use crate::error::Kind;
use crate::limits::Limits;
use crate::mailbox::Granted;
use crate::pool::Key;
use crate::vocabulary::RegistryToken;

/// Whose token, and its scopes.
pub(super) type Name = (Arc<Key>, Box<str>);

type Given = Result<Arc<RegistryToken>, Kind>;

/// What comes of wanting a token.
pub(super) enum Wanted {
    /// It is here.
    Held(Arc<RegistryToken>),
    /// It has been asked for already.
    Asked(oneshot::Receiver<Given>),
    /// It is to be asked for, and not to be the one with this serial.
    Ask(oneshot::Receiver<Given>, Option<u64>),
}

/// See the module.
#[derive(Default)]
pub(super) struct Tokens {
    young: HashMap<Name, Held>,
    old: HashMap<Name, Held>,
    pending: HashMap<Name, Pending>,
}

struct Held {
    token: Arc<RegistryToken>,
    since: Instant,
    until: Instant,
    /// The registry has taken it: a later 401 means that it was revoked, not that it is too weak.
    proven: bool,
    /// The registry has refused it.
    spent: bool,
}

struct Pending {
    asked_at: Instant,
    waiting: Vec<oneshot::Sender<Given>>,
}

impl Tokens {
    /// The token of that name, or a place among those who wait for it.
    pub(super) fn want(&mut self, name: &Name, now: Instant, limits: &Limits) -> Wanted {
        let held = self.young.get(name).or_else(|| self.old.get(name));
        if let Some(held) = held.filter(|held| !held.spent && now < held.until) {
            return Wanted::Held(Arc::clone(&held.token));
        }
        let refused = held.filter(|held| held.spent).map(|held| held.token.serial);
        let (sender, given) = oneshot::channel();
        let pending = self.pending.entry(name.clone());
        let is_new = matches!(pending, Entry::Vacant(_));
        let pending = pending.or_insert(Pending { asked_at: now, waiting: Vec::new() });
        pending.waiting.push(sender);
        if !is_new && is_recent(Some(pending.asked_at), now, limits) {
            return Wanted::Asked(given);
        }
        pending.asked_at = now;
        Wanted::Ask(given, refused)
    }

    /// The question could not be asked after all.
    pub(super) fn forget_question(&mut self, name: &Name) {
        self.pending.remove(name);
    }

    /// Takes the answer to a question.
    pub(super) fn given(&mut self, name: Name, granted: Granted, now: Instant, limits: &Limits) {
        let waiting = self.pending.remove(&name).map(|pending| pending.waiting);
        let given = match granted {
            Ok((token, age_max)) => {
                let held = self.young.get(&name).or_else(|| self.old.get(&name));
                let same = held.filter(|held| held.token.serial == token.serial);
                let (since, proven) = same.map_or((now, false), |held| (held.since, held.proven));
                let until = now + age_max;
                let held = Held { token: Arc::clone(&token), since, until, proven, spent: false };
                if self.young.len() >= limits.registry_tokens_max / 2 {
                    self.old = mem::take(&mut self.young);
                }
                self.young.insert(name, held);
                Ok(token)
            }
            Err(kind) => Err(kind),
        };
        for waiting in waiting.unwrap_or_default() {
            // Whoever gave up waiting needs no answer.
            let _ = waiting.send(given.clone());
        }
    }

    /// The token of that name and serial, if it is still remembered, whatever became of it.
    pub(super) fn remembered(&mut self, name: &Name, serial: u64) -> Option<Arc<RegistryToken>> {
        self.held(name, serial).map(|held| Arc::clone(&held.token))
    }

    /// The registry took the token.
    pub(super) fn prove(&mut self, name: &Name, serial: u64) {
        if let Some(held) = self.held(name, serial) {
            held.proven = true;
        }
    }

    /// The registry refused the token. Whether another one could be better: a token that was never
    /// taken and is fresh gives all the rights that there are.
    pub(super) fn spend(&mut self, name: &Name, serial: u64, now: Instant) -> bool {
        match self.held(name, serial) {
            // Another request has found out before, and has perhaps a new one already.
            None => true,
            Some(held) => {
                held.spent |= held.proven || now.duration_since(held.since) >= UNPROVEN_AGE_MAX;
                held.spent
            }
        }
    }

    /// Forgets what is too old and whose account is no more.
    pub(super) fn expire(&mut self, is_live: impl Fn(&Key) -> bool, now: Instant, limits: &Limits) {
        for generation in [&mut self.young, &mut self.old] {
            generation.retain(|(account, _), held| now < held.until && is_live(account));
        }
        self.pending.retain(|(account, _), pending| {
            is_recent(Some(pending.asked_at), now, limits) && is_live(account)
        });
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn held(&mut self, name: &Name, serial: u64) -> Option<&mut Held> {
        let held = match self.young.get_mut(name) {
            Some(held) => Some(held),
            None => self.old.get_mut(name),
        };
        held.filter(|held| held.token.serial == serial)
    }
}

/// A token that was refused at its first use is asked for anew after this: a right that was just
/// given works soon, and a caller without rights does not make a token service work each time.
const UNPROVEN_AGE_MAX: Duration = Duration::from_secs(5);
