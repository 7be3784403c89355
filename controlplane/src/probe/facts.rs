//! What is known of each connector before its registry is asked.
//!
//! The objects of a cluster and what `compile` made of them in, [`Facts`] out; pure. A connector of
//! a class that something else serves, or may serve once it exists, is not among them: its status
//! is not ours to write.

use std::collections::HashMap;
use std::sync::Arc;

use dataplane::Account;
use dataplane::courtesy::cores_first;
use dataplane::snapshot::Snapshot;
use dataplane::vocabulary::{Connector, ConnectorRef, Origin};

use crate::compile::{Cause, Problem};
use crate::crd;
use crate::source::{Found, Named, Objects};

/// The connectors whose status is ours to write.
pub type Facts = HashMap<Named, Arc<Fact>>;

/// One connector.
#[derive(Debug)]
pub struct Fact {
    /// Its namespace and name.
    pub named: Named,
    /// Distinguishes it from one of the same name, earlier or later.
    pub uid: Option<String>,
    /// Which state of its `spec` this is.
    pub generation: Option<i64>,
    /// What it means; nothing where it has none.
    pub connector: Option<Arc<Connector>>,
    /// The Secret that its `spec.auth` names.
    pub secret: Option<String>,
    /// The Secret that its `spec.caCertSecretRef` names.
    pub ca: Option<String>,
    /// What is wrong with it.
    pub flaws: Flaws,
    /// Whether its class asks for a look at the registry.
    pub has_liveness_probe: bool,
    /// Whether its class asks for a look at the credential.
    pub has_auth_probe: bool,
}

/// What is wrong with a connector as it is written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// There is no usable address; what is wrong.
    pub address: Option<String>,
    /// There is no usable credential.
    pub secret: Option<Flaw>,
    /// There are no usable CA certificates.
    pub ca: Option<Flaw>,
}

/// The reason and the message of a condition that does not hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Flaw {
    /// One word for programs.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
}

/// One registry: connectors of the same one need only one look at whether it is alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    origin: Origin,
    base_path: Box<str>,
    trust: u64,
}

/// What is known of the connectors of `objects`, which became `snapshot` and `problems`.
pub fn facts(objects: &Objects, snapshot: &Snapshot, problems: &[Problem]) -> Facts {
    let mut causes: HashMap<&Named, Vec<&Cause>> = HashMap::new();
    for problem in problems {
        causes.entry(&problem.named).or_default().push(&problem.cause);
    }
    let classes: HashMap<&str, &crd::ConnectorClass> =
        objects.classes.iter().map(|class| (&*class.named.name, &*class.object)).collect();
    let known = objects.connectors.iter().filter_map(|found| {
        cores_first();
        let causes = causes.get(&found.named).map_or(&[][..], Vec::as_slice);
        let fact = fact(found, &classes, snapshot, causes)?;
        Some((found.named.clone(), Arc::new(fact)))
    });
    // Room for all, because what grows hashes all that it holds again.
    let mut facts = Facts::with_capacity(objects.connectors.len());
    facts.extend(known);
    facts
}

fn fact(
    found: &Found<crd::Connector>,
    classes: &HashMap<&str, &crd::ConnectorClass>,
    snapshot: &Snapshot,
    causes: &[&Cause],
) -> Option<Fact> {
    let flaws = flaws(causes)?;
    let spec = &found.object.spec;
    let reference = ConnectorRef::new(&found.named.namespace, &found.named.name);
    let secret = spec.auth.as_ref().and_then(|auth| auth.secret_ref.as_ref());
    // Where nobody wrote a class the built-in one holds, and it has both.
    let class = spec.connector_class_name.as_deref().and_then(|name| classes.get(name));
    Some(Fact {
        named: found.named.clone(),
        uid: found.object.metadata.uid.clone(),
        generation: found.object.metadata.generation,
        connector: snapshot.connector(&reference).cloned(),
        secret: secret.map(|secret| secret.name.clone().unwrap_or_default()),
        ca: spec.ca_cert_secret_ref.as_ref().map(|ca| ca.name.clone().unwrap_or_default()),
        flaws,
        has_liveness_probe: class.is_none_or(|class| class.spec.liveness_probe.is_some()),
        has_auth_probe: class.is_none_or(|class| !class.spec.auth_probes.is_empty()),
    })
}

/// Sorts the mistakes by the condition that tells of them; `None` where the class is not ours.
/// Those that leave the connector usable are no condition's matter.
fn flaws(causes: &[&Cause]) -> Option<Flaws> {
    let mut flaws = Flaws::default();
    for cause in causes {
        let message = cause.to_string();
        match cause {
            Cause::ClassForeign(_) | Cause::ClassNotFound(_) | Cause::ClassMissing => return None,
            Cause::Namespace(_) | Cause::Name(_) | Cause::AddressMissing => {
                flaws.address = Some(message);
            }
            // Another address than `spec.addressExtensions`, which the connector can do without.
            Cause::Address { field, .. } if field.split(' ').next() == Some("spec.address") => {
                flaws.address = Some(message);
            }
            Cause::SecretNotFound(_)
            | Cause::Secret { .. }
            | Cause::AuthName(_)
            | Cause::SecretElsewhere(_) => {
                flaws.secret = Some(Flaw { reason: cause.reason(), message });
            }
            Cause::CaNotFound(_) | Cause::CaInvalid(_) => {
                flaws.ca = Some(Flaw { reason: cause.reason(), message });
            }
            _ => {}
        }
    }
    Some(flaws)
}

