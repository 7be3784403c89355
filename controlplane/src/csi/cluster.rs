//! Connectors from a cluster: read one by one when a volume needs them, with the driver's account.
//!
//! What a Pod asks for in, facts out, or why not. Whether the Pod may use a connector is asked by a
//! SubjectAccessReview in the name of the Pod's own ServiceAccount, which the kubelet has vouched
//! for: the Pod's token is for the proxy's audience, and the API server would not take it. The
//! rights needed: `get` on connectors and connectorclasses, `create` on subjectaccessreviews; none
//! on Secrets, none on tokens.

use std::time::Duration;

use dataplane::vocabulary::ConnectorRef;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::runtime::Handle;

use super::attributes::{Asked, Pod};
use super::connectors::{GET, Granted, PROXY, add_class, forbidden, not_found};
use super::facts::ConnectorFacts;
use super::refusal::Refusal;
use crate::crd::{Connector, ConnectorClass, GROUP};

/// The way to the API server.
pub struct Cluster {
    client: Client,
    calls: Handle,
    require_proxy_right: bool,
}

impl Cluster {
    /// A cluster behind `client`, whose calls run on `calls`. With `require_proxy_right` the verb
    /// `*` on `connectors/proxy` is asked for instead of `get` on connectors.
    pub fn new(client: Client, calls: Handle, require_proxy_right: bool) -> Self {
        Self { client, calls, require_proxy_right }
    }

    /// See [`super::connectors::Connectors::look_up`]. Waits for the API; must not be called on a
    /// thread that runs tasks.
    pub(super) fn look_up(&self, asked: &Asked) -> Result<Granted, Refusal> {
        let answer =
            self.calls.block_on(async { tokio::time::timeout(API_WAIT, self.ask(asked)).await });
        answer.unwrap_or_else(|_| Err(Refusal::Source("the API server is silent".to_owned())))
    }

    async fn ask(&self, asked: &Asked) -> Result<Granted, Refusal> {
        let mut granted = Granted { connectors: Vec::new(), classes: Vec::new() };
        for reference in &asked.connectors {
            let own = reference.namespace() == asked.pod.namespace;
            let right = if self.require_proxy_right { PROXY } else { GET };
            // In a foreign namespace, who may use nothing learns nothing.
            if !own && !self.may_use(&asked.pod, reference).await? {
                return Err(forbidden(reference, &asked.pod, right));
            }
            let connectors =
                Api::<Connector>::namespaced(self.client.clone(), reference.namespace());
            let connector = connectors.get_opt(reference.name()).await.map_err(unanswered)?;
            let connector = connector.ok_or_else(|| not_found(reference, &asked.pod))?;
            if own && !self.may_use(&asked.pod, reference).await? {
                return Err(forbidden(reference, &asked.pod, right));
            }
            let name = connector.spec.connector_class_name.as_deref().unwrap_or_default();
            if !granted.classes.iter().any(|known| known.name == name) {
                let classes = Api::<ConnectorClass>::all(self.client.clone());
                let class = classes.get_opt(name).await.map_err(unanswered)?;
                add_class(reference, name, class.as_ref(), &mut granted)?;
            }
            granted.connectors.push(ConnectorFacts::new(reference.clone(), &connector, None)?);
        }
        Ok(granted)
    }

    async fn may_use(&self, pod: &Pod, reference: &ConnectorRef) -> Result<bool, Refusal> {
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let review = self.review(pod, reference);
        let answer = reviews.create(&PostParams::default(), &review).await.map_err(unanswered)?;
        Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }

    /// The question in the name of the Pod's account, with the groups that a token of it has
    /// (Kubernetes, "Service account tokens").
    fn review(&self, pod: &Pod, reference: &ConnectorRef) -> SubjectAccessReview {
        let (verb, subresource) =
            if self.require_proxy_right { ("*", Some("proxy")) } else { ("get", None) };
        let of_pod = |key: &str| format!("authentication.kubernetes.io/{key}");
        let extra = [(of_pod("pod-name"), &pod.name), (of_pod("pod-uid"), &pod.uid)];
        SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{}:{}", pod.namespace, pod.account)),
                groups: Some(vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{}", pod.namespace),
                    "system:authenticated".to_owned(),
                ]),
                extra: Some(extra.map(|(key, value)| (key, vec![value.clone()])).into()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(GROUP.to_owned()),
                    resource: Some("connectors".to_owned()),
                    subresource: subresource.map(str::to_owned),
                    namespace: Some(reference.namespace().to_owned()),
                    name: Some(reference.name().to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        }
    }
}

/// What the API server did not answer.
fn unanswered(cause: kube::Error) -> Refusal {
    Refusal::Source(match cause {
        kube::Error::Api(status) => status.message.clone(),
        cause => cause.to_string(),
    })
}

/// The kubelet waits two minutes for a call; a Pod's event should come sooner.
const API_WAIT: Duration = Duration::from_secs(20);
