//! Redis as the store: one multiplexed connection, one command or one script per operation.
//!
//! 1. A hit is one `GET`; the fill lease on an absent key is one `SET .. NX GET PX`. Everything else is one script.
//! 2. What is found is judged by `state` before its payload is looked at.
//!
//! Invariant: an operation that belongs to a lease is sent only on a connection whose stamp is the lease's.
//! Not here: the connection (`connection`), and the rules. Those are in `state.rs`; the scripts in `store/scripts` say the
//! same in Lua and are compared with it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use redis::{RedisError, Script, ScriptInvocation, Value, aio::MultiplexedConnection};

use crate::{
    behind::{
        mark::{Incarnation, MARK_LENGTH, Mark},
        partition::Partition,
    },
    entry,
    error::StoreError,
    key::Key,
    policy::QueuePolicy,
    repair::Repairs,
    state::{
        self, Condition, Identity, Lease, MAX_INTENTS, Pending, State, Unreadable, View, Writers,
    },
    store::{
        Filling, Found, Keeps, Payload, Store, Touched,
        connection::{Connector, Link, Options},
        durability,
        pulse::Pulse,
        queue::{Body, Fetch, Fetched, Logged, Put, PutAnswer, Settled},
    },
    token::{ProcessId, Token},
    wake::Wakeups,
};

/// How many commands are sent before their answers are waited for.
const LONGEST_PIPELINE: usize = 500;
/// How many rows are settled in one call of the script, which nothing else of Redis runs beside.
const SETTLED_AT_ONCE: usize = 250;
/// How many keys one step of a scan looks at.
const SCANNED_AT_ONCE: u32 = 500;

/// Entries in a Redis server.
pub struct RedisStore(Arc<Connector>);

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address only: a URL may hold a password.
        f.debug_struct("RedisStore")
            .field("address", &self.0.address())
            .finish_non_exhaustive()
    }
}

/// The scripts, each behind the common prelude.
struct Scripts {
    acquire: Script,
    wait: Script,
    fill: Script,
    release: Script,
    begin: Script,
    end: Script,
    invalidate: Script,
    acquire_queued: Script,
    put: Script,
    rotate: Script,
    fetch: Script,
    settle: Script,
}

static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
    let script = |name| Script::new(&script_text(name).expect("the script is in the table"));
    Scripts {
        acquire: script("acquire"),
        wait: script("wait"),
        fill: script("fill"),
        release: script("release"),
        begin: script("begin"),
        end: script("end"),
        invalidate: script("invalidate"),
        acquire_queued: script("acquire_queued"),
        put: script("put"),
        rotate: script("rotate"),
        fetch: script("fetch"),
        settle: script("settle"),
    }
});

/// The text of a script as Redis runs it: flags, the common prelude, the script itself.
pub fn script_text(name: &str) -> Option<String> {
    // A script that takes something away must also run when Redis has no memory left, or a write could not announce itself.
    let (flags, body) = match name {
        "acquire" => ("", include_str!("scripts/acquire.lua")),
        "wait" => ("", include_str!("scripts/wait.lua")),
        "fill" => ("", include_str!("scripts/fill.lua")),
        "release" => (" flags=allow-oom", include_str!("scripts/release.lua")),
        "begin" => (" flags=allow-oom", include_str!("scripts/begin.lua")),
        "end" => (" flags=allow-oom", include_str!("scripts/end.lua")),
        "invalidate" => (" flags=allow-oom", include_str!("scripts/invalidate.lua")),
        "acquire_queued" => (
            " flags=allow-oom",
            include_str!("scripts/acquire_queued.lua"),
        ),
        "put" => ("", include_str!("scripts/put.lua")),
        "rotate" => (" flags=allow-oom", include_str!("scripts/rotate.lua")),
        "fetch" => (" flags=allow-oom", include_str!("scripts/fetch.lua")),
        "settle" => (" flags=allow-oom", include_str!("scripts/settle.lua")),
        _ => return None,
    };
    let prelude = include_str!("scripts/prelude.lua");
    Some(format!("#!lua{flags}\n{prelude}\n{body}"))
}

impl RedisStore {
    /// A store at a URL, trusting this root certificate (PEM) or else the public ones; nothing is connected yet.
    pub(crate) fn new(
        url: &str,
        root_certificate: Option<Vec<u8>>,
        options: Options,
        repairs: Arc<Repairs>,
    ) -> Result<Self, RedisError> {
        let connector = Connector::new(url, root_certificate, options, repairs)?;
        Ok(Self(Arc::new(connector)))
    }

