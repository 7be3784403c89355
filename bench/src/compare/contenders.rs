//! Who is compared, and how each is started: our proxy on both drivers, the peers, the floor.
//!
//! A contender and the ground that all share go in; a process that serves and the roads through it
//! come out. All get one processor, the same origin and the same requests.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::drive::Road;
use super::ground::Ground;
use super::inside::Inside;
use super::origin::{self, Origin};
use super::peers::{self, Fill};
use super::process::{Process, READY_WAIT, pinned};

/// Somebody who relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    OursUring,
    OursEpoll,
    Haproxy,
    Nginx,
    Envoy,
    Floor,
}

/// A contender that serves.
pub(crate) struct Running {
    /// Its first process.
    pub(crate) process: Process,
    /// Through it to the origin's plaintext side.
    pub(crate) plain: Road,
    /// Through it to the origin's TLS side, where it can do that.
    pub(crate) sealed: Option<Road>,
    /// The same with TLS towards the caller too, where it can do that.
    pub(crate) both: Option<Road>,
}

impl Contender {
    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
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
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::OursUring | Self::OursEpoll)
    }

    /// Whether it is somebody else's proxy.
    pub(crate) fn is_peer(self) -> bool {
        !self.is_ours() && self != Self::Floor
    }

    /// The program that it runs, if there is one.
    pub(crate) fn program(self) -> Option<PathBuf> {
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
    pub(crate) fn version(self) -> String {
        let flag = if matches!(self, Self::Haproxy | Self::Nginx) { "-v" } else { "--version" };
        let said = self.program().map(|program| peers::version(&program, flag));
        said.unwrap_or_else(|| "not installed".to_owned())
    }

    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// When it is not installed, does not start, or does not accept in time.
    pub(crate) fn start(self, ground: &Ground) -> anyhow::Result<Running> {
        let program = self.program().context("it is not installed")?;
        let mut running = match self {
            Self::OursUring => ours(ground, &program, "uring")?,
            Self::OursEpoll => ours(ground, &program, "epoll")?,
            Self::Floor => floor(ground, &program)?,
            Self::Haproxy | Self::Nginx | Self::Envoy => self.peer(ground, &program)?,
        };
        let addresses = [Some(&running.plain), running.sealed.as_ref(), running.both.as_ref()];
        for road in addresses.into_iter().flatten() {
            accepts(&mut running.process, road.address)
                .with_context(|| last_words(&log(ground, self)))?;
        }
        Ok(running)
    }

    fn peer(self, ground: &Ground, program: &Path) -> anyhow::Result<Running> {
        let folder = ground.folder.path();
        let [listen, listen_tls, listen_both] = free_addresses()?;
        let files = ["ca.pem", "leaf.pem", "leaf.pem.key"].map(|name| folder.join(name));
        let [ca_file, leaf_file, key_file] = &files;
        let (leaf, key) = &ground.origin.leaf;
        for (file, text) in [(ca_file, &ground.origin.ca), (leaf_file, leaf), (key_file, key)] {
            fs::write(file, text)?;
        }
        let (name, template) = peers::template(self).context("no template")?;
        let file = folder.join(name);
        let fill = Fill {
            listen,
            listen_tls,
            listen_both,
            origin: ground.origin.plain,
            origin_tls: ground.origin.sealed,
            authorization: &origin::authorization(origin::USER, origin::PASSWORD),
            ca_file,
            leaf_file,
            key_file,
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
        let road = |address, inside| Road {
            address,
            path: REPOSITORY.to_owned(),
            authorization: origin::authorization("pod", TOKEN),
            inside,
        };
        let inside = Inside::new(ground.origin.ca.as_bytes(), None)?;
        Ok(Running {
            process,
            plain: road(listen, None),
            sealed: Some(road(listen_tls, None)),
            both: Some(road(listen_both, Some(Arc::new(inside)))),
        })
    }
}

fn ours(ground: &Ground, program: &Path, io: &str) -> anyhow::Result<Running> {
    let folder = ground.folder.path().join("manifests");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("compare.yaml"), manifests(&ground.origin))?;
    let Ours { process, address, ca, .. } = Ours::serve(ground, program, io, &folder)?;
    // Whom the caller asks for a tunnel gives it a certificate in the registry's name.
    let inside = Inside::new(&fs::read(ca)?, Some(origin::authorization("bench/sealed", TOKEN)))?;
    let plain = road(address, "plain");
    let both = Road {
        path: REPOSITORY.to_owned(),
        inside: Some(Arc::new(inside)),
        ..road(address, "sealed")
    };
    Ok(Running { process, plain, sealed: Some(road(address, "sealed")), both: Some(both) })
}

