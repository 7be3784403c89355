//! The two reviews as the API has them (authentication.k8s.io/v1, authorization.k8s.io/v1).
//!
//! A token or an identity in; the outcome goes to the desk as a word. Whatever is not a clear
//! answer is a [`Failure`], which never becomes a refusal. A token is in no error and no log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dataplane::vocabulary::{Caller, Token};
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::authorization::v1::SubjectAccessReviewStatus;
use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use ring::digest;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use zeroize::Zeroizing;

use super::{AUDIENCE, Counts, RightKey, Rules, Sum, Word, claims};
use crate::crd::GROUP;

/// The API did not answer, or not clearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure;

/// Whom a token belongs to, as the API said.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Equal for equal identities.
    pub(super) sum: Sum,
    /// As the data plane knows it.
    pub(super) caller: Arc<Caller>,
    /// How long the token still was good.
    pub(super) left: Duration,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Sends reviews.
pub(super) struct Way {
    client: Client,
    words: mpsc::Sender<Word>,
    counts: Arc<Counts>,
    permits: Arc<Semaphore>,
    verb: &'static str,
    subresource: &'static str,
}

impl Way {
    pub(super) fn new(
        client: Client,
        words: mpsc::Sender<Word>,
        counts: Arc<Counts>,
        rules: &Rules,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(REVIEWS_MAX));
        let (verb, subresource) =
            if rules.require_proxy_right { ("*", "proxy") } else { ("get", "") };
        Self { client, words, counts, permits, verb, subresource }
    }

    /// Says `word` when whoever waits has waited long enough.
    pub(super) fn late(&self, word: Word) {
        let words = self.words.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LATE).await;
            // Nobody listens when the process ends.
            let _ = words.send(word).await;
        });
    }

    /// Whose token is it? With `own_audience` it must be for us, else for the API server.
    pub(super) fn review_token(&self, sum: Sum, token: Token, own_audience: bool, delay: Duration) {
        self.counts.tokens.fetch_add(1, Ordering::Relaxed);
        let asking = self.asking();
        tokio::spawn(async move {
            let text = std::str::from_utf8(token.as_bytes()).unwrap_or_default();
            let mut spec = json!({"token": text});
            if own_audience {
                spec["audiences"] = json!([AUDIENCE]);
            }
            let review = json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec,
            });
            let outcome = asking.ask(TOKEN_REVIEWS, review, delay).await;
            let outcome = outcome.map(|status| identity(status, &token, own_audience));
            let _ = asking.words.send(Word::Token(sum, outcome)).await;
        });
    }

    /// May this identity use the connector?
    pub(super) fn review_right(&self, key: RightKey, identity: Arc<Identity>, delay: Duration) {
        self.counts.rights.fetch_add(1, Ordering::Relaxed);
        let asking = self.asking();
        let (verb, subresource) = (self.verb, self.subresource);
        tokio::spawn(async move {
            let connector = &key.1;
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": &*identity.caller.user,
                    "uid": identity.uid,
                    "groups": identity.groups,
                    "extra": identity.extra,
                    "resourceAttributes": {
                        "verb": verb, "group": GROUP, "resource": "connectors",
                        "subresource": subresource, "namespace": connector.namespace(),
                        "name": connector.name(),
                    },
                },
            });
            let outcome = asking.ask::<SubjectAccessReviewStatus>(ACCESS_REVIEWS, review, delay);
            let outcome = outcome.await.map(|status| status.allowed && status.denied != Some(true));
            let _ = asking.words.send(Word::Right(key, outcome)).await;
        });
    }

    fn asking(&self) -> Asking {
        Asking {
            client: self.client.clone(),
            words: self.words.clone(),
            counts: Arc::clone(&self.counts),
            permits: Arc::clone(&self.permits),
        }
    }
}

/// What a task needs for one review.
struct Asking {
    client: Client,
    words: mpsc::Sender<Word>,
    counts: Arc<Counts>,
    permits: Arc<Semaphore>,
}

impl Asking {
    /// Creates the review and returns its status.
    async fn ask<S: DeserializeOwned>(
        &self,
        path: &str,
        review: Value,
        delay: Duration,
    ) -> Result<S, Failure> {
        tokio::time::sleep(delay).await;
        let reviewed = tokio::time::timeout(REVIEW_WAIT, async {
            // The semaphore is never closed.
            let _permit = self.permits.acquire().await;
            self.create(path, &review).await
        });
        let outcome = reviewed.await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        outcome.map_err(|cause| {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(path, cause, "a review failed");
            Failure
        })
    }

    async fn create<S: DeserializeOwned>(&self, path: &str, review: &Value) -> Result<S, String> {
        let body = serde_json::to_vec(review).map_err(|cause| cause.to_string())?;
        let request = Request::new(path).create(&PostParams::default(), body);
        let request = request.map_err(|cause| cause.to_string())?;
        let text = self.client.request_text(request).await.map_err(|cause| match cause {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                tracing::error!(path, code = status.code, "we may not review: see the RBAC needed");
                status.reason.clone()
            }
            cause => cause.to_string(),
        })?;
        // The answer repeats the question, and with it the token.
        let text = Zeroizing::new(text);
        let mut answer: Value = serde_json::from_str(&text).map_err(|_| "not JSON".to_owned())?;
        let status = answer.get_mut("status").map(Value::take).unwrap_or_default();
        serde_json::from_value(status).map_err(|_| "a status that is none".to_owned())
    }
}

/// Whom the status names; nobody, if the token is not good or not for us. An authenticator that
/// knows nothing of audiences returns none (`status.audiences`), and that is not for us either.
fn identity(status: TokenReviewStatus, token: &Token, own_audience: bool) -> Option<Arc<Identity>> {
    let is_ours = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
    if status.authenticated != Some(true) || own_audience && !is_ours {
        return None;
    }
    let user = status.user?;
    let name = user.username.filter(|name| !name.is_empty())?;
    let (groups, extra) = (user.groups.unwrap_or_default(), user.extra.unwrap_or_default());
    let extra: BTreeMap<String, Vec<String>> = extra.into_iter().collect();
    let pod = extra.get(POD_NAME).and_then(|names| names.first());
    let namespace = name.strip_prefix("system:serviceaccount:");
    let namespace = namespace.and_then(|rest| rest.split(':').next());
    let pod = pod.zip(namespace).map(|(pod, namespace)| format!("{namespace}/{pod}").into());
    let mut sum = digest::Context::new(&digest::SHA256);
    let parts = json!([name, user.uid, groups, extra]);
    sum.update(parts.to_string().as_bytes());
    let mut bytes = Sum::default();
    bytes.copy_from_slice(sum.finish().as_ref());
    Some(Arc::new(Identity {
        sum: bytes,
        caller: Arc::new(Caller { user: name.into(), pod }),
        left: Duration::from_secs_f64(claims::seconds_left(token)),
        uid: user.uid,
        groups,
        extra,
    }))
}

/// The Pod that a token is bound to (Kubernetes, "Managing Service Accounts").
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// Reviews at one time; each holds a connection to the API server.
const REVIEWS_MAX: usize = 128;

/// Longer than a core waits: an answer that comes late is still good for the next request.
const REVIEW_WAIT: Duration = Duration::from_secs(15);

/// How long a caller who was allowed before waits for a review that is slow.
const LATE: Duration = Duration::from_secs(1);
