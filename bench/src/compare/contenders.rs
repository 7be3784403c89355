//! Who is compared, and how each is started: our proxy on both drivers, the peers, the floor.
//!
//! A contender and the ground that all share go in; a process that serves and the roads through it
//! come out. All get one processor, the same origin and the same requests.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::drive::Road;
use super::origin::{self, Origin};
use super::peers::{self, Fill};
use super::process::{Process, READY_WAIT, Stop, pinned};

/// Somebody who relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    OursUring,
    OursEpoll,
    Haproxy,
    Nginx,
    Envoy,
    Floor,
}

/// What all contenders share.
pub(super) struct Ground {
    /// Configurations and logs.
    pub(super) folder: TempDir,
    /// The registry's place.
    pub(super) origin: Origin,
    /// The processor that contenders run on.
    pub(super) cpu: usize,
    /// Who ends the run early.
    pub(super) stop: Stop,
}

/// A contender that serves.
pub(super) struct Running {
    /// Its first process.
    pub(super) process: Process,
    /// Through it to the origin's plaintext side.
    pub(super) plain: Road,
    /// Through it to the origin's TLS side, where it can do that.
    pub(super) sealed: Option<Road>,
}

impl Contender {
    /// Its name in results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OursUring => "ours-uring",
            Self::OursEpoll => "ours-epoll",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Floor => "floor",
        }
    }

    /// Whether it is this project's proxy.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::OursUring | Self::OursEpoll)
    }

    /// Whether it is somebody else's proxy.
    pub(super) fn is_peer(self) -> bool {
        !self.is_ours() && self != Self::Floor
    }

    /// The program that it runs, if there is one.
    pub(super) fn program(self) -> Option<PathBuf> {
        let own = std::env::current_exe().ok();
        match self {
            Self::Floor => own,
            Self::OursUring | Self::OursEpoll => {
                own.map(|own| own.with_file_name("harbor-connector")).filter(|file| file.is_file())
            }
            Self::Haproxy | Self::Nginx | Self::Envoy => peers::program(self),
        }
    }

    /// What its program calls its own version.
    pub(super) fn version(self) -> String {
        let flag = if matches!(self, Self::Haproxy | Self::Nginx) { "-v" } else { "--version" };
        let said = self.program().map(|program| peers::version(&program, flag));
        said.unwrap_or_else(|| "not installed".to_owned())
    }

    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// When it is not installed, does not start, or does not accept in time.
    pub(super) fn start(self, ground: &Ground) -> anyhow::Result<Running> {
        let program = self.program().context("it is not installed")?;
        let mut running = match self {
            Self::OursUring => ours(ground, &program, "uring")?,
            Self::OursEpoll => ours(ground, &program, "epoll")?,
            Self::Floor => floor(ground, &program)?,
            Self::Haproxy | Self::Nginx | Self::Envoy => self.peer(ground, &program)?,
        };
        let addresses = [Some(&running.plain), running.sealed.as_ref()];
        for road in addresses.into_iter().flatten() {
            accepts(&mut running.process, road.address)
                .with_context(|| last_words(&log(ground, self)))?;
        }
        Ok(running)
    }

    fn peer(self, ground: &Ground, program: &Path) -> anyhow::Result<Running> {
        let folder = ground.folder.path();
        let [listen, listen_tls] = free_addresses()?;
        let ca_file = folder.join("ca.pem");
        fs::write(&ca_file, &ground.origin.ca)?;
        let (name, template) = peers::template(self).context("no template")?;
        let file = folder.join(name);
        let fill = Fill {
            listen,
            listen_tls,
            origin: ground.origin.plain,
            origin_tls: ground.origin.sealed,
            authorization: &origin::authorization(origin::USER, origin::PASSWORD),
            ca_file: &ca_file,
            folder,
        };
        fs::write(&file, peers::render(template, &fill))?;
        let mut command = pinned(program, ground.cpu);
        match self {
            // -db: stay in the foreground, one process.
            Self::Haproxy => command.args(["-db", "-f"]).arg(&file),
            Self::Envoy => command
                .args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"])
                .arg(&file),
            _ => command.arg("-c").arg(&file),
        };
        let process = Process::start(command, &log(ground, self), &ground.stop)?;
        let road = |address| Road {
            address,
            path: REPOSITORY.to_owned(),
            authorization: origin::authorization("pod", TOKEN),
        };
        Ok(Running { process, plain: road(listen), sealed: Some(road(listen_tls)) })
    }
}

