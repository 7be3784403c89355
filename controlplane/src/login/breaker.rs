//! How one account stands, and when its credential may be tried again.
//!
//! Pure: events and the time in, a standing and the next probe out. Harbor locks an account for
//! 1.5 s after a failed login, and answers even the right password with 401 meanwhile
//! (`src/core/auth/authenticator.go`), so one refusal is no verdict: a second probe after the lock
//! decides. A credential that was refused twice is put aside for longer and longer times.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::error::Kind;
use dataplane::vocabulary::Standing;

use super::challenge::Realm;

/// What a registry takes.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    /// The credential itself.
    Basic,
    /// Anything.
    Open,
    /// Tokens of this service.
    Bearer(Arc<Realm>),
}

/// What a probe found.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// The credential is good, or none is needed.
    Accepted(Mode),
    /// The credential was refused.
    Rejected,
    /// The registry cannot be spoken to at all.
    Away(Kind),
    /// No verdict; requests are to be sent in this mode, and will learn by themselves.
    Unclear(Mode),
    /// The registry names a token service that is not trusted.
    Foreign,
}

/// What a question about the standing leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This, to be remembered for so long.
    Known(Standing, Duration),
    /// It is being found out.
    Wait,
    /// It is to be found out, by a probe at once.
    Probe,
}

/// What a regular look at an account leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// What is known is fresh enough, or must not be tried again yet.
    Known,
    /// It is being found out.
    Wait,
    /// It is to be found out, by a probe at once; requests wait for it.
    Probe,
    /// The credential is good, and a probe is to tell whether it still is; requests go on.
    Check,
}

/// One account.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    mode: Mode,
    /// Logins that failed in a row.
    failures: u32,
    verified_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    /// Requests wait for the probe.
    Probing,
    Good,
    /// One login failed; requests are refused until the second probe has decided.
    Doubted,
    /// A request failed that should not have; requests wait for the probe.
    Suspect,
    Refused(Instant),
    /// Told so until then.
    Settled(Standing, Instant),
}

