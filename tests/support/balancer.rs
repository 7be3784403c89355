//! A Service of several replicas: HAProxy, which sends each new connection to one that is ready.
//!
//! Replicas come in while it runs, as endpoints do. Like kube-proxy it balances connections and not
//! requests, asks nobody a second time, and leaves connections alone that are open when their
//! replica stops being ready.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

use super::{Proxy, eventually};

/// What it needs to be installed.
pub(crate) const NEEDED: [&str; 1] = ["haproxy"];

/// A running balancer.
pub(crate) struct Balancer {
    child: Child,
    scratch: TempDir,
    /// Where callers connect.
    pub(crate) address: SocketAddr,
}

impl Balancer {
    /// One without any replica.
    pub(crate) fn start() -> Self {
        let scratch = TempDir::new().expect("a temporary folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        // The socket is handed on: so its port is known, and nobody else's.
        fcntl_setfd(&listener, FdFlags::empty()).expect("it is open");
        let file = scratch.path().join("haproxy.cfg");
        let text = CONFIGURATION
            .replace("COMMANDS", &scratch.path().join("commands").display().to_string())
            .replace("LISTENER", &listener.as_raw_fd().to_string());
        fs::write(&file, text).expect("a file");
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("haproxy")
            .env("PATH", format!("{path}:/usr/sbin"))
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(scratch.path().join("log")).expect("a file"))
            .spawn()
            .expect("haproxy starts");
        let balancer = Self { child, scratch, address };
        eventually("its commands", || UnixStream::connect(balancer.commands()).ok());
        balancer
    }

    /// Takes a replica in, and waits until it is sent connections.
    pub(crate) fn add(&self, name: &str, proxy: &Proxy) {
        let (listen, admin) = (proxy.listen, proxy.admin.port());
        let check = format!("check port {admin} inter 50ms rise 1 fall 1");
        let answer = self.command(&format!("add server replicas/{name} {listen} {check}"));
        assert!(answer.contains("New server registered"), "{answer}");
        for step in ["enable health", "enable server"] {
            assert_eq!(self.command(&format!("{step} replicas/{name}")).trim(), "");
        }
        eventually("a replica that is up", || self.is_up(name).then_some(()));
    }

    /// Whether new connections are sent to a replica.
    pub(crate) fn is_up(&self, name: &str) -> bool {
        let states = self.command("show servers state replicas");
        // Columns: backend's id and name, server's id, name, address, operational state (2: up).
        let mut lines = states.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.find(|line| line.get(3) == Some(&name)).expect("it was added");
        line.get(5) == Some(&"2")
    }

    fn command(&self, line: &str) -> String {
        let mut socket = UnixStream::connect(self.commands()).expect("it listens");
        socket.write_all(format!("{line}\n").as_bytes()).expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        answer
    }

    fn commands(&self) -> PathBuf {
        self.scratch.path().join("commands")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default();
            eprintln!("--- the balancer's log\n{log}---");
        }
    }
}

const CONFIGURATION: &str = "\
global
    stats socket COMMANDS mode 600 level admin
    nbthread 1
defaults
    mode tcp
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout check 2s
listen replicas
    bind fd@LISTENER
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
";
