//! The load of the comparison: a fixed amount of work, done as cheaply as blocking sockets can.
//!
//! A road to the registry and an amount go in; latencies and held connections come out, or the
//! first thing that went wrong. Nothing here reads a body's bytes: they are counted.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::inside::Inside;
use super::link::{Link, Stock};
use super::origin::{CHUNK_BYTES, MANIFEST_BYTES, NAME, digest, framed};
use crate::wire::malformed;

/// How to reach one repository through one contender.
#[derive(Clone)]
pub(crate) struct Road {
    /// Where the contender listens.
    pub(crate) address: SocketAddr,
    /// The repository's path, from `/v2/`.
    pub(crate) path: String,
    /// What to show the contender.
    pub(crate) authorization: String,
    /// Through which TLS, if any; what is shown is shown inside it.
    pub(crate) inside: Option<Arc<Inside>>,
}

/// The bodies that are sent, made once.
pub(crate) struct Bodies {
    /// For a length known.
    pub(crate) plain: Stock,
    /// In chunks, as much payload as `plain`.
    pub(crate) chunked: Stock,
}

/// What an answer's head said.
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    length: Option<u64>,
    location: Option<String>,
}

impl Bodies {
    /// Makes them.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            plain: Stock::noise(BODY_BYTES)?,
            chunked: Stock::chunks(BODY_BYTES, CHUNK_BYTES)?,
        })
    }
}

impl Road {
    /// A new connection, inside TLS where the road leads through it.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) fn open(&self) -> io::Result<Link> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_WAIT)?;
        let mut link = Link::new(stream, None, WAIT)?;
        if let Some(inside) = &self.inside {
            inside.enter(&mut link)?;
        }
        Ok(link)
    }

    /// A request's head, with `more` fields, each ended by CRLF.
    pub(crate) fn head(&self, method: &str, target: &str, more: &str) -> String {
        let host = match &self.inside {
            Some(_) => NAME.to_owned(),
            None => self.address.to_string(),
        };
        let authorization = &self.authorization;
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\
             Authorization: {authorization}\r\n{more}\r\n"
        )
    }

    fn blob(&self, length: u64) -> String {
        self.head("GET", &format!("{}/blobs/{}", self.path, digest(length)), "")
    }

    /// A request for the manifest of 1 KiB, with `GET` or `HEAD`.
    pub(crate) fn manifest(&self, method: &str) -> String {
        self.head(method, &format!("{}/manifests/latest", self.path), "")
    }

    /// Opens an upload and says where its bytes go.
    ///
    /// # Errors
    /// When it is refused, or the connection breaks.
    pub(crate) fn begin(&self, link: &mut Link) -> io::Result<String> {
        let target = format!("{}/blobs/uploads/", self.path);
        link.send(self.head("POST", &target, "Content-Length: 0\r\n").as_bytes(), false)?;
        let answer = finish(link, 202)?;
        let location = answer.location.ok_or_else(|| malformed("an upload without Location"))?;
        let after = location.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        let target = after.map_or(location.clone(), |(_, path)| format!("/{path}"));
        // A proxy without a prefix need not touch the path; one with a prefix must have put it in.
        if target.starts_with(&self.path) {
            Ok(target)
        } else {
            Err(malformed("an upload's Location leads past the proxy"))
        }
    }
}

/// Pulls one blob of `length` bytes.
///
/// # Errors
/// When an answer is other than it should be, or the connection breaks.
pub(crate) fn pull(road: &Road, length: u64) -> io::Result<()> {
    let mut link = road.open()?;
    link.send(road.blob(length).as_bytes(), false)?;
    let answer = answer(&mut link)?;
    if answer.status != 200 || answer.length.is_some_and(|said| said != length) {
        return Err(unexpected("GET", &answer));
    }
    match answer.length {
        Some(length) => link.skip(length),
        None if link.skip_chunks()? == length => Ok(()),
        None => Err(malformed("a blob of another length")),
    }
}

/// Pushes one blob of `length` bytes: POST, then one PUT with a length.
///
/// # Errors
/// As [`pull`].
pub(crate) fn push(road: &Road, bodies: &Bodies, length: u64) -> io::Result<()> {
    let mut link = road.open()?;
    let target = format!("{}&digest={}", road.begin(&mut link)?, digest(length));
    let more = format!("Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n");
    link.send(road.head("PUT", &target, &more).as_bytes(), true)?;
    link.send_stock(&bodies.plain, length)?;
    finish(&mut link, 201).map(drop)
}

