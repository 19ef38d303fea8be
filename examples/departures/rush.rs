//! How would a stale answer be caught? Many readers look airports up while an editor changes the busiest of them.
//!
//! 1. Readers draw airports by Zipf's law, and now and then an id that nothing has. 2. Every so many reads allow one edit.
//! 3. The editor changes an airport drawn by the same law, or opens an airfield at an id that was just found absent.
//! 4. The desk judges every answer.
//!
//! Invariant: the pace of the edits is that of the reads, so none is made when nobody reads, and no time is waited for.

use std::{ops::Range, sync::Arc};

use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    Fallible,
    chance::{Chance, Zipf},
    desk::Desk,
    dialect::Dialect,
};

/// How many tasks read at the same time.
pub(crate) const READERS: u64 = 64;
/// How many reads allow one edit.
const READS_PER_EDIT: u64 = 50;
/// One read in so many asks for an id that had no airport at the start.
const UNKNOWN_READS: usize = 50;
/// One edit in so many opens an airfield.
const EDITS_PER_AIRFIELD: u64 = 20;
/// A hit in the memory of this process waits for nothing, so a reader lets the others in by itself, after so many reads.
const READS_PER_TURN: u64 = 8;

/// Which slots are read and edited.
pub(crate) struct Rush {
    /// Draws airports.
    pub(crate) popularity: Zipf,
    /// Slots without an airport.
    pub(crate) unknown: Range<usize>,
    pub(crate) reads: u64,
    pub(crate) seed: u64,
}

/// Plays the rush. Returns how many airfields were opened.
pub(crate) async fn play<DB: Dialect>(desk: &Arc<Desk<DB>>, rush: Rush) -> Fallible<u64> {
    let rush = Arc::new(rush);
    let edits_due = Arc::new(Semaphore::new(0));
    let editor = tokio::spawn(edit(
        Arc::clone(desk),
        Arc::clone(&rush),
        Arc::clone(&edits_due),
    ));
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        readers.spawn(read(
            Arc::clone(desk),
            Arc::clone(&rush),
            Arc::clone(&edits_due),
            reader,
        ));
    }
    while let Some(reader) = readers.join_next().await {
        reader??;
    }
    edits_due.close();
    editor.await?
}

async fn read<DB: Dialect>(
    desk: Arc<Desk<DB>>,
    rush: Arc<Rush>,
    edits_due: Arc<Semaphore>,
    reader: u64,
) -> Fallible<()> {
    let mut chance = Chance::new(rush.seed, reader);
    // This reader's share of all reads; the readers before it have taken theirs.
    for read in (reader..rush.reads).step_by(READERS as usize) {
        let slot = if chance.once_in(UNKNOWN_READS) {
            rush.unknown.start + chance.below(rush.unknown.len())
        } else {
            rush.popularity.draw(&mut chance)
        };
        desk.look_up(slot).await?;
        if read % READS_PER_EDIT == 0 {
            edits_due.add_permits(1);
        }
        if (read / READERS).is_multiple_of(READS_PER_TURN) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn edit<DB: Dialect>(
    desk: Arc<Desk<DB>>,
    rush: Arc<Rush>,
    edits_due: Arc<Semaphore>,
) -> Fallible<u64> {
    let mut chance = Chance::new(rush.seed, READERS);
    let mut absent = rush.unknown.clone();
    let mut airfields = 0;
    let mut edits: u64 = 0;
    while let Ok(due) = edits_due.acquire().await {
        due.forget();
        edits += 1;
        let unknown = edits
            .is_multiple_of(EDITS_PER_AIRFIELD)
            .then(|| absent.next())
            .flatten();
        let slot = unknown.unwrap_or_else(|| rush.popularity.draw(&mut chance));
        // Seen before and after by one and the same task: the answer in between is the one that must not come back.
        desk.look_up(slot).await?;
        desk.edit(slot).await?;
        desk.look_up(slot).await?;
        airfields += u64::from(unknown.is_some());
    }
    Ok(airfields)
}
