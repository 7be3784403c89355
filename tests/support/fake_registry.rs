//! A registry that does what a story tells it to: answer, stall, cut, lie.
//!
//! A script is a function that runs once per connection, on a thread of its own, over a real
//! socket. Every byte received is recorded, and searched for the callers' tokens in the end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::caller::reset_on_close;
use super::{PASSWORD, PATIENCE, USER, base64, leak};

/// What a story keeps of one connection; a big upload need not be kept whole.
const RECORDED_BYTES: usize = 4 << 20;

/// The registry.
pub(crate) struct FakeRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// One request as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
    /// The method.
    pub(crate) method: String,
    /// The request-target.
    pub(crate) target: String,
    /// The fields in order, names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// The body's bytes so far, framing removed.
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its proper end.
    pub(crate) complete: bool,
    place: usize,
}

/// How the proxy ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With FIN.
    Closed,
    /// With RST.
    Reset,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    connections: usize,
    requests: Vec<Received>,
    raw: Vec<Vec<u8>>,
    endings: Vec<Ending>,
    probes: Vec<Received>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeRegistry {
    /// A registry that runs `script` for each connection, except for the proxy's own probes, which
    /// it answers with 200 by itself.
    pub(crate) fn scripted(script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Self {
        Self::scripted_on("127.0.0.1:0", script)
    }

    /// The same on an address of the story's choice.
    pub(crate) fn scripted_on(
        address: &str,
        script: impl Fn(&mut Visit) + Send + Sync + 'static,
    ) -> Self {
        Self::start(address, true, script)
    }

    /// A registry whose script sees the proxy's own probes as well.
    pub(crate) fn scripted_with_probes(
        script: impl Fn(&mut Visit) + Send + Sync + 'static,
    ) -> Self {
        Self::start("127.0.0.1:0", false, script)
    }

    fn start(
        address: &str,
        good_natured: bool,
        script: impl Fn(&mut Visit) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("an address of our own");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let script = Arc::new(script);
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if accepting.stopped.load(Ordering::Acquire) {
                    return;
                }
                let (script, shared) = (Arc::clone(&script), Arc::clone(&accepting));
                thread::spawn(move || {
                    if good_natured && is_probe(&socket) {
                        return Visit::aside(socket, shared).answer_probe();
                    }
                    script(&mut Visit::new(socket, shared));
                });
            }
        });
        Self { address, shared }
    }

    /// A registry that reads each request whole and answers it with what `reply` makes of it.
    pub(crate) fn answering(reply: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted(move |visit| visit.serve(&reply))
    }

    /// A registry that answers everything with 200 and a few bytes.
    pub(crate) fn obliging() -> Self {
        Self::answering(|_| answer(200, "Content-Type: text/plain\r\n", b"obliging"))
    }

    /// What goes into a connector's `spec.address`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The registry's own authority, which the proxy must put into `Host`.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// The requests whose heads have arrived, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.shared.record().requests.clone()
    }

    /// Method and target of each request that has arrived.
    pub(crate) fn arrivals(&self) -> Vec<String> {
        let record = self.shared.record();
        record.requests.iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect()
    }

    /// The one request that has arrived.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Received {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{:?}", self.arrivals());
        requests.remove(0)
    }

    /// Whether a single byte has arrived.
    pub(crate) fn is_untouched(&self) -> bool {
        self.shared.record().raw.iter().all(Vec::is_empty)
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.record().connections
    }

    /// All bytes of one connection, up to a bound.
    pub(crate) fn raw(&self, connection: usize) -> Vec<u8> {
        self.shared.record().raw.get(connection).cloned().unwrap_or_default()
    }

    /// The proxy's own probes that the registry answered by itself.
    pub(crate) fn probes(&self) -> Vec<Received> {
        self.shared.record().probes.clone()
    }

    /// How the proxy ended the connections whose end the script has seen.
    pub(crate) fn endings(&self) -> Vec<Ending> {
        self.shared.record().endings.clone()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // The accepting thread wakes up once more, sees the mark and ends.
        let _ = TcpStream::connect(self.address);
        for raw in &self.shared.record().raw {
            leak::assert_absent(&leak::tokens(), raw, "what a registry received");
        }
    }
}

/// One connection, as a script sees it.
pub(crate) struct Visit {
    /// Which connection this is, from 0.
    pub(crate) connection: usize,
    socket: Option<TcpStream>,
    unread: Vec<u8>,
    shared: Arc<Shared>,
}

impl Visit {
    fn new(socket: TcpStream, shared: Arc<Shared>) -> Self {
        let mut record = shared.record();
        let connection = record.connections;
        record.connections += 1;
        record.raw.push(Vec::new());
        drop(record);
        Self { connection, ..Self::aside(socket, shared) }
    }