/// Pushes one blob of `length` bytes, which must be whole chunks: POST, PATCH in chunks of 32 KiB,
/// PUT.
///
/// # Errors
/// As [`pull`].
pub(crate) fn push_chunked(road: &Road, bodies: &Bodies, length: u64) -> io::Result<()> {
    let mut link = road.open()?;
    let target = road.begin(&mut link)?;
    let more = "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n";
    link.send(road.head("PATCH", &target, more).as_bytes(), true)?;
    link.send_stock(&bodies.chunked, framed(length))?;
    link.send(b"0\r\n\r\n", false)?;
    finish(&mut link, 202)?;
    let target = format!("{target}&digest={}", digest(length));
    link.send(road.head("PUT", &target, "Content-Length: 0\r\n").as_bytes(), false)?;
    finish(&mut link, 201).map(drop)
}

/// Does `transfer` `count` times at once.
///
/// # Errors
/// The first of theirs.
pub(crate) fn at_once(
    count: usize,
    transfer: impl Fn() -> io::Result<()> + Sync,
) -> io::Result<()> {
    thread::scope(|scope| {
        let transfers: Vec<_> = (0..count).map(|_| scope.spawn(&transfer)).collect();
        transfers.into_iter().try_for_each(|ended| ended.join().unwrap_or_else(panicked))
    })
}

/// Gets a 1 KiB manifest `requests` times over `connections` kept-alive connections, each as soon
/// as the one before is answered. Returns microseconds, sorted.
///
/// # Errors
/// As [`pull`]; the first of them.
pub(crate) fn gets(road: &Road, connections: usize, requests: usize) -> io::Result<Vec<u64>> {
    let each = requests.div_ceil(connections.max(1));
    let asked = road.manifest("GET");
    let asking = || -> io::Result<Vec<u64>> {
        let mut link = road.open()?;
        let mut took = Vec::with_capacity(each);
        for _ in 0..each {
            let started = Instant::now();
            get(&mut link, &asked)?;
            took.push(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        Ok(took)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(asking)).collect();
        let mut all = Vec::with_capacity(each * connections);
        for thread in threads {
            all.extend(thread.join().unwrap_or_else(panicked)?);
        }
        all.sort_unstable();
        Ok(all)
    })
}

/// Connections that each got one manifest and stay open.
///
/// # Errors
/// As [`pull`].
pub(crate) fn idle(road: &Road, count: usize) -> io::Result<Vec<Link>> {
    let asked = road.manifest("GET");
    (0..count)
        .map(|_| {
            let mut link = road.open()?;
            get(&mut link, &asked)?;
            Ok(link)
        })
        .collect()
}

/// Sends `asked`, a GET of the manifest, and reads the answer.
///
/// # Errors
/// As [`pull`].
pub(crate) fn get(link: &mut Link, asked: &str) -> io::Result<()> {
    link.send(asked.as_bytes(), false)?;
    let answer = finish(link, 200)?;
    match answer.length {
        None => Ok(()),
        Some(length) if length == MANIFEST_BYTES as u64 => Ok(()),
        Some(_) => Err(malformed("a manifest of another length")),
    }
}

/// Transfers that go on at a trickle until they are let go of.
pub(crate) struct Slow {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Slow {
    /// Begins `count` transfers, half of them pulls and half pushes, each of 64 KiB every quarter
    /// of a second.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub(crate) fn start(road: &Road, bodies: &Arc<Bodies>, count: usize) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|number| {
            let (road, bodies, stop) = (road.clone(), Arc::clone(bodies), Arc::clone(&stop));
            let builder = thread::Builder::new().stack_size(STACK_BYTES);
            builder.spawn(move || match number % 2 {
                0 => pull_slowly(&road, &stop),
                _ => push_slowly(&road, &bodies, &stop),
            })
        });
        let threads = threads.collect::<io::Result<_>>()?;
        Ok(Self { stop, threads })
    }

    /// Ends them all.
    ///
    /// # Errors
    /// When one had ended by itself.
    pub(crate) fn stop(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
    }
}

