//! What one repository knows: its cache, its database and policy, its counters, the loads under way, its queue, and whose
//! its namespace is. Reads, writes and flushes are steps on a context; none of them keeps anything elsewhere.
//!
//! Not here: the steps (`read`, `write`, `behind`), and what users call (`repository`).

pub(crate) mod payload;

use std::sync::{Arc, OnceLock, Weak};

use sqlx::Pool;
use tokio::sync::Semaphore;

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    behind::queue::Queue,
    binding::{Bond, Member},
    cache::{self, Cache},
    database::{
        Database,
        backend::{Backend, Bound},
        column::ColumnSpec,
        entity::Entity,
        schema,
        tables::check_name,
    },
    detached,
    error::{Error, ErrorKind, StoreError},
    policy::{Codec, Policy, Strategy},
    protocol::{
        codec,
        fingerprint::Fingerprint,
        key::{self, Key, KeySpace},
        partition::Partition,
        state::Identity,
    },
    read::flight::Flights,
    stats::Counters,
    store::Store,
};

/// What one repository knows. Its clones share it.
pub(crate) struct Context<E: Entity, DB: Backend> {
    pub(crate) cache: Arc<cache::Inner>,
    pub(crate) database: Database<E, DB>,
    pub(crate) keys: KeySpace,
    pub(crate) codec: Codec,
    pub(crate) fingerprint: u32,
    pub(crate) policy: Policy,
    pub(crate) counters: Counters,
    pub(crate) flights: Flights<E>,
    /// The loads that may run at the same time.
    pub(crate) loading: Semaphore,
    /// The queue of a write-behind entity.
    pub(crate) queue: Option<Queue>,
    /// The namespace, and whose it is.
    pub(crate) bond: Bond<DB>,
    /// Set when it was said that a row is too large.
    pub(crate) told_of_size: OnceLock<()>,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Checks that the entity, the cache and the database can work together, and makes what a repository of them knows.
    pub(crate) fn open(cache: &Cache, pool: Pool<DB>) -> Result<Arc<Self>, Error> {
        let spec = E::SPEC;
        let binding = <DB::Of<E> as Bound<E, DB>>::BINDING.ok_or_else(|| {
            configuration(format!(
                "a column of {} has a type that {} cannot store",
                spec.name,
                DB::NAME
            ))
        })?;
        let namespace = spec
            .policy
            .namespace
            .unwrap_or(cache.namespace())
            .to_owned();
        let cache = Arc::clone(cache.inner());
        let policy = spec.policy;
        #[cfg(feature = "test-util")]
        let policy = Policy {
            intent_ttl: cache.intent_ttl.unwrap_or(policy.intent_ttl),
            ..policy
        };
        let codec = policy.codec.unwrap_or(cache.codec);
        check_codec::<E>(codec, spec.positional_hazard)?;
        let bond = Bond::new(&cache.ledger, &namespace, spec.name, spec.table, &pool);
        let database = Database::new(pool, binding, policy.publishes());
        schema::check_columns(spec.name, &database.columns)?;
        database.check_generated_id()?;
        #[cfg(feature = "test-util")]
        let is_bound_by_name = !cache.store.is_left_out(Mechanism::Binding);
        #[cfg(not(feature = "test-util"))]
        let is_bound_by_name = true;
        if is_bound_by_name {
            bond.check_at_first_sight(&cache.ledger)?;
        };
        let keys = KeySpace::new(&namespace, spec.name, &policy);
        cache.repairs.register(keys.prefix());
        let queue = (policy.strategy == Strategy::WriteBehind).then(|| {
            let name = key::queue_name(&namespace, spec.name, &policy);
            let mut queue = Queue::new(&name, policy.queue);
            let own = cache.store.open_queue(&queue.partitions(), &policy.queue)?;
            #[cfg(feature = "test-util")]
            let own = own.filter(|_| !cache.store.is_left_out(Mechanism::OwnQueue));
            if let Some(own) = own {
                queue.name = format!("{name}@{own}").into();
            }
            check_name(spec.name, &queue.name)?;
            Ok::<_, Error>(queue)
        });
        let queue = queue.transpose()?;
        let inner = Arc::new(Self {
            keys,
            fingerprint: layout::<E, DB>(&database.columns),
            database,
            codec,
            policy,
            counters: Counters::default(),
            flights: Flights::default(),
            loading: Semaphore::new(cache.concurrent_loads),
            queue,
            bond,
            told_of_size: OnceLock::new(),
            cache,
        });
        let member = Arc::downgrade(&inner) as Weak<dyn Member>;
        inner.cache.ledger.join(&namespace, member);
        Ok(inner)
    }