impl Breaker {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self { state: State::Unknown, mode: Mode::Open, failures: 0, verified_at: None }
    }

    /// Somebody wants to know.
    pub(super) fn ask(&mut self, now: Instant) -> Answer {
        match self.state {
            State::Probing | State::Suspect => Answer::Wait,
            State::Good | State::Doubted => self.answer(now),
            State::Refused(until) | State::Settled(_, until) if now < until => self.answer(now),
            State::Unknown | State::Refused(_) | State::Settled(..) => {
                self.state = State::Probing;
                Answer::Probe
            }
        }
    }

    /// Somebody looks regularly, and is content with a proof not older than `age_max`. A credential
    /// that is put aside stays so: looking must not lock an account at its registry.
    pub(super) fn look(&mut self, now: Instant, age_max: Duration) -> Look {
        let proved = self.verified_at.is_some_and(|at| now.duration_since(at) < age_max);
        match self.state {
            State::Probing | State::Doubted | State::Suspect => Look::Wait,
            State::Good if proved => Look::Known,
            State::Good => Look::Check,
            State::Refused(until) | State::Settled(_, until) if now < until => Look::Known,
            State::Unknown | State::Refused(_) | State::Settled(..) => {
                self.state = State::Probing;
                Look::Probe
            }
        }
    }

    /// A check has ended. Returns after which time a probe is to be made, if one is: a good
    /// credential that was refused once may have met Harbor's lock. What became clear meanwhile
    /// counts more, but for a proof.
    pub(super) fn checked(&mut self, found: Found, now: Instant) -> Option<Duration> {
        match found {
            Found::Accepted(_) => self.probed(found, now, 0),
            Found::Rejected if self.state == State::Good => {
                self.failures = 1;
                self.state = State::Suspect;
                Some(LOCK_WAIT)
            }
            Found::Foreign if self.state == State::Good => self.probed(found, now, 0),
            // A registry that is away says nothing about a credential that was good.
            Found::Rejected | Found::Foreign | Found::Away(_) | Found::Unclear(_) => None,
        }
    }

    /// The standing as it is.
    pub(super) fn answer(&self, now: Instant) -> Answer {
        let (standing, until) = match self.state {
            State::Unknown | State::Probing => return Answer::Wait,
            State::Suspect => (Standing::Suspect, now),
            State::Good => (self.mode.standing(), now + REMEMBERED),
            State::Doubted => (Standing::Refused, now + REMEMBERED),
            State::Refused(until) => (Standing::Refused, until),
            State::Settled(standing, until) => (standing, until),
        };
        Answer::Known(standing, until.saturating_duration_since(now))
    }

    /// A probe has ended. Returns after which time the next one is to be made, if one is.
    /// `jitter` of 255 makes a pause a fifth longer.
    pub(super) fn probed(&mut self, found: Found, now: Instant, jitter: u8) -> Option<Duration> {
        let was = self.state;
        match found {
            Found::Accepted(mode) => {
                self.mode = mode;
                self.failures = 0;
                self.verified_at = Some(now);
                self.state = State::Good;
            }
            Found::Rejected => {
                self.failures += 1;
                if self.failures == 1 {
                    self.state = State::Doubted;
                    return Some(LOCK_WAIT);
                }
                self.state = State::Refused(now + pause(self.failures, jitter));
            }
            // A registry that is away says nothing about a credential that was good.
            Found::Away(_) | Found::Unclear(_) if was == State::Suspect => {
                self.failures = 0;
                self.state = State::Good;
            }
            Found::Away(kind) => self.state = State::Settled(Standing::Unavailable(kind), now),
            Found::Unclear(mode) => {
                let standing = mode.standing();
                self.mode = mode;
                self.state = State::Settled(standing, now + UNCLEAR_WAIT);
            }
            Found::Foreign => self.foreign(now),
        }
        None
    }

    /// A request with a good credential was answered 401. Returns after which time a probe is to
    /// be made. None is if the credential was proved a moment ago: then a right is missing.
    pub(super) fn doubt(&mut self, now: Instant) -> Option<Duration> {
        let proved = self.verified_at.is_some_and(|at| now.duration_since(at) < PROOF_AGE_MAX);
        let in_use = matches!(self.state, State::Good | State::Settled(..));
        if proved || !in_use {
            return None;
        }
        self.failures = 1;
        self.state = State::Suspect;
        Some(LOCK_WAIT)
    }

    /// The registry asks a request for a token of this service.
    pub(super) fn adopt(&mut self, realm: Arc<Realm>) {
        if matches!(self.state, State::Good | State::Settled(..)) {
            self.mode = Mode::Bearer(realm);
            self.state = State::Good;
        }
    }

    /// The registry asks for a token of somebody who must not see the credential.
    pub(super) fn foreign(&mut self, now: Instant) {
        let standing = Standing::Unavailable(Kind::RealmForeign);
        self.state = State::Settled(standing, now + FOREIGN_WAIT);
    }

    /// The token service, where the registry takes its tokens.
    pub(super) fn realm(&self) -> Option<&Arc<Realm>> {
        match &self.mode {
            Mode::Bearer(realm) => Some(realm),
            Mode::Basic | Mode::Open => None,
        }
    }

    /// Whether the registry took the credential at some time.
    pub(super) fn was_good(&self) -> bool {
        self.verified_at.is_some()
    }

    /// Whether the credential is put aside.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused(_))
    }
}

impl Mode {
    fn standing(&self) -> Standing {
        match self {
            Self::Basic => Standing::Basic,
            Self::Open => Standing::Open,
            Self::Bearer(_) => Standing::Bearer,
        }
    }
}

/// How long a credential is put aside after so many failures: 30 s after the second, twice as long
/// after each further one, at most five minutes.
fn pause(failures: u32, jitter: u8) -> Duration {
    let doubled = PAUSE * 2_u32.saturating_pow(failures.saturating_sub(2).min(8));
    let jitter = doubled / 5 * u32::from(jitter) / u32::from(u8::MAX);
    (doubled + jitter).min(PAUSE_MAX)
}

