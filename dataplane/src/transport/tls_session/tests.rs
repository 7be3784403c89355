//! Sessions against rustls' own other side, on a thread of its own, over real sockets.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use rustls::{SupportedProtocolVersion, version};
use rustls_pki_types::PrivateKeyDer;

use crate::io::{Socket, run, sleep, uring_works};
use crate::tls::TlsConfigs;
use crate::transport::{SMALL_BYTES_MAX, Transport};
use crate::vocabulary::{Origin, Scheme, Trust};
use crate::wiped::Wiped;

type Peer = StreamOwned<ServerConnection, TcpStream>;

/// A registry's side: its configuration, and what a caller of it has to trust.
struct Registry {
    config: Arc<ServerConfig>,
    trust: Trust,
}

fn registry(versions: &[&'static SupportedProtocolVersion]) -> Registry {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let trust = Trust { id: 1, anchors: vec![Arc::from(certificate.as_ref())] };
    Registry { config: Arc::new(config), trust }
}

/// Our side: connects, and completes the handshake.
struct Dialler<'a> {
    address: SocketAddr,
    trust: &'a Trust,
    configs: TlsConfigs,
}

impl Dialler<'_> {
    async fn dial(&mut self) -> io::Result<Transport> {
        let socket = Socket::connect(self.address, WAIT).await?;
        let port = self.address.port();
        let origin = Origin { scheme: Scheme::Https, host: "localhost".into(), port };
        let transport = self.configs.open(socket, &origin, self.trust).unwrap();
        transport.handshake(WAIT).await?;
        Ok(transport)
    }
}

/// Lets `ours`, on a core of each driver, meet `theirs`.
fn meet(
    trust: &Trust,
    theirs: impl Fn(&TcpListener) + Sync,
    ours: impl AsyncFn(&mut Dialler<'_>) + Sync,
) {
    for uring in [true, false] {
        if uring && !uring_works() {
            continue;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| theirs(&listener));
            scope.spawn(|| {
                run(uring, async {
                    ours(&mut Dialler { address, trust, configs: TlsConfigs::default() }).await;
                })
                .unwrap();
            });
        });
    }
}

impl Registry {
    fn accept(&self, listener: &TcpListener) -> Peer {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.set_write_timeout(Some(WAIT)).unwrap();
        let session = ServerConnection::new(Arc::clone(&self.config)).unwrap();
        let mut peer = StreamOwned::new(session, socket);
        while peer.conn.is_handshaking() {
            peer.conn.complete_io(&mut peer.sock).unwrap();
        }
        peer.flush().unwrap();
        peer
    }

    /// Accepts, and takes in `body` before anything else.
    fn receive(&self, listener: &TcpListener, body: &[u8]) -> Peer {
        let mut peer = self.accept(listener);
        let mut got = vec![0; body.len()];
        peer.read_exact(&mut got).unwrap();
        assert!(got == body);
        peer
    }
}

/// Bytes of which no two stretches are alike.
fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count / 8).flat_map(|_| next().to_le_bytes()).collect()
}

async fn read_exact(transport: &Transport, count: usize, piece: usize) -> Vec<u8> {
    let mut all = vec![0; count];
    let mut filled = 0;
    while filled < count {
        let until = count.min(filled + piece);
        let read = transport.read(&mut all[filled..until], WAIT).await.unwrap();
        assert_ne!(read, 0, "the stream ended after {filled} bytes");
        filled += read;
    }
    all
}

fn passes_both_ways_at_once(version: &'static SupportedProtocolVersion) {
    let registry = registry(&[version]);
    let (down, up) = (bytes(BODY_BYTES, 3), bytes(BODY_BYTES, 5));
    meet(
        &registry.trust,
        |listener| {
            let mut peer = registry.accept(listener);
            let mut got = vec![0; BODY_BYTES];
            for (index, into) in got.chunks_mut(PIECE_BYTES).enumerate() {
                peer.write_all(&down[index * PIECE_BYTES..][..into.len()]).unwrap();
                peer.read_exact(into).unwrap();
                if version.version == rustls::ProtocolVersion::TLSv1_3 {
                    // Both sides' keys change under way: the peer's now, ours in answer.
                    peer.conn.refresh_traffic_keys().unwrap();
                }
            }
            assert!(got == up, "what went up is not what was sent");
        },
        async |dialler| {
            let transport = dialler.dial().await.unwrap();
            let mut parts = [IoSlice::new(&up[..13]), IoSlice::new(&up[13..])];
            let sending = transport.write_all(&mut parts, WAIT);
            let (sent, got) = join(sending, read_exact(&transport, BODY_BYTES, 256 << 10)).await;
            sent.unwrap();
            assert!(got == down, "what came down is not what was sent");
        },
    );
}

