//! One caller that takes the time of what it asks.
//!
//! A connection and a request in, nanoseconds out. It asks again only when it was answered, by the
//! clock or at once, and it does nothing else: every delay that is not the proxy's spoils it.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::compare::drive::{self, Road};
use crate::compare::link::Link;
use crate::memory::Noise;

/// A connection that is kept and a request that is repeated.
pub(super) struct Prober {
    link: Link,
    asked: String,
    wanted: u16,
    noise: Noise,
}

impl Prober {
    /// Asks for the head of a manifest of 1 KiB.
    ///
    /// # Errors
    /// When there is no connection to be had.
    pub(super) fn of_heads(road: &Road) -> io::Result<Self> {
        Self::new(road, road.manifest("HEAD"), 200)
    }

    /// Asks what a core answers by itself, without the registry and without any other thread: a
    /// request without a credential.
    ///
    /// # Errors
    /// When there is no connection to be had.
    pub(super) fn of_the_core(road: &Road) -> io::Result<Self> {
        let host = road.address;
        Self::new(
            road,
            format!("HEAD {}/manifests/x HTTP/1.1\r\nHost: {host}\r\n\r\n", road.path),
            401,
        )
    }

    fn new(road: &Road, asked: String, wanted: u16) -> io::Result<Self> {
        Ok(Self { link: road.open()?, asked, wanted, noise: Noise::new(SEED) })
    }

    /// Asks once.
    ///
    /// # Errors
    /// When the answer is another than it should be, or the connection breaks.
    pub(super) fn once(&mut self) -> io::Result<u64> {
        let started = Instant::now();
        drive::head(&mut self.link, &self.asked, self.wanted)?;
        Ok(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Asks again and again for `window`, after pauses of about `pause`, which vary so that they
    /// fall into step with nothing. Sorted.
    ///
    /// # Errors
    /// As [`Prober::once`].
    pub(super) fn paced(&mut self, pause: Duration, window: Duration) -> io::Result<Vec<u64>> {
        let started = Instant::now();
        let mut took = Vec::new();
        while started.elapsed() < window {
            let mut byte = [0; 8];
            self.noise.fill(&mut byte);
            thread::sleep(pause.mul_f64(0.5 + f64::from(byte[0]) / 256.0));
            took.push(self.once()?);
        }
        took.sort_unstable();
        Ok(took)
    }

    /// Asks without any pause as long as `goes_on`, and shows each wait to `seen`.
    ///
    /// # Errors
    /// As [`Prober::once`], and what `seen` finds wrong.
    pub(super) fn at_once(
        &mut self,
        goes_on: impl Fn() -> bool,
        mut seen: impl FnMut(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        while goes_on() {
            seen(self.once()?)?;
        }
        Ok(())
    }
}

const SEED: u64 = 0x0067_726f_7774_6800;
