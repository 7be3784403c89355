//! A tunnel whose TLS ends here, in the name of a connector's registry.
//!
//! An allowed CONNECT in, the identity under which requests come through the tunnel out. It holds
//! the caller's token, because every request is asked about again, and never a credential.

use std::fmt;
use std::time::Instant;

use crate::authorise::Allowed;
use crate::vocabulary::{ConnectorRef, Origin, Token};

/// Who opened a tunnel, and to where.
pub(crate) struct Interception {
    /// The host that it leads to.
    pub(crate) origin: Origin,
    /// The connector that serves that host.
    pub(crate) connector: ConnectorRef,
    /// The token of whoever opened it.
    pub(crate) token: Token,
    /// When it was opened.
    pub(crate) since: Instant,
}

impl Interception {
    /// The tunnel that `allowed` asks for; `None` if no connector serves its host.
    pub(crate) fn of(allowed: &Allowed) -> Option<Self> {
        let (target, token) = (allowed.target(), allowed.token()?);
        Some(Self {
            origin: target.origin()?.clone(),
            connector: target.connector()?.clone(),
            token: token.clone(),
            since: Instant::now(),
        })
    }
}

impl fmt::Debug for Interception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[tunnel to {}]", self.origin)
    }
}

/// The answer to a CONNECT that is granted: no field, no body (RFC 9110 §9.3.6).
pub(crate) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";
