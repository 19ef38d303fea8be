//! The dead letters of a run: written down by the process that has emptied the queue, read by the one that judges.

use std::{collections::BTreeMap, fs, path::Path};

use larder::Repository;
use larder_coherence::{harness::site::Site, queue::judge::Kept};

use crate::rows::Row;

/// More letters than any run makes.
const ALL: u32 = 1_000_000;

/// What the error of a letter says whose write larder has not stored.
const FORGED: &str = "not written by larder";

/// Writes down all dead letters: the id and the number of each, or `-` in place of what it does not tell. Those of an attacker are
/// left out: what he forged says so, or, where seals are not compared, tells no id. If it took the place of an acknowledged write,
/// that one is lost, which the judge sees.
pub(crate) async fn note<E: Row, DB: Site>(
    rows: &Repository<E, DB>,
    file: &Path,
    is_attacked: bool,
) {
    let letters = rows.dead_letters().list(ALL).await;
    let letters = letters.expect("the dead letters can be listed");
    let shown = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let own = letters.iter().filter(|letter| {
        !is_attacked || (letter.id().is_some() && !letter.error().contains(FORGED))
    });
    let lines = own.map(|letter| {
        let number = letter.row().map(Row::number);
        format!("{} {}\n", shown(letter.id()), shown(number))
    });
    fs::write(file, lines.collect::<String>()).expect("the letters can be written down");
}

/// Adds the dead letters of the rows with these ids. How many there are.
pub(crate) fn read(
    file: &Path,
    ids: &std::ops::Range<i64>,
    kept: &mut BTreeMap<i64, Kept>,
) -> Result<usize, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let mut count = 0;
    for line in text.lines() {
        let wrong = || format!("a dead letter tells {line:?}");
        let (id, number) = line.split_once(' ').ok_or_else(wrong)?;
        let id: i64 = id.parse().map_err(|_| wrong())?;
        if ids.contains(&id) {
            kept.entry(id).or_default().dead.push(number.parse().ok());
            count += 1;
        }
    }
    Ok(count)
}
