//! The real binary on a folder of manifests, on ports of its own choosing.
//!
//! A set of manifests in, a running proxy out; what it wrote to stdout and stderr and what its
//! metrics said is searched for secrets when it is dropped. It is ended by its process id.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::caller::{basic, request};
use super::{
    Answer, Caller, Cluster, FakeRegistry, Manifests, PATIENCE, TOKEN, eventually, leak, within,
};

/// The path of the program that the stories are about.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_harbor-connector");

/// A process that ends with its story, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Once it has been waited for, both do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    child: Running,
    scratch: TempDir,
    /// The line it printed when it was ready.
    pub(crate) ready: serde_json::Value,
    /// Where callers connect.
    pub(crate) listen: SocketAddr,
    /// Where the metrics are.
    pub(crate) admin: SocketAddr,
    ended: Option<ExitStatus>,
}

impl Proxy {
    /// A proxy with the connector `ci/harbor` in front of `registry`.
    pub(crate) fn in_front_of(registry: &FakeRegistry) -> Self {
        Self::start(&Manifests::for_registry(&registry.url()), &[])
    }

    /// A proxy on `manifests`, with more `flags`.
    pub(crate) fn start(manifests: &Manifests, flags: &[&str]) -> Self {
        Self::start_through(manifests, flags, |_| Command::new(PROGRAM))
    }

    /// The same as a user of its own, who has nothing else on this machine; `setpriv` and root are
    /// needed for it.
    pub(crate) fn start_as_a_user(manifests: &Manifests, flags: &[&str]) -> Self {
        Self::start_as(61_000 + std::process::id() % 4_000, manifests, flags)
    }

    /// The same as the user with the number `user`.
    pub(crate) fn start_as(user: u32, manifests: &Manifests, flags: &[&str]) -> Self {
        Self::start_through(manifests, flags, |scratch| {
            // That user may enter neither the build's folder nor, so far, ours.
            let program = scratch.join("harbor-connector");
            fs::copy(PROGRAM, &program).expect("a copy of the program");
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(scratch, open).expect("an open folder");
            let user = user.to_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(program);
            command
        })
    }

    /// A proxy that keeps its CA in the folder `ca`.
    pub(crate) fn start_with_ca(manifests: &Manifests, flags: &[&str], ca: &str) -> Self {
        Self::start_through(manifests, &[flags, &["--ca-dir", ca]].concat(), |_| {
            Command::new(PROGRAM)
        })
    }

    /// The same where `/etc/hosts` holds `hosts`; the machine needs `unshare` and root for it.
    pub(crate) fn start_with_hosts(
        manifests: &Manifests,
        flags: &[&str],
        hosts: Option<&str>,
    ) -> Self {
        Self::start_through(manifests, flags, |scratch| match hosts {
            None => Command::new(PROGRAM),
            Some(hosts) => super::programs::with_hosts(scratch, hosts, PROGRAM),
        })
    }

    /// The same, where the command for the program is made by `command` from the story's folder.
    pub(crate) fn start_through(
        manifests: &Manifests,
        flags: &[&str],
        command: impl FnOnce(&Path) -> Command,
    ) -> Self {
        let scratch = TempDir::new().expect("a temporary folder");
        let folder = scratch.path().join("manifests");
        fs::create_dir(&folder).expect("a folder");
        for (name, text) in manifests.files() {
            fs::write(folder.join(name), text).expect("a manifest");
        }
        let mut command = command(scratch.path());
        command.arg("proxy").arg("--file").arg(&folder);
        // A user of its own has its state elsewhere, or none; so has a container, which does not
        // see this environment.
        if !scratch.path().join("harbor-connector").exists() {
            command.env("HARBOR_CONNECTOR_CA_DIR", scratch.path().join("ca"));
        }
        let mut proxy = Self::spawn(command, scratch, flags);
        proxy.await_ready();
        proxy
    }

    /// A proxy that serves the connectors of `cluster`, with more `flags`.
    pub(crate) fn in_cluster(cluster: &Cluster, flags: &[&str]) -> Self {
        let mut proxy = Self::launched_in(cluster, flags);
        proxy.await_ready();
        proxy
    }

    /// The same, not waited for: see [`Proxy::await_ready`].
    pub(crate) fn launched_in(cluster: &Cluster, flags: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("proxy").arg("--allow-loopback").env("KUBECONFIG", &cluster.kubeconfig);
        Self::spawn(command, TempDir::new().expect("a temporary folder"), flags)
    }

