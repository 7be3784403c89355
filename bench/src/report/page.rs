//! The report as one HTML page that needs nothing but itself.
//!
//! Runs in, text out: for each run its machine, how many bars were met, a plot a case, and the
//! figures as tables. The style follows the reader's light or dark; there is no script.

use std::fmt::Write as _;

use super::canvas::escape;
use super::markdown::{cost_cells, load_cells, machine};
use super::runs::{Loads, Run};
use super::{bars, curves, words};
use crate::results::Cost;

/// The whole page.
pub(crate) fn of(runs: &[Run]) -> String {
    let title = match runs {
        [only] => format!("bench: {}", only.name),
        _ => format!("bench: {} runs", runs.len()),
    };
    let body: String = runs.iter().map(of_run).collect();
    // What `compare` measures never leaves the machine; where a load goes only its maker knows.
    let compared = runs.iter().any(|run| !run.costs.is_empty());
    let loopback = if compared { LOOPBACK } else { "" };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}<footer>{READING}{loopback}\
         </footer>\n</main>\n</body>\n</html>\n",
        escape(&title)
    )
}

fn of_run(run: &Run) -> String {
    let mut text = format!("<header><h1>{}</h1>\n", escape(&run.name));
    text.push_str(&score(run));
    text.push_str(&machine_block(run));
    text.push_str("</header>\n");
    for (place, unit) in run.units().into_iter().enumerate() {
        let note = if place == 0 { COST_NOTE } else { "Less is better." };
        text.push_str(&cost_section(run, unit, note));
    }
    text.push_str(&curve_section(run, "Latency", LATENCY_NOTE, curves::latency));
    text.push_str(&curve_section(run, "Bytes over time", PACE_NOTE, curves::throughput));
    text.push_str(&cost_table(run));
    text.push_str(&load_table(run));
    text
}

/// How many bars were met, and a chip for each.
fn score(run: &Run) -> String {
    let (all, met) = run.verdicts();
    if all == 0 {
        return String::new();
    }
    let class = if met == all { "met" } else { "missed" };
    let mut text = format!(
        "<p class=\"score {class}\"><b>{met} of {all}</b> bars met</p>\n<ul class=\"chips\">\n"
    );
    for cost in &run.costs {
        let Some(verdict) = &cost.verdict else { continue };
        let (class, sign) = if verdict.is_met() { ("met", "✓") } else { ("missed", "✗") };
        add(
            &mut text,
            format_args!(
                "<li class=\"{class}\" title=\"{}: {} of {}\"><span>{sign}</span> {} \
                 <small>{} · {}</small></li>\n",
                escape(&verdict.must),
                words::figure(verdict.figure),
                words::figure(verdict.limit),
                escape(words::case(&cost.case)),
                escape(&cost.contender),
                words::verdict(verdict),
            ),
        );
    }
    text.push_str("</ul>\n");
    text
}

fn machine_block(run: &Run) -> String {
    let mut text = String::from("<dl class=\"machine\">\n");
    for (name, value) in machine(run) {
        add(&mut text, format_args!("<div><dt>{name}</dt><dd>{}</dd></div>\n", escape(&value)));
    }
    text.push_str("</dl>\n");
    text
}

/// One card with bars for each case of `unit`.
fn cost_section(run: &Run, unit: &str, note: &str) -> String {
    let mut text = format!(
        "<section><h2>{}</h2><p class=\"note\">{note}</p>\n<div class=\"cards\">\n",
        escape(words::unit(unit))
    );
    for case in run.cases(unit) {
        let costs = run.costs_of(case, unit);
        let title = words::case(case);
        let plot = bars::draw(run, &costs, &format!("{title}: {}", words::unit(unit)));
        let several = costs.iter().filter(|cost| cost.verdict.is_some()).count() > 1;
        let badges: String = costs.iter().filter_map(|cost| badge(cost, several)).collect();
        add(
            &mut text,
            format_args!(
                "<figure><figcaption>{} {badges}</figcaption>\n{plot}</figure>\n",
                escape(title)
            ),
        );
    }
    text.push_str("</div></section>\n");
    text
}

/// The verdict on `cost`, with its contender's name where there are several.
fn badge(cost: &Cost, several: bool) -> Option<String> {
    let verdict = cost.verdict.as_ref()?;
    let class = if verdict.is_met() { "met" } else { "missed" };
    let name = if several { format!("{}: ", escape(&cost.contender)) } else { String::new() };
    Some(format!("<span class=\"badge {class}\">{name}{}</span>", words::verdict(verdict)))
}

type Plot = fn(&Run, &[&Loads], &str) -> Option<String>;

