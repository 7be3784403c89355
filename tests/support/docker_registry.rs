//! Debian's docker-registry with a password: the registry that stories push to for real.
//!
//! Plain or TLS in, an address out. It keeps its blobs in a temporary folder, which is also where a
//! story reads what was really stored. Its log is searched for the callers' tokens.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{PASSWORD, USER, leak, within};

/// What the stories with a real registry need to be installed.
pub(crate) const NEEDED: [&str; 2] = ["docker-registry", "htpasswd"];

/// What a docker-registry that takes tokens calls itself, and who it believes.
pub(crate) const SERVICE: &str = "stories";

/// The environment of one that its configuration tells everything.
fn no_variables(_folder: &str) -> Vec<(String, String)> {
    Vec::new()
}

/// A running docker-registry.
pub(crate) struct DockerRegistry {
    child: Child,
    scratch: TempDir,
    port: u16,
    ca: Option<String>,
    name: &'static str,
}

impl DockerRegistry {
    /// One that speaks plain HTTP.
    pub(crate) fn http() -> Self {
        Self::start(None, USER, PASSWORD)
    }

    /// One that speaks plain HTTP and is called `name`.
    pub(crate) fn http_called(name: &'static str) -> Self {
        let mut registry = Self::http();
        registry.name = name;
        registry
    }

    /// One that speaks TLS, with a certificate for `name`.
    pub(crate) fn https_called(name: &'static str) -> Self {
        let certificates = Certificates::issue(&["127.0.0.1", name]);
        let mut registry = Self::start(Some(certificates), USER, PASSWORD);
        registry.name = name;
        registry
    }

    /// One that speaks plain HTTP, for one account: the registry behind a front.
    pub(crate) fn for_account(user: &str, password: &str) -> Self {
        Self::start(None, user, password)
    }

    /// One that speaks TLS, with a certificate of a CA that nobody else knows.
    pub(crate) fn https() -> Self {
        let certificates = Certificates::issue(&["127.0.0.1", "localhost"]);
        Self::start(Some(certificates), USER, PASSWORD)
    }

    /// One that takes nothing but tokens of the service at `realm`, signed under `certificate`.
    pub(crate) fn with_tokens(realm: &str, certificate: &str) -> Self {
        Self::try_ports(None, certificate, no_variables, |path| {
            format!(
                "{{token: {{realm: {realm:?}, service: {SERVICE}, issuer: {SERVICE}, \
                     rootcertbundle: {path:?}}}}}"
            )
        })
    }

    /// One that speaks plain HTTP and is told by its environment alone who may log in. `folder` is
    /// where the variables say that the file with the text `known` lies.
    pub(crate) fn told_by(variables: &[(&str, &str)], folder: &str, known: &str) -> Self {
        let told = |here: &str| {
            let told =
                |(name, value): &(&str, &str)| ((*name).to_owned(), value.replace(folder, here));
            variables.iter().map(told).collect()
        };
        Self::try_ports(None, known, told, |_| "{}".to_owned())
    }

    fn start(tls: Option<Certificates>, user: &str, password: &str) -> Self {
        Self::try_ports(tls, &htpasswd(user, password), no_variables, |path| {
            format!("{{htpasswd: {{realm: registry, path: {path:?}}}}}")
        })
    }

