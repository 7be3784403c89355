//! A scripted kubelet and the driver it calls: the real program on a Unix socket of its own.
//!
//! Volumes in, calls over gRPC out, in the order and with the repetitions of a real kubelet (1.36:
//! plugins_registry first, then capabilities and NodePublishVolume for every mount, again every
//! minute or so, twice within a second now and then). What the driver prints is searched for every
//! token it was given.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::proxy::PROGRAM;
use super::{Manifests, PATIENCE, TOKEN, eventually, leak, within};

/// The kubelet's side of the messages, made by the build from the same files as the driver's.
#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated; documented by the specification"
)]
mod wire {
    pub(crate) mod csi {
        tonic::include_proto!("kubelet/csi.v1");
    }
    pub(crate) mod registration {
        tonic::include_proto!("kubelet/pluginregistration");
    }
}

use wire::csi::identity_client::IdentityClient;
use wire::csi::node_client::NodeClient;
use wire::csi::volume_capability::{AccessType, BlockVolume, MountVolume};
use wire::csi::{
    GetPluginInfoRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest, ProbeRequest, VolumeCapability,
};
use wire::registration::registration_client::RegistrationClient;
use wire::registration::{InfoRequest, PluginInfo, RegistrationStatus};

/// A running driver with its kubelet's folder.
pub(crate) struct Driver {
    child: Option<Child>,
    scratch: TempDir,
    flags: Vec<String>,
    /// The kubeconfig, where connectors come from a cluster.
    cluster: Option<PathBuf>,
    /// Tokens that were handed over besides the marked ones.
    pub(crate) tokens: Vec<String>,
}

impl Driver {
    /// A driver on `manifests` that makes plain folders, with more `flags`.
    pub(crate) fn start(manifests: &Manifests, flags: &[&str]) -> Self {
        let scratch = TempDir::new().expect("a temporary folder");
        for folder in ["manifests", "kubelet/pods", "kubelet/plugins_registry"] {
            fs::create_dir_all(scratch.path().join(folder)).expect("a folder");
        }
        for (name, text) in manifests.files() {
            fs::write(scratch.path().join("manifests").join(name), text).expect("a manifest");
        }
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut driver = Self { child: None, scratch, flags, cluster: None, tokens: Vec::new() };
        driver.restart();
        driver
    }

    /// A driver in the cluster that `kubeconfig` leads to, with more `flags`.
    pub(crate) fn in_cluster(kubeconfig: &str, flags: &[&str]) -> Self {
        let scratch = TempDir::new().expect("a temporary folder");
        fs::create_dir_all(scratch.path().join("kubelet/pods")).expect("a folder");
        let file = scratch.path().join("kubeconfig");
        fs::write(&file, kubeconfig).expect("a file");
        let cluster = Some(file);
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut driver = Self { child: None, scratch, flags, cluster, tokens: Vec::new() };
        driver.restart();
        driver
    }

