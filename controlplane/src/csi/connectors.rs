//! Where connectors come from, and whether the Pod may use them.
//!
//! What a Pod asks for and its token in, facts out, or why not. From a folder both answers come
//! from the same manifests as the proxy's, from a cluster see [`Cluster`]. A connector of another
//! namespace that may not be used is answered like one that is not there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dataplane::vocabulary::{ConnectorRef, Token, Verdict};

use super::attributes::{Asked, Pod};
use super::cluster::Cluster;
use super::facts::{ClassFacts, ConnectorFacts};
use super::refusal::{Quoted, Refusal};
use crate::crd;
use crate::review::file::Table;
use crate::source::Objects;
use crate::source::file::{self, Folder, Seen, Texts};
use crate::source::manifest::Unreadable;

/// A source of connectors.
pub enum Connectors {
    /// The manifests of a folder.
    Folder(Arc<Manifests>),
    /// A cluster.
    Cluster(Cluster),
}

/// The connectors that a Pod asked for, and may use.
pub struct Granted {
    /// In the order asked for.
    pub connectors: Vec<ConnectorFacts>,
    /// Their classes.
    pub classes: Vec<Arc<ClassFacts>>,
}

impl Connectors {
    /// A number that changes when answers may have changed.
    pub fn generation(&self) -> u64 {
        match self {
            Self::Folder(manifests) => manifests.generation.load(Ordering::Acquire),
            // Nothing tells: an unchanged volume is looked at again after a while.
            Self::Cluster(_) => 0,
        }
    }

    /// The connectors, if the Pod whose token this is may use each of them. May wait, and must not
    /// be called on a thread that runs tasks.
    pub fn look_up(&self, asked: &Asked, token: &str) -> Result<Granted, Refusal> {
        match self {
            Self::Folder(manifests) => manifests.look_up(asked, token),
            Self::Cluster(cluster) => cluster.look_up(asked),
        }
    }
}

/// The folder's last good state.
pub struct Manifests {
    now: ArcSwap<View>,
    generation: AtomicU64,
    cluster_domain: String,
}

/// What of the manifests concerns volumes. The Secrets with registries' credentials are not kept.
#[derive(Default)]
struct View {
    connectors: HashMap<ConnectorRef, crd::Connector>,
    classes: HashMap<String, crd::ConnectorClass>,
    table: Table,
}

impl Manifests {
    /// Reads the folder, and follows its changes on a thread of its own. Fails with what is wrong
    /// if it cannot be read now; later, the last good state holds.
    pub fn follow(folder: Folder, cluster_domain: &str) -> Result<Arc<Self>, Vec<Unreadable>> {
        let texts = folder.texts().map_err(|cause| vec![cause])?;
        let manifests = Arc::new(Self {
            now: ArcSwap::from_pointee(View::new(texts.objects()?)),
            generation: AtomicU64::new(1),
            cluster_domain: cluster_domain.to_owned(),
        });
        let seen = Seen::of(Ok(&texts));
        let followed = Arc::clone(&manifests);
        let watch = move || file::watch(&folder, seen, move |change| followed.take(change));
        if let Err(cause) = std::thread::Builder::new().name("source".to_owned()).spawn(watch) {
            tracing::warn!(%cause, "the folder cannot be followed: it is as it was at the start");
        }
        Ok(manifests)
    }

    fn take(&self, change: Result<Texts, Unreadable>) {
        let objects = change.map_err(|cause| vec![cause]).and_then(|texts| texts.objects());
        match objects {
            Ok(objects) => {
                self.now.store(Arc::new(View::new(objects)));
                let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
                tracing::info!(generation, "the folder's new state holds");
            }
            Err(reasons) => {
                for reason in reasons {
                    tracing::error!("{reason}");
                }
                tracing::error!("the last good state stays in force until this is mended");
            }
        }
    }

