//! Bars: what one case cost each contender.
//!
//! A case's [`Cost`]s in, an SVG out: a bar to the median, a dot for each sample, a whisker from
//! the smallest to the largest, and a dashed line where the bar of the verdict lies.

use super::canvas::{Anchor, Canvas, Scale};
use super::runs::{Run, is_ours};
use super::words;
use crate::results::{Cost, Verdict};

/// Draws `costs`, one row for each.
pub(crate) fn draw(run: &Run, costs: &[&Cost], label: &str) -> String {
    let height = TOP + costs.len() as f64 * ROW + BOTTOM;
    let mut canvas = Canvas::new(WIDTH, height, label);
    let reach = |cost: &&&Cost| {
        let most = words::spread(&cost.samples).map_or(0.0, |spread| spread.1);
        most.max(words::bar(cost).unwrap_or_default())
    };
    let high = costs.iter().map(|cost| reach(&cost)).fold(0.0, f64::max);
    let scale = Scale::linear(high * 1.04, LEFT, WIDTH - RIGHT);
    grid(&mut canvas, &scale, height);
    for (row, cost) in costs.iter().enumerate() {
        let colour = run.colour(&cost.contender);
        draw_row(&mut canvas, &scale, TOP + row as f64 * ROW, colour, cost);
    }
    bar_lines(&mut canvas, &scale, costs, height);
    canvas.finish()
}

fn grid(canvas: &mut Canvas, scale: &Scale, height: f64) {
    for tick in scale.ticks(7) {
        let x = scale.at(tick);
        canvas.line("grid", (x, TOP - 4.0), (x, height - BOTTOM));
        canvas.words("tick", (x, height - 6.0), Anchor::Middle, &shown_tick(tick));
    }
}

/// A tick's value without the zeros that a figure would keep.
pub(crate) fn shown_tick(tick: f64) -> String {
    let text = words::figure(tick);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn draw_row(canvas: &mut Canvas, scale: &Scale, top: f64, colour: usize, cost: &Cost) {
    let middle = top + ROW / 2.0;
    let name = if is_ours(&cost.contender) { "name ours" } else { "name" };
    canvas.words(name, (LEFT - 8.0, middle + 4.0), Anchor::End, &shortened(&cost.contender));
    let Some((low, high)) = words::spread(&cost.samples) else {
        canvas.words("tick", (LEFT + 4.0, middle + 4.0), Anchor::Start, "not measured");
        return;
    };
    let median = cost.median();
    let tip = format!(
        "{}: median {} {}, {} to {}, {} samples",
        cost.contender,
        words::figure(median),
        cost.unit,
        words::figure(low),
        words::figure(high),
        cost.samples.len()
    );
    let corner = (LEFT, middle - THICK / 2.0);
    canvas.bar(&format!("fill k{colour}"), corner, (scale.at(median) - LEFT, THICK), &tip);
    if cost.samples.len() > 1 {
        whisker(canvas, scale, middle, (low, high));
        for sample in &cost.samples {
            canvas.dot("sample", (scale.at(*sample), middle), 2.0, &words::figure(*sample));
        }
    }
    // To the right of everything, so that neither whisker nor bar line runs through it.
    canvas.words("value", (WIDTH - 4.0, middle + 4.0), Anchor::End, &words::figure(median));
}

fn whisker(canvas: &mut Canvas, scale: &Scale, middle: f64, (low, high): (f64, f64)) {
    let (from, to) = (scale.at(low), scale.at(high));
    canvas.line("whisker", (from, middle), (to, middle));
    for x in [from, to] {
        canvas.line("whisker", (x, middle - 5.0), (x, middle + 5.0));
    }
}

/// A line where all verdicts agree on the bar crosses all rows, so that every contender can be held
/// against it; lines that lie apart keep to the rows that they are about.
fn bar_lines(canvas: &mut Canvas, scale: &Scale, costs: &[&Cost], height: f64) {
    let places: Vec<(usize, f64, &Verdict)> = costs
        .iter()
        .enumerate()
        .filter_map(|(row, cost)| Some((row, words::bar(cost)?, cost.verdict.as_ref()?)))
        .collect();
    let Some((_, first, verdict)) = places.first() else { return };
    let x = scale.at(*first);
    let (anchor, beside) = if x > WIDTH * 0.55 { (Anchor::End, 3.0) } else { (Anchor::Start, 0.0) };
    canvas.words(class(verdict), (x + beside, TOP - 9.0), anchor, &verdict.must);
    if places.iter().all(|(_, place, _)| (place / first - 1.0).abs() < SAME_BAR) {
        return canvas.line(class(verdict), (x, TOP - 4.0), (x, height - BOTTOM));
    }
    for (row, place, verdict) in places {
        let (x, top) = (scale.at(place), TOP + row as f64 * ROW);
        canvas.line(class(verdict), (x, top), (x, top + ROW));
    }
}

fn class(verdict: &Verdict) -> &'static str {
    if verdict.is_met() { "limit met" } else { "limit missed" }
}

/// `name`, cut in the middle where it does not fit beside a bar.
fn shortened(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME_CHARS {
        return name.to_owned();
    }
    let keep = (NAME_CHARS - 1) / 2;
    let front: String = name.chars().take(keep).collect();
    let back: String = name.chars().skip(count - keep).collect();
    format!("{front}…{back}")
}

/// Bars that differ by less are one: ratios are taken repetition by repetition and wobble a little.
const SAME_BAR: f64 = 0.06;
const NAME_CHARS: usize = 16;
const WIDTH: f64 = 520.0;
const LEFT: f64 = 104.0;
const RIGHT: f64 = 56.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 24.0;
const ROW: f64 = 28.0;
const THICK: f64 = 16.0;
