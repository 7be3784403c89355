//! The caller's TLS: with the contender itself, or inside a tunnel to the registry's name.
//!
//! A connection to a contender goes in and is inside TLS afterwards, with a peer that was verified
//! as every caller should. It offers only what the origin speaks, so that whoever ends TLS here has
//! the same arithmetic to do.

use std::io;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::drive;
use super::link::Link;
use super::origin::{NAME, provider};

/// How a caller gets inside.
pub(crate) struct Inside {
    settings: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// What to show for a tunnel; none where TLS begins at once.
    tunnel: Option<String>,
}

impl Inside {
    /// Trusts the certificates of `roots`, PEM, and meets the registry's name: inside a tunnel that
    /// is asked for with `tunnel` as `Proxy-Authorization`, or at once.
    ///
    /// # Errors
    /// When `roots` holds no certificate.
    pub(crate) fn new(roots: &[u8], tunnel: Option<String>) -> anyhow::Result<Self> {
        let mut trusted = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots) {
            trusted.add(root.context("a root that is none")?)?;
        }
        let mut settings = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(NAME)?;
        Ok(Self { settings: Arc::new(settings), name, tunnel })
    }

    /// Takes a fresh connection inside.
    ///
    /// # Errors
    /// When the tunnel is refused, or who answers is not the registry.
    pub(crate) fn enter(&self, link: &mut Link) -> io::Result<()> {
        if let Some(authorization) = &self.tunnel {
            drive::tunnel(link, &format!("{NAME}:443"), authorization)?;
        }
        link.seal(&self.settings, self.name.clone())
    }
}
