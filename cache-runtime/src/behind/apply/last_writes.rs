//! What the writes of a part make of the table: of several writes of a row only the last one counts.
//!
//! Invariant: rows are written in the order of their keys. So two transactions that lock the same rows lock them in the same
//! order, and rows that are neighbours in the table are written together.
//! Not here: the statements (`transaction`).

use crate::{
    behind::{Image, Queued},
    database::entity::Entity,
};

/// The rows to delete and to save, each with the number of its write.
pub(super) struct Effects<'a, E: Entity> {
    pub(super) deleted: Vec<(u64, E::Id)>,
    pub(super) saved: Vec<(u64, &'a E)>,
}

/// Returns what writes make of the table.
pub(super) fn coalesce<'a, E: Entity>(writes: &[&'a Queued<E>]) -> Effects<'a, E> {
    let mut effects: Effects<'a, E> = Effects {
        deleted: Vec::new(),
        saved: Vec::new(),
    };
    for write in last_write_per_row(writes, |write| write.key.as_bytes()) {
        match &write.image {
            Image::Row(row) => effects.saved.push((write.number, row)),
            Image::Deletion(id) => effects.deleted.push((write.number, id.clone())),
            Image::Unreadable { .. } => {}
        }
    }
    effects
}

/// Returns the last write of each key. Shorter keys come before longer ones, and keys of one length are in the order of their
/// bytes, so that keys with numbers are in the order of the numbers.
fn last_write_per_row<'a, T>(writes: &[&'a T], key: fn(&T) -> &[u8]) -> Vec<&'a T> {
    let mut last = writes.to_vec();
    last.reverse();
    // The sort is stable, so the last write of a key stays the first one of that key, which `dedup_by` keeps.
    last.sort_by(|one, other| {
        let (one, other) = (key(one), key(other));
        one.len().cmp(&other.len()).then_with(|| one.cmp(other))
    });
    last.dedup_by(|one, other| key(one) == key(other));
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn won(keys: &str) -> Vec<(char, usize)> {
        let writes: Vec<_> = (0..)
            .zip(keys.bytes())
            .map(|(at, key)| (at, [key]))
            .collect();
        let writes: Vec<&(usize, [u8; 1])> = writes.iter().collect();
        let last = last_write_per_row(&writes, |(_, key)| key);
        last.iter()
            .map(|(at, [key])| (char::from(*key), *at))
            .collect()
    }

    #[test]
    fn the_last_write_of_each_key_wins_in_the_order_of_the_keys() {
        assert_eq!(won("bacab"), [('a', 3), ('b', 4), ('c', 2)]);
        assert_eq!(won(""), []);
    }

    #[test]
    fn numbers_are_written_in_their_order() {
        let keys = ["i:10", "i:9", "i:100"];
        let keys: Vec<&&str> = keys.iter().collect();
        let last = last_write_per_row(&keys, |key| key.as_bytes());
        assert_eq!(last, [&"i:9", &"i:10", &"i:100"]);
    }
}
