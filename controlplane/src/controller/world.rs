//! What the controller knows of the cluster: connectors, classes, and the Services named for them.
//!
//! News in, the subjects out that have to be looked at for them. Of Services only those are kept
//! whose name could be a connector's, and the proxy's own.

use k8s_openapi::api::core::v1::Service;
use kube::Resource;
use kube::runtime::watcher::Event;

use super::known::{Key, Known, key};
use super::service;
use crate::crd::{Connector, ConnectorClass};

/// What the watches report.
pub enum News {
    /// Of a Connector.
    Connector(Event<Connector>),
    /// Of a class.
    Class(Event<ConnectorClass>),
    /// Of a Service.
    Service(Event<Service>),
}

/// What can be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A connector.
    Connector(Key),
    /// The class that this program serves.
    Class,
}

/// Where the proxy is.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The namespace that this program is installed in.
    pub namespace: String,
    /// The name of the proxy's own Service there.
    pub proxy: String,
    /// What follows `.svc.` in a Service's full name.
    pub domain: String,
}

/// Everything known.
pub struct World {
    /// The connectors of all namespaces.
    pub connectors: Known<Connector>,
    /// All classes.
    pub classes: Known<ConnectorClass>,
    /// The Services that could be a connector's, and the proxy's own.
    pub services: Known<Service>,
    /// Where the proxy is.
    pub installation: Installation,
}

impl World {
    /// Nothing is known yet.
    pub fn new(installation: Installation) -> Self {
        let (connectors, classes, services) = Default::default();
        Self { connectors, classes, services, installation }
    }

    /// Whether everything has been listed once. Before, a class would seem to be missing.
    pub fn is_listed(&self) -> bool {
        self.connectors.is_listed() && self.classes.is_listed() && self.services.is_listed()
    }

    /// Takes what a watch reported.
    pub fn take(&mut self, news: News) -> Vec<Subject> {
        match news {
            News::Connector(event) => {
                self.connectors.take(event).into_iter().map(Subject::Connector).collect()
            }
            News::Class(event) => {
                let names = self.classes.take(event);
                let mut subjects = self.connectors_where(|connector| {
                    names.iter().any(|(_, name)| name == class_name(connector))
                });
                if names.iter().any(|(_, name)| name == CLASS) {
                    subjects.push(Subject::Class);
                }
                subjects
            }
            News::Service(event) => {
                let Some(event) = self.relevant(event) else {
                    return Vec::new();
                };
                let keys = self.services.take(event);
                let own = self.installation.key();
                let mut subjects = Vec::new();
                for key in keys {
                    if key == own {
                        subjects.extend(self.connectors_where(|_| true));
                        subjects.push(Subject::Class);
                    } else if let Some(name) = service::connector_of(&key.1) {
                        subjects.push(Subject::Connector((key.0, name.to_owned())));
                    }
                }
                subjects
            }
        }
    }

    /// The class that `connector` names, where there is one.
    pub fn class_of(&self, connector: &Connector) -> Option<&ConnectorClass> {
        let key = (String::new(), class_name(connector).to_owned());
        self.classes.get(&key).map(|class| &**class)
    }

    /// Whether the proxy's own Service exists.
    pub fn has_proxy(&self) -> bool {
        self.services.get(&self.installation.key()).is_some()
    }

    fn connectors_where(&self, wanted: impl Fn(&Connector) -> bool) -> Vec<Subject> {
        let all = self.connectors.all().filter(|(_, connector)| wanted(connector));
        all.map(|(key, _)| Subject::Connector(key.clone())).collect()
    }

    /// The event, unless it is about a Service that is nobody's here.
    fn relevant(&self, event: Event<Service>) -> Option<Event<Service>> {
        let concerns = match &event {
            Event::Init | Event::InitDone => true,
            Event::InitApply(service) | Event::Apply(service) | Event::Delete(service) => {
                let key = key(service);
                service::connector_of(&key.1).is_some() || key == self.installation.key()
            }
        };
        concerns.then_some(event)
    }
}

impl Installation {
    /// The proxy Service's full name.
    pub fn host(&self) -> String {
        format!("{}.{}.svc.{}", self.proxy, self.namespace, self.domain)
    }

    fn key(&self) -> Key {
        (self.namespace.clone(), self.proxy.clone())
    }
}

/// The class that a connector names; empty where it names none.
pub fn class_name(connector: &Connector) -> &str {
    connector.spec.connector_class_name.as_deref().unwrap_or_default()
}

/// The key of the class that this program serves.
pub fn own_class() -> Key {
    (String::new(), CLASS.to_owned())
}

/// The annotations of an object, as texts.
pub fn annotation<'a>(object: &'a impl Resource, name: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(name).map(String::as_str)
}

/// The class that this program serves.
pub const CLASS: &str = "harbor";
