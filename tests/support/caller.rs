//! A pod's side of a connection: raw bytes out, strictly parsed answers in.
//!
//! It knows no library's leniency: an answer that breaks off, runs on or frames itself wrongly is a
//! [`Broken`], never a short body. What it receives is searched for secrets when it is dropped.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketType};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use super::{PATIENCE, TOKEN, base64, leak};

/// What a story keeps of a caller's bytes to search them; a blob need not be kept whole.
const SEARCHED_BYTES: usize = 1 << 20;

/// A connection to the proxy.
pub(crate) struct Caller {
    line: Line,
    unread: Vec<u8>,
    seen: Vec<u8>,
}

/// What a caller's bytes go over.
enum Line {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// How a caller begins TLS.
pub(crate) struct Hello<'a> {
    /// The roots it trusts, in PEM.
    pub(crate) roots: &'a str,
    /// Whom it wants to meet; an IP address sends no name along.
    pub(crate) name: &'a str,
    /// Whether it says so, as all but old clients do (RFC 6066 §3).
    pub(crate) says_name: bool,
    /// The protocols it offers inside.
    pub(crate) alpn: &'a [&'a str],
    /// Whether it speaks TLS 1.2 and no later one.
    pub(crate) old: bool,
}

impl<'a> Hello<'a> {
    /// As most clients do.
    pub(crate) fn to(name: &'a str, roots: &'a str) -> Self {
        Self { roots, name, says_name: true, alpn: &["http/1.1"], old: false }
    }

    pub(crate) fn session(&self) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(
            CertificateDer::pem_slice_iter(self.roots.as_bytes()).map(Result::unwrap),
        );
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = match self.old {
            true => builder.with_protocol_versions(&[&rustls::version::TLS12]),
            false => builder.with_safe_default_protocol_versions(),
        };
        let mut config =
            builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.enable_sni = self.says_name;
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(self.name.to_owned()).expect("a name");
        ClientConnection::new(config.into(), name).expect("a session")
    }
}

/// One answer, whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The fields in order, names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// The body, without its framing.
    pub(crate) body: Vec<u8>,
    /// The statuses of the interim answers before it.
    pub(crate) interim: Vec<u16>,
    /// The reason phrase.
    pub(crate) reason: String,
}

/// Why there is no whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer did.
    Ended,
    /// Nothing came for [`PATIENCE`].
    Silent,
    /// The answer breaks RFC 9112.
    Malformed(String),
}

