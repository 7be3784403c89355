//! The tokens of one account, and the cores that wait for one.
//!
//! Pure: wishes, results and the time in, answers out. A token is fetched once however many want
//! it, replaced before it ends, and a failure is remembered for a moment, so that a token service
//! in trouble is not asked by every request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::error::Kind;
use dataplane::vocabulary::RegistryToken;
use dataplane::{Granted, Postbox};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<Box<str>, Kept>);

#[derive(Debug, Default)]
struct Kept {
    held: Option<Held>,
    failed: Option<(Kind, Instant)>,
    fetching: bool,
    waiting: Vec<Postbox>,
}

#[derive(Debug)]
struct Held {
    token: Arc<RegistryToken>,
    refresh_at: Instant,
    expires_at: Instant,
}

/// What a wish leads to.
pub(super) struct Wanted {
    /// The answer, if it is known; else the core waits.
    pub(super) granted: Option<Granted>,
    /// Whether a token is to be fetched now.
    pub(super) fetch: bool,
}

impl Tokens {
    /// A core wants a token for `scopes`, and not the one with the serial `refused`.
    pub(super) fn want(
        &mut self,
        scopes: &str,
        refused: Option<u64>,
        from: &Postbox,
        now: Instant,
    ) -> Wanted {
        if self.0.len() >= TOKENS_MAX && !self.0.contains_key(scopes) {
            self.0.retain(|_, kept| kept.fetching);
        }
        let kept = self.0.entry(scopes.into()).or_default();
        kept.held.take_if(|held| refused == Some(held.token.serial) || held.expires_at <= now);
        kept.failed.take_if(|(_, until)| *until <= now);
        let granted = match (&kept.held, kept.failed) {
            (Some(held), _) => {
                // Past its refresh it is handed out for a moment only: the next one is on its way.
                let left = held.refresh_at.saturating_duration_since(now).max(REFRESHING);
                let left = left.min(held.expires_at.saturating_duration_since(now));
                Some(Ok((Arc::clone(&held.token), left)))
            }
            (None, Some((kind, _))) => Some(Err(kind)),
            (None, None) => {
                kept.waiting.push(from.clone());
                None
            }
        };
        let due = kept.held.as_ref().is_none_or(|held| held.refresh_at <= now);
        let fetch = due && kept.failed.is_none() && !kept.fetching;
        kept.fetching |= fetch;
        Wanted { granted, fetch }
    }

    /// A fetch that began at `begun` has ended: the token and its lifetime, or why there is none.
    /// Returns the cores that wait, and their answer.
    pub(super) fn fetched(
        &mut self,
        scopes: &str,
        result: Result<(Arc<RegistryToken>, Duration), Kind>,
        begun: Instant,
        now: Instant,
    ) -> (Vec<Postbox>, Granted) {
        let kept = self.0.entry(scopes.into()).or_default();
        kept.fetching = false;
        let granted = match result {
            Ok((token, lifetime)) => {
                let refresh_at = begun + lifetime / 5 * 4;
                let held = Held { token, refresh_at, expires_at: begun + lifetime };
                let left = refresh_at.saturating_duration_since(now);
                let granted = Ok((Arc::clone(&held.token), left));
                kept.held = Some(held);
                granted
            }
            Err(kind) => {
                kept.failed = Some((kind, now + FAILURE_AGE_MAX));
                Err(kind)
            }
        };
        (std::mem::take(&mut kept.waiting), granted)
    }

    /// Ends every wait, and forgets what has ended.
    pub(super) fn waiting(&mut self) -> impl Iterator<Item = (&str, Vec<Postbox>)> {
        self.0.iter_mut().map(|(scopes, kept)| (&**scopes, std::mem::take(&mut kept.waiting)))
    }
}

/// Kinds of scopes of one account; beyond it what is held is asked for anew.
const TOKENS_MAX: usize = 1024;
/// For so long a failure answers for the token service.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(5);
/// For so long a core may remember a token that is being replaced.
const REFRESHING: Duration = Duration::from_secs(1);
