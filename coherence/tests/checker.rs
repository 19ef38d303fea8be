//! The judge on trial: histories made by hand, each rule broken once, and random ones against an exhaustive search.

use larder_coherence::{
    checker::{Loss, Verdict, Violation, check, check_lacks},
    history::{Answer, Lack, Origin, Read, Sought, Value, Verb, Write},
    random::Random,
};

fn read(start: u64, end: u64, value: Value) -> Read {
    Read {
        start,
        end,
        value,
        origin: Origin::Cache,
        by: "reader".into(),
    }
}

fn write(start: u64, end: u64, value: Value) -> Write {
    Write {
        start,
        answer: Some((end, Answer::Done)),
        verb: if value.is_some() {
            Verb::Save
        } else {
            Verb::Delete
        },
        value,
        by: "writer".into(),
    }
}

fn unanswered(start: u64, value: Value) -> Write {
    Write {
        answer: None,
        ..write(start, start, value)
    }
}

fn judged(reads: &[Read], writes: &[Write]) -> Vec<Violation> {
    check(reads, writes, &[]).violations
}

#[track_caller]
fn good(reads: &[Read], writes: &[Write]) {
    assert_eq!(judged(reads, writes), []);
    assert!(
        explained(reads, writes, Writes::AsGiven),
        "the search disagrees"
    );
}

#[track_caller]
fn bad(reads: &[Read], writes: &[Write]) -> Violation {
    let violations = judged(reads, writes);
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(
        !explained(reads, writes, Writes::AsGiven),
        "the search disagrees"
    );
    violations.into_iter().next().expect("there is one")
}

#[test]
fn reads_between_writes_and_beside_them_are_good() {
    good(
        &[
            read(0, 1, None),
            read(11, 19, Some(1)),
            read(21, 29, Some(1)),
            read(21, 29, Some(2)),
            read(31, 39, Some(2)),
            read(41, 49, Some(2)),
            read(41, 42, None),
            read(51, 59, None),
        ],
        &[
            write(10, 20, Some(1)),
            write(20, 30, Some(2)),
            write(40, 50, None),
        ],
    );
}

#[test]
fn read_of_what_a_returned_write_replaced_is_stale() {
    let stale = read(21, 22, Some(1));
    let violation = bad(
        std::slice::from_ref(&stale),
        &[write(0, 5, Some(1)), write(10, 20, Some(2))],
    );
    let expected = Violation::Stale {
        read: stale,
        saw: 1,
        missed: 2,
    };
    assert_eq!(violation, expected);
}

#[test]
fn absence_after_an_insert_has_returned_is_stale() {
    let violation = bad(&[read(21, 22, None)], &[write(10, 20, Some(1))]);
    assert!(matches!(
        violation,
        Violation::Stale {
            saw: 0,
            missed: 1,
            ..
        }
    ));
}

#[test]
fn deleted_row_after_the_delete_has_returned_is_stale() {
    let violation = bad(
        &[read(21, 22, Some(1))],
        &[write(0, 5, Some(1)), write(10, 20, None)],
    );
    assert!(matches!(
        violation,
        Violation::Stale {
            saw: 1,
            missed: 2,
            ..
        }
    ));
}

#[test]
fn write_that_returned_out_of_turn_makes_a_read_before_its_predecessor_stale() {
    // The second write waits for its answer for ever, the third has its own: who reads the first after that is late.
    let violation = bad(
        &[read(21, 22, Some(1))],
        &[
            write(0, 5, Some(1)),
            unanswered(6, Some(2)),
            write(10, 20, Some(3)),
        ],
    );
    assert!(matches!(
        violation,
        Violation::Stale {
            saw: 1,
            missed: 3,
            ..
        }
    ));
}

#[test]
fn read_of_a_write_that_has_not_begun_is_from_the_future() {
    let violation = bad(&[read(1, 9, Some(1))], &[write(10, 20, Some(1))]);
    assert!(matches!(
        violation,
        Violation::Future {
            saw: 1,
            missing: 1,
            ..
        }
    ));
}

