//! The real proxy, as a process of its own, and what the kernel says it costs.
//!
//! A folder of manifests in, a [`Proxy`] that is ready out. Nothing here looks into the proxy: it
//! is started, asked for nothing but its line of JSON, and measured from outside.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::ending::Ending;

/// A proxy that is ready to serve.
pub(crate) struct Proxy {
    /// Where callers reach it.
    pub(crate) listen: SocketAddr,
    /// The I/O driver it runs on.
    pub(crate) io: String,
    /// How many cores it uses.
    pub(crate) cores: u64,
    id: u32,
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
            .adopt(|| command.spawn(), |child| (child.id(), child.stdout.take()))
            .with_context(|| format!("starting {}: is it built?", program.display()))?;
        let lines = first_line(stdout.context("a proxy without stdout")?)?;
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

    /// User and system time of all its threads so far, in seconds; see proc(5), `stat`.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        let ticks = ticks_in(&stat).context("unreadable /proc/…/stat")?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

/// `utime` and `stime`, fields 14 and 15. The name, field 2, may hold spaces and parentheses, so
/// counting begins after the last parenthesis.
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// The first line, as soon as there is one; the empty line if there is none. What follows is read
/// and dropped, so that the proxy can always write.
fn first_line(stdout: ChildStdout) -> anyhow::Result<Receiver<String>> {
    let (sender, receiver) = channel();
    thread::Builder::new().spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        drop(reader.read_line(&mut line));
        drop(sender.send(line));
        drop(std::io::copy(&mut reader, &mut std::io::sink()));
    })?;
    Ok(receiver)
}

const READY_WAIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20";
        assert_eq!(ticks_in(stat), Some(42));
        assert_eq!(ticks_in("7 (a) S 1"), None);
    }
}
