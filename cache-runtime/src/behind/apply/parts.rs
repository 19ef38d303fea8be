//! How a batch is divided after the database has refused one of its writes.
//!
//! Where refusals are dense, trying writes one by one costs least. Where they are sparse, a few tries of many writes do.
//!
//! 1. After a refusal a part has half as many writes, and after several accepted parts twice as many ([`Pace`]).
//! 2. A part of a batch is a batch with a position of its own, and its share of the lost writes ([`Batch::between`]).
//!
//! Invariant: a lost write is counted in one part only.
//! Not here: what is done with a part (`apply`, `transaction`).

use crate::{behind::Batch, database::entity::Entity};

impl<'a, E: Entity> Batch<'a, E> {
    /// Returns the part that is numbered after `from`, up to `to`. Lost writes that were counted before are not counted again.
    pub(super) fn between(&self, from: u64, to: u64) -> Self {
        let first = self.writes.partition_point(|write| write.number <= from);
        let end = self.writes.partition_point(|write| write.number <= to);
        let counted = from.max(self.lost_counted_to.unwrap_or(0));
        let numbers = self.writes[first..end].iter();
        let found = numbers.filter(|write| write.number > counted).count() as u64;
        let lost = to.saturating_sub(counted).saturating_sub(found);
        Self {
            from,
            to,
            writes: &self.writes[first..end],
            // Not more than the whole batch has.
            lost: lost.min(self.lost),
            ..*self
        }
    }

    /// Returns the part with the first `count` writes. If these are all, it ends where the batch ends.
    pub(super) fn of_the_first(&self, count: usize) -> Self {
        match self.writes.get(count.saturating_sub(1)) {
            Some(last) if count < self.writes.len() => self.between(self.from, last.number),
            _ => self.between(self.from, self.to),
        }
    }
}

/// How many writes are tried at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) size: usize,
    /// How many parts of this size were accepted.
    taken: u32,
}

impl Pace {
    /// How many parts must be accepted before larger ones are tried. If every second write is refused, this never happens.
    const TRUSTED: u32 = 4;

    pub(super) fn after_refusal_of(size: usize) -> Self {
        let mut pace = Self { size, taken: 0 };
        pace.refused();
        pace
    }

    pub(super) fn refused(&mut self) {
        *self = Self {
            size: (self.size / 2).max(1),
            taken: 0,
        };
    }

    pub(super) fn taken(&mut self) {
        self.taken += 1;
        if self.taken == Self::TRUSTED {
            *self = Self {
                size: self.size.saturating_mul(2),
                taken: 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many tries it takes until all writes are decided, of which every n-th is refused.
    fn tries(writes: usize, every: usize) -> usize {
        let mut pace = Pace::after_refusal_of(writes);
        let (mut at, mut tries) = (0, 0);
        while at < writes {
            let size = pace.size.min(writes - at);
            tries += 1;
            if (at..at + size).any(|write| write % every == 0) {
                at += usize::from(size == 1);
                pace.refused();
            } else {
                at += size;
                pace.taken();
            }
        }
        tries
    }

    #[test]
    fn dense_refusals_are_met_one_by_one_and_sparse_ones_in_few_tries() {
        assert!(tries(1_000, 1) <= 1_010);
        assert!(tries(1_000, 2) <= 1_010);
        assert!(tries(1_000, 3) <= 1_010);
        assert!(tries(1_000, 10) <= 1_010);
        assert!(tries(1_000, 100) <= 350);
        assert!(tries(1_000, 1_000) <= 50);
    }
}
