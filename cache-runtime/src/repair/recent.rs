//! The keys that this process has recently announced or dropped, in case the server that received them was cut off.
//!
//! A primary that is cut off accepts writes for a while, and its successor never gets them. So when a new connection
//! leads to another history, these keys are invalidated there again.
//!
//! 1. Keys are recorded in the younger of two sets. When the server has accepted a heartbeat write one window after the
//!    younger set was begun, that set becomes the older one, and the former older set is forgotten.
//! 2. A set that would exceed its limit is replaced by a flag that stands for all keys.
//!
//! Invariant: a key is recorded before its operation takes a link (see `connection`), so every operation that an
//! earlier server acknowledged is among the keys.
//! Invariant: a key is forgotten only when the server has accepted a write one window after the key was recorded. Only
//! that shows that the server was not cut off at that time. While no write is accepted, nothing is forgotten.
//! Not here: how the keys are invalidated (`repair`).

use std::{collections::HashSet, mem, time::Duration};

use crate::{clock::micros, protocol::key::Key};

/// The keys that may have been invalidated only on an earlier server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeysToReinvalidate {
    /// These keys.
    Keys(HashSet<Key>),
    /// All keys: there were too many to list.
    Everything,
}

/// The keys of the last window, or more.
#[derive(Debug)]
pub(crate) struct RecentWrites {
    limit: usize,
    window_us: u64,
    younger: Noted,
    older: Noted,
    /// When the younger set was begun.
    since_us: u64,
}

#[derive(Debug, Default)]
struct Noted {
    keys: HashSet<Key>,
    overflowed: bool,
}

impl RecentWrites {
    /// Returns an empty record. `limit` is the maximum number of keys in a set.
    pub(crate) fn new(limit: usize, window: Duration, now_us: u64) -> Self {
        Self {
            limit,
            window_us: micros(window),
            younger: Noted::default(),
            older: Noted::default(),
            since_us: now_us,
        }
    }

    /// Records a key.
    pub(crate) fn note(&mut self, key: &Key) {
        if self.younger.overflowed || self.younger.keys.contains(key) {
            return;
        }
        if self.younger.keys.len() >= self.limit {
            self.note_everything();
        } else {
            self.younger.keys.insert(key.clone());
        }
    }

    /// Records all keys.
    pub(crate) fn note_everything(&mut self) {
        self.younger = Noted {
            keys: HashSet::new(),
            overflowed: true,
        };
    }

    /// Records that the server has accepted a write that was sent at this time.
    pub(crate) fn accepted(&mut self, sent_us: u64) {
        if sent_us.saturating_sub(self.since_us) >= self.window_us {
            self.older = mem::take(&mut self.younger);
            self.since_us = sent_us;
        }
    }

    /// Takes the recorded keys.
    pub(crate) fn take(&mut self) -> KeysToReinvalidate {
        let (younger, older) = (mem::take(&mut self.younger), mem::take(&mut self.older));
        if younger.overflowed || older.overflowed {
            return KeysToReinvalidate::Everything;
        }
        let mut keys = younger.keys;
        keys.extend(older.keys);
        KeysToReinvalidate::Keys(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_US: u64 = 12_000_000;

    fn recent() -> RecentWrites {
        RecentWrites::new(10, Duration::from_micros(WINDOW_US), 0)
    }

    fn key(number: u32) -> Key {
        Key::from_bytes(&number.to_be_bytes())
    }

    fn keys(numbers: impl IntoIterator<Item = u32>) -> KeysToReinvalidate {
        KeysToReinvalidate::Keys(numbers.into_iter().map(key).collect())
    }

    #[test]
    fn key_is_kept_until_a_write_is_accepted_one_window_later() {
        let mut recent = recent();
        recent.note(&key(1));
        recent.accepted(WINDOW_US - 1);
        recent.note(&key(2));
        recent.accepted(WINDOW_US);
        recent.note(&key(3));
        assert_eq!(recent.take(), keys([1, 2, 3]));
        recent.note(&key(4));
        recent.accepted(2 * WINDOW_US);
        recent.accepted(3 * WINDOW_US);
        assert_eq!(recent.take(), keys([]));
    }

    #[test]
    fn nothing_is_forgotten_while_the_server_accepts_nothing() {
        let mut recent = recent();
        recent.accepted(WINDOW_US);
        recent.note(&key(1));
        // Cut off for a long time; then, much later, the first write is accepted again.
        recent.accepted(90 * WINDOW_US);
        assert_eq!(recent.take(), keys([1]));
    }

    #[test]
    fn too_many_recent_keys_stand_for_all_keys_until_they_are_old() {
        let mut recent = recent();
        (0..10).for_each(|number| recent.note(&key(number)));
        recent.note(&key(3));
        assert_eq!(recent.take(), keys(0..10));
        (0..11).for_each(|number| recent.note(&key(number)));
        assert_eq!(recent.take(), KeysToReinvalidate::Everything);
        recent.note_everything();
        recent.accepted(WINDOW_US);
        recent.note(&key(1));
        recent.accepted(2 * WINDOW_US);
        recent.note(&key(2));
        assert_eq!(recent.take(), keys([1, 2]));
    }
}
