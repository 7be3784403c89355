//! A core's connections: what they hold, what becomes of one that panics, what is small.

use std::io::IoSlice;
use std::net::{SocketAddr, TcpStream};

use futures_channel::oneshot;

use super::*;
use crate::accept::Inbound;
use crate::balance::Place;
use crate::buffer::Buffer;
use crate::io::Socket;
use crate::io::tests::on_each_driver;
use crate::mailbox::Handover;
use crate::transport::Transport;

fn seed() -> Seed {
    let (postbox, _inbox) = mailbox().unwrap();
    let (questions, _asked) = crossbeam::channel::bounded(1);
    Seed {
        index: 0,
        limits: Arc::new(crate::fuzzing::limits()),
        all: [Arc::default()].into(),
        postboxes: [postbox].into(),
        snapshots: Publisher::new().reader(),
        questions,
        login_questions: crossbeam::channel::bounded(1).0,
        lookups: resolve::start_helpers().unwrap(),
        commissions: crossbeam::channel::bounded(1).0,
        own: Arc::new(Own { cluster_domain: "cluster.local".into(), ..Own::default() }),
        passthrough: Arc::default(),
        tickets: rustls::crypto::ring::Ticketer::new().unwrap(),
        process: 1,
        loopback_allowed: true,
    }
}

fn handover(socket: TcpStream, peer: SocketAddr, core: &Core) -> Handover {
    Handover {
        socket,
        peer,
        entrance: Entrance::Either,
        already_read: Buffer::default(),
        place: Place::take(&core.counters),
        transfer: None,
    }
}

#[test]
fn the_memory_of_a_connection_is_a_decision() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    );
    let core = Rc::new(seed().core().unwrap());
    let serving = accept::serve(handover(socket.unwrap().into(), address, &core), Rc::clone(&core));
    let bytes = size_of_val(&contained(serving, Arc::default()));
    // A task holds this for as long as its connection lives: whoever makes it grow, or shrink,
    // says so here.
    assert!((600..1_200).contains(&bytes), "the future has {bytes} bytes");
}

#[test]
fn the_memory_of_an_exchange_is_a_decision() {
    on_each_driver(|_| async {
        let core = Rc::new(seed().core().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let socket = Socket::connect(peer, Duration::from_secs(5)).await.unwrap();
        let mut inbound = Inbound {
            transport: Transport::Plain(socket),
            buffer: Buffer::default(),
            peer,
            transfer: None,
            interception: None,
        };
        let bytes = size_of_val(&crate::exchange::one(&mut inbound, &core));
        // Every request moves it once and fills it: what is rare in it belongs on the heap.
        assert!((1_200..1_950).contains(&bytes), "the future has {bytes} bytes");
    });
}

/// What `core` answers to `requests`, one after another; after each `seen` is asked.
async fn exchange<T>(core: &Rc<Core>, requests: &[&str], seen: fn() -> T) -> Vec<T> {
    const WAIT: Duration = Duration::from_secs(5);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let caller = Transport::Plain(Socket::connect(address, WAIT).await.unwrap());
    let (socket, peer) = listener.accept().unwrap();
    core_io::spawn(accept::serve(handover(socket, peer, core), Rc::clone(core)));
    let mut all = Vec::new();
    for request in requests {
        let text = format!("{request} HTTP/1.1\r\nHost: h\r\n\r\n");
        caller.write_all(&mut [IoSlice::new(text.as_bytes())], WAIT).await.unwrap();
        let mut answer = [0; 4096];
        let count = caller.read(&mut answer, WAIT).await.unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 401"), "{request}");
        all.push(seen());
    }
    all
}

#[test]
fn only_a_small_request_makes_bodies_go_in_smaller_pieces() {
    on_each_driver(|_| async {
        let core = Rc::new(seed().core().unwrap());
        let repository = "/v2/namespaces/ci/connectors/h/p/r";
        let blob = format!("GET {repository}/blobs/sha256:{}", "0".repeat(64));
        let manifest = format!("HEAD {repository}/manifests/latest");
        let most = core_io::copied_max();
        let upload = format!("POST {repository}/blobs/uploads/");
        let requests = [&*blob, &*upload, &*blob, &*manifest];
        let seen = exchange(&core, &requests, core_io::copied_max).await;
        assert_eq!(seen[..3], [most; 3], "what leads to a body is no small request");
        assert!(seen[3] < most, "a small request is one");
    });
}

#[test]
fn a_connection_that_panics_is_counted_and_the_core_goes_on() {
    on_each_driver(|_| async {
        let counters = Arc::new(Counters::default());
        let (done, finished) = oneshot::channel();
        core_io::spawn(contained(
            async {
                core_io::yield_now().await;
                panic!("a defect");
            },
            Arc::clone(&counters),
        ));
        let other = async move {
            core_io::sleep(Duration::from_millis(20)).await;
            done.send(()).expect("somebody waits");
        };
        core_io::spawn(contained(other, Arc::clone(&counters)));
        finished.await.expect("the other connection ended well");
        assert_eq!(counters.panics.get(), 1);
    });
}
