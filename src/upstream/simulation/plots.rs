//! Plots of the simulation, for the documentation.

use std::path::PathBuf;

use plotters::prelude::SeriesLabelPosition::{MiddleRight, UpperLeft, UpperRight};
use plotters::prelude::*;

use super::*;

/// Told apart by those who see few colours, too.
const COLORS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(120, 60, 130),
];

/// A line: its name, and a value for each moment in seconds.
type Line = (String, Vec<(f64, f64)>);

#[test]
fn what_is_simulated_can_be_drawn() {
    let folder = std::env::var_os("ATLAS_PLOTS").map(PathBuf::from);
    let Some(folder) = folder else {
        return; // the documentation has them
    };
    let lines = [None, Some(10), Some(30)].map(recovery);
    let about = "share of an endpoint that comes back to 8 workers, in % of its fair share";
    draw(
        &folder.join("recovery.svg"),
        about,
        "seconds since it was well again",
        160.0,
        UpperRight,
        &lines,
    );
    draw_choices(&folder);
    draw_amplification(&folder);
    let about = "a third of 2,000 endpoints is ill from 5 s to 25 s; 3 workers; slow start of 10 s";
    draw(
        &folder.join("illness.svg"),
        about,
        "seconds",
        105.0,
        MiddleRight,
        &illness(),
    );
}

const METHODS: [Method; 4] = [
    Method::RoundRobin,
    Method::TwoChoices,
    Method::LeastConnections,
    Method::Hash,
];

/// How many requests endpoints have at a time, and what many workers make of that.
fn draw_choices(folder: &std::path::Path) {
    let lines = METHODS.map(|method| {
        let spread = choices::spread(seed(), method, 8, 1000, 100);
        let depths = 0..=12;
        let points = depths.map(|depth| (depth as f64, spread.at_least(depth)));
        (method.to_string(), points.collect())
    });
    let about = "endpoints with so many requests under way or more: 1,000 endpoints, 2 on average, 8 workers";
    let below = "requests under way with an endpoint";
    draw(
        &folder.join("depths.svg"),
        about,
        below,
        100.0,
        UpperRight,
        &lines,
    );
    let lines = METHODS.map(|method| {
        let crowded = |workers: u32| {
            let spread = choices::spread(seed(), method, workers as usize, 200, 200);
            (f64::from(workers), spread.at_least(6))
        };
        (
            method.to_string(),
            [1, 2, 4, 8, 12, 16, 24, 32].map(crowded).into(),
        )
    });
    let about = "how often an endpoint has three times its mean or more: 200 endpoints, 2 on average";
    draw(
        &folder.join("workers.svg"),
        about,
        "workers",
        3.0,
        UpperRight,
        &lines,
    );
}

/// What an overload grows to by its retries.
fn draw_amplification(folder: &std::path::Path) {
    let percents = || (0..=60_u8).step_by(5);
    let mut lines: Vec<Line> = [2, 3, 10]
        .into_iter()
        .map(|attempts| {
            let made = |percent| {
                let made = retries::overload(seed(), percent, attempts, 200);
                (f64::from(percent), 100.0 * made)
            };
            (format!("attempts = {attempts}"), percents().map(made).collect())
        })
        .collect();
    let bound = percents().map(|percent| (f64::from(percent), 100.0 * retries::most(percent, 99)));
    lines.push(("the bound".to_owned(), bound.collect()));
    let about = "attempts in an overload, in % of the requests: every endpoint answers late";
    let below = "retry_budget, in % of the requests under way";
    draw(
        &folder.join("amplification.svg"),
        about,
        below,
        260.0,
        UpperLeft,
        &lines,
    );
}

/// One of twenty endpoints hangs and comes back: what it gets of its fair share.
fn recovery(slow_start: Option<u64>) -> Line {
    let (endpoints, per_second) = (20, 400);
    let mut settings = settings(endpoints);
    settings.health.slow_start = slow_start.map(seconds);
    let mut simulation = Simulation::with(seed(), 8, settings);
    simulation.conditions[7] = Condition::Hangs;
    simulation.run(seconds(9), per_second);
    simulation.conditions[7] = Condition::Well;
    simulation.reached(7);
    let fair = (8 * per_second) as f64 / endpoints as f64;
    let mut points = Vec::new();
    for second in 1..=40_u32 {
        simulation.run(seconds(9 + u64::from(second)), per_second);
        points.push((f64::from(second), 100.0 * simulation.reached(7) / fair));
    }
    let name = match slow_start {
        Some(time) => format!("slow_start = \"{time}s\""),
        None => "no slow start".to_owned(),
    };
    (name, points)
}

fn illness() -> Vec<Line> {
    let (endpoints, per_second) = (2000, 2000);
    let mut simulation = Simulation::new(seed(), 3, endpoints);
    let names = [
        "endpoints that are well",
        "endpoints that are asked",
        "attempts in vain",
    ];
    let mut lines = names.map(|name| (name.to_owned(), Vec::new()));
    for second in 0..60_u32 {
        if second == 5 {
            for index in (0..endpoints).step_by(3) {
                simulation.conditions[index] = ILL[index / 3 % ILL.len()];
            }
        }
        if second == 25 {
            simulation.conditions.fill(Condition::Well);
        }
        let (attempts, asked) = (simulation.attempts, simulation.asked);
        simulation.run(seconds(u64::from(second) + 1), per_second);
        let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
        let well = simulation
            .conditions
            .iter()
            .filter(|one| **one == Condition::Well)
            .count();
        let workers = simulation.workers.iter();
        let available: usize = workers.map(|worker| simulation.available(worker)).sum();
        let attempts = simulation.attempts - attempts;
        let in_vain = attempts - (simulation.asked - asked);
        let values = [
            percent(well, endpoints),
            percent(available, 3 * endpoints),
            100.0 * in_vain as f64 / attempts as f64,
        ];
        for (line, value) in lines.iter_mut().zip(values) {
            line.1.push((f64::from(second) + 1.0, value));
        }
    }
    lines.into()
}

fn draw(
    path: &std::path::Path,
    about: &str,
    below: &str,
    highest: f64,
    legend: SeriesLabelPosition,
    lines: &[Line],
) {
    let root = SVGBackend::new(path, (820, 420)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let last = lines.iter().flat_map(|(_, points)| points).map(|(x, _)| *x);
    let last = last.fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(about, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..last, 0.0..highest)
        .unwrap();
    let percent = |value: &f64| format!("{value:.0} %");
    let mesh = &mut chart.configure_mesh();
    mesh.max_light_lines(0).bold_line_style(BLACK.mix(0.15));
    mesh.x_desc(below)
        .y_label_formatter(&percent)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .draw()
        .unwrap();
    for (index, (name, points)) in lines.iter().enumerate() {
        let style = COLORS[index % COLORS.len()].stroke_width(2);
        let series = LineSeries::new(points.iter().copied(), style);
        let key = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style);
        chart.draw_series(series).unwrap().label(name).legend(key);
    }
    let labels = &mut chart.configure_series_labels();
    let labels = labels.background_style(WHITE.mix(0.8)).border_style(BLACK);
    labels.position(legend).draw().unwrap();
    root.present().unwrap();
}
