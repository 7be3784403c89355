//! Connectors, a token and certificates become named files.
//!
//! [`Asked`] and [`Facts`] in, [`Files`] out; pure: no file, clock or chance, so equal facts give
//! equal files. What users and tools read is written by encoders, never pasted together, except
//! where the form is a line (`.env`) or a URL, whose parts are checked or escaped.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::attributes::Asked;
use super::configuration;
use super::facts::{Direct, Facts};
use super::refusal::{Quoted, Refusal};

/// A set of files by name. They may hold a token: wiped when dropped, never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Files {
    /// Adds a file, in the place of one of the same name.
    pub fn put(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.0.insert(name.to_owned(), Zeroizing::new(content.into()));
    }

    /// Names and contents, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, content)| (name.as_str(), content.as_slice()))
    }

    /// Whether there is a file of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The files of a volume. Files of a class win over those that are always there, later
/// configurations over earlier ones, and what is left out is left out last.
pub fn render(asked: &Asked, facts: &Facts<'_>) -> Result<Files, Refusal> {
    let mut files = built_in(facts);
    for name in &asked.configurations {
        configuration::render(name, asked, facts, &mut files)?;
    }
    for excluded in &asked.excluded {
        if files.0.remove(excluded).is_none() && !ALWAYS.contains(&excluded.as_str()) {
            return Err(Refusal::FileUnknown(Quoted::new(excluded)));
        }
    }
    if files.iter().map(|(_, content)| content.len()).sum::<usize>() > VOLUME_BYTES_MAX {
        return Err(Refusal::Large(VOLUME_BYTES_MAX));
    }
    Ok(files)
}

/// The files that every volume has.
fn built_in(facts: &Facts<'_>) -> Files {
    let mut files = Files::default();
    let Some(last) = facts.connectors.last() else {
        return files;
    };
    let proxy = proxy_url(facts);
    let direct = no_proxy(facts);
    let env = Zeroizing::new(format!(
        "http_proxy={}\nhttps_proxy={}\nno_proxy={direct}\n",
        *proxy, *proxy
    ));
    files.put(".env", env.as_bytes());
    files.put("http.proxy", proxy.as_bytes());
    files.put("https.proxy", proxy.as_bytes());
    files.put("context.token", facts.token);
    files.put("connector.status.proxyAddress", last.proxy_url.as_str());
    let own = own_certificates(facts);
    if let Some(own) = &own {
        for name in ["context.proxy.caCert", "ca.crt", "ca.cert"] {
            files.put(name, own.as_str());
        }
    }
    // A bundle: what SSL_CERT_FILE names takes the place of the system's roots.
    let bundle = [&*facts.trust.system, own.as_deref().unwrap_or_default()].concat();
    files.put("ca-bundle.crt", bundle);
    files
}

/// The certificates of the forward proxy, in PEM: ours, and those that a connector's status names.
pub(super) fn own_certificates(facts: &Facts<'_>) -> Option<String> {
    let named = facts.connectors.iter().filter_map(|connector| connector.ca.as_deref());
    let mut all = String::new();
    for pem in facts.trust.own.as_deref().into_iter().chain(named) {
        if !all.contains(pem.trim()) {
            all.push_str(pem.trim());
            all.push('\n');
        }
    }
    (!all.is_empty()).then_some(all)
}

/// The forward proxy's URL: its user names all connectors, its password is the token. Of several
/// connectors the last one's proxy is taken. The port is always there: curl takes 1080 for a proxy
/// without one (curl(1), "--proxy"), and others take that of the scheme.
fn proxy_url(facts: &Facts<'_>) -> Zeroizing<String> {
    let user: Vec<String> = facts
        .connectors
        .iter()
        .map(|connector| {
            let reference = &connector.reference;
            format!("{}%2F{}", reference.namespace(), reference.name())
        })
        .collect();
    let (scheme, authority) = facts.connectors.last().map_or(("http", String::new()), |last| {
        (last.proxy.scheme.as_str(), last.proxy.to_host_and_port())
    });
    let token = escaped(facts.token);
    Zeroizing::new(format!("{scheme}://{}:{}@{authority}", user.join(","), *token))
}

/// `text` as a part of a URL's user information: all but unreserved characters escaped (RFC 3986
/// §2.3). The characters of a JWT stay as they are.
fn escaped(text: &str) -> Zeroizing<String> {
    // Room for every byte escaped, so that the text never moves.
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 3));
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What is reached without the forward proxy: loopback, the cluster's own names and the
/// connectors' proxies, whose addresses are for the reverse way. A name that covers a connector's
/// own registry is left out, because that registry must be reached through the proxy.
fn no_proxy(facts: &Facts<'_>) -> String {
    let Direct { cluster_domain, more } = facts.direct;
    let mut names: Vec<String> =
        ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().collect();
    let cluster =
        [".svc".to_owned(), format!(".svc.{cluster_domain}"), format!(".{cluster_domain}")];
    let cluster = cluster.into_iter().chain(["kubernetes.default".to_owned()]);
    let registries = || facts.connectors.iter().flat_map(|connector| &connector.registry_hosts);
    for name in cluster.chain(more.iter().cloned()) {
        if !names.contains(&name) && !registries().any(|host| covers(&name, host)) {
            names.push(name);
        }
    }
    for connector in facts.connectors {
        let host = connector.proxy.host.to_string();
        if !names.iter().any(|name| covers(name, &host)) && !registries().any(|name| *name == host)
        {
            names.push(host);
        }
    }
    names.join(",")
}

/// Whether an entry of `no_proxy` speaks of `host`: itself, and with or without a leading dot what
/// ends in it (Go, `golang.org/x/net/http/httpproxy`).
fn covers(entry: &str, host: &str) -> bool {
    let suffix = entry.trim_start_matches('.');
    let below = host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    below || (!entry.starts_with('.') && entry == host)
}

/// The files that may always be left out, also where they would not be.
const ALWAYS: [&str; 9] = [
    ".env",
    "http.proxy",
    "https.proxy",
    "context.token",
    "context.proxy.caCert",
    "ca.crt",
    "ca.cert",
    "ca-bundle.crt",
    "connector.status.proxyAddress",
];

/// The files of one volume together, as much as a Secret or a ConfigMap may hold. The system's
/// roots are a quarter of it.
pub(super) const VOLUME_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests;
