//! Debian's dockerd: the one client that pushes with docker's own code and not with a library that
//! others share.
//!
//! What it may trust in, out comes a daemon that can push and pull. Its images, its socket and its
//! state are in a temporary folder, it makes no network, and it is ended by its process id. Its
//! own log is searched for secrets.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::programs::with_hosts;
use super::{base64, digest_of, eventually, leak, noise};

/// What the stories with dockerd need to be installed.
pub(crate) const NEEDED: [&str; 4] = ["dockerd", "docker", "containerd", "tar"];

/// A running daemon.
pub(crate) struct Dockerd {
    child: Child,
    scratch: TempDir,
}

/// What a daemon is started with.
#[derive(Default)]
pub(crate) struct Surroundings<'a> {
    /// Registries (`host:port`) that it may speak plain HTTP to; loopback addresses always.
    pub(crate) insecure: &'a [&'a str],
    /// Its environment, the proxy variables above all.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// A name that resolves to this machine; mount namespaces are needed for it.
    pub(crate) resolving: Option<&'a str>,
}

impl Dockerd {
    /// A daemon that is ready.
    pub(crate) fn start(surroundings: &Surroundings<'_>) -> Self {
        let scratch = TempDir::new().expect("a temporary folder");
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("home")).expect("a folder");
        fs::write(at("daemon.json"), "{}").expect("a file");
        let mut command = match surroundings.resolving {
            None => Command::new("dockerd"),
            Some(name) => {
                with_hosts(scratch.path(), &format!("127.0.0.1 localhost {name}\n"), "dockerd")
            }
        };
        let log = File::create(at("log")).expect("a log");
        command
            .arg("--config-file")
            .arg(at("daemon.json"))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(socket(scratch.path()))
            // Nothing is run in it: it needs neither a bridge nor the firewall.
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .args(["--storage-driver", "vfs"])
            .args(surroundings.insecure.iter().flat_map(|host| ["--insecure-registry", *host]))
            .env("HOME", at("home"))
            .env_remove("http_proxy")
            .env_remove("https_proxy")
            .envs(surroundings.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log);
        let child = command.spawn().expect("dockerd starts");
        let mut daemon = Self { child, scratch };
        eventually("dockerd answers", || {
            let ended = daemon.child.try_wait().expect("a child");
            assert!(ended.is_none(), "dockerd ended: {ended:?}\n{}", daemon.log());
            daemon.try_run(&["version"]).0.then_some(())
        });
        daemon
    }

    /// From now on it logs in to `registry` with `user` and `password`.
    pub(crate) fn log_in(&self, registry: &str, user: &str, password: &str) {
        let auth = serde_json::json!({
            "auths": {registry: {"auth": base64(format!("{user}:{password}"))}}
        });
        fs::write(self.scratch.path().join("config.json"), auth.to_string()).expect("a file");
    }

    /// Makes an image of one layer under `name`; other seeds make other layers.
    pub(crate) fn make(&self, name: &str, seed: u64) {
        let folder = self.scratch.path().join(format!("rootfs-{seed}"));
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("noise"), noise(seed, 3_000_000)).expect("a file");
        let archive = folder.with_extension("tar");
        let mut pack = Command::new("tar");
        let packed = pack.arg("-C").arg(&folder).arg("-cf").arg(&archive).arg(".");
        assert!(packed.status().expect("tar starts").success());
        self.run(&["import", &archive.display().to_string(), name]);
    }

    /// The digest of the file that [`make`](Self::make) put into the image `name`, as it is now.
    pub(crate) fn content(&self, name: &str) -> String {
        let container = self.run(&["create", name, "nothing"]);
        let to = self.scratch.path().join("content");
        let from = format!("{}:/noise", container.trim());
        self.run(&["cp", &from, &to.display().to_string()]);
        self.run(&["rm", container.trim()]);
        digest_of(&fs::read(to).expect("the file"))
    }

    /// Runs `docker` with `words` against this daemon, and returns what it printed.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let (ok, stdout, stderr) = self.try_run(words);
        assert!(ok, "docker {words:?}\n{stdout}{stderr}\n{}", self.log());
        stdout
    }

    /// The same: whether it succeeded, stdout, stderr.
    pub(crate) fn try_run(&self, words: &[&str]) -> (bool, String, String) {
        let output = Command::new("docker")
            .arg("--host")
            .arg(socket(self.scratch.path()))
            .args(words)
            .env("DOCKER_CONFIG", self.scratch.path())
            .env_remove("http_proxy")
            .env_remove("https_proxy")
            .stdin(Stdio::null())
            .output()
            .expect("docker starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        leak::assert_absent(&leak::passwords(), &output.stdout, "docker's output");
        leak::assert_absent(&leak::passwords(), &output.stderr, "docker's errors");
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends the containerd that it started, when it is asked to end.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        if !std::thread::panicking() {
            leak::assert_absent(&leak::passwords(), self.log().as_bytes(), "dockerd's log");
        }
    }
}

fn socket(scratch: &Path) -> String {
    let path: PathBuf = scratch.join("sock");
    format!("unix://{}", path.display())
}
