//! What a store knows of the entities over one table: the *family* of the table.
//!
//! An entity that no `same_table` names may be compiled into another program only. A write can be announced at it
//! nevertheless: the store has recorded how its keys begin, and what else a writer has to know ([`Shape`]).
//!
//! 1. Each claim of a repository ([`Claim`](super::claim::Claim)) records its entity. The answer has all other entities of the
//!    namespace over the same table, and how long ago each was first recorded, by the store's own clock.
//! 2. A writer announces its writes at them. Its reading is good for [`READ_FOR`]. So for that long, and until writes of that
//!    time have ended, some writer may not know of an entity that is new. Until then such an entity is not cached
//!    ([`Hold::For`]).
//! 3. An entity at which others cannot announce their writes is not cached beside them ([`Hold::Always`]).
//!
//! A program claims before a write if its reading is older than [`READ_FOR`], and a claim renews its record. So an entity whose
//! record is older than [`ACTIVE_FOR`] is not written now, and nobody waits for it. A record that is older than
//! [`FORGET_AFTER`] is dropped. [`record`] is the rule of a record; `bind.lua` implements it for Redis.
//!
//! A record is a claim of whoever can write to the store. So a moment that is still to come counts as now, a shape is of its own
//! namespace or none ([`Shape::is_of`]), the life of an intent is brought into [`INTENT_TTLS`], and beyond [`MOST_MEMBERS`] there is
//! nothing to be cached ([`Hold::Crowded`]).
//! Not here: what a writer does with the shapes (`context/family`).

use std::{fmt::Write as _, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

/// How long a reading of the family is good for.
pub const READ_FOR: Duration = Duration::from_secs(10);
/// When a claim renews its record, in milliseconds.
pub const REFRESH_AFTER: u64 = 60_000;
/// How long an entity counts as written after its last claim, in milliseconds.
pub const ACTIVE_FOR: u64 = 5 * REFRESH_AFTER;
/// When a record is dropped that no repository has claimed, in milliseconds: seven days.
pub const FORGET_AFTER: u64 = 7 * 24 * 60 * REFRESH_AFTER;
/// How many other entities of one table are taken from the store.
pub const MOST_MEMBERS: usize = 256;
/// How long the intent of a recorded entity may live, in milliseconds: from what the attribute asks for at least, to a day.
pub const INTENT_TTLS: RangeInclusive<u64> = 2_000..=24 * 60 * REFRESH_AFTER;

/// What others need to announce a write at an entity without its type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The name of the entity.
    pub entity: String,
    /// What the keys of its rows begin with.
    pub prefix: String,
    /// The columns of its id, and a hash of how serde reads it.
    pub id: String,
    /// Whether it has tags, and so a clock.
    #[serde(default)]
    pub tags: bool,
    /// Whether it has lookups.
    #[serde(default)]
    pub lookups: bool,
    /// Whether cached queries may depend on its rows.
    #[serde(default)]
    pub queries: bool,
    /// Whether it is only read.
    #[serde(default)]
    pub read_only: bool,
    /// Whether its writes are queued.
    #[serde(default)]
    pub queued: bool,
    /// Its coherence: `ttl`, `lease` or `intent`.
    pub coherence: String,
    /// How long the intent of a write blocks a key, in milliseconds.
    pub intent_ttl_ms: u64,
    /// The entities that its `same_table` names.
    #[serde(default)]
    pub names: Vec<String>,
}

/// An entity of the family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded<S> {
    /// Its shape.
    pub shape: S,
    /// The time since it was first recorded, in milliseconds.
    pub age_ms: u64,
    /// The time since its record was renewed, in milliseconds.
    pub idle_ms: u64,
}

/// The answer of a store about the family of a table. Shapes are in the form in which they are recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// The time since the entity that claims was first recorded, in milliseconds. `None`: it is not recorded.
    pub own_age_ms: Option<u64>,
    /// The other entities.
    pub others: Vec<Recorded<String>>,
    /// How often the families of an in-process store had changed.
    pub changes: u64,
}

