//! The page `docs/types.md`: one table per database, made from what happened to the values.
//!
//! Each test compares the section of its database with the page. With `LARDER_PAGES=write` in the environment it writes the
//! section instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use super::{Fate, Fit, Trial};

/// Compares the section of a database with the trials, or writes it.
pub(super) fn compare(database: &str, trials: &[Trial]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/types.md");
    let writes = std::env::var("LARDER_PAGES").is_ok_and(|what| what == "write");
    let mut file = File::options()
        .read(true)
        .write(writes)
        .open(path)
        .expect("the page exists");
    // The tests of other databases write their sections at the same time.
    file.lock().expect("the page can be locked");
    let mut page = String::new();
    file.read_to_string(&mut page).expect("the page is a text");
    let expected = section(trials);
    let heading = format!("\n## {database}\n\n");
    let begin = page
        .find(&heading)
        .expect("the page has a section of the database")
        + heading.len();
    let end = page[begin..]
        .find("\n## ")
        .map_or(page.len(), |end| begin + end);
    if page[begin..end] == expected {
        return;
    }
    assert!(
        writes,
        "docs/types.md is not what happened; run this test with LARDER_PAGES=write. Expected:\n{expected}"
    );
    page.replace_range(begin..end, &expected);
    file.set_len(0).expect("the page can be written");
    file.seek(SeekFrom::Start(0))
        .expect("the page can be written");
    file.write_all(page.as_bytes())
        .expect("the page can be written");
}

/// Returns a table with a row per column type, and the remarks below it.
fn section(trials: &[Trial]) -> String {
    let mut notes = Notes::default();
    let mut text =
        "| column type | fits | fits with a remark | does not fit |\n|---|---|---|---|\n"
            .to_owned();
    for trials in trials.chunk_by(|one, other| one.column == other.column) {
        let of = |fit| trials.iter().filter(move |trial| trial.outcome() == fit);
        let fits: Vec<_> = of(Fit::Fits).map(|trial| code(trial.rust)).collect();
        let remarks: Vec<_> = of(Fit::Remark)
            .map(|trial| format!("{} ({})", code(trial.rust), notes.number(trial)))
            .collect();
        text += &format!(
            "| {} | {} | {} | {} |\n",
            named(trials[0].column),
            fits.join(", "),
            remarks.join(", "),
            misfits(of(Fit::Not))
        );
    }
    text.push('\n');
    for (at, note) in notes.0.iter().enumerate() {
        let fates: Vec<_> = note.fates.iter().map(|fate| sentence(fate)).collect();
        text += &format!(
            "{}. {}. What happens: {}.\n",
            at + 1,
            capital(&note.message),
            fates.join("; ")
        );
    }
    text
}

/// The remarks, each once.
#[derive(Default)]
struct Notes(Vec<Note>);

struct Note {
    message: String,
    fates: BTreeSet<Fate>,
}

impl Notes {
    /// Returns the number of the remark of a pair.
    fn number(&mut self, trial: &Trial) -> usize {
        // The type is in the row of the table.
        let message = match trial.message.strip_prefix("the column has ") {
            Some(rest) => rest.split_once(": ").map_or(rest, |(_, message)| message),
            None => &trial.message,
        };
        let fates = trial.fates.iter().map(|(_, fate)| fate.clone());
        let fates = fates.filter(|fate| *fate != Fate::Same);
        let at = self.0.iter().position(|note| note.message == message);
        let at = at.unwrap_or_else(|| {
            self.0.push(Note {
                message: message.to_owned(),
                fates: BTreeSet::new(),
            });
            self.0.len() - 1
        });
        self.0[at].fates.extend(fates);
        at + 1
    }
}

/// Returns the types that do not fit, by what happens to usual values. The most frequent case has all others.
fn misfits<'t>(trials: impl Iterator<Item = &'t Trial>) -> String {
    let mut by_fate = BTreeMap::<Fate, Vec<String>>::new();
    for trial in trials {
        let mut usual = trial.fates.iter().filter(|(attempt, _)| attempt.is_usual);
        let (_, fate) = usual
            .find(|(_, fate)| *fate != Fate::Same)
            .expect("a usual value failed");
        by_fate
            .entry(fate.clone())
            .or_default()
            .push(code(trial.rust));
    }
    let others = by_fate.iter().max_by_key(|(_, types)| types.len());
    let others = others.map(|(fate, _)| fate.clone());
    let parts = by_fate.iter().map(|(fate, types)| {
        let types = match others.as_ref() == Some(fate) && types.len() > 3 {
            true => "all others".to_owned(),
            false => types.join(", "),
        };
        format!("{}: {types}", sentence(fate))
    });
    parts.collect::<Vec<_>>().join("; ")
}

fn sentence(fate: &Fate) -> &'static str {
    match fate {
        Fate::Same => "the value comes back",
        Fate::Rejected => "the write fails",
        Fate::Changed => "the value comes back changed",
        Fate::Unreadable => "the read fails",
    }
}

/// A type in code, or words as they are.
fn code(rust: &str) -> String {
    match rust.contains("an enum") {
        true if rust != "an enum" => "`Option` of an enum".to_owned(),
        true => rust.to_owned(),
        false => format!("`{rust}`"),
    }
}

/// A column type in code, and what is said of it in words.
fn named(column: &str) -> String {
    let is_words = column.starts_with(|first: char| first.is_lowercase());
    match column.rsplit_once(", ") {
        _ if is_words => column.to_owned(),
        Some((sql, words)) if matches!(words, "STRICT" | "can be NULL") => {
            format!("`{sql}`, {words}")
        }
        _ => format!("`{column}`"),
    }
}

fn capital(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}
