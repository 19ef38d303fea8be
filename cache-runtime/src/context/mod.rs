//! The state of one repository: its cache, its database, its policy, its counters, the loads under way, its queue, and
//! the binding of its namespace. Reads, writes and flushes work on a context and have no other state.
//!
//! Not here: the operations (`read`, `write`, `behind`), and their public names (`repository`).

mod answers;
mod expiry;
pub(crate) mod family;
pub(crate) mod groups;
#[cfg(feature = "redis")]
mod listed;
pub(crate) mod payload;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use sqlx::Pool;

use self::{answers::Answers, family::FamilyView, groups::Groups};
#[cfg(feature = "metrics")]
use crate::store::Representation;
use crate::{
    behind::queue::Queue,
    binding::{Bond, Member},
    cache::{self, Cache},
    clock::Pace,
    database::{
        Database, Write,
        backend::{Backend, Bound},
        column::ColumnSpec,
        dialect::Dialect,
        entity::Entity,
        fields,
        lookup::IdList,
        queries::{self, NoRow},
        schema,
        source::Binding,
        tables::check_name,
        together::Kind,
    },
    detached,
    error::{Error, ErrorKind, StoreError},
    observe::Signals,
    pause::Pauses,
    policy::{Codec, Policy, Strategy},
    protocol::{
        codec,
        fingerprint::Fingerprint,
        key::{self, Key, KeySpace},
        partition_keys::PartitionKeys,
        state::Identity,
        tags::Stamp,
    },
    read::{flight::Flights, turn::Turns},
    stats::Counters,
    store::{Store, failpoint::Mechanism},
    units::{Statements, Units},
    write::row_gate::RowGates,
};

/// What stands for the table of an entity that has none, where the table of an entity is compared.
const NO_TABLE: &str = "larder.select";

/// The state of one repository. Its clones share it.
pub(crate) struct Context<E: Entity, DB: Backend> {
    pub(crate) cache: Arc<cache::Inner>,
    pub(crate) database: Database<E, DB>,
    pub(crate) keys: KeySpace,
    pub(crate) codec: Codec,
    pub(crate) fingerprint: u32,
    /// Those of the entries of the lookups.
    lookup_fingerprints: Vec<u32>,
    pub(crate) policy: Policy,
    pub(crate) counters: Counters,
    pub(crate) pauses: Pauses,
    /// What its operations are observed with.
    pub(crate) signals: Signals,
    pub(crate) flights: Flights<E>,
    pub(crate) lookup_flights: Flights<IdList<E::Id>>,
    pub(crate) turns: Turns,
    /// The loads that wait to be read together, if ids of the entity have one spelling each.
    pub(crate) units: Option<Arc<Units>>,
    pub(crate) row_gates: RowGates,
    /// The writes of each kind that wait to be executed together, if they are.
    writes: [Option<Arc<Units>>; Kind::ALL.len()],
    /// The queue of a write-behind entity.
    pub(crate) queue: Option<Queue>,
    /// The namespace, and its binding.
    pub(crate) bond: Bond<DB>,
    pub(crate) answers: Answers,
    /// The cached queries that depend on the rows.
    queries: OnceLock<Arc<Context<NoRow, DB>>>,
    /// What entries are invalidated by together.
    pub(crate) groups: Groups,
    /// The time of that clock when this process last began a load, and the history of the store then.
    last_stamp: Mutex<Option<(u64, Stamp)>>,
    /// How often the store is asked to forget writes of many rows whose time is over.
    pub(crate) expiries: Pace,
    /// How often the store is asked to look for damage at a key that says that a write is in progress, or whose
    /// entry should have expired.
    pub(crate) suspicions: Pace,
    /// How often a slow load is logged.
    pub(crate) slow_loads: Pace,
    /// Set when a row that is too large was logged.
    pub(crate) size_was_logged: OnceLock<()>,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Whether the writes of the entity are queued. A branch on a constant is not compiled if it is never taken, and a future that is
    /// boxed there is not either: so the code of queues is compiled for the entities that have one.
    pub(crate) const QUEUES: bool = matches!(E::SPEC.policy.strategy, Strategy::WriteBehind);

    /// Whether rows are found by other columns than the id, a constant for the same reason.
    pub(crate) const HAS_LOOKUPS: bool = !E::SPEC.lookups.is_empty();

    /// Checks that the entity, the cache and the database can work together, and creates the state of a repository.
    pub(crate) fn open(cache: &Cache, pool: Pool<DB>) -> Result<Arc<Self>, Error> {
        let binding = <DB::Of<E> as Bound<E, DB>>::BINDING.ok_or_else(|| {
            configuration(format!(
                "failed to create the repository of {}: {}",
                E::SPEC.name,
                fields::misfits::<E, DB>().as_str()
            ))
        })?;
        Self::open_with(cache.inner(), cache.namespace(), pool, binding)
    }

