//! What an operation tells of itself: its span, and, with the feature `metrics`, its duration and its result.
//!
//! Every public operation is wrapped once, where its method calls the runtime: [`Signals::observe`]. The wrapper is a future around
//! the operation's own, so a span is entered at each poll and an operation that is dropped ends its span.
//!
//! - A span costs one comparison of levels while no subscriber wants it. They have the level `DEBUG` and the target `larder`.
//! - Its fields are those of OpenTelemetry for database clients where it has them (`db.system.name`, `db.collection.name`,
//!   `db.operation.name`, `db.response.returned_rows`, `error.type`), and `entity`, `outcome` and `attempts`.
//! - Without the feature `metrics` nothing is measured.
//!
//! Not here: counters (`stats`), and how measurements are exported (`cache::metrics`).

pub(crate) mod audit;
#[cfg(feature = "metrics")]
pub(crate) mod survey;
#[cfg(feature = "metrics")]
pub(crate) mod timing;

#[cfg(feature = "metrics")]
use std::{
    cell::Cell,
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tracing::{Span, field};

#[cfg(feature = "metrics")]
use self::timing::{Began, Timing};
use crate::error::Error;
#[cfg(feature = "metrics")]
use crate::{error::ErrorKind, stats::Counter};

/// What an operation is measured as.
#[cfg(feature = "metrics")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It reads rows.
    Read,
    /// It writes rows.
    Write,
    /// Neither.
    Other,
}

macro_rules! operations {
    ($($operation:ident $name:literal $kind:ident),* $(,)?) => {
        /// An operation of a repository, a transaction or a flusher.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Operation {
            $($operation,)*
        }

        impl Operation {
            #[cfg(feature = "metrics")]
            pub(crate) const ALL: &[Self] = &[$(Self::$operation,)*];

            /// Returns its name: that of its span after `larder.`.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$operation => $name,)*
                }
            }

            #[cfg(feature = "metrics")]
            pub(crate) fn kind(self) -> Kind {
                match self {
                    $(Self::$operation => Kind::$kind,)*
                }
            }

            /// Returns a new span for it, which is disabled unless somebody wants it.
            fn span(self, signals: &Signals) -> Span {
                match self {
                    $(Self::$operation => tracing::span!(
                        target: "larder",
                        tracing::Level::DEBUG,
                        concat!("larder.", $name),
                        entity = signals.entity,
                        db.system.name = signals.system,
                        db.collection.name = signals.table,
                        db.operation.name = $name,
                        db.response.returned_rows = field::Empty,
                        outcome = field::Empty,
                        attempts = field::Empty,
                        error.type = field::Empty,
                    ),)*
                }
            }
        }
    };
}

operations! {
    Find "find" Read,
    FindUncached "find_uncached" Read,
    FindMany "find_many" Read,
    FillFrom "fill_from" Read,
    FindBy "find_by" Read,
    FindManyBy "find_many_by" Read,
    FindAllBy "find_all_by" Read,
    CountBy "count_by" Read,
    Query "query" Read,
    Refresh "refresh" Read,
    Load "load" Other,
    Insert "insert" Write,
    Update "update" Write,
    Save "save" Write,
    Delete "delete" Write,
    Modify "modify" Write,
    InsertMany "insert_many" Write,
    UpdateMany "update_many" Write,
    DeleteMany "delete_many" Write,
    ModifyBy "modify_by" Write,
    DeleteBy "delete_by" Write,
    WriteTagged "write_tagged" Write,
    Invalidate "invalidate" Other,
    InvalidateAll "invalidate_all" Other,
    InvalidateTags "invalidate_tags" Other,
    InvalidateBy "invalidate_by" Other,
    Flush "flush" Other,
    FlushBatch "flush_batch" Other,
}

/// What an operation returned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// How many rows.
    pub(crate) rows: Option<u64>,
    /// Where they came from, or what became of the operation.
    pub(crate) outcome: Option<&'static str>,
}

impl Told {
    pub(crate) fn rows(rows: usize) -> Self {
        Self {
            rows: Some(rows as u64),
            outcome: None,
        }
    }
}

/// A result that says how many rows it has.
pub(crate) trait Tell {
    fn told(&self) -> Told;
}

impl Tell for () {
    fn told(&self) -> Told {
        Told::default()
    }
}

impl Tell for u64 {
    fn told(&self) -> Told {
        Told {
            rows: Some(*self),
            outcome: None,
        }
    }
}

impl<T: ?Sized> Tell for Arc<T> {
    fn told(&self) -> Told {
        Told::rows(1)
    }
}

impl<T> Tell for Option<Arc<T>> {
    fn told(&self) -> Told {
        Told::rows(usize::from(self.is_some()))
    }
}

