//! The README's first command: a layer pushed and pulled through the real proxy, and the proof.
//!
//! Manifests in, a table out. The registry runs in this process and demands the robot's password;
//! the proxy runs in its own and is told nothing but the manifests; the caller holds a Pod's token
//! and nothing else. No secret is printed: the commands to try read it from its file.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

mod ending;
mod manifests;
mod progress;
mod proxy;
mod report;
mod transfer;

use ending::Ending;
use manifests::Manifests;
use proxy::Proxy;
use report::Findings;
use transfer::{Layer, Place, said};

use crate::caller::{Caller, Content};
use crate::registry::{Registry, Settings};

/// The verb `demo`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// End when everything is shown, instead of staying up for more.
    #[arg(long)]
    once: bool,
    /// The layer's size; it is held in memory twice.
    #[arg(long, default_value = "1GiB", value_parser = crate::values::bytes)]
    size: u64,
    /// The folder with the manifests.
    #[arg(long, value_name = "DIR", default_value = "deploy/demo")]
    manifests: PathBuf,
}

/// Runs the demo.
///
/// # Errors
/// When anything fails or a promise is broken; the proxy's last words are on stderr by then.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let ending = Ending::watch()?;
    let log = tempfile::Builder::new().prefix("harbor-connector-").suffix(".log").tempfile()?;
    let (log_file, log) = log.keep()?;
    let shown = show(flags, &ending, log_file, &log);
    ending.clear();
    if shown.is_err() {
        eprint!("{}", tail_of(&log));
    }
    eprintln!("\nThe proxy's log: {}", log.display());
    shown
}

fn show(flags: &Flags, ending: &Ending, log_file: fs::File, log: &Path) -> anyhow::Result<()> {
    let manifests = Manifests::read(&flags.manifests)?;
    enough_memory(flags.size)?;
    let registry = start_registry(&manifests)?;
    let folder = folder_for(&manifests, registry.address(), ending)?;
    let proxy = Proxy::start(ending, &folder, log_file)?;
    println!("registry  http://{}, demands {}", registry.address(), manifests.login.0);
    println!("proxy     http://{}, log in {}", proxy.listen, log.display());
    println!("manifests {}", folder.display());
    println!("The caller holds the Pod's token; it pushes with POST and one PUT per blob.\n");

    let found = exercise(&manifests, &registry, &proxy, flags.size).map_err(|cause| {
        // Whatever else went wrong, a leak must not be lost behind it.
        match registry.seen().marked {
            0 => cause,
            leaks => cause.context(format!("{leaks} requests carried a Pod's token")),
        }
    })?;
    print!("{}", found.table());
    let broken = found.broken();
    ensure!(broken.is_empty(), "not as promised: {}", broken.join("; "));
    println!("\nEverything held.");
    if flags.once {
        return Ok(());
    }
    println!("{}", to_try(&manifests, proxy.listen));
    ending.all_held();
    loop {
        thread::sleep(LOOK_AGAIN);
        if let Some(status) = ending.child_ended() {
            bail!("the proxy ended by itself: {status}");
        }
    }
}

/// Starts the registry where the connector says it is, or on a free port where that one is taken.
fn start_registry(manifests: &Manifests) -> anyhow::Result<Registry> {
    let settings = |listen| Settings {
        listen,
        login: Some(manifests.login.clone()),
        discard: false,
        log_accounts: false,
        markers: vec![manifests.token.clone(), manifests.stranger.clone()],
    };
    match Registry::start(settings(manifests.address)) {
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => {
            let free = SocketAddr::new(manifests.address.ip(), 0);
            Registry::start(settings(free)).context("starting the registry")
        }
        other => other.with_context(|| format!("listening on {}", manifests.address)),
    }
}

fn folder_for(
    manifests: &Manifests,
    address: SocketAddr,
    ending: &Ending,
) -> anyhow::Result<PathBuf> {
    if address == manifests.address {
        return Ok(manifests.folder.clone());
    }
    let copy = manifests.moved_to(address)?;
    let folder = copy.path().to_owned();
    ending.keep(copy);
    eprintln!(
        "{} is taken: the registry listens on {address}, and the proxy reads a copy of the \
         manifests that says so.",
        manifests.address
    );
    Ok(folder)
}

