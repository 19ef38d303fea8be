//! Every crash of a recorded run, on a model of a disk that loses what was not synced, in any order.
//!
//! 1. A journal runs on real files, and a tape records its operations.
//! 2. After each operation, the model of the disk loses power. Of what was not synced, it keeps some sectors and some names.
//! 3. The rest is recovered, and compared with what was announced by then.
//!
//! A sync that fails leaves some sectors on the disk and loses the others for good, although programs still read them. The
//! controls take operations out of the tape, or a rule out of the recovery. Each demands that a crash shows the difference.

use std::{collections::BTreeMap, path::Path};

use super::{content, tape::Event};
use crate::journal::{
    Journal,
    files::{Files, Step},
    recover::{Proof, Recovery, Rules},
};

/// Small, so that a record has many sectors.
const SECTOR: usize = 16;
/// How many outcomes of a crash are tried after each operation.
const OUTCOMES: u64 = 40;

/// A change of a file that is not on the disk yet.
#[derive(Clone)]
enum Change {
    Sector(usize, Vec<u8>),
    Cut(usize),
}

#[derive(Clone, Default)]
struct Node {
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

/// A change of a name that is not on the disk yet.
#[derive(Clone)]
enum Naming {
    Link(String, usize),
    Unlink(String),
}

#[derive(Clone, Default)]
struct Disk {
    nodes: Vec<Node>,
    /// The names on the disk.
    names: BTreeMap<String, usize>,
    namings: Vec<Naming>,
    /// The names as programs see them.
    seen: BTreeMap<String, usize>,
}

/// A sequence of coin tosses.
struct Chance(u64);

impl Chance {
    fn toss(&mut self) -> bool {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) & 1 == 1
    }
}

impl Node {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Cut(length) => self.bytes.truncate(length),
            Change::Sector(offset, sector) => {
                let end = offset + sector.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[offset..end].copy_from_slice(&sector);
            }
        }
    }

    /// Loses some of the changes.
    fn lose(&mut self, chance: &mut Chance) {
        for change in std::mem::take(&mut self.changes) {
            if chance.toss() {
                self.apply(change);
            }
        }
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            self.apply(change);
        }
    }
}

impl Disk {
    fn node(&mut self, name: &str) -> &mut Node {
        &mut self.nodes[self.seen[name]]
    }

    fn play(&mut self, event: &Event, chance: &mut Chance) {
        match event {
            Event::Create(name) => {
                self.nodes.push(Node::default());
                let node = self.nodes.len() - 1;
                self.seen.insert(name.clone(), node);
                self.namings.push(Naming::Link(name.clone(), node));
            }
            Event::Write {
                file,
                offset,
                bytes,
            } => {
                let node = self.node(file);
                let mut at = *offset;
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let length = (SECTOR - at % SECTOR).min(rest.len());
                    let (sector, behind) = rest.split_at(length);
                    node.changes.push(Change::Sector(at, sector.to_vec()));
                    at += length;
                    rest = behind;
                }
            }
            Event::Cut(file, length) => self.node(file).changes.push(Change::Cut(*length)),
            Event::Sync(file) => self.node(file).sync(),
            Event::FailedSync(file) => self.node(file).lose(chance),
            Event::Rename(from, to) => {
                let node = self.seen.remove(from).unwrap();
                self.seen.insert(to.clone(), node);
                self.namings.push(Naming::Link(to.clone(), node));
                self.namings.push(Naming::Unlink(from.clone()));
            }
            Event::Remove(name) => {
                self.seen.remove(name);
                self.namings.push(Naming::Unlink(name.clone()));
            }
            Event::SyncDirectory => {
                for naming in std::mem::take(&mut self.namings) {
                    self.name(naming);
                }
            }
            Event::Announce(_) => {}
        }
    }

    fn name(&mut self, naming: Naming) {
        match naming {
            Naming::Link(name, node) => self.names.insert(name, node),
            Naming::Unlink(name) => self.names.remove(&name),
        };
    }

    /// Loses power, and recovers the rest. Returns the records, or the reason why opening fails.
    fn crash(mut self, chance: &mut Chance, rules: Rules) -> Result<Vec<(u64, Vec<u8>)>, String> {
        for naming in std::mem::take(&mut self.namings) {
            if chance.toss() {
                self.name(naming);
            }
        }
        for node in &mut self.nodes {
            node.lose(chance);
        }
        let segments: Vec<_> = self
            .names
            .iter()
            .filter(|(name, _)| name.ends_with(".journal"))
            .collect();
        let mut recovery = Recovery::new(rules);
        for (index, (name, node)) in segments.iter().enumerate() {
            let first = name.trim_end_matches(".journal").parse().unwrap();
            let is_last = index + 1 == segments.len();
            let bytes = &self.nodes[**node].bytes;
            let scan = recovery.segment(Path::new(name), first, bytes, is_last);
            scan.map_err(|error| error.to_string())?;
        }
        let records = recovery.records.into_iter();
        Ok(records
            .map(|record| (record.sequence, record.bytes))
            .collect())
    }
}

/// Tries all crashes of a run that has released the records up to `released`. Returns the first failure.
fn check_crashes(events: &[Event], released: u64, rules: Rules) -> Result<(), String> {
    for outcome in 0..OUTCOMES {
        let mut disk = Disk::default();
        let mut chance = Chance(outcome);
        let mut announced = 0;
        for (index, event) in events.iter().enumerate() {
            disk.play(event, &mut chance);
            if let Event::Announce(sequence) = event {
                announced = *sequence;
            }
            let mut chance = Chance(outcome << 32 | u64::try_from(index).unwrap());
            let after = || format!("after operation {index}, {event:?}");
            let records = disk
                .clone()
                .crash(&mut chance, rules)
                .map_err(|refusal| format!("{}: refused: {refusal}", after()))?;
            let first = records.first().map_or(1, |(first, _)| *first);
            if first > released + 1 {
                return Err(format!("{}: begins with {first}", after()));
            }
            for (at, (sequence, bytes)) in (first..).zip(&records) {
                if at != *sequence || *bytes != content(at) {
                    return Err(format!("{}: {at} is not itself", after()));
                }
            }
            let last = records.last().map_or(0, |(last, _)| *last);
            if last < announced {
                return Err(format!(
                    "{}: ends with {last}, {announced} was announced",
                    after()
                ));
            }
        }
    }
    Ok(())
}

