//! The root of the CA: made, read, written.
//!
//! A key and a certificate in PEM in and out. The key never appears in an error or a log.

use rcgen::{BasicConstraints, CertificateParams, Issuer, KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::{Error, ROOT_AGE, ca_params};

/// A root certificate and its key.
pub struct Root {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) from: OffsetDateTime,
    pub(super) until: OffsetDateTime,
    der: CertificateDer<'static>,
}

impl Root {
    /// A new one: P-256, valid for ten years from an hour before `now`.
    pub fn make(now: OffsetDateTime) -> Result<Self, Error> {
        Self::of_key(KeyPair::generate()?, now)
    }

    /// A new certificate for the key `key_pem`.
    pub fn renew(key_pem: &str, now: OffsetDateTime) -> Result<Self, Error> {
        Self::of_key(key(key_pem)?, now)
    }

    /// The root whose key is `key_pem`, found among the certificates of `bundle_pem`; `None` if it
    /// is not there.
    pub fn read(bundle_pem: &[u8], key_pem: &str) -> Result<Option<Self>, Error> {
        let key = key(key_pem)?;
        let public = key.subject_public_key_info();
        for der in CertificateDer::pem_slice_iter(bundle_pem) {
            let unreadable = |_| Error::Unusable("ca.crt holds what is no certificate".to_owned());
            let der = der.map_err(unreadable)?;
            let found = parsed(&der)?;
            if found.public_key().raw != public.as_slice() {
                continue;
            }
            check_may_sign(&found)?;
            let at = |when: i64| OffsetDateTime::from_unix_timestamp(when);
            let validity = found.validity();
            let bounds = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
            let (Ok(from), Ok(until)) = bounds else {
                return Err(Error::Unusable("ca.crt has a validity that is none".to_owned()));
            };
            let issuer = Issuer::from_ca_cert_der(&der, key)?;
            return Ok(Some(Self { issuer, from, until, der: der.into_owned() }));
        }
        Ok(None)
    }

    /// Its certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// Its key in PEM (PKCS #8).
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Until when it is valid.
    pub fn until(&self) -> OffsetDateTime {
        self.until
    }

    fn of_key(pair: KeyPair, now: OffsetDateTime) -> Result<Self, Error> {
        let public = pair.subject_public_key_info();
        let sum = ring::digest::digest(&ring::digest::SHA256, &public);
        let number: String =
            sum.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        // Two roots that callers trust at the same time must not have the same name.
        let name = format!("harbor-connector CA {number}");
        let mut params: CertificateParams = ca_params(&name, BasicConstraints::Unconstrained)?;
        params.not_before = now - super::CLOCK_SKEW;
        params.not_after = now + ROOT_AGE;
        let (from, until) = (params.not_before, params.not_after);
        let der = params.self_signed(&pair)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, pair), from, until, der })
    }
}

/// What a certificate of the bundle says about itself, for people: its name and its end.
pub(super) fn described(der: &CertificateDer<'_>) -> Result<(String, OffsetDateTime), Error> {
    let found = parsed(der)?;
    let until = OffsetDateTime::from_unix_timestamp(found.validity().not_after.timestamp());
    let until = until.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    Ok((found.subject().to_string(), until))
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    let unreadable = |_| Error::Unusable("ca.crt holds what is no certificate".to_owned());
    X509Certificate::from_der(der).map(|(_, found)| found).map_err(unreadable)
}

/// Whether it may sign an intermediate: a CA, with room for one more below it.
fn check_may_sign(found: &X509Certificate<'_>) -> Result<(), Error> {
    let constraints = found.basic_constraints().ok().flatten().map(|found| found.value);
    let usage = found.key_usage().ok().flatten().is_none_or(|found| found.value.key_cert_sign());
    match constraints {
        Some(found) if found.ca && found.path_len_constraint != Some(0) && usage => Ok(()),
        _ => Err(Error::Unusable(
            "the certificate in ca.crt may not sign an intermediate: use a root".to_owned(),
        )),
    }
}

fn key(pem: &str) -> Result<KeyPair, Error> {
    // What the library says of a bad key could quote it.
    KeyPair::from_pem(pem)
        .map_err(|_| Error::Unusable("the CA's key cannot be read: PKCS #8 in PEM".to_owned()))
}

/// `der` as text (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