/// Longer than Harbor's lock after a failed login.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// For so long a proof keeps a 401 from casting doubt on the credential.
const PROOF_AGE_MAX: Duration = Duration::from_secs(30);
/// For so long no second probe is made where the first gave no verdict.
const UNCLEAR_WAIT: Duration = Duration::from_secs(10);
const FOREIGN_WAIT: Duration = Duration::from_secs(30);
/// A standing is told anew whenever it changes, so this bounds only what nobody ever told.
const REMEMBERED: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_refused_credential_is_tried_twice_in_thirty_seconds_and_then_ever_less_often() {
        let start = Instant::now();
        let mut breaker = Breaker::new();
        assert_eq!(breaker.ask(start), Answer::Probe);
        assert_eq!(breaker.ask(start), Answer::Wait, "one probe however many ask");
        assert_eq!(breaker.probed(Found::Rejected, start, 0), Some(LOCK_WAIT));
        assert!(matches!(breaker.ask(start), Answer::Known(Standing::Refused, _)));
        let mut now = start + LOCK_WAIT;
        for pause in [30, 60, 120, 240, 300, 300] {
            assert_eq!(breaker.probed(Found::Rejected, now, 0), None);
            let pause = SECOND * pause;
            assert_eq!(breaker.ask(now), Answer::Known(Standing::Refused, pause));
            now += pause;
            assert!(matches!(breaker.ask(now - SECOND), Answer::Known(Standing::Refused, _)));
            assert_eq!(breaker.ask(now), Answer::Probe, "one probe at the end");
        }
        breaker.probed(Found::Accepted(Mode::Basic), now, 0);
        assert!(matches!(breaker.ask(now), Answer::Known(Standing::Basic, _)));
        assert_eq!(pause(2, 255), SECOND * 36);
        assert_eq!(pause(40, 255), PAUSE_MAX);
    }

    #[test]
    fn one_failure_during_harbors_lock_is_no_verdict() {
        let start = Instant::now();
        let mut breaker = Breaker::new();
        breaker.ask(start);
        breaker.probed(Found::Rejected, start, 0);
        assert_eq!(breaker.probed(Found::Accepted(Mode::Basic), start + LOCK_WAIT, 0), None);
        assert!(matches!(breaker.ask(start + LOCK_WAIT), Answer::Known(Standing::Basic, _)));
    }

    #[test]
    fn a_401_casts_doubt_only_on_what_was_not_proved_a_moment_ago() {
        let start = Instant::now();
        let mut breaker = Breaker::new();
        breaker.ask(start);
        breaker.probed(Found::Accepted(Mode::Basic), start, 0);
        assert_eq!(breaker.doubt(start + SECOND * 29), None, "a right is missing");
        let later = start + SECOND * 31;
        assert_eq!(breaker.doubt(later), Some(LOCK_WAIT));
        assert_eq!(breaker.doubt(later), None, "one probe is enough");
        assert_eq!(breaker.ask(later), Answer::Wait);
        let later = later + LOCK_WAIT;
        breaker.probed(Found::Away(Kind::RegistryUnreachable), later, 0);
        assert!(matches!(breaker.ask(later), Answer::Known(Standing::Basic, _)));
        assert_eq!(breaker.doubt(later), Some(LOCK_WAIT));
        breaker.probed(Found::Rejected, later, 0);
        assert!(breaker.is_refused(), "the request's own 401 was the first failure");
    }

    #[test]
    fn a_registry_that_is_away_is_asked_anew_and_a_silent_one_not_at_once() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        breaker.ask(now);
        breaker.probed(Found::Away(Kind::RegistryUnresolved), now, 0);
        let away = Standing::Unavailable(Kind::RegistryUnresolved);
        assert_eq!(breaker.answer(now), Answer::Known(away, Duration::ZERO));
        assert_eq!(breaker.ask(now), Answer::Probe);
        breaker.probed(Found::Unclear(Mode::Basic), now, 0);
        assert_eq!(breaker.ask(now), Answer::Known(Standing::Basic, UNCLEAR_WAIT));
        assert_eq!(breaker.ask(now + UNCLEAR_WAIT), Answer::Probe);
    }
    #[test]
    fn a_regular_look_tries_a_good_credential_anew_and_one_that_is_put_aside_never() {
        let start = Instant::now();
        let minute = SECOND * 60;
        let mut breaker = Breaker::new();
        assert_eq!(breaker.look(start, minute), Look::Probe);
        assert_eq!(breaker.look(start, minute), Look::Wait);
        breaker.probed(Found::Accepted(Mode::Basic), start, 0);
        assert_eq!(breaker.look(start + SECOND * 59, minute), Look::Known);
        let mut now = start + minute;
        assert_eq!(breaker.look(now, minute), Look::Check);
        assert!(matches!(breaker.ask(now), Answer::Known(Standing::Basic, _)), "requests go on");
        assert_eq!(breaker.checked(Found::Away(Kind::RegistryUnreachable), now), None);
        assert_eq!(breaker.look(now, minute), Look::Check, "it says nothing");

        assert_eq!(breaker.checked(Found::Rejected, now), Some(LOCK_WAIT));
        assert_eq!(breaker.ask(now), Answer::Wait, "requests wait for the second probe");
        assert_eq!(breaker.checked(Found::Rejected, now), None, "one failure counts once");
        now += LOCK_WAIT;
        assert_eq!(breaker.probed(Found::Rejected, now, 0), None);
        assert!(breaker.is_refused() && breaker.was_good());
        assert_eq!(breaker.look(now + SECOND * 29, SECOND), Look::Known, "nothing is tried");
        assert_eq!(breaker.look(now + SECOND * 30, SECOND), Look::Probe);
        breaker.probed(Found::Rejected, now + SECOND * 30, 0);
        breaker.checked(Found::Accepted(Mode::Basic), now + SECOND * 31);
        assert!(!breaker.is_refused());
    }
}
