//! Callers that leave: of some operations the future is dropped, after any number of polls.

use crate::random::Random;

use larder_testing::cut::Cut;

/// After how many polls a caller leaves at the latest.
const MAX_POLLS: u64 = 12;

/// A caller that stays to the end.
pub const STAYS: Cut = Cut {
    polls: usize::MAX,
    late: false,
};

/// When the caller of an operation leaves: of a thousand, so many do at all.
pub fn leaving(random: &mut Random, per_mille: u64) -> Cut {
    if !random.per_mille(per_mille) {
        return STAYS;
    }
    Cut {
        polls: usize::try_from(random.below(MAX_POLLS)).expect("they are few"),
        late: random.per_mille(500),
    }
}
