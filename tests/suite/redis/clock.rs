//! The script that changes the clock of tags implements the rules of `protocol/tags.rs`: random sequences of steps run with both.
//! After every step, the test compares what a reader sees, the marks, and how many there are.

use larder::{
    store::redis::script_text,
    tags::{Changed, OpenWrite, Reading, Tag, TagClock},
    token::Token,
};
use proptest::prelude::*;
use redis::{Commands, Connection, Script};

use crate::world::{redis_url, unique};

/// So few that marks are dropped.
const MAX_MARKS: usize = 4;
const TAGS: u64 = 8;
/// The present of the model. No write that is begun for longer ends during the test.
const NOW_MS: u64 = 1_000;
const LONG_MS: u64 = 1_000_000;

#[derive(Clone, Debug)]
enum Step {
    Invalidate(Vec<u64>),
    InvalidateAll,
    /// For a long time, or for none.
    Begin {
        write: u64,
        tags: Option<Vec<u64>>,
        is_long: bool,
    },
    End {
        write: u64,
        tags: Option<Vec<u64>>,
    },
    Expire,
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    let tags = || prop::collection::vec(0..TAGS, 1..4);
    let some = || prop::option::weighted(0.8, tags());
    prop_oneof![
        6 => tags().prop_map(Step::Invalidate),
        1 => Just(Step::InvalidateAll),
        4 => (0..3_u64, some(), any::<bool>())
            .prop_map(|(write, tags, is_long)| Step::Begin { write, tags, is_long }),
        4 => (0..3_u64, some()).prop_map(|(write, tags)| Step::End { write, tags }),
        1 => Just(Step::Expire),
        1 => Just(Step::Lose),
    ]
}

fn changed(tags: Option<&Vec<u64>>) -> Changed {
    match tags {
        Some(tags) => Changed::Tags(tags.iter().map(|tag| Tag(*tag)).collect()),
        None => Changed::All,
    }
}

/// Both sides of the comparison.
struct Bench {
    redis: Connection,
    key: String,
    model: Option<TagClock>,
}

impl Bench {
    fn open() -> Self {
        let client = redis::Client::open(redis_url()).expect("the URL is valid");
        Self {
            redis: client.get_connection().expect("Redis is there"),
            key: unique("clock"),
            model: None,
        }
    }

    /// Runs the script. Without tags, all rows are changed.
    fn script(&mut self, name: &str, write: Option<u64>, ttl_ms: u64, changed: &Changed) {
        let script = Script::new(&script_text("change_clock").expect("the script exists"));
        let mut invocation = script.key(&self.key);
        let write = write.map_or(Vec::new(), |write| Token::numbered(write).0.to_vec());
        invocation
            .arg(&[1_u8; 8])
            .arg(MAX_MARKS)
            .arg(name)
            .arg(write)
            .arg(ttl_ms);
        match changed {
            Changed::All => {
                invocation.arg(1);
            }
            Changed::Tags(tags) => {
                invocation.arg(0);
                for tag in tags {
                    invocation.arg(&tag.0.to_be_bytes());
                }
            }
        }
        let () = invocation.invoke(&mut self.redis).expect("the script runs");
    }

    fn run(&mut self, step: &Step) {
        // Each run of the script forgets what has expired.
        if let Some(model) = &mut self.model
            && !matches!(step, Step::Lose)
        {
            model.expire(NOW_MS);
        }
        let nothing = Changed::Tags(Vec::new());
        match step {
            Step::Invalidate(tags) => {
                let changed = changed(Some(tags));
                self.script("", None, 0, &changed);
                self.clock().invalidate(&changed, MAX_MARKS);
            }
            Step::InvalidateAll => {
                self.script("", None, 0, &Changed::All);
                self.clock().invalidate(&Changed::All, MAX_MARKS);
            }
            Step::Begin {
                write,
                tags,
                is_long,
            } => {
                let ttl_ms = if *is_long { LONG_MS } else { 0 };
                let changed = changed(tags.as_ref());
                self.script("begin", Some(*write), ttl_ms, &changed);
                let write = OpenWrite {
                    token: Token::numbered(*write),
                    until_ms: NOW_MS + ttl_ms,
                    changed,
                };
                self.clock().announce(write, MAX_MARKS);
            }
            Step::End { write, tags } => {
                let changed = changed(tags.as_ref());
                self.script("end", Some(*write), 0, &changed);
                let write = Token::numbered(*write);
                self.clock().end(write, &changed, MAX_MARKS);
            }
            Step::Expire => self.script("expire", None, 0, &nothing),
            Step::Lose => {
                let () = self.redis.del(&self.key).expect("the command runs");
                self.model = None;
            }
        }
        self.compare(step);
    }

    fn clock(&mut self) -> &mut TagClock {
        let incarnation = u64::from_le_bytes([1; 8]);
        self.model.get_or_insert_with(|| TagClock::new(incarnation))
    }

    fn compare(&mut self, step: &Step) {
        let tags: Vec<_> = (0..TAGS).map(Tag).collect();
        let mut command = redis::cmd("HMGET");
        command.arg(&self.key).arg("c").arg("o");
        for tag in &tags {
            command.arg(&tag.0.to_be_bytes());
        }
        let fields: Vec<Option<Vec<u8>>> =
            command.query(&mut self.redis).expect("the command runs");
        let count: usize = self.redis.hlen(&self.key).expect("the command runs");
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let Some(model) = &self.model else {
            assert_eq!(fields[0], None, "{step:?}");
            return;
        };
        let Reading { now, floor, open } = model.reading();
        let clock = fields[0].as_ref().expect("there is a clock");
        let numbers: Vec<_> = clock.chunks(8).map(number).collect();
        assert_eq!(numbers, [now.incarnation, now.time, floor], "{step:?}");
        let marks: Vec<_> = fields[2..]
            .iter()
            .map(|mark| mark.as_deref().map_or(0, number))
            .collect();
        assert_eq!(marks, model.marks(&tags), "{step:?}");
        let fixed = 1 + usize::from(fields[1].is_some());
        assert_eq!(count - fixed, model.len(), "{step:?}");
        let expected: Vec<u8> = open.iter().flat_map(written).collect();
        let open = fields[1].clone().unwrap_or_default();
        assert_eq!(without_names(&open), expected, "{step:?}");
    }
}

/// The tags of an open write as they are in the hash, with their number.
fn written(changed: &Changed) -> Vec<u8> {
    let tags = match changed {
        Changed::Tags(tags) => tags.clone(),
        Changed::All => Vec::new(),
    };
    let count = u32::try_from(tags.len()).expect("they are few");
    let tags = tags.iter().flat_map(|tag| tag.0.to_be_bytes());
    count.to_le_bytes().into_iter().chain(tags).collect()
}

/// The open writes without their tokens and times.
fn without_names(mut open: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !open.is_empty() {
        let count = u32::from_le_bytes(open[24..28].try_into().expect("four bytes"));
        let end = 28 + 8 * usize::try_from(count).expect("they are few");
        all.extend_from_slice(&open[24..end]);
        open = &open[end..];
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_script_and_the_rules_are_one(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::open();
        for step in &steps {
            bench.run(step);
        }
    }
}
