//! The judge of queued writes on trial: what the database has of a row, made by hand, each rule broken once.

use larder_coherence::queue::{
    judge::{
        Change::{Gone, Row},
        Kept, Sort, judge,
    },
    log::{Account, Deed, FIRST_REFUSABLE, IDS_OF_WORKER, Read, Write},
};

const OWN: i64 = IDS_OF_WORKER + 1;
const REFUSABLE: i64 = IDS_OF_WORKER + FIRST_REFUSABLE;
const COUNTER: i64 = 1;

/// A write that was asked for at ten times its number and acknowledged five later.
fn done(number: i64, deed: Deed) -> Write {
    let asked = number.unsigned_abs() * 10;
    Write {
        number,
        deed,
        asked,
        acknowledged: Some(asked + 5),
    }
}

fn unanswered(number: i64, deed: Deed) -> Write {
    Write {
        acknowledged: None,
        ..done(number, deed)
    }
}

fn account(writes: &[Write]) -> Account {
    Account {
        writes: writes.to_vec(),
        ..Account::default()
    }
}

fn rows(count: i64) -> Account {
    let writes: Vec<_> = (1..=count).map(|number| done(number, Deed::Row)).collect();
    account(&writes)
}

fn read(start: u64, number: Option<i64>) -> Read {
    Read {
        start,
        end: start + 1,
        number,
    }
}

fn kept(changes: &[larder_coherence::queue::judge::Change], left: Option<i64>) -> Kept {
    Kept {
        changes: changes.to_vec(),
        left,
        dead: Vec::new(),
    }
}

fn sorts(id: i64, account: &Account, kept: &Kept) -> Vec<Sort> {
    let found = judge(id, account, kept);
    found.into_iter().map(|violation| violation.sort).collect()
}

#[track_caller]
fn good(id: i64, account: &Account, kept: &Kept) {
    assert_eq!(judge(id, account, kept), []);
}

#[test]
fn writes_may_be_left_out_for_later_ones_only() {
    good(OWN, &rows(3), &kept(&[Row(1), Row(3)], Some(3)));
    good(OWN, &rows(3), &kept(&[Row(3)], Some(3)));
    let missing = kept(&[Row(1), Row(2)], Some(2));
    assert_eq!(sorts(OWN, &rows(3), &missing), [Sort::Lost]);
    assert_eq!(sorts(OWN, &rows(3), &Kept::default()), [Sort::Lost]);
}

#[test]
fn write_without_an_answer_may_be_applied_or_not() {
    let writes = account(&[done(1, Deed::Row), unanswered(2, Deed::Row)]);
    good(OWN, &writes, &kept(&[Row(1)], Some(1)));
    good(OWN, &writes, &kept(&[Row(1), Row(2)], Some(2)));
    assert_eq!(sorts(OWN, &writes, &Kept::default()), [Sort::Lost]);
    let only = account(&[unanswered(1, Deed::Row)]);
    good(OWN, &only, &Kept::default());
}

#[test]
fn write_that_is_applied_twice_is_duplicated() {
    let twice = kept(&[Row(1), Row(2), Row(2)], Some(2));
    assert_eq!(sorts(OWN, &rows(2), &twice), [Sort::Duplicated]);
}

#[test]
fn write_that_is_applied_after_a_later_one_is_reordered() {
    let back = kept(&[Row(2), Row(1), Row(3)], Some(3));
    assert_eq!(sorts(OWN, &rows(3), &back), [Sort::Reordered]);
    let ends_so = kept(&[Row(2), Row(1)], Some(1));
    assert_eq!(
        sorts(OWN, &rows(2), &ends_so),
        [Sort::Reordered, Sort::Lost]
    );
}

#[test]
fn deletion_stands_in_the_order_too() {
    let writes = account(&[
        done(1, Deed::Row),
        done(2, Deed::Deletion),
        done(3, Deed::Row),
    ]);
    good(OWN, &writes, &kept(&[Row(1), Gone(1), Row(3)], Some(3)));
    let late = kept(&[Row(1), Row(3), Gone(3)], None);
    assert_eq!(sorts(OWN, &writes, &late), [Sort::Reordered, Sort::Lost]);
    let again = kept(&[Row(1), Gone(1), Row(1)], Some(1));
    assert_eq!(sorts(OWN, &writes, &again), [Sort::Reordered, Sort::Lost]);
    let ends = account(&[done(1, Deed::Row), done(2, Deed::Deletion)]);
    good(OWN, &ends, &kept(&[Row(1), Gone(1)], None));
    good(OWN, &ends, &Kept::default());
    let stays = kept(&[Row(1)], Some(1));
    assert_eq!(sorts(OWN, &ends, &stays), [Sort::Lost]);
}

