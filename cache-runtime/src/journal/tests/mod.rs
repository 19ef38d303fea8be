//! Tests of the journal: the verdicts over bytes (`verdicts`), every crash of a recorded run (`crashes`), and the open
//! journal on real files (`open`). Processes that are killed are in `tests/suite/journal.rs`.

#[cfg(unix)]
mod access;
mod crashes;
mod open;
pub(crate) mod tape;
mod verdicts;

/// Returns the contents of a record. Neighbouring records differ in length and bytes.
fn content(sequence: u64) -> Vec<u8> {
    let length = usize::try_from(sequence * 37 % 91).unwrap();
    let mut bytes = format!("record {sequence} ").into_bytes();
    bytes.resize(bytes.len() + length, u8::try_from(sequence % 251).unwrap());
    bytes
}
