//! Debian's dockerd as a node has it: a daemon that does all transfers itself, in its own
//! environment.
//!
//! Variables in, a daemon on a socket of its own out; it is told what to do through `docker`. It
//! needs root, and nothing of the machine but a temporary folder.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{eventually, leak};

/// What a story with it needs to be installed.
pub(crate) const NEEDED: [&str; 3] = ["dockerd", "docker", "containerd"];

/// A running dockerd.
pub(crate) struct Dockerd {
    child: Child,
    scratch: TempDir,
}

impl Dockerd {
    /// One whose environment has `variables`.
    pub(crate) fn with(variables: &[(&str, &str)]) -> Self {
        let scratch = TempDir::new().expect("a temporary folder");
        let at = |name: &str| scratch.path().join(name);
        fs::write(at("daemon.json"), "{}").expect("a file");
        let log = File::create(at("log")).expect("a log");
        let child = Command::new("dockerd")
            .args(["--bridge", "none", "--iptables=false", "--storage-driver", "vfs"])
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--config-file")
            .arg(at("daemon.json"))
            .arg(format!("--host=unix://{}", at("socket").display()))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let mut daemon = Self { child, scratch };
        eventually("dockerd answers", || {
            assert!(daemon.child.try_wait().expect("a child").is_none(), "{}", daemon.log());
            daemon.try_docker(&["version"]).0.then_some(())
        });
        daemon
    }

    /// A place for a story's files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Has it do something, which must succeed.
    #[track_caller]
    pub(crate) fn docker(&self, words: &[&str]) -> String {
        let (ok, text) = self.try_docker(words);
        assert!(ok, "docker {words:?}: {text}\n{}", self.log());
        text
    }

    /// Whether that succeeds, and what it says.
    pub(crate) fn try_docker(&self, words: &[&str]) -> (bool, String) {
        let host = format!("unix://{}", self.path("socket").display());
        let output = Command::new("docker")
            .args(["--host", &host])
            .args(words)
            .env("DOCKER_CONFIG", self.path("client"))
            .output()
            .expect("docker starts");
        let text = [output.stdout, output.stderr].concat();
        leak::assert_absent(&leak::passwords(), &text, "what docker says");
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // By a signal that it can act on: it started a daemon of its own.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
        leak::assert_absent(&leak::passwords(), self.log().as_bytes(), "dockerd's log");
    }
}
