//! Bars: what one case cost each contender.
//!
//! A case's [`Cost`]s in, an SVG out: a bar to the median, a dot for each sample, a whisker from
//! the smallest to the largest, and a dashed line where the bar of the verdict lies.

use super::canvas::{Anchor, Canvas, Scale};
use super::runs::Run;
use super::words;
use crate::results::Cost;

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
    let name = if colour < OURS { "name ours" } else { "name" };
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

/// One verdict's line crosses all rows, so that every contender can be held against it; several
/// lines keep to the rows that they are about.
fn bar_lines(canvas: &mut Canvas, scale: &Scale, costs: &[&Cost], height: f64) {
    let judged = || costs.iter().enumerate().filter(|(_, cost)| cost.verdict.is_some());
    let alone = judged().count() == 1;
    for (row, cost) in judged() {
        let (Some(place), Some(verdict)) = (words::bar(cost), &cost.verdict) else { continue };
        let x = scale.at(place);
        let top = TOP + row as f64 * ROW;
        let (from, to) = if alone { (TOP - 4.0, height - BOTTOM) } else { (top, top + ROW) };
        let class = if verdict.is_met() { "limit met" } else { "limit missed" };
        canvas.line(class, (x, from), (x, to));
        if alone || row == 0 {
            let past_half = x > WIDTH * 0.55;
            let (anchor, x) = if past_half { (Anchor::End, x + 3.0) } else { (Anchor::Start, x) };
            canvas.words(class, (x, TOP - 9.0), anchor, &verdict.must);
        }
    }
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

/// Colours below this one are this project's own.
const OURS: usize = 2;
const NAME_CHARS: usize = 16;
const WIDTH: f64 = 520.0;
const LEFT: f64 = 104.0;
const RIGHT: f64 = 56.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 24.0;
const ROW: f64 = 28.0;
const THICK: f64 = 16.0;
