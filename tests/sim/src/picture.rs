//! Pictures: goodput, backlog and delivery delay over time, one above the other in an SVG.

use std::path::Path;
use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::*;

/// How things stood at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// Segment bytes that the grounds hold.
    pub delivered: u64,
    /// Bytes on board of all satellites.
    pub backlog: u64,
    /// Items that were delivered since the sample before: their mean delay and the longest, in seconds.
    pub delay: Option<(f64, f64)>,
}

/// Points of a line: hours and values.
type Line = Vec<(f64, f64)>;

fn hours(at: Duration) -> f64 {
    at.as_secs_f64() / 3600.0
}

/// Draws `samples` to the file at `path`.
pub fn draw(path: &Path, title: &str, samples: &[Sample]) -> anyhow::Result<()> {
    let goodput: Line = samples
        .windows(2)
        .map(|pair| {
            let seconds = (pair[1].at - pair[0].at).as_secs_f64().max(1e-9);
            let bytes = pair[1].delivered.saturating_sub(pair[0].delivered);
            (hours(pair[1].at), bytes as f64 * 8.0 / seconds / 1e6)
        })
        .collect();
    let backlog: Line = samples.iter().map(|s| (hours(s.at), s.backlog as f64 / 1e6)).collect();
    let delay = |longest: bool| -> Line {
        let of =
            |s: &Sample| s.delay.map(|(mean, most)| (hours(s.at), if longest { most } else { mean } / 60.0));
        samples.iter().filter_map(of).collect()
    };
    let area = SVGBackend::new(path, (1200, 900)).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 22))?;
    let panels = area.split_evenly((3, 1));
    let end = samples.last().map_or(1.0, |s| hours(s.at)).max(1e-6);
    panel(&panels[0], "goodput, Mbit/s", end, &[("segment bytes", BLUE, goodput)])?;
    panel(&panels[1], "on board, MB", end, &[("journal and segments", RED, backlog)])?;
    let delays = [("mean", BLUE, delay(false)), ("longest", RED, delay(true))];
    panel(&panels[2], "delivery delay, min", end, &delays)?;
    area.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    what: &str,
    end: f64,
    lines: &[(&str, RGBColor, Line)],
) -> anyhow::Result<()> {
    let top = lines.iter().flat_map(|(_, _, line)| line).map(|(_, y)| *y).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, 0.0..(top * 1.05).max(1e-3))?;
    chart.configure_mesh().x_desc("hours").y_desc(what).light_line_style(WHITE).draw()?;
    for (name, color, line) in lines {
        let color = *color;
        chart
            .draw_series(LineSeries::new(line.iter().copied(), &color))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_three_panels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picture.svg");
        let sample = |n: u64| Sample {
            at: Duration::from_secs(n * 60),
            delivered: n * 1_000_000,
            backlog: 5_000_000 - n * 100_000,
            delay: n.is_multiple_of(2).then_some((60.0, 120.0)),
        };
        draw(&path, "ten minutes", &(0..10).map(sample).collect::<Vec<_>>()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for part in ["<svg", "goodput, Mbit/s", "on board, MB", "delivery delay, min", "ten minutes"] {
            assert!(text.contains(part), "{part}");
        }
        draw(&path, "nothing", &[]).unwrap();
    }
}
