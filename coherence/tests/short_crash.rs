//! Short runs, so that every test run has shown queued writes to survive crashes, and the judge to have teeth.
//! Longer ones are `cargo xtask crash`.

mod program;

use program::count;

fn run(options: &[&str]) -> (bool, String) {
    program::run(env!("CARGO_BIN_EXE_larder-crash"), options)
}

fn violations(printed: &str) -> u64 {
    let sorts = ["lost", "duplicated", "reordered"];
    sorts.iter().map(|sort| count(printed, sort)).sum()
}

fn survives_on(database: &str) {
    survives(&["--rounds", "3", "--database", database]);
}

fn survives(options: &[&str]) {
    let (passed, printed) = run(options);
    assert!(passed);
    assert_eq!(violations(&printed), 0);
    assert!(count(&printed, "rounds") >= 3);
    assert!(count(&printed, "acknowledged") > 0);
    assert!(count(&printed, "applied") > 0);
}

#[test]
fn queued_writes_survive_crashes_on_postgres() {
    survives_on("postgres");
}

#[test]
fn queued_writes_survive_crashes_on_mariadb() {
    survives_on("mariadb");
}

#[test]
fn queued_writes_survive_crashes_on_sqlite() {
    survives_on("sqlite");
}

#[test]
fn queued_writes_survive_somebody_without_the_keys() {
    survives(&["--rounds", "3", "--attack", "--database", "postgres"]);
}

fn is_caught(mechanism: &str) {
    let options = ["--rounds", "6", "--database", "postgres", "--break"];
    let (passed, printed) = run(&[&options[..], &[mechanism]].concat());
    assert!(!passed, "a run with violations passes");
    assert!(violations(&printed) > 0, "nothing was noticed");
}

#[test]
fn flushes_that_compare_no_position_are_caught() {
    is_caught("offset-cas");
}

#[test]
fn pending_rows_without_an_index_are_caught() {
    is_caught("pending-index");
}

#[test]
fn batches_that_turn_the_queue_round_are_caught() {
    is_caught("order");
}

#[test]
fn writes_whose_seal_nobody_compares_are_caught() {
    is_caught("seal");
}

#[test]
fn writes_that_the_codec_changes_are_caught() {
    is_caught("round-trip");
}
