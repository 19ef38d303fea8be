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
//! A write of many rows, which knows their tags and not their ids, is open from its announcement before the commit
//! ([`TagClock::announce`]) until its end after it ([`TagClock::end`]). Both invalidate its tags. While it is open, no entry with one
//! of its tags is served or filled, and so no absence and no list.
//!
//! The number of marks is limited. When there are too many, the oldest half is dropped, and the latest of these times becomes
//! the floor: an entry from before the floor may have lost a mark, so it is not served.
//!
//! Invariant: a clock that was lost is never continued. Its successor has another incarnation, and entries of another
//! incarnation are not served.
//! Invariant: a write whose process has died stays open until its time is over. It has invalidated its tags before the commit, so
//! nothing from before it is served afterwards either.
//! Invariant: a stamp may be earlier than the load of its entry, never later. An early stamp only costs a comparison.
//! Not here: how a store keeps the clock (`store/memory/tags`, `store/redis/tags`), and which tags an entry has (`entity`).
//!
//! A clock per group and a mark per tag are known from `FusionCache`'s tagging; marks that are times of day are valid again
//! after an eviction, which the incarnation and the floor exclude here.

use std::{collections::BTreeMap, fmt};

use crate::protocol::token::Token;

/// How many tags are remembered, at most. More are dropped by raising the floor.
pub const MAX_MARKS: usize = 4_096;

/// How many tags an open write can have. One with more may change any row: every read of the entity would carry them.
pub const MAX_OPEN_TAGS: usize = 64;

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

    /// Returns the tag of what depends on the rows of an entity. The zero byte tells it from the tags of users.
    pub(crate) fn of_entity(entity: &str) -> Self {
        Self::new(&format!("\0{entity}"))
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

    /// Adds a tag.
    pub(crate) fn push(&mut self, tag: Tag) {
        self.0.push(tag);
    }

    /// Returns the tags.
    #[must_use]
    pub fn as_slice(&self) -> &[Tag] {
        &self.0
    }
}

/// A tag as an entity declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagPattern {
    /// The texts before, between and after its fields: at least one.
    texts: &'static [&'static str],
    /// Its fields, each with its column.
    fields: &'static [(&'static str, &'static str)],
}

impl TagPattern {
    /// Returns a pattern. There is one text more than there are fields. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        texts: &'static [&'static str],
        fields: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { texts, fields }
    }

    /// Returns whether this field, and no other, is a part of the tag.
    #[must_use]
    pub const fn is_of_field(&self, field: &str) -> bool {
        match self.fields {
            [(own, _)] => is_same(own.as_bytes(), field.as_bytes()),
            _ => false,
        }
    }

    /// Returns whether this column, and no other, is a part of the tag.
    pub(crate) fn is_of_column(&self, column: &str) -> bool {
        matches!(self.fields, [(_, own)] if *own == column)
    }

    /// Returns the column of its first field.
    pub(crate) fn column(&self) -> Option<&'static str> {
        self.fields.first().map(|(_, column)| *column)
    }

    /// Returns it as the attribute writes it, with the names of its fields.
    #[cfg(feature = "redis")]
    pub(crate) fn written(&self) -> String {
        let mut written = String::new();
        for (at, text) in self.texts.iter().enumerate() {
            written.push_str(text);
            if let Some((field, _)) = self.fields.get(at) {
                written.push_str(&format!("{{{field}}}"));
            }
        }
        written
    }

    /// Returns the tag of the rows with this text in its one field.
    pub(crate) fn with(&self, field: &str) -> Tag {
        Tag::new(&self.texts.join(field))
    }

    /// Returns whether some row could have this tag.
    #[must_use]
    pub fn matches(&self, tag: &str) -> bool {
        let (Some((first, [middle @ .., last])), true) =
            (self.texts.split_first(), self.texts.len() > 1)
        else {
            return self.texts == [tag];
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
        f.write_str(&self.texts.join("{..}"))
    }
}

/// Returns whether two texts are the same, also while a program is compiled.
pub(crate) const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// The time.
    pub now: Stamp,
    /// Entries with an earlier stamp may have lost a mark.
    pub floor: u64,
    /// What the open writes change. Empty, and without allocation, if there are none.
    pub open: Vec<Changed>,
}

