//! The state of one write's intent: transitions without I/O.

/// The state of an intent, as far as this process knows. `connection` is the number of the connection on which the store has
/// acknowledged it. `history` is the store's history at the first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// Nothing was sent.
    NotPlaced,
    /// It was sent, and the store has not acknowledged it. It may be in place or not.
    Unconfirmed { history: u64 },
    /// It was acknowledged at the first attempt, and never sent again.
    Placed { connection: u64, history: u64 },
    /// It was acknowledged after more than one attempt. It may have been lost in between, so another writer may have
    /// written.
    Replaced { connection: u64, history: u64 },
}

impl Intent {
    /// Returns the state before the intent is sent.
    pub(super) fn sending(self, history: u64) -> Self {
        match self {
            Self::NotPlaced => Self::Unconfirmed { history },
            Self::Placed {
                connection,
                history,
            } => Self::Replaced {
                connection,
                history,
            },
            Self::Unconfirmed { .. } | Self::Replaced { .. } => self,
        }
    }

    /// Returns the state after the intent was sent, for the first time or again, and acknowledged.
    pub(super) fn acknowledged(self, connection: u64, is_first: bool) -> Self {
        match self {
            Self::NotPlaced => self,
            Self::Unconfirmed { history }
            | Self::Placed { history, .. }
            | Self::Replaced { history, .. } => {
                if is_first {
                    Self::Placed {
                        connection,
                        history,
                    }
                } else {
                    Self::Replaced {
                        connection,
                        history,
                    }
                }
            }
        }
    }

    /// Returns the state after the intent was sent and not acknowledged.
    pub(super) fn failed(self) -> Self {
        match self {
            Self::NotPlaced => self,
            Self::Unconfirmed { history }
            | Self::Placed { history, .. }
            | Self::Replaced { history, .. } => Self::Unconfirmed { history },
        }
    }

    /// Returns the number of the connection that has acknowledged it.
    pub(super) fn acknowledged_by(self) -> Option<u64> {
        match self {
            Self::NotPlaced | Self::Unconfirmed { .. } => None,
            Self::Placed { connection, .. } | Self::Replaced { connection, .. } => Some(connection),
        }
    }

    /// Returns whether it was acknowledged on another connection than the present one. Then the store may have lost it.
    pub(super) fn is_lost(self, now: u64) -> bool {
        self.acknowledged_by().is_some_and(|by| by != now)
    }

    /// Returns whether it is known to be at its keys, for this connection to a store that can be used or not.
    pub(super) fn is_in_place(self, now: u64, is_available: bool) -> bool {
        self.acknowledged_by() == Some(now) && is_available
    }

    /// Returns whether it has been at its keys without interruption, in this history.
    pub(super) fn covers(self, in_history: u64) -> bool {
        matches!(self, Self::Placed { history, .. } if history == in_history)
    }
}

#[cfg(test)]
mod tests {
    use super::Intent::{self, NotPlaced, Placed, Replaced, Unconfirmed};

    const OLD: u64 = 1;
    const NEW: u64 = 2;
    const HISTORY: u64 = 7;

    #[test]
    fn only_an_intent_of_one_attempt_counts_as_placed() {
        let unconfirmed = Unconfirmed { history: HISTORY };
        let placed = Placed {
            connection: OLD,
            history: HISTORY,
        };
        let replaced = |connection| Replaced {
            connection,
            history: HISTORY,
        };
        // A later attempt may be in another history than the one in which the intent began.
        for (before, sending, acknowledged, failed) in [
            (NotPlaced, unconfirmed, placed, unconfirmed),
            (unconfirmed, unconfirmed, replaced(NEW), unconfirmed),
            (placed, replaced(OLD), replaced(NEW), unconfirmed),
            (replaced(OLD), replaced(OLD), replaced(NEW), unconfirmed),
        ] {
            let is_first = before == NotPlaced;
            let (history, connection) = if is_first { (HISTORY, OLD) } else { (9, NEW) };
            let sent = before.sending(history);
            assert_eq!(sent, sending, "{before:?}");
            assert_eq!(
                sent.acknowledged(connection, is_first),
                acknowledged,
                "{before:?}"
            );
            assert_eq!(sent.failed(), failed, "{before:?}");
        }
    }

    #[test]
    fn intent_is_in_place_on_its_own_connection_only() {
        let intents = |connection| {
            [
                Placed {
                    connection,
                    history: HISTORY,
                },
                Replaced {
                    connection,
                    history: HISTORY,
                },
            ]
        };
        for intent in intents(NEW) {
            assert!(
                intent.is_in_place(NEW, true) && !intent.is_lost(NEW),
                "{intent:?}"
            );
            assert!(!intent.is_in_place(NEW, false), "the store does not answer");
            assert!(!intent.is_in_place(OLD, true) && intent.is_lost(OLD));
        }
        for intent in [NotPlaced, Unconfirmed { history: HISTORY }] {
            assert!(
                !intent.is_in_place(NEW, true) && !intent.is_lost(NEW),
                "{intent:?}"
            );
        }
    }

    #[test]
    fn update_needs_an_intent_without_interruption() {
        let covers = |intent: Intent| intent.covers(HISTORY);
        assert!(covers(Placed {
            connection: OLD,
            history: HISTORY
        }));
        assert!(!covers(Placed {
            connection: OLD,
            history: 8
        }));
        assert!(!covers(Replaced {
            connection: OLD,
            history: HISTORY
        }));
        assert!(!covers(Unconfirmed { history: HISTORY }));
        assert!(!covers(NotPlaced));
    }
}