impl<T: Tell> Tell for Vec<T> {
    fn told(&self) -> Told {
        let rows = self.iter().filter_map(|one| one.told().rows);
        Told {
            rows: Some(rows.sum()),
            outcome: None,
        }
    }
}

/// What the operations of one repository are measured with.
#[derive(Debug)]
pub(crate) struct Signals {
    entity: &'static str,
    table: &'static str,
    /// The name of the database system, as OpenTelemetry has it.
    system: &'static str,
    #[cfg(feature = "metrics")]
    measured: Arc<Measured>,
}

/// The measurements of one entity in a cache.
#[cfg(feature = "metrics")]
#[derive(Debug)]
pub(crate) struct Measured {
    /// One read of so many is measured: in process, a hit takes less than the time to measure it.
    sample: u32,
    pub(crate) read: Timing,
    pub(crate) load: Timing,
    pub(crate) write: Timing,
    pub(crate) flush: Timing,
    /// The writes, by operation and result.
    pub(crate) writes: Box<[[Counter; RESULTS.len()]]>,
}

/// How a write may end. What the caller has to expect is no failure.
#[cfg(feature = "metrics")]
pub(crate) const RESULTS: [&str; 7] = [
    "ok",
    "not_found",
    "duplicate",
    "conflict",
    "refused",
    "unknown",
    "error",
];

/// Returns the place of a result in [`RESULTS`].
#[cfg(feature = "metrics")]
fn result_of(error: Option<ErrorKind>) -> usize {
    match error {
        None => 0,
        Some(ErrorKind::NotFound) => 1,
        Some(ErrorKind::Duplicate) => 2,
        Some(ErrorKind::Conflict) => 3,
        Some(ErrorKind::Refused) => 4,
        Some(ErrorKind::OutcomeUnknown) => 5,
        Some(_) => 6,
    }
}

/// One read of so many is measured where a read takes less time than the clock, and elsewhere.
#[cfg(feature = "metrics")]
const SAMPLE_IN_PROCESS: u32 = 64;
#[cfg(feature = "metrics")]
const SAMPLE: u32 = 8;

impl Signals {
    pub(crate) fn new(
        entity: &'static str,
        table: &'static str,
        system: &'static str,
        #[cfg(feature = "metrics")] measured: Arc<Measured>,
    ) -> Self {
        Self {
            entity,
            table,
            system,
            #[cfg(feature = "metrics")]
            measured,
        }
    }

    /// Runs an operation in a span of its own, and measures it.
    #[inline]
    pub(crate) fn observe<T: Tell, F: Future<Output = Result<T, Error>>>(
        &self,
        operation: Operation,
        work: F,
    ) -> Observed<'_, T, F> {
        self.observe_as(operation, T::told, work)
    }

    /// Returns whether a read is to be observed: somebody wants its span, or it is one of those that are measured. In process, a hit
    /// takes less time than moving its future into the wrapper.
    #[inline]
    pub(crate) fn observes_read(&self) -> bool {
        #[cfg(feature = "metrics")]
        if self.measured.measures_read() {
            return true;
        }
        self.traces()
    }

    /// Returns whether somebody wants the spans of reads.
    #[inline]
    #[expect(clippy::unused_self, reason = "spans are of a repository")]
    pub(crate) fn traces(&self) -> bool {
        tracing::span_enabled!(target: "larder", tracing::Level::DEBUG)
    }

    /// Runs a read that has no future, and measures it if it was a hit.
    #[inline]
    #[cfg_attr(
        not(feature = "metrics"),
        expect(clippy::unused_self, reason = "nothing is measured")
    )]
    pub(crate) fn measure_hit<T>(&self, hit: impl FnOnce() -> Option<T>) -> Option<T> {
        #[cfg(feature = "metrics")]
        {
            let began = self.measured.begin(Operation::Find);
            let hit = hit()?;
            self.measure(Operation::Find, began, None);
            Some(hit)
        }
        #[cfg(not(feature = "metrics"))]
        hit()
    }

    /// As [`Signals::observe`], for a read of which [`Signals::observes_read`] has said so.
    #[inline]
    pub(crate) fn observe_read<T: Tell, F: Future<Output = Result<T, Error>>>(
        &self,
        work: F,
    ) -> Observed<'_, T, F> {
        Observed {
            #[cfg(feature = "metrics")]
            began: Some(Began::now()),
            #[cfg(not(feature = "metrics"))]
            began: (),
            span: Operation::Find.span(self),
            operation: Operation::Find,
            signals: self,
            told: T::told,
            work,
        }
    }

    /// As [`Signals::observe`]. `told` says what a result has.
    #[inline]
    pub(crate) fn observe_as<T, F: Future<Output = Result<T, Error>>>(
        &self,
        operation: Operation,
        told: fn(&T) -> Told,
        work: F,
    ) -> Observed<'_, T, F> {
        Observed {
            #[cfg(feature = "metrics")]
            began: self.measured.begin(operation),
            #[cfg(not(feature = "metrics"))]
            began: (),
            span: operation.span(self),
            operation,
            signals: self,
            told,
            work,
        }
    }

    #[cfg(feature = "metrics")]
    fn measure(&self, operation: Operation, began: Option<Began>, error: Option<ErrorKind>) {
        let Measured {
            read, write, flush, ..
        } = &*self.measured;
        let timing = match (operation, operation.kind()) {
            (_, Kind::Read) => read,
            (_, Kind::Write) => {
                self.measured.writes[operation as usize][result_of(error)].add_one();
                write
            }
            (Operation::Load, _) => &self.measured.load,
            (Operation::FlushBatch, _) => flush,
            _ => return,
        };
        if let Some(began) = began {
            timing.add(began);
        }
    }
}

