//! What many tasks of a core do with the kernel, one after another instead of in between.
//!
//! A send wakes whoever waits for it. Where that is a process of the same machine, and its
//! processor sleeps, the wake-up costs the sender more than the rest of the call. Sends that leave
//! together find it awake: so a task that has something small to send lets all that are ready now
//! come as far, and then they go one after another. The same holds for a receive that would be
//! tried too soon.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::rc::Rc;

use bytes::Bytes;
use monoio::net::TcpStream;
use rustix::net::SendFlags;

use super::descriptor;
use super::line::{self, Line};

/// Waits until all tasks that are ready now have run.
pub(super) async fn wait() {
    line::stand(&WAVES).await;
}

/// Sends `bytes` to `peer` with the next wave: what fits at once. Says how many went, and hands
/// them back. Whoever gives it up does not know whether they go.
pub(super) async fn send(peer: Rc<TcpStream>, bytes: Bytes) -> (io::Result<usize>, Bytes) {
    let sending = Rc::new(RefCell::new(Sending { peer, bytes, sent: None }));
    OUTGOING.with_borrow_mut(|outgoing| outgoing.push(Rc::clone(&sending)));
    loop {
        wait().await;
        let mut sending = sending.borrow_mut();
        if let Some(sent) = sending.sent.take() {
            return (sent, mem::take(&mut sending.bytes));
        }
    }
}

/// Lets those who wait go on, wave after wave. It is woken with the first of a wave, so it runs
/// after all tasks that were ready then.
pub(super) async fn keep() {
    let mut wave = Vec::new();
    loop {
        let first = line::first(&WAVES).await;
        // One after another without a task in between: the code that sends stays in the caches,
        // and whoever was woken by one stays awake for the next.
        OUTGOING.with_borrow_mut(|outgoing| mem::swap(outgoing, &mut wave));
        wave.drain(..).for_each(|sending| sending.borrow_mut().run());
        first.wake();
        line::let_on(&WAVES, usize::MAX);
    }
}

/// One send of a wave.
struct Sending {
    peer: Rc<TcpStream>,
    bytes: Bytes,
    sent: Option<io::Result<usize>>,
}

impl Sending {
    fn run(&mut self) {
        let sent = rustix::net::send(descriptor::of(&*self.peer), &self.bytes, SendFlags::NOSIGNAL);
        self.sent = Some(sent.map_err(io::Error::from));
    }
}

thread_local! {
    static WAVES: RefCell<Line> = RefCell::default();
    static OUTGOING: RefCell<Vec<Rc<RefCell<Sending>>>> = RefCell::default();
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use futures_channel::oneshot;

    use super::super::tests::on_each_driver;
    use super::super::{Socket, spawn, together};
    use super::*;

    #[test]
    fn who_is_ready_comes_as_far_before_anybody_goes_on() {
        on_each_driver(|_| three_at_once());
    }

    #[test]
    fn all_of_a_wave_has_left_before_anybody_goes_on() {
        on_each_driver(|_| three_sends());
    }

    /// Each of three tasks finds what all of them sent, whichever of them goes on first.
    async fn three_sends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = Vec::new();
        let mut near = Vec::new();
        for _ in 0..3 {
            let address = listener.local_addr().unwrap();
            let socket = Socket::connect(address, Duration::from_secs(5)).await.unwrap();
            near.push(TcpStream::from_std(socket.detach().unwrap()).unwrap());
            far.push(listener.accept().unwrap().0);
        }
        let far = Rc::new(far);
        let mut ends = Vec::new();
        for peer in near {
            let (end, ended) = oneshot::channel();
            ends.push(ended);
            let far = Rc::clone(&far);
            spawn(async move {
                let (sent, _) = send(Rc::new(peer), Bytes::from_static(b"head")).await;
                assert_eq!(sent.unwrap(), 4);
                let arrived = |far: &std::net::TcpStream| {
                    far.set_nonblocking(true).unwrap();
                    far.peek(&mut [0; 4]).unwrap_or_default()
                };
                end.send(far.iter().map(arrived).sum::<usize>()).expect("somebody waits");
            });
        }
        for ended in ends {
            assert_eq!(ended.await.expect("it ended"), 12);
        }
    }

    async fn three_at_once() {
        let steps = Rc::new(RefCell::new(String::new()));
        let mut ends = Vec::new();
        for _ in 0..3 {
            let (end, ended) = oneshot::channel();
            ends.push(ended);
            let steps = Rc::clone(&steps);
            spawn(async move {
                // Twice: who goes on may queue for the next wave.
                for step in ["a", "b"] {
                    steps.borrow_mut().push_str(step);
                    together().await;
                }
                end.send(()).expect("somebody waits");
            });
        }
        for ended in ends {
            ended.await.expect("it ended");
        }
        assert_eq!(*steps.borrow(), "aaabbb");
    }
}