    /// Tries once to connect; goes on in the background if that fails.
    pub async fn connect(&self) -> Result<(), StoreError> {
        self.0.connect().await
    }

    /// The current link if it leads to the history the lease was taken in.
    fn link_of(&self, lease: &Lease) -> Result<Link, StoreError> {
        let link = self.0.link()?;
        if link.stamp == lease.identity.stamp {
            Ok(link)
        } else {
            Err(StoreError::new(
                "Redis was replaced since the lease was taken",
            ))
        }
    }

    /// Runs a script.
    async fn run(
        &self,
        operation: &'static str,
        mut link: Link,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<Value, StoreError> {
        let pulse = Arc::clone(&link.pulse);
        let answer = unless_silent(&pulse, invocation.invoke_async(&mut link.connection)).await?;
        self.0.judge(&link, operation, answer)
    }

    /// Runs a script on one key at a time, in as few round trips as a pipeline of bounded length needs.
    async fn run_at_each<T>(
        &self,
        operation: &'static str,
        mut link: Link,
        script: &Script,
        items: &[T],
        arguments: impl Fn(&T, &mut redis::Cmd),
    ) -> Result<(), StoreError> {
        for items in items.chunks(LONGEST_PIPELINE) {
            let mut pipeline = redis::Pipeline::with_capacity(items.len());
            for item in items {
                let mut call = redis::cmd("EVALSHA");
                call.arg(script.get_hash()).arg(1);
                arguments(item, &mut call);
                pipeline.add_command(call);
            }
            let pulse = Arc::clone(&link.pulse);
            let answer = unless_silent(&pulse, send_all(&mut link, script, &pipeline)).await?;
            self.0.judge(&link, operation, answer)?;
        }
        Ok(())
    }

    /// Runs a command.
    async fn command(
        &self,
        operation: &'static str,
        mut link: Link,
        command: &redis::Cmd,
    ) -> Result<Value, StoreError> {
        let pulse = Arc::clone(&link.pulse);
        let answer = unless_silent(&pulse, link.connection.send_packed_command(command)).await?;
        // A server's refusal arrives as a value when a command is sent this way.
        let answer = answer.and_then(Value::extract_error);
        self.0.judge(&link, operation, answer)
    }

    /// Stores a state past all rules, or removes the key.
    #[cfg(feature = "test-util")]
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
        self.command("force", self.0.link()?, &command).await?;
        Ok(())
    }

    /// The bytes at a key and the milliseconds left to them.
    #[cfg(feature = "test-util")]
    pub(crate) async fn peek(&self, key: &Key) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
        let link = self.0.link()?;
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
}

/// Sends invocations of a script at once; the first error of any of them is the error.
async fn send_all(
    link: &mut Link,
    script: &Script,
    pipeline: &redis::Pipeline,
) -> Result<(), RedisError> {
    let connection = &mut link.connection;
    let mut sent = send(connection, pipeline).await;
    if sent.as_ref().is_err_and(is_unknown_script) {
        script.prepare_invoke().load_async(connection).await?;
        // Again from the front: the scripts that are run this way may run twice.
        sent = send(connection, pipeline).await;
    }
    sent
}

async fn send(
    connection: &mut MultiplexedConnection,
    pipeline: &redis::Pipeline,
) -> Result<(), RedisError> {
    let replies = connection
        .send_packed_commands(pipeline, 0, pipeline.len())
        .await?;
    replies
        .into_iter()
        .try_for_each(|reply| reply.extract_error().map(drop))
}

