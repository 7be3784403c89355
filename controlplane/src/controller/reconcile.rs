//! What one Connector needs: its Service, its label, its status; and nothing where all is well.
//!
//! The world and a Connector in, the work to do out; pure. No Secret is in that world, so the
//! conditions about credentials are found out and written by the proxy; here they only count.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::world::{CLASS, World, annotation, class_name};
use super::{MANAGER, service};
use crate::condition::{self, CLASS_READY, Finding, PENDING, READY, SERVICE_READY, TRUE, UNKNOWN};
use crate::crd::{Condition, Connector};

/// What is to be done about a connector.
pub enum Work {
    /// It is ours to serve, and lacks something.
    Serve(Box<Serving>),
    /// It has gone to another class, and what we have written there speaks of the past. Its Service
    /// stays: nothing is ever deleted here.
    LetGo(Arc<Connector>),
}

/// What is to be done for a connector of ours.
pub struct Serving {
    /// The connector as it is known.
    pub connector: Arc<Connector>,
    /// What was found out about its class.
    pub class: Finding,
    /// Its Service.
    pub service: Step,
    /// The label that it should have and has not.
    pub label: Option<String>,
    /// Where callers reach it, once it has its Service.
    pub address: String,
    /// What there is to warn of.
    pub warning: Option<Finding>,
}

/// What is to be done for a connector's Service.
pub enum Step {
    /// Nothing: this was found out about it.
    Settled(Finding),
    /// There is none of that name as far as we know: it is made, unless somebody else was faster.
    Make(Box<Service>),
    /// Ours, but not what it should be. The uid in it keeps the write from any other.
    Mend(Box<Service>),
}

/// A status that differs from what stands there.
pub struct Report {
    /// `status`, as it is applied.
    pub status: Value,
    /// What there is to tell about `Ready`, where it has changed to something certain.
    pub news: Option<Finding>,
}

/// The work that `connector` needs; `now` is the time of day in RFC 3339.
pub fn work(
    world: &World,
    connector: &Arc<Connector>,
    warning: Option<Finding>,
    now: &str,
) -> Option<Work> {
    if connector.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if !is_responsible(world, connector) {
        return is_marked(connector).then(|| Work::LetGo(Arc::clone(connector)));
    }
    let class = class(world, connector);
    let service = match class.status {
        TRUE => service(world, connector),
        _ => {
            let message = "the Service is made once the class exists".to_owned();
            Step::Settled(Finding::open(SERVICE_READY, PENDING, message))
        }
    };
    let wanted = class_name(connector);
    let has_label = connector.labels().get(CLASS_LABEL).is_some_and(|label| label == wanted);
    let label = (is_label(wanted) && !has_label).then(|| wanted.to_owned());
    let address = address(world, connector);
    let connector = Arc::clone(connector);
    let serving = Serving { connector, class, service, label, address, warning };
    let is_needed = match &serving.service {
        Step::Settled(found) => {
            serving.label.is_some()
                || serving.warning.is_some()
                || serving.report(&serving.connector, found, now).is_some()
        }
        Step::Make(_) | Step::Mend(_) => true,
    };
    is_needed.then(|| Work::Serve(Box::new(serving)))
}

impl Serving {
    /// The status to write to `connector`, which is the newest that is known of it, after its
    /// Service was found to be as `service` says. Nothing where it stands there already.
    pub fn report(&self, connector: &Connector, service: &Finding, now: &str) -> Option<Report> {
        let found = [self.class.clone(), service.clone()];
        let generation = connector.metadata.generation;
        let before = connector.status.as_ref();
        let standing = before.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let ready = condition::ready(&found, standing, generation);
        let address =
            found.iter().all(|finding| finding.status == TRUE).then_some(self.address.as_str());
        let findings = [found.as_slice(), std::slice::from_ref(&ready)].concat();
        let written = condition::written(&findings, standing, generation, now);
        let known = before.and_then(|status| status.proxy.as_ref()?.http_address.as_ref());
        let is_same = before.is_some_and(|status| status.observed_generation == generation)
            && known.and_then(|known| known.url.as_deref()) == address
            && written.iter().all(|condition| standing.contains(condition));
        if is_same {
            return None;
        }
        let mut status = json!({"observedGeneration": generation, "conditions": written});
        if let Some(url) = address {
            status["proxy"] = json!({"httpAddress": {"url": url}});
        }
        Some(Report { status, news: is_news(&ready, standing).then_some(ready) })
    }
}

