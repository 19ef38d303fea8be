//! Measures variants of the same work against each other.
//!
//! Without taking turns, whatever else the machine does meanwhile would be counted for one variant and not for the other.
//!
//! 1. Each variant has one short turn per round, and the order of the turns changes from round to round. The first round
//!    only warms up.
//! 2. In a turn, so many tasks call the variant one call after the other, on rows chosen at random but alike for all.
//! 3. The ratio of two variants is the median over the rounds of the ratios within a round.
//!
//! Invariant: all variants of a contest run the same tasks, on the same runtime, with the same rows.

use std::{pin::Pin, time::Duration};

use larder_testing::clock::{now, worked_ns};
use tokio::task::JoinSet;

use crate::{Failure, allocations};

/// How much time a measurement may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    /// How many writes a flood has.
    pub(crate) writes: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            rounds: 60,
            slice: Duration::from_millis(50),
            writes: 1_000_000,
        }
    }
}

/// One variant of the work. Each task calls a clone of its own.
pub(crate) trait Operation: Clone + Send + 'static {
    /// Does the work once, on the row with this id.
    fn call(&mut self, id: i64) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What a contest compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// The median time of a call; a smaller ratio is better.
    Latency,
    /// Calls per second, of all tasks together; a larger ratio is better.
    Throughput,
}

/// What one variant did in one turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// The median time of a call, in nanoseconds.
    pub(crate) p50_ns: f64,
    /// The time that one call in a hundred exceeds.
    pub(crate) p99_ns: f64,
    pub(crate) per_second: f64,
    /// What a call cost this process in processor time, in nanoseconds. Other programs disturb it least.
    pub(crate) cpu_ns: f64,
    pub(crate) allocations: Option<f64>,
}

/// What one variant did in all turns.
#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) turns: Vec<Turn>,
}

/// A median, and the bounds between which the true one lies with 95 % confidence, whatever the distribution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        // The rank of the true median is binomial with one half; this is the normal approximation of its deviation.
        #[expect(
            clippy::cast_precision_loss,
            reason = "a run has far fewer than 2^53 rounds"
        )]
        let reach = (0.98 / (values.len() as f64).sqrt()).min(0.5);
        Self {
            low: quantile(&values, 0.5 - reach),
            median: quantile(&values, 0.5),
            high: quantile(&values, 0.5 + reach),
        }
    }

    /// How one series relates to another that was taken at the same time.
    pub(crate) fn of_ratios(mine: &[f64], theirs: &[f64]) -> Self {
        Self::of(mine.iter().zip(theirs).map(|(mine, theirs)| mine / theirs))
    }
}

/// The value below which this share of the sorted values lies.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index into values that were counted"
)]
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    let position = share * last as f64;
    let below = position as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

/// Variants of the same work, ready to be measured.
pub(crate) struct Contest {
    plan: Plan,
    entrants: Vec<(String, TakeTurn)>,
}

/// Runs a turn, with a seed for its rows.
type TakeTurn = Box<dyn Fn(Plan, u64) -> BoxedTurn>;
type BoxedTurn = Pin<Box<dyn Future<Output = Result<Turn, Failure>> + Send>>;

#[derive(Clone, Copy, Debug)]
struct Plan {
    tasks: u64,
    rows: u64,
    slice_ns: u64,
    calls: f64,
}

impl Contest {
    /// A contest of so many tasks over the rows 1 to `rows`.
    pub(crate) fn new(tasks: u64, rows: u64) -> Self {
        Self {
            plan: Plan {
                tasks,
                rows,
                slice_ns: 0,
                calls: 1.0,
            },
            entrants: Vec::new(),
        }
    }

    /// Says that one operation makes so many calls, for work that is too short to be timed by itself.
    pub(crate) fn calls_per_operation(mut self, calls: u32) -> Self {
        self.plan.calls = f64::from(calls);
        self
    }

    /// Adds a variant.
    pub(crate) fn enter(mut self, name: impl Into<String>, operation: impl Operation) -> Self {
        let turn =
            move |plan, seed| Box::pin(take_turn(operation.clone(), plan, seed)) as BoxedTurn;
        self.entrants.push((name.into(), Box::new(turn)));
        self
    }

