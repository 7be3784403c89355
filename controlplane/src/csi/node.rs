//! The calls by which a kubelet has volumes made and ended on this node.
//!
//! A call in, a volume or a refusal out. Calls for one target follow each other, and each runs to
//! its end even when the kubelet stops waiting. A call that repeats what is already there writes
//! nothing and asks nobody. No request is logged: it holds tokens.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ring::digest;
use tokio::sync::{Mutex as Lock, OwnedMutexGuard};
use tonic::{Request, Response, Status, async_trait};
use zeroize::Zeroize as _;

use super::attributes::Asked;
use super::connectors::Connectors;
use super::facts::{Direct, Facts};
use super::refusal::{Quoted, Refusal};
use super::render::render;
use super::target::Target;
use super::tokens;
use super::trust::Authority;
use super::volume::{self, Readers, Storage};
use super::wire::csi::node_server::Node;
use super::wire::csi::node_service_capability::{Rpc, Type, rpc};
use super::wire::csi::volume_capability::AccessType;
use super::wire::csi::{
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
    NodeServiceCapability, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    VolumeCapability,
};

/// What the volumes of this node are made with.
pub struct Workshop {
    /// The node's name.
    pub node_id: String,
    /// The kubelet's folder.
    pub kubelet: PathBuf,
    /// What holds the files.
    pub storage: Storage,
    /// The audience of the tokens.
    pub audience: String,
    /// What is reached without the forward proxy.
    pub direct: Direct,
    /// The certificates.
    pub authority: Authority,
    /// The connectors.
    pub connectors: Connectors,
    /// What is known about each target.
    pub shelf: Shelf,
}

/// The calls, answered.
#[derive(Clone)]
pub struct Service(Arc<Workshop>);

impl Service {
    /// A service over this workshop.
    pub fn new(workshop: Workshop) -> Self {
        Self(Arc::new(workshop))
    }
}

#[async_trait]
impl Node for Service {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let workshop = Arc::clone(&self.0);
        let call = Call(request.into_inner());
        to_its_end(async move { workshop.publish(call).await }).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let workshop = Arc::clone(&self.0);
        let request = request.into_inner();
        to_its_end(async move { workshop.unpublish(request).await }).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let group = Rpc { r#type: rpc::Type::VolumeMountGroup.into() };
        let capabilities = vec![NodeServiceCapability { r#type: Some(Type::Rpc(group)) }];
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse { node_id: self.0.node_id.clone() }))
    }
}

/// Runs a call on a task of its own: tonic drops a call's future when the kubelet gives up, and a
/// volume that is half made must not be met by the next call.
async fn to_its_end<F>(call: F) -> Result<(), Status>
where
    F: Future<Output = Result<(), Refusal>> + Send + 'static,
{
    match tokio::spawn(call).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Err(Status::internal("a defect ended the call; it is in the log")),
    }
}

/// A request whose tokens are wiped at its end.
struct Call(NodePublishVolumeRequest);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.secrets.values_mut().for_each(String::zeroize);
        if let Some(tokens) = self.0.volume_context.get_mut(tokens::TOKENS) {
            tokens.zeroize();
        }
    }
}

impl Workshop {
    async fn publish(self: Arc<Self>, call: Call) -> Result<(), Refusal> {
        let path = call.0.target_path.clone();
        let place = self.shelf.take(&path).await;
        let worker = Arc::clone(&self);
        let made = blocking(move || worker.make(&call.0, place)).await;
        self.shelf.tidy(&path);
        if let Err(refusal) = &made {
            tracing::warn!(target = path, code = ?refusal.code(), "refused: {refusal}");
        }
        made
    }

    /// Makes the volume, or finds it made.
    fn make(&self, request: &NodePublishVolumeRequest, mut place: Place) -> Result<(), Refusal> {
        let readers = check(request)?;
        let asked = Asked::read(&request.volume_context)?;
        let token = tokens::find(
            &request.secrets,
            &request.volume_context,
            &self.audience,
            SystemTime::now(),
        )?;
        let target = Target::open(&self.kubelet, &request.target_path, Some(&asked.pod.uid))?;
        let target = target.ok_or_else(|| {
            let path = Quoted::new(&request.target_path);
            Refusal::Target(path, "the folder it lies in is not there")
        })?;
        let trust = self.authority.now()?;
        let print = print(&[
            &self.connectors.generation().to_le_bytes(),
            trust.own.as_deref().unwrap_or_default().as_bytes(),
            token.text.as_bytes(),
            format!("{asked:?} {readers:?}").as_bytes(),
        ]);
        let published = volume::is_published(&target, self.storage);
        let same = published && place.as_ref().is_some_and(|made| made.print == print);
        if same && place.as_ref().is_some_and(|made| made.at.elapsed() < CONNECTORS_AGE_MAX) {
            return Ok(());
        }
        // A Pod that runs already is better off with a short token than with an expired one.
        if !published {
            token.lives(asked.expiration)?;
        }
        let granted = match self.connectors.look_up(&asked, &token.text) {
            // A volume that is as it was asked for needs nobody; the next repetition asks again.
            Err(Refusal::Source(why)) if same => {
                tracing::warn!(target = request.target_path, "not looked at again: {why}");
                return Ok(());
            }
            answered => answered?,
        };
        let files = render(
            &asked,
            &Facts {
                connectors: &granted.connectors,
                classes: &granted.classes,
                token: &token.text,
                trust: &trust,
                direct: &self.direct,
            },
        )?;
        let written = volume::publish(&target, self.storage, &files, readers)?;
        *place = Some(Made { print, at: Instant::now() });
        tell(&asked, !published, written);
        Ok(())
    }

