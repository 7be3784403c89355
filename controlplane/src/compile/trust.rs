//! Which certificates a registry's certificate is verified against.
//!
//! The system's roots, or those and the certificates of a Secret, become a [`Trust`]. A certificate
//! that the verifier could not use is left out here, so that the data plane need not ask.

use std::sync::Arc;

use dataplane::vocabulary::Trust;
use ring::digest;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::source::SecretObject;

/// The system's roots; empty, with a line in the log, where there are none.
pub fn system_trust() -> Trust {
    let found = rustls_native_certs::load_native_certs();
    for cause in &found.errors {
        tracing::warn!(%cause, "a system certificate store could not be read");
    }
    let anchors: Vec<Arc<[u8]>> =
        found.certs.iter().filter(|der| usable(der)).map(|der| Arc::from(der.as_ref())).collect();
    if anchors.is_empty() {
        tracing::warn!(
            "no system certificates: only registries with a CA of their own are trusted"
        );
    }
    Trust { id: id(&anchors), anchors }
}

/// `system` and the certificates of the Secret; `None` if it holds no usable one. Only keys that
/// end in `.crt` or `.pem` and values with a PEM header are read.
pub(super) fn with(system: &Trust, secret: &SecretObject) -> Option<Trust> {
    let mut own: Vec<Arc<[u8]>> = Vec::new();
    for (key, value) in &secret.values {
        let named = key.ends_with(".crt") || key.ends_with(".pem");
        if named || value.windows(PEM_HEADER.len()).any(|window| window == PEM_HEADER) {
            let certificates = CertificateDer::pem_slice_iter(value).filter_map(Result::ok);
            own.extend(certificates.filter(usable).map(|der| Arc::from(der.as_ref())));
        }
    }
    if own.is_empty() {
        return None;
    }
    let mut anchors = system.anchors.clone();
    anchors.extend(own);
    Some(Trust { id: id(&anchors), anchors })
}

/// Whether the verifier can take the certificate as an anchor.
fn usable(certificate: &CertificateDer<'_>) -> bool {
    RootCertStore::empty().add(certificate.clone().into_owned()).is_ok()
}

/// A number that is equal for equal anchors.
fn id(anchors: &[Arc<[u8]>]) -> u64 {
    let mut sum = digest::Context::new(&digest::SHA256);
    for anchor in anchors {
        sum.update(&(anchor.len() as u64).to_le_bytes());
        sum.update(anchor);
    }
    sum.finish().as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

const PEM_HEADER: &[u8] = b"-----BEGIN CERTIFICATE-----";

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(key: &str, value: &str) -> SecretObject {
        let values = [(key.to_owned(), value.as_bytes().to_vec().into())].into();
        SecretObject {
            metadata: Default::default(),
            secret_type: "Opaque".into(),
            values,
            defect: None,
        }
    }

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn certificates_are_found_by_key_and_by_header() {
        let system = Trust { id: 0, anchors: Vec::new() };
        let pem = certificate();
        let trust = with(&system, &secret("ca.crt", &pem)).unwrap();
        assert_eq!(trust.anchors.len(), 1);
        let again = with(&system, &secret("whatever", &pem)).unwrap();
        assert_eq!(trust.id, again.id, "the same anchors have the same id");
        let other = with(&system, &secret("ca.crt", &certificate())).unwrap();
        assert_ne!(trust.id, other.id);
        let two = with(&trust, &secret("ca.crt", &(pem.clone() + &certificate()))).unwrap();
        assert_eq!(two.anchors.len(), 3);
    }

    #[test]
    fn a_secret_without_a_usable_certificate_gives_no_trust() {
        let system = Trust { id: 0, anchors: Vec::new() };
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (key, value) in [("ca.crt", "hello"), ("ca.pem", broken), ("key", "hello")] {
            assert!(with(&system, &secret(key, value)).is_none(), "{key}");
        }
    }
}