/// Whether `Ready` is certain, and another than before.
fn is_news(ready: &Finding, standing: &[Condition]) -> bool {
    let old = standing.iter().find(|condition| condition.kind == READY);
    let same = |old: &Condition| {
        old.status == ready.status && old.reason.as_deref().unwrap_or_default() == ready.reason
    };
    ready.status != UNKNOWN && !old.is_some_and(same)
}

/// Whether a connector is ours: of our class, or of one that does not exist, for then nobody else
/// would say so. Connectors of other classes have controllers of their own.
fn is_responsible(world: &World, connector: &Connector) -> bool {
    class_name(connector) == CLASS || world.class_of(connector).is_none()
}

/// Whether we own a field of the connector or of its status.
fn is_marked(connector: &Connector) -> bool {
    connector.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some(MANAGER))
}

/// Whether a class's name can be a label's value (k8s.io/apimachinery `IsValidLabelValue`); that of
/// a class that does not exist may be anything.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |end: Option<u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let bytes = || name.bytes();
    name.len() <= 63 && bytes().all(inner) && outer(bytes().next()) && outer(bytes().last())
}

fn class(world: &World, connector: &Connector) -> Finding {
    if world.class_of(connector).is_some() {
        return Finding::holds(CLASS_READY);
    }
    let name = class_name(connector);
    let message = format!("connectorclass.connectors.alauda.io {name:?} not found");
    Finding::fails(CLASS_READY, "ConnectorClassNotFound", message)
}

fn service(world: &World, connector: &Connector) -> Step {
    let fails = |reason, message| Step::Settled(Finding::fails(SERVICE_READY, reason, message));
    if !world.has_proxy() {
        return Step::Settled(proxy_missing(world, SERVICE_READY));
    }
    let (own, namespace) = (connector.name_any(), connector.namespace().unwrap_or_default());
    let Some(name) = service::name_for(&own) else {
        let message = "the name cannot become the Service c-<name>: use at most 61 of a-z, 0-9 \
                       and -, no dots";
        return fails("InvalidName", message.to_owned());
    };
    let Some(mut wanted) = service::desired(connector, &name, &world.installation.host()) else {
        return fails(PENDING, "the connector is not stored yet".to_owned());
    };
    match world.services.get(&(namespace, name.clone())) {
        None => Step::Make(Box::new(wanted)),
        Some(there) if !service::is_of(there, connector) => Step::Settled(taken(&name)),
        Some(there) if service::is_same(there, &wanted) => {
            Step::Settled(Finding::holds(SERVICE_READY))
        }
        Some(there) => {
            wanted.metadata.uid.clone_from(&there.metadata.uid);
            Step::Mend(Box::new(wanted))
        }
    }
}

/// The Service `name` is somebody else's.
pub fn taken(name: &str) -> Finding {
    let message = format!(
        "services {name:?} already exists and does not belong to this connector: delete it, or \
         give the connector another name"
    );
    Finding::fails(SERVICE_READY, "ProxyServiceConflict", message)
}

/// There is no proxy to lead to.
pub fn proxy_missing(world: &World, kind: &'static str) -> Finding {
    let (name, namespace) = (&world.installation.proxy, &world.installation.namespace);
    let message = format!("Service {name} not found in namespace {namespace}");
    Finding::fails(kind, "ProxyServiceNotFound", message)
}

/// Where callers reach a connector. The class chooses between the page's form and the one with the
/// path.
fn address(world: &World, connector: &Connector) -> String {
    let (name, namespace) = (connector.name_any(), connector.namespace().unwrap_or_default());
    let host = format!("http://c-{name}.{namespace}.svc.{}", world.installation.domain);
    let resolver = world.class_of(connector).and_then(|class| annotation(class, RESOLVER));
    match resolver {
        Some("path") => format!("{host}/namespaces/{namespace}/connectors/{name}"),
        _ => host,
    }
}

/// The label that selects connectors by class.
pub const CLASS_LABEL: &str = "connectors.alauda.io/connectorclass";

/// The class annotation that chooses the form of the address.
const RESOLVER: &str = "connectors.cpaas.io/proxy-resolver";
