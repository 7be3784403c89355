//! Certificates as callers verify them: webpki stands for the caller.

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn authority(names: &[&str]) -> Authority {
    let mut authority = Authority::new(Root::make(now()).unwrap()).unwrap();
    authority.permit(names.iter().map(|name| Box::from(*name)));
    authority
}

/// Whether a caller who trusts `roots` takes `chain` for `name`.
fn is_taken(roots: &str, chain: &[CertificateDer<'_>], name: &str, at: OffsetDateTime) -> bool {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(
        CertificateDer::pem_slice_iter(roots.as_bytes()).map(Result::unwrap),
    );
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), provider);
    let seconds = Duration::from_secs(at.unix_timestamp().try_into().unwrap());
    let time = UnixTime::since_unix_epoch(seconds);
    let name = ServerName::try_from(name).unwrap();
    let verifier = verifier.build().unwrap();
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], time).is_ok()
}

fn registry(name: &str) -> Subject {
    Subject::Registry(name.into())
}

#[test]
fn a_caller_takes_a_leaf_for_its_own_name_and_for_no_other() {
    let mut authority = authority(&["harbor.example.com", "10.0.0.7", "fd00::7"]);
    let roots = authority.root.certificate_pem();
    for name in ["harbor.example.com", "10.0.0.7", "fd00::7"] {
        let made = authority.certificate(&registry(name), now()).unwrap();
        assert!(is_taken(&roots, &made.key.cert, name, now()), "{name}");
        assert!(!is_taken(&roots, &made.key.cert, "other.example.com", now()));
        let other = Root::make(now()).unwrap().certificate_pem();
        assert!(!is_taken(&other, &made.key.cert, name, now()), "another CA's caller");
    }
    for name in ["example.com", "evilharbor.example.com", "harbor.example.com.evil.com", "10.0.0.8"]
    {
        let refused = authority.certificate(&registry(name), now());
        assert!(matches!(refused, Err(Error::NotPermitted(_))), "{name}");
    }
    let own = Subject::Address("192.0.2.7".parse().unwrap());
    let made = authority.certificate(&own, now()).unwrap();
    assert!(is_taken(&roots, &made.key.cert, "192.0.2.7", now()));
}

#[test]
fn certificates_are_what_their_readers_expect() {
    let mut authority = authority(&["harbor.example.com"]);
    let at = now();
    let made = authority.certificate(&registry("harbor.example.com"), at).unwrap();
    let (_, leaf) = X509Certificate::from_der(&made.key.cert[0]).unwrap();
    let (_, issuer) = X509Certificate::from_der(&made.key.cert[1]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0, "the name stands in the SAN alone");
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    assert!(!leaf.is_ca() && issuer.is_ca());
    assert!(leaf.raw_serial().len() >= 15 && leaf.raw_serial() != issuer.raw_serial());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    let oid = x509_parser::oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER;
    assert!(leaf.get_extension_unique(&oid).unwrap().is_some());
    let days = (leaf.validity().not_after.timestamp() - at.unix_timestamp()) / 86_400;
    assert!((1..=7).contains(&days), "{days}");
    assert!(leaf.validity().not_before.timestamp() >= issuer.validity().not_before.timestamp());
    let basic = issuer.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.path_len_constraint == Some(0));
    let usage = issuer.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    let constraints = issuer.name_constraints().unwrap().unwrap();
    assert!(constraints.critical);
    let (permitted, excluded) =
        (&constraints.value.permitted_subtrees, &constraints.value.excluded_subtrees);
    assert_eq!(permitted.as_ref().unwrap().len(), 1);
    assert_eq!(excluded.as_ref().unwrap().len(), 2, "every address");
}

#[test]
fn the_constraints_of_an_intermediate_bind_what_it_signs() {
    let authority = authority(&[]);
    let roots = authority.root.certificate_pem();
    let sign = |group: &[&str], name: &str| {
        let group: Vec<Box<str>> = group.iter().map(|name| Box::from(*name)).collect();
        let intermediate = authority.root.intermediate(&group, now()).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&authority.leaf_pair, &intermediate.issuer).unwrap();
        is_taken(&roots, &[leaf.der().clone(), intermediate.der], name, now())
    };
    assert!(sign(&["harbor.example.com"], "harbor.example.com"));
    assert!(!sign(&["harbor.example.com"], "bank.example"), "a stolen key signs for no one else");
    assert!(!sign(&["harbor.example.com"], "10.0.0.7"));
    assert!(!sign(&["10.0.0.7"], "harbor.example.com"));
    assert!(!sign(&["10.0.0.7"], "10.0.0.8"));
}

#[test]
fn leaves_are_made_once_and_again_after_half_of_their_time_or_a_rotation() {
    let mut authority = authority(&["a.example", "b.example"]);
    let (subject, start) = (registry("a.example"), now());
    let first = authority.certificate(&subject, start).unwrap();
    let again = authority.certificate(&subject, start + Duration::from_secs(3600)).unwrap();
    assert!(Arc::ptr_eq(&first.key, &again.key));
    assert!(again.fresh_for < first.fresh_for);
    let later = authority.certificate(&subject, start + Duration::from_secs(2 * DAY)).unwrap();
    assert!(!Arc::ptr_eq(&first.key, &later.key), "half of its time has passed");

    let old = authority.root.certificate_pem();
    authority.succeed(Root::make(start).unwrap());
    let new = authority.certificate(&subject, start).unwrap();
    assert!(!is_taken(&old, &new.key.cert, "a.example", start));
    let both = old + &authority.root.certificate_pem();
    assert!(is_taken(&both, &new.key.cert, "a.example", start), "with the bundle of a rotation");
    assert!(is_taken(&both, &first.key.cert, "a.example", start), "and what was signed before");

    authority.permit([Box::from("b.example")]);
    assert!(authority.certificate(&subject, start).is_err(), "its connector is gone");
}

#[test]
fn nothing_outlives_its_issuer_and_an_old_root_signs_nothing() {
    let start = now();
    let mut authority = authority(&["a.example"]);
    let end = authority.root.until();
    let last = end - Duration::from_secs(DAY);
    let made = authority.certificate(&registry("a.example"), last).unwrap();
    let (_, leaf) = X509Certificate::from_der(&made.key.cert[0]).unwrap();
    assert!(leaf.validity().not_after.timestamp() <= end.unix_timestamp());
    let late = authority.certificate(&registry("a.example"), end + Duration::from_secs(1));
    assert!(matches!(late, Err(Error::RootNotValid)));
    let early = authority.certificate(&registry("a.example"), start - Duration::from_secs(2 * DAY));
    assert!(early.is_ok() || matches!(early, Err(Error::RootNotValid)));
}

#[test]
fn a_thousand_names_share_intermediates_of_bounded_size() {
    let names: Vec<String> = (0..1000).map(|number| format!("r{number}.example.com")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut authority = authority(&names);
    for name in &names {
        let made = authority.certificate(&registry(name), now()).unwrap();
        assert!(made.key.cert[1].len() < 4096);
    }
    assert_eq!(authority.intermediates.len(), 1000_usize.div_ceil(GROUP_NAMES_MAX));
}