impl Fact {
    /// The registry that may be spoken to: without the CA that it should have, none may.
    pub fn registry(&self) -> Option<&Arc<Connector>> {
        self.connector.as_ref().filter(|_| self.flaws.ca.is_none())
    }

    /// Which registry is to be looked at, if one is.
    pub fn place(&self) -> Option<Place> {
        let connector = self.registry().filter(|_| self.has_liveness_probe)?;
        Some(Place {
            origin: connector.origin.clone(),
            base_path: connector.base_path.clone(),
            trust: connector.trust.id,
        })
    }

    /// Whether `other` would be found to be as this one is.
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |fact: &Self| {
            let connector = fact.connector.as_ref();
            connector.map(|one| (Account::of(one), one.base_path.clone(), one.token_hosts.clone()))
        };
        self.uid == other.uid
            && self.generation == other.generation
            && self.flaws == other.flaws
            && (self.has_liveness_probe, self.has_auth_probe)
                == (other.has_liveness_probe, other.has_auth_probe)
            && of(self) == of(other)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compile::{compile, system_trust};
    use crate::source::manifest;

    /// The facts of the manifests in `text`.
    pub(in crate::probe) fn facts_of(text: &str) -> Facts {
        let mut objects = Objects::default();
        manifest::read(&"x.yaml".into(), text.as_bytes(), &mut objects).unwrap();
        let compiled = compile(&objects, &Arc::new(system_trust()));
        facts(&objects, &Snapshot::new(compiled.connectors, 1), &compiled.problems)
    }

    /// The only fact of a connector with `spec`, beside what else `more` holds.
    pub(in crate::probe) fn fact_of(spec: &str, more: &str) -> Arc<Fact> {
        let text = format!(
            "apiVersion: connectors.alauda.io/v1alpha1\nkind: Connector\n\
             metadata: {{name: h, namespace: ci, uid: u1, generation: 3}}\nspec: {spec}\n---\n{more}"
        );
        let facts = facts_of(&text);
        Arc::clone(facts.values().next().unwrap())
    }

    #[test]
    fn every_mistake_belongs_to_one_condition() {
        let flawed = |spec: &str| {
            let fact = fact_of(spec, "");
            let Flaws { address, secret, ca } = &fact.flaws;
            let secret = secret.as_ref().map(|flaw| flaw.reason);
            let ca = ca.as_ref().map(|flaw| flaw.reason);
            (address.is_some(), secret, ca)
        };
        let base = "connectorClassName: harbor, address: 'https://h.example'";
        let secret = "auth: {name: basicAuth, secretRef: {name: s}}";
        for (spec, expected) in [
            (format!("{{{base}}}"), (false, None, None)),
            (format!("{{{base}, {secret}}}"), (false, Some("SecretNotFound"), None)),
            (
                format!("{{{base}, {}}}", secret.replace("basicAuth", "x")),
                (false, Some("InvalidAuth"), None),
            ),
            (
                format!("{{{base}, caCertSecretRef: {{name: c}}}}"),
                (false, None, Some("SecretNotFound")),
            ),
            ("{connectorClassName: harbor, address: 'ftp://h'}".into(), (true, None, None)),
        ] {
            assert_eq!(flawed(&spec), expected, "{spec}");
        }
    }

    #[test]
    fn connectors_of_other_classes_are_left_alone_and_a_class_says_what_it_asks_for() {
        let class = |name: &str, spec: &str| {
            format!(
                "apiVersion: connectors.alauda.io/v1alpha1\nkind: ConnectorClass\n\
                 metadata: {{name: {name}}}\nspec: {spec}\n"
            )
        };
        let connector = "apiVersion: connectors.alauda.io/v1alpha1\nkind: Connector\n\
             metadata: {name: h, namespace: ci}\nspec: {connectorClassName: git, address: 'https://h'}\n";
        let foreign = format!("{connector}---\n{}", class("git", "{}"));
        assert!(facts_of(&foreign).is_empty() && facts_of(connector).is_empty());

        let spec = "{connectorClassName: harbor, address: 'https://h.example'}";
        let fact = fact_of(spec, &class("harbor", "{livenessProbe: {http: {path: /x}}}"));
        assert!(fact.has_liveness_probe && !fact.has_auth_probe);
        assert!(fact.is_same(&fact_of(spec, &class("harbor", "{livenessProbe: {}}"))));
        assert!(!fact.is_same(&fact_of(spec, "")));
    }
}
