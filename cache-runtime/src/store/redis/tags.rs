//! The clocks of tags in Redis: one hash for each entity with tags.
//!
//! The field `c` has the clock: its incarnation, its time and its floor, eight bytes each, little-endian. Each other field is a
//! tag, eight bytes big-endian, and has the time of its last invalidation.
//!
//! Invariant: the time only grows while the hash lives, because scripts alone write it. A hash that was evicted or deleted is
//! begun again with another incarnation.

use redis::Value;

use super::{RedisStore, scripts::SCRIPTS};
use crate::{
    error::StoreError,
    protocol::{
        entry,
        key::Key,
        tags::{MAX_MARKS, Reading, Stamp, Tag},
        token::{self, Token},
    },
    store::tags::{Covered, Marks, TagStore},
};

/// The field of the clock itself.
const CLOCK: &str = "c";

impl TagStore for RedisStore {
    async fn read_clock(&self, clock: &Key) -> Result<Option<Reading>, StoreError> {
        let mut link = self.connector.link()?;
        let mut command = redis::Cmd::new();
        command.arg("HGET").arg(clock.as_bytes()).arg(CLOCK);
        // As the read of the entry that it accompanies.
        let answer = link.connection.send_packed_command(&command).await;
        let answer = answer.and_then(Value::extract_error);
        let answer = self.connector.check_reply(&link, "read_clock", answer)?;
        Ok(reading(&answer))
    }

    async fn read_marks(&self, clock: &Key, tags: &[Tag]) -> Result<Marks, StoreError> {
        let mut command = redis::Cmd::new();
        command.arg("HMGET").arg(clock.as_bytes()).arg(CLOCK);
        for tag in tags {
            command.arg(&tag.0.to_be_bytes());
        }
        let link = self.connector.link()?;
        let answer = self.command("read_marks", link, &command).await?;
        let Value::Array(fields) = answer else {
            return Ok(None);
        };
        let Some(reading) = fields.first().and_then(reading) else {
            return Ok(None);
        };
        let marks = fields[1..].iter().map(mark).collect();
        Ok(Some((reading, marks)))
    }

    async fn start_clock(&self, clock: &Key) -> Result<Reading, StoreError> {
        let new = [token::random().to_le_bytes(), [0; 8], [0; 8]].concat();
        let mut start = redis::Cmd::new();
        start
            .arg("HSETNX")
            .arg(clock.as_bytes())
            .arg(CLOCK)
            .arg(new);
        let mut read = redis::Cmd::new();
        read.arg("HGET").arg(clock.as_bytes()).arg(CLOCK);
        let link = self.connector.link()?;
        let answers = self
            .run_all("start_clock", link, &[], vec![start, read])
            .await;
        let last = answers.into_iter().next_back();
        let answer = last.unwrap_or_else(|| Err(StoreError::new("Redis has not answered")))?;
        reading(&answer).ok_or_else(|| StoreError::new("the clock of the tags is unreadable"))
    }

    async fn advance_clock(&self, clock: &Key, covered: Covered<'_>) -> Result<(), StoreError> {
        let mut invocation = SCRIPTS.invalidate_tags.prepare_invoke();
        invocation
            .key(clock.as_bytes())
            .arg(&token::random().to_le_bytes())
            .arg(MAX_MARKS);
        match covered {
            Covered::All => {
                invocation.arg(1);
            }
            Covered::Tags(tags) => {
                invocation.arg(0);
                for tag in tags {
                    invocation.arg(&tag.0.to_be_bytes());
                }
            }
        }
        let link = self.connector.link()?;
        self.run_script("advance_clock", link, &invocation).await?;
        Ok(())
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

/// Reads the field of a clock. One that cannot be read is no clock, so that nothing is served by it.
fn reading(field: &Value) -> Option<Reading> {
    let Value::BulkString(bytes) = field else {
        return None;
    };
    let (numbers, []) = bytes.as_chunks::<8>() else {
        return None;
    };
    let [incarnation, time, floor] = *numbers else {
        return None;
    };
    Some(Reading {
        now: Stamp {
            incarnation: u64::from_le_bytes(incarnation),
            time: u64::from_le_bytes(time),
        },
        floor: u64::from_le_bytes(floor),
    })
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