#[test]
fn bytes_pass_both_ways_at_once_while_keys_change() {
    passes_both_ways_at_once(&version::TLS13);
}

#[test]
fn bytes_pass_both_ways_at_once_in_tls_1_2_too() {
    passes_both_ways_at_once(&version::TLS12);
}

#[test]
fn many_small_pieces_arrive_in_order_whatever_the_reader_asks_for() {
    let registry = registry(rustls::ALL_VERSIONS);
    let body = bytes(160_000, 7);
    meet(
        &registry.trust,
        |listener| {
            let mut peer = registry.receive(listener, &body);
            for piece in body.chunks(23) {
                peer.write_all(piece).unwrap();
            }
            peer.write_all(&body).unwrap();
        },
        async |dialler| {
            let transport = dialler.dial().await.unwrap();
            for piece in body.chunks(29) {
                let (head, tail) = piece.split_at(piece.len() / 3);
                let mut parts = [head, &[], tail].map(IoSlice::new);
                transport.write_all(&mut parts, WAIT).await.unwrap();
            }
            assert!(read_exact(&transport, body.len(), 100).await == body);
            assert!(read_exact(&transport, body.len(), 1000).await == body);
        },
    );
}

#[test]
fn heads_and_small_answers_leave_whole_and_in_order_whatever_their_size() {
    let registry = registry(rustls::ALL_VERSIONS);
    let sizes = [8, 1024, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 8, 1 << 20, 8];
    let body = bytes(sizes.iter().sum(), 13);
    meet(
        &registry.trust,
        |listener| {
            let mut peer = registry.receive(listener, &body);
            peer.write_all(b"received").unwrap();
        },
        async |dialler| {
            let mut transport = dialler.dial().await.unwrap();
            let mut rest = &body[..];
            for size in sizes {
                let (head, after) = rest.split_at(size);
                transport.send(Wiped::new(head.to_vec()), WAIT).await.unwrap();
                rest = after;
            }
            assert_eq!(read_exact(&transport, 8, 8).await, b"received");
        },
    );
}

#[test]
fn a_stream_that_is_cut_off_is_an_error_and_one_that_is_closed_an_end() {
    let registry = registry(rustls::ALL_VERSIONS);
    let body = bytes(100_000, 11);
    meet(
        &registry.trust,
        |listener| {
            let mut cut = registry.accept(listener);
            cut.write_all(&body).unwrap();
            drop(cut);
            let mut closed = registry.accept(listener);
            closed.write_all(&body).unwrap();
            closed.conn.send_close_notify();
            closed.flush().unwrap();
        },
        async |dialler| {
            let cut = dialler.dial().await.unwrap();
            assert!(read_exact(&cut, body.len(), 256 << 10).await == body);
            for _ in 0..2 {
                let end = cut.read(&mut [0; 9], WAIT).await.unwrap_err();
                assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
            }
            let closed = dialler.dial().await.unwrap();
            assert!(read_exact(&closed, body.len(), 256 << 10).await == body);
            for _ in 0..2 {
                assert_eq!(closed.read(&mut [0; 9], WAIT).await.unwrap(), 0);
            }
        },
    );
}

#[test]
fn bytes_that_were_tampered_with_are_an_error_after_all_that_came_before() {
    let registry = registry(rustls::ALL_VERSIONS);
    meet(
        &registry.trust,
        |listener| {
            let mut peer = registry.accept(listener);
            peer.write_all(&[1; 64]).unwrap();
            peer.sock.write_all(&[23, 3, 3, 0, 32]).unwrap();
            peer.sock.write_all(&[0; 32]).unwrap();
            let refused = peer.read(&mut [0; 9]).unwrap_err();
            assert!(refused.to_string().contains("BadRecordMac"), "{refused}");
        },
        async |dialler| {
            let transport = dialler.dial().await.unwrap();
            assert_eq!(read_exact(&transport, 64, 64).await, [1; 64]);
            for _ in 0..2 {
                let broken = transport.read(&mut [0; 9], WAIT).await.unwrap_err();
                assert_eq!(broken.kind(), io::ErrorKind::InvalidData);
            }
        },
    );
}

