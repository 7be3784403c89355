//! Who a registry must prove to be: one TLS configuration per trust and core.
//!
//! The certificate is always verified, against the connector's own trust and for the host of its
//! own address. Sessions are resumed within a core. ring is the only provider and is named
//! explicitly: nothing depends on a process-wide default.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::error::Kind;
use crate::io::Socket;
use crate::transport::{Blocks, Transport};
use crate::vocabulary::{Origin, Trust};

/// The TLS configurations of one core, made when first needed, and the memory its sessions share.
#[derive(Default)]
pub(crate) struct TlsConfigs {
    by_trust: HashMap<u64, Arc<ClientConfig>>,
    blocks: Rc<Blocks>,
}

impl TlsConfigs {
    /// A session towards `origin` over a connected socket, its handshake still to come.
    pub(crate) fn open(
        &mut self,
        socket: Socket,
        origin: &Origin,
        trust: &Trust,
    ) -> Result<Transport, Kind> {
        let config = match self.by_trust.get(&trust.id) {
            Some(config) => Arc::clone(config),
            None => {
                let config = Arc::new(config(trust).map_err(|_| Kind::RegistryUntrusted)?);
                if self.by_trust.len() >= TRUSTS_MAX {
                    // Trusts that are no longer used are let go with the rest, which are soon back.
                    self.by_trust.clear();
                }
                self.by_trust.insert(trust.id, Arc::clone(&config));
                config
            }
        };
        let name = ServerName::try_from(origin.host.to_string());
        let name = name.map_err(|_| Kind::RegistryUntrusted)?;
        let session = ClientConnection::new(config, name).map_err(|_| Kind::RegistryUntrusted)?;
        Ok(Transport::tls(socket, session, &self.blocks))
    }

    /// A session over a connected socket, on whichever side of it, its handshake under way.
    pub(crate) fn wrap(&self, socket: Socket, session: Connection) -> Transport {
        Transport::tls(socket, session, &self.blocks)
    }
}

/// How TLS is spoken with whoever `trust` vouches for: verified, HTTP/1.1, sessions resumed.
///
/// # Errors
/// When the provider lacks the protocol versions, which none does.
pub fn config(trust: &Trust) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    // A root that webpki cannot read cannot vouch for anybody; the others still can.
    roots.add_parsable_certificates(
        trust.anchors.iter().map(|anchor| CertificateDer::from_slice(anchor)),
    );
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(config)
}

/// Sessions remembered for resumption, per trust and core.
const SESSIONS_MAX: usize = 256;
/// Configurations kept per core.
const TRUSTS_MAX: usize = 1024;
