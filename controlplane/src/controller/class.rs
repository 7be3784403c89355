//! The status of the class that this program serves.
//!
//! The world in, the status to write out, or nothing where it stands there already; pure.

use serde_json::{Value, json};

use super::reconcile::proxy_missing;
use super::world::{World, own_class};
use crate::condition::{self, Finding, READY, TRUE};

/// What is to be written to the class.
pub struct ClassWork {
    /// The class's uid.
    pub uid: Option<String>,
    /// `status`, as it is applied.
    pub status: Value,
}

/// The work that the class needs; `now` is the time of day in RFC 3339.
pub fn work(world: &World, now: &str) -> Option<ClassWork> {
    let class = world.classes.get(&own_class())?;
    let mut api = Finding::holds(API_READY);
    // The class has no API of its own: Harbor's is reached through each connector.
    "NonAPI".clone_into(&mut api.reason);
    let proxy = match world.has_proxy() {
        true => Finding::holds(PROXY_READY),
        false => proxy_missing(world, PROXY_READY),
    };
    let url = (proxy.status == TRUE).then(|| format!("http://{}", world.installation.host()));
    let ready = Finding { kind: READY, ..proxy.clone() };
    let generation = class.metadata.generation;
    let before = class.status.as_ref();
    let standing = before.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let written = condition::written(&[api, proxy, ready], standing, generation, now);
    let known =
        before.and_then(|status| status.proxy.as_ref()?.http_address.as_ref()?.url.as_ref());
    let is_same = before.is_some_and(|status| status.observed_generation == generation)
        && known == url.as_ref()
        && written.iter().all(|condition| standing.contains(condition));
    if is_same {
        return None;
    }
    let mut status = json!({"observedGeneration": generation, "conditions": written});
    if let Some(url) = url {
        status["proxy"] = json!({"httpAddress": {"url": url}});
    }
    Some(ClassWork { uid: class.metadata.uid.clone(), status })
}

/// The class's API exists, or it has none.
const API_READY: &str = "APIReady";

/// The proxy that serves the class exists.
const PROXY_READY: &str = "ProxyReady";