    /// A connection that is no part of the story.
    fn aside(socket: TcpStream, shared: Arc<Shared>) -> Self {
        let _ = socket.set_nodelay(true);
        let _ = socket.set_read_timeout(Some(PATIENCE * 2));
        let _ = socket.set_write_timeout(Some(PATIENCE * 2));
        Self { connection: usize::MAX, socket: Some(socket), unread: Vec::new(), shared }
    }

    fn answer_probe(mut self) {
        if let Some(request) = self.parse_head() {
            self.shared.record().probes.push(request);
            self.send(answer(200, "Connection: close\r\n", b"{}"));
        }
    }

    /// Reads requests whole and answers them, until the proxy ends the connection.
    pub(crate) fn serve(&mut self, reply: impl Fn(&Received) -> Vec<u8>) {
        while let Some(mut request) = self.head() {
            if !self.body(&mut request) {
                return;
            }
            self.send(reply(&request));
        }
    }

    /// Reads one head; nothing when the connection ends.
    pub(crate) fn head(&mut self) -> Option<Received> {
        let mut request = self.parse_head()?;
        let mut record = self.shared.record();
        request.place = record.requests.len();
        record.requests.push(request.clone());
        Some(request)
    }

    fn parse_head(&mut self) -> Option<Received> {
        let place = loop {
            if let Some(place) = self.unread.windows(4).position(|end| end == b"\r\n\r\n") {
                break place;
            }
            self.more()?;
        };
        let head: Vec<u8> = self.unread.drain(..place + 4).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.trim_end().split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let request = Received {
            connection: self.connection,
            method: first.next().unwrap_or_default().to_owned(),
            target: first.next().unwrap_or_default().to_owned(),
            fields: lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
            ..Received::default()
        };
        Some(request)
    }

    /// Reads the body of `request`; whether it came to its proper end.
    pub(crate) fn body(&mut self, request: &mut Received) -> bool {
        let length = request.field("content-length").and_then(|length| length.parse().ok());
        let chunked = request.field("transfer-encoding").is_some();
        request.complete = if chunked {
            self.chunks(request).is_some()
        } else {
            self.take(request, length.unwrap_or(0)).is_some()
        };
        self.keep(request);
        request.complete
    }

    /// Reads `length` bytes of the body of `request`, whatever its framing.
    pub(crate) fn take(&mut self, request: &mut Received, length: usize) -> Option<()> {
        let end = request.body.len() + length;
        while request.body.len() < end {
            let count = (end - request.body.len()).min(self.unread.len());
            request.body.extend(self.unread.drain(..count));
            if request.body.len() < end && self.more().is_none() {
                self.keep(request);
                return None;
            }
        }
        self.keep(request);
        Some(())
    }

    /// Sends `bytes`; whether the proxy took them.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.as_mut().is_some_and(|socket| socket.write_all(bytes.as_ref()).is_ok())
    }

    /// Sends `bytes` one at a time with a `pause` after each, as a registry that stalls does.
    pub(crate) fn drip(&mut self, bytes: &[u8], pause: Duration) {
        for byte in bytes {
            if !self.send([*byte]) {
                return;
            }
            thread::sleep(pause);
        }
    }

    /// Ends the sending direction; the rest of the upload can still be read.
    pub(crate) fn finish(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    /// Resets the connection.
    pub(crate) fn reset(&mut self) {
        if let Some(socket) = self.socket.take() {
            reset_on_close(&socket);
        }
    }

    /// Closes the connection, as an idle one is closed.
    pub(crate) fn close(&mut self) {
        self.socket = None;
    }

    /// Reads and drops whatever comes until the proxy ends the connection, and records how it did.
    pub(crate) fn wait_for_end(&mut self) {
        while self.more().is_some() {
            self.unread.clear();
        }
    }

    fn chunks(&mut self, request: &mut Received) -> Option<()> {
        loop {
            let place = loop {
                match self.unread.windows(2).position(|end| end == b"\r\n") {
                    Some(place) => break place,
                    None => self.more()?,
                }
            };
            let line: Vec<u8> = self.unread.drain(..place + 2).collect();
            let digits = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(digits.trim_end(), 16).ok()?;
            self.take(request, size)?;
            let mut end = Received { place: usize::MAX, ..Received::default() };
            self.take(&mut end, 2)?;
            if size == 0 {
                return (end.body == b"\r\n").then_some(());
            }
        }
    }

    fn keep(&self, request: &Received) {
        let mut record = self.shared.record();
        if let Some(kept) = record.requests.get_mut(request.place) {
            kept.complete = request.complete;
            let end = request.body.len().min(RECORDED_BYTES);
            kept.body = request.body[..end].to_vec();
        }
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = vec![0; 64 << 10];
        let ending = match self.socket.as_mut()?.read(&mut buffer) {
            Ok(0) => Ending::Closed,
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                let mut record = self.shared.record();
                if let Some(raw) = record.raw.get_mut(self.connection) {
                    let room = RECORDED_BYTES.saturating_sub(raw.len()).min(count);
                    raw.extend_from_slice(&buffer[..room]);
                }
                return Some(());
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => return Some(()),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => Ending::Reset,
        };
        self.shared.record().endings.push(ending);
        None
    }
}

