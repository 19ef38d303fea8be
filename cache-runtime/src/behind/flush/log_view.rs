//! What a look at the log of the first open incarnation shows, and what a step does beside its batch: decisions without I/O.
//!
//! Not here: what follows from them (`flush`).

use super::FlushMode;
use crate::{
    behind::offsets::OpenIncarnation, protocol::queue_position::MAX_GAP, store::queue::Fetched,
};

/// What a look at the log shows, for the incarnation that the database names as the first open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogView {
    /// Another process has the claim. Nothing else was answered.
    ClaimedElsewhere,
    /// The queue was begun in another history of the store: a new incarnation has to be started before anything is cached.
    OtherHistory,
    /// The log or the state of the queue has a number that larder cannot have counted: the queue goes on in another incarnation.
    Jump,
    /// There are writes to apply.
    Batch,
    /// The log is empty, and writes up to a later number were acknowledged: they are lost.
    LostTail,
    /// The log is empty, and new writes still go to it.
    Drained,
    /// The log is empty, and the store writes to an earlier incarnation or to none. The server was cut off or has older data, and
    /// the later incarnation may be in use at another server.
    SetBack,
    /// The log is empty, and new writes go to a later incarnation: this one can be closed.
    Superseded,
}

impl LogView {
    /// Reads the answer of the store.
    pub(super) fn of(fetched: &Fetched, open: OpenIncarnation) -> Self {
        if !fetched.is_claimed {
            return Self::ClaimedElsewhere;
        }
        if !fetched.is_present {
            return Self::OtherHistory;
        }
        if !fetched.writes.is_empty() {
            return Self::Batch;
        }
        match fetched.current {
            Some(current) if current == open.incarnation => {
                if is_jump(open.position, fetched.current_last) {
                    Self::Jump
                } else if fetched.current_last > open.position {
                    Self::LostTail
                } else {
                    Self::Drained
                }
            }
            Some(current) if current.epoch >= open.incarnation.epoch => Self::Superseded,
            _ => Self::SetBack,
        }
    }
}

/// What a step does while the database works on its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meanwhile {
    /// Reads the next batch.
    pub(super) reads_next: bool,
    /// Renews the claim. A prefetched batch was not read with a claim of its own, so this is due with the next read.
    pub(super) renews_claim: bool,
}

impl Meanwhile {
    /// What to do beside a batch. `is_full` says that more writes wait: if not, those that are still to come are better read
    /// together.
    pub(super) fn of(mode: FlushMode, is_full: bool, was_prefetched: bool) -> Self {
        Self {
            reads_next: is_full && mode != FlushMode::Single,
            renews_claim: was_prefetched && mode.claim_ms() > 0,
        }
    }
}

/// Returns whether a number cannot follow another one, though some are lost.
pub(super) fn is_jump(from: u64, to: u64) -> bool {
    to.saturating_sub(from) > MAX_GAP
}

impl Fetched {
    /// Cuts the writes off before a number that cannot follow the one before. If it is the first, nothing is left but the number.
    pub(super) fn cut_at_jump(&mut self, open: OpenIncarnation) {
        let mut before = open.position;
        let numbers = self
            .writes
            .iter()
            .map(|write| write.pending.position.number);
        let jump = numbers.enumerate().find(|(_, number)| {
            let is_jump = is_jump(before, *number);
            before = *number;
            is_jump
        });
        if let Some((at, number)) = jump {
            self.writes.truncate(at);
            self.current_last = self.current_last.max(number);
            self.is_cut = true;
        }
    }

