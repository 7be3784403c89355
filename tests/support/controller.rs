//! The verb `controller` on a cluster, under an account that may do what
//! `deploy/base/controller-rbac.yaml` says and nothing else.
//!
//! A cluster in, a running replica out; what it wrote is searched for secrets when it is dropped.
//! It is ended by its process id.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::cluster::CONTROLLER;
use super::proxy::PROGRAM;
use super::{Answer, Caller, Cluster, PATIENCE, eventually, leak, within};

/// A running replica.
pub(crate) struct Controller {
    child: Child,
    scratch: TempDir,
    /// Where the metrics are.
    pub(crate) admin: SocketAddr,
    /// The name under which it takes part in the election.
    pub(crate) identity: String,
}

impl Controller {
    /// A replica that takes part, with more `flags`.
    pub(crate) fn start(cluster: &Cluster, flags: &[&str]) -> Self {
        Self::launch(&cluster.kubeconfig_of(CONTROLLER), flags)
    }

    /// The same with a kubeconfig at hand.
    pub(crate) fn launch(kubeconfig: &Path, flags: &[&str]) -> Self {
        let lease: &[&str] = match flags.contains(&"--lease-seconds") {
            true => &[],
            false => &["--lease-seconds", LEASE_SECONDS],
        };
        let scratch = TempDir::new().expect("a temporary folder");
        let file = |name: &str| File::create(scratch.path().join(name)).expect("a file");
        let child = Command::new(PROGRAM)
            .args(["controller", "--admin", "127.0.0.1:0"])
            .args(lease)
            .args(flags)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the program starts");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut replica = Self { child, scratch, admin: nowhere, identity: String::new() };
        let line = eventually("the controller's line of JSON", || {
            let ended = replica.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the controller ended: {ended:?}\n{}", replica.log());
            replica.output("stdout").split_once('\n').map(|(line, _)| line.to_owned())
        });
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        replica.admin = line["admin"].as_str().and_then(|text| text.parse().ok()).expect("admin");
        replica.identity = line["identity"].as_str().expect("identity").to_owned();
        replica
    }

    /// The same, once it acts.
    pub(crate) fn elected(cluster: &Cluster, flags: &[&str]) -> Self {
        let replica = Self::start(cluster, flags);
        eventually("the election", || replica.acts().then_some(()));
        replica
    }

    /// Whether it acts.
    #[track_caller]
    pub(crate) fn acts(&self) -> bool {
        self.metric("controller_acts") == Some(1.0)
    }

    /// How many writes it has sent.
    #[track_caller]
    pub(crate) fn writes(&self) -> f64 {
        let text = self.admin("/metrics").text();
        let lines = text.lines().filter(|line| line.contains("controller_writes_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The value of one series of the metrics, without the prefix.
    #[track_caller]
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let wanted = format!("harbor_connector_{series} ");
        let text = self.admin("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok())
    }

    /// The answer of the admin address to a GET of `path`.
    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        Caller::connect(self.admin).ask(&request)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.output("stderr")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        within(PATIENCE, "the controller's end", || child.try_wait().expect("a child"))
    }

    fn output(&self, name: &str) -> String {
        read(&self.scratch.path().join(name))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // Once it has been waited for, both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the log of {}\n{}---", self.identity, self.log());
            return;
        }
        for name in ["stdout", "stderr"] {
            leak::assert_absent(&leak::everything(), self.output(name).as_bytes(), name);
        }
        assert!(!self.log().contains("panic"), "a panic:\n{}", self.log());
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Short, so that a story need not wait long for another replica.
const LEASE_SECONDS: &str = "3";
