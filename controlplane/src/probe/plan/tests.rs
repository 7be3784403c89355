//! The plan by its promises: at once on change, spread otherwise, and nobody waits for the dead.

use super::*;
use crate::probe::facts::tests::facts_of;

const MINUTE: Duration = Duration::from_secs(60);

/// Connectors by name and host.
fn connectors(list: &[(&str, &str)]) -> Facts {
    let one = |(name, host): &(&str, &str)| {
        format!(
            "apiVersion: connectors.alauda.io/v1alpha1\nkind: Connector\n\
             metadata: {{name: {name}, namespace: ci, uid: {name}, generation: 1}}\n\
             spec: {{connectorClassName: harbor, address: 'https://{host}'}}\n---\n"
        )
    };
    facts_of(&list.iter().map(one).collect::<String>())
}

/// Everything that is to be done now: hosts pinged, connectors looked at.
fn all(plan: &mut Plan, now: Instant) -> (Vec<Place>, Vec<Turn>) {
    let (mut pings, mut looks) = (Vec::new(), Vec::new());
    while let Some(work) = plan.next(now) {
        match work {
            Work::Ping(place, _) => pings.push(place),
            Work::Look(turn) => looks.push(turn),
        }
    }
    (pings, looks)
}

fn never(_: &Fact) -> bool {
    false
}

#[test]
fn one_ping_answers_for_all_connectors_of_a_registry() {
    let start = Instant::now();
    let mut plan = Plan::new(MINUTE);
    plan.take(&connectors(&[("a", "h"), ("b", "h"), ("c", "h")]), start, never);
    let (pings, looks) = all(&mut plan, start);
    assert_eq!((pings.len(), looks.len()), (1, 0));
    plan.pinged(pings[0].clone(), Pulse::Alive, start);
    let (pings, looks) = all(&mut plan, start);
    assert_eq!((pings.len(), looks.len()), (0, 3));
    for turn in &looks {
        assert_eq!(turn.pulse, Some(Pulse::Alive));
        plan.done(turn, start, None, 0);
    }
    assert_eq!(plan.wakes_at(), Some(start + MINUTE * 9 / 10), "jitter takes up to a tenth");
    let (pings, looks) = all(&mut plan, start + MINUTE);
    assert_eq!((pings.len(), looks.len()), (1, 0), "the pulse is too old by then");
}

#[test]
fn a_registry_that_died_is_news_for_all_its_connectors() {
    let start = Instant::now();
    let mut plan = Plan::new(MINUTE);
    plan.take(&connectors(&[("a", "h"), ("b", "h"), ("c", "other")]), start, |_| true);
    let first = plan.wakes_at().unwrap();
    assert!(first < start + MINUTE, "spread over the period");
    assert!(plan.next(start).is_none() || first == start);
    let mut now = first;
    let (mut pulse, mut looked) = (Pulse::Alive, HashSet::new());
    for _ in 0..20 {
        let (pings, looks) = all(&mut plan, now);
        for place in pings {
            plan.pinged(place, pulse.clone(), now);
        }
        for turn in looks {
            if turn.pulse == Some(Pulse::Status(502)) {
                looked.insert((now, turn.fact.named.name.clone()));
            }
            plan.done(&turn, now, None, 128);
        }
        now = plan.wakes_at().unwrap().max(now);
        if now > start + MINUTE {
            pulse = Pulse::Status(502);
        }
    }
    let at = |name: &str| looked.iter().filter(|(_, one)| &**one == name).map(|(at, _)| *at).min();
    assert_eq!(at("a"), at("b"), "both are told at the moment when one finds out");
    assert!(at("a").is_some());
}

#[test]
fn nobody_waits_for_the_connectors_of_a_dead_registry() {
    let start = Instant::now();
    let mut plan = Plan::new(MINUTE);
    let names: Vec<String> = (0..200).map(|number| format!("n{number}")).collect();
    let list: Vec<(&str, &str)> = names
        .iter()
        .enumerate()
        .map(|(at, name)| (&**name, if at < 150 { "dead" } else { "h" }))
        .collect();
    plan.take(&connectors(&list), start, never);
    let (pings, _) = all(&mut plan, start);
    assert_eq!(pings.len(), 2);
    // The one answers, the other does not for as long as a connection may take.
    let alive = pings.iter().find(|place| format!("{place:?}").contains("\"h\"")).unwrap();
    plan.pinged(alive.clone(), Pulse::Alive, start);
    let mut looked = 0;
    loop {
        let (_, looks) = all(&mut plan, start);
        assert!(looks.len() <= LOOKS_MAX_PER_REGISTRY);
        if looks.is_empty() {
            break;
        }
        looked += looks.len();
        for turn in looks {
            plan.done(&turn, start, None, 0);
        }
    }
    assert_eq!(looked, 50);
}

#[test]
fn a_change_is_looked_at_at_once_with_a_fresh_ping() {
    let start = Instant::now();
    let mut plan = Plan::new(MINUTE);
    plan.take(&connectors(&[("a", "h")]), start, never);
    let (pings, _) = all(&mut plan, start);
    plan.pinged(pings[0].clone(), Pulse::Alive, start);
    let (_, looks) = all(&mut plan, start);
    // It moves to another registry while it is looked at: once more, and there.
    let later = start + Duration::from_secs(1);
    plan.take(&connectors(&[("a", "new")]), later, never);
    assert!(plan.next(later).is_none(), "never two looks at one connector");
    plan.done(&looks[0], later, None, 0);
    let (pings, _) = all(&mut plan, later);
    assert_eq!(pings.len(), 1);
    plan.pinged(pings[0].clone(), Pulse::Alive, later);
    let (_, looks) = all(&mut plan, later);
    assert_eq!(looks.len(), 1);
    plan.take(&Facts::new(), later, never);
    plan.done(&looks[0], later, None, 0);
    assert_eq!(plan.wakes_at(), None, "it is gone");
    plan.take(&Facts::new(), later, never);
    assert!(plan.lanes.is_empty(), "and nothing of it is left");
}

#[test]
fn a_status_that_could_not_be_written_is_tried_again_soon() {
    let start = Instant::now();
    let mut plan = Plan::new(MINUTE);
    plan.take(&connectors(&[("a", "h")]), start, never);
    let (pings, _) = all(&mut plan, start);
    plan.pinged(pings[0].clone(), Pulse::Alive, start);
    let (_, looks) = all(&mut plan, start);
    plan.done(&looks[0], start, Some(Duration::from_secs(5)), 0);
    let (pings, looks) = all(&mut plan, start + Duration::from_secs(5));
    assert_eq!((pings.len(), looks.len()), (0, 1), "the pulse is young enough");
}
