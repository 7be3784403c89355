//! A storage that speaks TLS with a certificate of a CA of its own: bodiless requests in, whole
//! answers out.
//!
//! What it is asked is recorded head by head, and searched for secrets in the end: nobody may send
//! any of them to a storage.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{PATIENCE, docker_registry, leak};

/// The storage.
pub(crate) struct TlsStorage {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    is_registry: bool,
    /// The certificate to trust, in PEM.
    pub(crate) ca: String,
}

impl TlsStorage {
    /// A storage that answers each request's head with what `reply` makes of it.
    pub(crate) fn answering(reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let (config, ca) = certified();
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address of our own");
        let address = listener.local_addr().expect("bound");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (config, reply) = (Arc::new(Mutex::new(config)), Arc::new(reply));
        let (recording, presented) = (Arc::clone(&heads), Arc::clone(&config));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let config = Arc::clone(&presented.lock().unwrap_or_else(PoisonError::into_inner));
                let session = ServerConnection::new(config).expect("a session");
                let (reply, heads) = (Arc::clone(&reply), Arc::clone(&recording));
                thread::spawn(move || serve(StreamOwned::new(session, socket), &*reply, &heads));
            }
        });
        Self { address, heads, config, is_registry: false, ca }
    }

    /// The same as a registry, which may be sent a registry's credential.
    pub(crate) fn taken_for_a_registry(mut self) -> Self {
        self.is_registry = true;
        self
    }

    /// From now on it has a certificate of another CA.
    pub(crate) fn renew(&mut self) {
        let (config, ca) = certified();
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        self.ca = ca;
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The heads that have arrived.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsStorage {
    fn drop(&mut self) {
        let secrets = if self.is_registry { leak::tokens() } else { leak::everything() };
        for head in self.heads() {
            leak::assert_absent(&secrets, head.as_bytes(), "what a storage received");
        }
    }
}

/// A certificate of a new CA, and that CA.
fn certified() -> (Arc<ServerConfig>, String) {
    let certificates = docker_registry::Certificates::issue(&["127.0.0.1", "localhost"]);
    let leaf = CertificateDer::from_pem_slice(certificates.leaf.as_bytes()).expect("a leaf");
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .expect("a certificate and its key");
    (Arc::new(config), certificates.ca)
}

/// Serves one connection until it ends, or until the handshake fails.
fn serve(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    reply: &dyn Fn(&str) -> Vec<u8>,
    heads: &Mutex<Vec<String>>,
) {
    let _ = stream.sock.set_read_timeout(Some(PATIENCE));
    let mut head = Vec::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head).into_owned();
            heads.lock().unwrap_or_else(PoisonError::into_inner).push(text.clone());
            head.clear();
            if stream.write_all(&reply(&text)).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }
}
