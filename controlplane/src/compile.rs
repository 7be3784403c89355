//! Objects become what the data plane reads: connectors, and a list of problems.
//!
//! [`Objects`] in, [`Compiled`] out; pure: no file, socket or clock. A problem of one connector
//! costs that connector alone: where its registry is unknown it is left out, where only its
//! credential or trust is missing it is there and says that it is unready.

pub mod address;
mod credential;
mod parameter;
mod problem;
mod trust;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dataplane::courtesy::cores_first;
use dataplane::vocabulary::{Access, Connector, ConnectorRef, Origin, Trust, is_dns_label};

use self::parameter::Parameters;
pub use self::problem::{Cause, Problem};
pub use self::trust::system_trust;
use crate::crd;
use crate::review::file::Table;
use crate::source::{Found, Named, Objects, SecretObject};

/// The meaning of a set of objects.
pub struct Compiled {
    /// The connectors that the data plane can serve, ready or not.
    pub connectors: Vec<Connector>,
    /// Who calls, and who may use what.
    pub table: Table,
    /// What is wrong, in the order of the objects.
    pub problems: Vec<Problem>,
}

/// Compiles `objects`. `system` are the trust anchors of a connector that names none of its own.
pub fn compile(objects: &Objects, system: &Arc<Trust>) -> Compiled {
    let mut problems = duplicates(objects);
    for found in kept(&objects.secrets) {
        problems.extend(found.object.defect.map(|what| Problem::at(found, Cause::Undecoded(what))));
    }
    let scope = Scope {
        secrets: first_of_each(&objects.secrets),
        classes: first_of_each(&objects.classes),
        system,
    };
    let mut connectors = Vec::with_capacity(objects.connectors.len());
    for found in kept(&objects.connectors) {
        let mut causes = unknown_fields(found);
        match scope.connector(found, &mut causes) {
            Ok(connector) => connectors.push(connector),
            Err(cause) => causes.push(cause),
        }
        problems.extend(causes.into_iter().map(|cause| Problem::at(found, cause)));
    }
    for found in kept(&objects.classes) {
        let mut causes = unknown_fields(found);
        Parameters::of_class(&found.object.spec, &mut causes);
        problems.extend(causes.into_iter().map(|cause| Problem::at(found, cause)));
    }
    let known = connectors.iter().map(|connector| {
        cores_first();
        connector.reference.clone()
    });
    let table = Table::new(objects, known, &mut problems);
    Compiled { connectors, table, problems }
}

/// What a connector may refer to.
struct Scope<'a> {
    secrets: HashMap<&'a Named, &'a Found<SecretObject>>,
    classes: HashMap<&'a Named, &'a Found<crd::ConnectorClass>>,
    system: &'a Arc<Trust>,
}

impl Scope<'_> {
    /// One connector. Problems that leave it usable, or unready, are added to `causes`.
    fn connector(
        &self,
        found: &Found<crd::Connector>,
        causes: &mut Vec<Cause>,
    ) -> Result<Connector, Cause> {
        let (namespace, name) = (&*found.named.namespace, &*found.named.name);
        let spec = &found.object.spec;
        if !is_dns_label(namespace) {
            return Err(Cause::Namespace(namespace.to_owned()));
        }
        if !is_dns_label(name) || name.len() > NAME_BYTES_MAX {
            return Err(Cause::Name(name.to_owned()));
        }
        let class = self.class(spec.connector_class_name.as_deref())?;
        let written = spec.address.as_deref().ok_or(Cause::AddressMissing)?;
        let (origin, base_path) =
            address::parse(written).map_err(|why| bad_address("spec.address", written, why))?;
        let mut access = self.access(found).unwrap_or_else(|cause| unready(cause, causes));
        let trust = self.trust(namespace, spec).unwrap_or_else(|cause| {
            // Without its CA the registry cannot be told from another, so nothing is sent at all.
            access = unready(cause, causes);
            Arc::clone(self.system)
        });
        let Parameters { api, redirects, token_hosts } = class.of_connector(spec, causes);
        Ok(Connector {
            reference: ConnectorRef::new(namespace, name),
            uid: uid(found),
            aliases: aliases(spec, &origin, causes),
            origin,
            base_path: base_path.into(),
            access,
            trust,
            api,
            redirects,
            token_hosts,
        })
    }

    /// The parameters that the connector's class sets; without a class of the name `harbor` in the
    /// source, the built-in one holds.
    fn class(&self, name: Option<&str>) -> Result<Parameters, Cause> {
        let name = name.ok_or(Cause::ClassMissing)?;
        let named = Named { kind: "ConnectorClass", namespace: "".into(), name: name.into() };
        match (self.classes.get(&named), name) {
            // What is wrong with the class is said once, where its own problems are.
            (Some(class), HARBOR) => Ok(Parameters::of_class(&class.object.spec, &mut Vec::new())),
            (None, HARBOR) => Ok(Parameters::default()),
            (Some(_), _) => Err(Cause::ClassForeign(name.to_owned())),
            (None, _) => Err(Cause::ClassNotFound(name.to_owned())),
        }
    }

    /// The credential that `spec.auth` names.
    fn access(&self, found: &Found<crd::Connector>) -> Result<Access, Cause> {
        let Some(auth) = &found.object.spec.auth else {
            return Ok(Access::Anonymous);
        };
        let Some(reference) = &auth.secret_ref else {
            return Ok(Access::Anonymous);
        };
        let kind = auth.name.as_deref().unwrap_or_default();
        if kind != "basicAuth" {
            return Err(Cause::AuthName(kind.to_owned()));
        }
        let own = &*found.named.namespace;
        match reference.namespace.as_deref() {
            Some(other) if !other.is_empty() && other != own => {
                return Err(Cause::SecretElsewhere(other.to_owned()));
            }
            _ => {}
        }
        let name = reference.name.as_deref().unwrap_or_default();
        let secret = self.secret(own, name).ok_or_else(|| Cause::SecretNotFound(name.into()))?;
        credential::basic(&secret.object)
            .map(|credential| Access::Credential(Arc::new(credential)))
            .map_err(|why| Cause::Secret { name: name.to_owned(), why })
    }

    /// The system's trust anchors and those that `spec.caCertSecretRef` names.
    fn trust(&self, namespace: &str, spec: &crd::ConnectorSpec) -> Result<Arc<Trust>, Cause> {
        let Some(reference) = &spec.ca_cert_secret_ref else {
            return Ok(Arc::clone(self.system));
        };
        let name = reference.name.as_deref().unwrap_or_default();
        let secret =
            self.secret(namespace, name).ok_or_else(|| Cause::CaNotFound(name.to_owned()))?;
        let trust = trust::with(self.system, &secret.object);
        trust.map(Arc::new).ok_or_else(|| Cause::CaInvalid(name.to_owned()))
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<&Found<SecretObject>> {
        let named = Named { kind: "Secret", namespace: namespace.into(), name: name.into() };
        self.secrets.get(&named).copied()
    }
}

