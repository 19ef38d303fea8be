//! The checks of the fuzzer (`fuzz/checks.rs`), each on a bounded number of inputs: what is kept in `fuzz/seeds`, changed in several ways,
//! and random bytes.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};

#[path = "../../fuzz/checks.rs"]
mod checks;

/// How many changed or random inputs a check gets.
const CASES: u32 = 2_000;

/// How an input is made of a kept one.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let at = |place: &usize| place % (length + 1);
        match self {
            Self::Set(place, byte) => {
                if let Some(found) = bytes.get_mut(at(place)) {
                    *found = *byte;
                }
            }
            Self::Flip(place, bit) => {
                if let Some(found) = bytes.get_mut(at(place)) {
                    *found ^= 1 << bit;
                }
            }
            Self::Insert(place, more) => {
                let place = at(place);
                bytes.splice(place..place, more.iter().copied());
            }
            Self::Remove(place, count) => {
                let place = at(place);
                bytes.drain(place..length.min(place + count));
            }
            Self::Repeat(place, count, times) => {
                let place = at(place);
                let part = bytes[place..length.min(place + count)].to_vec();
                bytes.splice(place..place, part.repeat(*times));
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<usize>();
    let more = prop::collection::vec(any::<u8>(), 1..8);
    prop_oneof![
        3 => (place, any::<u8>()).prop_map(|(place, byte)| Change::Set(place, byte)),
        3 => (place, 0..8_u8).prop_map(|(place, bit)| Change::Flip(place, bit)),
        2 => (place, more).prop_map(|(place, more)| Change::Insert(place, more)),
        2 => (place, 1..16_usize).prop_map(|(place, count)| Change::Remove(place, count)),
        1 => (place, 1..9_usize, 1..300_usize)
            .prop_map(|(place, count, times)| Change::Repeat(place, count, times)),
    ]
}

/// Returns the kept inputs of a check.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| fs::read(path).unwrap())
        .collect()
}

/// Gives a check its inputs. Returns one with which it fails.
fn failure(kept: &[Vec<u8>], check: fn(&[u8])) -> Option<Vec<u8>> {
    let holds = |bytes: &[u8]| catch_unwind(AssertUnwindSafe(|| check(bytes))).is_ok();
    if let Some(failing) = kept.iter().find(|bytes| !holds(bytes)) {
        return Some(failing.clone());
    }
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let random = prop::collection::vec(any::<u8>(), 0..200);
    let changes = prop::collection::vec(change(), 1..6);
    let kept = kept.to_vec();
    let inputs = (any::<prop::sample::Index>(), changes, random).prop_map(
        move |(index, changes, random)| {
            // One in four is random from its beginning.
            let mut bytes = match index.index(kept.len() * 4 / 3 + 1) {
                at if at < kept.len() => kept[at].clone(),
                _ => random,
            };
            for change in changes {
                change.make(&mut bytes);
            }
            bytes
        },
    );
    let found = TestRunner::new(config).run(&inputs, |bytes| match holds(&bytes) {
        true => Ok(()),
        false => Err(TestCaseError::fail("the check has failed")),
    });
    match found {
        Ok(()) => None,
        Err(TestError::Fail(_, bytes)) => Some(bytes),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

macro_rules! checks {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            let kept = seeds(stringify!($name));
            assert!(kept.len() >= 3, "few inputs are kept");
            assert_eq!(failure(&kept, checks::$name), None);
        })*
    };
}

checks!(entry, depth, seal, replies, family, journal, letter);

/// A check that is wrong is found to be, and a kept input that it fails with first.
#[test]
fn a_wrong_check_is_found() {
    let kept = seeds("entry");
    let wrong = |bytes: &[u8]| assert!(bytes.len() < 150, "an entry may be longer");
    let found = failure(&[kept[0].clone()], wrong);
    assert!(found.is_some_and(|bytes| bytes.len() >= 150));
    let never = |bytes: &[u8]| assert!(bytes.is_empty(), "there are inputs");
    assert_eq!(failure(&kept, never), Some(kept[0].clone()));
}