    /// Starts the program again, after its end.
    pub(crate) fn restart(&mut self) {
        let at = |name: &str| self.scratch.path().join(name);
        let append =
            |name: &str| File::options().create(true).append(true).open(at(name)).expect("a file");
        let _ = fs::remove_file(at("stdout"));
        let mut command = Command::new(PROGRAM);
        command.args(["csi", "--node-id", "node-1", "--kubelet-dir"]).arg(self.kubelet_folder());
        if !self.flags.iter().any(|flag| flag == "--volumes") {
            command.args(["--volumes", "folder"]);
        }
        match &self.cluster {
            Some(kubeconfig) => command.env("KUBECONFIG", kubeconfig),
            None => command.arg("--file").arg(at("manifests")),
        };
        command.arg("--endpoint").arg(format!("unix://{}", self.socket().display()));
        command.args(&self.flags);
        command.stdin(Stdio::null()).stdout(append("stdout")).stderr(append("stderr"));
        self.child = Some(command.spawn().expect("the program starts"));
        eventually("the driver's line of JSON", || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child"));
            assert!(ended.is_none(), "the driver ended: {ended:?}\n{}", self.log());
            self.output("stdout").contains('\n').then_some(())
        });
    }

    /// The socket of the driver.
    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.path().join("csi/csi.sock")
    }

    /// The kubelet's folder.
    pub(crate) fn kubelet_folder(&self) -> PathBuf {
        self.scratch.path().join("kubelet")
    }

    /// The folder of manifests.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.scratch.path().join("manifests")
    }

    /// A place for a story's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A kubelet that calls it.
    pub(crate) fn kubelet(&self) -> Kubelet {
        Kubelet::connect(&self.socket(), &self.kubelet_folder())
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.output("stderr")
    }

    fn output(&self, name: &str) -> String {
        let bytes = fs::read(self.scratch.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().map(Child::id).and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        within(PATIENCE, "the driver's end", || child.try_wait().expect("a child"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- the driver's log\n{}---", &log[log.len().saturating_sub(20_000)..]);
            return;
        }
        let mut secrets = leak::everything();
        secrets.extend(self.tokens.iter().map(String::as_str));
        for name in ["stdout", "stderr"] {
            leak::assert_absent(&secrets, self.output(name).as_bytes(), name);
        }
        assert!(!self.log().contains("panic"), "a panic:\n{}", self.log());
    }
}

/// One volume of a Pod, as its spec says.
#[derive(Clone)]
pub(crate) struct Volume {
    /// The Pod's uid.
    pub(crate) uid: String,
    /// The Pod's namespace.
    pub(crate) namespace: String,
    /// The Pod's ServiceAccount.
    pub(crate) account: &'static str,
    /// The Pod's token.
    pub(crate) token: String,
    /// Whether the token comes among the secrets (`serviceAccountTokenInSecrets`).
    pub(crate) in_secrets: bool,
    /// `readOnly`.
    pub(crate) read_only: bool,
    /// Whether a block device is asked for.
    pub(crate) block: bool,
    /// The Pod's fsGroup, or nothing.
    pub(crate) group: String,
    /// `volumeAttributes`, and what the kubelet adds; a later one wins.
    pub(crate) attributes: Vec<(String, String)>,
    /// The target path, where it is not the usual one.
    pub(crate) target: Option<String>,
}

impl Volume {
    /// A volume of the Pod `uid` of `ci/builder`, with these attributes.
    pub(crate) fn of(uid: &str, attributes: &[(&str, &str)]) -> Self {
        let attributes = attributes.iter();
        Self {
            uid: uid.to_owned(),
            namespace: "ci".to_owned(),
            account: "builder",
            token: TOKEN.to_owned(),
            in_secrets: true,
            read_only: true,
            block: false,
            group: String::new(),
            attributes: attributes.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            target: None,
        }
    }

    /// The same with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// The folder the Pod sees, below the kubelet's.
    pub(crate) fn path(&self, kubelet: &Path) -> PathBuf {
        self.target.as_ref().map_or_else(
            || kubelet.join(format!("pods/{}/volumes/kubernetes.io~csi/proxy/mount", self.uid)),
            PathBuf::from,
        )
    }

    fn request(&self, kubelet: &Path) -> NodePublishVolumeRequest {
        let expires = "2100-01-01T00:00:00Z";
        let tokens = serde_json::json!({
            "connectors-proxy": {"token": self.token, "expirationTimestamp": expires}
        });
        let tokens = (TOKENS.to_owned(), tokens.to_string());
        let of_pod = [
            ("csi.storage.k8s.io/pod.name", "job"),
            ("csi.storage.k8s.io/pod.namespace", &self.namespace),
            ("csi.storage.k8s.io/pod.uid", &self.uid),
            ("csi.storage.k8s.io/serviceAccount.name", self.account),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ];
        let of_pod = of_pod.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut volume_context: HashMap<_, _> =
            of_pod.chain(self.attributes.iter().cloned()).collect();
        let mut secrets = HashMap::new();
        if self.token.is_empty() {
            // A CSIDriver without tokenRequests.
        } else if self.in_secrets {
            secrets.extend([tokens]);
        } else {
            volume_context.extend([tokens]);
        }
        let mount = MountVolume { fs_type: String::new(), volume_mount_group: self.group.clone() };
        let access_type =
            if self.block { AccessType::Block(BlockVolume {}) } else { AccessType::Mount(mount) };
        NodePublishVolumeRequest {
            volume_id: format!("csi-{}", self.uid),
            target_path: self.path(kubelet).display().to_string(),
            volume_capability: Some(VolumeCapability { access_type: Some(access_type) }),
            readonly: self.read_only,
            secrets,
            volume_context,
        }
    }
}

/// A kubelet that has found the driver.
pub(crate) struct Kubelet {
    runtime: Runtime,
    channel: Channel,
    folder: PathBuf,
}

impl Kubelet {
    /// Connects, and asks what a kubelet asks first.
    fn connect(socket: &Path, folder: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).expect("a path");
        let channel = runtime.block_on(endpoint.connect()).expect("the driver answers");
        let kubelet = Self { runtime, channel, folder: folder.to_owned() };
        kubelet.greet();
        kubelet
    }

    fn greet(&self) {
        self.runtime.block_on(async {
            let mut identity = IdentityClient::new(self.channel.clone());
            let about = identity.get_plugin_info(GetPluginInfoRequest {}).await.expect("an answer");
            assert_eq!(about.into_inner().name, "connectors-csi");
            let ready = identity.probe(ProbeRequest {}).await.expect("an answer");
            assert_eq!(ready.into_inner().ready, Some(true));
            let mut node = NodeClient::new(self.channel.clone());
            let about = node.node_get_info(NodeGetInfoRequest {}).await.expect("an answer");
            assert_eq!(about.into_inner().node_id, "node-1");
        });
    }

    /// One publish, as for a mount and for every repetition of it.
    pub(crate) fn publish(&self, volume: &Volume) -> Result<(), Status> {
        self.runtime.block_on(publish(self.channel.clone(), self.folder.clone(), volume.clone()))
    }

    /// One unpublish; afterwards the kubelet removes the volume's folder.
    pub(crate) fn unpublish(&self, volume: &Volume) -> Result<(), Status> {
        self.runtime.block_on(unpublish(self.channel.clone(), self.folder.clone(), volume.clone()))
    }

    /// All of these at one time.
    pub(crate) fn publish_all(&self, volumes: &[Volume]) -> Vec<Result<(), Status>> {
        let calls = volumes.iter().map(|volume| {
            let call = publish(self.channel.clone(), self.folder.clone(), volume.clone());
            self.runtime.spawn(call)
        });
        let calls: Vec<_> = calls.collect();
        calls.into_iter().map(|call| self.runtime.block_on(call).expect("no panic")).collect()
    }

    /// Publishes and unpublishes of one volume, all at one time, half of them each.
    pub(crate) fn race(&self, volume: &Volume, calls: usize) -> Vec<Result<(), Status>> {
        let calls = (0..calls).map(|number| {
            let (channel, folder) = (self.channel.clone(), self.folder.clone());
            let volume = volume.clone();
            self.runtime.spawn(async move {
                if number % 2 == 0 {
                    publish(channel, folder, volume).await
                } else {
                    unpublish(channel, folder, volume).await
                }
            })
        });
        let calls: Vec<_> = calls.collect();
        calls.into_iter().map(|call| self.runtime.block_on(call).expect("no panic")).collect()
    }
}

