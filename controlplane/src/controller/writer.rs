//! Writes to the API server what a connector needs.
//!
//! [`Work`] in, what the API server answered out. Before each write the Lease is looked at: whoever
//! does not hold it any more writes nothing. A Service is first made by a create, which fails where
//! there is one already: an apply would join somebody's Service that our watch has not shown yet,
//! and has no condition against it. One of ours is applied with its uid.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource as _, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};

use super::MANAGER;
use super::class::ClassWork;
use super::counts::{Counts, Object};
use super::queue::Outcome;
use super::reconcile::{CLASS_LABEL, Report, Serving, Step, Work, taken};
use super::world::CLASS;
use crate::condition::{Finding, READY, SERVICE_READY, TRUE};
use crate::crd::{Connector, ConnectorClass, GROUP, VERSION};
use crate::lease::Tenure;

/// Writes for the replica that acts.
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// Until when it acts.
    pub tenure: Tenure,
    /// The name of this replica.
    pub identity: String,
    /// What is counted.
    pub counts: Arc<Counts>,
}

/// What the API server answered to the writes that succeeded, and how it went.
#[derive(Default)]
pub struct Written {
    /// The connector as it is now.
    pub connector: Option<Connector>,
    /// Its Service.
    pub service: Option<Service>,
    /// The class.
    pub class: Option<ConnectorClass>,
    /// Why not everything was written.
    pub failure: Option<Failure>,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Another replica acts, or may soon.
    #[error("the Lease is not ours any more")]
    NotOurs,
    /// The API server took too long.
    #[error("the API server did not answer in time")]
    Late,
    /// The API server could not be asked, or refused.
    #[error("{0}")]
    Api(#[from] kube::Error),
}

impl Failure {
    /// How the work went that failed so.
    pub fn outcome(&self) -> Outcome {
        if self.refusal().is_some() { Outcome::Refused } else { Outcome::Failed }
    }

    /// What the API server says against the request itself, other than that it came too early, too
    /// late, or too often.
    fn refusal(&self) -> Option<&str> {
        match self {
            Self::Api(kube::Error::Api(status)) => (matches!(status.code, 400..500)
                && !matches!(status.code, 404 | 408 | 409 | 429))
            .then_some(status.message.as_str()),
            _ => None,
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 409)
    }
}

impl Writer {
    /// Writes what a connector needs.
    pub async fn perform(&self, work: &Work) -> Written {
        let mut written = Written::default();
        let (connector, result) = match work {
            Work::Serve(serving) => (&serving.connector, self.serve(serving, &mut written).await),
            Work::LetGo(connector) => (connector, self.let_go(connector, &mut written).await),
        };
        if let Err(failure) = result {
            written.failure = Some(failure);
        }
        if let Some(failure) = &written.failure {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            let (namespace, name) = (connector.namespace(), connector.name_any());
            tracing::warn!(namespace, name, %failure, "a connector could not be reconciled");
        }
        written
    }

    /// Writes what the class needs.
    pub async fn perform_class(&self, work: &ClassWork) -> Written {
        let classes: Api<ConnectorClass> = Api::all(self.client.clone());
        let object = object("ConnectorClass", work.uid.as_deref(), "status", &work.status);
        let (patch, how) = (Patch::Apply(&object), apply());
        let answer = self.within(Object::Status, classes.patch_status(CLASS, &how, &patch)).await;
        match answer {
            Ok(class) => Written { class: Some(class), ..Default::default() },
            Err(failure) => {
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%failure, "the class's status could not be written");
                Written { failure: Some(failure), ..Default::default() }
            }
        }
    }

