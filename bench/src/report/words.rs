//! Figures, units, cases and verdicts in a reader's words.
//!
//! Numbers and names from a results file in, short texts out; pure. Nothing is escaped here: that
//! is the business of whoever writes a page or a table.

use crate::results::{Cost, PERCENTILES, Verdict};

/// `value` with three significant digits and no exponent: 0.158, 23.1, 1,560.
pub(crate) fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    let places = match size {
        _ if size >= 100.0 || size == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if size >= 1000.0 { grouped(&text) } else { text }
}

/// Decimal digits, with a comma before each three of them.
fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut text = String::from(sign);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds as µs, ms or s, whichever is short.
pub(crate) fn duration(us: f64) -> String {
    match us {
        _ if us >= 1e6 => format!("{} s", figure(us / 1e6)),
        _ if us >= 1e3 => format!("{} ms", figure(us / 1e3)),
        _ => format!("{} µs", figure(us)),
    }
}

/// Bytes a second as KiB, MiB or GiB a second.
pub(crate) fn pace(bytes: f64) -> String {
    let steps = [("GiB/s", GIB), ("MiB/s", GIB / 1024.0), ("KiB/s", 1024.0)];
    let (unit, size) = steps.into_iter().find(|step| bytes >= step.1).unwrap_or(("B/s", 1.0));
    format!("{} {unit}", figure(bytes / size))
}

/// The smallest and the largest of `samples`; `None` where there is none.
pub(crate) fn spread(samples: &[f64]) -> Option<(f64, f64)> {
    let smallest = samples.iter().copied().min_by(f64::total_cmp)?;
    let largest = samples.iter().copied().max_by(f64::total_cmp)?;
    Some((smallest, largest))
}

/// A case of `compare` as a heading; any other name stays itself.
pub(crate) fn case(name: &str) -> &str {
    let known = CASES.iter().find(|known| known.0 == name);
    known.map_or(name, |known| known.1)
}

/// What a unit counts, as the line below a heading.
pub(crate) fn unit(name: &str) -> &str {
    match name {
        "cpu-s/GiB" => "CPU seconds per GiB",
        "us/request" => "CPU µs per request",
        "KiB/connection" => "KiB of memory per connection",
        "us" => "Microseconds",
        RATIO => "One contender as a multiple of another",
        other => other,
    }
}

/// `met, 12 % to spare` or `missed by 4 %`.
pub(crate) fn verdict(verdict: &Verdict) -> String {
    let beyond = (verdict.figure / verdict.limit - 1.0) * 100.0;
    match (verdict.is_met(), beyond.is_finite()) {
        (true, true) => format!("met, {:.0} % to spare", beyond.abs()),
        (false, true) => format!("missed by {} %", percent(beyond)),
        (true, false) => "met".to_owned(),
        (false, false) => "missed".to_owned(),
    }
}

fn percent(value: f64) -> String {
    // A bar that was missed by little was missed: never round it down to nothing.
    if value < 1.0 { format!("{:.1}", value.max(0.1)) } else { format!("{value:.0}") }
}

/// Where the bar of `cost` lies in the unit of its samples, if it has one.
pub(crate) fn bar(cost: &Cost) -> Option<f64> {
    let verdict = cost.verdict.as_ref()?;
    if cost.unit == RATIO {
        // Its samples are already multiples, and the figure is the worst of them.
        return Some(verdict.limit);
    }
    // The figure is a multiple of something, or the median itself: either way the bar stands to
    // the median as the limit stands to the figure.
    let place = cost.median() * verdict.limit / verdict.figure;
    place.is_finite().then_some(place)
}

/// The number in what a program says of its version; all that it says where there is none.
pub(crate) fn version(said: &str) -> &str {
    let numbered =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    said.split([' ', '/', '\t', '\n']).find(numbered).unwrap_or(said.trim())
}

/// The latency at percentile `wanted` of a list that follows the file's percentiles.
pub(crate) fn at_percentile(latencies: &[f64], wanted: f64) -> Option<f64> {
    let place = PERCENTILES.iter().position(|known| (known - wanted).abs() < 1e-9)?;
    latencies.get(place).copied()
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// The unit of a cost that is a multiple of another.
const RATIO: &str = "ratio";
const CASES: [(&str, &str); 12] = [
    ("pull", "Pull, length known"),
    ("push", "Push, length known"),
    ("push-chunked", "Push, chunked"),
    ("pull-tls", "Pull, TLS to the registry"),
    ("push-tls", "Push, TLS to the registry"),
    ("pull-tls-both", "Pull, TLS on both sides"),
    ("push-tls-both", "Push, TLS on both sides"),
    ("uploads-50", "50 uploads at once"),
    ("get-1k", "GET of 1 KiB"),
    ("idle", "An idle connection"),
    ("active", "An active connection"),
    ("epoll-to-uring", "epoll as a multiple of io_uring, case by case"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_no_exponent() {
        let check = |value: f64, expected: &str| assert_eq!(figure(value), expected);
        check(0.0, "0");
        check(0.1578, "0.158");
        check(1.5, "1.50");
        check(23.14, "23.1");
        check(190.4, "190");
        check(1559.6, "1,560");
        check(47_300.0, "47,300");
        check(1_234_567.0, "1,234,567");
        check(f64::NAN, "–");
        assert_eq!(duration(950.0), "950 µs");
        assert_eq!(duration(1_250.0), "1.25 ms");
        assert_eq!(pace(3.0 * GIB), "3.00 GiB/s");
    }

    #[test]
    fn a_version_is_the_number_in_what_a_program_says() {
        let check = |said: &str, expected: &str| assert_eq!(version(said), expected);
        check(
            "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/",
            "2.6.12-1+deb12u4",
        );
        check("nginx version: nginx/1.22.1", "1.22.1");
        check("/opt/envoy  version: 9e55/1.40.0/Clean/RELEASE", "1.40.0");
        check("0.1.0", "0.1.0");
        check("of today", "of today");
    }

    #[test]
    fn a_bar_missed_by_little_was_missed() {
        let of = |figure, limit| verdict(&Verdict { must: String::new(), figure, limit });
        assert_eq!(of(0.88, 1.10), "met, 20 % to spare");
        assert_eq!(of(1.10, 1.10), "met, 0 % to spare");
        assert_eq!(of(1.1001, 1.10), "missed by 0.1 %");
        assert_eq!(of(1.32, 1.10), "missed by 20 %");
    }

    #[test]
    fn the_bar_lies_where_the_limit_would_be() {
        let verdict = Some(Verdict { must: String::new(), figure: 2.0, limit: 1.1 });
        let cost = Cost { samples: vec![0.4], verdict, ..Cost::default() };
        assert!((bar(&cost).unwrap() - 0.22).abs() < 1e-9);
        assert!(bar(&Cost::default()).is_none());
        let ratio = Cost { unit: "ratio".into(), samples: vec![0.9, 1.2], ..cost };
        assert!((bar(&ratio).unwrap() - 1.1).abs() < 1e-9);
    }
}