async fn publish(channel: Channel, folder: PathBuf, volume: Volume) -> Result<(), Status> {
    let path = volume.path(&folder);
    // The kubelet makes the folder that the target lies in, not the target.
    if volume.target.is_none() {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    }
    let mut node = NodeClient::new(channel);
    let able = node.node_get_capabilities(NodeGetCapabilitiesRequest {}).await?;
    assert_eq!(able.into_inner().capabilities.len(), 1, "VOLUME_MOUNT_GROUP");
    node.node_publish_volume(volume.request(&folder)).await.map(drop)
}

async fn unpublish(channel: Channel, folder: PathBuf, volume: Volume) -> Result<(), Status> {
    let mut node = NodeClient::new(channel);
    let request = NodeUnpublishVolumeRequest {
        volume_id: format!("csi-{}", volume.uid),
        target_path: volume.path(&folder).display().to_string(),
    };
    node.node_unpublish_volume(request).await.map(drop)
}

/// Registers the driver behind the socket in the kubelet's folder of plugins; what it says of
/// itself.
pub(crate) fn register(driver: &Driver, accepted: bool) -> PluginInfo {
    let folder = driver.kubelet_folder().join("plugins_registry");
    let socket = folder.join("connectors-csi-reg.sock");
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).expect("a path");
        let channel = endpoint.connect().await.expect("the driver answers");
        let mut plugin = RegistrationClient::new(channel);
        let about = plugin.get_info(InfoRequest {}).await.expect("an answer").into_inner();
        let error = if accepted { "" } else { "another driver has this name" };
        let status = RegistrationStatus { plugin_registered: accepted, error: error.to_owned() };
        plugin.notify_registration_status(status).await.expect("an answer");
        about
    })
}

/// A call's outcome in one line: its code and message.
pub(crate) fn outcome(ended: &Result<(), Status>) -> String {
    match ended {
        Ok(()) => "OK".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// Whether a call ended because its driver did.
pub(crate) fn is_cut_off(ended: &Result<(), Status>) -> bool {
    ended.as_ref().is_err_and(|status| {
        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
    })
}

/// Where tokens are.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Between two calls of a kubelet that repeats itself, shortened.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);
