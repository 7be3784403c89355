//! What the stories are told with: the real proxy, callers, registries, manifests, images.
//!
//! Nothing here sleeps to give something time: [`eventually`] asks again until a deadline. What a
//! story drops is searched for the marked password and the marked token (see [`leak`]).

pub(crate) mod apiserver;
pub(crate) mod balancer;
pub(crate) mod caller;
pub(crate) mod cluster;
pub(crate) mod container;
pub(crate) mod controller;
pub(crate) mod docker_registry;
pub(crate) mod deployment;
pub(crate) mod dockerd;
pub(crate) mod fake_registry;
pub(crate) mod harbor;
pub(crate) mod image;
pub(crate) mod kubelet;
pub(crate) mod leak;
pub(crate) mod manifests;
pub(crate) mod netns;
pub(crate) mod pod_security;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod tls_storage;
pub(crate) mod token_service;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use caller::{Answer, Broken, Caller};
pub(crate) use cluster::Cluster;
pub(crate) use docker_registry::DockerRegistry;
pub(crate) use fake_registry::{FakeRegistry, Visit, answer};
pub(crate) use harbor::Harbor;
pub(crate) use manifests::{Manifests, PASSWORD, STRANGER_TOKEN, TOKEN, USER};
pub(crate) use proxy::Proxy;
pub(crate) use tls_storage::TlsStorage;

/// The repository prefix of the path form for the connector `ci/harbor` that most stories use.
pub(crate) const PREFIX: &str = "/v2/namespaces/ci/connectors/harbor";

/// The host form's name of the same connector.
pub(crate) const HOST: &str = "c-harbor.ci.svc.cluster.local";

/// How long anything may take that should happen at once, on a machine that is very busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until `ask` gives a value, and fails with `what` after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, ask)
}

/// Asks until `ask` gives a value, and fails with `what` after `patience`.
#[track_caller]
pub(crate) fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A door that a scripted registry waits at until the story opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through, now and later.
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits until the gate is open, or for [`PATIENCE`] when the story has failed meanwhile.
    pub(crate) fn wait(&self) {
        let open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open);
    }
}

/// `text` in standard Base64.
pub(crate) fn base64(text: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The `sha256:…` digest of `bytes`.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    hex_digest(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// A finished SHA-256 in the form that manifests use.
pub(crate) fn hex_digest(digest: ring::digest::Digest) -> String {
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Bytes that look random, are the same for the same seed, and never compress.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