/// One card with curves for each case that `plot` can draw; nothing where it can draw none.
fn curve_section(run: &Run, heading: &str, note: &str, plot: Plot) -> String {
    let mut cards = String::new();
    for case in run.load_cases() {
        let loads = run.loads_of(case);
        let title = words::case(case);
        if let Some(drawn) = plot(run, &loads, &format!("{heading}: {title}")) {
            let legend = legend(run, &loads);
            add(
                &mut cards,
                format_args!(
                    "<figure><figcaption>{}</figcaption>\n{drawn}{legend}</figure>\n",
                    escape(title)
                ),
            );
        }
    }
    if cards.is_empty() {
        return cards;
    }
    format!(
        "<section><h2>{heading}</h2><p class=\"note\">{note}</p>\n\
         <div class=\"cards\">\n{cards}</div></section>\n"
    )
}

fn legend(run: &Run, loads: &[&Loads]) -> String {
    let mut text = String::from("<ul class=\"legend\">");
    for one in loads {
        let (colour, name) = (run.colour(&one.contender), escape(&one.contender));
        add(&mut text, format_args!("<li><i class=\"swatch k{colour}\"></i>{name}</li>"));
    }
    text.push_str("</ul>\n");
    text
}

fn cost_table(run: &Run) -> String {
    let mut rows = String::new();
    for unit in run.units() {
        for case in run.cases(unit) {
            for (place, cost) in run.costs_of(case, unit).into_iter().enumerate() {
                let class = if place == 0 { "first" } else { "" };
                rows.push_str(&cost_row(run, cost, class));
            }
        }
    }
    table(
        "Costs",
        &["case", "contender", "median", "spread", "unit", "GiB/s", "bar", "verdict"],
        &rows,
    )
}

fn cost_row(run: &Run, cost: &Cost, class: &str) -> String {
    let [median, spread, speed, must, verdict] = cost_cells(cost);
    let judged = match &cost.verdict {
        Some(verdict) if verdict.is_met() => "met",
        Some(_) => "missed",
        None => "",
    };
    format!(
        "<tr class=\"{class}\"><td>{}</td><td><i class=\"swatch k{}\"></i>{}</td>\
         <td class=\"n\"><b>{median}</b></td><td class=\"n\">{spread}</td><td>{}</td>\
         <td class=\"n\">{speed}</td><td>{}</td><td class=\"{judged}\">{verdict}</td></tr>\n",
        escape(words::case(&cost.case)),
        run.colour(&cost.contender),
        escape(&cost.contender),
        escape(&cost.unit),
        escape(&must),
    )
}

fn load_table(run: &Run) -> String {
    let mut rows = String::new();
    for case in run.load_cases() {
        for (place, loads) in run.loads_of(case).into_iter().enumerate() {
            let [rate, bytes, middle, late, latest, failed] = load_cells(loads);
            add(
                &mut rows,
                format_args!(
                    "<tr class=\"{}\"><td>{}</td><td><i class=\"swatch k{}\"></i>{}</td>\
                     <td class=\"n\"><b>{rate}</b></td><td class=\"n\">{bytes}</td>\
                     <td class=\"n\">{middle}</td><td class=\"n\">{late}</td>\
                     <td class=\"n\">{latest}</td><td class=\"missed\">{}</td></tr>\n",
                    if place == 0 { "first" } else { "" },
                    escape(words::case(case)),
                    run.colour(&loads.contender),
                    escape(&loads.contender),
                    escape(&failed),
                ),
            );
        }
    }
    let names = ["case", "contender", "requests/s", "bytes/s", "p50", "p99", "p99.9", "failed"];
    table("Loads", &names, &rows)
}

/// A table below its heading; nothing where it would have no row.
fn table(heading: &str, names: &[&str; 8], rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: String = names.iter().map(|name| format!("<th>{name}</th>")).collect();
    format!(
        "<section><h2>{heading}</h2><div class=\"wide\"><table>\n<thead><tr>{head}</tr></thead>\n\
         <tbody>\n{rows}</tbody></table></div></section>\n"
    )
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(more);
}

const STYLE: &str = include_str!("style.css");
const COST_NOTE: &str = "Less is better. The bar ends at the median; dots are single repetitions, \
    the whisker spans all of them; the dashed line is the bar to meet.";
const LATENCY_NOTE: &str = "From the intended start of a request to the end of its answer. Each \
    step to the right is one more nine; a curve ends where its samples end.";
const PACE_NOTE: &str = "The repetition in the middle of each contender.";
const READING: &str = "Figures of one run may be compared with each other, figures of different \
    runs hardly: ratios within a run repeat, wall time on a shared machine does not.";
const LOOPBACK: &str = " Costs were measured over loopback and say nothing about a network card.";