/// The bytes of an entry.
fn encode(filling: &Filling) -> Result<Vec<u8>, StoreError> {
    match filling {
        Filling::Value(meta, Payload::Bytes(bytes, header)) => {
            Ok(entry::encode(&State::Value(*meta, &bytes[*header..])))
        }
        Filling::Value(_, Payload::Shared(_)) => {
            Err(StoreError::new("a row was not encoded for Redis"))
        }
        Filling::Negative(meta) => Ok(entry::encode(&State::Negative(*meta))),
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}

fn found(reply: Value, identity: Identity) -> Result<Found, StoreError> {
    let bytes = match reply {
        Value::Nil => return Ok(Found::Absent),
        Value::BulkString(bytes) => bytes,
        other => {
            return Err(StoreError::new(format!(
                "an unexpected answer of Redis: {other:?}"
            )));
        }
    };
    let state = entry::decode(&bytes);
    Ok(match (state::view(Some(&state), identity), &state) {
        (View::Value, State::Value(meta, _)) => {
            let meta = *meta;
            Found::Value(meta, Payload::Bytes(bytes, entry::HEADER_LENGTH))
        }
        (View::Value, State::Pending(pending, _)) => {
            let meta = pending.meta;
            Found::Value(
                meta,
                Payload::Bytes(bytes, entry::HEADER_LENGTH + MARK_LENGTH),
            )
        }
        (View::Negative, State::Negative(meta)) => Found::Negative(*meta),
        (View::Negative, State::Pending(pending, _)) => Found::Negative(pending.meta),
        (View::Unsettled, _) => Found::Unsettled,
        (View::Loading, _) => Found::Loading,
        (View::Writing, _) => Found::Writing,
        (_, state) => Found::Foreign {
            damaged: matches!(state, State::Unreadable(Unreadable::Damaged)),
        },
    })
}

/// What the script says is there instead of what was asked for; `None` if the request was granted.
fn instead(reply: Value, identity: Identity) -> Result<Option<Found>, StoreError> {
    match reply {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) if bytes.is_empty() => Ok(Some(Found::Absent)),
        other => found(other, identity).map(Some),
    }
}

/// Stops waiting for an answer when the server falls silent: the caller may have waited for another one before.
async fn unless_silent<T>(pulse: &Pulse, answer: impl Future<Output = T>) -> Result<T, StoreError> {
    tokio::select! {
        biased;
        answer = answer => Ok(answer),
        () = pulse.fell_silent() => Err(StoreError::unanswered("Redis has stopped answering")),
    }
}

fn loading(lease: Lease) -> Vec<u8> {
    entry::encode(&State::Loading(lease, Vec::new()))
}

impl Store for RedisStore {
    fn keeps(&self) -> Keeps {
        Keeps::Bytes
    }

    fn stamp(&self) -> u64 {
        self.0.stamp()
    }

    fn run(&self) -> u64 {
        self.0.run()
    }

    fn is_trusted(&self) -> bool {
        self.0.is_trusted()
    }

    fn wakeups(&self) -> &Wakeups {
        self.0.wakeups()
    }

    async fn get(&self, key: &Key, fingerprint: u32, codec: u8) -> Result<Found, StoreError> {
        let mut link = self.0.link()?;
        let identity = Identity {
            stamp: link.stamp,
            fingerprint,
            codec,
        };
        let mut command = redis::Cmd::new();
        command.arg("GET").arg(key.as_bytes());
        // Waits for its own time-out at most, and for nothing before it: a hit is spared the cost of listening.
        let answer = link.connection.send_packed_command(&command).await;
        let answer = answer.and_then(Value::extract_error);
        found(self.0.judge(&link, "get", answer)?, identity)
    }

    async fn acquire(
        &self,
        key: &Key,
        lease: Lease,
        lease_ttl_ms: u64,
        over: bool,
        partition: Option<&Partition>,
    ) -> Result<Option<Found>, StoreError> {
        let link = self.link_of(&lease)?;
        let entry = loading(lease);
        let reply = if let Some(partition) = partition {
            let mut invocation = SCRIPTS.acquire_queued.prepare_invoke();
            invocation
                .key(key.as_bytes())
                .key(partition.marks.as_bytes())
                .key(partition.state.as_bytes())
                .arg(entry)
                .arg(lease_ttl_ms)
                .arg(partition.log_prefix());
            match self.run("acquire", link, &invocation).await? {
                Value::Int(0) => return Ok(Some(Found::Writing)),
                reply => reply,
            }
        } else if over {
            let mut invocation = SCRIPTS.acquire.prepare_invoke();
            invocation.key(key.as_bytes()).arg(entry).arg(lease_ttl_ms);
            self.run("acquire", link, &invocation).await?
        } else {
            let mut command = redis::Cmd::new();
            command
                .arg("SET")
                .arg(key.as_bytes())
                .arg(entry)
                .arg("NX")
                .arg("GET")
                .arg("PX")
                .arg(lease_ttl_ms);
            self.command("acquire", link, &command).await?
        };
        instead(reply, lease.identity)
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
        instead(
            self.run("wait", self.0.link()?, &invocation).await?,
            identity,
        )
    }