fn pull_slowly(road: &Road, stop: &AtomicBool) -> io::Result<()> {
    let mut link = road.open()?;
    link.send(road.blob(SLOW_BYTES).as_bytes(), false)?;
    let answer = answer(&mut link)?;
    if answer.status != 200 {
        return Err(unexpected("GET", &answer));
    }
    while !stop.load(Ordering::Relaxed) {
        link.skip(SLOW_PIECE)?;
        thread::sleep(SLOW_PAUSE);
    }
    Ok(())
}

fn push_slowly(road: &Road, bodies: &Bodies, stop: &AtomicBool) -> io::Result<()> {
    let mut link = road.open()?;
    let target = format!("{}&digest={}", road.begin(&mut link)?, digest(SLOW_BYTES));
    let more = format!("Content-Length: {SLOW_BYTES}\r\n");
    link.send(road.head("PUT", &target, &more).as_bytes(), true)?;
    while !stop.load(Ordering::Relaxed) {
        link.send_stock(&bodies.plain, SLOW_PIECE)?;
        thread::sleep(SLOW_PAUSE);
    }
    Ok(())
}

/// Reads an answer and drops its body; any status but `wanted` is an error.
fn finish(link: &mut Link, wanted: u16) -> io::Result<Answer> {
    let answer = answer(link)?;
    match answer.length {
        Some(length) => link.skip(length)?,
        None => drop(link.skip_chunks()?),
    }
    if answer.status == wanted { Ok(answer) } else { Err(unexpected("request", &answer)) }
}

/// Asks for a tunnel to `authority`, and reads the answer, after which the tunnel begins.
///
/// # Errors
/// When the tunnel is refused, or the connection breaks.
pub(crate) fn tunnel(link: &mut Link, authority: &str, authorization: &str) -> io::Result<()> {
    let asked = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: bench\r\n\
         Proxy-Authorization: {authorization}\r\n\r\n"
    );
    link.send(asked.as_bytes(), false)?;
    let length = link.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let opened = link.ahead().starts_with(b"HTTP/1.1 200 ");
    link.used(length);
    if opened { Ok(()) } else { Err(malformed("a tunnel that was refused")) }
}

/// Sends `asked`, which is answered by a head alone, and reads that; any status but `wanted` is an
/// error.
///
/// # Errors
/// As [`pull`].
pub(crate) fn head(link: &mut Link, asked: &str, wanted: u16) -> io::Result<()> {
    link.send(asked.as_bytes(), false)?;
    let answer = answer(link)?;
    if answer.status == wanted { Ok(()) } else { Err(unexpected("request", &answer)) }
}

/// Reads an answer's head. An answer without a length must be chunked.
pub(crate) fn answer(link: &mut Link) -> io::Result<Answer> {
    let length = link.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(&link.ahead()[..length]);
    if !parsed.is_ok_and(|parsed| parsed.is_complete()) {
        return Err(malformed("bad answer"));
    }
    let text = |name: &str| {
        let mut named = response.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name));
        named.next().and_then(|field| std::str::from_utf8(field.value).ok())
    };
    let answer = Answer {
        status: response.code.unwrap_or_default(),
        length: text("content-length").and_then(|digits| digits.parse().ok()),
        location: text("location").map(str::to_owned),
    };
    let chunked = text("transfer-encoding").is_some();
    link.used(length);
    if answer.length.is_some() == chunked {
        return Err(malformed("an answer without one clear framing"));
    }
    Ok(answer)
}

/// An answer that should have been another.
pub(crate) fn unexpected(what: &str, answer: &Answer) -> io::Error {
    io::Error::other(format!("{what}: unexpected answer {}", answer.status))
}

fn panicked<T>(_: Box<dyn std::any::Any + Send>) -> io::Result<T> {
    Err(io::Error::other("the generator panicked"))
}

const BODY_BYTES: u64 = 64 << 20;
const SLOW_BYTES: u64 = 1 << 40;
const SLOW_PIECE: u64 = 64 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(250);
const FIELDS_MAX: usize = 64;
const STACK_BYTES: usize = 256 << 10;
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Longer than any honest pause of a proxy, short enough that a stuck one ends the step.
const WAIT: Duration = Duration::from_secs(30);
