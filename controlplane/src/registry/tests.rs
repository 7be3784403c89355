//! What a failure is told apart into, by asking real sockets.

use std::net::{Ipv4Addr, SocketAddr};

use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::crypto::ring;
use rustls_pki_types::PrivateKeyDer;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A certificate for `name`, valid from and to so many days from now.
fn certificate(name: &str, days: [i64; 2]) -> CertifiedKey<KeyPair> {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    let [from, to] = days.map(|days| OffsetDateTime::now_utc() + time::Duration::days(days));
    (params.not_before, params.not_after) = (from, to);
    let signing_key = KeyPair::generate().unwrap();
    CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key }
}

/// Where a server answers one connection with `certified`, or with plain HTTP.
async fn server(certified: Option<&CertifiedKey<KeyPair>>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = certified.map(|certified| {
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let chain = vec![certified.cert.der().clone()];
        let config = rustls::ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        match acceptor {
            Some(acceptor) => drop(acceptor.accept(socket).await),
            None => {
                use tokio::io::AsyncWriteExt as _;
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        }
    });
    address
}

async fn failure(port: u16, trust: &Trust) -> Option<Failure> {
    let origin = Origin { scheme: Scheme::Https, host: "127.0.0.1".into(), port };
    let dialer = Dialer::new(Duration::from_secs(5), true, Own::default());
    let ask = Ask { origin: &origin, trust, target: "/", authorization: None, purpose: "ping" };
    dialer.get(&ask).await.err()
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told_apart() {
    let (host, valid) = ("127.0.0.1", [-1, 1]);
    for (name, days, is_trusted, expected) in [
        (host, valid, false, Distrust::Issuer),
        ("other.example", valid, true, Distrust::Name),
        (host, [-2, -1], true, Distrust::Expired),
        (host, [1, 2], true, Distrust::Early),
    ] {
        let certified = certificate(name, days);
        let address = server(Some(&certified)).await;
        let anchors = is_trusted.then(|| Arc::from(certified.cert.der().as_ref()));
        let trust = Trust { id: 1, anchors: anchors.into_iter().collect() };
        let failure = failure(address.port(), &trust).await;
        assert_eq!(failure, Some(Failure::Untrusted(expected)), "{name} {days:?}");
    }
}

#[tokio::test]
async fn a_host_without_tls_and_one_without_a_listener_are_told_apart() {
    let trust = Trust { id: 1, anchors: Vec::new() };
    let address = server(None).await;
    let plain = Some(Failure::Untrusted(Distrust::Plain));
    assert_eq!(failure(address.port(), &trust).await, plain);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(failure(port, &trust).await, Some(Failure::Refused));
}

#[tokio::test]
async fn whoever_waits_for_a_question_that_panics_is_answered_all_the_same() {
    assert_eq!(whole(async { 1 }, 2).await, 1);
    assert_eq!(whole(async { panic!("a defect") }, 2).await, 2);
}
