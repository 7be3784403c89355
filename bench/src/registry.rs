//! An OCI registry inside the process: what the demo and the load runs put behind the proxy.
//!
//! [`Settings`] in, a listening [`Registry`] out. It speaks OCI distribution 1.1 over HTTP/1.1, one
//! thread a connection, answers refusals as Harbor words them, and keeps everything in memory. It
//! is no registry to keep images in: nothing survives the process, and nothing bounds its memory.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};

mod flags;
mod http;
mod gate;
mod tokens;
mod route;
mod blobs;
mod storage;
mod manifests;
mod uploads;
mod seal;
mod seen;
pub(crate) mod store;
mod tls;
#[cfg(test)]
mod tests;

pub(crate) use flags::{Flags, run};
use http::{Head, Incoming, Reply};
use route::Route;
use seal::Seal;
pub(crate) use seen::Account;
use seen::Seen;
use storage::Storage;
use store::Store;
use tokens::{Tokens, unix_now};

use crate::wire::Wire;

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

/// What a registry does beyond serving accounts over plain HTTP; by default nothing.
#[derive(Default)]
pub(crate) struct Ways {
    /// What all its connections are secured with.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Whether it issues and demands tokens, Harbor's way; Basic goes on working.
    pub(crate) tokens: bool,
    /// Where its object storage listens; with it GET and HEAD of a blob are redirected there.
    pub(crate) storage: Option<SocketAddr>,
    /// The URL that the storage is reached under, where that is not its address.
    pub(crate) storage_url: Option<String>,
}

/// A registry that listens. It goes on until the process ends, whether or not this value lives.
pub(crate) struct Registry {
    address: SocketAddr,
    storage: Option<SocketAddr>,
    shared: Arc<Shared>,
}

/// What all connections of a registry share.
struct Shared {
    settings: Settings,
    store: Store,
    seal: Seal,
    seen: Seen,
    tls: Option<Arc<ServerConfig>>,
    tokens: Option<Tokens>,
    storage: Option<Storage>,
}

/// What a listener is for.
#[derive(Clone, Copy)]
enum Role {
    Registry,
    Storage,
}

impl Registry {
    /// Binds the address and begins to serve.
    ///
    /// # Errors
    /// When the address cannot be bound, or memory, threads or randomness cannot be had.
    pub(crate) fn start(settings: Settings) -> io::Result<Self> {
        Self::start_with(settings, Ways::default())
    }

    /// The same, with more to it.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub(crate) fn start_with(settings: Settings, ways: Ways) -> io::Result<Self> {
        let no_randomness = |_| io::Error::other("no randomness");
        let listener = TcpListener::bind(settings.listen)?;
        let address = listener.local_addr()?;
        let aside = ways.storage.map(TcpListener::bind).transpose()?;
        let storage = aside.as_ref().map(TcpListener::local_addr).transpose()?;
        let scheme = if ways.tls.is_some() { "https" } else { "http" };
        let base = storage.map(|at| ways.storage_url.unwrap_or(format!("{scheme}://{at}")));
        let shared = Arc::new(Shared {
            store: Store::new(settings.discard)?,
            seal: Seal::new().map_err(no_randomness)?,
            seen: Seen::new(settings.markers.clone()),
            tls: ways.tls,
            tokens: ways.tokens.then(Tokens::new).transpose().map_err(no_randomness)?,
            storage: base.as_deref().map(Storage::new).transpose().map_err(no_randomness)?,
            settings,
        });
        spawn(listener, Role::Registry, &shared)?;
        if let Some(aside) = aside {
            spawn(aside, Role::Storage, &shared)?;
        }
        Ok(Self { address, storage, shared })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its object storage listens, if it has one.
    pub(crate) fn storage(&self) -> Option<SocketAddr> {
        self.storage
    }

    /// What its requests have shown so far.
    pub(crate) fn seen(&self) -> Account {
        self.shared.seen.account()
    }
}

fn spawn(listener: TcpListener, role: Role, shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let builder = thread::Builder::new().name("registry".to_owned());
    builder.spawn(move || accept(&listener, role, &shared)).map(drop)
}

fn accept(listener: &TcpListener, role: Role, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors as a rule: others must close before it is worth trying again.
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        let shared = Arc::clone(shared);
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        // A thread that cannot be had closes the connection; its caller sees that.
        drop(builder.spawn(move || serve(stream, role, &shared)));
    }
}

/// Serves one connection until it ends. An error is the connection's end and nobody's news.
fn serve(stream: TcpStream, role: Role, shared: &Shared) {
    let Some(mut wire) = wire(stream, shared) else {
        return;
    };
    let mut buffer = None;
    loop {
        let (head, body) = match http::read_head(&mut wire) {
            Ok(Some(read)) => read,
            Ok(None) => return wire.close(),
            Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                let reply = Reply::error(400, "UNKNOWN", &cause.to_string());
                return reply.send_last(&mut wire);
            }
            Err(_) => return,
        };
        let mut incoming = Incoming::new(&mut wire, body, &head, &mut buffer);
        let reply = match (role, &shared.storage) {
            (Role::Storage, Some(storage)) => Ok(storage.answer(&shared.store, &head, unix_now())),
            _ => answer(shared, &head, &mut incoming),
        };
        match reply.and_then(|reply| incoming.finish(&head, &reply)) {
            Ok(true) => {}
            Ok(false) => return wire.close(),
            Err(_) => return,
        }
    }
}

fn wire(stream: TcpStream, shared: &Shared) -> Option<Wire> {
    let wire = match &shared.tls {
        Some(config) => {
            let session = ServerConnection::new(Arc::clone(config)).ok()?;
            Wire::secured(stream, IDLE_WAIT, session)
        }
        None => Wire::new(stream, IDLE_WAIT),
    };
    wire.ok()
}

fn answer(shared: &Shared, head: &Head, incoming: &mut Incoming<'_>) -> io::Result<Reply> {
    let route = Route::of(&head.path);
    let (login, tokens) = (shared.settings.login.as_ref(), shared.tokens.as_ref());
    if let Some(tokens) = tokens
        && head.path == "/service/token"
    {
        let reply = tokens.answer(head, gate::account(login, head), unix_now());
        note(shared, head, reply.status == 401);
        return Ok(reply);
    }
    let refusal = gate::refusal(login, tokens, head, &route);
    note(shared, head, refusal.is_some());
    if let Some(refusal) = refusal {
        return Ok(refusal);
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

/// Counts a request, and names its account where that is wished for and new.
fn note(shared: &Shared, head: &Head, refused: bool) {
    if let Some(user) = shared.seen.note(head, refused)
        && shared.settings.log_accounts
    {
        eprintln!("{}", serde_json::json!({ "account": user }));
    }
}

/// A connection on which nothing moves for this long is closed.
const IDLE_WAIT: Duration = Duration::from_secs(120);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const STACK_BYTES: usize = 256 << 10;
