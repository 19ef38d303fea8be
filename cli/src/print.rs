//! Writes answers: tables for people, JSON for programs.
//!
//! Colours are used only on a terminal, and not if `NO_COLOR` is set.
//!
//! Invariant: nothing is written to the standard output but the answer; questions, progress and errors go to the standard error.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use larder_runtime::tools::{Severity, escaped};
use serde::Serialize;

use crate::failure::Failure;

/// Writes an answer as JSON.
pub(crate) fn json(answer: &impl Serialize) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, answer).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Writes a line.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

/// Writes one of several facts, each in a line.
pub(crate) fn field(name: &str, fact: impl Display) -> Result<(), Failure> {
    line(format_args!("{name:10} {}", escaped(&fact.to_string())))
}

/// Writes an error.
pub(crate) fn failure(failure: &Failure) {
    let mark = coloured(io::stderr().is_terminal(), RED, "error:");
    // There is nowhere to say that it cannot be written.
    let _unheard = writeln!(io::stderr(), "{mark} {failure}");
}

/// Writes a table. What others have written is escaped. Its columns are as wide as their widest text.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let rows: Vec<Vec<_>> = rows
        .iter()
        .map(|row| row.iter().map(|text| escaped(text)).collect())
        .collect();
    let mut widths: Vec<_> = head.iter().map(|text| text.chars().count()).collect();
    for row in &rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    let mut out = io::stdout().lock();
    let is_terminal = out.is_terminal();
    let mut write = |row: Vec<&str>, style: Option<&str>| {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(text, width)| format!("{text:width$}"))
            .collect();
        let text = cells.join("  ");
        let text = text.trim_end();
        match style {
            Some(style) => writeln!(out, "{}", coloured(is_terminal, style, text)),
            None => writeln!(out, "{text}"),
        }
    };
    write(head.to_vec(), Some(BOLD))?;
    for row in &rows {
        write(row.iter().map(String::as_str).collect(), None)?;
    }
    Ok(())
}

const BOLD: &str = "1";
const RED: &str = "31";
const YELLOW: &str = "33";
const GREEN: &str = "32";
const DIM: &str = "2";

fn coloured(is_terminal: bool, style: &str, text: &str) -> String {
    let is_wanted = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    match is_wanted {
        true => format!("\u{1b}[{style}m{text}\u{1b}[0m"),
        false => text.to_owned(),
    }
}

/// Returns the mark of a finding.
pub(crate) fn severity(severity: Severity) -> String {
    let (style, text) = match severity {
        Severity::Ok => (GREEN, "ok     "),
        Severity::Unknown => (DIM, "unknown"),
        Severity::Warning => (YELLOW, "warning"),
        Severity::Error => (RED, "error  "),
    };
    coloured(io::stdout().is_terminal(), style, text)
}

/// Returns a duration in milliseconds as people read it.
pub(crate) fn millis(millis: u64) -> String {
    let seconds = Duration::from_millis(millis).as_secs();
    match seconds {
        0 => format!("{millis} ms"),
        1..120 => format!("{}.{} s", seconds, millis % 1_000 / 100),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Asks whether to go on.
pub(crate) fn confirm(question: &str, is_confirmed: bool) -> Result<bool, Failure> {
    if is_confirmed {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{question} There is no terminal to ask; use --yes to go on"
        )));
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Shows how far a scan is, on a terminal.
pub(crate) fn progress(scanned: u64) {
    if io::stderr().is_terminal() {
        let _unheard = write!(io::stderr(), "\r{scanned} keys looked at");
    }
}

/// Removes what [`progress`] has shown.
pub(crate) fn end_progress() {
    if io::stderr().is_terminal() {
        let _unheard = write!(io::stderr(), "\r\u{1b}[K");
    }
}
