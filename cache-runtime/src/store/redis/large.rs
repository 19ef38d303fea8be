//! Large entries have a connection of their own, so that no other operation waits for their bytes.
//!
//! A connection carries one reply after the other. On a link of 5 MB/s, an entry of 4 MiB delays all later replies by 0.8
//! seconds, and by then small reads have timed out (`response_timeout`, 0.5 seconds by default).
//!
//! 1. A read gets at most the first [`LARGE_ENTRY`] bytes of an entry. If it gets as many, it reads the whole entry over the
//!    other connection. That is a later read of the same key, so it may also find something else.
//! 2. An entry of this size is written over the other connection, and batches of queued writes are read over it.
//! 3. If there is no such connection, a large row is read from the database and not stored. The end of a write and the flush of a
//!    queue go on over the link, the first without its cache update.
//!
//! Invariant: an operation gives the same answer on both connections, because both lead to the same run of the same server.
//! Not here: the other connection (`connection`). Queued writes of large rows share the link, in the order of their puts.

use std::sync::atomic::Ordering;

use redis::Value;

use crate::{
    error::StoreError,
    protocol::key::Key,
    store::redis::{RedisStore, connection::Link},
};

/// The size of a large entry, in bytes. Scripts know it from their prelude.
pub(super) const LARGE_ENTRY: usize = 128 << 10;

/// How many bytes of an entry are read beyond the longest row: its header, what else precedes the row, and some, so that a longer
/// one is seen to be.
const AROUND: u64 = 1_024;
/// The largest offset in a string of Redis.
const MOST: u64 = i64::MAX as u64;

impl RedisStore {
    /// Returns the link for an operation that sends this many bytes.
    pub(super) async fn link_for(&self, link: Link, bytes: usize) -> Result<Link, StoreError> {
        if bytes < LARGE_ENTRY {
            return Ok(link);
        }
        self.connector.large_link(link).await
    }

    /// Returns an entry of which a reply has the first [`LARGE_ENTRY`] bytes. What is longer than any row is cut, and so damaged:
    /// the client reads a reply whole, whatever its size.
    pub(super) async fn whole(
        &self,
        operation: &'static str,
        link: Link,
        key: &Key,
        first: Value,
    ) -> Result<Value, StoreError> {
        match &first {
            // Boxed, to keep the future of a hit small.
            Value::BulkString(bytes) if bytes.len() == LARGE_ENTRY => {
                Box::pin(self.read_whole(operation, link, key)).await
            }
            _ => Ok(first),
        }
    }

    async fn read_whole(
        &self,
        operation: &'static str,
        link: Link,
        key: &Key,
    ) -> Result<Value, StoreError> {
        let link = self.connector.large_link(link).await?;
        let longest = self.longest_row.load(Ordering::Relaxed);
        let mut command = redis::Cmd::new();
        command
            .arg("GETRANGE")
            .arg(key.as_bytes())
            .arg(0)
            .arg(longest.saturating_add(AROUND).min(MOST));
        let entry = self.command(operation, link, &command).await?;
        Ok(match entry {
            // The key is gone since.
            Value::BulkString(bytes) if bytes.is_empty() => Value::Nil,
            entry => entry,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::script_text;

    #[test]
    fn scripts_and_reads_agree_on_what_is_large() {
        let text = script_text("wait").expect("there is such a script");
        assert!(text.contains(&format!("local LARGE_ENTRY = {LARGE_ENTRY}\n")));
    }
}
