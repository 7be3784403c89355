//! What a source yields: a whole set of objects, again and again, each with the place it stands in.
//!
//! Typed objects out, whatever the source; `compile` and `review` give them their meaning. Nothing
//! here decides whether an object is any good. Secret bytes are wiped when an object is dropped.

pub mod file;
pub mod kube;
pub mod manifest;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use dataplane::courtesy::let_go;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use zeroize::Zeroizing;

use crate::crd::{Connector, ConnectorClass};

/// Everything a source knows at one moment.
#[derive(Debug, Default)]
pub struct Objects {
    /// Connectors.
    pub connectors: Vec<Found<Connector>>,
    /// Connector classes.
    pub classes: Vec<Found<ConnectorClass>>,
    /// Secrets of all types.
    pub secrets: Vec<Found<SecretObject>>,
    /// Roles.
    pub roles: Vec<Found<Role>>,
    /// Their bindings.
    pub role_bindings: Vec<Found<RoleBinding>>,
    /// Cluster roles.
    pub cluster_roles: Vec<Found<ClusterRole>>,
    /// Their bindings.
    pub cluster_role_bindings: Vec<Found<ClusterRoleBinding>>,
}

impl Drop for Objects {
    fn drop(&mut self) {
        let_go(self.connectors.drain(..));
        let_go(self.secrets.drain(..));
    }
}

/// An object and the place it was found in.
#[derive(Debug)]
pub struct Found<T> {
    /// Where it stands.
    pub place: Place,
    /// Its namespace (`default` where none is written) and name; see [`Named`].
    pub named: Named,
    /// The fields of its `spec` that the schema does not know.
    pub unknown_fields: Vec<String>,
    /// The object; apart, because a list that grows moves what it holds.
    pub object: Box<T>,
}

/// Which object: kind, namespace and name, for problems and look-ups.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Named {
    /// The kind, such as `Connector`.
    pub kind: &'static str,
    /// The namespace; empty for a kind that has none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Where an object stands: a file, and which of the file's documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name within the folder, or another word for the source.
    pub file: Arc<str>,
    /// The document, from 1, or 0 where the source has none; those that hold nothing do not count.
    pub document: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.document {
            0 => f.write_str(&self.file),
            document => write!(f, "{}, document {document}", self.file),
        }
    }
}

/// A Secret with its values decoded. It cannot be printed with them.
pub struct SecretObject {
    /// Name, namespace, annotations.
    pub metadata: ObjectMeta,
    /// Its type, such as `kubernetes.io/basic-auth`.
    pub secret_type: String,
    /// The decoded values.
    pub values: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// Why it could not be decoded; there are no values then.
    pub defect: Option<&'static str>,
}

impl fmt::Debug for SecretObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretObject").field("type", &self.secret_type).finish_non_exhaustive()
    }
}
