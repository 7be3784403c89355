//! The driver makes itself known: it answers the kubelet's questions on a socket in the folder
//! where the kubelet looks for plugins, so that no registrar is needed beside it.
//!
//! The kubelet calls (`k8s.io/kubelet`, pluginregistration v1); what it says about the outcome is
//! passed on. Who is refused can only start again, as the registrar does.

use tokio::sync::mpsc;
use tonic::{Request, Response, Status, async_trait};

use super::identity::DRIVER;
use super::wire::registration::registration_server::Registration;
use super::wire::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

/// What the kubelet is told.
pub struct Plugin {
    endpoint: String,
    refused: mpsc::Sender<String>,
}

impl Plugin {
    /// A plugin that the kubelet reaches at `endpoint`, a path of its own. Refusals go to
    /// `refused`.
    pub fn new(endpoint: String, refused: mpsc::Sender<String>) -> Self {
        Self { endpoint, refused }
    }
}

#[async_trait]
impl Registration for Plugin {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!("registered with the kubelet");
        } else {
            tracing::error!(error, "the kubelet refuses this driver");
            // One refusal is as good as two.
            let _ = self.refused.try_send(error);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
