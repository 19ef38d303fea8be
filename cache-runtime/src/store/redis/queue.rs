//! The queues of write-behind entities in Redis.
//!
//! Each operation is one script. But a fetch reads the log with an `XRANGE` that is sent after its script, in the same round
//! trip. Between the two, writes can be added, or flushed writes trimmed. The comparison of the position detects that. With
//! the `XRANGE` first, the log could lack writes that the script counts. `log_reader` decides how much is read.
//!
//! Invariant: a put is sent only on a connection to the history that it was prepared for.
//! Not here: the rules (`state`). The scripts in `scripts` implement the same rules in Lua, and are compared with it.

use std::{collections::HashMap, sync::Arc};

use redis::Value;

use crate::{
    error::StoreError,
    policy::QueuePolicy,
    printed,
    protocol::{
        entry,
        key::Key,
        partition_keys::PartitionKeys,
        queue_position::{Incarnation, MAX_NUMBER, QueuePosition},
        seal::Refusal,
        state::{self, Condition, FOREVER, Identity, Judgement, Lease, Meta, Pending, Slot, State},
        token::{ProcessId, Token},
    },
    store::{
        Payload, Store,
        failpoint::Mechanism,
        queue::{Acknowledged, Fetch, Fetched, Logged, Put, PutAnswer, QueueStore, Settled},
        redis::{
            RedisStore, SCANNED_AT_ONCE, durability,
            log_reader::{Batch, Read, Sizes},
            put::{Call, wait_for_sync},
            read_beginning,
            scripts::SCRIPTS,
        },
    },
};

/// The maximum number of rows in one call of the settle script. Redis executes nothing else during the call.
const SETTLED_AT_ONCE: usize = 250;
/// How often an entry is verified for a put, if it is replaced each time.
const MAX_VERIFICATIONS: u32 = 16;

impl QueueStore for RedisStore {
    async fn check_queue(
        &self,
        policy: &QueuePolicy,
    ) -> Result<Result<Acknowledged, String>, StoreError> {
        let link = self.connector.link()?;
        if !self.connector.tells_histories(&link) {
            return Ok(Err(durability::NAMELESS.to_owned()));
        }
        let mut command = redis::cmd("CONFIG");
        command
            .arg("GET")
            .arg("appendonly")
            .arg("appendfsync")
            .arg("maxmemory-policy");
        let mut connection = link.connection.clone();
        let info: Result<HashMap<String, String>, _> = command.query_async(&mut connection).await;
        let judged = match info {
            Ok(info) => durability::check_reply(&info, policy),
            Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => {
                durability::unknown(&printed::short(&error), policy)
            }
            Err(error) => {
                self.connector.check_reply(&link, "config", Err(error))?;
                Ok(Acknowledged::AtOnce)
            }
        };
        if judged != Ok(Acknowledged::AfterSync) {
            return Ok(judged);
        }
        // A `WAITAOF` that waits for nothing shows whether the server supports it.
        let info = wait_for_sync(0, 0).exec_async(&mut connection).await;
        match info {
            Ok(()) => {
                let blocking_connection = self.connector.blocking_connection(&link).await?;
                link.keep_blocking_connection(blocking_connection);
                Ok(judged)
            }
            Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => {
                Ok(Err(durability::cannot_wait(&printed::short(&error))))
            }
            Err(error) => {
                self.connector.check_reply(&link, "waitaof", Err(error))?;
                Ok(judged)
            }
        }
    }

    async fn put(
        &self,
        partition: &Arc<PartitionKeys>,
        key: &Key,
        put: Put,
    ) -> Result<PutAnswer, StoreError> {
        let is_asked = matches!(put.condition, Condition::Present | Condition::Absent);
        if !is_asked || !self.seals.are_required() || self.connector.disables(Mechanism::Seal) {
            return self.send_put(partition, key, put).await;
        }
        // The script does not know whether the entry at the key is genuine. So it is asked whether the entry that was verified here
        // is still there.
        for _ in 0..MAX_VERIFICATIONS {
            let identity = put.meta.lease.identity;
            let token = match self.judge(key, identity, put.condition).await? {
                (Judgement::ConditionFailed, _) => return Ok(PutAnswer::ConditionFailed),
                (Judgement::Met, Some(token)) => token,
                // Nobody knows this one, so the script finds it nowhere.
                _ => Token::draw(),
            };
            let put = Put {
                condition: Condition::Unchanged(token),
                ..put.clone()
            };
            match self.send_put(partition, key, put).await? {
                PutAnswer::ConditionFailed => {}
                answer => return Ok(answer),
            }
        }
        Ok(PutAnswer::RowUnknown)
    }

