//! What a request shows its registry: nothing, the connector's credential, or a registry's token.
//!
//! A routed request and its account in, [`Presented`] out. What is needed was learnt by the control
//! plane, once for the whole process; a core remembers its answers, so that a request in the usual
//! case costs one look-up. Nothing is decided here about a credential's goodness, and neither a
//! credential nor a token leads anywhere but into the registry's request.

mod memory;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use futures_channel::oneshot;

use self::memory::{Tokens, Wanted};
use crate::counters::Counters;
use crate::error::Kind;
use crate::hashed::HashedMap;
use crate::io::within;
use crate::limits::Limits;
use crate::mailbox::{Granted, LoginQuestion, Postbox, Wish};
use crate::parse::{Method, ResponseHead};
use crate::pool::Key;
use crate::route::Routed;
use crate::target::Resource;
use crate::vocabulary::{Access, Credential, RegistryToken, Secret, Standing};
use crate::worker::Core;

/// What a request shows its registry.
pub(crate) enum Presented {
    /// Nothing: the registry asks for nothing, or there is nothing to show.
    Nothing,
    /// The connector's own credential.
    Basic(Arc<Credential>),
    /// A token of the registry's token service.
    Bearer(Arc<RegistryToken>),
}

impl Presented {
    /// What a connector has of its own.
    pub(crate) fn own(access: &Access) -> Result<Self, Kind> {
        match access {
            Access::Credential(credential) => Ok(Self::Basic(Arc::clone(credential))),
            Access::Anonymous => Ok(Self::Nothing),
            Access::Unready(_) => Err(Kind::ConnectorUnready),
        }
    }

    /// The value of `Authorization`.
    pub(crate) fn authorization(&self) -> Option<&Secret> {
        match self {
            Self::Nothing => None,
            Self::Basic(credential) => Some(&credential.authorization),
            Self::Bearer(token) => Some(&token.authorization),
        }
    }

    /// What was shown, without its bytes: what is kept while a body moves.
    pub(crate) fn shown(&self, routed: &Routed) -> Shown {
        match self {
            _ if *routed.target.resource() == Resource::Api => Shown::ToApi,
            Self::Nothing => Shown::Nothing,
            Self::Basic(_) => Shown::Basic,
            Self::Bearer(token) => Shown::Bearer(token.scopes.clone(), token.serial),
        }
    }
}

/// See [`Presented::shown`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Something to Harbor's own API, which answers 401 for many reasons.
    ToApi,
    Nothing,
    Basic,
    /// The scopes and the serial of a token.
    Bearer(Box<str>, u64),
}

/// What `routed`, a request of `account`, is to show at `now`. `source` is the repository that it
/// asks to mount from. `None`: the account is no more, and the snapshot knows what came in its
/// place.
pub(crate) async fn present(
    routed: &Routed,
    account: &Arc<Key>,
    source: Option<&str>,
    now: Instant,
    core: &Core,
) -> Result<Option<Presented>, Kind> {
    let access = &routed.connector.access;
    let is_api = *routed.target.resource() == Resource::Api;
    match core.logins.standing(account, now, &core.limits).await? {
        Standing::Gone => return Ok(None),
        Standing::Suspect => return Err(Kind::LoginUnsettled),
        Standing::Unavailable(kind) => return Err(kind),
        Standing::Refused => {
            core.counters.logins_refused.add(1);
            return Err(Kind::CredentialRefused);
        }
        Standing::Bearer if !is_api => {
            let pulls = matches!(routed.head.method, Method::Get | Method::Head);
            if matches!(access, Access::Anonymous) && !pulls {
                return Err(Kind::PushAnonymous);
            }
            let token = core.logins.token(account, scopes(routed, source), &core.limits).await?;
            return Ok(token.map(Presented::Bearer));
        }
        Standing::Basic | Standing::Open | Standing::Bearer => {}
    }
    Presented::own(access).map(Some)
}