    pub(crate) fn key(&self, id: &E::Id) -> Result<Key, Error> {
        self.keys.key(id).map_err(|error| {
            let message = format!(
                "the id of {} cannot be written as a key: {error}",
                E::SPEC.name
            );
            Error::with_source(ErrorKind::Conversion, message, error)
        })
    }

    /// The partition that a key is in, if the entity has partitions.
    pub(crate) fn partition(&self, key: &Key) -> Option<&Partition> {
        let queue = self.queue.as_ref()?;
        Some(&queue.lanes[self.keys.partition(key)].partition)
    }

    /// The row in words, for messages.
    pub(crate) fn what(&self, key: &Key) -> String {
        format!("{} with key {key}", E::SPEC.name)
    }

    /// What entries must carry for this repository to believe them now.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            stamp: self.cache.store.stamp(),
            fingerprint: self.fingerprint,
            codec: self.codec.number(),
        }
    }

    /// The queue of a write-behind entity.
    pub(crate) fn queue(&self) -> &Queue {
        let queue = self.queue.as_ref();
        queue.expect("the operations of a queue are generated for write-behind entities only")
    }

    /// The error of an operation on the queue that the store has failed. The operation queues nothing, so the caller's write
    /// is not queued either, also if the store has done what it was asked and did not answer.
    pub(crate) fn queue_away(&self, verb: &str, error: StoreError) -> Error {
        let why = "the store cannot be reached, or refused, or did not answer";
        self.store_failed(ErrorKind::Store, verb, why, error)
    }

    /// The error of a put that the store has failed.
    pub(crate) fn unacknowledged(&self, verb: &str, error: StoreError) -> Error {
        let (kind, why) = if error.may_be_done {
            (
                ErrorKind::OutcomeUnknown,
                "the store did not answer, so the write may or may not be queued",
            )
        } else {
            (ErrorKind::Store, "the store cannot be reached or refused")
        };
        self.store_failed(kind, verb, why, error)
    }

    fn store_failed(&self, kind: ErrorKind, verb: &str, why: &str, error: StoreError) -> Error {
        self.counters.store_errors.add_one();
        let message = format!("failed to {verb} {} in its queue: {why}", E::SPEC.name);
        Error::with_source(kind, message, error)
    }
}

/// Runs an operation in a task of its own, so that it ends even if its caller does not wait for it.
pub(crate) fn to_its_end<E: Entity, T: Send + 'static>(
    verb: &'static str,
    operation: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> impl Future<Output = Result<T, Error>> + Send {
    let running = detached::run(operation);
    async move {
        running.await.unwrap_or_else(|stopped| {
            Err(Error::with_source(
                ErrorKind::Aborted,
                format!(
                    "failed to {verb} {}: the task was stopped half-way",
                    E::SPEC.name
                ),
                stopped,
            ))
        })
    }
}

/// The fingerprint of the entity over this table: what the derive sees of the struct, and what it does not see of nested
/// types, which are known here by their columns and by the way they are read.
fn layout<E: Entity, DB: Backend>(columns: &[ColumnSpec<DB>]) -> u32 {
    let mut hash = Fingerprint::default();
    hash.write(&E::SPEC.fingerprint.to_le_bytes());
    hash.write(E::SPEC.table.as_bytes());
    for column in columns {
        hash.write(column.name.as_bytes());
        hash.write(column.type_name().as_bytes());
    }
    hash.write(&codec::shape::<E>().to_le_bytes());
    hash.finish()
}

fn check_codec<E: Entity>(codec: Codec, hazard: Option<&'static str>) -> Result<(), Error> {
    if !codec.is_positional() {
        return Ok(());
    }
    let name = E::SPEC.name;
    if let Some(hazard) = hazard {
        return Err(configuration(format!(
            "{name} cannot be cached with {codec:?}, which finds fields by position: it has {hazard}; use `codec = \"msgpack\"`"
        )));
    }
    if codec::requires_self_describing::<E>() {
        return Err(configuration(format!(
            "{name} cannot be cached with {codec:?}: a field describes itself (serde_json::Value, an untagged enum or a \
             flattened struct); use `codec = \"msgpack\"`"
        )));
    }
    Ok(())
}

fn configuration(message: String) -> Error {
    Error::new(ErrorKind::Configuration, message)
}