/// Notes the problem and says by its reason that the connector cannot be used.
fn unready(cause: Cause, causes: &mut Vec<Cause>) -> Access {
    let access = Access::Unready(cause.reason().into());
    causes.push(cause);
    access
}

/// Distinguishes re-created connectors where the source can tell them apart; a folder cannot.
fn uid(found: &Found<crd::Connector>) -> Box<str> {
    let uid = found.object.metadata.uid.as_deref().filter(|uid| !uid.is_empty());
    uid.map_or_else(|| found.named.to_string().into(), Into::into)
}

/// The other origins of the registry. A bad one is a problem and is left out.
fn aliases(spec: &crd::ConnectorSpec, own: &Origin, causes: &mut Vec<Cause>) -> Vec<Origin> {
    let mut aliases: Vec<Origin> = Vec::new();
    for extension in &spec.address_extensions {
        let field = format!("spec.addressExtensions {}", extension.name);
        let written = extension.value.as_str().unwrap_or_default();
        match address::parse(written) {
            Ok((origin, _)) if origin != *own && !aliases.contains(&origin) => aliases.push(origin),
            Ok(_) => causes.push(Cause::AddressRepeated(field)),
            Err(why) => causes.push(bad_address(&field, written, why)),
        }
    }
    aliases
}

fn bad_address(field: &str, written: &str, why: address::Refusal) -> Cause {
    let field = match address::shown(written) {
        "" => field.to_owned(),
        shown => format!("{field} {shown:?}"),
    };
    Cause::Address { field, why }
}

fn unknown_fields<T>(found: &Found<T>) -> Vec<Cause> {
    found.unknown_fields.iter().cloned().map(Cause::FieldUnknown).collect()
}

/// The first object of each name, in order.
fn kept<T>(list: &[Found<T>]) -> impl Iterator<Item = &Found<T>> {
    // Room for all: what grows hashes all that it holds again, in one go that no core gets between.
    let mut seen = HashSet::with_capacity(list.len());
    list.iter().inspect(|_| cores_first()).filter(move |found| seen.insert(&found.named))
}

fn first_of_each<T>(list: &[Found<T>]) -> HashMap<&Named, &Found<T>> {
    let mut first = HashMap::with_capacity(list.len());
    first.extend(kept(list).map(|found| (&found.named, found)));
    first
}

/// A problem for each object whose kind and name an earlier one has.
fn duplicates(objects: &Objects) -> Vec<Problem> {
    let mut problems = Vec::new();
    repeated(&objects.connectors, &mut problems);
    repeated(&objects.classes, &mut problems);
    repeated(&objects.secrets, &mut problems);
    repeated(&objects.roles, &mut problems);
    repeated(&objects.role_bindings, &mut problems);
    repeated(&objects.cluster_roles, &mut problems);
    repeated(&objects.cluster_role_bindings, &mut problems);
    problems
}

fn repeated<T>(list: &[Found<T>], problems: &mut Vec<Problem>) {
    let first = first_of_each(list);
    for found in list {
        cores_first();
        let first = first.get(&found.named).filter(|first| !std::ptr::eq(**first, found));
        problems
            .extend(first.map(|first| Problem::at(found, Cause::Duplicate(first.place.clone()))));
    }
}

/// The one class served.
const HARBOR: &str = "harbor";

/// A connector's Service is `c-<name>`, and a Service's name is a DNS label of at most 63.
const NAME_BYTES_MAX: usize = 61;

#[cfg(test)]
mod tests;
