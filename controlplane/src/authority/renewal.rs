//! When a CA that renews itself takes its next step.
//!
//! What is kept, and since when, in; a step and its time out. Pure: the clock is an argument. Each
//! step waits for the overlap, so that every caller trusts a root before it signs and as long as
//! anybody may still sign with it.

use std::time::Duration;

use time::OffsetDateTime;

use super::rotation::{Kept, Phase};
use super::{DAY, Error};
use crate::config::CaStep;

/// What is known of the times of a CA.
pub(super) struct Times {
    /// When its keys were last changed.
    pub kept: Option<OffsetDateTime>,
    /// When what callers read was last changed; nothing unless it is what is kept.
    pub published: Option<OffsetDateTime>,
    /// How long a step waits for callers to follow the one before.
    pub overlap: Duration,
}

/// The next step and when it is due; nothing where it must wait for something that has no time yet.
pub(super) fn next_step(
    kept: &Kept,
    times: &Times,
) -> Result<Option<(CaStep, OffsetDateTime)>, Error> {
    let until = kept.root()?.until();
    Ok(match kept.phase()? {
        Phase::Settled => Some((CaStep::PublishNext, until - RENEWED_BEFORE)),
        Phase::Published => {
            let since = times.kept.zip(times.published).map(|(kept, seen)| kept.max(seen));
            // A root that has ended protects nobody.
            since.map(|since| (CaStep::SignWithNext, (since + times.overlap).min(until)))
        }
        Phase::Succeeded => times.kept.map(|since| (CaStep::RetireOld, since + times.overlap)),
    })
}

/// How long before its end a root is replaced: long enough for any overlap, twice.
const RENEWED_BEFORE: Duration = Duration::from_secs(365 * DAY);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_waits_until_callers_have_followed_the_one_before() {
        let start = OffsetDateTime::now_utc();
        let (day, overlap) = (Duration::from_secs(DAY), Duration::from_secs(30 * DAY));
        let mut kept = Kept::default();
        kept.complete(start).unwrap();
        let end = kept.root().unwrap().until();
        let times =
            |since: Option<OffsetDateTime>, published| Times { kept: since, published, overlap };
        let step = |kept: &Kept, times: &Times| next_step(kept, times).unwrap();

        let first = step(&kept, &times(None, None));
        assert_eq!(first, Some((CaStep::PublishNext, end - RENEWED_BEFORE)));
        kept.take(CaStep::PublishNext, start).unwrap();
        assert_eq!(step(&kept, &times(Some(start), None)), None, "nobody can read it yet");
        let seen = start + day;
        let second = step(&kept, &times(Some(start), Some(seen)));
        assert_eq!(second, Some((CaStep::SignWithNext, seen + overlap)));
        let late = step(&kept, &times(Some(end - day), Some(end - day)));
        assert_eq!(late, Some((CaStep::SignWithNext, end)), "before the old one ends");
        kept.take(CaStep::SignWithNext, start).unwrap();
        assert_eq!(step(&kept, &times(None, Some(seen))), None);
        let third = step(&kept, &times(Some(seen), Some(seen)));
        assert_eq!(third, Some((CaStep::RetireOld, seen + overlap)));
        kept.take(CaStep::RetireOld, start).unwrap();
        let again = step(&kept, &times(Some(seen), None));
        let end = kept.root().unwrap().until();
        assert_eq!(again, Some((CaStep::PublishNext, end - RENEWED_BEFORE)));
    }
}
