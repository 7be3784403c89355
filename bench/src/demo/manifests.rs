//! The demo's manifests, read for the few values that the demo itself needs.
//!
//! A folder in, a [`Manifests`] out; where the registry's port is taken, a copy of the folder with
//! another one. What the manifests mean to the proxy is the proxy's affair.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// What the demo needs to know of its manifests. Not printable: it holds (pretend) secrets.
pub(crate) struct Manifests {
    /// The folder, absolute.
    pub(crate) folder: PathBuf,
    /// The connector's namespace.
    pub(crate) namespace: String,
    /// The connector's name.
    pub(crate) name: String,
    /// Where the registry is, as the connector says.
    pub(crate) address: SocketAddr,
    /// User and password of the connector's Secret.
    pub(crate) login: (String, String),
    /// The token of the Pod that may use the connector.
    pub(crate) token: String,
    /// The token of a Pod that may not.
    pub(crate) stranger: String,
}

impl Manifests {
    /// Reads `folder`.
    ///
    /// # Errors
    /// When a file is missing, is no YAML, or lacks a value.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("no folder {}: name it with --manifests", folder.display()))?;
        let connector = find(&folder, "connector.yaml", "Connector")?;
        let secret = find(&folder, "secret.yaml", "Secret")?;
        let url = text(&connector, "/spec/address")?;
        let address = url.strip_prefix("http://").and_then(|rest| rest.parse().ok());
        let address: SocketAddr =
            address.with_context(|| format!("spec.address {url} is not http://IP:PORT"))?;
        ensure!(address.ip().is_loopback(), "the demo's registry listens on loopback only");
        let token = |file: &str| text(&find(&folder, file, "Secret")?, "/stringData/token");
        Ok(Self {
            namespace: text(&connector, "/metadata/namespace")?,
            name: text(&connector, "/metadata/name")?,
            address,
            login: (text(&secret, "/stringData/username")?, text(&secret, "/stringData/password")?),
            token: token(TOKEN_FILE)?,
            stranger: token("stranger-token.yaml")?,
            folder,
        })
    }

    /// The file that holds the Pod's token.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.join(TOKEN_FILE)
    }

    /// Copies the manifests into a folder of their own, with the registry at `address`. Only the
    /// owner can read it, and it goes with the value returned.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(crate) fn moved_to(&self, address: SocketAddr) -> anyhow::Result<TempDir> {
        let copy = tempfile::Builder::new().prefix("harbor-connector-demo-").tempdir()?;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let (Some(name), Some("yaml")) =
                (path.file_name(), path.extension().and_then(|ending| ending.to_str()))
            else {
                continue;
            };
            let here = format!("http://{}", self.address);
            let text = fs::read_to_string(&path)?.replace(&here, &format!("http://{address}"));
            fs::write(copy.path().join(name), text)?;
        }
        Ok(copy)
    }
}

/// The first object of `kind` in a file.
fn find(folder: &Path, file: &str, kind: &str) -> anyhow::Result<Value> {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)
        .map_err(|_| anyhow::anyhow!("{} is not YAML", path.display()))?;
    let mut matching = objects.into_iter().filter(|object| object["kind"] == kind);
    matching.next().with_context(|| format!("{} holds no {kind}", path.display()))
}

fn text(object: &Value, pointer: &str) -> anyhow::Result<String> {
    let value = object.pointer(pointer).and_then(Value::as_str);
    Ok(value.with_context(|| format!("{} has no {pointer}", object["kind"]))?.to_owned())
}

const TOKEN_FILE: &str = "pod-token.yaml";

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Manifests {
        Manifests::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo")).unwrap()
    }

    #[test]
    fn the_manifests_that_are_shipped_hold_what_the_demo_needs() {
        let manifests = ours();
        assert_eq!((manifests.namespace.as_str(), manifests.name.as_str()), ("demo", "harbor"));
        assert_eq!(manifests.login.0, "robot$demo");
        assert_ne!(manifests.token, manifests.stranger);
        // The commands that the demo prints cut the token out of the file with sed.
        let file = fs::read_to_string(manifests.token_file()).unwrap();
        assert!(file.contains(&format!("\n  token: {}\n", manifests.token)));
    }

    #[test]
    fn a_copy_differs_in_the_registrys_address_only() {
        let copy = ours().moved_to("127.0.0.1:1".parse().unwrap()).unwrap();
        let moved = Manifests::read(copy.path()).unwrap();
        assert_eq!(moved.address.port(), 1);
        assert!(moved.token == ours().token && moved.login == ours().login);
    }
}
