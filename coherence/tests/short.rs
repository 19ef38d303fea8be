//! Short runs, so that every test run has shown reads to be linearizable while things go wrong, and the judge to have teeth.
//! Longer ones are `cargo xtask coherence`.

mod program;

use std::sync::{Mutex, PoisonError};

use program::count;

/// Runs that share the processors do too little to be judged.
static ALONE: Mutex<()> = Mutex::new(());

fn run(options: &[&str]) -> (bool, String) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    program::run(env!("CARGO_BIN_EXE_larder-coherence"), options)
}

fn is_linearizable_on(database: &str) {
    is_linearizable(&["--seconds", "6", "--database", database]);
}

fn is_linearizable_with_tags_on(database: &str) {
    is_linearizable(&["--seconds", "6", "--tags", "--database", database]);
}

fn is_linearizable(options: &[&str]) {
    let (passed, printed) = run(options);
    assert!(passed);
    assert_eq!(count(&printed, "violations"), 0);
    assert!(count(&printed, "faults") > 0);
    assert!(count(&printed, "cached_reads") > 0);
}

#[test]
fn reads_are_linearizable_on_postgres_while_things_go_wrong() {
    is_linearizable_on("postgres");
}

#[test]
fn reads_are_linearizable_on_mysql_while_things_go_wrong() {
    is_linearizable_on("mysql");
}

#[test]
fn reads_are_linearizable_on_sqlite_while_things_go_wrong() {
    is_linearizable_on("sqlite");
}

#[test]
fn reads_of_rows_with_tags_are_linearizable_on_postgres_while_things_go_wrong() {
    is_linearizable_with_tags_on("postgres");
}

#[test]
fn reads_of_rows_with_tags_are_linearizable_on_mysql_while_things_go_wrong() {
    is_linearizable_with_tags_on("mysql");
}

#[test]
fn reads_of_rows_with_tags_are_linearizable_on_sqlite_while_things_go_wrong() {
    is_linearizable_with_tags_on("sqlite");
}

#[test]
fn reads_are_linearizable_while_somebody_without_the_keys_writes_into_redis() {
    let options = ["--seconds", "6", "--tags", "--attack", "--database"];
    is_linearizable(&[&options[..], &["postgres"]].concat());
}

fn is_caught(mechanism: &str) {
    is_caught_within("6", mechanism);
}

fn is_caught_within(seconds: &str, mechanism: &str) {
    let options = ["--seconds", seconds, "--database", "postgres", "--break"];
    let (passed, printed) = run(&[&options[..], &[mechanism]].concat());
    assert!(!passed, "a run with violations passes");
    assert!(count(&printed, "violations") > 0, "nothing was noticed");
}

#[test]
fn fills_that_compare_no_lease_are_caught() {
    is_caught("fill-compare");
}

#[test]
fn writes_without_an_announcement_are_caught() {
    is_caught("intent");
}

#[test]
fn loads_shared_with_late_callers_are_caught() {
    is_caught("accepted-fill");
}

#[test]
fn entries_served_without_a_history_are_caught() {
    is_caught("history");
}

#[test]
fn publications_of_contended_writers_are_caught() {
    is_caught("contended");
}

#[test]
fn writes_without_an_end_are_caught() {
    is_caught("end");
}

#[test]
fn rows_that_the_codec_changes_are_caught() {
    is_caught("round-trip");
}

#[test]
fn rows_that_have_left_what_they_were_found_by_are_caught() {
    is_caught("lookup-check");
}

#[test]
fn values_that_are_not_announced_are_caught() {
    // Somebody must look for a value while it is being written.
    is_caught_within("12", "pointer-intent");
}

#[test]
fn lists_that_are_not_announced_are_caught() {
    is_caught("list-intent");
}

#[test]
fn writes_of_a_group_that_are_not_announced_are_caught() {
    is_caught("group-intent");
}

#[test]
fn a_beginning_that_is_dropped_half_way_is_caught() {
    is_caught("dropped-begin");
}

#[test]
fn changes_by_tags_that_nobody_compares_are_caught() {
    is_caught("tag-clock");
}

#[test]
fn changes_by_tags_without_an_announcement_are_caught() {
    is_caught("tag-intent");
}

#[test]
fn changes_by_tags_whose_marks_were_dropped_are_caught() {
    is_caught("tag-floor");
}

#[test]
fn entries_whose_seal_nobody_compares_are_caught() {
    is_caught("seal");
}

#[test]
fn rows_that_are_deleted_with_their_parents_and_not_announced_are_caught() {
    is_caught("cascade");
}