const RELEASED: u64 = 40;

/// Runs a journal through groups of several sizes, rotations, releases and a restart.
async fn run() -> Vec<Event> {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::default();
    let open = || Journal::open_on(directory.path(), 400, files.clone()).unwrap();
    let (journal, _) = open();
    let mut sequence = 0;
    let mut append = async |journal: &Journal, size: u64| {
        for _ in 0..size {
            sequence += 1;
            assert_eq!(journal.append(&content(sequence)).unwrap(), sequence);
        }
        journal.durable(sequence).await.unwrap();
    };
    for size in [1, 4, 1, 7, 2, 12, 1, 1] {
        append(&journal, size).await;
    }
    journal.release(20);
    drop(journal);
    let (journal, _) = open();
    for size in [3, 1, 9] {
        append(&journal, size).await;
        journal.release(RELEASED);
    }
    drop(journal);
    files.tape.events()
}

/// Returns whether an event is the sync of a segment that has its name.
fn is_segment_sync(event: &Event) -> bool {
    matches!(event, Event::Sync(name) if name.ends_with(".journal"))
}

#[tokio::test]
async fn no_crash_loses_an_announced_record_or_looks_like_damage() {
    let events = run().await;
    let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    assert!(count(|event| matches!(event, Event::Rename(..))) > 3);
    assert!(count(|event| matches!(event, Event::Remove(_))) > 2);
    check_crashes(&events, RELEASED, Rules::ALL).unwrap();
}

#[tokio::test]
async fn without_syncs_a_crash_loses_an_announced_record() {
    let mut events = run().await;
    events.retain(|event| !is_segment_sync(event));
    check_crashes(&events, RELEASED, Rules::ALL).unwrap_err();
}

#[tokio::test]
async fn announcement_before_the_sync_is_wrong_after_a_crash() {
    let mut events = run().await;
    let announced = events
        .iter()
        .rposition(|event| matches!(event, Event::Announce(_)))
        .unwrap();
    let synced = events[..announced]
        .iter()
        .rposition(is_segment_sync)
        .unwrap();
    let event = events.remove(announced);
    events.insert(synced, event);
    let error = check_crashes(&events, RELEASED, Rules::ALL).unwrap_err();
    assert!(error.contains("was announced"), "{error}");
}

#[tokio::test]
async fn without_syncs_of_the_directory_a_crash_loses_a_segment() {
    let mut events = run().await;
    events.retain(|event| *event != Event::SyncDirectory);
    check_crashes(&events, RELEASED, Rules::ALL).unwrap_err();
}

#[tokio::test]
async fn without_a_sync_of_the_last_mark_a_full_segment_looks_damaged() {
    let mut events = run().await;
    let loose: Vec<_> = events
        .windows(2)
        .map(|pair| is_segment_sync(&pair[0]) && matches!(&pair[1], Event::Create(_)))
        .collect();
    let mut loose = loose.into_iter();
    events.retain(|_| !loose.next().unwrap_or(false));
    let error = check_crashes(&events, RELEASED, Rules::ALL).unwrap_err();
    assert!(error.contains("a later segment was begun"), "{error}");
}

#[tokio::test]
async fn any_frame_as_proof_mistakes_a_torn_tail_for_damage() {
    let any = Rules {
        checksums: true,
        proof: Proof::AnyFrame,
    };
    let error = check_crashes(&run().await, RELEASED, any).unwrap_err();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn without_checksums_a_torn_tail_is_not_found() {
    let without = Rules {
        checksums: false,
        proof: Proof::Durable,
    };
    // Which failure is reported depends on the crash that is found first.
    check_crashes(&run().await, RELEASED, without).unwrap_err();
}

/// Runs a journal whose sync fails, and which reads the lost records from the memory of the system when it is opened again.
/// Returns the events, and the index at which it is opened again.
async fn failed_run() -> (Vec<Event>, usize) {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::default();
    let open = || Journal::open_on(directory.path(), 1 << 20, files.clone()).unwrap();
    let (journal, _) = open();
    journal.append(&content(1)).unwrap();
    journal.durable(1).await.unwrap();
    files.tape.fail(|step| matches!(step, Step::Sync(_)));
    journal.append(&content(2)).unwrap();
    journal.durable(2).await.unwrap_err();
    drop(journal);
    files.tape.heal();
    let opened = files.tape.events().len();
    let (journal, records) = open();
    assert_eq!(records.len(), 2);
    journal.append(&content(3)).unwrap();
    journal.durable(3).await.unwrap();
    drop(journal);
    (files.tape.events(), opened)
}

#[tokio::test]
async fn records_lost_by_a_failed_sync_are_written_again() {
    let (events, _) = failed_run().await;
    check_crashes(&events, 0, Rules::ALL).unwrap();
}

#[tokio::test]
async fn without_writing_again_a_restart_trusts_records_that_are_not_on_disk() {
    let (mut events, opened) = failed_run().await;
    let written = events[opened..]
        .iter()
        .position(|event| matches!(event, Event::Write { .. }))
        .unwrap();
    events.remove(opened + written);
    check_crashes(&events, 0, Rules::ALL).unwrap_err();
}
