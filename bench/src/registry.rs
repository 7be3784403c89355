//! An OCI registry inside the process: what the demo and the load runs put behind the proxy.
//!
//! [`Settings`] in, a listening [`Registry`] out. It speaks OCI distribution 1.1 over HTTP/1.1, one
//! thread a connection, answers refusals as Harbor words them, and keeps everything in memory. It
//! is no registry to keep images in: nothing survives the process, and nothing bounds its memory.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

mod blobs;
mod http;
mod manifests;
mod route;
mod seal;
mod seen;
pub(crate) mod store;
#[cfg(test)]
mod tests;
mod uploads;

use http::{Head, Incoming, Reply};
use route::Route;
use seal::Seal;
pub(crate) use seen::Account;
use seen::{Seen, basic_of};
use store::Store;

use crate::wire::Wire;

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
    /// Keep of a blob only its digest and size, unverified, and serve noise in its place.
    #[arg(long)]
    discard: bool,
    /// Name each account on stderr when it first appears.
    #[arg(long)]
    log_accounts: bool,
}

/// How a registry is to be.
pub(crate) struct Settings {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// User and password that it demands; `None` lets everybody in.
    pub(crate) login: Option<(String, String)>,
    /// Whether blobs' bytes are dropped.
    pub(crate) discard: bool,
    /// Whether new accounts are named on stderr.
    pub(crate) log_accounts: bool,
    /// Texts that no request should carry; requests that do are counted.
    pub(crate) markers: Vec<String>,
}

/// A registry that listens. It goes on until the process ends, whether or not this value lives.
pub(crate) struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections of a registry share.
struct Shared {
    settings: Settings,
    store: Store,
    seal: Seal,
    seen: Seen,
}

/// Runs the verb `registry`. Returns only to fail.
///
/// # Errors
/// When the address is taken or the password's file cannot be read.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    let login = match (flags.user, flags.password_file) {
        (Some(user), Some(path)) => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("reading the password from {}", path.display()))?;
            Some((user, text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        _ => None,
    };
    let Flags { listen, discard, log_accounts, .. } = flags;
    let registry =
        Registry::start(Settings { listen, login, discard, log_accounts, markers: Vec::new() })
            .with_context(|| format!("listening on {listen}"))?;
    println!("{}", serde_json::json!({ "listen": registry.address().to_string() }));
    loop {
        thread::park();
    }
}

impl Registry {
    /// Binds the address and begins to serve.
    ///
    /// # Errors
    /// When the address cannot be bound, or memory, threads or randomness cannot be had.
    pub(crate) fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            store: Store::new(settings.discard)?,
            seal: Seal::new().map_err(|_| io::Error::other("no randomness"))?,
            seen: Seen::new(settings.markers.clone()),
            settings,
        });
        let accepting = Arc::clone(&shared);
        thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || accept(&listener, &accepting))?;
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its requests have shown so far.
    pub(crate) fn seen(&self) -> Account {
        self.shared.seen.account()
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors as a rule: others must close before it is worth trying again.
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        let shared = Arc::clone(shared);
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        // A thread that cannot be had closes the connection; its caller sees that.
        drop(builder.spawn(move || serve(stream, &shared)));
    }
}

/// Serves one connection until it ends. An error is the connection's end and nobody's news.
fn serve(stream: TcpStream, shared: &Shared) {
    let Ok(mut wire) = Wire::new(stream, IDLE_WAIT) else {
        return;
    };
    let mut buffer = None;
    loop {
        let (head, body) = match http::read_head(&mut wire) {
            Ok(Some(read)) => read,
            Ok(None) => return,
            Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                let reply = Reply::error(400, "UNKNOWN", &cause.to_string());
                return reply.send_last(&mut wire);
            }
            Err(_) => return,
        };
        let mut incoming = Incoming::new(&mut wire, body, &head, &mut buffer);
        let answered =
            answer(shared, &head, &mut incoming).and_then(|reply| incoming.finish(&head, &reply));
        match answered {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

fn answer(shared: &Shared, head: &Head, incoming: &mut Incoming<'_>) -> io::Result<Reply> {
    let route = Route::of(&head.path);
    let refused = route != Route::Ping && !admits(&shared.settings, head);
    if let Some(user) = shared.seen.note(head, refused)
        && shared.settings.log_accounts
    {
        eprintln!("{}", serde_json::json!({ "account": user }));
    }
    if refused {
        return Ok(Reply::error(401, "UNAUTHORIZED", "unauthorized: authentication required")
            .with("WWW-Authenticate", "Basic realm=\"harbor\""));
    }
    let reading = matches!(head.method.as_str(), "GET" | "HEAD");
    Ok(match route {
        Route::Manifest(name, reference) => {
            return manifests::answer(shared, head, incoming, name, reference);
        }
        Route::Uploads(name) if head.method == "POST" => {
            return uploads::open(shared, head, incoming, name);
        }
        Route::Upload(name, identifier) => {
            return uploads::go_on(shared, head, incoming, name, identifier);
        }
        Route::Blob(name, digest) => blobs::answer(shared, head, name, digest),
        Route::Ping if reading => Reply::bytes(200, "text/plain; charset=utf-8", b"Pong".to_vec()),
        Route::Base if reading => Reply::json(200, &serde_json::json!({})),
        Route::Catalog if reading => manifests::catalogue(shared, head),
        Route::Tags(name) if reading => manifests::tags(shared, head, name),
        Route::Referrers(name, digest) if reading => {
            manifests::referrers(shared, head, name, digest)
        }
        Route::BadName => Reply::error(400, "NAME_INVALID", "not a repository's name"),
        // Harbor's words for a path or method it has no rule for; its challenge is empty then.
        _ => {
            Reply::error(401, "UNAUTHORIZED", "un-recognized request").with("WWW-Authenticate", "")
        }
    })
}

fn admits(settings: &Settings, head: &Head) -> bool {
    settings.login.as_ref().is_none_or(|login| basic_of(head).as_ref() == Some(login))
}

/// A connection on which nothing moves for this long is closed.
const IDLE_WAIT: Duration = Duration::from_secs(120);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const STACK_BYTES: usize = 256 << 10;
