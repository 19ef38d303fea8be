//! The clocks of tags in Redis: one hash for each entity with tags.
//!
//! The field `c` has the clock: its incarnation, its time and its floor, eight bytes each, little-endian. The field `o` has the open
//! writes, one after the other: token, the time until which each is open, in milliseconds since 1970 by the server's clock, the
//! number of its tags, and the tags. A write that may change any row has no tags. Each other field is a tag, eight bytes
//! big-endian, and has the time of its last invalidation.
//!
//! Invariant: the time only grows while the hash lives, because scripts alone write it. A hash that was evicted or deleted is
//! begun again with another incarnation, and so is one that larder cannot have written.

use redis::Value;

use super::{RedisStore, connection::Link, read_beginning, scripts::SCRIPTS, send::extract_entry};
use crate::{
    error::StoreError,
    protocol::{
        entry,
        key::Key,
        queue_position::MAX_NUMBER,
        state::Identity,
        tags::{Changed, MAX_MARKS, Reading, Stamp, Tag},
        token::{self, TOKEN_LENGTH, Token},
    },
    store::{
        Found, Mechanism,
        tags::{ClockAnswer, Marks, TagStore},
    },
};

/// The field of the clock itself.
const CLOCK: &str = "c";
/// The field of the open writes.
const OPEN: &str = "o";

/// What the script does with a write of many rows.
#[derive(Clone, Copy)]
enum Step {
    /// There is none: only invalidate.
    Invalidate,
    /// There is none: only begin a clock, if there is none or one that cannot be read.
    Start,
    /// Announce it for this many milliseconds.
    Begin(Token, u64),
    End(Token),
    /// Only forget those whose time is over.
    Expire,
}

impl TagStore for RedisStore {
    async fn get_many_tagged(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
        clock: &Key,
    ) -> (Vec<Result<Found, StoreError>>, ClockAnswer) {
        let link = match self.connector.link() {
            Ok(link) => link,
            Err(error) => return (vec![Err(error.clone()); keys.len()], Err(error)),
        };
        if let [key] = keys {
            let (found, read) = self.get_tagged(link, key, fingerprint, codec, clock).await;
            return (vec![found], read);
        }
        let mut commands: Vec<_> = keys.iter().map(|key| read_beginning(key)).collect();
        commands.push(read_fields(clock, &[]));
        let mut replies = self.run_all("get", link.clone(), &[], commands).await;
        let read = replies.pop().unwrap_or_else(no_answer);
        let identity = Identity {
            history: link.history,
            fingerprint,
            codec,
        };
        let found = self.found_each(&link, keys, replies, identity).await;
        (found, read.map(|fields| reading(&fields)))
    }

    async fn read_clock(&self, clock: &Key) -> ClockAnswer {
        let link = self.connector.link()?;
        let fields = self
            .command("read_clock", link, &read_fields(clock, &[]))
            .await?;
        Ok(reading(&fields))
    }

    #[cfg(feature = "metrics")]
    async fn count_marks(&self, clock: &Key) -> Result<u64, StoreError> {
        let link = self.connector.link()?;
        let mut count = redis::cmd("HLEN");
        count.arg(clock.as_bytes());
        let commands = vec![count, read_fields(clock, &[])];
        let replies = self.run_all("count_marks", link, &[], commands).await;
        let replies = replies.into_iter().collect::<Result<Vec<_>, _>>()?;
        let [Value::Int(fields), Value::Array(others)] = &replies[..] else {
            return Ok(0);
        };
        // Beside the marks there are the clock, and the open writes if there are any.
        let others = others.iter().filter(|other| **other != Value::Nil).count() as u64;
        Ok(u64::try_from(*fields).map_or(0, |fields| fields.saturating_sub(others)))
    }

    async fn read_marks(&self, clock: &Key, tags: &[Tag]) -> Result<Marks, StoreError> {
        let link = self.connector.link()?;
        let answer = self
            .command("read_marks", link, &read_fields(clock, tags))
            .await?;
        let Some(reading) = reading(&answer) else {
            return Ok(None);
        };
        let Value::Array(fields) = answer else {
            return Ok(None);
        };
        // One that is none of this clock counts as just made.
        let marks = fields.iter().skip(2).map(mark);
        let marks = marks.map(|mark| mark.min(reading.now.time)).collect();
        Ok(Some((reading, marks)))
    }

    async fn start_clock(&self, clock: &Key) -> Result<Reading, StoreError> {
        let nothing = Changed::Tags(Vec::new());
        let start = changing(clock, &nothing, Step::Start);
        let link = self.connector.link()?;
        let read = read_fields(clock, &[]);
        let both = self.run_script_and("start_clock", link, &start, read);
        let (_, answer) = both.await?;
        reading(&answer).ok_or_else(|| StoreError::new("the clock of the tags is unreadable"))
    }

    async fn advance_clock(&self, clock: &Key, changed: &Changed) -> Result<(), StoreError> {
        self.change_clock("advance_clock", clock, changed, Step::Invalidate)
            .await
    }

    async fn begin_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
        ttl_ms: u64,
    ) -> Result<(), StoreError> {
        let step = Step::Begin(write, ttl_ms);
        self.change_clock("begin_tagged", clock, changed, step)
            .await
    }

    async fn end_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
    ) -> Result<(), StoreError> {
        self.change_clock("end_tagged", clock, changed, Step::End(write))
            .await
    }

    async fn expire_tagged(&self, clock: &Key) -> Result<(), StoreError> {
        let nothing = Changed::Tags(Vec::new());
        self.change_clock("expire_tagged", clock, &nothing, Step::Expire)
            .await
    }

    async fn restamp(&self, key: &Key, token: Token, stamp: Stamp) -> Result<bool, StoreError> {
        let mut invocation = SCRIPTS.restamp.prepare_invoke();
        invocation
            .key(key.as_bytes())
            .arg(&token.0)
            .arg(&entry::encode_stamp(stamp))
            .arg(stamp.time);
        let link = self.connector.link()?;
        let answer = self.run_script("restamp", link, &invocation).await?;
        Ok(answer == Value::Int(1))
    }
}

