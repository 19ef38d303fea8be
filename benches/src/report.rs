//! What a run prints: a line per variant with its absolute figures, a line per ratio, and at the end one table of all ratios.
//!
//! Not here: the floors that `--check` compares them with (`floors`).

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::measure::{Figure, Spread, Variant};

/// All ratios of this run.
static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// A ratio that was printed.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) spread: Spread,
    pub(crate) goal: Goal,
}

/// Returns the ratios that were printed so far.
pub(crate) fn lines() -> Vec<Line> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The bound of a ratio.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
    /// No bound: the ratio is only told.
    None,
}

impl Goal {
    fn verdict(self, value: f64) -> &'static str {
        let met = match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            #[expect(clippy::float_cmp, reason = "counts are compared as what they are")]
            Self::Exactly(bound) => value == bound,
            Self::None => return "",
        };
        if met { " ok" } else { " missed" }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<={bound}"),
            Self::AtLeast(bound) => write!(f, ">={bound}"),
            Self::Exactly(bound) => write!(f, "{bound}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// Prints what each variant did.
pub(crate) fn variants(variants: &[Variant]) {
    let width = variants.iter().map(|variant| variant.name.len()).max();
    for variant in variants {
        let p50 = Spread::of(variant.figures(Figure::Latency));
        let p99 = Spread::of(variant.turns.iter().map(|turn| turn.p99_ns));
        let rate = Spread::of(variant.figures(Figure::Throughput));
        let allocations: Option<Vec<f64>> =
            variant.turns.iter().map(|turn| turn.allocations).collect();
        let allocations = allocations
            .map(|counts| format!(", {:.1} allocations per call", Spread::of(counts).median))
            .unwrap_or_default();
        let cpu = Spread::of(variant.turns.iter().map(|turn| turn.cpu_ns));
        println!(
            "  {:<width$}  p50 {:>9}, p99 {:>9}, {:>8}/s ({} to {}), {} of processor a call{allocations}",
            variant.name,
            time(p50.median),
            time(p99.median),
            count(rate.median),
            count(rate.low),
            count(rate.high),
            time(cpu.median),
            width = width.unwrap_or_default(),
        );
    }
}

/// Prints a ratio and its verdict.
pub(crate) fn ratio(name: &str, spread: Spread, goal: Goal) {
    println!(
        "  {name} lies between {} and {} with 95 % confidence",
        digits(spread.low),
        digits(spread.high)
    );
    tell(name, spread, goal);
}

/// Prints a figure that is held against a bound by itself.
pub(crate) fn value(name: &str, value: f64, goal: Goal) {
    let spread = Spread {
        low: value,
        median: value,
        high: value,
    };
    tell(name, spread, goal);
}

fn tell(name: &str, spread: Spread, goal: Goal) {
    let value = spread.median;
    LINES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Line {
            name: name.to_owned(),
            spread,
            goal,
        });
    println!(
        "ratio {name}={} target={goal}{}",
        digits(value),
        goal.verdict(value)
    );
}

/// Prints all ratios of this run in one table (Markdown), and how much the machine disturbs one measurement.
pub(crate) fn table(noise: Spread) {
    println!("\n| ratio | median | 95 % between | target | |\n|---|---|---|---|---|");
    for Line { name, spread, goal } in lines() {
        let between = if spread.low < spread.high {
            format!("{} and {}", digits(spread.low), digits(spread.high))
        } else {
            String::new()
        };
        println!(
            "| {name} | {} | {between} | {goal} |{} |",
            digits(spread.median),
            goal.verdict(spread.median)
        );
    }
    println!(
        "\nnoise: the same work took from {} to {} times its median (the middle half of {} turns)",
        digits(noise.low),
        digits(noise.high),
        crate::measure::NOISE_TURNS
    );
}

/// A number with three digits, fewer if it is a count.
fn digits(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value}")
    } else if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1}")
    }
}

/// A time in the unit that suits it.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// A count in the unit that suits it.
pub(crate) fn count(value: f64) -> String {
    match value {
        value if value < 1e3 => format!("{value:.0}"),
        value if value < 1e6 => format!("{:.1}k", value / 1e3),
        value => format!("{:.2}M", value / 1e6),
    }
}
