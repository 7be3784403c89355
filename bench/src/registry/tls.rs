//! The certificate that the registry shows: its own, made at start, or one from files.
//!
//! Names or PEM files in, a rustls configuration out. The key of the CA that is made here is
//! forgotten with this function: nobody can sign a second certificate with it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A configuration, and what a caller has to trust.
pub(crate) struct Shown {
    /// What connections are secured with.
    pub(crate) config: Arc<ServerConfig>,
    /// The CA's certificate as PEM.
    pub(crate) ca: String,
}

/// A fresh CA and a leaf under it for `names`, which are DNS names or addresses.
///
/// # Errors
/// When a name is none, or no key can be made.
pub(crate) fn own(names: Vec<String>) -> anyhow::Result<Shown> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "bench registry");
    let certificate = ca.self_signed(&ca_key)?;

    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(names).context("a name for the certificate")?;
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    Ok(Shown { config: config(vec![leaf.der().clone()], key)?, ca: certificate.pem() })
}

/// The chain and the key in two PEM files.
///
/// # Errors
/// When a file cannot be read, holds nothing of its kind, or the two do not belong together.
pub(crate) fn from_files(chain: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let shown = || format!("reading {}", chain.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .with_context(shown)?
        .collect::<Result<_, _>>()
        .with_context(shown)?;
    let key =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("reading {}", key.display()))?;
    config(certificates, key)
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
