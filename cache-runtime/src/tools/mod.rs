//! Looks into a store and steers it without the entities, for the command `larder` (feature `tools`).
//!
//! It knows of entities what their processes have listed (`protocol::listing`). What it changes, it changes through the protocol: a
//! row is dropped by the same script as `invalidate`, a tag by the same step of the clock.
//!
//! Invariant: nothing is deleted by a bare `DEL`, and a queued write is never dropped.
//! Not here: what is printed (the package `larder-cli`).

mod content;
mod database;
mod queues;
mod server;

use std::{collections::BTreeMap, time::Duration};

use redis::{Cmd, FromRedisValue, Value};

pub use self::{
    content::{Shown, ShownState},
    database::{LetterPlace, RawLetter, ToolDatabase},
    queues::ShownPartition,
    server::{Finding, Severity},
};
use crate::{
    cache::{Cache, CacheBuilder},
    clock::{Clock, Deadline},
    error::{Error, ErrorKind, StoreError},
    protocol::{
        key::{Key, KeySpace},
        listing::{
            AUDIT, AuditRequest, ListedAudit, ListedEntity, ListedProcess, ListedReplay, REPLAY,
            ReplayRequest, Switches, entities_key, processes_key, result_key, switches_key,
        },
        tags::{Changed, Tag},
        token::Token,
    },
    store::{Store, redis::RedisStore, tags::TagStore},
};

/// How long a process may be silent before it counts as gone, in milliseconds.
const GONE_AFTER_MS: u64 = 20_000;

/// The pause between two looks for an answer.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A store, as tools see it.
#[derive(Debug)]
pub struct Tools {
    cache: Cache,
}

/// What a scan has found.
#[derive(Clone, Debug)]
pub struct FoundKeys {
    /// The names of the keys, in no order.
    pub keys: Vec<String>,
    /// How many keys were looked at.
    pub scanned: u64,
    /// Whether there may be more, because a limit was reached.
    pub is_cut: bool,
}

impl Tools {
    /// Connects to the store of a cache.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for options that cannot be used. [`ErrorKind::CacheUnavailable`] if Redis cannot be reached.
    pub async fn connect(builder: CacheBuilder) -> Result<Self, Error> {
        let cache = builder.listed(false).connect().await?;
        let tools = Self { cache };
        let Some(store) = tools.cache.inner().store.redis() else {
            return Err(Error::new(
                ErrorKind::Configuration,
                "failed to connect: give the URL of a Redis; what a cache in process holds, only that process sees",
            ));
        };
        if let Err(error) = store.connect().await {
            let why = format!("{} cannot be used: {error}", store.described());
            return Err(Error::new(ErrorKind::CacheUnavailable, why));
        }
        Ok(tools)
    }

