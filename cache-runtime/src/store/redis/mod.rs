//! Redis as the store: one multiplexed connection, one command or one script per operation on a key.
//!
//! 1. A hit is one `GETRANGE`; the fill lease on an absent key is one `SET .. NX GET PX`. Everything else is one script. A large
//!    entry costs one more (`large`).
//! 2. `state` judges the bytes that are found, and `seal` opens them, before anything decodes the payload.
//!
//! Invariant: an operation that belongs to a lease is sent only on a connection to the history of that lease.
//! Not here: the connection (`connection`), how a script or command is sent (`send`), and the rules. Those are in
//! `protocol/state.rs`; the scripts in `scripts` say the same in Lua, and tests compare them.

mod closings;
mod condition;
pub mod connection;
mod direct;
mod durability;
mod heartbeat;
mod large;
pub(crate) mod listing;
mod log_reader;
mod messages;
mod put;
mod queue;
#[cfg(feature = "internal-faults")]
pub mod replies;
mod scripts;
mod send;
mod tags;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use redis::{RedisError, Value};

pub use self::scripts::script_text;

use crate::{
    error::StoreError,
    gathering::Gathering,
    health::StoreHealth,
    printed,
    protocol::{
        claim::{Claim, InForce},
        entry,
        family::{self, Family, Recorded},
        key::Key,
        partition_keys::PartitionKeys,
        seal::{Refusal, Seals},
        size::AROUND_A_ROW,
        state::{self, Identity, Lease, Lookup, MAX_INTENTS, Pending, State, Unreadable, Writers},
        token::{ProcessId, Token},
    },
    store::{
        AnnouncedKey, Fill, FillRequest, Found, LeaseRequest, Mechanism, Over, Payload,
        Representation, Store,
        redis::{
            connection::{Certificates, Connector, Link, Observer, Options},
            large::LARGE_ENTRY,
            log_reader::{BatchBytes, KnownSizes},
            put::Puts,
            scripts::SCRIPTS,
            send::{calling, extract_entry},
        },
        tags::ClockAnswer,
        wake::Wakeups,
    },
};

/// How many keys one step of a scan looks at.
const SCANNED_AT_ONCE: u32 = 500;