/// The registry answered 401 to what was `shown`. Whether the same request could fare better with
/// what [`present`] gives next: a fresh token in place of one that has been taken before, a token
/// where the registry now asks for one.
pub(crate) fn refused(account: &Arc<Key>, shown: &Shown, head: &ResponseHead, core: &Core) -> bool {
    let challenge = challenge(head);
    let asks_for_token = challenge.is_some();
    let logins = &core.logins;
    match shown {
        Shown::ToApi => false,
        Shown::Bearer(scopes, serial) if asks_for_token => {
            let key = (Arc::clone(account), scopes.clone());
            logins.state.borrow_mut().tokens.spend(&key, *serial, Instant::now())
        }
        Shown::Nothing if !asks_for_token => false,
        Shown::Nothing | Shown::Basic | Shown::Bearer(..) => {
            logins.ask(account, Wish::Refused { challenge });
            if asks_for_token {
                // The next look asks, and hears what has been made of the challenge.
                logins.state.borrow_mut().standings.remove(account);
            }
            asks_for_token
        }
    }
}

/// The registry answered something else than 401: a token that was shown is good for its scopes.
pub(crate) fn taken(account: &Arc<Key>, shown: &Shown, core: &Core) {
    if let Shown::Bearer(scopes, serial) = shown {
        let key = (Arc::clone(account), scopes.clone());
        core.logins.state.borrow_mut().tokens.prove(&key, *serial);
    }
}

/// What was `shown` by `account`, so that an answer can be searched for it; `None` where nobody
/// knows it any more.
pub(crate) fn recalled(account: &Arc<Key>, shown: &Shown, core: &Core) -> Option<Presented> {
    match shown {
        Shown::Nothing => Some(Presented::Nothing),
        Shown::ToApi | Shown::Basic => core.with_snapshot(|snapshot| {
            let served = snapshot.served(account.reference())?;
            let same = served.account == *account;
            if same { Presented::own(&served.connector.access).ok() } else { None }
        }),
        Shown::Bearer(scopes, serial) => {
            let name = (Arc::clone(account), scopes.clone());
            let token = core.logins.state.borrow_mut().tokens.remembered(&name, *serial);
            token.map(Presented::Bearer)
        }
    }
}

/// The challenges of an answer, if one of them asks for a token (RFC 6750 §3).
fn challenge(head: &ResponseHead) -> Option<Box<str>> {
    let mut challenge = String::new();
    for value in head.fields.all("www-authenticate") {
        let text = str::from_utf8(value).ok().filter(|text| text.len() <= CHALLENGE_BYTES_MAX)?;
        let joint = if challenge.is_empty() { "" } else { ", " };
        challenge.push_str(joint);
        challenge.push_str(text);
    }
    let bearer = challenge.to_ascii_lowercase().contains("bearer ");
    bearer.then(|| challenge.into_boxed_str())
}

/// The scopes that a request needs (distribution "Token Scope Documentation"): actions follow from
/// the method as in docker/distribution's `appendAccessRecords`; names are the registry's own.
fn scopes(routed: &Routed, source: Option<&str>) -> Box<str> {
    let actions = match (routed.head.method, routed.target.resource()) {
        (Method::Get | Method::Head, _) => "pull",
        (Method::Delete, Resource::Upload) => "pull,push,delete",
        (Method::Delete, _) => "delete",
        _ => "pull,push",
    };
    let mut scopes = ["repository:", routed.target.repository(), ":", actions].concat();
    if let Some(source) = source {
        for part in [" repository:", source, ":pull"] {
            scopes.push_str(part);
        }
    }
    scopes.into_boxed_str()
}

/// What one core remembers of logins, and whom it still has to answer.
pub(crate) struct Logins {
    questions: Sender<LoginQuestion>,
    postbox: Postbox,
    counters: Arc<Counters>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    standings: HashedMap<Arc<Key>, Known>,
    tokens: Tokens,
}

/// What is known of one account.
#[derive(Default)]
struct Known {
    /// The standing, and until when it counts.
    told: Option<(Standing, Instant)>,
    asked_at: Option<Instant>,
    waiting: Vec<oneshot::Sender<Standing>>,
}

/// What a look at a standing gives.
enum Look {
    Known(Standing),
    Wait(oneshot::Receiver<Standing>),
}

impl Logins {
    /// Knows nothing yet; answers come to `postbox`.
    pub(crate) fn new(
        questions: Sender<LoginQuestion>,
        postbox: Postbox,
        counters: Arc<Counters>,
    ) -> Self {
        Self { questions, postbox, counters, state: RefCell::default() }
    }

    /// How `account` stands: remembered, or asked for once however many want to know.
    async fn standing(
        &self,
        account: &Arc<Key>,
        now: Instant,
        limits: &Limits,
    ) -> Result<Standing, Kind> {
        let told = match self.look(account, now, limits)? {
            Look::Known(standing) => return Ok(standing),
            Look::Wait(told) => told,
        };
        match within(limits.login_wait, told).await {
            Some(Ok(standing)) => Ok(standing),
            // Nobody is left to answer: the account was retired.
            Some(Err(_)) => Ok(Standing::Gone),
            None => Err(Kind::LoginUnsettled),
        }
    }