impl Received {
    /// The value of the field `name`, when it came exactly once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(known, _)| known == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// Whether a field of that name came at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, _)| known == name)
    }

    /// Whether the request carries the connector's credential, and nothing else.
    pub(crate) fn is_the_robots(&self) -> bool {
        self.field("authorization") == Some(&robots_authorization(PASSWORD))
    }
}

/// Whether the connection begins with the proxy's own question whether its credential is good.
fn is_probe(socket: &TcpStream) -> bool {
    let mut start = [0; 1024];
    let count = socket.peek(&mut start).unwrap_or_default();
    let start = String::from_utf8_lossy(&start[..count]);
    let line = start.lines().next().unwrap_or_default();
    line.starts_with("GET ") && line.ends_with("/v2/ HTTP/1.1") && start.contains(" (probe)")
}

/// The `Authorization` of the connector's account with `password`.
pub(crate) fn robots_authorization(password: &str) -> String {
    format!("Basic {}", base64(format!("{USER}:{password}")))
}

/// An answer with a length. `fields` holds whole field lines.
pub(crate) fn answer(status: u16, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Said So\r\n{fields}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::caller::request;
    use crate::support::{Broken, Caller, PREFIX, eventually};

    fn ask(registry: &FakeRegistry) -> Caller {
        let mut caller = Caller::connect(registry.address);
        // Not the caller's token: a registry that saw it would complain in the end.
        caller.send(format!("GET {PREFIX} HTTP/1.1\r\nHost: x\r\n\r\n"));
        caller
    }

    #[test]
    fn a_whole_answer_a_short_one_and_a_reset_one_are_told_apart() {
        let bytes = answer(200, "", &[7; 100_000]);
        for (end, expected) in
            [("whole", None), ("fin", Some(Broken::Ended)), ("rst", Some(Broken::Reset))]
        {
            let bytes = bytes.clone();
            let registry = FakeRegistry::scripted(move |visit| {
                visit.head();
                match end {
                    "whole" => visit.send(&bytes),
                    _ => visit.send(&bytes[..1000]),
                };
                if end == "rst" {
                    visit.reset();
                }
            });
            assert_eq!(ask(&registry).answer().err(), expected, "{end}");
        }
    }

    #[test]
    fn bad_framing_is_malformed_for_a_caller() {
        for bytes in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
        ] {
            let registry = FakeRegistry::scripted(move |visit| {
                visit.head();
                visit.send(bytes);
            });
            let broken = ask(&registry).answer().expect_err(bytes);
            assert!(matches!(broken, Broken::Malformed(_)), "{bytes}: {broken:?}");
        }
    }

    #[test]
    fn an_aborted_upload_is_told_from_a_complete_one() {
        for (chunks, complete) in [("5\r\nhello\r\n0\r\n\r\n", true), ("5\r\nhello\r\n", false)] {
            let registry = FakeRegistry::answering(|_| answer(201, "", b""));
            let mut caller = Caller::connect(registry.address);
            let head = "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
            caller.send(format!("{head}{chunks}"));
            caller.finish();
            eventually("the end", || (registry.endings() == [Ending::Closed]).then_some(()));
            let seen = registry.only_request();
            assert_eq!((seen.body.as_slice(), seen.complete), (&b"hello"[..], complete));
        }
    }

    #[test]
    fn a_reset_of_the_other_side_is_noticed() {
        let registry = FakeRegistry::answering(|_| answer(201, "", b""));
        let caller = ask(&registry);
        eventually("the request", || (!registry.arrivals().is_empty()).then_some(()));
        caller.reset();
        eventually("the reset", || (registry.endings() == [Ending::Reset]).then_some(()));
    }

    #[test]
    #[should_panic(expected = "a marked secret stands in what a registry received")]
    fn a_callers_token_at_the_registry_fails_the_story() {
        let registry = FakeRegistry::obliging();
        let mut caller = Caller::connect(registry.address);
        caller.ask(&request("GET", "/v2/", ""));
    }
}
