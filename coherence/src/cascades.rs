//! Which delete of a parent deleted a child, in the record of a database that deletes children with their parents.
//! A child that is deleted so has no write of its own, and still must not be read any more when the parent's delete has returned.
//! 1. The record has a line for each child that was deleted, and then one for its parent, by the same worker: the triggers are such
//!    that those of the children run first. 2. So the parent's next line is the delete that the child was deleted with.
//!
//! Invariant: a worker deletes one parent one at a time, and deletes no child by itself. Without that, two deletes could not be
//! told apart.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    commits::Commit,
    history::{Series, Write, parent},
    options::{Kin, of_table, table},
};

/// The changes of each row, in the order of the record.
pub type Commits = BTreeMap<Series, Vec<Commit>>;

/// The place of a change: the row, and the number among its changes.
type Place = (Series, usize);

/// Which deletes of parents the deletes of children belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cascades {
    /// By child: its deletes, and the delete of the parent of each.
    causes: BTreeMap<Series, Vec<(usize, Place)>>,
}

/// Divides a record by rows.
#[must_use]
pub fn divide(record: Vec<(Series, Commit)>) -> (Commits, Cascades) {
    let mut commits = Commits::new();
    let mut cascades = Cascades::default();
    // Deletes of children whose parent's line has not come, by the worker and the parent.
    let mut open: HashMap<(Arc<str>, Series), Vec<Place>> = HashMap::new();
    for (series, commit) in record {
        let of_row = commits.entry(series.clone()).or_default();
        let place = (series.clone(), of_row.len());
        if commit.value.is_none() {
            match parent_of(&series) {
                Some(parent) => {
                    let deleted = open.entry((Arc::clone(&commit.by), parent)).or_default();
                    deleted.push(place);
                }
                None => {
                    let deleted = open.remove(&(Arc::clone(&commit.by), series));
                    for (child, number) in deleted.unwrap_or_default() {
                        let causes = cascades.causes.entry(child).or_default();
                        causes.push((number, place.clone()));
                    }
                }
            }
        }
        of_row.push(commit);
    }
    (commits, cascades)
}

impl Cascades {
    /// Names the writes that deleted a child, which are those of its parent. `ordered`: the writes of the parents, in the order
    /// of their commits.
    pub fn name(
        &self,
        series: &Series,
        commits: &mut [Commit],
        ordered: &BTreeMap<Series, Vec<Write>>,
    ) {
        for (number, (parent, place)) in self.causes.get(series).into_iter().flatten() {
            let of_parent = ordered.get(parent);
            commits[*number].cause = of_parent.and_then(|writes| writes.get(*place).cloned());
        }
    }
}

/// Whether the rows that belong to this one are deleted with it.
#[must_use]
pub fn is_parent((name, _): &Series) -> bool {
    matches!(of_table(name), Some((_, Kin::Parent)))
}

/// The parent of a row that is a child.
fn parent_of((name, id): &Series) -> Option<Series> {
    match of_table(name)? {
        (strategy, Kin::Child) => Some((Arc::from(table(strategy, Kin::Parent)), parent(*id))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, PARENTS, Value, Verb};

    fn line(table: &str, id: i64, value: Value, by: &str) -> (Series, Commit) {
        let commit = Commit {
            value,
            by: by.into(),
            cause: None,
        };
        ((table.into(), id), commit)
    }

    fn delete(by: &str, start: u64) -> Write {
        Write {
            start,
            answer: Some((start + 1, Answer::Done)),
            verb: Verb::Delete,
            value: None,
            by: by.into(),
        }
    }

    /// Two children are deleted by one worker with their parent, one of them again by another worker, and one with another
    /// parent.
    #[test]
    fn children_are_deleted_by_the_next_delete_of_their_parent_by_the_same_worker() {
        let (one, two, other) = (1, 1 + PARENTS, 2);
        let record = vec![
            line("aside_parent", 1, Some(7), "a"),
            line("aside_child", one, None, "a"),
            line("aside_child", other, None, "b"),
            line("aside_child", two, None, "a"),
            line("aside_parent", 2, None, "b"),
            line("aside_parent", 1, None, "a"),
            line("aside_child", one, Some(8), "a"),
            line("aside_child", one, None, "b"),
            line("aside_parent", 1, None, "b"),
        ];
        let (mut commits, cascades) = divide(record);
        let parent = |id| (Arc::from("aside_parent"), id);
        let written = Write {
            value: Some(7),
            verb: Verb::Insert,
            ..delete("a", 1)
        };
        let (first, second, elsewhere) = (delete("a", 3), delete("b", 9), delete("b", 5));
        let ordered = BTreeMap::from([
            (parent(1), vec![written, first.clone(), second.clone()]),
            (parent(2), vec![elsewhere.clone()]),
        ]);
        let mut causes = |id| {
            let series = (Arc::from("aside_child"), id);
            let of_child = commits.get_mut(&series).unwrap();
            cascades.name(&series, of_child, &ordered);
            let causes = of_child.iter().map(|commit| commit.cause.clone());
            causes.collect::<Vec<_>>()
        };
        assert_eq!(causes(one), [Some(first.clone()), None, Some(second)]);
        assert_eq!(causes(two), [Some(first)]);
        assert_eq!(causes(other), [Some(elsewhere)]);
    }

    #[test]
    fn a_child_that_nobody_deleted_the_parent_of_has_no_cause() {
        let (commits, cascades) = divide(vec![
            line("aside_child", 1, None, "a"),
            line("aside_parent", 1, None, "b"),
            line("aside", 1, None, "a"),
        ]);
        assert_eq!(commits.len(), 3);
        assert_eq!(cascades, Cascades::default());
    }
}
