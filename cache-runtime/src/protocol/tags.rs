//! Tags: what an invalidation of many entries covers, without touching any of them. Pure functions, no I/O.
//!
//! Entries with the same tag are invalidated together. An entity with tags has a clock, which counts invalidations, and
//! remembers for each tag when it was last invalidated. An entry remembers the time of the clock at which its load began
//! ([`Stamp`]).
//!
//! 1. A load reads the clock before it reads the database. Its entry gets that stamp.
//! 2. An invalidation of a tag ([`TagClock::invalidate`]) advances the clock, and marks the tag with the new time.
//! 3. A read gets the clock with the entry ([`judge`]). If the clock has not moved since the stamp, nothing was invalidated,
//!    and the entry is served.
//! 4. Otherwise the marks of the entry's own tags are compared with its stamp ([`judge_marks`]). If none is later, the entry is
//!    served, and gets the time of the comparison as its new stamp.
//!
//! The number of marks is limited. When there are too many, the oldest half is dropped, and the latest of these times becomes
//! the floor: an entry from before the floor may have lost a mark, so it is not served.
//!
//! Invariant: a clock that was lost is never continued. Its successor has another incarnation, and entries of another
//! incarnation are not served.
//! Invariant: a stamp may be earlier than the load of its entry, never later. An early stamp only costs a comparison.
//! Not here: how a store keeps the clock (`store/memory/tags`, `store/redis/tags`), and which tags an entry has (`entity`).
//!
//! A clock per group and a mark per tag are known from `FusionCache`'s tagging; marks that are times of day are valid again
//! after an eviction, which the incarnation and the floor exclude here.

use std::{collections::BTreeMap, fmt};

/// How many tags are remembered, at most. More are dropped by raising the floor.
pub const MAX_MARKS: usize = 4_096;

/// A tag, as a hash of its text. Two texts with one hash are invalidated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

impl Tag {
    /// Returns the tag with this text: its FNV-1a hash with 64 bits, as in `fingerprint`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut hash = 0xCBF2_9CE4_8422_2325;
        for byte in text.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        Self(hash)
    }
}

/// Collects the tags of a row. Called by generated code.
#[derive(Clone, Debug, Default)]
pub struct Tags(Vec<Tag>);

impl Tags {
    /// Adds the tag with this text. Called by generated code.
    #[doc(hidden)]
    pub fn add(&mut self, text: &str) {
        self.0.push(Tag::new(text));
    }

    /// Returns the tags.
    #[must_use]
    pub fn as_slice(&self) -> &[Tag] {
        &self.0
    }
}

/// A tag as an entity declares it: the texts before, between and after its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagPattern(&'static [&'static str]);

impl TagPattern {
    /// Returns a pattern of at least one text. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(texts: &'static [&'static str]) -> Self {
        Self(texts)
    }

    /// Returns whether some row could have this tag.
    #[must_use]
    pub fn matches(&self, tag: &str) -> bool {
        let (Some((first, [middle @ .., last])), true) = (self.0.split_first(), self.0.len() > 1)
        else {
            return self.0 == [tag];
        };
        let Some(mut rest) = tag.strip_prefix(first) else {
            return false;
        };
        for text in middle {
            match rest.split_once(text) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("{..}"))
    }
}

/// A time of one clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Which clock: a random number that no other clock has.
    pub incarnation: u64,
    /// How often it had advanced.
    pub time: u64,
}

/// What a reader sees of a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// The time.
    pub now: Stamp,
    /// Entries with an earlier stamp may have lost a mark.
    pub floor: u64,
}

/// What a reader may conclude from a stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No tag of the entry was invalidated.
    Current,
    /// Some tag was invalidated: compare the marks of the entry's own.
    Unclear,
    /// A tag of the entry was invalidated, or that cannot be excluded.
    Outdated,
}

