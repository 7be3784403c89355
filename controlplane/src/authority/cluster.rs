//! Does one proxy's part in keeping the CA of a cluster: makes it, publishes it, renews it.
//!
//! A [`Place`] in, a [`Root`] out whenever another one signs. All proxies do the same, and the API
//! server lets one of them succeed; the others read what it wrote. What cannot be read, or used,
//! leaves the last good root in force. Whoever still has a CA that was removed puts it back: nobody
//! would trust another one.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use super::Root;
use super::renewal::{Times, next_step};
use super::rotation::{Kept, Phase};
use super::secret::{Error, NAME, Place, Published, Stored};

/// The newest root, until it is taken.
#[derive(Clone, Default)]
pub struct Roots(Arc<Mutex<Option<Root>>>);

impl Roots {
    /// The root that signs from now on; nothing if that is still the one taken last.
    pub fn take(&self) -> Option<Root> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, root: Root) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(root);
    }
}

/// Follows the CA until the process ends; a step of its rotation waits for `overlap`. Returns where
/// roots come, and what tells that the first one has. Must be called inside a runtime.
pub fn follow(place: Place, overlap: Duration) -> (Roots, oneshot::Receiver<()>) {
    let roots = Roots::default();
    let (first, is_known) = oneshot::channel();
    let keeper = Keeper {
        place,
        overlap,
        spread: (overlap / 16).min(SPREAD_MAX).mul_f64(chance()),
        roots: roots.clone(),
        first: Some(first),
        good: None,
        lost_since: None,
        notice: Arc::default(),
    };
    tokio::spawn(keeper.run());
    (roots, is_known)
}

struct Keeper {
    place: Place,
    overlap: Duration,
    /// How much later than others this one takes a step that is due, so that few meet.
    spread: Duration,
    roots: Roots,
    first: Option<oneshot::Sender<()>>,
    /// What was last read and could be used.
    good: Option<Kept>,
    /// Since when there are certificates and no keys.
    lost_since: Option<Instant>,
    /// One of the objects may have changed.
    notice: Arc<Notify>,
}

impl Keeper {
    async fn run(mut self) {
        let (client, namespace) = (self.place.client(), self.place.namespace());
        let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(client.clone(), namespace);
        let maps = Api::<PartialObjectMeta<ConfigMap>>::namespaced(client, namespace);
        tokio::spawn(watch(secrets, Arc::clone(&self.notice)));
        tokio::spawn(watch(maps, Arc::clone(&self.notice)));
        let mut failures = 0;
        loop {
            let wait = match self.look().await {
                Ok(wait) => {
                    failures = 0;
                    wait
                }
                // Somebody else did it; what that was is read next.
                Err(Error::Conflict(_)) => PAUSE_MIN.mul_f64(chance()),
                Err(cause) => {
                    // An outage is one line at first and one now and then, not one per attempt.
                    if failures % 16 == 0 {
                        let signs = self.good.is_some();
                        tracing::warn!(%cause, signs, "the CA cannot be followed just now");
                    }
                    failures += 1;
                    pause(failures)
                }
            };
            // However many notices come, one look serves all that came before it.
            sleep(PAUSE_MIN.min(wait)).await;
            let _ = timeout(wait, self.notice.notified()).await;
        }
    }

    /// Looks at both objects and does what is due. How long nothing else will be.
    async fn look(&mut self) -> Result<Duration, Error> {
        let now = OffsetDateTime::now_utc();
        // First what is written last: certificates that are older than the keys read after them
        // make the write below fail, and never replace newer ones.
        let published = self.place.published().await;
        let Some(stored) = self.place.stored().await? else {
            let Some(kept) = self.lost(&published, now)? else { return Ok(LOST_LOOK) };
            self.place.create(&kept).await?;
            return Ok(self.filled());
        };
        let mut kept = stored.kept.clone();
        if kept.is_empty() {
            let Some(kept) = self.lost(&published, now)? else { return Ok(LOST_LOOK) };
            self.place.replace(&stored, &kept).await?;
            return Ok(self.filled());
        }
        if kept.complete(now).map_err(|cause| self.place.content(cause))? {
            return self.place.replace(&stored, &kept).await.map(|()| PAUSE_MIN);
        }
        self.hand_over(&kept)?;
        let published = self.publish(published?, &kept).await?;
        self.renew(&stored, kept, published, now).await
    }

