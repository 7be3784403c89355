//! The CA certificates that the proxies of a cluster publish, followed.
//!
//! A client in, PEM out: whatever the ConfigMap held last that was any good. Where there is none
//! Pods get none, and those that need them are renewed once there is. The keys of the CA stand in a
//! Secret that this process may not read. The rights needed: `list` and `watch` on that ConfigMap.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::refusal::Refusal;
use super::trust::certificates;
use crate::authority::secret::{NAME, bundle_of};

/// What is known of the ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing yet.
    Nothing,
    /// That there is none, or none that can be had.
    Absent,
    /// Its certificates.
    Certificates(Arc<str>),
}

/// The certificates, as they change.
pub struct Bundle {
    known: watch::Receiver<Known>,
    calls: Handle,
}

impl Bundle {
    /// Follows the ConfigMap of `namespace` behind `client`, on `calls`, until the process ends.
    pub fn follow(client: Client, namespace: &str, calls: Handle) -> Self {
        let (now, known) = watch::channel(Known::Nothing);
        calls.spawn(follow(Api::namespaced(client, namespace), now));
        Self { known, calls }
    }

    /// The certificates of this moment. Waits until something is known of them; must not be called
    /// on a thread that runs tasks.
    pub fn now(&self) -> Result<Option<Arc<str>>, Refusal> {
        let mut known = self.known.clone();
        let something = known.wait_for(|known| *known != Known::Nothing);
        let waited = self.calls.block_on(async { timeout(FIRST_WAIT, something).await });
        let unknown = || Refusal::Source(format!("the ConfigMap {NAME} cannot be read yet"));
        match &*waited.map_err(|_| unknown())?.map_err(|_| unknown())? {
            Known::Certificates(text) => Ok(Some(Arc::clone(text))),
            Known::Nothing | Known::Absent => Ok(None),
        }
    }
}

async fn follow(maps: Api<ConfigMap>, known: watch::Sender<Known>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut failures = 0;
    loop {
        let mut events = pin!(watcher(maps.clone(), config.clone()));
        let mut is_listed = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => is_listed = false,
                Ok(Event::InitApply(map)) => {
                    is_listed = true;
                    take(map, &known);
                }
                Ok(Event::InitDone) => {
                    failures = 0;
                    if !is_listed {
                        forget(&known);
                    }
                }
                Ok(Event::Apply(map)) => take(map, &known),
                Ok(Event::Delete(_)) => forget(&known),
                Err(cause) => {
                    if failures % 16 == 0 {
                        tracing::warn!(%cause, name = NAME, "the CA cannot be followed just now");
                    }
                    if is_forbidden(&cause) {
                        // Whoever does not want Pods to have it grants no right to it.
                        forget(&known);
                    }
                    failures += 1;
                    break;
                }
            }
        }
        sleep(PAUSE_MIN.saturating_mul(1 << failures.min(8)).min(PAUSE_MAX)).await;
    }
}

/// Takes what the ConfigMap holds. What is no certificate takes nothing away from Pods.
fn take(map: ConfigMap, known: &watch::Sender<Known>) {
    let found = bundle_of(map).and_then(|text| certificates(text.as_bytes()));
    let Some(text) = found else {
        tracing::warn!(name = NAME, "the ConfigMap holds no certificate: what was known goes on");
        known.send_if_modified(|known| {
            let first = *known == Known::Nothing;
            if first {
                *known = Known::Absent;
            }
            first
        });
        return;
    };
    let next = Known::Certificates(text.into());
    known.send_if_modified(|known| {
        let changed = *known != next;
        if changed {
            tracing::info!(name = NAME, "the CA that Pods are to trust has changed");
            *known = next;
        }
        changed
    });
}

/// There is none. Pods keep what they were told: the keys need not be gone as well.
fn forget(known: &watch::Sender<Known>) {
    known.send_if_modified(|known| {
        let first = *known == Known::Nothing;
        if first {
            tracing::warn!(name = NAME, "no CA is published: Pods get no ca.crt");
            *known = Known::Absent;
        }
        first
    });
}

fn is_forbidden(cause: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = cause
    else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.code == 403)
}

/// How long a first volume waits for it.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(20);
