//! Short runs, so that every test run has shown queued writes to survive crashes, and the judge to have teeth.
//! Longer ones are `cargo xtask crash`.

use std::process::Command;

/// Runs the program; whether it passed, and what it printed.
fn run(options: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_larder-crash"))
        .args(options)
        .output()
        .expect("the program can be started");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{printed}{errors}");
    (output.status.success(), printed)
}

/// A number of the last line.
fn count(printed: &str, name: &str) -> u64 {
    let last = printed.lines().last().unwrap_or_default();
    let counts = last.strip_prefix("crash: ").expect("the last line counts");
    counts
        .split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("`{last}` counts {name}"))
}

fn violations(printed: &str) -> u64 {
    let sorts = ["lost", "duplicated", "reordered"];
    sorts.iter().map(|sort| count(printed, sort)).sum()
}

fn survives_on(database: &str) {
    let (passed, printed) = run(&["--rounds", "3", "--database", database]);
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