impl RedisStore {
    /// Reads one key and a clock, whose reading others may share. Both are read on one link: a clock of another run of the server
    /// may be earlier.
    async fn get_tagged(
        &self,
        mut link: Link,
        key: &Key,
        fingerprint: u32,
        codec: u8,
        clock: &Key,
    ) -> (Result<Found, StoreError>, ClockAnswer) {
        let identity = Identity {
            history: link.history,
            fingerprint,
            codec,
        };
        let read = || read_fields(clock, &[]);
        let answers = link.connection.read_beginning_and(key, clock, read).await;
        let (first, fields) = match answers {
            Ok([first, fields]) => (extract_entry(first), extract_entry(fields)),
            Err(error) => (Err(error.clone()), Err(error)),
        };
        let fields = self.connector.check_reply(&link, "get", fields);
        let clock = self.seen(fields.map(|fields| reading(&fields)));
        let found = match self.connector.check_reply(&link, "get", first) {
            Ok(first) => self.found_from(link, key, first, identity).await,
            Err(error) => Err(error),
        };
        (found, clock)
    }

    /// Returns a reading as readers see it: the first one of all, if a test leaves out that they share only what was asked for after
    /// they began.
    fn seen(&self, clock: ClockAnswer) -> ClockAnswer {
        if !self.connector.disables(Mechanism::SharedClock) {
            return clock;
        }
        self.first_reading.get_or_init(|| clock).clone()
    }

    async fn change_clock(
        &self,
        operation: &'static str,
        clock: &Key,
        changed: &Changed,
        step: Step,
    ) -> Result<(), StoreError> {
        let invocation = changing(clock, changed, step);
        let link = self.connector.link()?;
        self.run_script(operation, link, &invocation).await?;
        Ok(())
    }
}

/// Returns the call of the script that changes a clock.
fn changing(clock: &Key, changed: &Changed, step: Step) -> redis::ScriptInvocation<'static> {
    let (name, write, ttl_ms) = match step {
        Step::Invalidate => ("", None, 0),
        Step::Start => ("start", None, 0),
        Step::Begin(write, ttl_ms) => ("begin", Some(write), ttl_ms),
        Step::End(write) => ("end", Some(write), 0),
        Step::Expire => ("expire", None, 0),
    };
    let write = write.map_or(Vec::new(), |write| write.0.to_vec());
    let mut invocation = SCRIPTS.change_clock.prepare_invoke();
    invocation
        .key(clock.as_bytes())
        .arg(&token::random().to_le_bytes())
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
    invocation
}

/// Returns the command that reads a clock, and the marks of these tags.
pub(super) fn read_fields(clock: &Key, tags: &[Tag]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    command
        .arg("HMGET")
        .arg(clock.as_bytes())
        .arg(CLOCK)
        .arg(OPEN);
    for tag in tags {
        command.arg(&tag.0.to_be_bytes());
    }
    command
}

pub(super) fn no_answer<T>() -> Result<T, StoreError> {
    Err(StoreError::new("Redis has not answered"))
}

/// Reads the fields of a clock. One that cannot be read is no clock, so that nothing is served by it.
pub(super) fn reading(answer: &Value) -> Option<Reading> {
    let Value::Array(fields) = answer else {
        return None;
    };
    let (Value::BulkString(clock), open) = (fields.first()?, fields.get(1)?) else {
        return None;
    };
    let (numbers, []) = clock.as_chunks::<8>() else {
        return None;
    };
    let [incarnation, time, floor] = *numbers else {
        return None;
    };
    let [incarnation, time, floor] = [incarnation, time, floor].map(u64::from_le_bytes);
    // The rule of `is_clock` in the script.
    if time >= MAX_NUMBER || floor > time {
        return None;
    }
    Some(Reading {
        now: Stamp { incarnation, time },
        floor,
        open: match open {
            Value::BulkString(bytes) => open_writes(bytes),
            _ => Vec::new(),
        },
    })
}

/// Reads the open writes. If they cannot be read, any row may be changed.
fn open_writes(bytes: &[u8]) -> Vec<Changed> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some((changed, after)) = open_write(rest) else {
            return vec![Changed::All];
        };
        all.push(changed);
        rest = after;
    }
    all
}

/// Reads the first open write. Returns what follows it.
fn open_write(bytes: &[u8]) -> Option<(Changed, &[u8])> {
    let (_token_and_time, rest) = bytes.split_at_checked(TOKEN_LENGTH + 8)?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (tags, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
    let (tags, _) = tags.as_chunks::<8>();
    let tags: Vec<_> = tags
        .iter()
        .map(|tag| Tag(u64::from_be_bytes(*tag)))
        .collect();
    let changed = match tags.is_empty() {
        true => Changed::All,
        false => Changed::Tags(tags),
    };
    Some((changed, rest))
}

/// Reads the field of a tag. One that cannot be read counts as invalidated just now.
fn mark(field: &Value) -> u64 {
    match field {
        Value::Nil => 0,
        Value::BulkString(bytes) => bytes
            .as_slice()
            .try_into()
            .map_or(u64::MAX, u64::from_le_bytes),
        _ => u64::MAX,
    }
}
