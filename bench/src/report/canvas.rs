//! SVG, by hand: marks on a canvas, and the scales that place them.
//!
//! Numbers and texts in, one `<svg>` element out. Colours are classes of the page's style, so that
//! a plot follows the reader's light or dark; every text is escaped here and nowhere else.

use std::fmt::Write as _;

/// A drawing under way.
pub(crate) struct Canvas {
    text: String,
}

/// On which side of its point a text stands.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    /// It begins there.
    Start,
    /// It is centred there.
    Middle,
    /// It ends there.
    End,
}

impl Canvas {
    /// An empty drawing; `label` is read aloud to those who cannot see it.
    pub(crate) fn new(width: f64, height: f64, label: &str) -> Self {
        let label = escape(label);
        let text = format!(
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{label}\">\n"
        );
        Self { text }
    }

    /// A straight line.
    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    /// A rectangle with round corners; `tip` is shown when the pointer rests on it.
    pub(crate) fn bar(&mut self, class: &str, corner: (f64, f64), size: (f64, f64), tip: &str) {
        let ((x, y), (width, height)) = (corner, (size.0.max(0.5), size.1));
        let tip = escape(tip);
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" rx=\"3\"><title>{tip}</title></rect>"
        ));
    }

    /// A dot.
    pub(crate) fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64, tip: &str) {
        let tip = escape(tip);
        self.add(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\">\
             <title>{tip}</title></circle>"
        ));
    }

    /// A text.
    pub(crate) fn words(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, words: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let words = escape(words);
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">\
             {words}</text>"
        ));
    }

    /// A line through all `points`; `tip` is shown when the pointer rests on it.
    pub(crate) fn path(&mut self, class: &str, points: &[(f64, f64)], tip: &str) {
        let mut way = String::new();
        for (x, y) in points {
            // Writing to a string cannot fail.
            let _ = write!(way, "{}{x:.1} {y:.1}", if way.is_empty() { "M" } else { "L" });
        }
        let tip = escape(tip);
        self.add(format_args!("<path class=\"{class}\" d=\"{way}\"><title>{tip}</title></path>"));
    }

    /// The finished element.
    pub(crate) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    fn add(&mut self, mark: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{mark}");
    }
}

/// `text` as it may stand between tags or in a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            sign if sign.is_control() => escaped.push(' '),
            sign => escaped.push(sign),
        }
    }
    escaped
}

/// From values to places on the canvas.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    /// Equal steps for equal differences, from 0 to `high`.
    pub(crate) fn linear(high: f64, start: f64, end: f64) -> Self {
        let high = if high > 0.0 && high.is_finite() { high } else { 1.0 };
        Self { low: 0.0, high, start, end, logarithmic: false }
    }

    /// Equal steps for equal ratios, from `low` to `high`, both above 0.
    pub(crate) fn logarithmic(low: f64, high: f64, start: f64, end: f64) -> Self {
        let low = if low > 0.0 && low.is_finite() { low } else { 1.0 };
        let high = if high > low && high.is_finite() { high } else { low * 10.0 };
        Self { low, high, start, end, logarithmic: true }
    }

    /// Where `value` lies; what is beyond an end lies on it.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.start + share * (self.end - self.start)
    }

    /// Round values to mark, at most about `most` of them.
    pub(crate) fn ticks(&self, most: usize) -> Vec<f64> {
        if self.logarithmic { self.decades(most) } else { self.steps(most) }
    }

    fn steps(&self, most: usize) -> Vec<f64> {
        let rough = self.high / most.max(1) as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let fits = |round: &f64| round * power >= rough * 0.999;
        let step = [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * power;
        let count = (self.high / step * 1.000_001).floor() as usize;
        (0..=count).map(|place| place as f64 * step).collect()
    }

    fn decades(&self, most: usize) -> Vec<f64> {
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let of = |rounds: &[f64]| -> Vec<f64> {
            let all = (first..=last)
                .flat_map(|power| rounds.iter().map(move |round| round * 10_f64.powi(power)));
            all.filter(|tick| (self.low * 0.999..=self.high * 1.001).contains(tick)).collect()
        };
        let fine = of(&[1.0, 2.0, 5.0]);
        if fine.len() <= most { fine } else { of(&[1.0]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_element() {
        let mut canvas = Canvas::new(10.0, 10.0, "\"><script>");
        canvas.words("label", (0.0, 0.0), Anchor::Start, "<b>&'\n");
        canvas.dot("dot", (1.0, 1.0), 1.0, "</title><script>");
        let text = canvas.finish();
        assert!(!text.contains("<script>") && !text.contains("<b>"));
        assert!(text.contains("&lt;b&gt;&amp;&#39; "));
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Scale::linear(0.63, 0.0, 1.0).ticks(4), [0.0, 0.2, 0.4, 0.6000000000000001]);
        assert_eq!(Scale::linear(100.0, 0.0, 1.0).ticks(5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(Scale::logarithmic(90.0, 2500.0, 0.0, 1.0).ticks(6).len(), 5);
        assert_eq!(Scale::logarithmic(1.0, 1e6, 0.0, 1.0).ticks(7).len(), 7);
    }

    #[test]
    fn a_value_lies_between_the_ends() {
        let scale = Scale::linear(10.0, 100.0, 200.0);
        assert!((scale.at(5.0) - 150.0).abs() < 1e-9 && (scale.at(99.0) - 200.0).abs() < 1e-9);
        let scale = Scale::logarithmic(1.0, 100.0, 0.0, 2.0);
        assert!((scale.at(10.0) - 1.0).abs() < 1e-9);
        assert!(Scale::linear(f64::NAN, 0.0, 1.0).at(0.5).is_finite());
    }
}