    async fn fill(
        &self,
        key: &Key,
        filling: Filling,
        ttl_ms: u64,
        lease_ttl_ms: u64,
    ) -> Result<bool, StoreError> {
        let lease = filling.meta().lease;
        let mut invocation = SCRIPTS.fill.prepare_invoke();
        invocation
            .key(key.as_bytes())
            .arg(&lease.token.0)
            .arg(encode(&filling)?)
            .arg(ttl_ms)
            .arg(lease_ttl_ms);
        Ok(self.run("fill", self.link_of(&lease)?, &invocation).await? == Value::Int(1))
    }

    async fn release(&self, key: &Key, lease: Lease) -> Result<bool, StoreError> {
        let mut invocation = SCRIPTS.release.prepare_invoke();
        invocation.key(key.as_bytes()).arg(&lease.token.0);
        Ok(self
            .run("release", self.link_of(&lease)?, &invocation)
            .await?
            == Value::Int(1))
    }

    async fn begin(
        &self,
        touched: &[Touched],
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
            self.0.link()?,
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

    async fn end(&self, touched: &[Touched], intent: Token) -> Result<(), StoreError> {
        let link = self.0.link()?;
        let stamp = link.stamp;
        self.run_at_each("end", link, &SCRIPTS.end, touched, |touched, call| {
            call.arg(touched.key.as_bytes()).arg(&intent.0);
            let publication = touched.publication.as_ref();
            // What was written in another history of the store would not be believed here.
            let publication = publication
                .filter(|publication| publication.filling.meta().lease.identity.stamp == stamp);
            let entry = publication.and_then(|publication| {
                let entry = encode(&publication.filling).ok()?;
                Some((entry, publication.ttl_ms))
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
        self.run("invalidate", self.0.link()?, &invocation).await?;
        Ok(())
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
        let reply = self.command("scan", self.0.link()?, &command).await?;
        let (cursor, names): (u64, Vec<Vec<u8>>) =
            redis::from_redis_value(reply).map_err(|error| StoreError::new(error.to_string()))?;
        Ok((
            cursor,
            names.iter().map(|name| Key::from_bytes(name)).collect(),
        ))
    }

    async fn check_queue(&self, policy: &QueuePolicy) -> Result<Result<(), String>, StoreError> {
        let link = self.0.link()?;
        let mut command = redis::cmd("CONFIG");
        command
            .arg("GET")
            .arg("appendonly")
            .arg("appendfsync")
            .arg("maxmemory-policy");
        let mut connection = link.connection.clone();
        let told: Result<HashMap<String, String>, _> = command.query_async(&mut connection).await;
        Ok(match told {
            Ok(told) => durability::judge(&told, policy),
            Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => {
                durability::unknown(&error.to_string(), policy)
            }
            Err(error) => {
                self.0.judge(&link, "config", Err(error))?;
                Ok(())
            }
        })
    }

    async fn put(
        &self,
        partition: &Partition,
        key: &Key,
        put: Put,
    ) -> Result<PutAnswer, StoreError> {
        let link = self.link_of(&put.meta.lease)?;
        let (demand, token) = match put.condition {
            Condition::Any => (0, Token::numbered(0)),
            Condition::Present => (1, Token::numbered(0)),
            Condition::Absent => (2, Token::numbered(0)),
            Condition::Unchanged(token) => (3, token),
        };
        let mut invocation = SCRIPTS.put.prepare_invoke();
        invocation
            .key(key.as_bytes())
            .key(partition.state.as_bytes())
            .key(partition.marks.as_bytes())
            .key(partition.flusher.as_bytes())
            .arg(&link.stamp.to_le_bytes())
            .arg(unmarked(&put)?)
            .arg(demand)
            .arg(&token.0)
            .arg(put.most);
        put_answer(&self.run("put", link, &invocation).await?)
    }

    async fn rotate(
        &self,
        partition: &Partition,
        from: Option<Incarnation>,
        to: Incarnation,
        stamp: u64,
    ) -> Result<bool, StoreError> {
        let link = self.0.link()?;
        if link.stamp != stamp {
            // What was learnt of the queue was learnt of another history.
            return Ok(false);
        }
        let from = from.map(|from| from.to_bytes().to_vec());
        let mut invocation = SCRIPTS.rotate.prepare_invoke();
        invocation
            .key(partition.state.as_bytes())
            .key(partition.logs.as_bytes())
            .arg(from.unwrap_or_default())
            .arg(&to.to_bytes())
            .arg(&link.stamp.to_le_bytes())
            .arg(partition.log(to).as_bytes());
        Ok(self.run("rotate", link, &invocation).await? == Value::Int(1))
    }

    async fn fetch(&self, partition: &Partition, fetch: Fetch) -> Result<Fetched, StoreError> {
        let link = self.0.link()?;
        let mut invocation = SCRIPTS.fetch.prepare_invoke();
        invocation
            .key(partition.state.as_bytes())
            .key(partition.flusher.as_bytes())
            .key(partition.log(fetch.incarnation).as_bytes())
            .arg(&ProcessId::current().0)
            .arg(fetch.claim_ms)
            .arg(fetch.after)
            .arg(fetch.count)
            .arg(&link.stamp.to_le_bytes());
        if fetch.is_first {
            invocation.arg(&fetch.incarnation.to_bytes());
        } else {
            invocation.arg("");
        }
        let stamp = link.stamp;
        fetched(self.run("fetch", link, &invocation).await?, stamp)
    }

    async fn settle(
        &self,
        partition: &Partition,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> Result<(), StoreError> {
        let link = self.0.link()?;
        let log = partition.log(incarnation);
        let mut chunks = settled.chunks(SETTLED_AT_ONCE).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let is_last = chunks.peek().is_none();
            let mut invocation = SCRIPTS.settle.prepare_invoke();
            invocation
                .key(partition.state.as_bytes())
                .key(partition.marks.as_bytes())
                .key(log.as_bytes())
                .arg(&incarnation.to_bytes())
                // The log is cut off last: what has not been settled is found there again.
                .arg(if is_last { up_to } else { 0 });
            for Settled {
                key,
                number,
                keep_ms,
            } in chunk
            {
                invocation.key(key.as_bytes()).arg(*number).arg(*keep_ms);
            }
            self.run("settle", link.clone(), &invocation).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn queued(&self, key: &Key) -> Result<Option<(Pending, Payload)>, StoreError> {
        let command = redis::Cmd::get(key.as_bytes());
        let reply = self.command("get", self.0.link()?, &command).await?;
        let Value::BulkString(bytes) = reply else {
            return Ok(None);
        };
        Ok(match entry::decode(&bytes) {
            State::Pending(pending, _) => {
                let payload = Payload::Bytes(bytes, entry::HEADER_LENGTH + MARK_LENGTH);
                Some((pending, payload))
            }
            _ => None,
        })
    }

    async fn logs(&self, partition: &Partition) -> Result<Vec<Incarnation>, StoreError> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(partition.logs.as_bytes());
        let reply = self.command("logs", self.0.link()?, &command).await?;
        let names: Vec<Vec<u8>> = value(reply)?;
        let names = names.into_iter().filter_map(|name| name.try_into().ok());
        Ok(names.map(Incarnation::from_bytes).collect())
    }

    async fn drop_log(
        &self,
        partition: &Partition,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        let link = self.0.link()?;
        let log = partition.log(incarnation);
        let delete = redis::Cmd::del(log.as_bytes());
        self.command("drop_log", link.clone(), &delete).await?;
        let mut forget = redis::cmd("SREM");
        forget
            .arg(partition.logs.as_bytes())
            .arg(&incarnation.to_bytes());
        self.command("drop_log", link, &forget).await?;
        Ok(())
    }

    async fn marks(
        &self,
        partition: &Partition,
        cursor: u64,
    ) -> Result<(u64, Vec<(Key, Mark)>), StoreError> {
        let mut command = redis::cmd("HSCAN");
        command
            .arg(partition.marks.as_bytes())
            .arg(cursor)
            .arg("COUNT")
            .arg(SCANNED_AT_ONCE);
        let reply = self.command("marks", self.0.link()?, &command).await?;
        type Fields = Vec<(Vec<u8>, Vec<u8>)>;
        let (cursor, fields): (u64, Fields) = value(reply)?;
        let marks = fields.into_iter().filter_map(|(key, mark)| {
            let mark = Mark::from_bytes(mark.try_into().ok()?);
            Some((Key::from_bytes(&key), mark))
        });
        Ok((cursor, marks.collect()))
    }

    async fn disclaim(&self, partition: &Partition) -> Result<(), StoreError> {
        // A claim that another process has taken since is left alone: it is compared, and what is left of the race only
        // costs that process a moment.
        let link = self.0.link()?;
        let get = redis::Cmd::get(partition.flusher.as_bytes());
        let holder = self.command("disclaim", link.clone(), &get).await?;
        if holder == Value::BulkString(ProcessId::current().0.to_vec()) {
            let delete = redis::Cmd::del(partition.flusher.as_bytes());
            self.command("disclaim", link, &delete).await?;
        }
        Ok(())
    }
}

/// The Pending entry of a put, with a mark that the script fills in.
fn unmarked(put: &Put) -> Result<Vec<u8>, StoreError> {
    let (is_deletion, payload) = match &put.body {
        Body::Row(Payload::Bytes(bytes, header)) => (false, &bytes[*header..]),
        Body::Row(Payload::Shared(_)) => {
            return Err(StoreError::new("a row was not encoded for Redis"));
        }
        Body::Deletion(id) => (true, id.as_slice()),
    };
    let pending = Pending {
        mark: Mark::from_bytes([0; MARK_LENGTH]),
        is_deletion,
        meta: put.meta,
    };
    Ok(entry::encode(&State::Pending(pending, payload)))
}

fn put_answer(reply: &Value) -> Result<PutAnswer, StoreError> {
    match reply {
        Value::BulkString(mark) => {
            if let Ok(mark) = <[u8; MARK_LENGTH]>::try_from(mark.as_slice()) {
                return Ok(PutAnswer::Done(Mark::from_bytes(mark)));
            }
        }
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int(1), from] => return Ok(PutAnswer::Rotate(incarnation(from))),
            [Value::Int(2)] => return Ok(PutAnswer::Full),
            [Value::Int(3)] => return Ok(PutAnswer::Unknown),
            [Value::Int(4)] => return Ok(PutAnswer::Refused),
            _ => {}
        },
        _ => {}
    }
    Err(unexpected(reply))
}

fn fetched(reply: Value, stamp: u64) -> Result<Fetched, StoreError> {
    let Value::Array(parts) = reply else {
        return Err(unexpected(&reply));
    };
    let mut parts = parts.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let mut found = Fetched {
        is_claimed: false,
        stamp,
        is_present: false,
        current: None,
        current_last: 0,
        log_last: 0,
        now_ms: 0,
        writes: Vec::new(),
    };
    if next() != Value::Int(1) {
        return Ok(found);
    }
    found.is_claimed = true;
    found.current = incarnation(&next());
    found.current_last = value(next())?;
    let (_, log_last) = id(&next())?;
    found.log_last = log_last;
    found.now_ms = value(next())?;
    let writes: Vec<(Value, HashMap<String, Vec<u8>>)> = value(next())?;
    for (place, mut fields) in writes {
        let mut field = |name: &str| fields.remove(name).unwrap_or_default();
        let (key, bytes, at) = (field("k"), field("e"), field("a"));
        let State::Pending(pending, _) = entry::decode(&bytes) else {
            return Err(StoreError::new(format!(
                "what is in the queue at {place:?} is no write"
            )));
        };
        found.writes.push(Logged {
            key: Key::from_bytes(&key),
            pending,
            payload: Payload::Bytes(bytes, entry::HEADER_LENGTH + MARK_LENGTH),
            at_ms: String::from_utf8_lossy(&at).parse().unwrap_or(0),
        });
    }
    found.is_present = next() == Value::Int(1);
    Ok(found)
}

/// The two numbers of a stream's id.
fn id(reply: &Value) -> Result<(u64, u64), StoreError> {
    let text: String = value(reply.clone())?;
    let parts = text.split_once('-');
    let parsed = parts.and_then(|(time, number)| Some((time.parse().ok()?, number.parse().ok()?)));
    parsed.ok_or_else(|| unexpected(reply))
}

fn incarnation(reply: &Value) -> Option<Incarnation> {
    match reply {
        Value::BulkString(bytes) => {
            Some(Incarnation::from_bytes(bytes.as_slice().try_into().ok()?))
        }
        _ => None,
    }
}

fn value<T: redis::FromRedisValue>(reply: Value) -> Result<T, StoreError> {
    redis::from_redis_value(reply).map_err(|error| StoreError::new(error.to_string()))
}

fn unexpected(reply: &Value) -> StoreError {
    StoreError::new(format!("an unexpected answer of Redis: {reply:?}"))
}

/// The pattern of the keys that begin so, whatever they begin with.
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
