//! Curves: how long requests took, and how fast bytes moved over time.
//!
//! A case's [`Loads`] in, an SVG out. The latency plot stretches its tail: one step to the right is
//! one more nine. A curve ends where its samples end, for a run of a thousand requests knows
//! nothing of the slowest in ten thousand.

use super::bars::shown_tick;
use super::canvas::{Anchor, Canvas, Scale};
use super::runs::{Loads, Run};
use super::words;
use crate::results::{Load, PERCENTILES};

/// One contender's line: its colour, its name, its points in the plot's own units.
struct Curve<'a> {
    colour: usize,
    name: &'a str,
    points: Vec<(f64, f64)>,
}

impl<'a> Curve<'a> {
    fn of(run: &Run, loads: &'a Loads, points: Vec<(f64, f64)>) -> Self {
        Self { colour: run.colour(&loads.contender), name: &loads.contender, points }
    }
}

/// Draws latency over percentile; `None` where no load has two points.
pub(crate) fn latency(run: &Run, loads: &[&Loads], label: &str) -> Option<String> {
    let curves: Vec<Curve<'_>> = loads
        .iter()
        .map(|loads| Curve::of(run, loads, tail(loads)))
        .filter(|curve| curve.points.len() > 1)
        .collect();
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let right = points().map(|point| point.0).fold(10.0, f64::max);
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points().map(|point| point.1).fold(0.0, f64::max);
    if curves.is_empty() {
        return None;
    }
    let across = Scale::logarithmic(1.0, right, LEFT, WIDTH - RIGHT);
    let up = Scale::logarithmic(low * 0.9, high * 1.15, HEIGHT - BOTTOM, TOP);
    let mut canvas = Canvas::new(WIDTH, HEIGHT, label);
    rules(&mut canvas, &up, words::duration);
    let shown = NINES.iter().filter(|nine| nine.0 <= right * 1.001);
    for (rarity, name) in shown {
        let x = across.at(*rarity);
        canvas.line("grid", (x, TOP), (x, HEIGHT - BOTTOM));
        canvas.words("tick", (x, HEIGHT - 8.0), Anchor::Middle, name);
    }
    for Curve { colour, name, points } in &curves {
        let placed: Vec<_> = points.iter().map(|(x, y)| (across.at(*x), up.at(*y))).collect();
        canvas.path(&format!("curve k{colour}"), &placed, name);
        for (place, (rarity, us)) in placed.iter().zip(points) {
            let share = 100.0 - 100.0 / rarity;
            let tip = format!("{name}: {share:.4} % within {}", words::duration(*us));
            canvas.dot(&format!("fill k{colour}"), *place, 2.4, &tip);
        }
    }
    Some(canvas.finish())
}

/// The curve's points: one in how many requests is slower, and than how many microseconds.
fn tail(loads: &Loads) -> Vec<(f64, f64)> {
    let requests = loads.middle(|load| load.requests as f64).max(1.0);
    let rarity = |percentile: f64| 1.0 / (1.0 - percentile / 100.0);
    let latencies = loads.latencies();
    let points = PERCENTILES.iter().zip(latencies);
    points
        // The slowest of n requests is the one in n; percentiles beyond it repeat it.
        .filter(|(percentile, _)| **percentile >= 100.0 || rarity(**percentile) < requests)
        .map(|(percentile, us)| (rarity(*percentile).min(requests), us.max(1.0)))
        .collect()
}

/// Draws bytes a second over the seconds of a run; `None` where nobody moved bytes for two seconds.
pub(crate) fn throughput(run: &Run, loads: &[&Loads], label: &str) -> Option<String> {
    let curves: Vec<Curve<'_>> = loads
        .iter()
        .filter_map(|loads| Some(Curve::of(run, loads, by_second(loads.typical()?))))
        .filter(|curve| curve.points.len() > 1 && curve.points.iter().any(|point| point.1 > 0.0))
        .collect();
    if curves.is_empty() {
        return None;
    }
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let seconds = points().map(|point| point.0 + 0.5).fold(1.0, f64::max);
    let high = points().map(|point| point.1).fold(0.0, f64::max);
    let (unit, size) = unit_of(high);
    let across = Scale::linear(seconds, LEFT, WIDTH - RIGHT);
    let up = Scale::linear(high / size * 1.08, HEIGHT - BOTTOM, TOP);
    let mut canvas = Canvas::new(WIDTH, HEIGHT, label);
    rules(&mut canvas, &up, |tick| format!("{} {unit}", shown_tick(tick)));
    for tick in across.ticks(6) {
        let words = format!("{tick:.0} s");
        canvas.words("tick", (across.at(tick), HEIGHT - 8.0), Anchor::Middle, &words);
    }
    for Curve { colour, name, points } in &curves {
        let placed: Vec<_> =
            points.iter().map(|(at, pace)| (across.at(*at), up.at(pace / size))).collect();
        canvas.path(&format!("curve k{colour}"), &placed, name);
    }
    Some(canvas.finish())
}

/// The bytes of each second that was measured to its end, at that second's middle.
fn by_second(load: &Load) -> Vec<(f64, f64)> {
    let whole = (load.seconds + 0.05).floor() as usize;
    let seconds = load.bytes_by_second.iter().take(whole.max(1)).enumerate();
    seconds.map(|(second, bytes)| (second as f64 + 0.5, *bytes as f64)).collect()
}

fn unit_of(bytes: f64) -> (&'static str, f64) {
    let units = [("GiB/s", 1_073_741_824.0), ("MiB/s", 1_048_576.0), ("KiB/s", 1024.0)];
    units.into_iter().find(|unit| bytes >= unit.1).unwrap_or(("B/s", 1.0))
}

/// Horizontal lines with their values.
fn rules(canvas: &mut Canvas, up: &Scale, shown: impl Fn(f64) -> String) {
    for tick in up.ticks(6) {
        let y = up.at(tick);
        canvas.line("grid", (LEFT, y), (WIDTH - RIGHT, y));
        canvas.words("tick", (LEFT - 6.0, y + 4.0), Anchor::End, &shown(tick));
    }
}

/// One request in how many, and the percentile that it is called by.
const NINES: [(f64, &str); 8] = [
    (1.0, "0"),
    (2.0, "50"),
    (10.0, "90"),
    (100.0, "99"),
    (1e3, "99.9"),
    (1e4, "99.99"),
    (1e5, "99.999"),
    (1e6, "99.9999"),
];
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_its_samples_end() {
        let latency_us = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let load = Load { requests: 150, latency_us, ..Load::default() };
        let loads = Loads { contender: "a".into(), case: "b".into(), repetitions: vec![load; 3] };
        let points = tail(&loads);
        assert_eq!(points.last(), Some(&(150.0, 12.0)));
        assert_eq!(points.len(), 9, "99.5 and beyond say nothing of 150 requests");
    }

    #[test]
    fn a_last_second_that_was_cut_is_not_drawn_as_a_fall() {
        let load = Load { seconds: 2.4, bytes_by_second: vec![10, 10, 4], ..Load::default() };
        assert_eq!(by_second(&load).len(), 2);
    }
}