    async fn start_incarnation(
        &self,
        partition: &PartitionKeys,
        from: Option<Incarnation>,
        to: Incarnation,
        history: u64,
    ) -> Result<bool, StoreError> {
        let link = self.connector.link()?;
        if link.history != history {
            // What the caller knows of the queue is of another history.
            return Ok(false);
        }
        let from = from.map(|from| from.to_bytes().to_vec());
        let mut invocation = SCRIPTS.start_incarnation.prepare_invoke();
        invocation
            .key(partition.state.as_bytes())
            .key(partition.logs.as_bytes())
            .arg(from.unwrap_or_default())
            .arg(&to.to_bytes())
            .arg(&link.history.to_le_bytes())
            .arg(partition.log(to).as_bytes());
        Ok(self
            .run_script("start_incarnation", link, &invocation)
            .await?
            == Value::Int(1))
    }

    async fn fetch(&self, partition: &PartitionKeys, fetch: Fetch) -> Result<Fetched, StoreError> {
        let most_bytes = self.most_bytes();
        let fetched = self.fetch_at_most(partition, fetch, most_bytes).await;
        if fetch.count > 0 {
            let writes = fetched.as_ref().ok().map(|fetched| &fetched.writes[..]);
            self.batch_bytes.note(most_bytes, writes);
        }
        fetched
    }