/// Judges an entry by its stamp and a reading of the clock. Both were asked for after the read began, in any order: an entry
/// that is later than the reading was loaded after the read began.
#[must_use]
pub fn judge(stamp: Option<Stamp>, clock: Option<&Reading>) -> Verdict {
    match (stamp, clock) {
        (Some(stamp), Some(clock)) if stamp.incarnation == clock.now.incarnation => {
            if stamp.time < clock.floor {
                Verdict::Outdated
            } else if stamp.time >= clock.now.time {
                Verdict::Current
            } else {
                Verdict::Unclear
            }
        }
        // Without a stamp, nothing says when it was loaded. Without a clock, what was invalidated is lost.
        _ => Verdict::Outdated,
    }
}

/// Judges an entry by its stamp, a reading, and the times of its own tags in the same reading.
#[must_use]
pub fn judge_marks(stamp: Option<Stamp>, clock: Option<&Reading>, marks: &[u64]) -> Verdict {
    match (judge(stamp, clock), stamp) {
        (Verdict::Unclear, Some(stamp)) if marks.iter().all(|mark| *mark <= stamp.time) => {
            Verdict::Current
        }
        (Verdict::Unclear, _) => Verdict::Outdated,
        (verdict, _) => verdict,
    }
}

/// The clock of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagClock {
    incarnation: u64,
    time: u64,
    floor: u64,
    marks: BTreeMap<Tag, u64>,
}

