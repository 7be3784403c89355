//! Where the CA is kept in a cluster: a Secret, and its certificates in a ConfigMap beside it.
//!
//! A client and a namespace in, what the two objects hold out; every write names the version that
//! it replaces, so of many writers one succeeds. Only proxies may read the Secret, and everybody
//! who must trust the CA the ConfigMap. Our copies of keys are wiped (those of the transport, which
//! live for one request, cannot be), and no answer to a write is ever quoted.
//!
//! The rights needed: `get` and `patch` on both by their name; `create` only where they are not
//! made by the installation, because RBAC cannot bind it to a name.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Request;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::request;
use kube::{Api, Client, Resource as _};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;
use zeroize::{Zeroize as _, Zeroizing};

use super::Error as Signing;
use super::rotation::Kept;
use crate::source::SecretObject;
use crate::source::manifest;

/// Why the objects cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another writer was faster.
    #[error("{0} was changed by somebody else at the same moment")]
    Conflict(String),
    /// The object is not there, and we may not make it.
    #[error("{0} is not there, and this account may not make it: apply deploy/base/ca.yaml")]
    Missing(String),
    /// What stands in it.
    #[error("{0}: {1}")]
    Content(String, Signing),
    /// The API server did not do what it was asked for.
    #[error("{0}: {1}")]
    Api(String, String),
}

/// The two objects of one namespace.
#[derive(Clone)]
pub struct Place {
    client: Client,
    namespace: String,
}

/// What the Secret holds.
pub struct Stored {
    /// The keys and certificates.
    pub kept: Kept,
    /// When one of us last changed it.
    pub changed: Option<OffsetDateTime>,
    version: String,
}

/// What the ConfigMap holds.
#[derive(Default)]
pub struct Published {
    /// The certificates; empty where there are none yet.
    pub bundle: String,
    /// When one of us last changed it.
    pub changed: Option<OffsetDateTime>,
    version: String,
}

impl Place {
    /// The objects of `namespace`.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// The name of the ConfigMap, for people.
    pub fn bundle_name(&self) -> String {
        format!("ConfigMap {}/{NAME}", self.namespace)
    }

    /// The name of the Secret, for people.
    pub fn secret_name(&self) -> String {
        format!("Secret {}/{NAME}", self.namespace)
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The client by which they are reached.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Reads the Secret; nothing where there is none.
    pub async fn stored(&self) -> Result<Option<Stored>, Error> {
        let request = self.secrets().get(NAME, &Default::default());
        let request = request.map_err(|cause| self.failed(cause.to_string()))?;
        let answer = within(self.client.request_text(request)).await;
        let text = match answer {
            Ok(text) => Zeroizing::new(text),
            Err(Unanswered::Status(404, _)) => return Ok(None),
            Err(unanswered) => return Err(self.failed(unanswered.to_string())),
        };
        let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(&text) else {
            return Err(self.failed("the answer is no object".to_owned()));
        };
        self.decoded(manifest::secret(fields)).map(Some)
    }

    fn decoded(&self, mut object: SecretObject) -> Result<Stored, Error> {
        let unusable = |why: &str| self.content(Signing::Unusable(why.to_owned()));
        if let Some(defect) = object.defect {
            return Err(unusable(defect));
        }
        let mut key = |name: &str| -> Result<Option<Zeroizing<String>>, Error> {
            let Some(bytes) = object.values.remove(name).filter(|bytes| !bytes.is_empty()) else {
                return Ok(None);
            };
            let text = str::from_utf8(&bytes).map_err(|_| unusable("a key in it is no text"))?;
            Ok(Some(Zeroizing::new(text.to_owned())))
        };
        let (key, next_key) = (key(KEY)?, key(NEXT_KEY)?);
        let bundle = object.values.remove(BUNDLE).filter(|bytes| !bytes.is_empty());
        let kept = Kept { key, next_key, bundle: bundle.map(|bytes| bytes.to_vec()) };
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        Ok(Stored { kept, changed: changed(&object.metadata), version })
    }

    /// Makes the Secret. [`Error::Conflict`]: somebody else has made it.
    pub async fn create(&self, kept: &Kept) -> Result<(), Error> {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": NAME, "labels": labels(), "annotations": stamp()},
            "data": data(kept),
        });
        let request = self.secrets().create(&parameters(), object.to_string().into_bytes());
        wipe(&mut object);
        self.written(request, Write::Create).await
    }

    /// Replaces what is in the Secret, if it still is what `stored` says.
    pub async fn replace(&self, stored: &Stored, kept: &Kept) -> Result<(), Error> {
        let mut object = json!({
            "metadata": {"resourceVersion": stored.version, "annotations": stamp()},
            "data": data(kept),
        });
        let request = self.secrets().patch(NAME, &patch_parameters(), &Patch::Merge(&object));
        wipe(&mut object);
        self.written(request, Write::Change).await
    }

    async fn written(
        &self,
        request: Result<Request<Vec<u8>>, request::Error>,
        write: Write,
    ) -> Result<(), Error> {
        let request = request.map_err(|_| self.failed("no such request".to_owned()))?;
        let answer = within(self.client.request_text(request)).await.map(Zeroizing::new);
        answer.map(drop).map_err(|unanswered| refused(unanswered, self.secret_name(), write))
    }

    /// Reads the ConfigMap; nothing where there is none.
    pub async fn published(&self) -> Result<Option<Published>, Error> {
        let found = within(self.config_maps().get_opt(NAME)).await;
        let failed = |cause: Unanswered| Error::Api(self.bundle_name(), cause.to_string());
        Ok(found.map_err(failed)?.map(|found| Published {
            changed: changed(&found.metadata),
            version: found.metadata.resource_version.clone().unwrap_or_default(),
            bundle: bundle_of(found).unwrap_or_default(),
        }))
    }

    /// Writes the certificates into the ConfigMap, if it still is what `published` says.
    pub async fn publish(&self, published: Option<&Published>, bundle: &str) -> Result<(), Error> {
        let mut object = json!({"metadata": {"annotations": stamp()}, "data": {BUNDLE: bundle}});
        let maps = self.config_maps();
        let refused = |unanswered, write| refused(unanswered, self.bundle_name(), write);
        if let Some(published) = published {
            object["metadata"]["resourceVersion"] = published.version.as_str().into();
            let (parameters, patch) = (patch_parameters(), Patch::Merge(object));
            let written = within(maps.patch(NAME, &parameters, &patch)).await;
            return written.map(drop).map_err(|why| refused(why, Write::Change));
        }
        object["metadata"]["name"] = NAME.into();
        object["metadata"]["labels"] = labels();
        let object = serde_json::from_value(object);
        let object = object.map_err(|_| self.failed("no such object".to_owned()))?;
        let parameters = parameters();
        let written = within(maps.create(&parameters, &object)).await;
        written.map(drop).map_err(|why| refused(why, Write::Create))
    }

    fn secrets(&self) -> request::Request {
        request::Request::new(Secret::url_path(&(), Some(&self.namespace)))
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What stands in the Secret cannot be used.
    pub fn content(&self, cause: Signing) -> Error {
        Error::Content(self.secret_name(), cause)
    }

    fn failed(&self, why: String) -> Error {
        Error::Api(self.secret_name(), why)
    }
}