/// Through our proxy at `address` by a connector of the namespace `bench`, as the Pod.
pub(crate) fn road(address: SocketAddr, connector: &str) -> Road {
    Road {
        address,
        path: format!("/v2/namespaces/bench/connectors/{connector}/team/app"),
        authorization: origin::authorization("pod", TOKEN),
        inside: None,
    }
}

/// Our own proxy, serving the manifests of a folder on one core.
pub(crate) struct Ours {
    /// Its process.
    pub(crate) process: Process,
    /// Where it serves callers.
    pub(crate) address: SocketAddr,
    /// Where it can be looked at.
    pub(crate) admin: SocketAddr,
    /// Where its CA's certificate is.
    pub(crate) ca: PathBuf,
}

impl Ours {
    /// Starts it on the driver `io` and waits until it serves.
    ///
    /// # Errors
    /// When it does not start, or does not serve in time.
    pub(crate) fn serve(
        ground: &Ground,
        program: &Path,
        io: &str,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = pinned(program, ground.cpu);
        command.args(["proxy", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--cores", "1", "--file"]).arg(folder);
        command.arg("--ca-dir").arg(ground.folder.path().join("ca"));
        command.env("HARBOR_CONNECTOR_IO", io);
        // The peers write no access log either.
        command.env("HARBOR_CONNECTOR_LOG_FILTER", "warn");
        // Nobody is left to be drained when it is told to end.
        command.env("HARBOR_CONNECTOR_DRAIN_GRACE_SECONDS", "0");
        command.env("HARBOR_CONNECTOR_DRAIN_SECONDS", "0");
        let log = ground.folder.path().join("ours.log");
        let mut process = Process::start(command, &log, &ground.stop)?;
        let (address, said) = announced(&mut process).with_context(|| last_words(&log))?;
        let text = |name: &str| said[name].as_str().with_context(|| format!("it said no {name}"));
        let (admin, ca) = (text("admin")?.parse()?, text("ca")?.into());
        Ok(Self { process, address, admin, ca })
    }
}

/// The floor puts no credential in, so the caller shows the registry's own.
fn floor(ground: &Ground, program: &Path) -> anyhow::Result<Running> {
    let mut command = pinned(program, ground.cpu);
    command.args(["floor", "--origin"]).arg(ground.origin.plain.to_string());
    let mut process = Process::start(command, &log(ground, Contender::Floor), &ground.stop)?;
    let plain = Road {
        address: announced(&mut process)?.0,
        path: REPOSITORY.to_owned(),
        authorization: origin::authorization(origin::USER, origin::PASSWORD),
        inside: None,
    };
    Ok(Running { process, plain, sealed: None, both: None })
}

/// Where a process says that it listens, and all that it says with that.
fn announced(process: &mut Process) -> anyhow::Result<(SocketAddr, Value)> {
    let line = process.said()?;
    let said: Value = serde_json::from_str(&line).context("it ended before it served")?;
    let listen = said["listen"].as_str().and_then(|text| text.parse().ok());
    Ok((listen.context("it did not say where it listens")?, said))
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

/// Addresses that nobody listens on. All are held until all are known, so they differ.
fn free_addresses() -> anyhow::Result<[SocketAddr; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [bind()?, bind()?, bind()?];
    let [one, two, three] = &held;
    Ok([one.local_addr()?, two.local_addr()?, three.local_addr()?])
}

/// Two connectors to the origin, the robot's credential, a Pod's token and its right.
pub(crate) fn manifests(origin: &Origin) -> String {
    let mut ca = String::new();
    for line in origin.ca.lines() {
        ca.push_str(&format!("    {line}\n"));
    }
    MANIFESTS
        .replace("@ORIGIN@", &origin.plain.to_string())
        .replace("@ORIGIN_TLS@", &origin.sealed.to_string())
        .replace("@NAME@", origin::NAME)
        .replace("@USER@", origin::USER)
        .replace("@PASSWORD@", origin::PASSWORD)
        .replace("@TOKEN@", TOKEN)
        .replace("@CA@\n", &ca)
}

/// Whether util-linux is there to keep a program on one processor.
pub(crate) fn has_taskset() -> bool {
    Command::new("taskset").arg("--version").output().is_ok_and(|said| said.status.success())
}

const REPOSITORY: &str = "/v2/team/app";
/// The caller's token, good for nothing but this comparison.
const TOKEN: &str = "pretend-token-of-the-comparison";
const LAST_LINES: usize = 6;
const POLL: Duration = Duration::from_millis(5);
const MANIFESTS: &str = include_str!("../../peers/ours.yaml");