#[test]
fn a_certificate_that_is_not_trusted_is_invalid_data_and_the_registry_hears_why() {
    let (ours, theirs) = (registry(rustls::ALL_VERSIONS), registry(rustls::ALL_VERSIONS));
    meet(
        &ours.trust,
        |listener| {
            let (mut socket, _) = listener.accept().unwrap();
            let mut session = ServerConnection::new(Arc::clone(&theirs.config)).unwrap();
            let failed = loop {
                match session.complete_io(&mut socket) {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert!(failed.to_string().contains("alert"), "{failed}");
        },
        async |dialler| {
            let failed = dialler.dial().await.err().unwrap();
            assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
        },
    );
}

#[test]
fn a_peer_that_speaks_no_tls_is_invalid_data_and_one_that_hangs_up_is_not() {
    let registry = registry(rustls::ALL_VERSIONS);
    meet(
        &registry.trust,
        |listener| {
            let (mut plain, _) = listener.accept().unwrap();
            plain.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            let (mut short, _) = listener.accept().unwrap();
            assert_ne!(short.read(&mut [0; 4096]).unwrap(), 0);
        },
        async |dialler| {
            let plain = dialler.dial().await.err().unwrap();
            assert_eq!(plain.kind(), io::ErrorKind::InvalidData);
            let short = dialler.dial().await.err().unwrap();
            assert_ne!(short.kind(), io::ErrorKind::InvalidData);
        },
    );
}

#[test]
fn a_second_connection_resumes_the_session_of_the_first() {
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let registry = registry(versions);
        meet(
            &registry.trust,
            |listener| {
                for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
                    let mut peer = registry.accept(listener);
                    peer.write_all(b"!").unwrap();
                    assert_eq!(peer.conn.handshake_kind(), Some(expected));
                }
            },
            async |dialler| {
                for _ in 0..2 {
                    let transport = dialler.dial().await.unwrap();
                    assert_eq!(read_exact(&transport, 1, 1).await, b"!");
                }
            },
        );
    }
}

#[test]
fn an_idle_session_is_quiet_while_tickets_come_and_not_once_it_is_closed() {
    let registry = registry(&[&version::TLS13]);
    meet(
        &registry.trust,
        |listener| {
            for polite in [true, false] {
                let mut peer = registry.accept(listener);
                let mut told = [0; 2];
                peer.read_exact(&mut told).unwrap();
                if polite {
                    peer.conn.send_close_notify();
                    peer.flush().unwrap();
                    // Only the close is to be noticed, not the end of the connection under it.
                    assert_eq!(peer.sock.read(&mut [0; 9]).unwrap(), 0);
                }
            }
        },
        async |dialler| {
            for _ in 0..2 {
                let transport = dialler.dial().await.unwrap();
                transport.socket().readable(WAIT).await.unwrap();
                assert!(!transport.socket().is_quiet(), "a ticket has come");
                assert!(transport.is_quiet());
                let Transport::Tls(session) = &transport else { panic!("not TLS") };
                assert!(session.state.borrow().held.is_none(), "it keeps no memory");
                transport.write_all(&mut [IoSlice::new(b"go")], WAIT).await.unwrap();
                let since = Instant::now();
                while transport.is_quiet() {
                    assert!(since.elapsed() < WAIT, "the close was never noticed");
                    sleep(Duration::from_millis(5)).await;
                }
            }
        },
    );
}

#[test]
fn a_session_with_an_answer_that_nobody_asked_for_is_not_quiet() {
    let registry = registry(rustls::ALL_VERSIONS);
    meet(
        &registry.trust,
        |listener| {
            let mut peer = registry.accept(listener);
            peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").unwrap();
            peer.read_exact(&mut [0; 2]).unwrap();
        },
        async |dialler| {
            let transport = dialler.dial().await.unwrap();
            let since = Instant::now();
            while transport.is_quiet() {
                assert!(since.elapsed() < WAIT, "the answer was never noticed");
                sleep(Duration::from_millis(5)).await;
            }
            transport.write_all(&mut [IoSlice::new(b"ok")], WAIT).await.unwrap();
        },
    );
}

const WAIT: Duration = Duration::from_secs(20);
const BODY_BYTES: usize = 8 << 20;
const PIECE_BYTES: usize = 128 << 10;
