//! The configurations that a volume may hold: those of this program and those of a class.
//!
//! A name, what was asked for and [`Facts`] in, files out; pure. JSON, TOML and YAML are written by
//! encoders. A configuration that a class defines takes the place of ours of the same name.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::attributes::Asked;
use super::facts::{Facts, basic};
use super::refusal::{Quoted, Refusal};
use super::render::Files;
use super::template;

/// Adds the files of the configuration `name` to `files`. With classes that differ, the later
/// class wins for equal file names.
pub(super) fn render(
    name: &str,
    asked: &Asked,
    facts: &Facts<'_>,
    files: &mut Files,
) -> Result<(), Refusal> {
    let none = BTreeMap::new();
    let given = asked.params.get(name).unwrap_or(&none);
    let mut found = false;
    for class in facts.classes {
        let mut of_class = class.configurations.iter().filter(|one| one.name == name);
        if let Some(configuration) = of_class.next() {
            template::render(configuration, class, given, facts, files)?;
            found = true;
        } else if let Some((_, ours)) = OURS.iter().find(|(ours, _)| *ours == name) {
            ours(&Given { name, params: given, asked }, facts, files)?;
            found = true;
        }
    }
    if found {
        return Ok(());
    }
    let of_classes = facts.classes.iter().flat_map(|class| &class.configurations);
    let mut known: Vec<&str> =
        of_classes.map(|configuration| configuration.name.as_str()).collect();
    known.extend(OURS.iter().map(|(name, _)| *name));
    known.sort_unstable();
    known.dedup();
    Err(Refusal::ConfigurationUnknown { name: Quoted::new(name), known: known.join(", ") })
}

/// What one of our configurations is given.
struct Given<'a> {
    name: &'a str,
    params: &'a BTreeMap<String, String>,
    asked: &'a Asked,
}

impl Given<'_> {
    /// Refuses the first parameter that is not among `known`.
    fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        let unknown = self.params.keys().find(|name| !known.contains(&name.as_str()));
        unknown.map_or(Ok(()), |name| {
            Err(Refusal::ParamUnknown {
                configuration: Quoted::new(self.name),
                name: Quoted::new(name),
                known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
            })
        })
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        match self.params.get(name).map(String::as_str) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(self.bad(name, "is \"true\" or \"false\"")),
        }
    }

    fn bad(&self, name: &str, why: &str) -> Refusal {
        Refusal::ParamValue {
            configuration: Quoted::new(self.name),
            name: Quoted::new(name),
            why: why.to_owned(),
        }
    }
}

/// `config.json`: what skopeo, buildah, podman, docker and others log in with. The key is the
/// proxy's host, with its port where that is not the scheme's own: docker and BuildKit know no
/// other key.
fn config(given: &Given<'_>, facts: &Facts<'_>, files: &mut Files) -> Result<(), Refusal> {
    #[derive(Serialize)]
    struct Login<'a> {
        auth: &'a str,
    }
    given.only(&[])?;
    let credential = basic(facts.token);
    let mut logins = BTreeMap::new();
    for connector in facts.connectors {
        logins.insert(connector.proxy.authority(), Login { auth: &credential });
    }
    let text = serde_json::to_vec_pretty(&BTreeMap::from([("auths", logins)]));
    put(given, "config.json", text.map_err(|cause| cause.to_string()), files)
}

/// `buildkitd.toml`: which registries BuildKit's daemon reaches over plain HTTP, or with which CA.
fn buildkitd(given: &Given<'_>, facts: &Facts<'_>, files: &mut Files) -> Result<(), Refusal> {
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Daemon<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        insecure_entitlements: Vec<&'a str>,
        registry: BTreeMap<String, Registry>,
    }
    #[derive(Clone, Serialize)]
    struct Registry {
        #[serde(skip_serializing_if = "Option::is_none")]
        http: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ca: Option<[String; 1]>,
    }
    given.only(&["entitlements", "mountPath", "tls"])?;
    let tls = given.flag("tls", false)?;
    let mut registry = BTreeMap::new();
    for connector in facts.connectors {
        let entry = if tls || connector.proxy.scheme.as_str() == "https" {
            Registry { http: None, ca: Some([authority_file(given)?]) }
        } else {
            Registry { http: Some(true), ca: None }
        };
        registry.insert(connector.proxy.authority(), entry);
    }
    let entitlements = ["network.host", "security.insecure"];
    let insecure_entitlements =
        if given.flag("entitlements", true)? { entitlements.into() } else { Vec::new() };
    let text = toml::to_string(&Daemon { insecure_entitlements, registry });
    put(given, "buildkitd.toml", text.map_err(|cause| cause.to_string()), files)
}