fn exercise(
    manifests: &Manifests,
    registry: &Registry,
    proxy: &Proxy,
    size: u64,
) -> anyhow::Result<Findings> {
    let layer = Layer::generate(size, LAYER_SEED)?;
    let path = format!("{}/{REPOSITORY}", base(manifests));
    let place = Place { address: proxy.listen, path: &path, tag: TAG };
    let mut pod = Caller::new(proxy.listen, Some(("pod", &manifests.token)));

    let before = proxy.cpu_seconds();
    let pushed = transfer::push(&mut pod, &place, &layer).context("pushing")?;
    let between = proxy.cpu_seconds();
    let pulled = transfer::pull(&mut pod, &place, &layer, &pushed).context("pulling")?;
    let after = proxy.cpu_seconds();

    let turned_away = |who, expected, token: &str| -> anyhow::Result<_> {
        let mut caller = Caller::new(proxy.listen, Some(("pod", token)));
        let target = format!("{path}/tags/list");
        let (answer, body) = caller.ask("GET", &target, &Content::Empty, &mut |_| {})?;
        Ok((who, expected, answer.status, said(&body)))
    };
    Ok(Findings {
        refusals: vec![
            turned_away("a wrong token", 401, "a-token-that-nobody-issued")?,
            turned_away("a token without a right", 403, &manifests.stranger)?,
        ],
        robot: manifests.login.0.clone(),
        // Last, so that nothing sent above can escape it.
        seen: registry.seen(),
        digests: vec![
            ("layer", layer.digest, pulled.layer_digest),
            ("manifest", pushed.manifest_digest, pulled.manifest_digest),
        ],
        length: size,
        push: (pushed.layer_took, between - before),
        pull: (pulled.layer_took, after - between),
        io: proxy.io.clone(),
        cores: proxy.cores,
    })
}

/// What a repository's path begins with in the path form.
fn base(manifests: &Manifests) -> String {
    format!("/v2/namespaces/{}/connectors/{}", manifests.namespace, manifests.name)
}

/// Commands to paste into another terminal. The token stays in its file until the shell reads it.
fn to_try(manifests: &Manifests, listen: SocketAddr) -> String {
    let file = manifests.token_file().display().to_string().replace('\'', r"'\''");
    let token = format!(r#""pod:$(sed -n 's/^  token: //p' '{file}')""#);
    let path = format!("{}/{REPOSITORY}", base(manifests));
    let image = format!("docker://{listen}{}:{TAG}", path.trim_start_matches("/v2"));
    format!(
        "\nTry, in another terminal:\n\
         \n  curl -u {token} http://{listen}{path}/tags/list\
         \n  curl -u pod:wrong http://{listen}{path}/tags/list\
         \n  skopeo inspect --tls-verify=false --creds {token} {image}\
         \n  skopeo copy --src-tls-verify=false --src-creds {token} {image} dir:demo-image\n\
         \nCtrl-C ends the proxy and the registry."
    )
}

/// Fails early, with advice, where the layer would not fit: once here and once in the registry.
fn enough_memory(size: u64) -> anyhow::Result<()> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let Some(available) = kib.map(|kib| kib << 10) else {
        return Ok(());
    };
    let needed = size.saturating_mul(2).saturating_add(MEMORY_SPARE);
    ensure!(
        needed <= available,
        "a layer of {size} bytes needs {} MiB of memory, {} MiB are free: make it smaller with \
         --size",
        needed >> 20,
        available >> 20
    );
    Ok(())
}

/// The last lines of a log, with a heading, or nothing when there are none.
fn tail_of(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if tail.is_empty() {
        return String::new();
    }
    format!("\nThe proxy's last words:\n  {}\n", tail.join("\n  "))
}

const REPOSITORY: &str = "team/app";
const TAG: &str = "demo";
const LAYER_SEED: u64 = 0x006c_6179_6572;
const TAIL_LINES: usize = 30;
const MEMORY_SPARE: u64 = 256 << 20;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_binary_unit_or_none() {
        assert_eq!(crate::values::bytes("1GiB"), Ok(1 << 30));
        assert_eq!(crate::values::bytes("64MiB"), Ok(64 << 20));
        assert_eq!(crate::values::bytes("4096"), Ok(4096));
        for bad in ["", "0", "1GB", "-1", "99999999999GiB"] {
            assert!(crate::values::bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_commands_to_try_name_the_file_and_not_the_token() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo");
        let manifests = Manifests::read(&folder).unwrap();
        let text = to_try(&manifests, "127.0.0.1:41213".parse().unwrap());
        assert!(!text.contains(&manifests.token));
        let url = "http://127.0.0.1:41213/v2/namespaces/demo/connectors/harbor/team/app/tags/list";
        assert!(text.contains(url), "{text}");
        let image = "docker://127.0.0.1:41213/namespaces/demo/connectors/harbor/team/app:demo";
        assert!(text.contains(image), "{text}");
        assert!(text.contains("/deploy/demo/pod-token.yaml"), "{text}");
    }
}