#[test]
fn refused_write_is_a_dead_letter_unless_a_later_one_made_it_pointless() {
    let with = |dead: &[i64]| Kept {
        dead: dead.iter().copied().map(Some).collect(),
        ..kept(&[Row(1)], Some(1))
    };
    let last = account(&[done(1, Deed::Row), done(2, Deed::Poison)]);
    good(REFUSABLE, &last, &with(&[2]));
    assert_eq!(sorts(REFUSABLE, &last, &with(&[])), [Sort::Lost]);
    assert_eq!(sorts(REFUSABLE, &last, &with(&[2, 2])), [Sort::Duplicated]);
    assert_eq!(sorts(REFUSABLE, &last, &with(&[1, 2])), [Sort::Lost]);
    let overwritten = account(&[done(1, Deed::Poison), done(2, Deed::Row)]);
    good(REFUSABLE, &overwritten, &kept(&[Row(2)], Some(2)));
}

#[test]
fn denied_write_is_lost() {
    let denied = Account {
        denied: vec![(2, "not found".to_owned())],
        ..rows(1)
    };
    assert_eq!(sorts(OWN, &denied, &kept(&[Row(1)], Some(1))), [Sort::Lost]);
}

#[test]
fn read_finds_what_was_acknowledged_before_it() {
    let found = |start, number| {
        let reads = vec![read(start, number)];
        let account = Account { reads, ..rows(2) };
        sorts(OWN, &account, &kept(&[Row(2)], Some(2)))
    };
    assert_eq!(found(17, Some(1)), []);
    assert_eq!(found(17, Some(2)), []);
    assert_eq!(found(3, None), []);
    assert_eq!(found(26, Some(1)), [Sort::Lost]);
    assert_eq!(found(17, None), [Sort::Lost]);
}

#[test]
fn read_finds_no_less_than_an_earlier_one() {
    let writes = account(&[done(1, Deed::Row), unanswered(2, Deed::Row)]);
    let with = |reads: &[Read]| {
        let account = Account {
            reads: reads.to_vec(),
            ..writes.clone()
        };
        sorts(OWN, &account, &kept(&[Row(2)], Some(2)))
    };
    assert_eq!(with(&[read(30, Some(1)), read(40, Some(2))]), []);
    assert_eq!(
        with(&[read(30, Some(2)), read(40, Some(1))]),
        [Sort::Reordered]
    );
}

#[test]
fn counter_is_raised_once_by_each() {
    let raised = |number| done(number, Deed::Raise);
    let unknown = Write {
        number: 0,
        ..unanswered(9, Deed::Raise)
    };
    let writes = account(&[raised(1), raised(2), unknown]);
    good(COUNTER, &writes, &kept(&[Row(0), Row(2)], Some(2)));
    good(COUNTER, &writes, &kept(&[Row(0), Row(1), Row(3)], Some(3)));
    let less = kept(&[Row(0), Row(1)], Some(1));
    assert_eq!(sorts(COUNTER, &writes, &less), [Sort::Lost]);
    let more = kept(&[Row(0), Row(4)], Some(4));
    assert_eq!(sorts(COUNTER, &writes, &more), [Sort::Duplicated]);
    let again = kept(&[Row(0), Row(2), Row(2)], Some(2));
    assert_eq!(sorts(COUNTER, &writes, &again), [Sort::Duplicated]);
    let back = kept(&[Row(0), Row(2), Row(1), Row(2)], Some(2));
    assert_eq!(
        sorts(COUNTER, &writes, &back),
        [Sort::Reordered, Sort::Duplicated]
    );
    let one = account(&[raised(1), raised(1)]);
    assert_eq!(
        sorts(COUNTER, &one, &kept(&[Row(0), Row(2)], Some(2))),
        [Sort::Lost]
    );
}