impl Caller {
    /// A connection to `address`.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the address accepts"))
    }

    /// The same from another address of this machine.
    pub(crate) fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        net::bind(&socket, &SocketAddrV4::new(source, 0)).expect("an address of this machine");
        net::connect(&socket, &address).expect("the address accepts");
        Self::over(TcpStream::from(socket))
    }

    fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("nodelay");
        socket.set_read_timeout(Some(PATIENCE)).expect("read timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("write timeout");
        Self { line: Line::Plain(socket), unread: Vec::new(), seen: Vec::new() }
    }

    /// The same connection inside TLS, its handshake done; or why there is none.
    pub(crate) fn with_tls(mut self, hello: &Hello<'_>) -> Result<Self, String> {
        let fresh = TcpStream::try_clone(self.line.socket()).expect("a handle");
        let mut stream = StreamOwned::new(hello.session(), fresh);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|cause| cause.to_string())?;
        }
        assert!(self.unread.is_empty(), "nothing comes before the handshake");
        self.line = Line::Tls(Box::new(stream));
        Ok(self)
    }

    /// The end of the certificate chain that the other side has shown, in DER.
    pub(crate) fn leaf(&self) -> Vec<u8> {
        match &self.line {
            Line::Plain(_) => Vec::new(),
            Line::Tls(stream) => {
                stream.conn.peer_certificates().map_or(Vec::new(), |chain| chain[0].to_vec())
            }
        }
    }

    /// Asks for a tunnel to `authority` as the marked caller who lists `connectors`.
    pub(crate) fn connect_to(&mut self, authority: &str, connectors: &str) -> Answer {
        self.send(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\
             Proxy-Authorization: {}\r\n\r\n",
            listing(connectors, TOKEN)
        ));
        let mut head = self.head().unwrap_or_else(|broken| panic!("{broken:?} after CONNECT"));
        if head.status != 200 {
            head.body = self.body("CONNECT", &head).expect("a body with an end");
        }
        head
    }

    /// A second handle, to send while this one receives.
    pub(crate) fn sending_half(&self) -> TcpStream {
        self.line.socket().try_clone().expect("a handle")
    }

    /// Waits for answers this long instead of [`PATIENCE`].
    pub(crate) fn patience(&self, patience: Duration) {
        self.line.socket().set_read_timeout(Some(patience)).expect("read timeout");
    }

    /// Sends `bytes` as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.line.write_all(bytes.as_ref()).expect("the proxy reads");
    }

    /// Sends what the other side still takes; it may have closed already.
    pub(crate) fn send_if_taken(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.line.write_all(bytes.as_ref());
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &str) -> Answer {
        self.send(request);
        let method = request.split(' ').next().unwrap_or_default();
        self.answer_to(method).unwrap_or_else(|broken| panic!("{broken:?} after {request:?}"))
    }

    /// Reads the answer to a request that is not a HEAD.
    pub(crate) fn answer(&mut self) -> Result<Answer, Broken> {
        self.answer_to("GET")
    }

    /// Reads the answer to a request with `method`.
    pub(crate) fn answer_to(&mut self, method: &str) -> Result<Answer, Broken> {
        let mut answer = self.head()?;
        match self.body(method, &answer) {
            Ok(body) => answer.body = body,
            Err((broken, _)) => return Err(broken),
        }
        Ok(answer)
    }

    /// Reads an answer's head, and the interim ones before it.
    pub(crate) fn head(&mut self) -> Result<Answer, Broken> {
        let mut interim = Vec::new();
        loop {
            let head = self.until(b"\r\n\r\n")?;
            let mut answer = parse(&head)?;
            if !(100..200).contains(&answer.status) {
                answer.interim = interim;
                return Ok(answer);
            }
            interim.push(answer.status);
        }
    }

    /// Reads the body that belongs to `head`; when it breaks off, with what had come.
    pub(crate) fn body(
        &mut self,
        method: &str,
        head: &Answer,
    ) -> Result<Vec<u8>, (Broken, Vec<u8>)> {
        if method == "HEAD" || head.status == 204 || head.status == 304 {
            return Ok(Vec::new());
        }
        let mut body = Vec::new();
        let coding = head.field("transfer-encoding");
        let length = head.field("content-length");
        let result = match (coding, length) {
            (Some("chunked"), None) => self.chunks(&mut body),
            (None, Some(length)) => match length.parse() {
                Ok(length) => self.take(length, &mut body),
                Err(_) => Err(Broken::Malformed(format!("content-length {length:?}"))),
            },
            (None, None) => self.rest(&mut body),
            _ => Err(Broken::Malformed("two framings at once".to_owned())),
        };
        result.map_err(|broken| (broken, body.clone())).map(|()| body)
    }

    /// Reads `length` bytes onto `body`.
    pub(crate) fn take(&mut self, length: usize, body: &mut Vec<u8>) -> Result<(), Broken> {
        let end = body.len() + length;
        loop {
            let wanted = (end - body.len()).min(self.unread.len());
            body.extend(self.unread.drain(..wanted));
            if body.len() == end {
                return Ok(());
            }
            self.more()?;
        }
    }

    /// How the connection ends, when nothing more of an answer is expected: [`Broken::Ended`] for
    /// a clean end. Bytes that still come are an answer nobody asked for.
    pub(crate) fn end(&mut self) -> Broken {
        if !self.unread.is_empty() {
            return Broken::Malformed(String::from_utf8_lossy(&self.unread).into_owned());
        }
        match self.more() {
            Err(broken) => broken,
            Ok(()) => Broken::Malformed(String::from_utf8_lossy(&self.unread).into_owned()),
        }
    }

    /// Ends the sending direction and goes on receiving.
    pub(crate) fn finish(&self) {
        let _ = self.line.socket().shutdown(Shutdown::Write);
    }

    /// Goes away as a process that is killed does: with a reset.
    pub(crate) fn reset(self) {
        reset_on_close(self.line.socket());
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<(), Broken> {
        loop {
            let line = self.until(b"\r\n")?;
            let digits = line.strip_suffix(b"\r\n").unwrap_or_default();
            let size = std::str::from_utf8(digits)
                .ok()
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .and_then(|digits| usize::from_str_radix(digits, 16).ok())
                .ok_or_else(|| Broken::Malformed(format!("chunk size {digits:?}")))?;
            self.take(size, body)?;
            let mut end = Vec::new();
            self.take(2, &mut end)?;
            if end != b"\r\n" {
                return Err(Broken::Malformed(format!("after a chunk: {end:?}")));
            }
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn rest(&mut self, body: &mut Vec<u8>) -> Result<(), Broken> {
        loop {
            body.append(&mut self.unread);
            match self.more() {
                Ok(()) => {}
                Err(Broken::Ended) => return Ok(()),
                Err(broken) => return Err(broken),
            }
        }
    }

    fn until(&mut self, end: &[u8]) -> Result<Vec<u8>, Broken> {
        loop {
            let found = self.unread.windows(end.len()).position(|window| window == end);
            if let Some(place) = found {
                return Ok(self.unread.drain(..place + end.len()).collect());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<(), Broken> {
        let mut buffer = vec![0; 256 << 10];
        match self.line.read(&mut buffer) {
            Ok(0) => Err(Broken::Ended),
            Ok(count) => {
                let room = SEARCHED_BYTES.saturating_sub(self.seen.len()).min(count);
                self.seen.extend_from_slice(&buffer[..room]);
                self.unread.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => self.more(),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Err(Broken::Silent),
            Err(_) => Err(Broken::Reset),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        leak::assert_absent(&leak::everything(), &self.seen, "what a caller received");
    }
}

impl Answer {
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

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of an OCI error body, after a check that it is one and calls itself JSON.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        let kind = self.field("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "content-type {kind:?}: {self}");
        let json: serde_json::Value =
            serde_json::from_slice(&self.body).unwrap_or_else(|cause| panic!("{cause}: {self}"));
        let error = &json["errors"][0];
        assert!(error["message"].is_string(), "an error says what to do: {self}");
        error["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.status, self.fields, self.text())
    }
}

/// The `Authorization` value of [`TOKEN`] as a Basic password.
pub(crate) fn basic(token: &str) -> String {
    format!("Basic {}", base64(format!("pod:{token}")))
}

/// The `Proxy-Authorization` value of a caller who lists `connectors`.
pub(crate) fn listing(connectors: &str, token: &str) -> String {
    format!("Basic {}", base64(format!("{connectors}:{token}")))
}

/// A request of the marked caller, who lists `connectors`, to a forward proxy.
pub(crate) fn proxied(method: &str, url: &str, connectors: &str, more: &str) -> String {
    let authorization = listing(connectors, TOKEN);
    format!(
        "{method} {url} HTTP/1.1\r\nHost: elsewhere\r\n\
         Proxy-Authorization: {authorization}\r\n{more}\r\n"
    )
}

/// A request of the marked caller without a body. `more` holds whole field lines.
pub(crate) fn request(method: &str, target: &str, more: &str) -> String {
    let authorization = basic(TOKEN);
    format!(
        "{method} {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {authorization}\r\n{more}\r\n"
    )
}

/// A request of the marked caller with a body and its length.
pub(crate) fn upload(method: &str, target: &str, body: &str) -> String {
    let more =
        format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", body.len());
    format!("{}{body}", request(method, target, &more))
}

/// Closing `socket` from now on resets the connection.
pub(crate) fn reset_on_close(socket: &TcpStream) {
    net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).expect("linger");
}

fn parse(head: &[u8]) -> Result<Answer, Broken> {
    let malformed = |line: &str| Broken::Malformed(line.to_owned());
    let head = std::str::from_utf8(head).map_err(|_| malformed("not UTF-8"))?;
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| malformed(first))?;
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| malformed(line))?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let control = |byte: u8| byte < 0x20 && byte != b'\t';
        if name.is_empty() || !name.bytes().all(token) || value.bytes().any(control) {
            return Err(malformed(line));
        }
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let reason = first.get("HTTP/1.1 200 ".len()..).unwrap_or_default().to_owned();
    Ok(Answer { status, fields, body: Vec::new(), interim: Vec::new(), reason })
}