fn ours(ground: &Ground, program: &Path, io: &str) -> anyhow::Result<Running> {
    let folder = ground.folder.path().join("manifests");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("compare.yaml"), manifests(&ground.origin))?;
    let mut command = pinned(program, ground.cpu);
    command.args(["proxy", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cores", "1"]);
    command.arg("--file").arg(&folder);
    command.arg("--ca-dir").arg(ground.folder.path().join("ca"));
    command.env("HARBOR_CONNECTOR_IO", io);
    // The peers write no access log either.
    command.env("HARBOR_CONNECTOR_LOG_FILTER", "warn");
    // Nobody is left to be drained when it is told to end.
    command.env("HARBOR_CONNECTOR_DRAIN_GRACE_SECONDS", "0");
    command.env("HARBOR_CONNECTOR_DRAIN_SECONDS", "0");
    let mut process =
        Process::start(command, &ground.folder.path().join("ours.log"), &ground.stop)?;
    let address = said_address(&mut process)?;
    let road = |connector: &str| Road {
        address,
        path: format!("/v2/namespaces/bench/connectors/{connector}/team/app"),
        authorization: origin::authorization("pod", TOKEN),
    };
    Ok(Running { process, plain: road("plain"), sealed: Some(road("sealed")) })
}

/// The floor puts no credential in, so the caller shows the registry's own.
fn floor(ground: &Ground, program: &Path) -> anyhow::Result<Running> {
    let mut command = pinned(program, ground.cpu);
    command.args(["floor", "--origin"]).arg(ground.origin.plain.to_string());
    let mut process = Process::start(command, &log(ground, Contender::Floor), &ground.stop)?;
    let plain = Road {
        address: said_address(&mut process)?,
        path: REPOSITORY.to_owned(),
        authorization: origin::authorization(origin::USER, origin::PASSWORD),
    };
    Ok(Running { process, plain, sealed: None })
}

fn said_address(process: &mut Process) -> anyhow::Result<SocketAddr> {
    let line = process.said()?;
    let said: Value = serde_json::from_str(&line).context("it ended before it served")?;
    let listen = said["listen"].as_str().and_then(|text| text.parse().ok());
    listen.context("it did not say where it listens")
}

fn log(ground: &Ground, contender: Contender) -> PathBuf {
    ground.folder.path().join(contender.name()).with_extension("log")
}

/// The end of a log, as a reason.
fn last_words(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
    format!("its last words: {}", tail.join(" | "))
}

/// Waits until somebody accepts connections at `address`.
fn accepts(process: &mut Process, address: SocketAddr) -> anyhow::Result<()> {
    let asked = Instant::now();
    while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        if process.has_ended() {
            bail!("it ended by itself");
        }
        if asked.elapsed() > READY_WAIT {
            bail!("it does not accept connections at {address}");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Two addresses that nobody listens on. Both are held until both are known, so they differ.
fn free_addresses() -> anyhow::Result<[SocketAddr; 2]> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok([first.local_addr()?, second.local_addr()?])
}

/// Two connectors to the origin, the robot's credential, a Pod's token and its right.
fn manifests(origin: &Origin) -> String {
    let mut ca = String::new();
    for line in origin.ca.lines() {
        ca.push_str(&format!("    {line}\n"));
    }
    MANIFESTS
        .replace("@ORIGIN@", &origin.plain.to_string())
        .replace("@ORIGIN_TLS@", &origin.sealed.to_string())
        .replace("@USER@", origin::USER)
        .replace("@PASSWORD@", origin::PASSWORD)
        .replace("@TOKEN@", TOKEN)
        .replace("@CA@\n", &ca)
}

/// Whether util-linux is there to keep a program on one processor.
pub(super) fn has_taskset() -> bool {
    Command::new("taskset").arg("--version").output().is_ok_and(|said| said.status.success())
}

const REPOSITORY: &str = "/v2/team/app";
/// The caller's token, good for nothing but this comparison.
const TOKEN: &str = "pretend-token-of-the-comparison";
const LAST_LINES: usize = 6;
const POLL: Duration = Duration::from_millis(5);
const MANIFESTS: &str = include_str!("../../peers/ours.yaml");
