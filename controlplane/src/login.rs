//! Where the connectors' own logins at their registries are kept: one truth for all cores.
//!
//! Questions of cores in, standings and tokens out, by mail. An account is a connector with one
//! version of its credential at one origin: another Secret is another account, about which nothing
//! is held against it. Each is probed once however many ask, and no credential leaves here but
//! towards its own registry and that registry's trusted token service.

mod breaker;
mod challenge;
mod check;
mod probe;
mod token;
mod tokens;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dataplane::counters::Counter;
use dataplane::error::Kind;
use dataplane::snapshot::Publisher;
use dataplane::vocabulary::{Access, Connector, RegistryToken, Standing};
use dataplane::{Account, LoginQuestion, Postbox, Wish};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use self::breaker::{Answer, Breaker, Found};
use self::challenge::Challenge;
pub use self::check::Checked;
pub use self::probe::Seen;
use self::token::Fetched;
use self::tokens::Tokens;
use crate::registry::{Dialer, whole};

/// What is counted here.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Requests that tried a credential.
    pub probes: Counter,
    /// Those of them that were refused.
    pub probes_refused: Counter,
    /// Times a credential was put aside.
    pub standings_refused: Counter,
    /// Requests for tokens.
    pub fetches: Counter,
    /// Those of them that gave none.
    pub failures: Counter,
}

/// The desk that answers.
pub struct Desk {
    runtime: Handle,
    snapshots: Publisher,
    dialer: Arc<Dialer>,
    numbers: Arc<Numbers>,
    serials: AtomicU64,
    accounts: Mutex<HashMap<Arc<Account>, Entry>>,
    /// Changes whenever a probe has ended or an account is no more.
    settled: watch::Sender<()>,
}

/// One account.
struct Entry {
    breaker: Breaker,
    /// What became of the last probe.
    seen: Option<Seen>,
    /// The cores that are told of each change.
    cores: Vec<Postbox>,
    tokens: Tokens<Postbox>,
    fetches: Arc<Semaphore>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Opens it: probes run on `runtime`, and go as `snapshots` says at their moment.
    pub fn open(runtime: &Handle, snapshots: Publisher, dialer: Arc<Dialer>) -> Arc<Self> {
        let desk = Arc::new(Self {
            runtime: runtime.clone(),
            snapshots,
            dialer,
            numbers: Arc::default(),
            serials: AtomicU64::new(0),
            accounts: Mutex::default(),
            settled: watch::Sender::default(),
        });
        runtime.spawn(Arc::clone(&desk).retire());
        desk
    }

    /// The counts.
    pub fn numbers(&self) -> Arc<Numbers> {
        Arc::clone(&self.numbers)
    }

    /// Takes a question. It is answered now, or when the answer is known.
    pub fn take(self: &Arc<Self>, question: LoginQuestion) {
        let LoginQuestion { account, wish, postbox } = question;
        let Some(connector) = self.live(&account) else {
            match wish {
                Wish::Token { scopes, .. } => {
                    postbox.give_token(&account, &scopes, Err(Kind::ConnectorUnready));
                }
                Wish::Standing | Wish::Refused { .. } => {
                    postbox.tell_standing(&account, Standing::Gone, Duration::ZERO);
                }
            }
            return;
        };
        let mut accounts = self.accounts();
        let entry = accounts.entry(Arc::clone(&account)).or_insert_with(Entry::new);
        if !entry.cores.iter().any(|known| known.is(&postbox)) {
            entry.cores.push(postbox.clone());
        }
        match wish {
            Wish::Standing => self.tell(&account, entry, &postbox),
            Wish::Refused { challenge } => {
                self.refused(&account, &connector, entry, challenge.as_deref());
            }
            Wish::Token { scopes, refused } => {
                let wanted = entry.tokens.want(&scopes, refused, &postbox, Instant::now());
                if let Some(granted) = wanted.granted {
                    postbox.give_token(&account, &scopes, granted);
                }
                if wanted.fetch {
                    self.runtime.spawn(Arc::clone(self).fetch(account, scopes));
                }
            }
        }
    }