    async fn settle(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> Result<(), StoreError> {
        let link = self.connector.link()?;
        let log = partition.log(incarnation);
        let mut chunks = settled.chunks(SETTLED_AT_ONCE).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let is_last = chunks.peek().is_none();
            let mut invocation = SCRIPTS.settle.prepare_invoke();
            invocation
                .key(partition.state.as_bytes())
                .key(partition.pending_index.as_bytes())
                .key(log.as_bytes())
                .arg(&incarnation.to_bytes())
                // The last call trims the log. If an earlier one fails, the writes are still in the log, and are settled
                // again.
                .arg(if is_last { up_to } else { 0 });
            for Settled {
                key,
                number,
                keep_ms,
            } in chunk
            {
                invocation
                    .key(key.as_bytes())
                    .arg(&number.to_be_bytes())
                    .arg(*keep_ms);
            }
            self.run_script("settle", link.clone(), &invocation).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn queued(&self, key: &Key) -> Result<Option<(Pending, Payload)>, StoreError> {
        let command = redis::Cmd::get(key.as_bytes());
        let reply = self
            .command("get", self.connector.link()?, &command)
            .await?;
        let Value::BulkString(bytes) = reply else {
            return Ok(None);
        };
        let State::Pending(pending, payload) = entry::decode(&bytes) else {
            return Ok(None);
        };
        Ok(match self.open(key, &bytes, payload) {
            Ok(Some(opened)) => Some((pending, Payload::Bytes(opened, 0))),
            Ok(None) => {
                let start = bytes.len() - payload.len();
                Some((pending, Payload::Bytes(bytes, start)))
            }
            // Another entry than the one that the caller has seen.
            Err(_) => None,
        })
    }

    async fn logs(&self, partition: &PartitionKeys) -> Result<Vec<Incarnation>, StoreError> {
        // The set has 16 bytes for each history of the store since the queue was last flushed to its end.
        let mut command = redis::cmd("SMEMBERS");
        command.arg(partition.logs.as_bytes());
        let reply = self
            .command("logs", self.connector.link()?, &command)
            .await?;
        let names: Vec<Vec<u8>> = match reply {
            // Of another type, so it was not written by larder.
            Value::BulkString(_) => Vec::new(),
            reply => value(reply)?,
        };
        let names = names.into_iter().filter_map(|name| name.try_into().ok());
        let known = names.map(Incarnation::from_bytes);
        // The database gives no other epochs.
        Ok(known
            .filter(|incarnation| incarnation.epoch <= MAX_NUMBER)
            .collect())
    }

    async fn drop_log(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        let link = self.connector.link()?;
        let log = partition.log(incarnation);
        let large = [log.as_bytes(), b":large"].concat();
        let delete = redis::Cmd::del(&[log.as_bytes(), &large[..]]);
        self.command("drop_log", link.clone(), &delete).await?;
        let mut forget = redis::cmd("SREM");
        forget
            .arg(partition.logs.as_bytes())
            .arg(&incarnation.to_bytes());
        self.command("drop_log", link, &forget).await?;
        Ok(())
    }

    async fn pending_index(
        &self,
        partition: &PartitionKeys,
        cursor: u64,
    ) -> Result<(u64, Vec<(Key, QueuePosition)>), StoreError> {
        // Redis returns about `COUNT` fields, or all fields of a small hash.
        let mut command = redis::cmd("HSCAN");
        command
            .arg(partition.pending_index.as_bytes())
            .arg(cursor)
            .arg("COUNT")
            .arg(SCANNED_AT_ONCE);
        let reply = self
            .command("pending_index", self.connector.link()?, &command)
            .await?;
        if let Value::BulkString(_) = reply {
            // Of another type, so it was not written by larder.
            return Ok((0, Vec::new()));
        }
        type Fields = Vec<(Vec<u8>, Vec<u8>)>;
        let (cursor, fields): (u64, Fields) = value(reply)?;
        let pending_index = fields.into_iter().filter_map(|(key, position)| {
            let position = QueuePosition::from_bytes(position.try_into().ok()?);
            Some((Key::from_bytes(&key), position))
        });
        Ok((cursor, pending_index.collect()))
    }

    async fn disclaim(&self, partition: &PartitionKeys) -> Result<(), StoreError> {
        // Compares the claim first, to leave another process's alone. If that process takes it between the two commands, it
        // loses only a little time.
        let link = self.connector.link()?;
        let get = redis::Cmd::get(partition.flusher.as_bytes());
        let holder = self.command("disclaim", link.clone(), &get).await?;
        if holder == Value::BulkString(ProcessId::current().0.to_vec()) {
            let delete = redis::Cmd::del(partition.flusher.as_bytes());
            self.command("disclaim", link, &delete).await?;
        }
        Ok(())
    }
}

impl RedisStore {
    /// Sends a put, alone or with others.
    async fn send_put(
        &self,
        partition: &Arc<PartitionKeys>,
        key: &Key,
        put: Put,
    ) -> Result<PutAnswer, StoreError> {
        // Checked before the put waits in a group: a put of another history is not sent at all.
        let link = self.link_of(&put.meta.lease)?;
        let puts = match put.acknowledged {
            Acknowledged::AtOnce => &self.puts,
            Acknowledged::AfterSync => &self.synced_puts,
        };
        let call = Call::new(Arc::clone(partition), key.clone(), put, &self.seals)?;
        puts.call(link.runtime(), call).await
    }

    /// Evaluates a condition on the entry at a key, if that is genuine. Otherwise drops it. Returns its token too.
    async fn judge(
        &self,
        key: &Key,
        identity: Identity,
        condition: Condition,
    ) -> Result<(Judgement, Option<Token>), StoreError> {
        let link = self.connector.link()?;
        let first = self
            .command("get", link.clone(), &read_beginning(key))
            .await?;
        let Value::BulkString(bytes) = self.whole("get", link, key, first).await? else {
            return Ok((Judgement::RowUnknown, None));
        };
        let state = entry::decode(&bytes);
        let (token, payload) = match &state {
            State::Value(meta, payload) => (meta.lease.token, *payload),
            State::Negative(meta) => (meta.lease.token, &[][..]),
            State::Pending(pending, payload) => (pending.meta.lease.token, *payload),
            _ => return Ok((Judgement::RowUnknown, None)),
        };
        match self.open(key, &bytes, payload) {
            Ok(_) => {}
            Err(Refusal::Forged(_)) => {
                self.drop_damaged(key, Some(token)).await?;
                return Ok((Judgement::RowUnknown, None));
            }
            Err(Refusal::Unknown(_)) => return Ok((Judgement::RowUnknown, None)),
        }
        let slot = Slot {
            state,
            remaining_ms: FOREVER,
        };
        Ok((
            state::evaluate(Some(&slot), identity, condition),
            Some(token),
        ))
    }

    /// Returns the maximum size of a batch, in bytes.
    fn most_bytes(&self) -> u64 {
        if self.connector.disables(Mechanism::ReadBound) {
            return u64::MAX;
        }
        self.batch_bytes.most()
    }

    /// Reads a batch of at most this many bytes, or one write.
    async fn fetch_at_most(
        &self,
        partition: &PartitionKeys,
        fetch: Fetch,
        most_bytes: u64,
    ) -> Result<Fetched, StoreError> {
        let mut link = self.connector.link()?;
        if fetch.count > 0 {
            // A batch is as large as a large entry, whatever its writes are. The queue must go on without that connection too.
            link = self
                .connector
                .large_link(link.clone())
                .await
                .unwrap_or(link);
        }
        let history = link.history;
        let log = partition.log(fetch.incarnation);
        let mut look = SCRIPTS.fetch.prepare_invoke();
        look.key(partition.state.as_bytes())
            .key(partition.flusher.as_bytes())
            .key(log.as_bytes())
            .arg(&ProcessId::current().0)
            .arg(fetch.claim_ms)
            .arg(&history.to_le_bytes());
        if fetch.is_first {
            look.arg(&fetch.incarnation.to_bytes());
        } else {
            look.arg("");
        }
        // Twice the count: the sizes of this batch, and of the next one.
        let named = fetch.count.saturating_mul(2);
        look.arg(fetch.after).arg(named);
        let mut batch = Batch::new(fetch.after, fetch.count, most_bytes);
        let known = self.sizes.of(&partition.state, fetch.incarnation);
        // The script does not read the log: Redis would convert each write to a Lua value and back.
        let seen = match known.and_then(|known| batch.next(&known)) {
            Some(read) => {
                let command = xrange(&log, read);
                let both = self.run_script_and("fetch", link.clone(), &look, command);
                let (seen, found) = both.await?;
                batch.take(read, self.writes(found, partition, &fetch)?);
                seen
            }
            None => self.run_script("fetch", link.clone(), &look).await?,
        };
        let Some((mut found, large)) = looked(seen, history)? else {
            return Ok(unclaimed(history));
        };
        if fetch.count == 0 {
            return Ok(found);
        }
        let sizes = Sizes::of(
            fetch.incarnation,
            fetch.after,
            found.log_last,
            large,
            named as usize,
        );
        while let Some(read) = batch.next(&sizes) {
            let command = xrange(&log, read);
            let found = self.command("fetch", link.clone(), &command).await?;
            batch.take(read, self.writes(found, partition, &fetch)?);
        }
        self.sizes.note(&partition.state, sizes);
        found.is_cut = batch.is_cut(found.log_last);
        found.writes = batch.writes;
        Ok(found)
    }

    /// Reads the reply of `XRANGE`, from the log of a partition.
    fn writes(
        &self,
        read: Value,
        partition: &PartitionKeys,
        fetch: &Fetch,
    ) -> Result<Vec<Logged>, StoreError> {
        let Value::Array(writes) = read else {
            return Err(unexpected(&read));
        };
        let open = |key: &Key, bytes: &[u8], payload: &[u8]| self.open(key, bytes, payload);
        let writes = writes.into_iter();
        let compares = !self.connector.disables(Mechanism::QueuePlace);
        let writes =
            writes.map(|written| logged(written, partition, fetch.incarnation, compares, open));
        writes.collect()
    }
}

/// Returns the command that reads writes of a log.
fn xrange(log: &Key, read: Read) -> redis::Cmd {
    let mut command = redis::cmd("XRANGE");
    command
        .arg(log.as_bytes())
        .arg(format!("(0-{}", read.after))
        .arg(format!("0-{}", read.to.min(MAX_NUMBER)))
        .arg("COUNT")
        .arg(read.count);
    command
}

/// The large writes that the fetch script has listed, with number and size.
type Large = Vec<(u64, u64)>;

/// Reads the reply of the fetch script. Returns `None` if another process has the claim.
fn looked(seen: Value, history: u64) -> Result<Option<(Fetched, Large)>, StoreError> {
    let Value::Array(parts) = seen else {
        return Err(unexpected(&seen));
    };
    let mut parts = parts.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    if next() != Value::Int(1) {
        return Ok(None);
    }
    let mut found = unclaimed(history);
    found.is_claimed = true;
    found.current = incarnation(&next());
    found.current_last = value(next())?;
    found.log_last = match id(&next())? {
        (0, number) => number.min(MAX_NUMBER),
        // Larder gives no such ids.
        _ => MAX_NUMBER,
    };
    found.now_ms = value(next())?;
    found.is_present = next() == Value::Int(1);
    let named: Vec<Vec<u8>> = value(next())?;
    Ok(Some((found, large_of(&named))))
}

/// Reads the members of the set of large writes. What is none, or not in the order of the numbers, was not written by larder: it is
/// left out, and a batch may be larger for it.
fn large_of(named: &[Vec<u8>]) -> Large {
    let mut large = Large::new();
    for named in named {
        let parsed = std::str::from_utf8(named).ok().and_then(|named| {
            let (number, size) = named.split_once(':')?;
            Some((number.parse::<u64>().ok()?, size.parse::<u64>().ok()?))
        });
        let last = large.last().map_or(0, |(number, _)| *number);
        large.extend(parsed.filter(|(number, _)| *number > last && *number <= MAX_NUMBER));
    }
    large
}

/// Returns what is known of a queue whose claim another process has.
fn unclaimed(history: u64) -> Fetched {
    Fetched {
        is_claimed: false,
        history,
        is_present: false,
        current: None,
        current_last: 0,
        log_last: 0,
        now_ms: 0,
        writes: Vec::new(),
        is_cut: false,
    }
}

/// Reads an entry of a log: its id, then the names and values of its fields alternately. What it says is compared with where it
/// stands. What larder cannot have written is a refused write with the number of its place. `compares`: whether its position is compared.
fn logged(
    written: Value,
    partition: &PartitionKeys,
    incarnation: Incarnation,
    compares: bool,
    open: impl Fn(&Key, &[u8], &[u8]) -> Result<Option<Vec<u8>>, Refusal>,
) -> Result<Logged, StoreError> {
    let parts = match written {
        Value::Array(parts) => <[Value; 2]>::try_from(parts).map_err(Value::Array),
        other => Err(other),
    };
    let [place, fields] = parts.map_err(|other| unexpected(&other))?;
    let (_, number) = id(&place)?;
    let Value::Array(fields) = fields else {
        return Err(unexpected(&fields));
    };
    let (mut key, mut entry, mut at_ms) = (None, None, 0);
    let mut fields = fields.into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) =
        (fields.next(), fields.next())
    {
        match name.as_slice() {
            b"k" => key = Some(Key::from_bytes(&value)),
            b"e" => entry = Some(value),
            b"a" => at_ms = String::from_utf8_lossy(&value).parse().unwrap_or(0),
            _ => {}
        }
    }
    let position = QueuePosition {
        incarnation,
        number,
    };
    let bytes = entry.unwrap_or_default();
    let own_key = key.filter(|key| partition.holds(key));
    let judged = match (&own_key, entry::decode(&bytes)) {
        (None, _) => Err("its key is of another queue or partition"),
        (Some(_), State::Pending(pending, _)) if compares && pending.position != position => {
            Err("it says that it is another write than the one at its place in the log")
        }
        (Some(key), State::Pending(pending, payload)) => match open(key, &bytes, payload) {
            Ok(opened) => Ok((pending, opened, bytes.len() - payload.len())),
            Err(refusal) => Err(refusal.reason()),
        },
        (Some(_), _) => Err("it is no queued write"),
    };
    let nothing = Pending {
        position,
        is_deletion: false,
        meta: Meta {
            lease: Lease {
                token: Token::numbered(0),
                identity: Identity::default(),
            },
            loaded_at_ms: 0,
            stamp: None,
        },
    };
    let (pending, payload, refused) = match judged {
        Ok((pending, Some(opened), _)) => (pending, Payload::Bytes(opened, 0), None),
        Ok((pending, None, start)) => (pending, Payload::Bytes(bytes, start), None),
        Err(why) => (nothing, Payload::Bytes(bytes, 0), Some(why)),
    };
    Ok(Logged {
        key: own_key.unwrap_or_else(|| partition.state.clone()),
        pending,
        payload,
        at_ms,
        refused,
    })
}

/// Reads any reply as an entry of a log, and as what a look at a queue returns.
///
/// # Panics
///
/// If a write is believed that does not say what its place says.
#[cfg(feature = "internal-faults")]
pub(super) fn read_any(reply: &Value, partition: &PartitionKeys, incarnation: Incarnation) {
    let open = |_: &Key, _: &[u8], _: &[u8]| Ok(None);
    if let Ok(write) = logged(reply.clone(), partition, incarnation, true, open)
        && write.refused.is_none()
    {
        assert!(partition.holds(&write.key), "a write of another partition");
        assert_eq!(write.pending.position.incarnation, incarnation);
    }
    if let Ok(Some((_, large))) = looked(reply.clone(), 1) {
        assert!(large.is_sorted_by(|one, other| one.0 < other.0));
    }
}

/// Reads the two numbers of a stream id.
fn id(reply: &Value) -> Result<(u64, u64), StoreError> {
    let text: String = value(reply.clone())?;
    let parts = text.split_once('-');
    let parsed = parts.and_then(|(time, number)| Some((time.parse().ok()?, number.parse().ok()?)));
    parsed.ok_or_else(|| unexpected(reply))
}

pub(super) fn incarnation(reply: &Value) -> Option<Incarnation> {
    match reply {
        Value::BulkString(bytes) => {
            Some(Incarnation::from_bytes(bytes.as_slice().try_into().ok()?))
        }
        _ => None,
    }
}

fn value<T: redis::FromRedisValue>(reply: Value) -> Result<T, StoreError> {
    redis::from_redis_value(reply).map_err(|error| StoreError::new(printed::short(&error)))
}

pub(super) fn unexpected(reply: &Value) -> StoreError {
    StoreError::new(format!(
        "Redis sent an unexpected reply: {}",
        printed::short(&format!("{reply:?}"))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of a row in the first partition.
    const KEY: &str = "{shop:Order/4:p00}:1";

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entry_of(fields: Vec<Value>) -> Value {
        Value::Array(vec![text("0-7"), Value::Array(fields)])
    }

    #[test]
    fn write_is_read_from_its_entry_with_its_key_and_its_time() {
        let pending = Pending {
            position: QueuePosition {
                incarnation: Incarnation::from_bytes([1; 16]),
                number: 7,
            },
            is_deletion: false,
            meta: Meta {
                lease: Lease {
                    token: Token::numbered(3),
                    identity: Identity::default(),
                },
                loaded_at_ms: 5,
                stamp: None,
            },
        };
        let bytes = entry::encode(&State::Pending(pending, b"row"));
        let written = || Value::BulkString(bytes.clone());
        let fields = vec![
            text("k"),
            text(KEY),
            text("e"),
            written(),
            text("a"),
            text("42"),
        ];
        let partition = PartitionKeys::new("shop:Order/4", 0);
        let incarnation = pending.position.incarnation;
        let open = |_: &Key, _: &[u8], _: &[u8]| Ok(None);
        let read = |fields| logged(entry_of(fields), &partition, incarnation, true, open).unwrap();
        let write = read(fields);
        assert_eq!(
            (write.key, write.pending, write.at_ms, write.refused),
            (Key::from_bytes(KEY.as_bytes()), pending, 42, None)
        );
        let Payload::Bytes(bytes, start) = write.payload else {
            panic!("Redis keeps bytes");
        };
        assert_eq!(&bytes[start..], b"row");

        for fields in [
            vec![text("k"), text(KEY)],
            vec![text("e"), written()],
            vec![
                text("k"),
                text("{shop:Order/4:p01}:1"),
                text("e"),
                written(),
            ],
            vec![text("k"), text(KEY), text("e"), text("nonsense")],
        ] {
            let write = read(fields);
            assert!(write.refused.is_some());
            assert_eq!(write.pending.position, pending.position);
        }
        let elsewhere = Incarnation::from_bytes([2; 16]);
        let fields = vec![text("k"), text(KEY), text("e"), written()];
        let write = logged(entry_of(fields), &partition, elsewhere, true, open).unwrap();
        assert!(write.refused.is_some());
        assert_eq!(write.pending.position.incarnation, elsewhere);
    }
}