impl Reading {
    /// Returns whether an open write may change something with these tags. `None`: its tags are not known.
    #[must_use]
    pub fn is_open(&self, own: Option<&[Tag]>) -> bool {
        self.open.iter().any(|changed| changed.concerns(own))
    }
}

/// What a write of many rows changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Changed {
    /// Rows with one of these tags.
    Tags(Vec<Tag>),
    /// Any rows.
    All,
}

impl Changed {
    /// Returns whether it may change something with these tags. `None`: its tags are not known.
    #[must_use]
    pub fn concerns(&self, own: Option<&[Tag]>) -> bool {
        match (self, own) {
            (Self::All, _) | (_, None) => true,
            (Self::Tags(changed), Some(own)) => changed.iter().any(|tag| own.contains(tag)),
        }
    }

    /// Adds what another one changes.
    pub(crate) fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Tags(tags), Self::Tags(more)) => {
                tags.extend(more);
                tags.sort_unstable();
                tags.dedup();
            }
            _ => *self = Self::All,
        }
    }

    /// Returns what an open write with these changes is entered as.
    pub(crate) fn of_open_write(self) -> Self {
        match self {
            Self::Tags(tags) if tags.len() > MAX_OPEN_TAGS => Self::All,
            changed => changed,
        }
    }
}

