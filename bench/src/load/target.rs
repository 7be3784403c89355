//! Where the load goes: a URL and perhaps a forward proxy, read once and resolved once.
//!
//! Text in, an [`Endpoint`] out: an address to dial, the form of a request's target, and what to
//! trust. It is read-only from then on and shared by all threads. No credential is ever printed.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::plan::Plan;

/// A target that can be dialled.
pub(crate) struct Endpoint {
    /// Whom to connect to: the target, or the proxy in front of it.
    pub(crate) address: SocketAddr,
    /// For TLS: what is trusted, and the name that the certificate must have.
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// The CONNECT that a proxy is asked first, where the target speaks TLS behind it.
    pub(crate) tunnel: Option<String>,
    /// What precedes a path in the request line: nothing, or the origin (absolute form).
    pub(crate) before_path: String,
    /// A field for the proxy in every request, with its line's end; or nothing.
    pub(crate) proxy_field: String,
    /// Host and port as the target's URL has them.
    pub(crate) authority: String,
    /// Scheme and authority, as an absolute `Location` begins.
    pub(crate) origin: String,
    /// The path of the repository: what precedes `/v2/`, that, and the prefix.
    pub(crate) repository: String,
}

impl Endpoint {
    /// The endpoint that `plan` names.
    ///
    /// # Errors
    /// When a URL is none, a name does not resolve, or certificates cannot be read.
    pub(crate) fn of(plan: &Plan) -> anyhow::Result<Self> {
        let url = Url::read(&plan.target)?;
        ensure!(url.login.is_none(), "the target's URL must not hold a password");
        let proxy = plan.proxy.as_deref().map(Url::read).transpose().context("in --proxy")?;
        let tls = if url.tls {
            let host = url.host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host).context("not a name a certificate can have")?;
            Some((Arc::new(trust(plan)?), name))
        } else {
            None
        };
        let field = |url: &Url| match &url.login {
            Some(login) => {
                let encoded = BASE64_STANDARD.encode(login);
                ["Proxy-Authorization: Basic ", &encoded, "\r\n"].concat()
            }
            None => String::new(),
        };
        let origin = format!("{}://{}", if url.tls { "https" } else { "http" }, url.authority);
        let (mut tunnel, mut before_path, mut proxy_field) = (None, String::new(), String::new());
        match &proxy {
            Some(proxy) if proxy.tls => bail!("--proxy speaks plain http"),
            Some(proxy) if url.tls => {
                let place = format!("{}:{}", url.host, url.port);
                let field = field(proxy);
                tunnel = Some(format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{field}\r\n"));
            }
            Some(proxy) => {
                before_path.clone_from(&origin);
                proxy_field = field(proxy);
            }
            None => {}
        }
        Ok(Self {
            address: proxy.as_ref().unwrap_or(&url).resolve()?,
            tls,
            tunnel,
            before_path,
            proxy_field,
            repository: format!("{}/v2/{}", url.base, plan.prefix),
            authority: url.authority,
            origin,
        })
    }
}

/// The little of a URL that is needed here.
struct Url {
    tls: bool,
    login: Option<String>,
    host: String,
    port: u16,
    authority: String,
    base: String,
}

impl Url {
    fn read(text: &str) -> anyhow::Result<Self> {
        let (scheme, rest) =
            text.split_once("://").context("a URL begins with http:// or https://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => bail!("a URL begins with http:// or https://"),
        };
        let (before, path) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(!path.contains(['?', '#']), "a target has no query and no fragment");
        let (login, authority) = match before.rsplit_once('@') {
            Some((login, authority)) => (Some(decoded(login)), authority),
            None => (None, before),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().context("a port is a number up to 65535")?)
            }
            _ => (authority, if tls { 443 } else { 80 }),
        };
        ensure!(!host.is_empty() && !text.contains(char::is_whitespace), "a URL needs a host");
        let path = path.trim_end_matches('/');
        let base = if path.is_empty() { String::new() } else { format!("/{path}") };
        let (host, authority) = (host.to_owned(), authority.to_owned());
        Ok(Self { tls, login, host, port, authority, base })
    }

    fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port).to_socket_addrs();
        let mut found = found.with_context(|| format!("looking up {}", self.host))?;
        found.next().with_context(|| format!("{} has no address", self.host))
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let byte = after.get(..2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(byte.unwrap_or(b'%'));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn trust(plan: &Plan) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &plan.ca {
        let pem = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.with_context(|| format!("in {}", path.display()))?)?;
        }
        ensure!(!roots.is_empty(), "no certificate in {}", path.display());
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        ensure!(!roots.is_empty(), "the system trusts no authority: give --ca FILE");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(target: &str, proxy: Option<&str>) -> anyhow::Result<Endpoint> {
        let plan = Plan { proxy: proxy.map(str::to_owned), ..Plan::for_target(target) };
        Endpoint::of(&plan)
    }

    #[test]
    fn a_target_may_have_a_path_before_v2() {
        let found = endpoint("http://127.0.0.1:81/mirror/", None).unwrap();
        assert_eq!(found.repository, "/mirror/v2/team/load");
        assert_eq!((found.origin.as_str(), found.address.port()), ("http://127.0.0.1:81", 81));
        assert_eq!(endpoint("http://[::1]", None).unwrap().address.port(), 80);
        assert_eq!(endpoint("https://[::1]:8443", None).unwrap().address.port(), 8443);
    }

    #[test]
    fn a_proxy_is_asked_for_whole_urls_or_for_a_tunnel() {
        let proxy = Some("http://pod:a%3Ab@127.0.0.1:3128");
        let plain = endpoint("http://harbor.example", proxy).unwrap();
        assert_eq!(plain.address.to_string(), "127.0.0.1:3128");
        assert_eq!(plain.before_path, "http://harbor.example");
        assert_eq!(plain.proxy_field, "Proxy-Authorization: Basic cG9kOmE6Yg==\r\n");
        let sealed = endpoint("https://harbor.example", proxy).unwrap();
        assert!(sealed.tunnel.unwrap().starts_with("CONNECT harbor.example:443 HTTP/1.1\r\n"));
        assert_eq!((sealed.before_path.as_str(), sealed.proxy_field.as_str()), ("", ""));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for bad in
            ["", "127.0.0.1", "ftp://x", "http://", "http://u:p@x", "http://x:99999", "http://x/?a"]
        {
            assert!(endpoint(bad, None).is_err(), "{bad}");
        }
        assert!(endpoint("http://127.0.0.1", Some("https://127.0.0.1")).is_err());
    }
}
