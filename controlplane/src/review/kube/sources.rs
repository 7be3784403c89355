//! From where bad tokens come: an address that brought some is asked about apart from the others,
//! and one that brought many is not asked for more of them.
//!
//! An address, what became of its tokens and the time in, its [`Standing`] out. No clock inside.
//! Bounded: when there are too many addresses, those that were forgiven are forgotten, then all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The addresses that brought bad tokens lately.
#[derive(Default)]
pub(super) struct Sources(HashMap<IpAddr, Misses>);

/// Whether an unknown token from an address is worth a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is.
    Clean,
    /// Bad ones came from there lately.
    Suspect,
    /// Too many did.
    Shut,
}

/// Bad tokens of one address that are not forgiven yet.
#[derive(Clone, Copy)]
struct Misses {
    count: u32,
    /// When they were counted.
    at: Instant,
}

impl Sources {
    /// How `source` stands.
    pub(super) fn standing(&self, source: &IpAddr, now: Instant) -> Standing {
        match self.0.get(source).map_or(0, |misses| misses.left(now).count) {
            0 => Standing::Clean,
            1..MISSES_MAX => Standing::Suspect,
            _ => Standing::Shut,
        }
    }

    /// A token from `source` was refused.
    pub(super) fn missed(&mut self, source: IpAddr, now: Instant) {
        if self.0.len() >= SOURCES_MAX && !self.0.contains_key(&source) {
            self.0.retain(|_, misses| misses.left(now).count > 0);
            if self.0.len() >= SOURCES_MAX {
                self.0.clear();
            }
        }
        let misses = self.0.entry(source).or_insert(Misses { count: 0, at: now });
        *misses = misses.left(now);
        misses.count += 1;
    }
}

impl Misses {
    /// What is left of them at `now`: one is forgiven in each [`FORGIVEN`].
    fn left(self, now: Instant) -> Self {
        let past = now.saturating_duration_since(self.at).as_secs() / FORGIVEN.as_secs();
        let past = u32::try_from(past).unwrap_or(u32::MAX);
        if past >= self.count {
            return Self { count: 0, at: now };
        }
        Self { count: self.count - past, at: self.at + FORGIVEN * past }
    }
}

/// So many bad tokens of one address are asked about one after the other.
const MISSES_MAX: u32 = 20;

/// After which time there may be one more.
const FORGIVEN: Duration = Duration::from_secs(1);

/// Addresses, some 50 bytes each: more than a node has Pods.
const SOURCES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn an_address_with_many_bad_tokens_waits_and_others_do_not() {
        let (mut sources, start) = (Sources::default(), Instant::now());
        let (bad, good) = (address(1), address(2));
        for number in 0..MISSES_MAX {
            assert_ne!(sources.standing(&bad, start), Standing::Shut, "{number}");
            sources.missed(bad, start);
            assert_ne!(sources.standing(&bad, start), Standing::Clean, "{number}");
        }
        assert_eq!(sources.standing(&bad, start), Standing::Shut);
        assert_eq!(sources.standing(&good, start), Standing::Clean);
        let later = start + FORGIVEN - Duration::from_millis(1);
        assert_eq!(sources.standing(&bad, later), Standing::Shut);
        let later = start + FORGIVEN;
        assert_eq!(sources.standing(&bad, later), Standing::Suspect);
        sources.missed(bad, later);
        assert_eq!(sources.standing(&bad, later + FORGIVEN / 2), Standing::Shut, "no new burst");
        assert_eq!(sources.standing(&bad, later + FORGIVEN * 100), Standing::Clean);
    }

    #[test]
    fn many_addresses_stay_within_the_bound() {
        let (mut sources, start) = (Sources::default(), Instant::now());
        for number in 0..10_000 {
            sources.missed(address(number), start + Duration::from_millis(number.into()));
            assert!(sources.0.len() <= SOURCES_MAX);
        }
    }
}
