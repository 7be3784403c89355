//! The container image, built by `deploy/image` from the program under test and run by podman as a
//! cluster would run it: not root, nothing writable, no capability, no new privileges.
//!
//! Images and containers are kept in a temporary folder and removed with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::proxy::{PROGRAM, Proxy};
use super::{Manifests, eventually, leak};

/// What the stories with containers need to be installed.
pub(crate) const NEEDED: [&str; 4] = ["buildah", "podman", "runc", "strip"];

/// The filter of system calls that a container runs under.
pub(crate) enum Seccomp {
    /// The runtime's own, which knows no io_uring: it is as if the kernel had none (ENOSYS).
    Default,
    /// The same list with the answer of Docker and containerd: io_uring is not permitted (EPERM).
    NotPermitted,
    /// The profile that `deploy/io-uring` ships.
    Ours,
}

/// The built image.
pub(crate) struct Image {
    scratch: TempDir,
}

impl Image {
    /// Builds it.
    pub(crate) fn build() -> Self {
        let image = Self { scratch: TempDir::new().expect("a temporary folder") };
        // The small machine's limits are asked for, where the defaults are refused.
        let configuration = "[containers]\n\
            default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
            [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
        fs::write(image.configuration(), configuration).expect("a file");
        let mut build = Command::new(root().join("deploy/image"));
        build.args(["--tag", NAME, "--program", PROGRAM, "--"]).args(image.storage());
        let built = build.stdin(Stdio::null()).output().expect("deploy/image starts");
        assert!(built.status.success(), "{}", text(&built));
        image
    }

    /// Runs one verb to its end: whether it succeeded, and all that it printed.
    pub(crate) fn run(&self, seccomp: &Seccomp, arguments: &[&str]) -> (bool, String) {
        self.run_with(seccomp, &[], arguments)
    }

    /// The same with `more` flags for podman.
    pub(crate) fn run_with(
        &self,
        seccomp: &Seccomp,
        more: &[&str],
        arguments: &[&str],
    ) -> (bool, String) {
        let mut command = self.podman(seccomp, more);
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("podman starts");
        leak::assert_absent(&leak::everything(), text(&output).as_bytes(), "the container");
        (output.status.success(), text(&output))
    }

    /// Starts a verb that serves, with `more` flags for podman, and waits until it says that it
    /// does.
    pub(crate) fn serve(&self, seccomp: &Seccomp, more: &[&str], arguments: &[&str]) -> Serving {
        let scratch = TempDir::new().expect("a temporary folder");
        let file = |name: &str| File::create(scratch.path().join(name)).expect("a file");
        let child = self
            .podman(seccomp, more)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("podman starts");
        let mut serving = Serving { child, scratch };
        eventually("its line of JSON", || {
            let ended = serving.child.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", serving.text());
            serving.read("stdout").contains("}\n").then_some(())
        });
        serving
    }

    /// A proxy on `manifests` in a container.
    pub(crate) fn start(&self, seccomp: &Seccomp, manifests: &Manifests) -> Proxy {
        Proxy::start_through(manifests, &[], |scratch| {
            let folder = scratch.join("manifests");
            self.podman(seccomp, &["--volume", &format!("{0}:{0}:ro", folder.display())])
        })
    }

    /// Runs the image with `more` flags; the program's arguments are to follow.
    fn podman(&self, seccomp: &Seccomp, more: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command
            .env("CONTAINERS_CONF", self.configuration())
            .args(self.storage())
            .args(["run", "--rm", "--network", "host", "--read-only", "--cap-drop", "all"])
            .args(["--security-opt", "no-new-privileges"])
            .args(more);
        let profile = match seccomp {
            Seccomp::Default => None,
            Seccomp::NotPermitted => Some(self.not_permitted()),
            Seccomp::Ours => Some(root().join("deploy/io-uring/seccomp.json")),
        };
        if let Some(profile) = profile {
            command.args(["--security-opt", &format!("seccomp={}", profile.display())]);
        }
        command.arg(NAME);
        command
    }

    /// The runtime's profile, with the answer to all that it does not list as Docker's gives it
    /// (moby 25.0, profiles/seccomp/default.json: `defaultErrnoRet` 1).
    fn not_permitted(&self) -> PathBuf {
        let text = fs::read_to_string("/usr/share/containers/seccomp.json").expect("a profile");
        let mut profile: Value = serde_json::from_str(&text).expect("JSON");
        assert!(!text.contains("io_uring_setup"), "this runtime lists io_uring");
        profile["defaultErrnoRet"] = 1.into();
        profile["defaultErrno"] = "EPERM".into();
        let file = self.scratch.path().join("not-permitted.json");
        fs::write(&file, profile.to_string()).expect("a file");
        file
    }

    fn storage(&self) -> [String; 3] {
        let at = |name: &str| self.scratch.path().join(name).display().to_string();
        [
            format!("--root={}", at("root")),
            format!("--runroot={}", at("run")),
            "--storage-driver=vfs".to_owned(),
        ]
    }

    fn configuration(&self) -> PathBuf {
        self.scratch.path().join("containers.conf")
    }
}

/// A verb that serves in a container.
pub(crate) struct Serving {
    child: Child,
    scratch: TempDir,
}

impl Serving {
    /// Ends it as a kubelet does; whether it ended well, and all that it printed.
    pub(crate) fn end(mut self) -> (bool, String) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("it runs");
        let status = eventually("its end", || self.child.try_wait().expect("a child"));
        leak::assert_absent(&leak::everything(), self.text().as_bytes(), "the container");
        (status.success(), self.text())
    }

    fn text(&self) -> String {
        self.read("stdout") + &self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.scratch.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Its container goes with the image's folder; once it was waited for this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // What a failed story left running, then what it was made of.
        for arguments in [["rm", "--all", "--force"], ["rmi", "--all", "--force"]] {
            let mut podman = Command::new("podman");
            podman.env("CONTAINERS_CONF", self.configuration()).args(self.storage());
            let _ = podman.args(arguments).stdin(Stdio::null()).output();
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

const NAME: &str = "localhost/harbor-connector:test";
