//! The counts of a crash test, and its last line.

use std::{fmt, ops::AddAssign};

use crate::queue::judge::{Sort, Violation};

/// What was done and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rounds, of all databases together.
    pub rounds: usize,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Changes of rows in the database.
    pub applied: usize,
    /// Dead letters.
    pub dead: usize,
    /// Acknowledged writes that are nowhere, or were not seen.
    pub lost: usize,
    /// Writes that were applied more than once.
    pub duplicated: usize,
    /// Writes that were applied, or seen, after later ones.
    pub reordered: usize,
}

impl Summary {
    /// Counts what was found.
    pub fn count(&mut self, violations: &[Violation]) {
        for violation in violations {
            match violation.sort {
                Sort::Lost => self.lost += 1,
                Sort::Duplicated => self.duplicated += 1,
                Sort::Reordered => self.reordered += 1,
            }
        }
    }

    /// Whether every acknowledged write is where it belongs, and there were some.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.violations() == 0 && self.acknowledged > 0 && self.applied > 0
    }

    /// How many violations there are.
    #[must_use]
    pub fn violations(&self) -> usize {
        self.lost + self.duplicated + self.reordered
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.acknowledged += other.acknowledged;
        self.applied += other.applied;
        self.dead += other.dead;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rounds={} acknowledged={} applied={} dead={} lost={} duplicated={} reordered={}",
            self.rounds,
            self.acknowledged,
            self.applied,
            self.dead,
            self.lost,
            self.duplicated,
            self.reordered
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Summary = Summary {
        rounds: 2,
        acknowledged: 10,
        applied: 7,
        dead: 1,
        lost: 0,
        duplicated: 0,
        reordered: 0,
    };

    #[test]
    fn last_line_counts_everything() {
        let expected = "rounds=2 acknowledged=10 applied=7 dead=1 lost=0 duplicated=0 reordered=0";
        assert_eq!(GOOD.to_string(), expected);
    }

    #[test]
    fn one_violation_of_any_sort_fails_a_run_and_so_does_a_run_that_did_nothing() {
        assert!(GOOD.passes());
        assert!(!Summary::default().passes());
        for sort in [Sort::Lost, Sort::Duplicated, Sort::Reordered] {
            let mut bad = GOOD;
            bad.count(&[Violation {
                sort,
                what: String::new(),
            }]);
            assert!(!bad.passes(), "{sort:?}");
        }
    }
}