    /// Measures all variants; the results are in the order in which they were added.
    pub(crate) async fn run(mut self, effort: Effort) -> Result<Vec<Variant>, Failure> {
        self.plan.slice_ns = u64::try_from(effort.slice.as_nanos())?;
        let mut variants: Vec<Variant> = (self.entrants.iter())
            .map(|(name, _)| Variant {
                name: name.clone(),
                turns: Vec::with_capacity(effort.rounds),
            })
            .collect();
        for round in 0..=effort.rounds {
            for place in order(self.entrants.len(), round) {
                let (name, turn) = &self.entrants[place];
                let turn = turn(self.plan, round as u64)
                    .await
                    .map_err(|error| format!("{name}: {error}"))?;
                if round > 0 {
                    variants[place].turns.push(turn);
                }
            }
        }
        Ok(variants)
    }
}

/// How often the work is done that shows the noise of the machine.
pub(crate) const NOISE_TURNS: usize = 200;

/// Returns how long the same work of the processor takes, as shares of its median: the middle half of many turns.
pub(crate) fn noise() -> Spread {
    let mut turns: Vec<f64> = (0..NOISE_TURNS)
        .map(|_| {
            let began = now();
            let mut rows = Rows::new(1, u64::MAX);
            let sum = (0..100_000).fold(0_u64, |sum, _| sum ^ rows.bits());
            std::hint::black_box(sum);
            #[expect(clippy::cast_precision_loss, reason = "a time that is far below 2^53")]
            let took = (now() - began) as f64;
            took
        })
        .collect();
    turns.sort_by(f64::total_cmp);
    let median = quantile(&turns, 0.5);
    Spread {
        low: quantile(&turns, 0.25) / median,
        median: 1.0,
        high: quantile(&turns, 0.75) / median,
    }
}

/// Whose turn it is, one after the other: everybody once, each round begun by another one, every second round backwards.
pub(crate) fn order(places: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..places).map(move |step| {
        let step = if round.is_multiple_of(2) {
            step
        } else {
            places - 1 - step
        };
        (step + round / 2) % places
    })
}

impl Variant {
    /// The figure of each turn.
    pub(crate) fn figures(&self, figure: Figure) -> Vec<f64> {
        self.turns
            .iter()
            .map(|turn| match figure {
                Figure::Latency => turn.p50_ns,
                Figure::Throughput => turn.per_second,
            })
            .collect()
    }

    /// How this variant's figure relates to another's.
    pub(crate) fn ratio(&self, other: &Self, figure: Figure) -> Spread {
        Spread::of_ratios(&self.figures(figure), &other.figures(figure))
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count of calls and a time in nanoseconds are far below 2^53"
)]
async fn take_turn(operation: impl Operation, plan: Plan, seed: u64) -> Result<Turn, Failure> {
    let allocated = allocations::so_far();
    let (began, worked) = (now(), worked_ns());
    let mut tasks = JoinSet::new();
    for task in 0..plan.tasks {
        let mut operation = operation.clone();
        let mut rows = Rows::new(seed * plan.tasks + task, plan.rows);
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(1024);
            let mut last = now();
            // At least one call, also on a machine so busy that the slice is over before the task runs.
            loop {
                operation.call(rows.draw()).await?;
                let now = now();
                times.push((now - last) as f64);
                last = now;
                if last - began >= plan.slice_ns {
                    return Ok::<_, Failure>(times);
                }
            }
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let took_ns = (now() - began) as f64;
    let worked_ns = (worked_ns() - worked) as f64;
    let allocated = allocations::so_far()
        .zip(allocated)
        .map(|(now, then)| now - then);
    times.sort_by(f64::total_cmp);
    let calls = times.len() as f64 * plan.calls;
    Ok(Turn {
        p50_ns: quantile(&times, 0.5) / plan.calls,
        p99_ns: quantile(&times, 0.99) / plan.calls,
        per_second: calls * 1e9 / took_ns,
        cpu_ns: worked_ns / calls,
        allocations: allocated.map(|allocated| allocated as f64 / calls),
    })
}

/// Row numbers at random, the same ones for the same seed (`SplitMix64`; Steele, Lea, Flood, OOPSLA 2014).
pub(crate) struct Rows {
    state: u64,
    rows: u64,
}

impl Rows {
    pub(crate) fn new(seed: u64, rows: u64) -> Self {
        // Neighbouring seeds are a multiple of the step apart, which would make their sequences overlap.
        let mut mixed = Self {
            state: seed,
            rows: u64::MAX,
        };
        Self {
            state: mixed.bits(),
            rows,
        }
    }

    /// A number from 1 to the number of rows.
    pub(crate) fn draw(&mut self) -> i64 {
        i64::try_from(self.bits() % self.rows + 1).expect("a table has fewer rows than that")
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}
