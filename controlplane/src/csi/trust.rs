//! The certificates that Pods get: the system's roots, and those of the forward proxy.
//!
//! The system's store, and a file or a cluster's ConfigMap in, PEM out. Of what is read only
//! certificates are taken: a key that was put beside them by mistake reaches no Pod.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::bundle::Bundle;
use super::facts::Trust;
use super::refusal::Refusal;

/// Where certificates come from.
pub struct Authority {
    own: Own,
    system: Arc<str>,
}

/// Where those of the forward proxy come from.
pub enum Own {
    /// Nowhere: no Pod is to trust one.
    Nowhere,
    /// A file, which may be replaced while the program runs.
    File(PathBuf),
    /// What the proxies of a cluster publish.
    Cluster(Bundle),
}

impl Authority {
    /// Reads the system's roots, once. The proxy's own certificates come from `own`.
    pub fn new(own: Own) -> Self {
        let found = rustls_native_certs::load_native_certs();
        for cause in &found.errors {
            tracing::warn!(%cause, "a system certificate store could not be read");
        }
        Self { own, system: pem(&found.certs).into() }
    }

    /// The certificates of this moment. May wait for a cluster's, and must not be called on a
    /// thread that runs tasks.
    pub fn now(&self) -> Result<Trust, Refusal> {
        let own = match &self.own {
            Own::Nowhere => None,
            Own::File(path) => Some(read(path)?),
            Own::Cluster(bundle) => bundle.now()?.map(|text| text.to_string()),
        };
        Ok(Trust { own, system: Arc::clone(&self.system) })
    }
}

/// The certificates of a text, and nothing else of it; nothing if there is none.
pub(super) fn certificates(text: &[u8]) -> Option<String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text).filter_map(Result::ok).collect();
    (!found.is_empty()).then(|| pem(&found))
}

/// The certificates in a file, at least one.
fn read(path: &Path) -> Result<String, Refusal> {
    let refused = |why: String| {
        Refusal::Source(format!("the CA certificates in {} cannot be read: {why}", path.display()))
    };
    let mut text = Vec::new();
    let opened = fs::File::open(path).map_err(|cause| refused(cause.to_string()))?;
    opened
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|cause| refused(cause.to_string()))?;
    certificates(&text).ok_or_else(|| refused("there is none in it".to_owned()))
}

/// Certificates as text (RFC 7468).
fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut out = String::new();
    for certificate in certificates {
        let encoded = STANDARD.encode(certificate);
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

/// A CA and its successor are a few kilobytes.
const FILE_BYTES_MAX: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_certificates_and_never_a_key() {
        let made = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        let text = [made.signing_key.serialize_pem(), made.cert.pem()].concat();
        fs::write(&path, text).unwrap();
        let trust = Authority::new(Own::File(path.clone())).now().unwrap();
        assert_eq!(trust.own, Some(made.cert.pem().replace("\r\n", "\n")));
        fs::write(&path, "nothing").unwrap();
        let refusal = Authority::new(Own::File(path)).now().unwrap_err().to_string();
        assert!(refusal.ends_with("there is none in it"), "{refusal}");
        assert_eq!(Authority::new(Own::Nowhere).now().unwrap().own, None);
    }
}