    /// The standing of `account`, or a place among those who wait for it.
    fn look(&self, account: &Arc<Key>, now: Instant, limits: &Limits) -> Result<Look, Kind> {
        let mut state = self.state.borrow_mut();
        if let Some(known) = state.standings.get(account)
            && let Some((standing, until)) = known.told
            && now < until
        {
            return Ok(Look::Known(standing));
        }
        let known = state.standings.entry(Arc::clone(account)).or_default();
        if !is_recent(known.asked_at, now, limits) {
            if !self.ask(account, Wish::Standing) {
                return Err(Kind::Overloaded);
            }
            known.asked_at = Some(now);
        }
        let (sender, told) = oneshot::channel();
        known.waiting.push(sender);
        Ok(Look::Wait(told))
    }

    /// A token of `account` for `scopes`: remembered, or asked for once however many want it.
    async fn token(
        &self,
        account: &Arc<Key>,
        scopes: Box<str>,
        limits: &Limits,
    ) -> Result<Option<Arc<RegistryToken>>, Kind> {
        let given = {
            let mut state = self.state.borrow_mut();
            let now = Instant::now();
            let key = (Arc::clone(account), scopes);
            match state.tokens.want(&key, now, limits) {
                Wanted::Held(token) => return Ok(Some(token)),
                Wanted::Asked(given) => given,
                Wanted::Ask(given, refused) => {
                    if !self.ask(account, Wish::Token { scopes: key.1.clone(), refused }) {
                        state.tokens.forget_question(&key);
                        return Err(Kind::Overloaded);
                    }
                    given
                }
            }
        };
        match within(limits.login_wait, given).await {
            // So it is said of an account that is no more.
            Some(Ok(Err(Kind::ConnectorUnready)) | Err(_)) => Ok(None),
            Some(Ok(given)) => given.map(Some),
            None => Err(Kind::LoginUnsettled),
        }
    }

    /// Asks the control plane; whether there was room for the question.
    fn ask(&self, account: &Arc<Key>, wish: Wish) -> bool {
        let account = Arc::clone(account);
        let question = LoginQuestion { account, wish, postbox: self.postbox.clone() };
        let asked = self.questions.try_send(question).is_ok();
        if asked {
            self.counters.login_questions.add(1);
        }
        asked
    }

    /// Takes the news of how `account` stands. A suspicion answers nobody: whoever comes waits for
    /// the news that ends it.
    pub(crate) fn told(&self, account: Arc<Key>, standing: Standing, age_max: Duration) {
        let mut state = self.state.borrow_mut();
        let now = Instant::now();
        let known = state.standings.entry(account).or_default();
        if standing == Standing::Suspect {
            known.told = None;
            known.asked_at = Some(now);
            return;
        }
        known.asked_at = None;
        known.told = (!age_max.is_zero()).then(|| (standing, now + age_max));
        for waiting in known.waiting.drain(..) {
            // Whoever gave up waiting needs no answer.
            let _ = waiting.send(standing);
        }
    }

    /// Takes a token, or the reason why there is none.
    pub(crate) fn given(
        &self,
        account: Arc<Key>,
        scopes: Box<str>,
        granted: Granted,
        limits: &Limits,
    ) {
        self.state.borrow_mut().tokens.given((account, scopes), granted, Instant::now(), limits);
    }

    /// Forgets accounts that are no more, and what nobody answered in time.
    pub(crate) fn expire(&self, is_live: impl Fn(&Key) -> bool, limits: &Limits) {
        let mut state = self.state.borrow_mut();
        let now = Instant::now();
        state.standings.retain(|account, known| {
            let kept = known.told.is_some_and(|(_, until)| now < until)
                || is_recent(known.asked_at, now, limits);
            kept && is_live(account)
        });
        state.tokens.expire(is_live, now, limits);
    }
}

/// Whether an answer to a question of that time may still come.
fn is_recent(asked_at: Option<Instant>, now: Instant, limits: &Limits) -> bool {
    asked_at.is_some_and(|at| now.duration_since(at) < limits.login_wait)
}

/// All challenges of one answer are some hundred bytes.
const CHALLENGE_BYTES_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests;
