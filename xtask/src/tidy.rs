//! `cargo xtask tidy`: rules of this repository that neither the compiler nor clippy checks.
//! Small lies rot unseen: an ignored test, a file nobody introduced, a path of one machine.
//! 1. Every text file of the repository is read. 2. Each rule looks at it and may complain (`layers` has the longest).
//!    3. All complaints are listed, each with file and line.
//!
//! Invariant: `cargo test` runs the same rules, so they hold even where nobody calls this command.
//! Not here: formatting, lints, links in the documentation; rustfmt, clippy and rustdoc check them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cargo::root;
use crate::failure::{Attempt, Failure, Outcome};
use crate::layers;

/// Text that must not occur, with the reason. Split so that this file does not contain it.
const BANNED_EVERYWHERE: [(&str, &str); 5] = [
    (concat!("TO", "DO"), "finish it or open an issue"),
    (concat!("FIX", "ME"), "finish it or open an issue"),
    (
        concat!("/ho", "me/"),
        "a path of one machine means nothing on another",
    ),
    (
        concat!("/ro", "ot/"),
        "a path of one machine means nothing on another",
    ),
    (
        concat!("/wo", "rk/"),
        "a path of one machine means nothing on another",
    ),
];

/// Code that must not occur in Rust files, with the reason.
const BANNED_IN_RUST: [(&str, &str); 4] = [
    (
        concat!("#[", "ignore"),
        "an ignored test proves nothing; make it pass or remove it",
    ),
    (
        concat!("to", "do!("),
        "unfinished code does not belong here",
    ),
    (
        concat!("unimple", "mented!("),
        "unfinished code does not belong here",
    ),
    (
        concat!("db", "g!("),
        "debugging output does not belong here",
    ),
];

/// Checks the repository and prints every complaint.
pub(crate) fn run() -> Outcome {
    let complaints = check(&root()).attempt(|| "read the repository".to_owned())?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    match complaints.len() {
        0 => Ok(()),
        count => Err(Failure::message(format!("tidy found {count} problems"))),
    }
}

/// All complaints about the files below a folder, in the order of their paths.
fn check(top: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    collect(top, &mut files)?;
    files.sort();
    let mut complaints = Vec::new();
    for file in files {
        let name = file
            .strip_prefix(top)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        let bytes = fs::read(&file)?;
        // Files that are not text have no lines to judge.
        if let Ok(text) = String::from_utf8(bytes) {
            check_file(&name, &text, &mut complaints);
            if name == "ARCHITECTURE.md" {
                complaints.extend(missing_files(top, &text));
            }
        }
    }
    Ok(complaints)
}

fn check_file(name: &str, text: &str, complaints: &mut Vec<String>) {
    // Compiler output in there is compared byte for byte, and the programs in there are wrong on purpose.
    let is_ui_case = name.starts_with("tests/ui");
    let is_rust = name.ends_with(".rs");
    // A crate may take its introduction from a file.
    let is_introduced = ["//!", "#![doc = include_str!("]
        .iter()
        .any(|way| text.starts_with(way));
    if is_rust && !is_ui_case && !is_introduced {
        complaints.push(format!(
            "{name}:1: begins without a `//!` line that says what the file is"
        ));
    }
    let is_script =
        name.starts_with("cache-runtime/src/store/redis/scripts/") && name.ends_with(".lua");
    if is_script && !text.starts_with("--") {
        complaints.push(format!(
            "{name}:1: begins without a `--` comment that says what it does"
        ));
    }
    if is_rust {
        complaints.extend(
            layers::CRATES
                .iter()
                .flat_map(|crate_| crate_.check(name, text)),
        );
    }
    let rust_rules: &[(&str, &str)] = if is_rust { &BANNED_IN_RUST } else { &[] };
    for (number, line) in text.lines().enumerate() {
        for (banned, reason) in BANNED_EVERYWHERE.iter().chain(rust_rules) {
            if line.contains(banned) {
                complaints.push(format!("{name}:{}: `{banned}`: {reason}", number + 1));
            }
        }
        if is_rust && has_gap(line) {
            complaints.push(format!(
                "{name}:{}: a text has a gap; end the line of a text with a backslash where it goes on",
                number + 1
            ));
        }
    }
}

