//! Roles and bindings, evaluated for `get` on connectors.
//!
//! [`Objects`] in, [`Rights`] out. Only what grants that one verb on that one resource is kept;
//! every other rule is none of our business.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dataplane::vocabulary::ConnectorRef;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};

use crate::compile::{Cause, Problem};
use crate::crd::GROUP;
use crate::source::{Found, Named, Objects};

/// Who may get which connectors.
#[derive(Debug, Default)]
pub(super) struct Rights {
    everywhere: Vec<Grant>,
    in_namespace: HashMap<Arc<str>, Vec<Grant>>,
}

/// One binding: these subjects may get these connectors.
#[derive(Debug)]
struct Grant {
    users: HashSet<String>,
    groups: HashSet<String>,
    names: Names,
}

/// The connectors of a role.
#[derive(Clone, Debug)]
enum Names {
    All,
    Some(HashSet<String>),
}

impl Rights {
    /// The rights that the objects grant.
    pub(super) fn new(objects: &Objects, problems: &mut Vec<Problem>) -> Self {
        let mut roles: HashMap<Named, Option<Names>> = HashMap::new();
        for found in &objects.roles {
            let names = names(found.object.rules.as_deref());
            roles.entry(found.named.clone()).or_insert(names);
        }
        for found in &objects.cluster_roles {
            let names = names(found.object.rules.as_deref());
            roles.entry(found.named.clone()).or_insert(names);
            if found.object.aggregation_rule.is_some() {
                problems.push(Problem::at(found, Cause::Aggregation));
            }
        }
        let mut rights = Self::default();
        for found in &objects.role_bindings {
            let subjects = found.object.subjects.as_deref();
            let grant = grant(&roles, found, &found.object.role_ref, subjects, problems);
            let place = rights.in_namespace.entry(Arc::clone(&found.named.namespace)).or_default();
            place.extend(grant);
        }
        for found in &objects.cluster_role_bindings {
            let subjects = found.object.subjects.as_deref();
            let grant = grant(&roles, found, &found.object.role_ref, subjects, problems);
            rights.everywhere.extend(grant);
        }
        rights
    }

    /// Whether this user, or a member of these groups, may get the connector.
    pub(super) fn allow(&self, user: &str, groups: &[String], connector: &ConnectorRef) -> bool {
        let here = self.in_namespace.get(connector.namespace()).map_or(&[][..], Vec::as_slice);
        self.everywhere.iter().chain(here).any(|grant| {
            grant.names.contain(connector.name())
                && (grant.users.contains(user)
                    || groups.iter().any(|group| grant.groups.contains(group)))
        })
    }
}

impl Names {
    fn contain(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(name),
        }
    }
}

/// What a binding grants, if its role exists and says anything about connectors.
fn grant<T>(
    roles: &HashMap<Named, Option<Names>>,
    binding: &Found<T>,
    reference: &RoleRef,
    subjects: Option<&[Subject]>,
    problems: &mut Vec<Problem>,
) -> Option<Grant> {
    let own = &binding.named.namespace;
    let (kind, namespace) = match reference.kind.as_str() {
        "Role" if !own.is_empty() => ("Role", Arc::clone(own)),
        "ClusterRole" => ("ClusterRole", Arc::from("")),
        other => {
            problems.push(Problem::at(binding, Cause::RoleKind(other.to_owned())));
            return None;
        }
    };
    let role = Named { kind, namespace, name: reference.name.as_str().into() };
    let Some(names) = roles.get(&role) else {
        problems.push(Problem::at(binding, Cause::RoleNotFound(role)));
        return None;
    };
    let mut grant = Grant { users: HashSet::new(), groups: HashSet::new(), names: names.clone()? };
    for subject in subjects.unwrap_or_default() {
        let name = subject.name.clone();
        let _ = match subject.kind.as_str() {
            "User" => grant.users.insert(name),
            "Group" => grant.groups.insert(name),
            "ServiceAccount" => {
                let written = subject.namespace.as_deref().filter(|written| !written.is_empty());
                let namespace = written.unwrap_or(own);
                grant.users.insert(format!("system:serviceaccount:{namespace}:{name}"))
            }
            _ => false,
        };
    }
    Some(grant)
}

/// The connectors that rules let someone get; `None` if none at all.
fn names(rules: Option<&[PolicyRule]>) -> Option<Names> {
    let mut some = HashSet::new();
    for rule in rules.unwrap_or_default().iter().filter(|rule| speaks_of_get(rule)) {
        match rule.resource_names.as_deref() {
            None | Some([]) => return Some(Names::All),
            Some(names) => some.extend(names.iter().cloned()),
        }
    }
    (!some.is_empty()).then_some(Names::Some(some))
}

/// Whether a rule is about `get` on our connectors. `connectors/proxy` and other subresources are
/// other resources (Kubernetes RBAC, "Referring to resources").
fn speaks_of_get(rule: &PolicyRule) -> bool {
    let any = |list: Option<&[String]>, word: &str| {
        list.unwrap_or_default().iter().any(|entry| entry == "*" || entry == word)
    };
    any(rule.api_groups.as_deref(), GROUP)
        && any(rule.resources.as_deref(), "connectors")
        && any(Some(&rule.verbs), "get")
}
