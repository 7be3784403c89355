//! The verb `registry`: what its flags mean.
//!
//! Flags in, a registry that serves until it is stopped out. Passwords come from files, never from
//! the command line, where everybody on the machine can read them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use rustls::ServerConfig;

use super::{Registry, Settings, Ways, tls};

/// The verb `registry`: serves until it is stopped.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Where to listen; port 0 takes a free one, printed on stdout as a line of JSON.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Demand this user; without it everybody may do everything.
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// The file with that user's password; a line's end after it does not count.
    #[arg(long, requires = "user", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// How the user is to show it: Basic, or Harbor's tokens beside Basic; anonymous tokens then
    /// pull from `library/`.
    #[arg(long, value_enum, default_value_t = Auth::Basic, requires_if("token", "user"))]
    auth: Auth,
    /// Serve TLS, with a certificate of a CA made at start unless --cert names another.
    #[arg(long)]
    tls: bool,
    /// Names and addresses in that certificate, beside the address listened on and localhost.
    #[arg(long, requires = "tls", value_name = "NAME")]
    tls_name: Vec<String>,
    /// Write the CA's certificate to this file.
    #[arg(long, requires = "tls", conflicts_with = "cert", value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// Serve TLS with this certificate chain, PEM.
    #[arg(long, requires = "key", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The key to that certificate, PEM.
    #[arg(long, requires = "cert", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Redirect GET and HEAD of blobs to a signed URL: `self` for the storage's own address, or the
    /// http or https URL that the storage is reached under.
    #[arg(long, value_name = "URL|self", value_parser = redirect)]
    redirect_to: Option<String>,
    /// Where that storage listens; by default on a free port of the address that --listen has.
    #[arg(long, requires = "redirect_to", value_name = "ADDR:PORT")]
    storage_listen: Option<SocketAddr>,
    /// Keep of a blob only its digest and size, unverified, and serve noise in its place.
    #[arg(long)]
    discard: bool,
    /// Name each account on stderr when it first appears.
    #[arg(long)]
    log_accounts: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Auth {
    Basic,
    Token,
}

fn redirect(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix("http://").or(text.strip_prefix("https://"));
    let is_origin = rest.is_some_and(|rest| {
        let host = rest.trim_end_matches('/');
        !host.is_empty() && !host.contains(['/', '?', '#', '@', ' '])
    });
    if text == "self" || is_origin {
        Ok(text.to_owned())
    } else {
        Err("neither `self` nor scheme, host and port of an http or https URL")
    }
}

/// Runs the verb `registry`. Returns only to fail.
///
/// # Errors
/// When an address is taken, or a password, certificate or key cannot be had.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    let login = login(&flags)?;
    let beside = SocketAddr::new(flags.listen.ip(), 0);
    let ways = Ways {
        tls: secured(&flags)?,
        tokens: flags.auth == Auth::Token,
        storage: flags.redirect_to.as_ref().map(|_| flags.storage_listen.unwrap_or(beside)),
        storage_url: flags.redirect_to.filter(|url| url != "self"),
    };
    let Flags { listen, discard, log_accounts, .. } = flags;
    let settings = Settings { listen, login, discard, log_accounts, markers: Vec::new() };
    let registry =
        Registry::start_with(settings, ways).with_context(|| format!("listening on {listen}"))?;
    let mut ready = serde_json::json!({ "listen": registry.address().to_string() });
    if let Some(storage) = registry.storage() {
        ready["storage"] = storage.to_string().into();
    }
    println!("{ready}");
    loop {
        thread::park();
    }
}

fn login(flags: &Flags) -> anyhow::Result<Option<(String, String)>> {
    let (Some(user), Some(path)) = (&flags.user, &flags.password_file) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the password from {}", path.display()))?;
    Ok(Some((user.clone(), text.trim_end_matches(['\r', '\n']).to_owned())))
}

fn secured(flags: &Flags) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    if let (Some(cert), Some(key)) = (&flags.cert, &flags.key) {
        return tls::from_files(cert, key).map(Some);
    }
    if !flags.tls {
        return Ok(None);
    }
    let mut names = vec![flags.listen.ip().to_string(), "localhost".to_owned()];
    names.extend(flags.tls_name.iter().cloned());
    let shown = tls::own(names)?;
    if let Some(path) = &flags.ca_out {
        write(path, &shown.ca)?;
    }
    Ok(Some(shown.config))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