/// The certificates in a ConfigMap of ours, as text.
pub fn bundle_of(map: ConfigMap) -> Option<String> {
    map.data?.remove(BUNDLE)
}

/// What was to be written.
#[derive(Clone, Copy)]
enum Write {
    Create,
    Change,
}

/// What a refused write means. What the API server says about a Secret could quote it, so only its
/// word on rights goes on.
fn refused(unanswered: Unanswered, name: String, write: Write) -> Error {
    match (unanswered, write) {
        // What is to be changed has been removed: that is a change as well.
        (Unanswered::Status(409, _), _) | (Unanswered::Status(404, _), Write::Change) => {
            Error::Conflict(name)
        }
        (Unanswered::Status(403, _), Write::Create) => Error::Missing(name),
        (Unanswered::Status(403, why), Write::Change) => Error::Api(name, why),
        (Unanswered::Status(code, _), _) => Error::Api(name, format!("refused with {code}")),
        (silent, _) => Error::Api(name, silent.to_string()),
    }
}

/// Why there is no answer that can be used.
enum Unanswered {
    /// The API server's code and words.
    Status(u16, String),
    /// It could not be asked.
    Silent(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(_, why) | Self::Silent(why) => f.write_str(why),
        }
    }
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Unanswered> {
    match timeout(CALL_WAIT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => {
            Err(Unanswered::Status(status.code, status.message.clone()))
        }
        Ok(Err(cause)) => Err(Unanswered::Silent(cause.to_string())),
        Err(_) => Err(Unanswered::Silent("the API server is silent".to_owned())),
    }
}

/// The values of the Secret; what is not kept is removed by a merge (RFC 7396).
fn data(kept: &Kept) -> Value {
    let encoded = |bytes: Option<&[u8]>| bytes.map_or(Value::Null, |it| STANDARD.encode(it).into());
    let key = |key: &Option<Zeroizing<String>>| encoded(key.as_ref().map(|key| key.as_bytes()));
    let mut data = serde_json::Map::new();
    data.insert(KEY.to_owned(), key(&kept.key));
    data.insert(NEXT_KEY.to_owned(), key(&kept.next_key));
    data.insert(BUNDLE.to_owned(), encoded(kept.bundle.as_deref()));
    data.retain(|name, value| name == NEXT_KEY || !value.is_null());
    Value::Object(data)
}

/// Overwrites the texts of a tree that holds keys.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        _ => {}
    }
}

fn changed(metadata: &ObjectMeta) -> Option<OffsetDateTime> {
    let text = metadata.annotations.as_ref()?.get(CHANGED)?;
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

fn stamp() -> Value {
    let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    json!({CHANGED: now})
}

fn labels() -> Value {
    json!({
        "app.kubernetes.io/name": "harbor-connector",
        "app.kubernetes.io/component": "ca",
        "app.kubernetes.io/part-of": "harbor-connector",
    })
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn patch_parameters() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// The name of both objects.
pub const NAME: &str = "harbor-connector-ca";
const KEY: &str = "ca.key";
const NEXT_KEY: &str = "next.key";
const BUNDLE: &str = "ca.crt";
/// When one of us last changed the object (RFC 3339): from then on the overlap counts.
const CHANGED: &str = "connectors.alauda.io/ca-changed";
const MANAGER: &str = "harbor-connector-ca";
/// How long one call may take.
const CALL_WAIT: Duration = Duration::from_secs(10);