/// The measurements of all entities of a cache.
#[cfg(feature = "metrics")]
#[derive(Debug, Default)]
pub(crate) struct MeasuredEntities(Mutex<HashMap<&'static str, Arc<Measured>>>);

#[cfg(feature = "metrics")]
impl MeasuredEntities {
    /// Returns those of an entity. `in_process`: whether the store is the memory of this process.
    pub(crate) fn of(&self, entity: &'static str, in_process: bool) -> Arc<Measured> {
        let mut entities = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = entities
            .entry(entity)
            .or_insert_with(|| Arc::new(Measured::new(in_process)));
        Arc::clone(measured)
    }

    /// Returns how long reads of an entity took, in microseconds: half of them, and 99 of 100. `None` if none was measured.
    #[cfg(feature = "redis")]
    pub(crate) fn percentiles_of_reads(&self, entity: &'static str) -> Option<(u64, u64)> {
        let entities = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = entities.get(entity)?;
        Some((
            measured.read.percentile_us(50)?,
            measured.read.percentile_us(99)?,
        ))
    }

    /// Returns those of all entities.
    pub(crate) fn all(&self) -> Vec<(&'static str, Arc<Measured>)> {
        let entities = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entities = entities.iter();
        entities
            .map(|(entity, measured)| (*entity, Arc::clone(measured)))
            .collect()
    }
}

#[cfg(feature = "metrics")]
impl Measured {
    fn new(in_process: bool) -> Self {
        Self {
            sample: if in_process {
                SAMPLE_IN_PROCESS
            } else {
                SAMPLE
            },
            read: Timing::default(),
            load: Timing::default(),
            write: Timing::default(),
            flush: Timing::default(),
            writes: Operation::ALL.iter().map(|_| Default::default()).collect(),
        }
    }

    #[inline]
    fn begin(&self, operation: Operation) -> Option<Began> {
        let is_measured = operation.kind() != Kind::Read || self.measures_read();
        is_measured.then(Began::now)
    }

    /// Returns whether to measure the read that begins now.
    #[inline]
    fn measures_read(&self) -> bool {
        // Of each thread, so that threads do not share it.
        thread_local!(static READS: Cell<u32> = const { Cell::new(0) });
        READS.with(|reads| {
            let number = reads.get();
            reads.set(number.wrapping_add(1));
            number.is_multiple_of(self.sample)
        })
    }
}

/// When an operation began, if it is measured.
#[cfg(feature = "metrics")]
type Measure = Option<Began>;
#[cfg(not(feature = "metrics"))]
type Measure = ();

/// Records in the current span that an operation is tried again, for this time.
#[cold]
pub(crate) fn tell_attempt(attempt: u64) {
    Span::current().record("attempts", attempt);
}

pin_project! {
    /// An operation that is observed.
    pub(crate) struct Observed<'s, T, F> {
        operation: Operation,
        signals: &'s Signals,
        told: fn(&T) -> Told,
        began: Measure,
        span: Span,
        #[pin]
        work: F,
    }
}

impl<T, F: Future<Output = Result<T, Error>>> Future for Observed<'_, T, F> {
    type Output = Result<T, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = if this.span.is_disabled() {
            ready!(this.work.poll(context))
        } else {
            let result = this.span.in_scope(|| this.work.poll(context));
            let result = ready!(result);
            record(this.span, result.as_ref().map(*this.told));
            result
        };
        #[cfg(feature = "metrics")]
        {
            let error = result.as_ref().err().map(Error::kind);
            this.signals
                .measure(*this.operation, this.began.take(), error);
        }
        Poll::Ready(result)
    }
}

/// Records a result in the span of its operation.
fn record(span: &Span, result: Result<Told, &Error>) {
    match result {
        Ok(told) => {
            span.record("outcome", told.outcome.unwrap_or("ok"));
            if let Some(rows) = told.rows {
                span.record("db.response.returned_rows", rows);
            }
        }
        Err(error) => {
            span.record("outcome", "error");
            span.record("error.type", field::debug(error.kind()));
        }
    }
}