/// The path of `ca.crt` where the container sees it. Only the Pod knows where it mounts a volume.
fn authority_file(given: &Given<'_>) -> Result<String, Refusal> {
    let path = given.params.get("mountPath").ok_or_else(|| Refusal::ParamMissing {
        configuration: Quoted::new(given.name),
        name: Quoted::new("mountPath"),
    })?;
    if !path.starts_with('/') || path.chars().any(char::is_control) {
        return Err(given.bad("mountPath", "is the absolute path at which the volume is mounted"));
    }
    Ok(format!("{}/ca.crt", path.trim_end_matches('/')))
}

/// `config.yaml` and `HARBOR_ENCRYPTION_KEY` for harbor-cli, which reaches Harbor's own address
/// through the forward proxy and wants a password: a dummy, because the proxy puts in the real one.
fn harbor_cli(given: &Given<'_>, facts: &Facts<'_>, files: &mut Files) -> Result<(), Refusal> {
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Configuration {
        current_credential_name: String,
        credentials: Vec<Credential>,
    }
    #[derive(Serialize)]
    struct Credential {
        name: String,
        username: &'static str,
        password: String,
        serveraddress: String,
    }
    given.only(&[])?;
    // The password is no secret, so neither is the key: made of the Pod's uid, it stays the same
    // as long as the volume does, and an unchanged volume is not written again.
    let key = digest(&SHA256, given.asked.pod.uid.as_bytes());
    let mut credentials = Vec::new();
    for connector in facts.connectors {
        let name = connector.reference.as_str().to_owned();
        let sealed = sealed(key.as_ref(), &name).ok_or("the cipher refused").map_err(str::to_owned);
        let password = sealed.map_err(|why| failed(given, "config.yaml", &why))?;
        let serveraddress = connector.address.clone();
        credentials.push(Credential { name, username: "connector-proxy", password, serveraddress });
    }
    let first = facts.connectors.first().map(|connector| connector.reference.as_str());
    let current_credential_name = first.unwrap_or_default().to_owned();
    let text = serde_saphyr::to_string(&Configuration { current_credential_name, credentials });
    files.put("HARBOR_ENCRYPTION_KEY", STANDARD.encode(key));
    put(given, "config.yaml", text.map_err(|cause| cause.to_string()), files)
}

/// The dummy password as harbor-cli keeps it (goharbor/harbor-cli, `pkg/utils/encryption.go`):
/// Base64 of a nonce and of what AES-256-GCM makes of the text under it.
fn sealed(key: &[u8], name: &str) -> Option<String> {
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    // One text for one name under one key: the nonce may follow from the name.
    let mut nonce = [0; 12];
    nonce.copy_from_slice(digest(&SHA256, name.as_bytes()).as_ref().get(..12)?);
    let mut sealed = DUMMY_PASSWORD.as_bytes().to_vec();
    let place = Nonce::assume_unique_for_key(nonce);
    cipher.seal_in_place_append_tag(place, Aad::empty(), &mut sealed).ok()?;
    Some(STANDARD.encode([nonce.as_slice(), &sealed].concat()))
}

fn put(
    given: &Given<'_>,
    file: &str,
    text: Result<impl Into<Vec<u8>>, String>,
    files: &mut Files,
) -> Result<(), Refusal> {
    files.put(file, text.map_err(|why| failed(given, file, &why))?);
    Ok(())
}

fn failed(given: &Given<'_>, file: &str, why: &str) -> Refusal {
    Refusal::Template {
        configuration: Quoted::new(given.name),
        file: Quoted::new(file),
        why: Quoted::new(why),
    }
}

type Ours = fn(&Given<'_>, &Facts<'_>, &mut Files) -> Result<(), Refusal>;

/// The configurations of this program. `config` is the older name of `registry-config`.
const OURS: [(&str, Ours); 4] = [
    ("buildkitd", buildkitd),
    ("config", config),
    ("harbor-cli-config", harbor_cli),
    ("registry-config", config),
];

/// Harbor-cli takes 8 to 256 characters with a capital, a small letter and a digit.
const DUMMY_PASSWORD: &str = "Connector-proxy-1";