    /// As [`Context::open`], for an entity with this binding. `cache_namespace`: that of entities without one of their own.
    pub(crate) fn open_with(
        cache: &Arc<cache::Inner>,
        cache_namespace: &str,
        pool: Pool<DB>,
        binding: Binding<E, DB>,
    ) -> Result<Arc<Self>, Error> {
        let spec = E::SPEC;
        let namespace = spec.policy.namespace.unwrap_or(cache_namespace).to_owned();
        let cache = Arc::clone(cache);
        let policy = Policy {
            intent_ttl: cache.intent_ttl.unwrap_or(spec.policy.intent_ttl),
            ..spec.policy
        };
        let codec = policy.codec.unwrap_or(cache.codec);
        check_codec::<E>(codec, spec.positional_hazard)?;
        let table = if spec.is_query { NO_TABLE } else { spec.table };
        let bond = Bond::new(&cache.ledger, &namespace, spec.name, table, &pool);
        let omits = !cache.store.disables(Mechanism::Omit);
        let database = Database::new(pool, binding, policy.caches_writes(), omits);
        schema::check_columns(spec.name, &database.columns)?;
        database.check_generated_id()?;
        if !cache.store.disables(Mechanism::Binding) {
            bond.check_at_first_sight(&cache.ledger)?;
        }
        let keys = KeySpace::new(&namespace, spec.name, &policy);
        for prefix in keys.prefixes(Self::HAS_LOOKUPS) {
            cache.repairs.register(&prefix);
        }
        let queue = Self::QUEUES.then(|| {
            let name = key::queue_name(&namespace, spec.name, &policy);
            let mut queue = Queue::new(&name, policy.queue);
            let own = cache
                .store
                .open_queue(&queue.partition_keys(), &policy.queue)?;
            let own = own.filter(|_| !cache.store.disables(Mechanism::OwnQueue));
            if let Some(own) = own {
                queue.name = format!("{name}@{own}").into();
            }
            check_name(spec.name, &queue.name)?;
            Ok::<_, Error>(queue)
        });
        let queue = queue.transpose()?;
        // A queued write outlives a deploy, and its entry with it.
        let version = cache.namespace_version().filter(|_| queue.is_none());
        let family = FamilyView::new(
            &namespace,
            &spec,
            &policy,
            &keys,
            form_of_id::<E, DB>(&database.columns),
        );
        // A query that stands for a table may take long for each row.
        let is_gathered = !spec.is_query && has_exact_ids(&database.columns);
        let units = is_gathered.then(Statements::gathered);
        let gathers = policy.gather_writes.unwrap_or(DB::DIALECT.gathers_writes());
        let writes = Kind::ALL.map(|kind| {
            let is_gathered = gathers && database.can_gather(kind);
            is_gathered.then(Statements::gathered)
        });
        let inner = Arc::new(Self {
            answers: Answers::default(),
            queries: OnceLock::new(),
            groups: Groups::new(&cache, cache_namespace, &keys, &spec, family)?,
            last_stamp: Mutex::default(),
            expiries: Pace::default(),
            suspicions: Pace::default(),
            slow_loads: Pace::default(),
            keys,
            fingerprint: layout::<E, DB>(&database.columns, version),
            lookup_fingerprints: lookup_layouts::<E, DB>(&database.columns, version),
            database,
            codec,
            policy,
            counters: Counters::default(),
            pauses: Pauses::default(),
            signals: Signals::new(
                spec.name,
                spec.table,
                DB::DIALECT.system_name(),
                #[cfg(feature = "metrics")]
                cache
                    .measured
                    .of(spec.name, cache.store.keeps() == Representation::Rows),
            ),
            flights: Flights::default(),
            lookup_flights: Flights::default(),
            turns: Turns::new(cache.load_limits),
            units,
            row_gates: RowGates::default(),
            writes,
            queue,
            bond,
            size_was_logged: OnceLock::new(),
            cache,
        });
        inner.cache.store.expect_rows_of(inner.most_readable());
        for other in inner.cache.ledger.strangers(&namespace, &spec) {
            inner.groups.family.note_logged(other);
            tracing::warn!(
                entity = spec.name,
                other,
                table = spec.table,
                "two entities have the same table and do not name each other; a write through one is announced to the other only as far \
                 as the store knows both; name the other one in the attribute of each entity that is written: \
                 `#[cached(same_table(..))]`"
            );
        }
        let member = Arc::downgrade(&inner) as Weak<dyn Member>;
        inner.cache.ledger.join(&namespace, member);
        #[cfg(feature = "metrics")]
        inner.cache.publish_in_background();
        #[cfg(feature = "redis")]
        inner.cache.list_in_background();
        inner.cache.notice_server::<DB>(spec.name, &namespace);
        Ok(inner)
    }

