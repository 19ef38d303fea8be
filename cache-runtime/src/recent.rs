//! The keys that this process has announced or dropped lately, for the case that the server it told was the wrong one.
//!
//! A primary that is cut off goes on taking writes for a while. What it was told meanwhile, its successor has never heard
//! of; so when a connection leads to another history, these keys are invalidated there as well.
//!
//! 1. Keys gather in the younger of two sets. When the window has passed, the older set is forgotten and the younger one
//!    takes its place, so a key is kept for at least one window and at most two.
//! 2. A set that would grow beyond its bound forgets its keys and remembers that it did: then every key is suspect.
//!
//! Invariant: a key is noted before the link that carries its operation is taken (see `connection`), so an operation that
//! an earlier server acknowledged is always among the keys.
//! Not here: what is done with the keys (`repair`).

use std::{collections::HashSet, mem, time::Duration};

use crate::{clock::micros, key::Key};

/// Which keys may have been told to an earlier server only.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Suspects {
    /// These.
    Keys(HashSet<Key>),
    /// Any: there were too many to list.
    Everything,
}

/// The keys of the last window, or two.
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
    pub(crate) fn note(&mut self, key: &Key, now_us: u64) {
        self.rotate(now_us);
        if self.younger.overflowed || self.younger.keys.contains(key) {
            return;
        }
        if self.younger.keys.len() >= self.limit {
            self.note_everything(now_us);
        } else {
            self.younger.keys.insert(key.clone());
        }
    }

    /// Notes every key there is.
    pub(crate) fn note_everything(&mut self, now_us: u64) {
        self.rotate(now_us);
        self.younger = Noted {
            keys: HashSet::new(),
            overflowed: true,
        };
    }

    /// Takes what was noted.
    pub(crate) fn take(&mut self, now_us: u64) -> Suspects {
        self.rotate(now_us);
        let (younger, older) = (mem::take(&mut self.younger), mem::take(&mut self.older));
        if younger.overflowed || older.overflowed {
            return Suspects::Everything;
        }
        let mut keys = younger.keys;
        keys.extend(older.keys);
        Suspects::Keys(keys)
    }

    fn rotate(&mut self, now_us: u64) {
        let age_us = now_us.saturating_sub(self.since_us);
        if age_us < self.window_us {
            return;
        }
        self.older = mem::take(&mut self.younger);
        // After a silence of a whole window, what was the younger set is old as well.
        if age_us >= 2 * self.window_us {
            self.older = Noted::default();
        }
        self.since_us = now_us;
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
    fn a_key_is_kept_for_a_window_and_not_for_ever() {
        let mut recent = recent();
        recent.note(&key(1), 0);
        recent.note(&key(2), WINDOW_US - 1);
        recent.note(&key(3), 2 * WINDOW_US - 2);
        assert_eq!(recent.take(2 * WINDOW_US - 2), keys([1, 2, 3]));
        recent.note(&key(4), 3 * WINDOW_US);
        assert_eq!(recent.take(6 * WINDOW_US), keys([]));
    }

    #[test]
    fn too_many_keys_are_every_key_until_they_are_old() {
        let mut recent = recent();
        (0..10).for_each(|number| recent.note(&key(number), 0));
        recent.note(&key(3), 0);
        assert_eq!(recent.take(0), keys(0..10));
        (0..11).for_each(|number| recent.note(&key(number), 0));
        assert_eq!(recent.take(0), Suspects::Everything);
        recent.note_everything(0);
        recent.note(&key(1), WINDOW_US);
        recent.note(&key(2), 2 * WINDOW_US);
        assert_eq!(recent.take(2 * WINDOW_US), keys([1, 2]));
    }
}
