//! Lines over steps, as SVG.

use super::history::Series;
use std::fmt::Write;

/// What colours the lines, in a page and in a file of its own.
pub(super) const STYLE: &str = include_str!("chart.css");

/// A line of a chart.
pub(super) struct Line {
    /// What it is; none needs no legend.
    pub name: &'static str,
    /// How it looks: `raw`, `smooth` or `eval`.
    pub class: &'static str,
    pub points: Series,
}

/// Lines over the same steps.
pub(super) struct Chart {
    /// For who cannot see it.
    pub title: &'static str,
    pub lines: Vec<Line>,
}

/// Room for numbers at the left, above, for a legend there, and steps below.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 8.0;
const LEGEND: f64 = 22.0;
const BOTTOM: f64 = 34.0;
/// Bits of a line that can still be told apart.
const POINTS: usize = 800;

impl Chart {
    /// A picture of so many units, with letters of 12.
    pub fn svg(&self, width: f64, height: f64, style: &str) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" class=\"chart\" role=\"img\" \
             aria-label=\"{}\">{style}",
            self.title
        );
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let top = if self.lines.iter().any(|line| !line.name.is_empty()) { TOP + LEGEND } else { TOP };
        let x = Axis::of(all().map(|p| p.0), [LEFT, width - RIGHT], 60.0);
        let y = Axis::of(all().map(|p| p.1), [height - BOTTOM, top], 36.0);
        self.draw(&mut svg, &x, &y).unwrap_or_default();
        svg + "</svg>"
    }

    fn draw(&self, svg: &mut String, x: &Axis, y: &Axis) -> std::fmt::Result {
        for value in y.ticks() {
            let (at, text) = (y.place(value), y.label(value));
            write!(svg, "<path class=\"grid\" d=\"M{:.1} {at:.1}H{:.1}\"/>", x.begin, x.end)?;
            write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", x.begin - 6.0, at + 4.0)?;
        }
        for value in x.ticks() {
            let (at, text) = (x.place(value), x.label(value));
            write!(svg, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", y.begin + 17.0)?;
        }
        write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">step</text>", x.end, y.begin + 30.0)?;
        for Line { class, points, .. } in &self.lines {
            write!(svg, "<path class=\"line {class}\" d=\"{}\"/>", path(points, x, y))?;
            if points.len() <= 40 && *class != "raw" {
                let mut dots = points.iter().map(|&(step, value)| (x.place(step), y.place(value)));
                dots.try_for_each(|(x, y)| {
                    write!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>")
                })?;
            }
        }
        self.legend(svg, x.begin)
    }

    fn legend(&self, svg: &mut String, mut at: f64) -> std::fmt::Result {
        for Line { name, class, points } in &self.lines {
            if points.is_empty() || name.is_empty() {
                continue;
            }
            let end = at + 16.0;
            write!(svg, "<path class=\"line key {class}\" d=\"M{at:.1} 12H{end:.1}\"/>")?;
            write!(svg, "<text x=\"{:.1}\" y=\"16\">{name}</text>", end + 5.0)?;
            at = end + 21.0 + 6.5 * name.len() as f64;
        }
        Ok(())
    }
}

/// The path of a line; where several points have one place, their least and most.
fn path(points: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    let mut path = String::new();
    for (i, (step, value)) in thinned(points).into_iter().enumerate() {
        let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x.place(step), y.place(value));
    }
    path
}

fn thinned(points: &[(f64, f64)]) -> Series {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let ends = |part: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut ends: Series =
            [part.iter().min_by(by_value), part.iter().max_by(by_value)].into_iter().flatten().copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    };
    points.chunks(points.len().div_ceil(POINTS / 2)).flat_map(ends).collect()
}

/// Values from one place to another.
struct Axis {
    low: f64,
    high: f64,
    begin: f64,
    end: f64,
    /// From one tick to the next.
    step: f64,
}

impl Axis {
    /// From place to place, with a tick for each `room` at most.
    fn of(values: impl Iterator<Item = f64>, [begin, end]: [f64; 2], room: f64) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        // A line that is flat, in the middle.
        let margin = match high.abs() {
            _ if high > low => 0.0,
            0.0 => 1.0,
            value => value / 10.0,
        };
        let (low, high) = (low - margin, high + margin);
        let most = ((end - begin).abs() / room).max(2.0);
        Axis { low, high, begin, end, step: round_step((high - low) / most) }
    }

    fn place(&self, value: f64) -> f64 {
        self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let (first, last) = ((self.low / self.step).ceil(), (self.high / self.step).floor());
        (0..=(last - first).max(0.0) as u32).map(move |i| (first + f64::from(i)) * self.step)
    }

    fn label(&self, value: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        if value == 0.0 {
            "0".into()
        } else if !(1e-2..1e6).contains(&largest) {
            // 6.000000000000001e-5 is 6e-5.
            let text = format!("{value:.1e}");
            text.replace(".0e", "e")
        } else if self.step >= 1000.0 {
            format!("{}k", value / 1000.0)
        } else {
            format!("{value:.*}", (-self.step.log10().floor()).max(0.0) as usize)
        }
    }
}

/// At least `step`: 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|round| *round >= step).unwrap_or(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(low: f64, high: f64) -> Axis {
        Axis::of([low, high].into_iter(), [0.0, 350.0], 70.0)
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let labels = |low, high| {
            let axis = axis(low, high);
            axis.ticks().map(|tick| axis.label(tick)).collect::<Vec<_>>()
        };
        assert_eq!(labels(0.9, 4.3), ["1", "2", "3", "4"]);
        assert_eq!(labels(0.0, 2e-4), ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]);
        assert_eq!(labels(1.0, 9000.0), ["2k", "4k", "6k", "8k"]);
        assert_eq!(labels(1.51, 1.53), ["1.510", "1.515", "1.520", "1.525", "1.530"]);
        assert!(!labels(2.0, 2.0).is_empty() && !labels(0.0, 0.0).is_empty());
    }

    #[test]
    fn a_long_line_keeps_its_peaks() {
        let mut points: Series = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        (points[777].1, points[50_001].1) = (-3.0, 40.0);
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS && thin.contains(&(777.0, -3.0)) && thin.contains(&(50_001.0, 40.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn every_point_is_in_the_picture() {
        let points = vec![(1.0, 5.0), (2.0, 1.0), (9.0, 1e9)];
        let chart = Chart { title: "t", lines: vec![Line { name: "loss", class: "smooth", points }] };
        let svg = chart.svg(480.0, 240.0, "");
        assert!(svg.contains("M52.0 206.0L") && svg.contains("L468.0 30.0\""), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let none = Chart { title: "t", lines: Vec::new() }.svg(480.0, 240.0, "");
        assert!(!none.contains("NaN") && !none.contains("inf"), "{none}");
    }
}