    /// Returns the cached queries of the namespace, in the database of this repository.
    pub(crate) fn queries(&self) -> Result<Arc<Context<NoRow, DB>>, Error> {
        if let Some(queries) = self.queries.get() {
            return Ok(Arc::clone(queries));
        }
        let opened = open_queries(
            &self.cache,
            &self.bond.namespace,
            self.database.pool.clone(),
        )?;
        Ok(Arc::clone(self.queries.get_or_init(|| opened)))
    }

    pub(crate) fn key(&self, id: &E::Id) -> Result<Key, Error> {
        self.keys.key(id).map_err(|error| {
            let message = format!(
                "failed to write the id of {} as a key: {error}",
                E::SPEC.name
            );
            Error::with_source(ErrorKind::Conversion, message, error)
        })
    }

    /// Returns the writes that wait to be executed together with this one, if it is executed so.
    pub(crate) fn gathering_of(&self, write: &Write<E>) -> Option<(Kind, &Arc<Units>)> {
        let kind = Kind::of(write, self.database.generates_id())?;
        Some((kind, self.writes[kind as usize].as_ref()?))
    }

    /// Returns the fingerprint of the entries of a lookup. They depend on the layout of the id and on what is looked up.
    pub(crate) fn lookup_fingerprint(&self, lookup: usize) -> u32 {
        self.lookup_fingerprints[lookup]
    }

    /// Returns the partition of a key, if the entity has partitions.
    pub(crate) fn partition_keys(&self, key: &Key) -> Option<&PartitionKeys> {
        let queue = self.queue.as_ref()?;
        Some(&queue.partitions[self.keys.partition(key)].keys)
    }

    /// Returns a description of the row, for messages.
    pub(crate) fn describe_row(&self, key: &Key) -> String {
        format!("{} with key {key}", E::SPEC.name)
    }

    /// Returns the values that an entry must have for this repository to accept it now.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            history: self.cache.store.history(),
            fingerprint: self.fingerprint,
            codec: self.codec.number(),
        }
    }

    /// Returns the time of the clock of the tags when this process last began a load, and the history of the store then.
    pub(crate) fn last_stamp(&self) -> MutexGuard<'_, Option<(u64, Stamp)>> {
        self.last_stamp
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether rows come from the database, unless a queued write of them is in the store.
    #[inline]
    pub(crate) fn pauses_reads(&self) -> bool {
        self.pauses.reads() || self.cache.pauses.reads()
    }

    /// Returns whether nothing new is stored. A queued write with a condition compares it with what is stored, so where writes are
    /// queued, fills go on.
    #[inline]
    pub(crate) fn pauses_fills(&self) -> bool {
        let are_paused = self.pauses_reads() || self.pauses.fills() || self.cache.pauses.fills();
        are_paused && self.queue.is_none()
    }

    /// Returns the queue of a write-behind entity.
    pub(crate) fn queue(&self) -> &Queue {
        let queue = self.queue.as_ref();
        queue.expect("the operations of a queue are generated for write-behind entities only")
    }

    /// Returns the error of an operation on the queue after a failure of the store. The operation queues nothing, so
    /// the caller's write is not queued either, even if the store executed the command and its reply was lost.
    pub(crate) fn queue_away(&self, verb: &str, error: StoreError) -> Error {
        let why = "the store cannot be reached, rejected the command or did not reply; try again";
        self.store_failed(ErrorKind::CacheUnavailable, verb, why, error)
    }

    /// Returns the error of a put after a failure of the store.
    pub(crate) fn unacknowledged(&self, verb: &str, error: StoreError) -> Error {
        let (kind, why) = if error.may_be_done {
            (
                ErrorKind::OutcomeUnknown,
                "the store did not reply, so the write may or may not be queued",
            )
        } else {
            (
                ErrorKind::CacheUnavailable,
                "the store cannot be reached or rejected the command; try again",
            )
        };
        self.store_failed(kind, verb, why, error)
    }

    fn store_failed(&self, kind: ErrorKind, verb: &str, why: &str, error: StoreError) -> Error {
        self.counters.store_errors.add_one();
        let message = format!("failed to {verb} {} in its queue: {why}", E::SPEC.name);
        Error::with_source(kind, message, error)
    }
}

impl<E: Entity, DB: Backend> Drop for Context<E, DB> {
    fn drop(&mut self) {
        let stats = self.counters.snapshot();
        self.cache.totals.add(E::SPEC.name, stats);
    }
}