impl TagClock {
    /// Starts a clock.
    #[must_use]
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            time: 0,
            floor: 0,
            marks: BTreeMap::new(),
        }
    }

    /// Returns what a reader sees.
    #[must_use]
    pub fn reading(&self) -> Reading {
        Reading {
            now: Stamp {
                incarnation: self.incarnation,
                time: self.time,
            },
            floor: self.floor,
        }
    }

    /// Returns when each tag was last invalidated. Zero: not since the floor.
    #[must_use]
    pub fn marks(&self, tags: &[Tag]) -> Vec<u64> {
        let marks = tags.iter().map(|tag| self.marks.get(tag).copied());
        marks.map(Option::unwrap_or_default).collect()
    }

    /// Invalidates the entries with one of these tags.
    pub fn invalidate(&mut self, tags: &[Tag], max_marks: usize) {
        self.time += 1;
        for tag in tags {
            self.marks.insert(*tag, self.time);
        }
        if self.marks.len() > max_marks {
            self.drop_oldest();
        }
    }

    /// Invalidates all entries.
    pub fn invalidate_all(&mut self) {
        self.time += 1;
        self.floor = self.time;
        self.marks.clear();
    }

    /// Drops the oldest half of the marks, and those of the same time.
    fn drop_oldest(&mut self) {
        let mut times: Vec<_> = self.marks.values().copied().collect();
        times.sort_unstable();
        let last = times[(times.len() - 1) / 2];
        self.marks.retain(|_, time| *time > last);
        self.floor = self.floor.max(last);
    }

    /// Returns the number of marks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Returns whether there are no marks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(clock: &TagClock) -> Option<Stamp> {
        Some(clock.reading().now)
    }

    /// The verdict on an entry with these tags.
    fn of(clock: &TagClock, stamp: Option<Stamp>, tags: &[&str]) -> Verdict {
        let tags: Vec<_> = tags.iter().map(|text| Tag::new(text)).collect();
        judge_marks(stamp, Some(&clock.reading()), &clock.marks(&tags))
    }

    #[test]
    fn an_invalidation_covers_its_tag_and_no_other() {
        let mut clock = TagClock::new(1);
        let before = stamp(&clock);
        assert_eq!(judge(before, Some(&clock.reading())), Verdict::Current);
        clock.invalidate(&[Tag::new("a")], 10);
        assert_eq!(judge(before, Some(&clock.reading())), Verdict::Unclear);
        assert_eq!(of(&clock, before, &["b", "a"]), Verdict::Outdated);
        assert_eq!(of(&clock, before, &["b"]), Verdict::Current);
        assert_eq!(of(&clock, before, &[]), Verdict::Current);
        let after = stamp(&clock);
        assert_eq!(of(&clock, after, &["a"]), Verdict::Current);
        clock.invalidate(&[Tag::new("b")], 10);
        assert_eq!(of(&clock, after, &["a"]), Verdict::Current);
        assert_eq!(of(&clock, before, &["a"]), Verdict::Outdated);
    }

    #[test]
    fn everything_is_covered_without_a_mark() {
        let mut clock = TagClock::new(1);
        let before = stamp(&clock);
        clock.invalidate(&[Tag::new("a")], 10);
        clock.invalidate_all();
        assert!(clock.is_empty());
        assert_eq!(of(&clock, before, &[]), Verdict::Outdated);
        assert_eq!(of(&clock, stamp(&clock), &["a"]), Verdict::Current);
    }

    #[test]
    fn an_entry_whose_mark_may_have_been_dropped_is_outdated() {
        let mut clock = TagClock::new(1);
        let mut stamps = Vec::new();
        for number in 0..10 {
            stamps.push((number, stamp(&clock)));
            clock.invalidate(&[Tag::new(&number.to_string())], 4);
            assert!(clock.len() <= 4);
        }
        let dropped = clock.reading().floor;
        assert!(dropped > 0);
        for (number, stamp) in stamps {
            let own = number.to_string();
            assert_eq!(of(&clock, stamp, &[&own]), Verdict::Outdated, "{number}");
            let expected = match stamp.is_some_and(|stamp| stamp.time < dropped) {
                true => Verdict::Outdated,
                false => Verdict::Current,
            };
            assert_eq!(of(&clock, stamp, &["other"]), expected, "{number}");
        }
    }

    #[test]
    fn many_tags_at_once_are_dropped_at_once() {
        let mut clock = TagClock::new(1);
        let before = stamp(&clock);
        let many: Vec<_> = (0..100)
            .map(|number| Tag::new(&number.to_string()))
            .collect();
        clock.invalidate(&many, 4);
        assert!(clock.is_empty());
        assert_eq!(of(&clock, before, &["other"]), Verdict::Outdated);
        assert_eq!(of(&clock, stamp(&clock), &["other"]), Verdict::Current);
    }

    #[test]
    fn nothing_of_a_lost_clock_is_served() {
        let old = stamp(&TagClock::new(1));
        let new = TagClock::new(2);
        assert_eq!(judge(old, Some(&new.reading())), Verdict::Outdated);
        assert_eq!(judge(old, None), Verdict::Outdated);
        assert_eq!(judge(None, Some(&new.reading())), Verdict::Outdated);
    }

    #[test]
    fn an_entry_that_is_later_than_the_reading_is_served() {
        let mut clock = TagClock::new(1);
        let reading = clock.reading();
        clock.invalidate(&[Tag::new("a")], 10);
        assert_eq!(judge(stamp(&clock), Some(&reading)), Verdict::Current);
    }

    #[test]
    fn a_pattern_matches_the_tags_that_its_rows_can_have() {
        let matches = |texts, tag| TagPattern::new(texts).matches(tag);
        assert!(matches(&["catalog"], "catalog"));
        assert!(!matches(&["catalog"], "catalogue"));
        assert!(matches(&["country:", ""], "country:DE"));
        assert!(matches(&["country:", ""], "country:"));
        assert!(!matches(&["country:", ""], "contry:DE"));
        assert!(matches(&["", "/", "/x"], "a/b/x"));
        assert!(!matches(&["", "/", "/x"], "a-b/x"));
        assert_eq!(
            TagPattern::new(&["country:", ""]).to_string(),
            "country:{..}"
        );
    }

    #[test]
    fn texts_are_hashed_as_others_hash_them() {
        assert_ne!(Tag::new("country:DE"), Tag::new("country:DK"));
        // The published value of FNV-1a for "a".
        assert_eq!(Tag::new("a"), Tag(0xAF63_DC4C_8601_EC8C));
    }
}