/// Whether an entity may be cached beside the others of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold<'a> {
    /// It may.
    None,
    /// Not for this time: until then, programs may write this other entity without knowing of it.
    For(Duration, &'a Shape),
    /// Not at all: the writes of this other entity cannot be announced at it.
    Always(&'a Shape),
    /// Not while there are so many that writers do not take them all.
    Crowded,
}

impl Shape {
    /// Returns the form in which a store keeps it.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("texts can be written as JSON")
    }

    /// Returns the shape that a store keeps. `None`: a later version has written it.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let mut shape: Self = serde_json::from_str(text).ok()?;
        let (least, most) = INTENT_TTLS.into_inner();
        shape.intent_ttl_ms = shape.intent_ttl_ms.clamp(least, most);
        Some(shape)
    }

    /// Returns whether its keys are those of its entity in a namespace. Nothing else must be touched for a record.
    #[must_use]
    pub fn is_of(&self, namespace: &str) -> bool {
        let start = self.prefix.strip_prefix('{').unwrap_or(&self.prefix);
        let rest = start
            .strip_prefix(namespace)
            .and_then(|rest| rest.strip_prefix(':'))
            .and_then(|rest| rest.strip_prefix(&*self.entity));
        rest.is_some_and(|rest| match self.queued {
            // The number of the partition follows.
            true => rest.starts_with('/'),
            false => matches!(rest, ":" | "}:"),
        })
    }

    /// Returns whether a program that writes this entity announces that at the other one by itself.
    #[must_use]
    pub fn names(&self, other: &Self) -> bool {
        self.names.contains(&other.entity)
    }

    /// Returns whether the keys of its rows can be told from those of a written row of another entity.
    #[must_use]
    pub fn has_keys_of(&self, writer: &Self) -> bool {
        !self.queued && !writer.queued && self.id == writer.id
    }

    /// Returns whether a write of another entity can be announced at this one: at its row, and at what its lookups found.
    #[must_use]
    pub fn can_be_told_by(&self, writer: &Self) -> bool {
        self.has_keys_of(writer) && (self.tags || !self.lookups)
    }

    /// Returns whether this entity may be cached. `own_age_ms`: the time since it was first recorded.
    #[must_use]
    pub fn hold<'a>(&self, own_age_ms: u64, others: &'a [Recorded<Self>]) -> Hold<'a> {
        // Rows with a `ttl` coherence may be old, and queued ones are in the store alone.
        if self.queued || self.coherence == "ttl" {
            return Hold::None;
        }
        if others.len() > MOST_MEMBERS {
            return Hold::Crowded;
        }
        let unaware = |other: &&Recorded<Self>| {
            let is_written = !other.shape.read_only && other.idle_ms <= ACTIVE_FOR;
            is_written && !other.shape.names(self)
        };
        let writers = || others.iter().filter(unaware);
        let deaf = writers().find(|other| !self.can_be_told_by(&other.shape));
        if let Some(other) = deaf {
            return Hold::Always(&other.shape);
        }
        // Every reading of an entity that was recorded later has this one.
        let earlier = writers().filter(|other| other.age_ms >= own_age_ms);
        let Some(slowest) = earlier.max_by_key(|other| other.shape.intent_ttl_ms) else {
            return Hold::None;
        };
        let known_after = READ_FOR + Duration::from_millis(slowest.shape.intent_ttl_ms);
        match known_after.checked_sub(Duration::from_millis(own_age_ms)) {
            Some(left) if !left.is_zero() => Hold::For(left, &slowest.shape),
            _ => Hold::None,
        }
    }
}

/// The records of one table after a claim, and the answer to it.
#[derive(Debug)]
pub struct Record {
    /// The records, if they have changed.
    pub changed: Option<String>,
    /// The answer.
    pub family: Family,
}

