//! A regular look at an account, for whoever tells people how it stands.
//!
//! A connector in, what its registry thinks of its credential out. It shares the breaker with the
//! requests: what they have found out is not tried again, what is put aside is not tried before its
//! time, and what a look finds out counts for them. So looking adds no failed login to theirs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::Account;
use dataplane::vocabulary::Connector;

use super::breaker::{Found, Look};
use super::probe::{Seen, probe};
use super::{Desk, Entry};

/// How an account stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What became of the last probe.
    pub seen: Seen,
    /// Whether the registry took this same credential at some time.
    pub was_good: bool,
}

/// What a look at what is known leads to.
enum Step {
    Done(Checked),
    Wait,
    Check,
}

impl Desk {
    /// Looks at the account of `connector`, content with a proof not older than `age_max`. Waits
    /// for the second probe where one is needed. `None`: the snapshot has another account by now.
    pub async fn check(
        self: &Arc<Self>,
        connector: &Connector,
        age_max: Duration,
    ) -> Option<Checked> {
        let account = Arc::new(Account::of(connector));
        let mut settled = self.settled.subscribe();
        loop {
            match self.step(&account, age_max)? {
                Step::Done(checked) => return Some(checked),
                Step::Wait => settled.changed().await.ok()?,
                Step::Check => {
                    if let Some(checked) = self.try_good(&account).await {
                        return Some(checked);
                    }
                }
            }
        }
    }

    fn step(self: &Arc<Self>, account: &Arc<Account>, age_max: Duration) -> Option<Step> {
        self.live(account)?;
        let mut accounts = self.accounts();
        let entry = accounts.entry(Arc::clone(account)).or_insert_with(Entry::new);
        Some(match (entry.breaker.look(Instant::now(), age_max), entry.checked()) {
            (Look::Known, Some(checked)) => Step::Done(checked),
            (Look::Check, _) => Step::Check,
            (Look::Known | Look::Wait, _) => Step::Wait,
            (Look::Probe, _) => {
                self.probe_after(account, Duration::ZERO);
                Step::Wait
            }
        })
    }

    /// Tries a credential that was good. `None` where the answer is no verdict yet.
    async fn try_good(self: &Arc<Self>, account: &Arc<Account>) -> Option<Checked> {
        let connector = self.live(account)?;
        self.numbers.probes.add(1);
        let probed = probe(&self.dialer, &connector).await;
        let is_rejected = matches!(probed.found, Found::Rejected);
        let mut accounts = self.accounts();
        let entry = accounts.get_mut(account)?;
        let now = Instant::now();
        let was_good = entry.breaker.was_good();
        let next = entry.breaker.checked(probed.found, now);
        entry.seen = Some(probed.seen.clone());
        entry.announce(account, now);
        drop(accounts);
        if is_rejected {
            self.note(&connector, true, false, false);
        }
        if let Some(after) = next {
            self.probe_after(account, after);
        }
        (!is_rejected).then_some(Checked { seen: probed.seen, was_good })
    }
}

impl Entry {
    fn checked(&self) -> Option<Checked> {
        let seen = self.seen.clone()?;
        Some(Checked { seen, was_good: self.breaker.was_good() })
    }
}