    async fn unpublish(
        self: Arc<Self>,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<(), Refusal> {
        let path = request.target_path;
        let mut place = self.shelf.take(&path).await;
        let worker = Arc::clone(&self);
        let (volume_id, asked_path) = (request.volume_id, path.clone());
        let ended = blocking(move || {
            if volume_id.is_empty() {
                return Err(Refusal::FieldMissing("volume_id"));
            }
            if asked_path.is_empty() {
                return Err(Refusal::FieldMissing("target_path"));
            }
            // What is not there has ended already (CSI specification, NodeUnpublishVolume).
            if let Some(target) = Target::open(&worker.kubelet, &asked_path, None)? {
                volume::unpublish(&target)?;
            }
            *place = None;
            Ok(())
        })
        .await;
        self.shelf.tidy(&path);
        match &ended {
            Ok(()) => tracing::info!(target = path, "unpublished"),
            Err(refusal) => tracing::warn!(target = path, "not unpublished: {refusal}"),
        }
        ended
    }
}

/// The line in the log about a volume that was made or looked at again.
fn tell(asked: &Asked, first: bool, written: bool) {
    let pod = format!("{}/{}", asked.pod.namespace, asked.pod.name);
    let connectors: Vec<&str> = asked.connectors.iter().map(|one| one.as_str()).collect();
    tracing::info!(pod, connectors = connectors.join(","), first, written, "published");
}

/// Runs work that waits for files.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|cause| {
        Err(Refusal::Io("finish the call", std::io::Error::other(cause.to_string())))
    })
}

/// What the kubelet must say about every volume; who may read it.
fn check(request: &NodePublishVolumeRequest) -> Result<Readers, Refusal> {
    if request.volume_id.is_empty() {
        return Err(Refusal::FieldMissing("volume_id"));
    }
    if request.target_path.is_empty() {
        return Err(Refusal::FieldMissing("target_path"));
    }
    if !request.readonly {
        return Err(Refusal::Kind(
            "write readOnly: true in the volume: its files are not for writing",
        ));
    }
    let group = match &request.volume_capability {
        Some(VolumeCapability { access_type: Some(AccessType::Mount(mount)) }) => {
            &mount.volume_mount_group
        }
        Some(VolumeCapability { access_type: Some(AccessType::Block(_)) }) => {
            return Err(Refusal::Kind("a block device cannot be had: only folders are served"));
        }
        _ => return Err(Refusal::FieldMissing("volume_capability")),
    };
    if group.is_empty() {
        return Ok(Readers::All);
    }
    group.parse().map(Readers::Group).map_err(|_| Refusal::Kind("fsGroup is no group number"))
}

/// What was made at a target.
struct Made {
    print: [u8; digest::SHA256_OUTPUT_LEN],
    at: Instant,
}

/// A target, held: nobody else works there meanwhile.
type Place = OwnedMutexGuard<Option<Made>>;

/// The targets that are worked at or known.
#[derive(Default)]
pub struct Shelf(Mutex<HashMap<String, Arc<Lock<Option<Made>>>>>);

impl Shelf {
    /// Waits for whoever works at `path`.
    async fn take(&self, path: &str) -> Place {
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(path.to_owned()).or_default())
        };
        place.lock_owned().await
    }

    /// Forgets `path` if nothing was made there and nobody waits for it.
    fn tidy(&self, path: &str) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = places.get(path).is_some_and(|place| {
            Arc::strong_count(place) == 1 && place.try_lock().is_ok_and(|made| made.is_none())
        });
        if idle {
            places.remove(path);
        }
    }
}

/// By what a call is recognised as a repetition. The token itself is not kept.
fn print(parts: &[&[u8]]) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut sum = digest::Context::new(&digest::SHA256);
    for part in parts {
        sum.update(&(part.len() as u64).to_le_bytes());
        sum.update(part);
    }
    let mut print = [0; digest::SHA256_OUTPUT_LEN];
    print.copy_from_slice(sum.finish().as_ref());
    print
}

/// How long an unchanged volume is believed to be right without looking at its connectors again.
/// The kubelet repeats itself about every minute; a changed proxy address is this late at most.
const CONNECTORS_AGE_MAX: Duration = Duration::from_secs(10 * 60);
