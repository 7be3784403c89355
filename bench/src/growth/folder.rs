//! The manifests of a growing proxy: as many connectors as wanted, one robot, one Pod.
//!
//! Addresses and numbers in, a folder of files out. A connector is named by its place, `c0` and so
//! on. What is there already is replaced as an editor would: written aside, then renamed.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::compare::contenders::manifests;
use crate::compare::origin::Origin;

/// A folder that a proxy serves.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder `name` in `place` with the Pod's token and right and the robot's password,
    /// and no connector.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn make(place: &Path, name: &str, origin: &Origin) -> io::Result<Self> {
        let folder = place.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let texts = manifests(origin);
        let others = texts.split("---\n").filter(|text| !text.contains("kind: Connector\n"));
        fs::write(folder.join("others.yaml"), others.collect::<Vec<_>>().join("---\n"))?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts one connector into it: to `address`, over TLS if `ca` has the certificates to trust.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn add(&self, name: &str, address: SocketAddr, ca: Option<&str>) -> io::Result<()> {
        let mut text = String::new();
        match ca {
            None => connector(&mut text, name, &format!("http://{address}"), "", ""),
            Some(ca) => {
                let secret = serde_json::json!({
                    "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                    "metadata": {"name": format!("{name}-ca"), "namespace": "bench"},
                    "stringData": {"ca.crt": ca},
                });
                let trust = format!(r#","caCertSecretRef":{{"name":"{name}-ca"}}"#);
                connector(&mut text, name, &format!("https://{address}"), &trust, "");
                let _ = writeln!(text, "---\n{secret}");
            }
        }
        self.put(&format!("{name}.yaml"), &text)
    }

    /// Makes `count` connectors to `address` out of those that there were. Each has an address of
    /// the given `edition`, so that no connector of one edition is equal to one of another.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn fill(&self, count: usize, address: SocketAddr, edition: usize) -> io::Result<()> {
        let to = format!("http://{address}");
        // A file may not be larger than 16 MiB.
        for (number, part) in (0..count).collect::<Vec<_>>().chunks(PER_FILE).enumerate() {
            let mut text = String::new();
            for place in part {
                let also = format!("https://e{edition}.c{place}.example");
                let also = format!(r#","addressExtensions":[{{"name":"also","value":"{also}"}}]"#);
                connector(&mut text, &format!("c{place}"), &to, &also, "---\n");
            }
            self.put(&format!("many-{number}.yaml"), &text)?;
        }
        Ok(())
    }

    fn put(&self, name: &str, text: &str) -> io::Result<()> {
        // Hidden, and so not read before it has its name.
        let aside = self.0.join(format!(".{name}"));
        fs::write(&aside, text)?;
        fs::rename(aside, self.0.join(name))
    }
}

fn connector(text: &mut String, name: &str, address: &str, more: &str, end: &str) {
    let _ = writeln!(
        text,
        concat!(
            r#"{{"apiVersion":"connectors.alauda.io/v1alpha1","kind":"Connector","#,
            r#""metadata":{{"name":"{}","namespace":"bench"}},"#,
            r#""spec":{{"connectorClassName":"harbor","address":"{}","#,
            r#""auth":{{"name":"basicAuth","secretRef":{{"name":"robot"}}}}{}}}}}"#
        ),
        name, address, more
    );
    text.push_str(end);
}

const PER_FILE: usize = 20_000;
