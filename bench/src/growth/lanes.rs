//! Connections that are used in turns, and a proxy for them.
//!
//! Roads in, held connections out; then a number of requests in, and what they cost. A lane is a
//! thread with connections of its own, on which it asks one after the other: as many requests are
//! under way as there are lanes, however many connections there are.

use std::io;
use std::thread;

use anyhow::Context as _;

use super::Bench;
use super::folder::Folder;
use crate::compare::contenders::Ours;
use crate::compare::drive::{self, Road};
use crate::compare::link::Link;

/// Starts the proxy on `folder`.
pub(super) fn serve(bench: &Bench<'_>, folder: &Folder) -> anyhow::Result<Ours> {
    let contender = bench.driver.contender();
    let program = contender.program().context("no harbor-connector beside this program")?;
    let io = contender.name().trim_start_matches("ours-");
    Ours::serve(bench.ground, &program, io, folder.path())
}

/// Lanes of connections that each were used once.
pub(super) struct Lanes(Vec<Vec<(Link, String)>>);

impl Lanes {
    /// Opens `connections` connections in at most `lanes` lanes; the road of each is `road` of its
    /// number.
    ///
    /// # Errors
    /// When one cannot be had, or its first request fails.
    pub(super) fn open(
        lanes: usize,
        connections: usize,
        road: impl Fn(usize) -> Road,
    ) -> io::Result<Self> {
        let mut all: Vec<Vec<_>> = (0..lanes.min(connections)).map(|_| Vec::new()).collect();
        for (number, place) in (0..connections).zip((0..all.len()).cycle()) {
            let road = road(number);
            let (mut link, asked) = (road.open()?, road.manifest("GET"));
            drive::get(&mut link, &asked)?;
            all[place].push((link, asked));
        }
        Ok(Self(all))
    }

    /// Makes at least `requests` requests, the connections of each lane in turns. Says how many.
    ///
    /// # Errors
    /// The first that went wrong.
    pub(super) fn ask(&mut self, requests: usize) -> io::Result<u64> {
        let each = requests.div_ceil(self.0.len().max(1));
        let asking = |lane: &mut Vec<(Link, String)>| -> io::Result<u64> {
            let mut asked = 0;
            while asked < each {
                for (link, request) in lane.iter_mut().take(each - asked) {
                    drive::get(link, request)?;
                    asked += 1;
                }
            }
            Ok(asked as u64)
        };
        thread::scope(|scope| {
            let lanes: Vec<_> =
                self.0.iter_mut().map(|lane| scope.spawn(|| asking(lane))).collect();
            let ended = |lane: thread::ScopedJoinHandle<'_, io::Result<u64>>| {
                lane.join().unwrap_or_else(|_| Err(io::Error::other("the generator panicked")))
            };
            lanes.into_iter().map(ended).sum()
        })
    }
}