    /// Answers a core that wants to know how an account stands.
    fn tell(self: &Arc<Self>, account: &Arc<Account>, entry: &mut Entry, postbox: &Postbox) {
        match entry.breaker.ask(Instant::now()) {
            Answer::Known(standing, age_max) => postbox.tell_standing(account, standing, age_max),
            Answer::Wait => {}
            Answer::Probe => self.probe_after(account, Duration::ZERO),
        }
    }

    /// A request was answered 401.
    fn refused(
        self: &Arc<Self>,
        account: &Arc<Account>,
        connector: &Connector,
        entry: &mut Entry,
        challenge: Option<&str>,
    ) {
        let now = Instant::now();
        match challenge::read(challenge.into_iter(), connector) {
            Challenge::Bearer(realm) => {
                tracing::info!(connector = %connector.reference, "the registry asks for tokens");
                entry.breaker.adopt(Arc::new(realm));
            }
            Challenge::Foreign(host) => {
                warn_of_foreign(connector, &host);
                entry.breaker.foreign(now);
                entry.seen = Some(Seen::Foreign(host));
            }
            Challenge::Other if matches!(connector.access, Access::Credential(_)) => {
                let Some(after) = entry.breaker.doubt(now) else { return };
                tracing::info!(
                    connector = %connector.reference,
                    "the registry answered 401: a probe will tell whether the credential is good"
                );
                self.probe_after(account, after);
            }
            Challenge::Other => return,
        }
        entry.announce(account, now);
    }

    fn probe_after(self: &Arc<Self>, account: &Arc<Account>, after: Duration) {
        self.runtime.spawn(Arc::clone(self).probe(Arc::clone(account), after));
    }

    /// Probes after that time, and again while that is called for. A credential that has been
    /// replaced meanwhile is not sent.
    async fn probe(self: Arc<Self>, account: Arc<Account>, mut after: Duration) {
        loop {
            sleep(after).await;
            let Some(connector) = self.live(&account) else { return };
            self.numbers.probes.add(1);
            let probed = probe::probe(&self.dialer, &connector).await;
            if let Seen::Foreign(host) = &probed.seen {
                warn_of_foreign(&connector, host);
            }
            let was_rejected = matches!(probed.found, Found::Rejected);
            let mut jitter = [0];
            // Without randomness pauses are of one length, and that is all.
            let _ = SystemRandom::new().fill(&mut jitter);
            let mut accounts = self.accounts();
            let Some(entry) = accounts.get_mut(&account) else { return };
            let (now, was_refused) = (Instant::now(), entry.breaker.is_refused());
            let [jitter] = jitter;
            let next = entry.breaker.probed(probed.found, now, jitter);
            entry.seen = Some(probed.seen);
            entry.announce(&account, now);
            let is_refused = entry.breaker.is_refused();
            drop(accounts);
            self.settled.send_replace(());
            self.note(&connector, was_rejected, was_refused, is_refused);
            match next {
                Some(next) => after = next,
                None => return,
            }
        }
    }

    fn note(&self, connector: &Connector, was_rejected: bool, was_refused: bool, is_refused: bool) {
        let connector = &connector.reference;
        if was_rejected {
            self.numbers.probes_refused.add(1);
        }
        if is_refused {
            self.numbers.standings_refused.add(1);
            tracing::warn!(
                %connector,
                "the registry refuses the credential: it is put aside for a while, \
                 or until the Secret changes"
            );
        } else if was_rejected {
            tracing::warn!(%connector, "the registry refused the credential once");
        } else if was_refused {
            tracing::info!(%connector, "the registry takes the credential again");
        }
    }