#[test]
fn read_of_a_write_whose_predecessor_has_not_begun_is_from_the_future() {
    let violation = bad(
        &[read(1, 9, Some(2))],
        &[write(10, 20, Some(1)), write(0, 20, Some(2))],
    );
    assert!(matches!(
        violation,
        Violation::Future {
            saw: 2,
            missing: 1,
            ..
        }
    ));
}

#[test]
fn read_that_goes_back_behind_an_earlier_one_is_found_though_the_write_is_under_way() {
    let violation = bad(
        &[read(11, 12, Some(2)), read(13, 14, Some(1))],
        &[write(0, 5, Some(1)), write(10, 20, Some(2))],
    );
    assert!(matches!(
        violation,
        Violation::Backwards {
            saw: 1,
            earlier_saw: 2,
            ..
        }
    ));
}

#[test]
fn reads_that_overlap_may_see_a_write_in_either_order() {
    good(
        &[read(11, 13, Some(2)), read(13, 14, Some(1))],
        &[write(0, 5, Some(1)), write(10, 20, Some(2))],
    );
}

#[test]
fn absence_that_goes_back_behind_an_earlier_read_is_found() {
    let violation = bad(
        &[read(11, 12, Some(1)), read(13, 14, None)],
        &[write(10, 20, Some(1))],
    );
    assert!(matches!(violation, Violation::Backwards { saw: 0, .. }));
}

#[test]
fn absence_is_read_between_those_writes_that_fit() {
    let writes = [
        write(0, 100, Some(1)),
        write(0, 100, None),
        write(0, 100, Some(2)),
        write(0, 100, None),
    ];
    good(
        &[
            read(1, 2, None),
            read(3, 4, Some(1)),
            read(5, 6, None),
            read(7, 8, Some(2)),
            read(9, 10, None),
        ],
        &writes,
    );
    bad(
        &[read(3, 4, Some(2)), read(5, 6, None), read(7, 8, Some(2))],
        &writes,
    );
}

#[test]
fn value_that_was_never_committed_is_invented() {
    let violation = bad(&[read(1, 2, Some(9))], &[write(0, 3, Some(1))]);
    assert!(matches!(violation, Violation::Invented { .. }));
}

#[test]
fn write_of_unknown_outcome_may_be_seen_at_any_time_after_it_began() {
    good(
        &[
            read(11, 12, Some(1)),
            read(500, 501, Some(1)),
            read(502, 503, Some(2)),
        ],
        &[write(0, 5, Some(1)), unanswered(10, Some(2))],
    );
    let given_up = Write {
        answer: Some((12, Answer::Unknown)),
        ..unanswered(10, Some(2))
    };
    good(
        &[read(500, 501, Some(1))],
        &[write(0, 5, Some(1)), given_up],
    );
}

#[test]
fn writes_committed_against_the_clock_are_found() {
    let violation = bad(&[], &[write(10, 20, Some(1)), write(0, 5, Some(2))]);
    let expected = Violation::WriteOrder {
        first: 1,
        second: 2,
    };
    assert_eq!(violation, expected);
}

#[test]
fn lookup_misses_a_row_only_if_it_had_the_value_all_the_time() {
    // In list 1, in list 1 again, deleted, in list 2.
    let writes = [
        write(10, 20, Some(1)),
        write(30, 40, Some(4)),
        write(50, 60, None),
        write(70, 80, Some(5)),
    ];
    let missed = |start, end, sought| {
        let by = "reader".into();
        let lack = Lack {
            start,
            end,
            sought,
            by,
        };
        !check_lacks(&[lack], &writes).is_empty()
    };
    for (start, end, is_missed) in [
        (0, 15, false),
        (21, 29, true),
        (21, 45, true),
        (35, 49, true),
        (35, 55, false),
        (15, 25, false),
        (61, 69, false),
        (81, 99, false),
    ] {
        assert_eq!(
            missed(start, end, Sought::Shelf(1)),
            is_missed,
            "{start} to {end}"
        );
    }
    assert!(missed(21, 29, Sought::Value(1)));
    assert!(!missed(21, 35, Sought::Value(1)), "it may have changed");
    assert!(missed(81, 99, Sought::Value(5)) && missed(81, 99, Sought::Shelf(2)));
    assert!(!missed(81, 99, Sought::Value(4)));
}