/// A write of many rows that is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpenWrite {
    /// Its name.
    pub token: Token,
    /// When it counts as ended, in milliseconds of the store's clock.
    pub until_ms: u64,
    /// What it changes.
    pub changed: Changed,
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
    open: Vec<OpenWrite>,
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
            open: Vec::new(),
        }
    }

    /// Returns how many tags it remembers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.marks.len() as u64
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
            open: self.open.iter().map(|open| open.changed.clone()).collect(),
        }
    }

    /// Returns when each tag was last invalidated. Zero: not since the floor.
    #[must_use]
    pub fn marks(&self, tags: &[Tag]) -> Vec<u64> {
        let marks = tags.iter().map(|tag| self.marks.get(tag).copied());
        marks.map(Option::unwrap_or_default).collect()
    }

    /// Invalidates the entries that a change concerns.
    pub fn invalidate(&mut self, changed: &Changed, max_marks: usize) {
        self.time += 1;
        match changed {
            Changed::Tags(tags) => {
                for tag in tags {
                    self.marks.insert(*tag, self.time);
                }
                if self.marks.len() > max_marks {
                    self.drop_oldest();
                }
            }
            Changed::All => {
                self.floor = self.time;
                self.marks.clear();
            }
        }
    }

    /// Announces a write of many rows, which is about to be committed. Announcing it again only prolongs it.
    pub fn announce(&mut self, write: OpenWrite, max_marks: usize) {
        let known = self.open.iter_mut().find(|open| open.token == write.token);
        if let Some(open) = known {
            open.until_ms = open.until_ms.max(write.until_ms);
            return;
        }
        self.invalidate(&write.changed, max_marks);
        self.open.push(write);
    }

    /// Ends a write of many rows.
    pub fn end(&mut self, token: Token, changed: &Changed, max_marks: usize) {
        self.forget(token);
        self.invalidate(changed, max_marks);
    }

    /// Forgets a write of many rows.
    pub fn forget(&mut self, token: Token) {
        self.open.retain(|open| open.token != token);
    }

    /// Forgets the open writes whose time is over. Returns whether there were any.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let before = self.open.len();
        self.open.retain(|open| open.until_ms > now_ms);
        self.open.len() < before
    }

    /// Returns whether the time of an open write is over.
    pub(crate) fn has_expired(&self, now_ms: u64) -> bool {
        self.open.iter().any(|open| open.until_ms <= now_ms)
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
    fn a_write_of_many_tags_counts_as_one_of_all_rows() {
        let tags = |count: u64| Changed::Tags((0..count).map(Tag).collect());
        let most = MAX_OPEN_TAGS as u64;
        assert_eq!(tags(most).of_open_write(), tags(most));
        assert_eq!(tags(most + 1).of_open_write(), Changed::All);
        let mut both = tags(most);
        both.add(tags(most));
        assert_eq!(both.of_open_write(), tags(most), "each counts once");
    }

    #[test]
    fn an_invalidation_covers_its_tag_and_no_other() {
        let mut clock = TagClock::new(1);
        let before = stamp(&clock);
        assert_eq!(judge(before, Some(&clock.reading())), Verdict::Current);
        clock.invalidate(&Changed::Tags(vec![Tag::new("a")]), 10);
        assert_eq!(judge(before, Some(&clock.reading())), Verdict::Unclear);
        assert_eq!(of(&clock, before, &["b", "a"]), Verdict::Outdated);
        assert_eq!(of(&clock, before, &["b"]), Verdict::Current);
        assert_eq!(of(&clock, before, &[]), Verdict::Current);
        let after = stamp(&clock);
        assert_eq!(of(&clock, after, &["a"]), Verdict::Current);
        clock.invalidate(&Changed::Tags(vec![Tag::new("b")]), 10);
        assert_eq!(of(&clock, after, &["a"]), Verdict::Current);
        assert_eq!(of(&clock, before, &["a"]), Verdict::Outdated);
    }

    #[test]
    fn everything_is_covered_without_a_mark() {
        let mut clock = TagClock::new(1);
        let before = stamp(&clock);
        clock.invalidate(&Changed::Tags(vec![Tag::new("a")]), 10);
        clock.invalidate(&Changed::All, 10);
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
            clock.invalidate(&Changed::Tags(vec![Tag::new(&number.to_string())]), 4);
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
        clock.invalidate(&Changed::Tags(many), 4);
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
        clock.invalidate(&Changed::Tags(vec![Tag::new("a")]), 10);
        assert_eq!(judge(stamp(&clock), Some(&reading)), Verdict::Current);
    }

    #[test]
    fn a_pattern_matches_the_tags_that_its_rows_can_have() {
        let matches = |texts, tag| TagPattern::new(texts, &[]).matches(tag);
        assert!(matches(&["catalog"], "catalog"));
        assert!(!matches(&["catalog"], "catalogue"));
        assert!(matches(&["country:", ""], "country:DE"));
        assert!(matches(&["country:", ""], "country:"));
        assert!(!matches(&["country:", ""], "contry:DE"));
        assert!(matches(&["", "/", "/x"], "a/b/x"));
        assert!(!matches(&["", "/", "/x"], "a-b/x"));
        assert_eq!(
            TagPattern::new(&["country:", ""], &[("country", "country")]).to_string(),
            "country:{..}"
        );
    }

    #[test]
    fn texts_are_hashed_as_others_hash_them() {
        assert_ne!(Tag::new("country:DE"), Tag::new("country:DK"));
        // The published value of FNV-1a for "a".
        assert_eq!(Tag::new("a"), Tag(0xAF63_DC4C_8601_EC8C));
    }

    fn open_write(token: u64, tag: &str, until_ms: u64) -> OpenWrite {
        OpenWrite {
            token: Token::numbered(token),
            until_ms,
            changed: Changed::Tags(vec![Tag::new(tag)]),
        }
    }

    #[test]
    fn an_open_write_concerns_its_tag_until_it_ends() {
        let mut clock = TagClock::new(1);
        let before = stamp(&clock);
        let is_open = |clock: &TagClock, tag: &str| clock.reading().is_open(Some(&[Tag::new(tag)]));
        clock.announce(open_write(1, "a", 100), 10);
        assert_eq!(of(&clock, before, &["a"]), Verdict::Outdated);
        assert!(is_open(&clock, "a") && !is_open(&clock, "b"));
        assert!(clock.reading().is_open(None), "an absence, or a list");
        let within = stamp(&clock);
        clock.announce(open_write(1, "a", 200), 10);
        assert_eq!(stamp(&clock), within, "it is prolonged");
        clock.announce(open_write(2, "b", 100), 10);
        clock.end(Token::numbered(1), &open_write(1, "a", 0).changed, 10);
        assert!(!is_open(&clock, "a") && is_open(&clock, "b"));
        assert_eq!(of(&clock, within, &["a"]), Verdict::Outdated);
        assert!(clock.has_expired(100) && !clock.has_expired(99));
        assert!(!clock.expire(99) && clock.expire(100));
        assert!(!clock.reading().is_open(None));
        let all = OpenWrite {
            changed: Changed::All,
            ..open_write(3, "", 100)
        };
        clock.announce(all, 10);
        assert!(is_open(&clock, "c"));
        assert_eq!(of(&clock, within, &["c"]), Verdict::Outdated);
    }
}
