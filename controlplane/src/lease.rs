//! Which of several replicas acts: the one that holds a Lease (coordination.k8s.io/v1).
//!
//! A Lease's name and who we are in; [`Election::hold`] returns when we hold it, and [`Held::lost`]
//! when we no longer do. Clocks of different nodes are never compared: a holder counts as gone when
//! its Lease has not changed for its whole duration *as seen from here*. A holder stops a third of
//! that duration before anybody else may begin; whoever writes asks its [`Tenure`] before each
//! write, so that a process that was frozen meanwhile writes nothing when it thaws.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};

/// A replica that takes part in an election.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
}

/// Until when a replica may act.
#[derive(Clone, Debug)]
pub struct Tenure(Arc<Mutex<Instant>>);

/// What a replica saw of the Lease, and when it saw it change.
struct Sight {
    holder: String,
    renewed: Option<Timestamp>,
    duration: Duration,
    since: Instant,
}

impl Election {
    /// Takes part in the election by the Lease `name` of `namespace`, as `identity`, which no other
    /// replica may have. Whoever holds the Lease and does not renew it for `duration` loses it;
    /// it counts in whole seconds, and is one at least.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: String,
        duration: Duration,
    ) -> Self {
        let duration = Duration::from_secs(duration.as_secs().max(1));
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity,
            duration,
        }
    }

    /// Waits until this replica holds the Lease. `looked` is called whenever the API server has
    /// shown it to us.
    pub async fn hold(self, mut looked: impl FnMut()) -> Held {
        let mut sight = None;
        let mut failures: u32 = 0;
        loop {
            let asked_at = Instant::now();
            let attempt = tokio::time::timeout(self.patience(), self.attempt(&mut sight)).await;
            match attempt {
                Ok(Ok(taken)) => {
                    failures = 0;
                    looked();
                    if let Some(lease) = taken {
                        tracing::info!(lease = self.name, identity = self.identity, "elected");
                        let tenure = Tenure(Arc::new(Mutex::new(asked_at + self.patience())));
                        return Held { election: self, tenure, lease };
                    }
                }
                Ok(Err(cause)) => {
                    // An outage is one line at first and one now and then, not one per attempt.
                    if failures.is_multiple_of(16) {
                        tracing::warn!(lease = self.name, %cause, "the Lease cannot be looked at");
                    }
                    failures = failures.saturating_add(1);
                }
                Err(_) => tracing::warn!(lease = self.name, "the API server does not answer"),
            }
            tokio::time::sleep(self.pause()).await;
        }
    }

    /// Takes the Lease if it is free: what is stored then. Nothing while another holds it.
    async fn attempt(&self, sight: &mut Option<Sight>) -> Result<Option<Lease>, Error> {
        let Some(lease) = self.leases.get_opt(&self.name).await? else {
            let lease = self.taken(Lease::default());
            return won(self.leases.create(&PostParams::default(), &lease).await);
        };
        let seen = Sight::of(&lease, self.duration);
        let current = match sight.take() {
            Some(old) if old.holder == seen.holder && old.renewed == seen.renewed => old,
            _ => seen,
        };
        let is_free = current.is_free(&self.identity, Instant::now());
        *sight = Some(current);
        if !is_free {
            return Ok(None);
        }
        let lease = self.taken(lease);
        won(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// `lease` as held by us from now on; its resourceVersion stays, so that of two replicas who
    /// take it at one time the API server refuses the second.
    fn taken(&self, lease: Lease) -> Lease {
        let old = lease.spec.unwrap_or_default();
        let is_ours = old.holder_identity.as_deref() == Some(&self.identity);
        let now = Some(MicroTime(Timestamp::now()));
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..lease.metadata };
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: if is_ours { old.acquire_time } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!is_ours)),
            ..Default::default()
        };
        Lease { metadata, spec: Some(spec) }
    }

    /// How long a holder acts on one renewal: two thirds, well before another may begin.
    fn patience(&self) -> Duration {
        self.duration * 2 / 3
    }

    /// How often a holder renews and others look; 2 s of the usual 15, as client-go does.
    fn pause(&self) -> Duration {
        self.duration * 2 / 15
    }
}

