//! The counts of a run, its last line, and whether it has shown anything.
//!
//! Invariant: a run that made too little use of the cache fails like one that found a violation, for it proves nothing.

use std::{fmt, ops::AddAssign};

/// What was done and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Keys of configurations.
    pub histories: usize,
    /// Reads by id that returned.
    pub reads: usize,
    /// Those among them that the cache answered.
    pub cached_reads: usize,
    /// Rows of batches, lists and lookups, and rows that these did not return.
    pub rows_of_several: usize,
    /// Writes that began.
    pub writes: usize,
    /// Faults that were injected.
    pub faults: usize,
    /// Reads that are not linearizable.
    pub violations: usize,
}

impl Summary {
    /// Whether enough reads came from the cache to prove anything about it: one in so many.
    #[must_use]
    pub fn shows_something(&self, one_in: usize) -> bool {
        self.reads > 0 && self.cached_reads * one_in >= self.reads
    }

    /// Whether all is well, and one in so many reads came from the cache.
    #[must_use]
    pub fn passes(&self, one_in: usize) -> bool {
        self.shows_something(one_in) && self.violations == 0
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.histories += other.histories;
        self.reads += other.reads;
        self.cached_reads += other.cached_reads;
        self.rows_of_several += other.rows_of_several;
        self.writes += other.writes;
        self.faults += other.faults;
        self.violations += other.violations;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "histories={} operations={} reads={} cached_reads={} rows_of_several={} writes={} faults={} violations={}",
            self.histories,
            self.reads + self.rows_of_several + self.writes,
            self.reads,
            self.cached_reads,
            self.rows_of_several,
            self.writes,
            self.faults,
            self.violations
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Summary = Summary {
        histories: 2,
        reads: 10,
        cached_reads: 5,
        rows_of_several: 4,
        writes: 3,
        faults: 1,
        violations: 0,
    };

    #[test]
    fn last_line_counts_everything() {
        let expected = "histories=2 operations=17 reads=10 cached_reads=5 rows_of_several=4 writes=3 faults=1 violations=0";
        assert_eq!(GOOD.to_string(), expected);
    }

    #[test]
    fn run_passes_with_enough_of_its_reads_cached_and_fails_with_fewer() {
        assert!(GOOD.passes(2));
        let with = |cached_reads| Summary {
            cached_reads,
            ..GOOD
        };
        assert!(with(5).passes(2) && !with(4).passes(2));
        assert!(with(3).passes(4) && !with(2).passes(4));
        assert!(!Summary::default().passes(2));
    }

    #[test]
    fn one_violation_fails_a_run() {
        let bad = Summary {
            violations: 1,
            ..GOOD
        };
        assert!(!bad.passes(2));
    }
}
