//! A program of this package, run as its user does, and what its last line counts.

use std::process::Command;

/// Runs the program; whether it passed, and what it printed.
pub(crate) fn run(program: &str, options: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(options)
        .output()
        .expect("the program can be started");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{printed}{errors}");
    (output.status.success(), printed)
}

/// A number of the last line.
pub(crate) fn count(printed: &str, name: &str) -> u64 {
    let last = printed.lines().last().unwrap_or_default();
    last.split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("`{last}` counts {name}"))
}
