//! The real proxy, as a process of its own, and what the kernel says it costs.
//!
//! A folder of manifests in, a [`Proxy`] that is ready out. Nothing here looks into the proxy: it
//! is started, asked for nothing but its line of JSON, and measured from outside.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Pid;
use serde_json::Value;

use super::ending::Ending;
use crate::{child, meter};

/// A proxy that is ready to serve.
pub(crate) struct Proxy {
    /// Where callers reach it.
    pub(crate) listen: SocketAddr,
    /// The I/O driver it runs on.
    pub(crate) io: String,
    /// How many cores it uses.
    pub(crate) cores: u64,
    id: i32,
}

impl Proxy {
    /// Starts the `harbor-connector` beside this program on `folder`; its log goes to `log`. The
    /// process belongs to `ending`.
    ///
    /// # Errors
    /// When there is no such program, or it does not become ready in time.
    pub(crate) fn start(ending: &Ending, folder: &Path, log: File) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("harbor-connector");
        let mut command = Command::new(&program);
        command.args(["proxy", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--file"]);
        command.arg(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // The CA of a demonstration is not the machine's.
        command.env("HARBOR_CONNECTOR_CA_DIR", std::env::temp_dir().join("harbor-connector-demo"));
        // Nobody else has to notice first that this proxy goes away, so it need not wait for that.
        command.env("HARBOR_CONNECTOR_DRAIN_GRACE_SECONDS", "0");
        // A group of its own: Ctrl-C reaches this program alone, which then ends the proxy.
        command.process_group(0);
        let (id, stdout) = ending
            .adopt(
                || command.spawn(),
                |child| (Pid::from_child(child).as_raw_pid(), child.stdout.take()),
            )
            .with_context(|| format!("starting {}: is it built?", program.display()))?;
        let lines = child::first_line(stdout.context("a proxy without stdout")?)?;
        let Ok(line) = lines.recv_timeout(READY_WAIT) else {
            bail!("the proxy did not become ready within {} s", READY_WAIT.as_secs());
        };
        let Ok(said) = serde_json::from_str::<Value>(&line) else {
            bail!("the proxy ended, or said something other than where it listens: {line:?}");
        };
        let listen = said["listen"].as_str().and_then(|text| text.parse().ok());
        Ok(Self {
            listen: listen.context("the proxy did not say where it listens")?,
            io: said["io"].as_str().unwrap_or("unknown").to_owned(),
            cores: said["cores"].as_u64().unwrap_or_default(),
            id,
        })
    }

    /// User and system time of all its threads so far, in seconds; 0 once it is gone.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        meter::cpu_seconds(&[self.id])
    }
}

const READY_WAIT: Duration = Duration::from_secs(20);