impl Tenure {
    /// Whether we may act still.
    pub fn is_ours(&self) -> bool {
        Instant::now() < self.until()
    }

    fn until(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

impl Sight {
    fn of(lease: &Lease, default: Duration) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            holder: spec.holder_identity.unwrap_or_default(),
            renewed: spec.renew_time.map(|time| time.0),
            duration: seconds.map_or(default, Duration::from_secs),
            since: Instant::now(),
        }
    }

    /// Whether `identity` may take the Lease at `now`.
    fn is_free(&self, identity: &str, now: Instant) -> bool {
        self.holder.is_empty()
            || self.holder == identity
            || now.saturating_duration_since(self.since) >= self.duration
    }
}

/// A Lease that this replica holds.
pub struct Held {
    election: Election,
    tenure: Tenure,
    lease: Lease,
}

impl Held {
    /// What those who act ask before each write.
    pub fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// Renews the Lease, and returns when it is lost: another holds it, or it could not be renewed
    /// for so long that another may soon. May be given up at any time.
    pub async fn lost(&mut self) {
        loop {
            tokio::time::sleep(self.election.pause()).await;
            let left = self.tenure.until().saturating_duration_since(Instant::now());
            // The answer may come late: what counts is when the server can have had the request.
            let asked_at = Instant::now();
            match tokio::time::timeout(left, self.renew()).await {
                Ok(Ok(true)) => self.tenure.extend(asked_at + self.election.patience()),
                Ok(Ok(false)) => break,
                Ok(Err(cause)) => tracing::warn!(%cause, "the Lease was not renewed"),
                Err(_) => break,
            }
            if !self.tenure.is_ours() {
                break;
            }
        }
        self.tenure.extend(Instant::now());
    }

    /// Whether the Lease is still ours. Nobody else writes it while we hold it, so it is written
    /// over the version we know; only after a conflict is it read.
    async fn renew(&mut self) -> Result<bool, Error> {
        let Election { leases, name, identity, .. } = &self.election;
        let wanted = self.election.taken(self.lease.clone());
        match leases.replace(name, &PostParams::default(), &wanted).await {
            Ok(lease) => self.lease = lease,
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => {
                let Some(lease) = leases.get_opt(name).await? else {
                    return Ok(false);
                };
                let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
                if holder != Some(identity) {
                    return Ok(false);
                }
                // Somebody wrote something else into it, or an answer of ours was lost.
                let wanted = self.election.taken(lease);
                self.lease = leases.replace(name, &PostParams::default(), &wanted).await?;
            }
            Err(cause) => return Err(cause),
        }
        Ok(true)
    }

    /// Gives the Lease up, so that another replica need not wait for it to run out. Nobody may act
    /// under it any more.
    pub async fn release(self) -> Result<(), Error> {
        self.tenure.extend(Instant::now());
        let Election { leases, name, identity, .. } = &self.election;
        let Some(mut lease) = leases.get_opt(name).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(identity) {
            spec.holder_identity = None;
            leases.replace(name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

/// What was written by a request that only one of several can make, where it was ours.
fn won(written: Result<Lease, Error>) -> Result<Option<Lease>, Error> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(Error::Api(status)) if status.code == 409 => Ok(None),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(holder: &str) -> Sight {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(6),
            ..Default::default()
        };
        let lease = Lease { spec: Some(spec), ..Default::default() };
        Sight::of(&lease, Duration::from_secs(15))
    }

    #[test]
    fn a_lease_is_free_when_nobody_holds_it_or_its_holder_was_silent_for_its_duration() {
        let now = Instant::now();
        let held = sight("other");
        assert!(!held.is_free("us", held.since + Duration::from_millis(5999)));
        assert!(held.is_free("us", held.since + Duration::from_secs(6)));
        assert!(sight("us").is_free("us", now) && sight("").is_free("us", now));
        assert!(Sight::of(&Lease::default(), Duration::from_secs(15)).is_free("us", now));
    }

    #[test]
    fn a_tenure_ends_when_it_is_not_extended() {
        let tenure = Tenure(Arc::new(Mutex::new(Instant::now() + Duration::from_secs(60))));
        let other = tenure.clone();
        assert!(other.is_ours());
        tenure.extend(Instant::now());
        assert!(!other.is_ours());
    }
}