    /// Returns the namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.cache.namespace()
    }

    fn store(&self) -> &RedisStore {
        let store = self.cache.inner().store.redis();
        store.expect("only a cache in Redis is connected to")
    }

    /// Sends a command.
    async fn ask(&self, command: &Cmd) -> Result<Value, Error> {
        self.store().ask(command).await.map_err(unavailable)
    }

    async fn ask_for<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let answer = self.ask(command).await?;
        T::from_redis_value(answer).map_err(|error| {
            Error::new(
                ErrorKind::CacheUnavailable,
                format!("Redis has answered something else than expected: {error}"),
            )
        })
    }

    /// Returns the entities that are listed, by the names of their fields.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CacheUnavailable`] if Redis cannot be reached, or refuses the command.
    pub async fn entities(&self) -> Result<BTreeMap<String, ListedEntity>, Error> {
        self.hash(&entities_key(self.namespace())).await
    }

    /// Returns the processes that are there. Removes those that are gone from the list.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn processes(&self) -> Result<BTreeMap<String, ListedProcess>, Error> {
        let key = processes_key(self.namespace());
        let mut processes: BTreeMap<String, ListedProcess> = self.hash(&key).await?;
        let now_ms = self.now_ms().await?;
        let gone: Vec<_> = processes
            .iter()
            .filter(|(_, process)| now_ms.saturating_sub(process.seen_ms) > GONE_AFTER_MS)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            processes.remove(id);
            let mut remove = redis::cmd("HDEL");
            remove.arg(&key).arg(id);
            // Whoever may only read leaves them there.
            let _refused = self.ask(&remove).await;
        }
        Ok(processes)
    }

    /// Returns the time of the server in milliseconds since 1970.
    async fn now_ms(&self) -> Result<u64, Error> {
        let (seconds, micros): (u64, u64) = self.ask_for(&redis::cmd("TIME")).await?;
        Ok(seconds.saturating_mul(1_000).saturating_add(micros / 1_000))
    }

    /// Returns what is paused from outside, by entity, or `*` for all.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn switches(&self) -> Result<BTreeMap<String, Switches>, Error> {
        let mut switches: BTreeMap<String, _> = self.hash(&switches_key(self.namespace())).await?;
        switches.retain(|field, _| !field.starts_with(AUDIT));
        Ok(switches)
    }

    /// Pauses an entity, or all (`*`), in every process that is listed: within five seconds, and until it is resumed.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn switch(&self, entity: &str, switches: Switches) -> Result<(), Error> {
        let key = switches_key(self.namespace());
        let command = match switches == Switches::default() {
            true => {
                let mut remove = redis::cmd("HDEL");
                remove.arg(&key).arg(entity);
                remove
            }
            false => {
                let mut set = redis::cmd("HSET");
                let text = serde_json::to_string(&switches).expect("it is two truth values");
                set.arg(&key).arg(entity).arg(text);
                set
            }
        };
        self.ask(&command).await.map(drop)
    }

    /// Asks one process to compare cached rows of an entity with the database, and returns the result. `None`: no process has answered in
    /// this time.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn audit(
        &self,
        entity: &str,
        rows: u64,
        per_second: u32,
        patience: Duration,
    ) -> Result<Option<ListedAudit>, Error> {
        let request = AuditRequest {
            id: format!("{:?}", Token::draw()),
            rows,
            per_second,
        };
        let field = format!("{AUDIT}{entity}");
        self.request(&field, &request.id, &request, patience).await
    }

    /// Asks one process to replay a dead letter, and returns the result. `None`: no process has answered in this time.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn replay(
        &self,
        queue: &str,
        place: LetterPlace,
        patience: Duration,
    ) -> Result<Option<ListedReplay>, Error> {
        let request = ReplayRequest {
            id: format!("{:?}", Token::draw()),
            partition: place.partition,
            epoch: place.epoch,
            number: place.number,
        };
        let field = format!("{REPLAY}{queue}");
        self.request(&field, &request.id, &request, patience).await
    }

    /// Asks one process for something, and returns the result.
    async fn request<R: serde::de::DeserializeOwned>(
        &self,
        field: &str,
        id: &str,
        request: &impl serde::Serialize,
        patience: Duration,
    ) -> Result<Option<R>, Error> {
        let key = switches_key(self.namespace());
        let text = serde_json::to_string(request).expect("texts and numbers are JSON");
        let mut ask = redis::cmd("HSET");
        ask.arg(&key).arg(field).arg(text);
        self.ask(&ask).await?;
        let deadline = Deadline::after(patience);
        let mut get = redis::cmd("GET");
        get.arg(result_key(self.namespace(), id));
        let answer = loop {
            if let Value::BulkString(text) = self.ask(&get).await? {
                break serde_json::from_slice(&text).ok();
            }
            if deadline.has_passed() {
                break None;
            }
            Deadline::after(LOOK_EVERY).passed().await;
        };
        let mut forget = redis::cmd("HDEL");
        forget.arg(&key).arg(field);
        self.ask(&forget).await?;
        Ok(answer)
    }

    async fn hash<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<BTreeMap<String, T>, Error> {
        let mut command = redis::cmd("HGETALL");
        command.arg(key);
        let texts: BTreeMap<String, String> = self.ask_for(&command).await?;
        // What others have written there is passed over.
        let values = texts
            .into_iter()
            .filter_map(|(field, text)| Some((field, serde_json::from_str(&text).ok()?)));
        Ok(values.collect())
    }

    /// Returns the key of a row of an entity. The parts of a composite id are given one by one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conversion`] for another number of parts than the id has.
    pub fn key(&self, entity: &ListedEntity, id: &[String]) -> Result<Key, Error> {
        if id.len() != entity.id.len() {
            return Err(Error::new(
                ErrorKind::Conversion,
                format!(
                    "{} has an id of {} parts ({}), and {} were given",
                    entity.entity,
                    entity.id.len(),
                    entity.id.join(", "),
                    id.len()
                ),
            ));
        }
        let partitions = entity.queue.as_ref().map(|queue| queue.partitions);
        let keys = KeySpace::listed(&entity.prefix, partitions);
        let key = match id {
            [only] => keys.key(only),
            parts => keys.key(parts),
        };
        key.map_err(|error| Error::new(ErrorKind::Conversion, error.to_string()))
    }

    /// Drops rows, as `invalidate` does: loads that are under way are not cached, and queued writes stay.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`]. Some of the rows may be dropped.
    pub async fn drop_rows(&self, entity: &ListedEntity, keys: &[Key]) -> Result<(), Error> {
        for key in keys {
            let dropped = self.cache.inner().store.invalidate(key).await;
            dropped.map_err(unavailable)?;
        }
        self.drop_dependents(entity).await
    }

    /// Drops the rows with a tag, as `invalidate_tag` does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the entity has no tags. Otherwise as [`Tools::entities`].
    pub async fn drop_tag(&self, entity: &ListedEntity, tag: &str) -> Result<(), Error> {
        let clock = clock_of(entity).ok_or_else(|| {
            Error::new(
                ErrorKind::Configuration,
                format!("{} has no tags", entity.entity),
            )
        })?;
        let changed = Changed::Tags(vec![Tag::new(tag)]);
        let store = &self.cache.inner().store;
        let advanced = store.advance_clock(&clock, &changed).await;
        advanced.map_err(unavailable)?;
        self.drop_dependents(entity).await
    }

    /// Drops all rows of an entity, as `invalidate_all` does. Returns how many keys were dropped, or `None` for an entity with
    /// tags, whose rows are all out of date at once.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`]. Some of the rows may be dropped.
    pub async fn drop_all(&self, entity: &ListedEntity) -> Result<Option<u64>, Error> {
        let store = &self.cache.inner().store;
        if let Some(clock) = clock_of(entity) {
            let advanced = store.advance_clock(&clock, &Changed::All).await;
            advanced.map_err(unavailable)?;
            self.drop_dependents(entity).await?;
            return Ok(None);
        }
        let mut dropped = 0;
        for prefix in prefixes_of(entity) {
            let mut cursor = 0;
            loop {
                let (next, keys) = store
                    .scan(prefix.as_bytes(), cursor)
                    .await
                    .map_err(unavailable)?;
                for key in keys {
                    store.invalidate(&key).await.map_err(unavailable)?;
                    dropped += 1;
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        self.drop_dependents(entity).await?;
        Ok(Some(dropped))
    }

    /// Invalidates the cached queries that depend on an entity, if there are any.
    async fn drop_dependents(&self, entity: &ListedEntity) -> Result<(), Error> {
        let clock = Key::from_bytes(format!("{}:@queries@tags", entity.namespace).as_bytes());
        let store = &self.cache.inner().store;
        let reading = store.read_clock(&clock).await.map_err(unavailable)?;
        if reading.is_some() {
            let changed = Changed::Tags(vec![Tag::of_entity(&entity.entity)]);
            let advanced = store.advance_clock(&clock, &changed).await;
            advanced.map_err(unavailable)?;
        }
        Ok(())
    }

    /// Returns the keys that match a pattern of Redis, at most so many, and looks at no more than so many. `progress` is told how
    /// many were looked at.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn find(
        &self,
        pattern: &str,
        limit: usize,
        most_scanned: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<FoundKeys, Error> {
        const STEP: u64 = 1_000;
        let mut found = FoundKeys {
            keys: Vec::new(),
            scanned: 0,
            is_cut: false,
        };
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern);
            scan.arg("COUNT").arg(STEP);
            let (next, keys): (u64, Vec<Vec<u8>>) = self.ask_for(&scan).await?;
            found.scanned += STEP;
            for key in keys {
                found.keys.push(Key::from_bytes(&key).to_string());
            }
            progress(found.scanned);
            cursor = next;
            let is_over = cursor == 0;
            if found.keys.len() >= limit || is_over || found.scanned >= most_scanned {
                found.is_cut = !is_over || found.keys.len() > limit;
                found.keys.truncate(limit);
                return Ok(found);
            }
        }
    }

    fn clock(&self) -> &Clock {
        &self.cache.inner().clock
    }
}

/// Returns a text that others may have written, with control characters and marks of direction escaped, for a terminal.
#[must_use]
pub fn escaped(text: &str) -> String {
    content::printed(text.as_bytes())
}

/// Returns the key of the clock of an entity's tags, if it has tags.
fn clock_of(entity: &ListedEntity) -> Option<Key> {
    let prefix = entity.prefix.strip_suffix(':')?;
    let has_tags = !entity.tags.is_empty();
    has_tags.then(|| Key::from_bytes(format!("{prefix}@tags").as_bytes()))
}

/// Returns what the keys of an entity's rows and lookups begin with.
fn prefixes_of(entity: &ListedEntity) -> Vec<String> {
    match &entity.queue {
        None => {
            let before = entity.prefix.strip_suffix(':').unwrap_or(&entity.prefix);
            vec![entity.prefix.clone(), format!("{before}#")]
        }
        // The numbers of the partitions differ.
        Some(_) => {
            let shared = entity.prefix.strip_suffix("00}:");
            vec![shared.unwrap_or(&entity.prefix).to_owned()]
        }
    }
}

fn unavailable(error: StoreError) -> Error {
    let message = error.to_string();
    Error::with_source(ErrorKind::CacheUnavailable, message, error)
}