/// Records an entity among those of its table. `held`: a line for each: when it was first recorded and last claimed, in
/// milliseconds, and its shape. An entity is recorded only by a claim that succeeds (`is_claimed`).
#[must_use]
pub fn record(held: &str, own: &str, is_claimed: bool, now_ms: u64) -> Record {
    let (mut kept, mut family, mut is_changed) = (String::new(), Family::default(), false);
    let mut keep = |since: u64, last: u64, shape: &str| {
        writeln!(kept, "{since} {last} {shape}").expect("a text can be written to");
    };
    for line in held.split('\n') {
        let mut parts = line.splitn(3, ' ');
        let (Some(since), Some(last), Some(shape)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (Ok(since), Ok(last)) = (since.parse::<u64>(), last.parse::<u64>()) else {
            continue;
        };
        is_changed |= since.max(last) > now_ms;
        let (since, mut last) = (since.min(now_ms), last.min(now_ms));
        let idle_ms = now_ms.saturating_sub(last);
        if idle_ms > FORGET_AFTER {
            is_changed = true;
            continue;
        }
        let age_ms = now_ms.saturating_sub(since);
        if shape != own {
            family.others.push(Recorded {
                shape: shape.to_owned(),
                age_ms,
                idle_ms,
            });
        } else if idle_ms <= REFRESH_AFTER {
            family.own_age_ms = Some(age_ms);
        } else if is_claimed {
            (last, is_changed) = (now_ms, true);
            family.own_age_ms = Some(age_ms);
        }
        keep(since, last, shape);
    }
    if is_claimed && !own.is_empty() && family.own_age_ms.is_none() {
        is_changed = true;
        family.own_age_ms = Some(0);
        keep(now_ms, now_ms, own);
    }
    Record {
        changed: (is_changed && is_claimed).then_some(kept),
        family,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Policy, Strategy},
        protocol::key::KeySpace,
    };

    fn shape(entity: &str) -> Shape {
        Shape {
            entity: entity.to_owned(),
            prefix: format!("shop:{entity}:"),
            id: "id 1".to_owned(),
            tags: false,
            lookups: false,
            queries: false,
            read_only: false,
            queued: false,
            coherence: "intent".to_owned(),
            intent_ttl_ms: 5_000,
            names: Vec::new(),
        }
    }

    fn aged(shape: Shape, age_ms: u64) -> Vec<Recorded<Shape>> {
        vec![Recorded {
            shape,
            age_ms,
            idle_ms: 0,
        }]
    }

    #[test]
    fn an_entity_that_is_new_beside_a_writer_waits_until_all_know_it() {
        let (own, others) = (shape("A"), aged(shape("B"), 60_000));
        let left = |age_ms| match own.hold(age_ms, &others) {
            Hold::For(left, other) => (left.as_millis(), other.entity.clone()),
            hold => panic!("{hold:?}"),
        };
        assert_eq!(left(0), (15_000, "B".to_owned()));
        assert_eq!(left(14_999), (1, "B".to_owned()));
        assert_eq!(own.hold(15_000, &others), Hold::None);
        assert_eq!(
            own.hold(5, &aged(shape("B"), 4)),
            Hold::None,
            "the other one is newer"
        );
    }

    #[test]
    fn an_entity_whose_writers_name_it_or_that_has_none_does_not_wait() {
        let own = shape("A");
        let names = Shape {
            names: vec!["A".to_owned()],
            ..shape("B")
        };
        let reads = Shape {
            read_only: true,
            ..shape("B")
        };
        for other in [names, reads] {
            assert_eq!(own.hold(0, &aged(other, 9)), Hold::None);
        }
        let mut idle = aged(shape("B"), 9);
        idle[0].idle_ms = ACTIVE_FOR + 1;
        assert_eq!(own.hold(0, &idle), Hold::None);
        assert_eq!(own.hold(0, &[]), Hold::None);
    }

    #[test]
    fn an_entity_that_cannot_be_told_is_not_cached() {
        let never = |own: &Shape, other: Shape| {
            let others = aged(other, 1);
            matches!(own.hold(u64::MAX, &others), Hold::Always(_))
        };
        let with_lookups = Shape {
            lookups: true,
            ..shape("A")
        };
        assert!(never(&with_lookups, shape("B")));
        let with_clock = Shape {
            tags: true,
            ..with_lookups.clone()
        };
        assert!(!never(&with_clock, shape("B")));
        let by_mail = Shape {
            id: "mail 2".to_owned(),
            ..shape("B")
        };
        assert!(never(&shape("A"), by_mail));
        let queued = Shape {
            queued: true,
            ..shape("B")
        };
        assert!(never(&shape("A"), queued.clone()));
        assert!(!never(&queued, shape("A")), "its rows are in the store");
        let relaxed = Shape {
            coherence: "ttl".to_owned(),
            ..with_lookups
        };
        assert!(!never(&relaxed, shape("B")), "its rows may be old");
    }

    #[test]
    fn an_entity_beside_more_than_writers_take_is_not_cached() {
        let numbered = |number| {
            let reads = Shape {
                read_only: true,
                ..shape(&format!("R{number}"))
            };
            aged(reads, 1)
        };
        let mut others: Vec<_> = (0..MOST_MEMBERS).flat_map(numbered).collect();
        assert_eq!(shape("A").hold(9, &others), Hold::None);
        others.extend(numbered(MOST_MEMBERS));
        assert_eq!(shape("A").hold(9, &others), Hold::Crowded);
        let queued = Shape {
            queued: true,
            ..shape("A")
        };
        assert_eq!(queued.hold(9, &others), Hold::None);
    }

    #[test]
    fn a_record_is_kept_while_it_is_claimed() {
        let first = record("", "{a}", true, 1_000);
        assert_eq!(first.family.own_age_ms, Some(0));
        let held = first.changed.expect("it is new");
        let again = record(&held, "{a}", false, 3_000);
        assert_eq!(
            (again.changed, again.family.own_age_ms),
            (None, Some(2_000))
        );
        let later = 1_001 + REFRESH_AFTER;
        assert_eq!(record(&held, "{a}", false, later).family.own_age_ms, None);
        let renewed = record(&held, "{a}", true, later);
        assert_eq!(renewed.family.own_age_ms, Some(1 + REFRESH_AFTER));
        let renewed = renewed.changed.expect("it is renewed");
        let end = 1_001 + FORGET_AFTER;
        assert_eq!(record(&renewed, "{b}", true, end).family.others.len(), 1);
        let after = record(&held, "{b}", true, end);
        assert_eq!(after.family.others, []);
        assert_eq!(after.changed, Some(format!("{end} {end} {{b}}\n")));
    }

    #[test]
    fn a_shape_survives_the_store_and_a_later_form_is_ignored() {
        let own = shape("A");
        assert_eq!(Shape::decode(&own.encode()), Some(own));
        assert_eq!(Shape::decode("{\"entity\":\"A\"}"), None);
    }

    #[test]
    fn the_life_of_an_intent_is_brought_into_its_bounds() {
        let lives = [0, 1, 2_000, 5_000, 86_400_000, 86_400_001, u64::MAX];
        let read = lives.map(|intent_ttl_ms| {
            let claimed = Shape {
                intent_ttl_ms,
                ..shape("A")
            };
            Shape::decode(&claimed.encode()).unwrap().intent_ttl_ms
        });
        let (least, most) = INTENT_TTLS.into_inner();
        assert_eq!(read, [least, least, least, 5_000, most, most, most]);
    }

    #[test]
    fn a_shape_has_the_keys_of_its_entity_in_its_namespace() {
        let of = |prefix: &str, queued: bool| {
            let claimed = Shape {
                prefix: prefix.to_owned(),
                queued,
                ..shape("A")
            };
            claimed.is_of("shop")
        };
        for strategy in [Strategy::Aside, Strategy::WriteBehind] {
            for hash_tag in [false, true] {
                let policy = Policy {
                    strategy,
                    hash_tag,
                    ..Policy::DEFAULT
                };
                let keys = KeySpace::new("shop", "A", &policy);
                let prefix = std::str::from_utf8(keys.prefix()).unwrap();
                assert!(of(prefix, strategy == Strategy::WriteBehind), "{prefix}");
                assert!(!of(prefix, strategy != Strategy::WriteBehind), "{prefix}");
            }
        }
        for foreign in [
            "",
            ":",
            "shop:",
            "shop:A",
            "shop:B:",
            "shop:A:1:",
            "other:A:",
            "{shop}:A:",
        ] {
            assert!(!of(foreign, false), "{foreign}");
        }
    }

    #[test]
    fn a_moment_that_is_still_to_come_counts_as_now() {
        let held = format!("{} {} {{a}}\n", u64::MAX, u64::MAX - 1);
        let found = record(&held, "{b}", true, 5_000);
        let others = &found.family.others;
        assert_eq!((others[0].age_ms, others[0].idle_ms), (0, 0));
        let changed = found.changed.expect("it was not so");
        assert_eq!(changed, "5000 5000 {a}\n5000 5000 {b}\n");
        let renewed = record(&held, "{a}", true, 5_000);
        assert_eq!(renewed.changed.as_deref(), Some("5000 5000 {a}\n"));
    }
}
