//! Plots of lines, as SVG.

use std::fmt::Write as _;

const MARGIN: f64 = 40.0;

/// An axis from its first tick to its last.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Values and their texts, in ascending order.
    pub ticks: Vec<(f64, String)>,
    /// The scale is logarithmic.
    pub is_logarithmic: bool,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its color.
    pub color: &'static str,
    /// Its points. Those outside of the axes are drawn at their ends.
    pub points: Vec<(f64, f64)>,
}

/// Lines over two axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The text above it.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
}

impl Axis {
    /// A linear axis from zero to a round number at or above a value, with five ticks.
    pub fn from_zero(most: f64) -> Self {
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .map(|factor| factor * 10_f64.powf((most.max(1e-3) / 4.0).log10().floor()))
            .into_iter()
            .find(|step| step * 4.0 >= most)
            .unwrap_or(most / 4.0);
        let ticks = (0..=4).map(|number| f64::from(number) * step).map(|value| (value, short(value))).collect();
        Self { ticks, is_logarithmic: false }
    }

    /// A logarithmic axis with these ticks.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>) -> Self {
        Self { ticks: values.into_iter().map(|value| (value, short(value))).collect(), is_logarithmic: true }
    }

    /// Returns the place of a value between 0, the first tick, and 1, the last.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.is_logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let end = |tick: Option<&(f64, String)>| scale(tick.map_or(1.0, |(value, _)| *value));
        let (first, last) = (end(self.ticks.first()), end(self.ticks.last()));
        if last <= first { 0.5 } else { ((scale(value) - first) / (last - first)).clamp(0.0, 1.0) }
    }
}

/// Returns a number without needless digits.
fn short(value: f64) -> String {
    match value {
        1000.0.. if value % 1000.0 == 0.0 => format!("{},000", value / 1000.0),
        _ => ((value * 1000.0).round() / 1000.0).to_string(),
    }
}

/// Draws charts beside each other, each of this size.
pub fn svg(charts: &[Chart], width: f64, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{0}\" height=\"{height}\" fill=\"#fff\"/>\n",
        width * charts.len() as f64
    );
    for (number, chart) in charts.iter().enumerate() {
        draw(&mut svg, chart, width * number as f64, width, height).expect("a String takes everything");
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, chart: &Chart, left: f64, width: f64, height: f64) -> std::fmt::Result {
    let x = |value: f64| left + MARGIN + chart.x.place(value) * (width - 2.0 * MARGIN);
    let y = |value: f64| height - MARGIN - chart.y.place(value) * (height - 2.0 * MARGIN);
    let (begin, end) = (left + MARGIN, left + width - MARGIN);
    text(svg, (begin, 20.0), "start", "#444", &chart.title)?;
    for (value, name) in &chart.y.ticks {
        let at = y(*value);
        writeln!(svg, "<line x1=\"{begin}\" x2=\"{end:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>")?;
        text(svg, (begin - 6.0, at + 4.0), "end", "#444", name)?;
    }
    for (value, name) in &chart.x.ticks {
        text(svg, (x(*value), height - MARGIN + 16.0), "middle", "#444", name)?;
    }
    for (number, Line { name, color, points }) in chart.lines.iter().enumerate() {
        let points: Vec<_> = points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let points = points.join(" ");
        writeln!(svg, "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{points}\"/>")?;
        text(svg, (end, 60.0 + 16.0 * number as f64), "end", color, name)?;
    }
    Ok(())
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, color: &str, text: &str) -> std::fmt::Result {
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\">{text}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number() {
        let ends = [0.9, 1.0, 3.0, 37.0, 41.0, 170.0].map(|most| Axis::from_zero(most).ticks[4].0);
        assert_eq!(ends, [1.0, 1.0, 4.0, 40.0, 80.0, 200.0]);
    }

    #[test]
    fn a_logarithmic_axis_spreads_powers_evenly() {
        let axis = Axis::logarithmic([10.0, 100.0, 1000.0]);
        let texts: Vec<_> = axis.ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["10", "100", "1,000"]);
        assert!((axis.place(100.0) - 0.5).abs() < 1e-9 && axis.place(1.0) < 1e-9);
    }
}