/// Entries in a Redis server.
pub struct RedisStore {
    connector: Arc<Connector>,
    /// Gathers queued writes into batches.
    puts: Arc<Gathering<Puts>>,
    /// The same for queued writes that wait for the server's disk.
    synced_puts: Arc<Gathering<Puts>>,
    /// The first reading of a clock, for a test.
    first_reading: OnceLock<ClockAnswer>,
    /// How large the queued writes are that are read next.
    sizes: KnownSizes,
    /// How many bytes the next batch of them may have.
    batch_bytes: BatchBytes,
    /// How large an encoded row may be, in bytes.
    longest_row: AtomicU64,
    seals: Seals,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address only: a URL may hold a password.
        f.debug_struct("RedisStore")
            .field("address", &self.connector.address())
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Returns a store at a URL. It does not connect yet.
    pub(crate) fn new(
        url: &str,
        certificates: Certificates,
        seals: Seals,
        options: Options,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, RedisError> {
        let connector = Connector::new(url, certificates, options, observer)?;
        let connector = Arc::new(connector);
        let puts = Puts::at_once(Arc::clone(&connector));
        let synced_puts = Puts::after_sync(Arc::clone(&connector));
        Ok(Self {
            connector,
            puts,
            synced_puts,
            first_reading: OnceLock::new(),
            sizes: KnownSizes::default(),
            batch_bytes: BatchBytes::default(),
            longest_row: AtomicU64::new(0),
            seals,
        })
    }

    /// Returns what seals its entries.
    pub(crate) fn seals(&self) -> &Seals {
        &self.seals
    }

    /// Tries once to connect. If that fails, it continues to try in the background.
    pub async fn connect(&self) -> Result<(), StoreError> {
        self.connector.connect().await
    }

    /// Returns which server it is, for messages.
    #[cfg(feature = "tools")]
    pub(crate) fn described(&self) -> String {
        format!("Redis at {}", self.connector.address())
    }

    /// Sends a command of a tool.
    #[cfg(feature = "tools")]
    pub(crate) async fn ask(&self, command: &redis::Cmd) -> Result<Value, StoreError> {
        let link = self.connector.link()?;
        self.command("tool", link, command).await
    }

    /// Returns the current link if it leads to the history in which the lease was taken.
    fn link_of(&self, lease: &Lease) -> Result<Link, StoreError> {
        let link = self.connector.link()?;
        if link.history == lease.identity.history {
            Ok(link)
        } else {
            Err(StoreError::new(
                "Redis was replaced since the lease was taken",
            ))
        }
    }

    /// Returns what a read found, of which a reply has the beginning.
    async fn found_from(
        &self,
        link: Link,
        key: &Key,
        first: Value,
        identity: Identity,
    ) -> Result<Found, StoreError> {
        if matches!(&first, Value::BulkString(bytes) if bytes.is_empty()) {
            return Ok(Found::Absent);
        }
        let entry = self.whole("get", link, key, first).await?;
        self.found(key, entry, identity)
    }

    /// Returns what a read of several keys found.
    async fn found_each(
        &self,
        link: &Link,
        keys: &[&Key],
        replies: Vec<Result<Value, StoreError>>,
        identity: Identity,
    ) -> Vec<Result<Found, StoreError>> {
        let mut answers = Vec::with_capacity(keys.len());
        for (key, reply) in keys.iter().zip(replies) {
            answers.push(match reply {
                Ok(first) => self.found_from(link.clone(), key, first, identity).await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Stores an entry without applying the rules, or removes the key.
    #[cfg(feature = "internal-faults")]
    pub(crate) async fn force(
        &self,
        key: &Key,
        entry: Option<(&[u8], u64)>,
    ) -> Result<(), StoreError> {
        let command = match entry {
            Some((bytes, ttl_ms)) => redis::Cmd::set(key.as_bytes(), bytes)
                .arg("PX")
                .arg(ttl_ms.max(1))
                .to_owned(),
            None => redis::Cmd::del(key.as_bytes()),
        };
        self.command("force", self.connector.link()?, &command)
            .await?;
        Ok(())
    }

    /// Returns the bytes at a key, and how many milliseconds are left until they expire.
    #[cfg(feature = "internal-faults")]
    pub(crate) async fn peek(&self, key: &Key) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
        let link = self.connector.link()?;
        let bytes = self
            .command("peek", link.clone(), &redis::Cmd::get(key.as_bytes()))
            .await?;
        let left = self
            .command("peek", link, &redis::Cmd::pttl(key.as_bytes()))
            .await?;
        Ok(match (bytes, left) {
            (Value::BulkString(bytes), Value::Int(left)) => {
                Some((bytes, u64::try_from(left).unwrap_or(0)))
            }
            _ => None,
        })
    }

    /// Returns the bytes of an entry.
    fn encode(&self, key: &Key, fill: &Fill) -> Result<Vec<u8>, StoreError> {
        match fill {
            Fill::Value(meta, Payload::Bytes(bytes, header)) => {
                let value = State::Value(*meta, &bytes[*header..]);
                Ok(self.seals.encode(key, &value))
            }
            Fill::Value(_, Payload::Shared(..)) => {
                Err(StoreError::new("a row was not encoded for Redis"))
            }
            Fill::Negative(meta) => Ok(self.seals.encode(key, &State::Negative(*meta))),
        }
    }

    /// Returns what a reply says about a key.
    fn found(&self, key: &Key, reply: Value, identity: Identity) -> Result<Found, StoreError> {
        let bytes = match reply {
            Value::Nil => return Ok(Found::Absent),
            Value::BulkString(bytes) => bytes,
            other => {
                return Err(StoreError::new(format!(
                    "an unexpected answer of Redis: {other:?}"
                )));
            }
        };
        let state = match entry::decode(&bytes) {
            // `state::sound`, as far as the bytes tell.
            State::Pending(..) if !key.has_queue() => State::Unreadable(Unreadable::Damaged),
            state => state,
        };
        let found = state::lookup(Some(&state), identity);
        let opened = match (&state, &found) {
            (
                State::Value(meta, payload) | State::Pending(Pending { meta, .. }, payload),
                Lookup::Value(..) | Lookup::Negative(_) | Lookup::StalePending,
            ) => Some((meta, *payload)),
            (State::Negative(meta), Lookup::Negative(_)) => Some((meta, &[][..])),
            _ => None,
        };
        let opened = opened.map(|(meta, payload)| {
            let opened = self.open(key, &bytes, payload);
            opened.map_err(|refusal| (refusal, meta.lease.token))
        });
        let is_queued = matches!(state, State::Pending(..));
        match opened.transpose() {
            Ok(Some(Some(payload))) => Ok(found.map(|_| Payload::Bytes(payload, 0))),
            Ok(_) => {
                // The bytes before the row differ in length: a queue position may come first.
                let start = found.map(|row| bytes.len() - row.len());
                Ok(start.map(|start| Payload::Bytes(bytes, start)))
            }
            // An acknowledged write of others stays.
            Err((Refusal::Unknown(_), _)) if is_queued => Ok(Found::Writing),
            Err((_, token)) => Ok(Found::NotAuthentic(token)),
        }
    }

    /// Opens an entry with this payload.
    pub(crate) fn open(
        &self,
        key: &Key,
        bytes: &[u8],
        payload: &[u8],
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let most = self.longest_row.load(Ordering::Relaxed);
        match self.seals.open(key, bytes, payload, most) {
            Err(_) if self.connector.disables(Mechanism::Seal) => Ok(None),
            opened => opened,
        }
    }

    /// Returns what the script has found at the key instead, or `None` if it granted the request.
    fn instead(
        &self,
        key: &Key,
        reply: Value,
        identity: Identity,
    ) -> Result<Option<Found>, StoreError> {
        match reply {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) if bytes.is_empty() => Ok(Some(Found::Absent)),
            other => self.found(key, other, identity).map(Some),
        }
    }
}

/// Returns the command that reads an entry, or the beginning of a large one.
fn read_beginning(key: &Key) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    command
        .arg("GETRANGE")
        .arg(key.as_bytes())
        .arg(0)
        .arg(LARGE_ENTRY - 1);
    command
}

/// Returns whether a lease is taken by a script, and not by a plain command.
fn calls_script(wanted: &LeaseRequest<'_>) -> bool {
    wanted.over != Over::Nothing || wanted.partition.is_some()
}

/// Returns the command that takes a lease, or returns the entry at its key.
fn take_lease(wanted: &LeaseRequest<'_>, lease_ttl_ms: u64) -> redis::Cmd {
    let LeaseRequest {
        key,
        lease,
        partition,
        ..
    } = wanted;
    let entry = loading(*lease);
    if let Some(partition) = partition {
        let keys = [
            key.as_bytes(),
            partition.pending_index.as_bytes(),
            partition.state.as_bytes(),
        ];
        let mut call = calling(&SCRIPTS.acquire_queued, &keys);
        call.arg(entry)
            .arg(lease_ttl_ms)
            .arg(partition.log_prefix());
        return call;
    }
    if calls_script(wanted) {
        let mut call = calling(&SCRIPTS.acquire, &[key.as_bytes()]);
        call.arg(entry).arg(lease_ttl_ms);
        match wanted.over {
            Over::Outdated(token) => call.arg(&token.0),
            Over::Nothing | Over::Foreign => call.arg(""),
        };
        return call;
    }
    let mut command = redis::Cmd::new();
    command
        .arg("SET")
        .arg(key.as_bytes())
        .arg(entry)
        .arg("NX")
        .arg("GET")
        .arg("PX")
        .arg(lease_ttl_ms);
    command
}

fn loading(lease: Lease) -> Vec<u8> {
    entry::encode(&State::Loading(lease, Vec::new()))
}

impl Store for RedisStore {
    fn keeps(&self) -> Representation {
        Representation::Bytes
    }

    fn most_bytes(&self) -> u64 {
        self.connector
            .longest_argument()
            .saturating_sub(AROUND_A_ROW)
    }

    fn expect_rows_of(&self, bytes: u64) {
        self.longest_row.fetch_max(bytes, Ordering::Relaxed);
    }

    fn history(&self) -> u64 {
        self.connector.history()
    }

    fn connection_number(&self) -> u64 {
        self.connector.connection_number()
    }

    #[cfg(feature = "metrics")]
    fn usage(&self) -> crate::observe::survey::StoreUsage {
        crate::observe::survey::StoreUsage::Link(self.connector.usage())
    }

    fn health(&self) -> StoreHealth {
        self.connector.health()
    }

    fn is_available(&self) -> bool {
        self.connector.is_available()
    }

    fn wakeups(&self) -> &Wakeups {
        self.connector.wakeups()
    }

    async fn get(&self, key: &Key, fingerprint: u32, codec: u8) -> Result<Found, StoreError> {
        let mut link = self.connector.link()?;
        let identity = Identity {
            history: link.history,
            fingerprint,
            codec,
        };
        // Without `unless_silent`, because a hit need not pay for it: the time-out of the command bounds the wait.
        let answer = link.connection.read_beginning(key).await;
        let answer = answer.and_then(extract_entry);
        let first = self.connector.check_reply(&link, "get", answer)?;
        self.found_from(link, key, first, identity).await
    }

    async fn get_many(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
    ) -> Vec<Result<Found, StoreError>> {
        let link = match self.connector.link() {
            Ok(link) => link,
            Err(error) => return vec![Err(error); keys.len()],
        };
        let identity = Identity {
            history: link.history,
            fingerprint,
            codec,
        };
        let commands = keys.iter().map(|key| read_beginning(key)).collect();
        let replies = self.run_all("get", link.clone(), &[], commands).await;
        self.found_each(&link, keys, replies, identity).await
    }

    async fn acquire_many(
        &self,
        wanted: &[LeaseRequest<'_>],
        lease_ttl_ms: u64,
    ) -> Vec<Result<Option<Found>, StoreError>> {
        let link = match wanted.first().map(|first| self.link_of(&first.lease)) {
            Some(Ok(link)) => link,
            Some(Err(error)) => return vec![Err(error); wanted.len()],
            None => return Vec::new(),
        };
        let commands = wanted.iter().map(|wanted| take_lease(wanted, lease_ttl_ms));
        let scripts = [&SCRIPTS.acquire, &SCRIPTS.acquire_queued];
        let replies = self
            .run_all("acquire", link.clone(), &scripts, commands.collect())
            .await;
        let mut answers = Vec::with_capacity(wanted.len());
        for (wanted, reply) in wanted.iter().zip(replies) {
            let identity = wanted.lease.identity;
            answers.push(match reply {
                Err(error) => Err(error),
                Ok(Value::Int(0)) if wanted.partition.is_some() => Ok(Some(Found::Writing)),
                // The reply of a script may be only the beginning of the entry.
                Ok(reply) if calls_script(wanted) => self
                    .whole("acquire", link.clone(), wanted.key, reply)
                    .await
                    .and_then(|entry| self.instead(wanted.key, entry, identity)),
                // This reply is whole, and an empty one is a damaged entry.
                Ok(Value::Nil) => Ok(None),
                Ok(entry) => self.found(wanted.key, entry, identity).map(Some),
            });
        }
        answers
    }

    async fn wait(&self, key: &Key, identity: Identity) -> Result<Option<Found>, StoreError> {
        let own = loading(Lease {
            token: Token::numbered(0),
            identity,
        });
        let mut invocation = SCRIPTS.wait.prepare_invoke();
        invocation
            .key(key.as_bytes())
            .arg(own)
            .arg(&ProcessId::current().0);
        let link = self.connector.link()?;
        let reply = self.run_script("wait", link.clone(), &invocation).await?;
        let entry = self.whole("wait", link, key, reply).await?;
        self.instead(key, entry, identity)
    }

    async fn fill_many(
        &self,
        fills: Vec<FillRequest>,
        lease_ttl_ms: u64,
    ) -> Vec<Result<bool, StoreError>> {
        let mut answers: Vec<_> = fills.iter().map(|_| Ok(false)).collect();
        // Small and large entries have a connection each.
        let mut sent = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for (at, FillRequest { key, fill, ttl_ms }) in fills.iter().enumerate() {
            match self.encode(key, fill) {
                Ok(entry) => {
                    let (places, commands) = &mut sent[usize::from(entry.len() >= LARGE_ENTRY)];
                    let mut call = calling(&SCRIPTS.fill, &[key.as_bytes()]);
                    call.arg(&fill.meta().lease.token.0)
                        .arg(entry)
                        .arg(ttl_ms)
                        .arg(lease_ttl_ms);
                    places.push(at);
                    commands.push(call);
                }
                Err(error) => answers[at] = Err(error),
            }
        }
        for (is_large, (places, commands)) in sent.into_iter().enumerate() {
            let Some(lease) = places.first().map(|&first| fills[first].fill.meta().lease) else {
                continue;
            };
            let link = match self.link_of(&lease) {
                Ok(link) if is_large == 1 => self.connector.large_link(link).await,
                link => link,
            };
            let replies = match link {
                Ok(link) => self.run_all("fill", link, &[&SCRIPTS.fill], commands).await,
                Err(error) => vec![Err(error); commands.len()],
            };
            for (at, reply) in places.into_iter().zip(replies) {
                answers[at] = reply.map(|reply| reply == Value::Int(1));
            }
        }
        answers
    }

    async fn release(&self, key: &Key, lease: Lease) -> Result<bool, StoreError> {
        let mut invocation = SCRIPTS.release.prepare_invoke();
        invocation.key(key.as_bytes()).arg(&lease.token.0);
        Ok(self
            .run_script("release", self.link_of(&lease)?, &invocation)
            .await?
            == Value::Int(1))
    }

    async fn begin(
        &self,
        touched: &[AnnouncedKey],
        intent: Token,
        intent_ttl_ms: u64,
    ) -> Result<(), StoreError> {
        let empty = entry::encode(&State::Writing(Writers {
            intents: Vec::new(),
            contended: false,
            saturated: false,
        }));
        self.run_at_each(
            "begin",
            self.connector.link()?,
            &SCRIPTS.begin,
            touched,
            |touched, call| {
                call.arg(touched.key.as_bytes())
                    .arg(&intent.0)
                    .arg(&empty)
                    .arg(intent_ttl_ms)
                    .arg(MAX_INTENTS);
            },
        )
        .await
    }

    async fn end(&self, touched: &[AnnouncedKey], intent: Token) -> Result<(), StoreError> {
        let link = self.connector.link()?;
        let history = link.history;
        let payloads = touched.iter().filter_map(|touched| {
            let update = touched.update.as_ref()?;
            Some(update.fill.payload()?.size())
        });
        // A write must be seen to end, with its cache update or without.
        let large = self.link_for(link.clone(), payloads.sum()).await;
        let has_updates = large.is_ok();
        let link = large.unwrap_or(link);
        self.run_at_each("end", link, &SCRIPTS.end, touched, |touched, call| {
            call.arg(touched.key.as_bytes()).arg(&intent.0);
            let update = touched.update.as_ref().filter(|_| has_updates);
            // An entry of another history of the store would not be served.
            let update =
                update.filter(|update| update.fill.meta().lease.identity.history == history);
            let entry = update.and_then(|update| {
                let entry = self.encode(&touched.key, &update.fill).ok()?;
                Some((entry, update.ttl_ms))
            });
            match entry {
                Some((entry, ttl_ms)) => call.arg(entry).arg(ttl_ms),
                None => call.arg("").arg(0),
            };
        })
        .await
    }

    async fn invalidate(&self, key: &Key) -> Result<(), StoreError> {
        let mut invocation = SCRIPTS.invalidate.prepare_invoke();
        invocation.key(key.as_bytes());
        self.run_script("invalidate", self.connector.link()?, &invocation)
            .await?;
        Ok(())
    }

    async fn drop_damaged(&self, key: &Key, forged: Option<Token>) -> Result<(), StoreError> {
        let mut invocation = SCRIPTS.drop_damaged.prepare_invoke();
        invocation.key(key.as_bytes());
        match &forged {
            Some(token) => invocation.arg(&token.0),
            None => invocation.arg(""),
        };
        self.run_script("invalidate", self.connector.link()?, &invocation)
            .await?;
        Ok(())
    }

    async fn bind(
        &self,
        claim: &Claim<'_>,
        _: Option<&PartitionKeys>,
    ) -> Result<InForce, StoreError> {
        let link = self.connector.link()?;
        let run = link.number();
        let mut invocation = SCRIPTS.bind.prepare_invoke();
        invocation
            .key(binding_key(claim.namespace))
            .arg(claim.seen)
            .arg(claim.leave)
            .arg(claim.entity)
            .arg(claim.table)
            .arg(u8::from(claim.is_forced))
            .arg(claim.shape)
            .arg(family::REFRESH_AFTER)
            .arg(family::FORGET_AFTER);
        let reply = self.run_script("bind", link, &invocation).await?;
        in_force(reply, run)
    }

    async fn scan(&self, prefix: &[u8], cursor: u64) -> Result<(u64, Vec<Key>), StoreError> {
        let mut command = redis::cmd("SCAN");
        command
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern(prefix))
            .arg("COUNT")
            .arg(SCANNED_AT_ONCE)
            .arg("TYPE")
            .arg("string");
        let reply = self
            .command("scan", self.connector.link()?, &command)
            .await?;
        let (cursor, names): (u64, Vec<Vec<u8>>) = redis::from_redis_value(reply)
            .map_err(|error| StoreError::new(printed::short(&error)))?;
        Ok((
            cursor,
            names.iter().map(|name| Key::from_bytes(name)).collect(),
        ))
    }
}

/// Reads the reply of the script that binds.
fn in_force(reply: Value, run: u64) -> Result<InForce, StoreError> {
    // What larder has not written may be no text.
    type Text = Vec<u8>;
    type Reply = (Text, Text, i64, Vec<(Text, u64, u64)>);
    let (database, table, own_age_ms, others): Reply =
        redis::from_redis_value(reply).map_err(|error| StoreError::new(printed::short(&error)))?;
    let text = |bytes: Text| String::from_utf8_lossy(&bytes).into_owned();
    let others = others.into_iter().map(|(shape, age_ms, idle_ms)| Recorded {
        shape: text(shape),
        age_ms,
        idle_ms,
    });
    Ok(InForce {
        connection_number: run,
        database: text(database),
        table: text(table),
        family: Family {
            own_age_ms: u64::try_from(own_age_ms).ok(),
            others: others.collect(),
            changes: 0,
        },
    })
}

/// Returns the key of a namespace's binding. No row has this key, because every entity has a name.
fn binding_key(namespace: &str) -> String {
    format!("{namespace}::bound")
}

/// Returns the pattern that matches the keys with a prefix. Special characters of the prefix are escaped.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]\\^".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}