/// Creates the state of the cached queries of a namespace.
pub(crate) fn open_queries<DB: Backend>(
    cache: &Arc<cache::Inner>,
    namespace: &str,
    pool: Pool<DB>,
) -> Result<Arc<Context<NoRow, DB>>, Error> {
    Context::open_with(cache, namespace, pool, queries::binding())
}

/// Runs an operation in a task of its own, so that it ends even if the caller's future is dropped.
pub(crate) fn run_detached<E: Entity, T: Send + 'static>(
    verb: &'static str,
    operation: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> impl Future<Output = Result<T, Error>> + Send {
    let running = detached::run(operation);
    async move {
        running.await.unwrap_or_else(|stopped| {
            let (kind, message) = (ErrorKind::TaskFailed, stopped_message::<E>(verb));
            Err(Error::with_source(kind, message, stopped))
        })
    }
}

/// Returns the message of an operation whose task has ended before it.
pub(crate) fn stopped_message<E: Entity>(verb: &str) -> String {
    let name = E::SPEC.name;
    format!("failed to {verb} {name}: its task panicked or its runtime shut down")
}

/// Returns the fingerprint of the entity and its table. It covers what the derive sees of the struct, and what it does
/// not see of nested types: their columns, and how serde reads them.
fn layout<E: Entity, DB: Backend>(columns: &[ColumnSpec<DB>], version: Option<&str>) -> u32 {
    let mut hash = versioned(version);
    hash.write(&E::SPEC.fingerprint.to_le_bytes());
    hash.write(E::SPEC.table.as_bytes());
    for column in columns {
        hash.write(column.name.as_bytes());
        hash.write(column.type_name().as_bytes());
    }
    write_tags::<E>(&mut hash);
    hash.write(&codec::shape::<E>().to_le_bytes());
    hash.finish()
}

/// Returns whether each id has one spelling, so that a row tells which id it was found by.
fn has_exact_ids<DB: Backend>(columns: &[ColumnSpec<DB>]) -> bool {
    let mut ids = columns.iter().filter(|column| column.role.is_id());
    ids.all(|column| Dialect::is_exact(column.type_name()))
}

/// Returns the form of the ids. Two entities over one table with the same form have the same ids.
fn form_of_id<E: Entity, DB: Backend>(columns: &[ColumnSpec<DB>]) -> String {
    let ids = columns.iter().filter(|column| column.role.is_id());
    let names: Vec<_> = ids.map(|column| column.name).collect();
    format!("{}/{:08x}", names.join(","), codec::shape::<E::Id>())
}

/// Returns the fingerprint of each lookup: of its columns, its order, and the id.
fn lookup_layouts<E: Entity, DB: Backend>(
    columns: &[ColumnSpec<DB>],
    version: Option<&str>,
) -> Vec<u32> {
    let lookups = E::SPEC.lookups.iter().map(|lookup| {
        let mut hash = versioned(version);
        hash.write(b"marked");
        hash.write(format!("{lookup:?}").as_bytes());
        hash.write(E::SPEC.table.as_bytes());
        for column in columns.iter().filter(|column| column.role.is_id()) {
            hash.write(column.name.as_bytes());
            hash.write(column.type_name().as_bytes());
        }
        write_tags::<E>(&mut hash);
        hash.write(&codec::shape::<IdList<E::Id>>().to_le_bytes());
        hash.finish()
    });
    lookups.collect()
}

/// Returns the hash of a layout, so far only of the version of the namespace.
pub(crate) fn versioned(version: Option<&str>) -> Fingerprint {
    let mut hash = Fingerprint::default();
    if let Some(version) = version {
        hash.write(version.as_bytes());
    }
    hash
}

/// An entry says nothing of the tags that it has, so programs with other tags must not use it.
fn write_tags<E: Entity>(hash: &mut Fingerprint) {
    for tag in E::SPEC.tags {
        hash.write(tag.to_string().as_bytes());
    }
    for read in E::SPEC.depends_on {
        hash.write(read().name.as_bytes());
    }
}

fn check_codec<E: Entity>(codec: Codec, hazard: Option<&'static str>) -> Result<(), Error> {
    if !codec.is_positional() {
        return Ok(());
    }
    let name = E::SPEC.name;
    if let Some(hazard) = hazard {
        return Err(configuration(format!(
            "{name} cannot be cached with {codec:?}, which identifies fields by position: it has {hazard}; use \
             `codec = \"msgpack\"`"
        )));
    }
    if codec::requires_self_describing::<E>() {
        return Err(configuration(format!(
            "{name} cannot be cached with {codec:?}: a field has a self-describing type (serde_json::Value, an untagged enum or \
             a flattened struct); use `codec = \"msgpack\"`"
        )));
    }
    Ok(())
}

fn configuration(message: String) -> Error {
    Error::new(ErrorKind::Configuration, message)
}
