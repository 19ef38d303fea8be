//! The keys that this process has announced or dropped lately, for the case that the server it told was the wrong one.
//!
//! A primary that is cut off goes on taking writes for a while. What it was told meanwhile, its successor has never heard
//! of; so when a connection leads to another history, these keys are invalidated there as well.
//!
//! 1. Keys gather in the younger of two sets. When a write of the server's trust was accepted a window after the last
//!    change, the younger set becomes the older one, and what was older is forgotten.
//! 2. A set that would grow beyond its bound forgets its keys and remembers that it did: then every key is suspect.
//!
//! Invariant: a key is noted before the link that carries its operation is taken (see `connection`), so an operation that
//! an earlier server acknowledged is always among the keys.
//! Invariant: a key is forgotten only when the server has accepted a write a window after the key was noted: only that
//! shows that it was not cut off when it was told. A process that hears of nothing for a while forgets nothing.
//! Not here: what is done with the keys (`repair`).

use std::{collections::HashSet, mem, time::Duration};

use crate::{clock::micros, protocol::key::Key};

/// Which keys may have been told to an earlier server only.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Suspects {
    /// These.
    Keys(HashSet<Key>),
    /// Any: there were too many to list.
    Everything,
}

/// The keys of the last window, or more.
#[derive(Debug)]
pub(crate) struct Recent {
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

impl Recent {
    /// Nothing yet; a set holds at most so many keys.
    pub(crate) fn new(limit: usize, window: Duration, now_us: u64) -> Self {
        Self {
            limit,
            window_us: micros(window),
            younger: Noted::default(),
            older: Noted::default(),
            since_us: now_us,
        }
    }

    /// Notes a key.
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

    /// Notes every key there is.
    pub(crate) fn note_everything(&mut self) {
        self.younger = Noted {
            keys: HashSet::new(),
            overflowed: true,
        };
    }

    /// The server has accepted a write that was sent at this moment.
    pub(crate) fn accepted(&mut self, sent_us: u64) {
        if sent_us.saturating_sub(self.since_us) >= self.window_us {
            self.older = mem::take(&mut self.younger);
            self.since_us = sent_us;
        }
    }

    /// Takes what was noted.
    pub(crate) fn take(&mut self) -> Suspects {
        let (younger, older) = (mem::take(&mut self.younger), mem::take(&mut self.older));
        if younger.overflowed || older.overflowed {
            return Suspects::Everything;
        }
        let mut keys = younger.keys;
        keys.extend(older.keys);
        Suspects::Keys(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_US: u64 = 12_000_000;

    fn recent() -> Recent {
        Recent::new(10, Duration::from_micros(WINDOW_US), 0)
    }

    fn key(number: u32) -> Key {
        Key::from_bytes(&number.to_be_bytes())
    }

    fn keys(numbers: impl IntoIterator<Item = u32>) -> Suspects {
        Suspects::Keys(numbers.into_iter().map(key).collect())
    }

    #[test]
    fn a_key_is_kept_until_the_server_was_trusted_a_window_later() {
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
    fn too_many_keys_are_every_key_until_they_are_old() {
        let mut recent = recent();
        (0..10).for_each(|number| recent.note(&key(number)));
        recent.note(&key(3));
        assert_eq!(recent.take(), keys(0..10));
        (0..11).for_each(|number| recent.note(&key(number)));
        assert_eq!(recent.take(), Suspects::Everything);
        recent.note_everything();
        recent.accepted(WINDOW_US);
        recent.note(&key(1));
        recent.accepted(2 * WINDOW_US);
        recent.note(&key(2));
        assert_eq!(recent.take(), keys([1, 2]));
    }
}