#[test]
fn lost_announcement_excuses_going_back_while_its_write_is_under_way_and_nothing_else() {
    let writes = [write(0, 5, Some(1)), write(10, 20, Some(2))];
    let back = [read(11, 12, Some(2)), read(13, 14, Some(1))];
    let loss = |start, end| [Loss { start, end }];
    let excused = Verdict {
        violations: Vec::new(),
        excused: 1,
    };
    assert_eq!(check(&back, &writes, &loss(8, 11)), excused);
    assert_eq!(check(&back, &writes, &loss(8, 9)).excused, 0);
    assert_eq!(check(&back, &writes, &loss(21, 30)).excused, 0);
    let stale = [read(21, 22, Some(1))];
    assert_eq!(check(&stale, &writes, &loss(8, 30)).violations.len(), 1);
}

/// Whether the search must keep the writes in their given order.
#[derive(Clone, Copy, PartialEq)]
enum Writes {
    AsGiven,
    InAnyOrder,
}

/// Searches all orders of reads and writes for one that explains the history.
fn explained(reads: &[Read], writes: &[Write], order: Writes) -> bool {
    let spans: Vec<(u64, u64)> = reads
        .iter()
        .map(|read| (read.start, read.end))
        .chain(
            writes
                .iter()
                .map(|write| (write.start, write.returned().unwrap_or(u64::MAX))),
        )
        .collect();
    fn search(
        done: u32,
        state: Value,
        reads: &[Read],
        writes: &[Write],
        spans: &[(u64, u64)],
        order: Writes,
    ) -> bool {
        if done.count_ones() as usize == spans.len() {
            return true;
        }
        let left = |at: usize| done & (1 << at) == 0;
        let next_write = (reads.len()..spans.len()).find(|at| left(*at));
        (0..spans.len()).filter(|at| left(*at)).any(|at| {
            // Nothing else that is left may have ended before this began.
            let comes_next =
                (0..spans.len()).all(|other| !left(other) || spans[other].1 >= spans[at].0);
            let fits = match at.checked_sub(reads.len()) {
                None => reads[at].value == state,
                Some(_) => order == Writes::InAnyOrder || next_write == Some(at),
            };
            let then = at
                .checked_sub(reads.len())
                .map_or(state, |write| writes[write].value);
            comes_next && fits && search(done | 1 << at, then, reads, writes, spans, order)
        })
    }
    search(0, None, reads, writes, &spans, order)
}

/// A short history that is often good and often not.
fn random_history(random: &mut Random) -> (Vec<Read>, Vec<Write>) {
    let mut writes = Vec::new();
    let mut states = vec![None];
    for number in 1..=random.below(4) {
        let start = number * 3 + random.below(7);
        let value =
            (!random.per_mille(300)).then(|| i64::try_from(number).expect("a small number"));
        states.push(value);
        writes.push(if random.per_mille(150) {
            unanswered(start, value)
        } else {
            write(start, start + random.below(9), value)
        });
    }
    let reads = (0..random.below(5))
        .map(|_| {
            let start = random.below(20);
            read(start, start + random.below(6), *random.pick(&states))
        })
        .collect();
    (reads, writes)
}

#[test]
fn judge_and_exhaustive_search_agree_on_short_histories() {
    let mut random = Random::seeded(1);
    let mut counts = [0_u32; 2];
    for case in 0..60_000 {
        let (reads, writes) = random_history(&mut random);
        let accepted = judged(&reads, &writes).is_empty();
        counts[usize::from(accepted)] += 1;
        assert_eq!(
            accepted,
            explained(&reads, &writes, Writes::AsGiven),
            "case {case}: {reads:#?} {writes:#?}"
        );
        assert!(
            !accepted || explained(&reads, &writes, Writes::InAnyOrder),
            "case {case} is accepted and not linearizable: {reads:#?} {writes:#?}"
        );
    }
    assert!(
        counts.iter().all(|count| *count > 5_000),
        "one-sided: {counts:?}"
    );
}
