//! An open journal on real files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use tempfile::TempDir;

use super::content;
use crate::journal::{
    Journal, JournalError, Record, SEGMENT_SIZE,
    files::{Files, Step},
    format::MAX_RECORD,
};

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn small(directory: &TempDir) -> (Journal, Vec<Record>) {
    Journal::open_with(directory.path(), 300).unwrap()
}

/// Appends records one by one, each on disk before the next.
async fn append(journal: &Journal, count: u64) -> u64 {
    let mut last = 0;
    for _ in 0..count {
        // The contents depend on the number, which is one more than the last.
        last = journal.append(&[]).unwrap();
        journal.durable(last).await.unwrap();
    }
    last
}

async fn fill(journal: &Journal, from: u64, to: u64) {
    for sequence in from..=to {
        assert_eq!(journal.append(&content(sequence)).unwrap(), sequence);
        journal.durable(sequence).await.unwrap();
    }
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = entries.filter(|path| !path.ends_with("lock")).collect();
    segments.sort();
    segments
}

/// Returns the number of the first record in a segment.
fn first(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

fn numbers(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.sequence).collect()
}

fn refusal(directory: &Path) -> String {
    match Journal::open(directory) {
        Ok(_) => panic!("the journal was opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn records_are_there_when_the_journal_is_opened_again() {
    let directory = directory();
    let (journal, records) = small(&directory);
    assert_eq!(records, []);
    fill(&journal, 1, 20).await;
    let identity = journal.identity();
    drop(journal);
    let (journal, records) = small(&directory);
    assert_eq!(journal.identity(), identity);
    assert_eq!(numbers(&records), Vec::from_iter(1..=20));
    for record in records {
        assert_eq!(record.bytes, content(record.sequence));
    }
    assert!(journal.is_durable(20));
    assert!(!journal.is_durable(21));
    assert_eq!(journal.append(b"next").unwrap(), 21);
}

#[tokio::test]
async fn last_handle_waits_until_everything_is_on_disk() {
    let directory = directory();
    let (journal, _) = small(&directory);
    let clone = journal.clone();
    for sequence in 1..=500 {
        journal.append(&content(sequence)).unwrap();
    }
    drop(journal);
    clone.append(b"one more").unwrap();
    drop(clone);
    let (_, records) = small(&directory);
    assert_eq!(records.len(), 501);
}

#[tokio::test]
async fn second_open_is_refused_until_the_first_is_closed() {
    let directory = directory();
    let (journal, _) = small(&directory);
    let error = refusal(directory.path());
    assert!(error.contains("open already"), "{error}");
    let clone = journal.clone();
    drop(journal);
    let error = Journal::open(directory.path()).err().unwrap();
    assert!(matches!(error, JournalError::InUse { .. }));
    drop(clone);
    Journal::open(directory.path()).unwrap();
}

#[test]
fn directory_is_created_with_those_above_it() {
    let directory = directory();
    let path = directory.path().join("a/b/c");
    Journal::open(&path).unwrap();
    assert_eq!(segments(&path).len(), 1);
}

#[tokio::test]
async fn release_removes_exactly_the_segments_that_hold_nothing_else() {
    let directory = directory();
    let (journal, _) = small(&directory);
    fill(&journal, 1, 40).await;
    let before = segments(directory.path());
    assert!(before.len() > 4, "{before:?}");
    for released in 1..=40 {
        journal.release(released);
        // The writer removes segments after it has announced a group, and before it writes the next one.
        append(&journal, 2).await;
        let left = segments(directory.path());
        let needed = |path: &&PathBuf| {
            let index = before.iter().position(|segment| segment == *path).unwrap();
            before
                .get(index + 1)
                .is_none_or(|next| first(next) > released + 1)
        };
        let wanted: Vec<_> = before.iter().filter(needed).collect();
        let left: Vec<_> = left.iter().filter(|path| before.contains(path)).collect();
        assert_eq!(left, wanted, "released {released}");
    }
    drop(journal);
    let (_, records) = small(&directory);
    let oldest = records[0].sequence;
    assert_eq!(numbers(&records), Vec::from_iter(oldest..=120));
}

#[tokio::test]
async fn last_segment_stays_whatever_is_released() {
    let directory = directory();
    let (journal, _) = small(&directory);
    fill(&journal, 1, 20).await;
    journal.release(u64::MAX);
    drop(journal);
    assert_eq!(segments(directory.path()).len(), 1);
    let (journal, _) = small(&directory);
    assert_eq!(journal.append(b"next").unwrap(), 21);
}

/// A journal of several segments, closed.
async fn closed() -> TempDir {
    let directory = directory();
    let (journal, _) = small(&directory);
    fill(&journal, 1, 30).await;
    drop(journal);
    assert!(segments(directory.path()).len() > 3);
    directory
}

#[tokio::test]
async fn torn_tail_is_cut_and_its_numbers_are_given_again() {
    let directory = closed().await;
    let last = segments(directory.path()).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    fs::write(&last, [&whole[..], &[7; 100]].concat()).unwrap();
    let (journal, records) = small(&directory);
    assert_eq!(records.len(), 30);
    assert_eq!(fs::read(&last).unwrap(), whole);
    fill(&journal, 31, 32).await;
    drop(journal);
    assert_eq!(small(&directory).1.len(), 32);
}

#[tokio::test]
async fn damage_in_an_earlier_segment_is_refused_with_its_place() {
    let directory = closed().await;
    let second = &segments(directory.path())[1];
    let mut bytes = fs::read(second).unwrap();
    let end = bytes.len();
    bytes[end - 1] ^= 1;
    fs::write(second, bytes).unwrap();
    let error = refusal(directory.path());
    assert!(error.contains(second.to_str().unwrap()), "{error}");
    let offset = format!("at byte {}", end - 24);
    assert!(error.contains(&offset), "{error}");
    assert!(error.contains("restore the file"), "{error}");
}

#[tokio::test]
async fn shortened_earlier_segment_is_refused() {
    let directory = closed().await;
    let segments = segments(directory.path());
    let bytes = fs::read(&segments[1]).unwrap();
    for end in 0..bytes.len() {
        fs::write(&segments[1], &bytes[..end]).unwrap();
        let opened = Journal::open(directory.path());
        // A file that lacks only its last mark has all its records.
        if end != bytes.len() - 24 {
            assert!(opened.is_err(), "cut to {end} of {}", bytes.len());
        }
    }
}

#[tokio::test]
async fn missing_segment_is_refused() {
    let directory = closed().await;
    let segments = segments(directory.path());
    fs::remove_file(&segments[1]).unwrap();
    let error = refusal(directory.path());
    assert!(error.contains("it begins with record"), "{error}");
    assert!(error.contains(segments[2].to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn renamed_segment_is_refused() {
    let directory = closed().await;
    let last = segments(directory.path()).pop().unwrap();
    let other = directory.path().join("00000000000000000099.journal");
    fs::rename(&last, &other).unwrap();
    let error = refusal(directory.path());
    assert!(error.contains("record 99 according to its name"), "{error}");
    fs::rename(&other, last.with_extension("backup")).unwrap();
    let error = refusal(directory.path());
    assert!(error.contains("does not belong"), "{error}");
}

#[tokio::test]
async fn segment_of_another_journal_is_refused() {
    let (one, other) = (closed().await, closed().await);
    let (from, to) = (segments(other.path()), segments(one.path()));
    fs::copy(&from[1], &to[1]).unwrap();
    let error = refusal(one.path());
    assert!(error.contains("part of another journal"), "{error}");
}

#[tokio::test]
async fn file_that_is_no_segment_is_refused() {
    let directory = closed().await;
    let last = segments(directory.path()).pop().unwrap();
    fs::write(last, "no segment at all, but a text that is long enough").unwrap();
    let error = refusal(directory.path());
    assert!(error.contains("not a segment of a journal"), "{error}");
}

#[tokio::test]
async fn segment_that_was_never_finished_is_removed() {
    let directory = closed().await;
    fs::write(directory.path().join("unfinished"), "LARD").unwrap();
    let (_, records) = small(&directory);
    assert_eq!(records.len(), 30);
    assert!(!directory.path().join("unfinished").exists());
}

#[tokio::test]
async fn failed_sync_fails_the_journal_for_good() {
    let directory = directory();
    let files = Files::default();
    let (journal, _) = Journal::open_on(directory.path(), SEGMENT_SIZE, files.clone()).unwrap();
    fill(&journal, 1, 3).await;
    let mut left = 1;
    files.tape.fail(move |step| {
        let fails = left > 0 && matches!(step, Step::Sync(_));
        left -= i32::from(fails);
        fails
    });
    let lost = journal.append(b"lost").unwrap();
    let error = journal.durable(lost).await.unwrap_err().to_string();
    let path = segments(directory.path()).pop().unwrap();
    assert_eq!(
        error,
        format!("failed to sync {}: a fault of the test", path.display())
    );
    // The next sync would succeed.
    files.tape.heal();
    assert_eq!(journal.append(b"more").unwrap_err().to_string(), error);
    assert_eq!(journal.durable(lost).await.unwrap_err().to_string(), error);
    // Records that were on disk stay acknowledged.
    journal.durable(3).await.unwrap();
    drop(journal);
    let (journal, _) = small(&directory);
    fill(&journal, 5, 6).await;
}

#[tokio::test]
async fn failed_write_fails_all_waiting_callers() {
    let directory = directory();
    let files = Files::default();
    let (journal, _) = Journal::open_on(directory.path(), SEGMENT_SIZE, files.clone()).unwrap();
    files.tape.fail(|step| matches!(step, Step::Write { .. }));
    // The first record may be in a group of its own, which has failed before the others come.
    let waits = (0..8).filter_map(|_| journal.append(b"lost").ok());
    let waits: Vec<_> = waits.collect();
    assert!(!waits.is_empty());
    for sequence in waits {
        let error = journal.durable(sequence).await.unwrap_err();
        assert!(error.to_string().starts_with("failed to write"), "{error}");
    }
}

#[tokio::test]
async fn failed_mark_fails_the_journal_but_not_its_group() {
    let directory = directory();
    let files = Files::default();
    let (journal, _) = Journal::open_on(directory.path(), SEGMENT_SIZE, files.clone()).unwrap();
    files
        .tape
        .fail(|step| matches!(step, Step::Write { bytes, .. } if bytes.len() == 24));
    let sequence = journal.append(b"on disk").unwrap();
    journal.durable(sequence).await.unwrap();
    drop(journal);
    assert_eq!(small(&directory).1.len(), 1);
}

#[tokio::test]
async fn removed_directory_fails_the_next_segment() {
    let directory = directory();
    let path = directory.path().join("journal");
    let (journal, _) = Journal::open_with(&path, 300).unwrap();
    fill(&journal, 1, 3).await;
    fs::remove_dir_all(&path).unwrap();
    let mut outcome = Ok(());
    for _ in 0..100 {
        let sequence = match journal.append(&[0; 100]) {
            Ok(sequence) => sequence,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        };
        outcome = journal.durable(sequence).await;
    }
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("failed to create"), "{error}");
    assert!(error.contains("unfinished"), "{error}");
}

#[tokio::test]
async fn too_long_record_does_not_fail_the_journal() {
    let directory = directory();
    let (journal, _) = small(&directory);
    let error = journal.append(&vec![0; MAX_RECORD + 1]).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    fill(&journal, 1, 1).await;
}

#[tokio::test]
async fn all_who_append_during_a_sync_share_the_next_one() {
    let directory = directory();
    let files = Files::default();
    let (journal, _) = Journal::open_on(directory.path(), SEGMENT_SIZE, files.clone()).unwrap();
    let before = journal.syncs();
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let mut is_first = true;
    files.tape.fail(move |step| {
        if is_first && matches!(step, Step::Sync(_)) {
            is_first = false;
            begun.send(()).unwrap();
            may_go_on.recv().unwrap();
        }
        false
    });
    let first = journal.append(b"first").unwrap();
    has_begun.recv().unwrap();
    let others: Vec<_> = (0..1000)
        .map(|_| journal.append(b"other").unwrap())
        .collect();
    let waits = others.into_iter().map(|sequence| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.durable(sequence).await })
    });
    let waits: Vec<_> = waits.collect();
    tokio::task::yield_now().await;
    assert!(!journal.is_durable(first));
    go_on.send(()).unwrap();
    journal.durable(first).await.unwrap();
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
    assert_eq!(journal.syncs() - before, 2);
}

#[tokio::test]
async fn one_after_the_other_costs_one_sync_each() {
    let directory = directory();
    let (journal, _) = Journal::open(directory.path()).unwrap();
    let before = journal.syncs();
    fill(&journal, 1, 20).await;
    assert_eq!(journal.syncs() - before, 20);
}

#[tokio::test]
async fn wait_for_a_record_on_disk_returns_at_once() {
    let directory = directory();
    let (journal, _) = small(&directory);
    fill(&journal, 1, 2).await;
    let wait = journal.durable(2);
    // A timeout of zero polls once.
    tokio::time::timeout(Duration::ZERO, wait)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn dropped_wait_does_not_drop_the_record() {
    let directory = directory();
    let (journal, _) = small(&directory);
    let sequence = journal.append(b"record").unwrap();
    drop(journal.durable(sequence));
    drop(journal);
    assert_eq!(numbers(&small(&directory).1), [sequence]);
}
