//! What the database does in one transaction.

use std::collections::BTreeMap;

use crate::behind::{
    broken::Broken,
    world::{Database, Entry, Fate, Image, KEYS, Offset, World},
};

impl Database {
    pub(crate) fn new() -> Self {
        Self {
            rows: [Image {
                write: 0,
                exists: true,
            }; KEYS],
            offsets: Vec::new(),
        }
    }

    pub(crate) fn offset(&self, epoch: u8) -> Offset {
        self.offsets[usize::from(epoch) - 1]
    }

    pub(crate) fn offset_mut(&mut self, epoch: u8) -> &mut Offset {
        &mut self.offsets[usize::from(epoch) - 1]
    }

    /// Registers the next incarnation of the queue.
    pub(crate) fn register(&mut self, broken: Option<Broken>) -> u8 {
        let before = self.offsets.last().copied().unwrap_or_default();
        let position = match broken {
            Some(Broken::Positions) => before.position,
            _ => 0,
        };
        self.offsets.push(Offset {
            position,
            ..Offset::default()
        });
        self.latest()
    }

    /// Returns the epoch that was registered last.
    pub(crate) fn latest(&self) -> u8 {
        u8::try_from(self.offsets.len()).expect("a model has few incarnations")
    }

    /// Returns the first open incarnation.
    pub(crate) fn first_open(&self) -> Option<u8> {
        (1..=self.latest()).find(|epoch| !self.offset(*epoch).closed)
    }

    /// Closes an incarnation that has this position, if a later one is registered.
    pub(crate) fn close(&mut self, epoch: u8, position: u8) {
        let has_successor = epoch < self.latest();
        let offset = self.offset_mut(epoch);
        offset.closed |= has_successor && offset.position == position;
    }
}

/// Applies a batch and advances the position, or makes dead letters of the batch if its incarnation is closed. Returns
/// whether the position was the expected one. If not, nothing happens.
pub(crate) fn flush(
    world: &mut World,
    epoch: u8,
    position: u8,
    closed: bool,
    entries: &[Entry],
    broken: Option<Broken>,
) -> bool {
    let offset = world.database.offset_mut(epoch);
    let compares = !matches!(broken, Some(Broken::Compare | Broken::Group));
    if offset.closed != closed || (compares && offset.position != position) {
        return false;
    }
    let last = entries.last().expect("a batch has writes").number;
    offset.position = match broken {
        Some(Broken::Group) => offset.position.max(last),
        _ => last,
    };
    if closed {
        for entry in entries {
            end(world, entry, Fate::Dead);
        }
    } else {
        apply(world, entries, broken);
    }
    true
}

/// Applies the last write of each row. If one is rejected, applies the two halves of the batch one after the other.
fn apply(world: &mut World, entries: &[Entry], broken: Option<Broken>) {
    // Which writes are rejected does not change during the flush.
    let poison: Vec<bool> = world.written.iter().map(|one| one.poison).collect();
    let latest: BTreeMap<usize, Entry> = entries.iter().map(|entry| (entry.key, *entry)).collect();
    let is_poison = |entry: &Entry| poison[usize::from(entry.image.write) - 1];
    if !latest.values().any(is_poison) {
        for entry in latest.values() {
            world.database.rows[entry.key] = entry.image;
        }
        for entry in entries {
            end(world, entry, Fate::Applied);
        }
    } else if let [alone] = entries {
        end(world, alone, Fate::Dead);
    } else if broken == Some(Broken::Coalesce) {
        let (refused, good): (Vec<Entry>, Vec<Entry>) = entries
            .iter()
            .partition(|entry| is_poison(&latest[&entry.key]));
        for entry in &refused {
            end(world, entry, Fate::Dead);
        }
        apply(world, &good, broken);
    } else {
        let (first, second) = entries.split_at(entries.len() / 2);
        apply(world, first, broken);
        apply(world, second, broken);
    }
}

/// Records the fate of a write.
fn end(world: &mut World, entry: &Entry, fate: Fate) {
    let index = usize::from(entry.image.write) - 1;
    let place = world.rank(entry.image.write);
    let key = entry.key;
    let written = world.written[index];
    world.wrong.repeated |= matches!(written.fate, Fate::Applied | Fate::Dead);
    match fate {
        Fate::Applied => {
            world.wrong.reordered |= world.written.iter().any(|other| {
                other.fate == Fate::Applied
                    && other.key == key
                    && (other.epoch, other.number) > place
            });
        }
        Fate::Dead => world.wrong.wrongly_dead |= written.fate == Fate::Queued && !written.poison,
        Fate::Queued | Fate::Lost => {}
    }
    world.written[index].fate = fate;
}
