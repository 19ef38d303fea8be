//! The order in which the writes of a key were committed, as the database recorded it, and which write each commit was.
//! With the order known, judging a read needs no search.
//! 1. A trigger records each change of a row while its lock is held, so the records of one row are in the order of the commits,
//!    and a change that was rolled back has none. 2. A value names its write; a delete has no value, and is the next one of the
//!    worker that carried it out. 3. A write whose answer disagrees with the record is a violation by itself.
//!
//! Invariant: a worker deletes one row one at a time, and never again after a delete of it whose outcome it does not know.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::history::{Answer, Value, Verb, Write};

/// One change of a row, as the database recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// What the row held from then on.
    pub value: Value,
    /// Which worker's connection made the change.
    pub by: Arc<str>,
    /// The delete of another row with which the database deleted this one; see [`crate::cascades`].
    pub cause: Option<Write>,
}

/// What cannot be, about writes alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write that was acknowledged is not in the record.
    Lost(Write),
    /// A write that was refused is in the record.
    Ghost(Write),
    /// The record holds a change that no worker asked for, or one change twice.
    Unasked(Commit),
}

/// The writes of one key in the order of their commits.
///
/// # Errors
///
/// All that cannot be, if anything.
pub fn order(writes: &[Write], commits: &[Commit]) -> Result<Vec<Write>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut by_value: HashMap<i64, &Write> = HashMap::new();
    let mut deletes: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in writes {
        match write.value {
            Some(value) => {
                by_value.insert(value, write);
            }
            None => deletes.entry(&write.by).or_default().push(write),
        }
    }
    for of_worker in deletes.values_mut() {
        of_worker.sort_by_key(|write| write.start);
        of_worker.reverse();
    }
    let mut ordered = Vec::new();
    for commit in commits {
        let write = match (commit.value, &commit.cause) {
            (Some(value), _) => by_value.remove(&value),
            (None, Some(cause)) => Some(cause),
            (None, None) => next_delete(deletes.get_mut(&*commit.by)),
        };
        let Some(write) = write else {
            faults.push(Fault::Unasked(commit.clone()));
            continue;
        };
        if matches!(write.answer, Some((_, Answer::Refused))) {
            faults.push(Fault::Ghost(write.clone()));
        }
        ordered.push(write.clone());
    }
    let rest = by_value
        .into_values()
        .chain(deletes.into_values().flatten());
    for write in rest {
        if matches!(write.answer, Some((_, Answer::Done))) {
            faults.push(Fault::Lost(write.clone()));
        }
    }
    if faults.is_empty() {
        Ok(ordered)
    } else {
        Err(faults)
    }
}

/// Takes the earliest delete that may have been carried out; the last of the list is the earliest.
fn next_delete<'a>(of_worker: Option<&mut Vec<&'a Write>>) -> Option<&'a Write> {
    let of_worker = of_worker?;
    let at = of_worker
        .iter()
        .rposition(|write| !matches!(write.answer, Some((_, Answer::Refused))))?;
    debug_assert_eq!(of_worker[at].verb, Verb::Delete);
    Some(of_worker.remove(at))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn write(by: &str, start: u64, value: Value, answer: Option<Answer>) -> Write {
        Write {
            start,
            answer: answer.map(|answer| (start + 1, answer)),
            verb: if value.is_some() {
                Verb::Save
            } else {
                Verb::Delete
            },
            value,
            by: by.into(),
        }
    }

    fn commit(by: &str, value: Value) -> Commit {
        Commit {
            value,
            by: by.into(),
            cause: None,
        }
    }

    #[test]
    fn values_and_workers_name_the_writes() {
        let writes = [
            write("a", 1, Some(1), Some(Answer::Done)),
            write("a", 3, None, Some(Answer::Refused)),
            write("b", 3, None, Some(Answer::Done)),
            write("a", 5, Some(2), None),
            write("a", 7, None, Some(Answer::Done)),
            write("a", 9, None, Some(Answer::Unknown)),
            write("b", 9, Some(3), Some(Answer::Refused)),
        ];
        let commits = [
            commit("a", Some(1)),
            commit("b", None),
            commit("a", Some(2)),
            commit("a", None),
        ];
        let starts =
            |ordered: Vec<Write>| ordered.iter().map(|write| write.start).collect::<Vec<_>>();
        assert_eq!(order(&writes, &commits).map(starts), Ok(vec![1, 3, 5, 7]));
    }

    #[test]
    fn a_row_that_was_deleted_with_another_one_is_deleted_by_that_write() {
        let insert = write("a", 1, Some(1), Some(Answer::Done));
        let of_parent = write("b", 3, None, None);
        let deleted = Commit {
            cause: Some(of_parent.clone()),
            ..commit("b", None)
        };
        let ordered = order(from_ref(&insert), &[commit("a", Some(1)), deleted]);
        assert_eq!(ordered, Ok(vec![insert, of_parent]));
    }

    #[test]
    fn acknowledged_write_that_is_not_recorded_is_lost() {
        for lost in [Some(1), None] {
            let lost = write("a", 1, lost, Some(Answer::Done));
            assert_eq!(order(from_ref(&lost), &[]), Err(vec![Fault::Lost(lost)]));
        }
    }

    #[test]
    fn refused_write_that_is_recorded_is_a_ghost() {
        let ghost = write("a", 1, Some(1), Some(Answer::Refused));
        let faults = order(from_ref(&ghost), &[commit("a", Some(1))]);
        assert_eq!(faults, Err(vec![Fault::Ghost(ghost)]));
    }

    #[test]
    fn change_that_nobody_asked_for_or_that_happened_twice_is_found() {
        let once = write("a", 1, Some(1), Some(Answer::Done));
        let deleted = write("a", 2, None, Some(Answer::Refused));
        let twice = [commit("a", Some(1)), commit("a", Some(1))];
        let unasked = |commit: &Commit| Err(vec![Fault::Unasked(commit.clone())]);
        assert_eq!(order(&[once], &twice), unasked(&twice[1]));
        let delete = commit("a", None);
        assert_eq!(order(&[deleted], from_ref(&delete)), unasked(&delete));
    }
}
