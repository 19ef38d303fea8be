//! Durations, counted in buckets whose bounds grow by a quarter of their power of two.
//!
//! It is the log-linear histogram of `HdrHistogram` (Gil Tene), with two bits for each power of two: a value is told with an error of
//! at most 12.5 %, up to half an hour, by one addition and no lock.
//!
//! Not here: what is measured (`observe`), and how it is exported (`cache::metrics`).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::clock::Stopwatch;

/// The buckets for each power of two, as bits.
const BITS: u32 = 2;
/// How many powers of two are told apart, from four nanoseconds to half an hour.
const LARGEST: u32 = 39;
const BUCKETS: usize = (LARGEST as usize) << BITS;

/// When something began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began(Stopwatch);

impl Began {
    pub(crate) fn now() -> Self {
        Self(Stopwatch::start())
    }
}

/// How often something took how long.
#[derive(Debug)]
pub(crate) struct Timing(Box<[AtomicU64]>);

impl Default for Timing {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Timing {
    /// Counts something that has ended now.
    pub(crate) fn add(&self, began: Began) {
        self.add_duration(began.0.elapsed());
    }

    pub(crate) fn add_duration(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how long this share of all took at most, in microseconds. `None` if nothing was counted.
    #[cfg(feature = "redis")]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a bucket is a small number of seconds"
    )]
    pub(crate) fn percentile_us(&self, percent: u64) -> Option<u64> {
        let counts = self.counts();
        let all = counts.iter().sum::<u64>();
        let wanted = (all * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some((seconds(bucket) * 1e6) as u64)
    }

    /// Returns the counts of the buckets, in their order.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let counts = self.0.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// Returns the bucket of a duration in nanoseconds.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(1 << BITS);
    let power = nanos.ilog2();
    let within = (nanos >> (power - BITS)) & ((1 << BITS) - 1);
    let at = (u64::from(power - BITS) << BITS) | within;
    usize::try_from(at).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

/// Returns the middle of a bucket, in seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "a bucket stands for values that differ by an eighth"
)]
pub(crate) fn seconds(bucket: usize) -> f64 {
    let (power, within) = ((bucket >> BITS) as u64, (bucket & ((1 << BITS) - 1)) as u64);
    let start = ((1 << BITS) + within) << power;
    let width = 1_u64 << power;
    (start as f64 + width as f64 / 2.0) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_tells_its_values_with_an_eighth_of_error() {
        let mut nanos = 4_u64;
        while nanos < (1 << LARGEST) {
            let told = seconds(bucket(nanos)) * 1e9;
            let error = (told / nanos as f64 - 1.0).abs();
            assert!(error <= 0.126, "{nanos} ns are told as {told} ns");
            nanos += nanos / 7 + 1;
        }
    }

    #[test]
    fn buckets_are_in_order_and_end() {
        let mut last = 0;
        for shift in 0..64 {
            let at = bucket(1 << shift);
            assert!(at >= last && at < BUCKETS);
            last = at;
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn durations_are_counted() {
        let timing = Timing::default();
        for _ in 0..3 {
            timing.add_duration(Duration::from_micros(100));
        }
        let counts = timing.counts();
        assert_eq!(counts[bucket(100_000)], 3);
        assert_eq!(counts.iter().sum::<u64>(), 3);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn percentiles_are_those_of_the_counts() {
        let timing = Timing::default();
        assert_eq!(timing.percentile_us(50), None);
        for micros in 1..=100 {
            timing.add_duration(Duration::from_micros(micros));
        }
        let near = |told: Option<u64>, right: u64| told.unwrap().abs_diff(right) * 8 <= right;
        assert!(
            near(timing.percentile_us(50), 50),
            "{:?}",
            timing.percentile_us(50)
        );
        assert!(
            near(timing.percentile_us(99), 99),
            "{:?}",
            timing.percentile_us(99)
        );
    }
}
