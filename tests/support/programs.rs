//! The real programs of a CI job: skopeo, buildah, podman; and whether they are installed.
//!
//! Each runs with a home, a storage and a policy of its own in a temporary folder, so that it
//! neither reads nor changes what the machine has. Its output is searched for secrets.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::{base64, leak};

/// Whether the story that runs on this thread must be skipped because a part is not installed.
/// It says so even when output is captured; under `HARBOR_CONNECTOR_TEST_REQUIRE=1` it fails.
///
/// `parts` are names of programs, or `mount namespaces` for what only root may do.
#[track_caller]
pub(crate) fn lacking(parts: &[&str]) -> bool {
    let missing: Vec<_> = parts.iter().copied().filter(|part| !is_present(part)).collect();
    if missing.is_empty() {
        return false;
    }
    let thread = std::thread::current();
    let story = thread.name().unwrap_or("a story");
    let line = format!("SKIPPED {story}: needs {}", missing.join(", "));
    assert!(std::env::var_os("HARBOR_CONNECTOR_TEST_REQUIRE").is_none_or(|v| v != "1"), "{line}");
    // Not `eprintln!`: the harness keeps that from the reader when a test passes.
    let _ = writeln!(std::io::stderr(), "{line}");
    true
}

fn is_present(part: &str) -> bool {
    if part == "mount namespaces" {
        let tried = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
        return tried.is_ok_and(|status| status.success());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder: PathBuf| folder.join(part).is_file())
}

/// A command that runs `program` where `/etc/hosts` holds `hosts`, in a mount namespace of its own.
pub(crate) fn with_hosts(scratch: &Path, hosts: &str, program: &str) -> Command {
    let file = scratch.join("hosts");
    fs::write(&file, hosts).expect("a hosts file");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    command.arg(file).arg(program);
    command
}

/// The home of one job, with the token it logs in with.
pub(crate) struct Job {
    scratch: TempDir,
    hosts: Option<String>,
    variables: Vec<(String, String)>,
}

impl Job {
    /// A job that logs in to `registry` (`host:port`) with `user` and `password`.
    pub(crate) fn new(registry: &str, user: &str, password: &str) -> Self {
        let scratch = lower_case_folder();
        let at = |name: &str| scratch.path().join(name);
        let containers = at("home/.config/containers");
        for folder in [&containers, &at("run"), &at("tmp")] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let write = |path: PathBuf, text: String| fs::write(path, text).expect("a file");
        let auth = serde_json::json!({
            "auths": {registry: {"auth": base64(format!("{user}:{password}"))}}
        });
        write(at("auth.json"), auth.to_string());
        write(containers.join("policy.json"), POLICY.to_owned());
        write(at("registries.conf"), String::new());
        write(at("containers.conf"), CONTAINERS.to_owned());
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = {:?}\ngraphroot = {:?}\n",
            at("runroot"),
            at("graphroot")
        );
        write(at("storage.conf"), storage);
        Self { scratch, hosts: None, variables: Vec::new() }
    }

    /// The same job where `name` resolves to this machine.
    pub(crate) fn resolving(mut self, name: &str) -> Self {
        self.hosts = Some(format!("127.0.0.1 localhost {name}\n"));
        self
    }

    /// The same job with a variable more in its environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A place for the job's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Runs `line`, whose words are separated by spaces, and returns what it printed.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> String {
        let (ok, stdout, stderr) = self.try_run(line);
        assert!(ok, "{line}\n{stdout}{stderr}");
        stdout
    }

    /// Runs `line`: whether it succeeded, stdout, stderr.
    pub(crate) fn try_run(&self, line: &str) -> (bool, String, String) {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let mut command = match &self.hosts {
            None => Command::new(program),
            Some(hosts) => with_hosts(self.scratch.path(), hosts, program),
        };
        let at = |name: &str| self.scratch.path().join(name);
        let output = command
            .args(words)
            .stdin(Stdio::null())
            .env("HOME", at("home"))
            .env("TMPDIR", at("tmp"))
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("REGISTRY_AUTH_FILE", at("auth.json"))
            .env("CONTAINERS_STORAGE_CONF", at("storage.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", at("registries.conf"))
            .env("CONTAINERS_CONF", at("containers.conf"))
            .env_remove("http_proxy")
            .env_remove("https_proxy")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        leak::assert_absent(&leak::passwords(), &output.stdout, line);
        leak::assert_absent(&leak::passwords(), &output.stderr, line);
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }
}

/// A temporary folder whose name buildah and podman can turn into an image's, which has no
/// capitals.
fn lower_case_folder() -> TempDir {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("job-{}-{number}", std::process::id());
    tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().expect("a temporary folder")
}

const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Neither systemd nor a journal is needed, and no limit is asked for that a small machine refuses.
const CONTAINERS: &str = "[containers]\n\
    default_ulimits = [\"nofile=1024:1024\"]\n\
    [engine]\n\
    cgroup_manager = \"cgroupfs\"\n\
    events_logger = \"none\"\n";