    fn look_up(&self, asked: &Asked, token: &str) -> Result<Granted, Refusal> {
        let view = self.now.load();
        let token = Token::new(token.as_bytes().to_vec());
        let mut granted = Granted { connectors: Vec::new(), classes: Vec::new() };
        for reference in &asked.connectors {
            let connector = view.connectors.get(reference);
            if connector.is_none() && reference.namespace() == asked.pod.namespace {
                return Err(not_found(reference, &asked.pod));
            }
            match view.table.verdict(&token, Some(reference)) {
                Verdict::Allowed(_) => {}
                Verdict::Unauthenticated => return Err(Refusal::TokenUnknown),
                _ => return Err(forbidden(reference, &asked.pod, GET)),
            }
            let connector = connector.ok_or_else(|| not_found(reference, &asked.pod))?;
            self.grant(reference, connector, &view, &mut granted)?;
        }
        Ok(granted)
    }

    fn grant(
        &self,
        reference: &ConnectorRef,
        connector: &crd::Connector,
        view: &View,
        granted: &mut Granted,
    ) -> Result<(), Refusal> {
        let name = connector.spec.connector_class_name.as_deref().unwrap_or_default();
        let class = view.classes.get(name);
        add_class(reference, name, class, granted)?;
        let path = class.is_some_and(|class| {
            let annotations = class.metadata.annotations.as_ref();
            annotations.and_then(|notes| notes.get(RESOLVER)).is_some_and(|form| form == "path")
        });
        let fallback = Some(service_url(reference, &self.cluster_domain, path));
        granted.connectors.push(ConnectorFacts::new(reference.clone(), connector, fallback)?);
        Ok(())
    }
}

impl View {
    fn new(mut objects: Objects) -> Self {
        let mut problems = Vec::new();
        let reference =
            |found: &crate::source::Named| ConnectorRef::new(&found.namespace, &found.name);
        let known: Vec<_> =
            objects.connectors.iter().map(|found| reference(&found.named)).collect();
        let table = Table::new(&objects, known, &mut problems);
        for problem in problems {
            tracing::warn!("{problem}");
        }
        let mut view = Self { table, ..Self::default() };
        for found in objects.connectors.drain(..) {
            view.connectors.entry(reference(&found.named)).or_insert(*found.object);
        }
        for found in objects.classes.drain(..) {
            view.classes.entry(found.named.name.to_string()).or_insert(*found.object);
        }
        view
    }
}

/// Adds the connector's class, once. The class `harbor` need not be there: it is built in.
pub(super) fn add_class(
    reference: &ConnectorRef,
    name: &str,
    class: Option<&crd::ConnectorClass>,
    granted: &mut Granted,
) -> Result<(), Refusal> {
    if class.is_none() && name != HARBOR {
        return Err(Refusal::ClassNotFound {
            connector: reference.as_str().to_owned(),
            class: Quoted::new(name),
        });
    }
    if !granted.classes.iter().any(|known| known.name == name) {
        granted.classes.push(Arc::new(ClassFacts::new(name, class)));
    }
    Ok(())
}

/// A connector that is not there, named as it was asked for.
pub(super) fn not_found(reference: &ConnectorRef, pod: &Pod) -> Refusal {
    let own = reference.namespace() == pod.namespace;
    let name = if own { reference.name() } else { reference.as_str() };
    Refusal::ConnectorNotFound(name.to_owned())
}

/// A connector that the Pod's account may not use, and what would let it.
pub(super) fn forbidden(reference: &ConnectorRef, pod: &Pod, right: &str) -> Refusal {
    Refusal::Forbidden {
        account: format!("{}/{}", pod.namespace, pod.account),
        connector: reference.as_str().to_owned(),
        right: right.to_owned(),
        namespace: reference.namespace().to_owned(),
    }
}

/// The address that a controller would give to a connector (`status.proxy.httpAddress.url`).
fn service_url(reference: &ConnectorRef, domain: &str, path: bool) -> String {
    let (namespace, name) = (reference.namespace(), reference.name());
    let host = format!("http://c-{name}.{namespace}.svc.{domain}");
    if path { format!("{host}/namespaces/{namespace}/connectors/{name}") } else { host }
}

/// The right to use a connector.
pub(super) const GET: &str = "get on connectors.connectors.alauda.io";

/// The right to use a connector where `--require-proxy-right` stands.
pub(super) const PROXY: &str = "* on connectors.connectors.alauda.io/proxy";

/// The class of this program.
const HARBOR: &str = "harbor";

/// How a class says that its addresses have a path.
const RESOLVER: &str = "connectors.cpaas.io/proxy-resolver";