    async fn serve(&self, serving: &Serving, written: &mut Written) -> Result<(), Failure> {
        let connector = &serving.connector;
        // First, for it is said once, whatever becomes of the rest.
        if let Some(warning) = &serving.warning {
            self.tell(connector, warning).await;
        }
        let service = self.service(serving, written).await?;
        if let Some(class) = &serving.label {
            let labels = json!({"labels": {CLASS_LABEL: class}});
            match self.patch(connector, Object::Label, "metadata", &labels).await {
                Ok(labelled) => written.connector = Some(labelled),
                // Some policy of the cluster may be against it; the status is another matter.
                Err(failure) if failure.refusal().is_some() => written.failure = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        let newest = written.connector.as_ref().unwrap_or(connector);
        let Some(Report { status, news }) = serving.report(newest, &service, &now()) else {
            return Ok(());
        };
        written.connector = Some(self.patch(connector, Object::Status, "status", &status).await?);
        if let Some(ready) = news {
            self.tell(connector, &ready).await;
        }
        Ok(())
    }

    /// Gives up every field that is ours alone: who applies nothing owns nothing.
    async fn let_go(&self, connector: &Connector, written: &mut Written) -> Result<(), Failure> {
        let nothing = json!({});
        self.patch(connector, Object::Label, "metadata", &nothing).await?;
        written.connector = Some(self.patch(connector, Object::Status, "status", &nothing).await?);
        Ok(())
    }

    /// What there is to say about the Service after it was written, if it had to be. A refusal is
    /// reported, and is a failure too, so that it is tried again.
    async fn service(&self, serving: &Serving, written: &mut Written) -> Result<Finding, Failure> {
        let service = match &serving.service {
            Step::Settled(finding) => return Ok(finding.clone()),
            Step::Make(service) | Step::Mend(service) => service,
        };
        let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
        let services: Api<Service> = Api::namespaced(self.client.clone(), &namespace);
        let answer = if let Step::Make(_) = serving.service {
            self.within(Object::Service, services.create(&made_by_us(), service)).await
        } else {
            let (how, patch) = (apply(), Patch::Apply(service));
            self.within(Object::Service, services.patch(&name, &how, &patch)).await
        };
        let failure = match answer {
            Ok(stored) => {
                written.service = Some(stored);
                return Ok(Finding::holds(SERVICE_READY));
            }
            Err(failure) => failure,
        };
        let finding = if matches!(serving.service, Step::Make(_)) && failure.is_conflict() {
            taken(&name)
        } else if let Some(message) = failure.refusal() {
            Finding::fails(SERVICE_READY, "ProxyServiceRefused", shortened(message))
        } else {
            return Err(failure);
        };
        written.failure = Some(failure);
        Ok(finding)
    }

    /// Applies `fields` as the `part` of a connector, unless it is another one by now.
    async fn patch(
        &self,
        connector: &Connector,
        what: Object,
        part: &str,
        fields: &Value,
    ) -> Result<Connector, Failure> {
        let namespace = connector.namespace().unwrap_or_default();
        let connectors: Api<Connector> = Api::namespaced(self.client.clone(), &namespace);
        let object = object("Connector", connector.metadata.uid.as_deref(), part, fields);
        let (name, how, patch) = (connector.name_any(), apply(), Patch::Apply(&object));
        if part == "status" {
            self.within(what, connectors.patch_status(&name, &how, &patch)).await
        } else {
            self.within(what, connectors.patch(&name, &how, &patch)).await
        }
    }

    /// Tells of a change of `Ready`, or warns. One that is lost costs a line in `kubectl describe`.
    async fn tell(&self, connector: &Connector, ready: &Finding) {
        let holds = ready.status == TRUE;
        let reason = if ready.reason.is_empty() { READY } else { &ready.reason };
        let note =
            if holds { "the connector can be used".to_owned() } else { shortened(&ready.message) };
        let (name, namespace) = (connector.name_any(), connector.namespace().unwrap_or_default());
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..Default::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some(if holds { "Normal" } else { "Warning" }.to_owned()),
            reason: Some(reason.to_owned()),
            action: Some("Reconcile".to_owned()),
            note: Some(note),
            regarding: Some(connector.object_ref(&())),
            reporting_controller: Some(MANAGER.to_owned()),
            reporting_instance: Some(shortened_to(&self.identity, 128)),
            ..Default::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let told = self.within(Object::Event, events.create(&made_by_us(), &event)).await;
        if let Err(failure) = told {
            tracing::warn!(namespace, name, %failure, "an Event could not be written");
        }
    }

    /// One write, if we may still write.
    async fn within<T>(
        &self,
        what: Object,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        if !self.tenure.is_ours() {
            return Err(Failure::NotOurs);
        }
        self.counts.wrote(what);
        let answer = tokio::time::timeout(WRITE_WAIT, request).await;
        Ok(answer.map_err(|_| Failure::Late)??)
    }
}

/// The object that is applied: what it is, which one, and one part of it.
fn object(kind: &str, uid: Option<&str>, part: &str, fields: &impl Serialize) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind, "metadata": {},
    });
    object[part] = json!(fields);
    if let Some(uid) = uid {
        object["metadata"]["uid"] = uid.into();
    }
    object
}

/// A create under our name.
fn made_by_us() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() }
}

/// A server-side apply that takes our own fields back if somebody wrote into them.
fn apply() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

/// The time of day as `metav1.Time` writes it: the second that has begun.
pub fn now() -> String {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string()
}

/// A message within what an Event may say (k8s.io/kubernetes `NoteLengthLimit`).
fn shortened(message: &str) -> String {
    shortened_to(message, 1024)
}

fn shortened_to(text: &str, bytes_max: usize) -> String {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}

/// A write that takes longer has failed, as far as we know; it is well within a Lease.
const WRITE_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(shortened_to("aé", 2), "a");
        assert_eq!(shortened_to("aé", 3), "aé");
        assert_eq!(shortened(&"x".repeat(2000)).len(), 1024);
    }

    #[test]
    fn only_what_the_api_server_says_against_the_request_is_a_refusal() {
        let failure = |code| {
            let status = kube::core::Status { code, ..Default::default() };
            Failure::Api(kube::Error::Api(Box::new(status)))
        };
        for (code, outcome) in [
            (403, Outcome::Refused),
            (422, Outcome::Refused),
            (404, Outcome::Failed),
            (409, Outcome::Failed),
            (429, Outcome::Failed),
            (500, Outcome::Failed),
        ] {
            assert_eq!(failure(code).outcome(), outcome, "{code}");
        }
        assert_eq!(Failure::Late.outcome(), Outcome::Failed);
    }
}