/// Returns whether a text that begins in a line has the indentation of a line that it was joined with. The formatter leaves no
/// other gaps between words; a table in a text of several lines may have some.
fn has_gap(line: &str) -> bool {
    let line = line.trim_start();
    let Some((code, text)) = line.split_once('"') else {
        return false;
    };
    let ends_word = |text: &str| {
        text.ends_with(|c: char| c.is_alphanumeric() || ",;.:".contains(c))
            && !text.ends_with("\\n")
    };
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("    ") {
        rest = after.trim_start();
        if ends_word(before) && rest.starts_with(char::is_alphanumeric) {
            return !code.starts_with("//");
        }
    }
    false
}

/// The complaints about a map that names files which are not there.
fn missing_files(top: &Path, map: &str) -> Vec<String> {
    let folders = [
        top.to_owned(),
        top.join("cache-runtime/src"),
        top.join("cache-runtime/src/store/redis/scripts"),
        top.join("cache-derive/src"),
    ];
    let mut complaints = Vec::new();
    for (number, line) in map.lines().enumerate() {
        let names = line.split('`').skip(1).step_by(2);
        let is_file = |name: &&str| {
            let is_word = !name.contains(|c: char| c.is_whitespace() || "*(<".contains(c));
            is_word && (name.ends_with(".rs") || name.ends_with(".lua"))
        };
        for name in names.filter(is_file) {
            if !folders.iter().any(|folder| folder.join(name).exists()) {
                let number = number + 1;
                complaints.push(format!(
                    "ARCHITECTURE.md:{number}: there is no file `{name}`"
                ));
            }
        }
    }
    complaints
}

/// Every file that people write; hidden folders hold tools' files, except those named here.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let hidden =
            name.starts_with('.') && !matches!(&*name, ".ci" | ".cargo" | ".config" | ".github");
        let kind = entry.file_type()?;
        if hidden || (kind.is_dir() && name == "target") || name == "Cargo.lock" {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(name: &str, text: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        check_file(name, text, &mut complaints);
        complaints
    }

    #[test]
    fn repository_is_tidy() {
        let complaints = check(&root()).unwrap();
        assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    }

    #[test]
    fn file_without_an_introduction_is_found() {
        assert_eq!(complaints("src/a.rs", "//! Says what it is.\n"), [""; 0]);
        assert_eq!(complaints("src/a.rs", "fn f() {}\n").len(), 1);
        assert_eq!(complaints("tests/ui/key/wrong.rs", "fn f() {}\n"), [""; 0]);
    }

    #[test]
    fn file_that_is_not_there_is_found_on_the_map() {
        let map =
            "`read/mod.rs` calls\n`write/nothing.rs`, `begin.lua` and `store/redis/scripts/*.lua`.";
        assert_eq!(
            missing_files(&root(), map),
            ["ARCHITECTURE.md:2: there is no file `write/nothing.rs`"]
        );
    }

    #[test]
    fn banned_text_is_found_with_its_line() {
        let (banned, reason) = BANNED_IN_RUST[0];
        let text = format!("//! Doc.\n\n{banned}]\n");
        assert_eq!(
            complaints("src/a.rs", &text),
            [format!("src/a.rs:3: `{banned}`: {reason}")]
        );
        assert_eq!(complaints("docs/a.md", &text), [""; 0]);
    }

    #[test]
    fn gap_in_a_text_is_found() {
        let gap = " ".repeat(9);
        let found = |line: &str| complaints("src/a.rs", &format!("//! Doc.\n{line}\n")).len();
        assert_eq!(found(&format!("    log(\"it is{gap}joined\");")), 1);
        assert_eq!(
            found(&format!("    log(\"a{gap}\\n{gap}b;{gap}joined\");")),
            1
        );
        assert_eq!(found("    log(\"it is joined\");"), 0);
        assert_eq!(found(&format!("    log(\"code:\\n{gap}indented\");")), 0);
        assert_eq!(found(&format!("    f();{gap}// Why.")), 0);
        assert_eq!(found(&format!("    // a{gap}table")), 0);
    }

    #[test]
    fn script_without_a_comment_is_found() {
        let name = "cache-runtime/src/store/redis/scripts/fill.lua";
        assert_eq!(complaints(name, "-- Fills.\nreturn 1\n"), [""; 0]);
        assert_eq!(complaints(name, "return 1\n").len(), 1);
    }
}
