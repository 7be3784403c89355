//! The bars of this project: what a figure of ours must not exceed, and how it stands to it.
//!
//! The costs of one run in, the same costs with verdicts out. A bar that is a ratio is taken
//! repetition by repetition, because two measurements a second apart share what the machine was
//! doing; see [`ratio`].

use super::cases::Case;
use super::contenders::Contender;
use crate::results::{Cost, Verdict, ratio};

/// What a case is held against.
#[derive(Clone, Copy)]
enum Bar {
    /// A multiple of one peer.
    Of(Contender, f64),
    /// A multiple of the cheapest peer of the run.
    OfBest(f64),
    /// The figure itself.
    Absolute(f64),
}

/// The bar of a case: the column "must" of the project's table.
fn bar(case: Case) -> Bar {
    match case {
        Case::Pull | Case::Push | Case::Uploads50 => Bar::Of(Contender::Haproxy, 1.10),
        Case::PushChunked => Bar::OfBest(0.80),
        Case::PullTls | Case::PushTls | Case::PullTlsBoth | Case::PushTlsBoth => Bar::OfBest(1.00),
        Case::Get1k => Bar::Of(Contender::Nginx, 1.00),
        Case::Idle => Bar::Absolute(8.0),
        Case::Active => Bar::Absolute(40.0),
    }
}

/// One contender's costs in one case.
pub(super) struct Entry {
    pub(super) contender: Contender,
    pub(super) case: Case,
    pub(super) cost: Cost,
}

/// Puts a verdict on every cost of ours whose bar can be told from this run.
pub(super) fn judge(entries: &mut [Entry]) {
    let verdicts: Vec<Option<Verdict>> =
        entries.iter().map(|entry| verdict(entry, entries)).collect();
    for (entry, verdict) in entries.iter_mut().zip(verdicts) {
        entry.cost.verdict = verdict;
    }
}

fn verdict(entry: &Entry, entries: &[Entry]) -> Option<Verdict> {
    if !entry.contender.is_ours() || entry.cost.samples.is_empty() {
        return None;
    }
    let of = |peer: &Entry, limit: f64| Verdict {
        must: format!("at most {limit:.2} of {}", peer.contender.name()),
        figure: ratio(&entry.cost, &peer.cost),
        limit,
    };
    let mut peers = entries
        .iter()
        .filter(|other| other.case == entry.case && other.contender.is_peer())
        .filter(|other| !other.cost.samples.is_empty());
    match bar(entry.case) {
        Bar::Of(peer, limit) => {
            peers.find(|other| other.contender == peer).map(|peer| of(peer, limit))
        }
        Bar::OfBest(limit) => {
            let cheaper =
                |one: &&Entry, other: &&Entry| one.cost.median().total_cmp(&other.cost.median());
            peers.min_by(cheaper).map(|best| of(best, limit))
        }
        Bar::Absolute(limit) => Some(Verdict {
            must: format!("at most {limit:.0} {}", entry.cost.unit),
            figure: entry.cost.median(),
            limit,
        }),
    }
}

/// How epoll stands to io_uring over all cases where processor time counts: one ratio a case, and
/// the worst against the bar. None unless both took part.
pub(super) fn drivers(entries: &[Entry]) -> Option<Cost> {
    let of = |contender| {
        entries.iter().filter(move |entry| entry.contender == contender && timed(entry))
    };
    let samples: Vec<f64> = of(Contender::OursEpoll)
        .filter_map(|epoll| {
            let uring = of(Contender::OursUring).find(|uring| uring.case == epoll.case)?;
            Some(ratio(&epoll.cost, &uring.cost))
        })
        .collect();
    let figure = samples.iter().copied().reduce(f64::max)?;
    let must = format!("at most {EPOLL_MOST:.2} of ours-uring in every case");
    Some(Cost {
        contender: Contender::OursEpoll.name().to_owned(),
        case: "epoll-to-uring".to_owned(),
        unit: "ratio".to_owned(),
        samples,
        verdict: Some(Verdict { must, figure, limit: EPOLL_MOST }),
        ..Cost::default()
    })
}

fn timed(entry: &Entry) -> bool {
    !matches!(entry.case, Case::Idle | Case::Active) && !entry.cost.samples.is_empty()
}

const EPOLL_MOST: f64 = 1.15;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(contender: Contender, case: Case, samples: &[f64]) -> Entry {
        let cost = Cost { samples: samples.to_vec(), ..Cost::default() };
        Entry { contender, case, cost }
    }

    #[test]
    fn a_multiple_of_one_peer_is_held_against_its_bar() {
        let mut entries = [
            entry(Contender::OursUring, Case::Pull, &[1.2, 2.4, 2.4]),
            entry(Contender::Haproxy, Case::Pull, &[1.0, 2.0, 2.0]),
        ];
        judge(&mut entries);
        let verdict = entries[0].cost.verdict.clone().unwrap();
        assert!((verdict.figure - 1.2).abs() < 1e-9 && !verdict.is_met());
        assert_eq!(verdict.must, "at most 1.10 of haproxy");
        assert!(entries[1].cost.verdict.is_none());
    }

    #[test]
    fn the_best_peer_is_the_cheapest_and_never_the_floor() {
        let mut entries = [
            entry(Contender::OursEpoll, Case::PushChunked, &[0.3]),
            entry(Contender::Nginx, Case::PushChunked, &[0.6]),
            entry(Contender::Envoy, Case::PushChunked, &[0.5]),
            entry(Contender::Floor, Case::PushChunked, &[0.1]),
        ];
        judge(&mut entries);
        let verdict = entries[0].cost.verdict.clone().unwrap();
        assert_eq!(verdict.must, "at most 0.80 of envoy");
        assert!((verdict.figure - 0.6).abs() < 1e-9 && verdict.is_met());
    }

    #[test]
    fn without_the_peer_there_is_no_verdict_and_memory_needs_none() {
        let mut entries = [
            entry(Contender::OursUring, Case::Pull, &[0.2]),
            entry(Contender::OursUring, Case::Idle, &[9.0]),
            entry(Contender::OursUring, Case::Get1k, &[]),
        ];
        judge(&mut entries);
        assert!(entries[0].cost.verdict.is_none());
        assert!(entries[1].cost.verdict.as_ref().is_some_and(|verdict| !verdict.is_met()));
        assert!(entries[2].cost.verdict.is_none());
    }

    #[test]
    fn the_drivers_are_compared_by_their_worst_case() {
        let entries = [
            entry(Contender::OursUring, Case::Pull, &[1.0]),
            entry(Contender::OursUring, Case::Push, &[1.0]),
            entry(Contender::OursEpoll, Case::Pull, &[1.0]),
            entry(Contender::OursEpoll, Case::Push, &[1.3]),
        ];
        let cost = drivers(&entries).unwrap();
        assert_eq!(cost.samples, [1.0, 1.3]);
        assert!(!cost.verdict.unwrap().is_met());
        assert!(drivers(&entries[..2]).is_none());
    }
}