    async fn fetch(self: Arc<Self>, account: Arc<Account>, scopes: Box<str>) {
        let known = self
            .accounts()
            .get(&account)
            .map(|entry| (entry.breaker.realm().cloned(), Arc::clone(&entry.fetches)));
        let Some((Some(realm), fetches)) = known else {
            self.give(&account, &scopes, Err(Kind::LoginUnsettled), Instant::now());
            return;
        };
        // The semaphore is never closed, so this only waits.
        let _place = fetches.acquire().await;
        let begun = Instant::now();
        let Some(connector) = self.live(&account) else {
            self.give(&account, &scopes, Err(Kind::ConnectorUnready), begun);
            return;
        };
        self.numbers.fetches.add(1);
        let fetching = token::fetch(&self.dialer, &connector, &realm, &scopes);
        let result = match whole(fetching, Fetched::Failed("it broke off".into())).await {
            Fetched::Token(authorization, lifetime) => {
                let serial = self.serials.fetch_add(1, Ordering::Relaxed);
                let scopes = scopes.clone();
                Ok((Arc::new(RegistryToken { authorization, scopes, serial }), lifetime))
            }
            Fetched::Rejected => Err(Kind::CredentialRefused),
            Fetched::Denied => Err(Kind::CredentialRefused),
            Fetched::Failed(why) => {
                tracing::warn!(connector = %connector.reference, why, "the token service failed");
                Err(Kind::TokenServiceFailed)
            }
        };
        if result.is_err() {
            self.numbers.failures.add(1);
        }
        let doubtful = matches!(result, Err(Kind::CredentialRefused))
            && matches!(connector.access, Access::Credential(_));
        self.give(&account, &scopes, result, begun);
        if doubtful {
            let mut accounts = self.accounts();
            if let Some(entry) = accounts.get_mut(&account) {
                self.refused(&account, &connector, entry, None);
            }
        }
    }

    /// Gives the cores that wait what a fetch has brought.
    fn give(
        &self,
        account: &Arc<Account>,
        scopes: &str,
        result: Result<(Arc<RegistryToken>, Duration), Kind>,
        begun: Instant,
    ) {
        let mut accounts = self.accounts();
        if let Some(entry) = accounts.get_mut(account) {
            let (cores, granted) = entry.tokens.fetched(scopes, result, begun, Instant::now());
            for core in cores {
                core.give_token(account, scopes, granted.clone());
            }
        }
    }

    /// The connector of `account`, if it is still that account.
    fn live(&self, account: &Account) -> Option<Arc<Connector>> {
        let snapshot = self.snapshots.current();
        let connector = snapshot.connector(account.reference())?;
        let usable = !matches!(connector.access, Access::Unready(_));
        (usable && Account::of(connector) == *account).then(|| Arc::clone(connector))
    }

    /// Forgets accounts that no snapshot names any more, their tokens with them, and lets those go
    /// who wait for them.
    async fn retire(self: Arc<Self>) {
        loop {
            sleep(TICK).await;
            self.accounts().retain(|account, entry| {
                let is_live = self.live(account).is_some();
                if !is_live {
                    entry.retire(account);
                    self.settled.send_replace(());
                }
                is_live
            });
        }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<Account>, Entry>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new() -> Self {
        let fetches = Arc::new(Semaphore::new(FETCHES_MAX));
        let (breaker, cores, tokens) = (Breaker::new(), Vec::new(), Tokens::default());
        Self { breaker, seen: None, cores, tokens, fetches }
    }

    /// Tells every core how the account stands.
    fn announce(&self, account: &Arc<Account>, now: Instant) {
        if let Answer::Known(standing, age_max) = self.breaker.answer(now) {
            for core in &self.cores {
                core.tell_standing(account, standing, age_max);
            }
        }
    }

    fn retire(&mut self, account: &Arc<Account>) {
        for core in &self.cores {
            core.tell_standing(account, Standing::Gone, Duration::ZERO);
        }
        for (scopes, cores) in self.tokens.waiting() {
            for core in cores {
                core.give_token(account, scopes, Err(Kind::ConnectorUnready));
            }
        }
    }
}

/// Says that a registry names a token service which is not trusted.
fn warn_of_foreign(connector: &Connector, host: &str) {
    tracing::warn!(
        connector = %connector.reference,
        host,
        "the registry names a token service on a host that is not its own: nothing was sent there"
    );
}

/// Tokens of one account that are fetched at one time.
const FETCHES_MAX: usize = 8;
/// How soon a change of the snapshot lets go of what belonged to the old one.
const TICK: Duration = Duration::from_millis(250);