    /// `known` is the text of the file by which it knows who logs in, `auth` what its
    /// configuration says of that file, `told` its environment if that file is in the folder.
    fn try_ports(
        tls: Option<Certificates>,
        known: &str,
        told: impl Fn(&str) -> Vec<(String, String)>,
        auth: impl Fn(PathBuf) -> String,
    ) -> Self {
        // The port is free when it is chosen and may be taken a moment later: then try again.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .expect("a free port")
                .port();
            if let Some(registry) = Self::try_start(port, tls.as_ref(), known, &told, &auth) {
                return registry;
            }
        }
        panic!("docker-registry does not start");
    }

    fn try_start(
        port: u16,
        tls: Option<&Certificates>,
        known: &str,
        told: impl Fn(&str) -> Vec<(String, String)>,
        auth: impl Fn(PathBuf) -> String,
    ) -> Option<Self> {
        let scratch = TempDir::new().expect("a temporary folder");
        let at = |name: &str| scratch.path().join(name);
        let write = |name: &str, text: &str| {
            fs::write(at(name), text).expect("a file");
            at(name)
        };
        let auth = auth(write("htpasswd", known));
        let lines = tls.map_or_else(String::new, |tls| {
            let (certificate, key) = (write("leaf.crt", &tls.leaf), write("leaf.key", &tls.key));
            format!("  tls: {{certificate: {certificate:?}, key: {key:?}}}\n")
        });
        let configuration = format!(
            "version: 0.1\n\
             log: {{level: info, formatter: text}}\n\
             storage: {{filesystem: {{rootdirectory: {:?}}}, delete: {{enabled: true}}}}\n\
             auth: {auth}\n\
             http:\n  addr: 127.0.0.1:{port}\n{lines}",
            at("data")
        );
        let configuration = write("config.yml", &configuration);
        let log = File::create(at("log")).expect("a log");
        let child = Command::new("docker-registry")
            .envs(told(&scratch.path().display().to_string()))
            .arg("serve")
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("docker-registry starts");
        let ca = tls.map(|tls| tls.ca.clone());
        let mut registry = Self { child, scratch, port, ca, name: "127.0.0.1" };
        let up = within(Duration::from_secs(30), "docker-registry listens", || {
            if registry.child.try_wait().expect("a child").is_some() {
                return Some(false);
            }
            registry.log().contains("listening on").then_some(true)
        });
        up.then_some(registry)
    }

    /// What goes into a connector's `spec.address`.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// `host:port`, for those who may go to it directly.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }

    /// The PEM certificate of its CA; empty for plain HTTP.
    pub(crate) fn ca(&self) -> &str {
        self.ca.as_deref().unwrap_or_default()
    }

    /// The digest that `tag` of `repository` stands for, if it was pushed.
    pub(crate) fn digest(&self, repository: &str, tag: &str) -> Option<String> {
        let path = format!("{repository}/_manifests/tags/{tag}/current/link");
        fs::read_to_string(self.repositories().join(path)).ok()
    }

    /// Whether `repository` holds the blob `digest`, by upload or by mount.
    pub(crate) fn holds(&self, repository: &str, digest: &str) -> bool {
        let path = format!("{repository}/_layers/{}/link", digest.replace(':', "/"));
        self.repositories().join(path).is_file()
    }

    /// The bytes stored under `digest`.
    pub(crate) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let hex = digest.strip_prefix("sha256:")?;
        let path = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", hex.get(..2)?);
        fs::read(self.scratch.path().join(path)).ok()
    }

    /// Another password from now on; the old one is refused.
    pub(crate) fn change_password(&self, password: &str) {
        let next = self.scratch.path().join("htpasswd.next");
        fs::write(&next, htpasswd(USER, password)).expect("a file");
        fs::rename(next, self.scratch.path().join("htpasswd")).expect("the same file system");
    }

    /// Its log, requests included.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.scratch.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The folder of its blobs and repositories.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.scratch.path().join("data/docker/registry/v2")
    }

    fn repositories(&self) -> PathBuf {
        self.blobs().join("repositories")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            // Each request also leaves longer lines, which say the same.
            let requests = log.lines().filter(|line| line.starts_with("127.0.0.1 - "));
            let requests: Vec<_> = requests.collect();
            let last = &requests[requests.len().saturating_sub(40)..];
            eprintln!("--- docker-registry's last requests\n{}\n---", last.join("\n"));
        }
        leak::assert_absent(&leak::tokens(), self.log().as_bytes(), "docker-registry's log");
    }
}

/// A CA that nobody else knows, and one certificate of it; all PEM.
pub(crate) struct Certificates {
    /// The CA's certificate.
    pub(crate) ca: String,
    /// The certificate.
    pub(crate) leaf: String,
    /// Its key.
    pub(crate) key: String,
}

impl Certificates {
    /// A certificate for `names`, which may be addresses.
    pub(crate) fn issue(names: &[&str]) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "the stories' own CA");
        let ca_certificate = ca.self_signed(&ca_key).expect("a CA");
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(names).expect("parameters");
        let issuer = Issuer::new(ca, ca_key);
        let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
        Self { ca: ca_certificate.pem(), leaf: leaf.pem(), key: key.serialize_pem() }
    }
}

fn htpasswd(user: &str, password: &str) -> String {
    let output = Command::new("htpasswd").args(["-Bbn", user, password]).output();
    let output = output.expect("htpasswd starts");
    assert!(output.status.success(), "htpasswd: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::image::Layout;
    use crate::support::programs::{Job, lacking};

    #[test]
    fn skopeo_pushes_straight_to_the_registry_which_knows_what_it_holds() {
        if lacking(&[NEEDED.as_slice(), &["skopeo"]].concat()) {
            return;
        }
        for registry in [DockerRegistry::http(), DockerRegistry::https()] {
            let job = Job::new(&registry.authority(), USER, PASSWORD);
            let layout = Layout::image(&job.path("image"), 2, 1);
            job.run(&format!(
                "skopeo copy --preserve-digests --dest-tls-verify=false {} docker://{}/team/app:v1",
                layout.source(),
                registry.authority()
            ));
            assert_eq!(registry.digest("team/app", "v1").as_ref(), Some(&layout.digest));
            assert!(registry.holds("team/app", &layout.layers[0]));
            assert!(!registry.holds("team/other", &layout.layers[0]));
        }
    }
}