    /// What to keep where nothing is kept: the CA that this process still has, or another one. With
    /// certificates published some other process may have it, so that is waited for: nothing.
    fn lost(
        &mut self,
        published: &Result<Option<Published>, Error>,
        now: OffsetDateTime,
    ) -> Result<Option<Kept>, Error> {
        if let Some(good) = &self.good {
            return Ok(Some(good.clone()));
        }
        let is_trusted =
            matches!(published, Ok(Some(published)) if !published.bundle.trim().is_empty());
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        if is_trusted && since.elapsed() < LOST_WAIT {
            return Ok(None);
        }
        let mut kept = Kept::default();
        kept.complete(now).map_err(|cause| self.place.content(cause))?;
        Ok(Some(kept))
    }

    /// Says that this process has filled the Secret; when to look at it.
    fn filled(&self) -> Duration {
        let secret = self.place.secret_name();
        match self.good {
            Some(_) => tracing::warn!(secret, "the CA's keys were removed: they are put back"),
            None => tracing::info!(secret, "a CA is made"),
        }
        PAUSE_MIN
    }

    /// Has `kept` sign from now on, if something else did.
    fn hand_over(&mut self, kept: &Kept) -> Result<(), Error> {
        let root = kept.root().map_err(|cause| self.place.content(cause))?;
        let known = self.good.as_ref().is_some_and(|good| good.key == kept.key);
        let same = known && self.good.as_ref().is_some_and(|good| good.bundle == kept.bundle);
        self.lost_since = None;
        if !same {
            self.roots.put(root);
        }
        self.good = Some(kept.clone());
        // Whoever waited may have stopped waiting.
        self.first.take().map(|first| first.send(()));
        Ok(())
    }

    /// Has callers read what is kept; since when they can, if they can already.
    async fn publish(
        &self,
        published: Option<Published>,
        kept: &Kept,
    ) -> Result<Option<OffsetDateTime>, Error> {
        let bundle = kept.certificates().map_err(|cause| self.place.content(cause))?;
        let same = |found: &Published| found.bundle.trim() == bundle.trim();
        match published.as_ref().filter(|found| same(found)).and_then(|found| found.changed) {
            Some(since) => Ok(Some(since)),
            None => {
                self.place.publish(published.as_ref(), &bundle).await?;
                tracing::info!(bundle = self.place.bundle_name(), "the CA is published");
                Ok(None)
            }
        }
    }

    /// Takes the step that is due. How long nothing will be.
    async fn renew(
        &self,
        stored: &Stored,
        mut kept: Kept,
        published: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Result<Duration, Error> {
        let failed = |cause| self.place.content(cause);
        let is_settled = kept.phase().map_err(failed)? == Phase::Settled;
        if !is_settled && stored.changed.is_none() {
            // Somebody else wrote it; from now on its time is known.
            return self.place.replace(stored, &kept).await.map(|()| PAUSE_MIN);
        }
        let times = Times { kept: stored.changed, published, overlap: self.overlap };
        let Some((step, due)) = next_step(&kept, &times).map_err(failed)? else {
            return Ok(LOOK_AGAIN);
        };
        if let Ok(left) = Duration::try_from(due + self.spread - now)
            && !left.is_zero()
        {
            return Ok(left.min(LOOK_AGAIN));
        }
        kept.take(step, now).map_err(failed)?;
        self.place.replace(stored, &kept).await?;
        tracing::info!(?step, secret = self.place.secret_name(), "the CA is being renewed");
        Ok(PAUSE_MIN)
    }
}

/// Says so whenever the one object of our name may have changed. Its content is not asked for.
async fn watch<K>(api: Api<K>, notice: Arc<Notify>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut failures = 0;
    loop {
        let mut events = pin!(watcher(api.clone(), config.clone()));
        while let Some(event) = events.next().await {
            match event {
                // The beginning of a list is said before the server is asked for it.
                Ok(Event::Init) => {}
                Ok(_) => {
                    failures = 0;
                    notice.notify_one();
                }
                Err(cause) => {
                    tracing::debug!(%cause, "the CA cannot be watched just now");
                    failures += 1;
                    break;
                }
            }
        }
        sleep(pause(failures)).await;
    }
}

/// How long to wait after so many failures in a row: longer each time, and never quite alike.
fn pause(failures: u32) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    longest / 2 + (longest / 2).mul_f64(chance())
}

/// Some number from 0 to 1.
fn chance() -> f64 {
    let mut byte = [0; 1];
    // Without randomness all wait alike, and the API server still settles who is first.
    let _ = SystemRandom::new().fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

/// Between two looks, and after a first failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Steps are due in a month or a year: a clock that was set is noticed within this.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// Over how long the proxies of a cluster spread over a step that is due.
const SPREAD_MAX: Duration = Duration::from_secs(600);
/// How long a CA whose keys are gone is waited for before another one is made.
const LOST_WAIT: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOST_LOOK: Duration = Duration::from_secs(1);