    /// Returns the number up to which it tells of every write: what of these is not here is lost.
    pub(super) fn end(&self) -> u64 {
        let last = self.writes.last();
        last.map_or(self.current_last, |write| write.pending.position.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::{
            key::Key,
            queue_position::{Incarnation, QueuePosition},
            state::{Identity, Lease, Meta, Pending},
            token::Token,
        },
        store::{Payload, queue::Logged},
    };

    const EARLIER: Incarnation = Incarnation { epoch: 1, nonce: 7 };
    const OPEN: Incarnation = Incarnation { epoch: 2, nonce: 8 };
    const LATER: Incarnation = Incarnation { epoch: 3, nonce: 9 };

    fn write(number: u64) -> Logged {
        let identity = Identity {
            history: 1,
            fingerprint: 2,
            codec: 1,
        };
        let token = Token::numbered(number);
        Logged {
            key: Key::from_bytes(b"k"),
            pending: Pending {
                position: QueuePosition {
                    incarnation: OPEN,
                    number,
                },
                is_deletion: false,
                meta: Meta {
                    lease: Lease { token, identity },
                    loaded_at_ms: 0,
                    stamp: None,
                },
            },
            payload: Payload::Bytes(Vec::new(), 0),
            at_ms: 0,
            refused: None,
        }
    }

    fn fetched(current: Option<Incarnation>, current_last: u64) -> Fetched {
        Fetched {
            is_claimed: true,
            history: 1,
            is_present: true,
            current,
            current_last,
            log_last: 0,
            now_ms: 0,
            writes: Vec::new(),
            is_cut: false,
        }
    }

    #[test]
    fn log_is_judged_in_the_order_of_the_protocol() {
        let open = OpenIncarnation {
            incarnation: OPEN,
            position: 5,
        };
        let with_writes = Fetched {
            writes: vec![write(6)],
            ..fetched(Some(OPEN), 6)
        };
        let late_writes = Fetched {
            current: Some(LATER),
            ..with_writes.clone()
        };
        let elsewhere = Fetched {
            is_present: false,
            ..with_writes.clone()
        };
        let unclaimed = Fetched {
            is_claimed: false,
            ..elsewhere.clone()
        };
        let same_epoch = Incarnation { epoch: 2, nonce: 1 };
        for (shown, view) in [
            (unclaimed, LogView::ClaimedElsewhere),
            (elsewhere, LogView::OtherHistory),
            (with_writes, LogView::Batch),
            (late_writes, LogView::Batch),
            (fetched(Some(OPEN), 6), LogView::LostTail),
            (fetched(Some(OPEN), 5 + MAX_GAP), LogView::LostTail),
            (fetched(Some(OPEN), 6 + MAX_GAP), LogView::Jump),
            (fetched(Some(OPEN), u64::MAX), LogView::Jump),
            (fetched(Some(LATER), u64::MAX), LogView::Superseded),
            (fetched(Some(OPEN), 5), LogView::Drained),
            (fetched(Some(OPEN), 4), LogView::Drained),
            (fetched(Some(LATER), 0), LogView::Superseded),
            (fetched(Some(LATER), 9), LogView::Superseded),
            (fetched(Some(same_epoch), 9), LogView::Superseded),
            (fetched(Some(EARLIER), 9), LogView::SetBack),
            (fetched(None, 0), LogView::SetBack),
        ] {
            assert_eq!(LogView::of(&shown, open), view, "{shown:?}");
        }
    }

    #[test]
    fn next_batch_is_read_only_when_more_writes_wait_and_the_step_goes_on() {
        use FlushMode::{Background, Drain, Single};
        for (mode, is_full, was_prefetched, reads_next, renews_claim) in [
            (Background, true, false, true, false),
            (Background, true, true, true, true),
            (Background, false, false, false, false),
            (Background, false, true, false, true),
            (Drain, true, true, true, false),
            (Drain, false, true, false, false),
            (Single, true, true, false, false),
        ] {
            let expected = Meanwhile {
                reads_next,
                renews_claim,
            };
            assert_eq!(Meanwhile::of(mode, is_full, was_prefetched), expected);
        }
    }

    #[test]
    fn a_batch_ends_before_a_number_that_cannot_follow() {
        let open = OpenIncarnation {
            incarnation: OPEN,
            position: 5,
        };
        let of = |numbers: &[u64]| Fetched {
            writes: numbers.iter().map(|number| write(*number)).collect(),
            ..fetched(Some(OPEN), 9)
        };
        for (numbers, left) in [
            (&[6, 7][..], 2),
            (&[6, 8, 7 + MAX_GAP], 3),
            (&[6, 7, 8 + MAX_GAP, 9 + MAX_GAP], 2),
            (&[6 + MAX_GAP], 0),
        ] {
            let mut cut = of(numbers);
            cut.cut_at_jump(open);
            assert_eq!(cut.writes.len(), left, "{numbers:?}");
            assert_eq!(cut.is_cut, left < numbers.len());
            let view = match left {
                0 => LogView::Jump,
                _ => LogView::Batch,
            };
            assert_eq!(LogView::of(&cut, open), view);
        }
    }

    #[test]
    fn answer_tells_of_all_writes_up_to_its_last_one() {
        let cut = Fetched {
            writes: vec![write(6), write(7)],
            ..fetched(Some(OPEN), 9)
        };
        assert_eq!((cut.end(), fetched(Some(OPEN), 9).end()), (7, 9));
    }
}