    fn spawn(mut command: Command, scratch: TempDir, flags: &[&str]) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(flags);
        let file = |name: &str| File::create(scratch.path().join(name)).expect("a file");
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        let child = Running(command.spawn().expect("the program starts"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let ready = serde_json::Value::Null;
        Self { child, scratch, ready, listen: nowhere, admin: nowhere, ended: None }
    }

    /// Waits until it says where it serves.
    pub(crate) fn await_ready(&mut self) {
        let line = eventually("the proxy's line of JSON", || {
            let ended = self.child.0.try_wait().expect("a child");
            assert!(ended.is_none(), "the proxy ended: {ended:?}\n{}", self.log());
            self.output("stdout").split_once('\n').map(|(line, _)| line.to_owned())
        });
        self.ready = serde_json::from_str(&line).expect("a line of JSON");
        let address = |name: &str| self.ready[name].as_str().and_then(|text| text.parse().ok());
        let listen = address("listen").expect("listen");
        let admin = address("admin").expect("admin");
        (self.listen, self.admin) = (listen, admin);
    }

    /// A connection to it.
    pub(crate) fn caller(&self) -> Caller {
        Caller::connect(self.listen)
    }

    /// GET with the marked token, on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Answer {
        self.ask(&request("GET", target, ""))
    }

    /// GET with another token.
    #[track_caller]
    pub(crate) fn get_as(&self, token: &str, target: &str) -> Answer {
        self.ask(&format!(
            "GET {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {}\r\n\r\n",
            basic(token)
        ))
    }

    /// GET with the marked token and a Host of the caller's choice.
    #[track_caller]
    pub(crate) fn get_at(&self, host: &str, target: &str) -> Answer {
        self.ask(&format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {}\r\n\r\n",
            basic(TOKEN)
        ))
    }

    /// One request as it is, on a connection of its own.
    #[track_caller]
    pub(crate) fn ask(&self, request: &str) -> Answer {
        self.caller().ask(request)
    }

    /// The answer of the admin address to a GET of `path`.
    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        Caller::connect(self.admin).ask(&request)
    }

    /// The value of one series of the metrics, written as the text format writes it but without
    /// the prefix, such as `panics_total` or `transfers{core="0"}`. Nothing when absent.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let wanted = format!("harbor_connector_{series} ");
        let text = self.admin("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok())
    }

    /// Writes a manifest as an editor does: whole, under another name, then renamed.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let next = self.scratch.path().join(file);
        fs::write(&next, text).expect("a manifest");
        fs::rename(&next, self.folder().join(file)).expect("the same file system");
    }

    /// Removes a manifest.
    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.folder().join(file)).expect("a manifest");
    }

    /// The folder of manifests.
    pub(crate) fn folder(&self) -> PathBuf {
        self.scratch.path().join("manifests")
    }

    /// What callers have to trust so that it may end their TLS.
    pub(crate) fn ca(&self) -> String {
        read(&self.ca_path())
    }

    /// The file that holds it.
    pub(crate) fn ca_path(&self) -> PathBuf {
        self.ready["ca"].as_str().expect("it says where ca.crt is").into()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.output("stderr")
    }

    /// Waits until one logged line holds all of `words`, and returns that line.
    #[track_caller]
    pub(crate) fn logged(&self, words: &[&str]) -> String {
        eventually(&format!("a log line with {words:?}"), || {
            let log = self.log();
            log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Its resident memory at its highest, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes * 1024
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn exit(&mut self, patience: Duration) -> ExitStatus {
        let child = &mut self.child.0;
        let status = within(patience, "the proxy's end", || child.try_wait().expect("a child"));
        self.ended = Some(status);
        status
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.0.id()).ok().and_then(Pid::from_raw);
        if let (Some(pid), None) = (pid, self.ended) {
            let _ = kill_process(pid, signal);
        }
    }

    fn output(&self, name: &str) -> String {
        read(&self.scratch.path().join(name))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        let metrics = match self.ended {
            None if !failing && self.admin.port() != 0 => self.admin("/metrics").body,
            _ => Vec::new(),
        };
        if failing {
            eprintln!("--- the proxy's log\n{}---", self.log());
            return;
        }
        leak::assert_absent(&leak::everything(), &metrics, "the metrics");
        for name in ["stdout", "stderr"] {
            leak::assert_absent(&leak::everything(), self.output(name).as_bytes(), name);
        }
        assert!(!self.log().contains("panicked at"), "a panic:\n{}", self.log());
    }
}

/// The program run to its end, with `arguments`: status, stdout, stderr.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let scratch = TempDir::new().expect("a temporary folder");
    let file = |name: &str| File::create(scratch.path().join(name)).expect("a file");
    let child = Command::new(PROGRAM)
        .args(arguments)
        .env("HARBOR_CONNECTOR_CA_DIR", scratch.path().join("ca"))
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .expect("the program starts");
    let mut child = Running(child);
    let status = within(PATIENCE, "the program's end", || child.0.try_wait().expect("a child"));
    let (stdout, stderr) =
        (read(&scratch.path().join("stdout")), read(&scratch.path().join("stderr")));
    leak::assert_absent(&leak::everything(), stdout.as_bytes(), "stdout");
    leak::assert_absent(&leak::everything(), stderr.as_bytes(), "stderr");
    (status.code(), stdout, stderr)
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
