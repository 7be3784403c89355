//! The tokens of one account, and who waits for one: cores, by their postboxes.
//!
//! Pure: wishes, results and the time in, answers out. A token is fetched once however many want
//! it, replaced before it ends, and a failure is remembered for a moment, so that a token service
//! in trouble is not asked by every request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::Granted;
use dataplane::error::Kind;
use dataplane::vocabulary::RegistryToken;

/// See the module.
#[derive(Debug)]
pub(super) struct Tokens<W>(HashMap<Box<str>, Kept<W>>);

impl<W> Default for Tokens<W> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[derive(Debug)]
struct Kept<W> {
    held: Option<Held>,
    failed: Option<(Kind, Instant)>,
    fetching: bool,
    waiting: Vec<W>,
}

impl<W> Default for Kept<W> {
    fn default() -> Self {
        Self { held: None, failed: None, fetching: false, waiting: Vec::new() }
    }
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

impl<W: Clone> Tokens<W> {
    /// A core wants a token for `scopes`, and not the one with the serial `refused`.
    pub(super) fn want(
        &mut self,
        scopes: &str,
        refused: Option<u64>,
        from: &W,
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
    ) -> (Vec<W>, Granted) {
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
    pub(super) fn waiting(&mut self) -> impl Iterator<Item = (&str, Vec<W>)> {
        self.0.iter_mut().map(|(scopes, kept)| (&**scopes, std::mem::take(&mut kept.waiting)))
    }
}

/// Kinds of scopes of one account; beyond it what is held is asked for anew.
const TOKENS_MAX: usize = 1024;
/// For so long a failure answers for the token service.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(5);
/// For so long a core may remember a token that is being replaced.
const REFRESHING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use dataplane::vocabulary::Secret;

    use super::*;

    const SCOPES: &str = "repository:team/app:pull";

    fn token(serial: u64) -> Arc<RegistryToken> {
        let authorization = Secret::new(b"Bearer t".to_vec());
        Arc::new(RegistryToken { authorization, scopes: SCOPES.into(), serial })
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The serial that a wish is granted and for how long, and whether a fetch begins.
    fn want(tokens: &mut Tokens<u8>, now: Instant) -> (Option<(u64, Duration)>, bool) {
        let wanted = tokens.want(SCOPES, None, &7, now);
        let granted = wanted.granted.map(|granted| granted.map(|(token, age)| (token.serial, age)));
        (granted.and_then(Result::ok), wanted.fetch)
    }

    #[test]
    fn a_token_is_fetched_once_and_replaced_after_four_fifths_of_its_life() {
        let start = Instant::now();
        let mut tokens = Tokens::default();
        assert_eq!(want(&mut tokens, start), (None, true));
        assert_eq!(want(&mut tokens, start), (None, false), "one fetch for all");
        let fetched = Ok((token(1), seconds(100)));
        let (waiting, granted) = tokens.fetched(SCOPES, fetched, start, start);
        assert_eq!(waiting, [7, 7]);
        assert_eq!(granted.unwrap().1, seconds(80));

        assert_eq!(want(&mut tokens, start + seconds(79)), (Some((1, seconds(1))), false));
        assert_eq!(want(&mut tokens, start + seconds(80)), (Some((1, seconds(1))), true));
        assert_eq!(want(&mut tokens, start + seconds(90)), (Some((1, seconds(1))), false));
        // It ends before the next one is there.
        assert_eq!(want(&mut tokens, start + seconds(100)), (None, false));
        let (begun, now) = (start + seconds(80), start + seconds(101));
        let (waiting, _) = tokens.fetched(SCOPES, Ok((token(2), seconds(100))), begun, now);
        assert_eq!(waiting, [7]);
        assert_eq!(want(&mut tokens, now), (Some((2, seconds(59))), false));
    }

    #[test]
    fn a_failure_answers_for_five_seconds_and_a_refused_token_is_given_to_nobody() {
        let start = Instant::now();
        let mut tokens = Tokens::default();
        want(&mut tokens, start);
        let kind = Kind::RegistryUnreachable;
        let (waiting, granted) = tokens.fetched(SCOPES, Err(kind), start, start);
        assert_eq!((waiting.len(), granted.err()), (1, Some(kind)));
        let soon = tokens.want(SCOPES, None, &7, start + seconds(4));
        assert!(!soon.fetch && matches!(soon.granted, Some(Err(failed)) if failed == kind));
        let now = start + seconds(5);
        assert_eq!(want(&mut tokens, now), (None, true));

        let (waiting, _) = tokens.fetched(SCOPES, Ok((token(3), seconds(100))), now, now);
        assert_eq!(waiting, [7]);
        let refused = tokens.want(SCOPES, Some(3), &7, now);
        assert!(refused.fetch && refused.granted.is_none());
    }
}
