//! The writes of several callers with one commit, each with its own result.
//!
//! 1. Where every column has an array type (Postgres), they are one statement, which commits by itself. It returns the place of each
//!    row that it wrote, so a row that does not exist, or has another version, is told from its neighbours.
//! 2. Elsewhere they are one transaction of single statements.
//! 3. If it fails and one of them may be the cause, nothing was written, and each must be run by itself.
//!
//! The writes are given in one order, whoever writes, so two groups seldom wait for each other in a circle. If they do, because the
//! database has chosen another order, they give up after the wait for a lock that they are allowed.
//!
//! Invariant: nothing is reported as written before the commit.
//! Not here: which writes meet, and their announcements (`write::together`).

use std::{fmt, io, sync::Arc, time::Duration};

use sqlx::pool::PoolConnection;

use crate::database::{
    self, Database, Write, WriteOutcome, Written,
    backend::Backend,
    chunks::GIVEN_ON_INSERT,
    column::{Binder, Role, Values},
    dialect::Dialect,
    entity::Entity,
    open_transaction::OpenTransaction,
    statement::{Purpose, Text},
};

/// The result of one of several writes.
pub(crate) enum Answer<E> {
    /// It was committed with this result.
    Written(Written<E>),
    /// It failed, or its result is not known.
    Failed(sqlx::Error, WriteOutcome),
    /// Nothing was written. It must be run by itself.
    Alone,
}

/// The results of several writes.
pub(crate) struct Answers<E> {
    /// That of each, in their order.
    pub(crate) each: Vec<Answer<E>>,
    /// Rows that were written and that no caller is told of, because a trigger has changed their ids.
    pub(crate) untold: Vec<E>,
}

impl<E> From<Vec<Answer<E>>> for Answers<E> {
    fn from(each: Vec<Answer<E>>) -> Self {
        Self {
            each,
            untold: Vec::new(),
        }
    }
}

/// A kind of writes that one statement can execute for several callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert,
    /// Inserts whose ids the database generates (`write::inserted_together`).
    InsertGenerated,
    Update,
    Save,
    Delete,
    DeleteRow,
}

/// A connection for the writes of several callers, in a transaction if they are more than one statement.
pub(crate) enum Shared<DB: Backend> {
    Connection(PoolConnection<DB>),
    Transaction(OpenTransaction<DB>),
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Insert,
        Self::InsertGenerated,
        Self::Update,
        Self::Save,
        Self::Delete,
        Self::DeleteRow,
    ];

    /// Returns the kind of a write. `None`: it is always run alone.
    pub(crate) fn of<E: Entity>(write: &Write<E>, generates_id: bool) -> Option<Self> {
        Some(match write {
            Write::Insert(_) if generates_id => Self::InsertGenerated,
            Write::Insert(_) => Self::Insert,
            Write::Update(_) => Self::Update,
            Write::Save(_) => Self::Save,
            Write::Delete(_) => Self::Delete,
            Write::DeleteRow(_) => Self::DeleteRow,
            // It writes the columns that differ, which are others for each row.
            Write::Modify(..) => return None,
        })
    }

    /// Returns the verb for messages.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Insert | Self::InsertGenerated => "insert",
            Self::Update => "update",
            Self::Save => "save",
            Self::Delete | Self::DeleteRow => "delete",
        }
    }

    /// Returns the columns that a statement of arrays is given.
    fn given<DB: Backend>(self, is_versioned: bool) -> fn(Role) -> bool {
        match self {
            Self::Insert | Self::InsertGenerated => GIVEN_ON_INSERT,
            Self::Update | Self::Save => Role::is_saved,
            Self::Delete => Text::<DB>::identified_by(false),
            Self::DeleteRow => Text::<DB>::identified_by(is_versioned),
        }
    }
}

/// An error that several callers share.
#[derive(Debug)]
struct SharedError(Arc<sqlx::Error>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl SharedError {
    /// Returns the error for one of the callers.
    fn copy(&self) -> sqlx::Error {
        match &*self.0 {
            sqlx::Error::PoolTimedOut => sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed => sqlx::Error::PoolClosed,
            other => {
                let kind = match other {
                    sqlx::Error::Io(error) => error.kind(),
                    _ => io::ErrorKind::Other,
                };
                sqlx::Error::Io(io::Error::new(kind, Self(Arc::clone(&self.0))))
            }
        }
    }
}

/// Returns the answers of writes that have failed together.
fn failed<E>(error: sqlx::Error, outcome: WriteOutcome, writes: usize) -> Vec<Answer<E>> {
    let error = SharedError(Arc::new(error));
    let each = std::iter::repeat_with(|| Answer::Failed(error.copy(), outcome));
    each.take(writes).collect()
}

/// Returns the answers of writes whose statement or commit has failed.
fn refused<E>(error: sqlx::Error, writes: usize) -> Vec<Answer<E>> {
    match WriteOutcome::of(&error) {
        // One of them may be the cause.
        WriteOutcome::Nothing => alone(writes),
        outcome => failed(error, outcome, writes),
    }
}

fn alone<E>(writes: usize) -> Vec<Answer<E>> {
    std::iter::repeat_with(|| Answer::Alone)
        .take(writes)
        .collect()
}

impl<E: Entity, DB: Backend> Database<E, DB> {
    /// Returns whether writes of this kind can be executed together with others.
    pub(crate) fn can_gather(&self, kind: Kind) -> bool {
        let is_more_than_a_statement = match kind {
            Kind::Insert => self.inserts_in_transaction(),
            Kind::InsertGenerated => {
                !(self.statements.generates_id && DB::DIALECT == Dialect::Postgres)
            }
            Kind::Update | Kind::Save => self.updates_in_transaction() || E::SPEC.omits,
            Kind::Delete | Kind::DeleteRow => false,
        };
        let has_arrays = || self.has_arrays(kind.given::<DB>(E::SPEC.versioned));
        !is_more_than_a_statement && (DB::DIALECT != Dialect::Postgres || has_arrays())
    }

    /// Takes a connection for the writes of several callers.
    pub(crate) async fn open_shared(
        &self,
        intent_ttl: Duration,
    ) -> Result<Shared<DB>, sqlx::Error> {
        if DB::DIALECT == Dialect::Postgres {
            return Ok(Shared::Connection(self.acquire().await?));
        }
        let (begin, then, reset) = DB::DIALECT.begin_gathered(intent_ttl);
        let open = OpenTransaction::begin(&self.pool, begin, then, reset).await?;
        Ok(Shared::Transaction(open))
    }

    /// Executes writes of one kind and commits them. Their rows are different ones. Returns the answer of each, in their order.
    pub(crate) async fn write_together(
        &self,
        opened: Result<Shared<DB>, sqlx::Error>,
        kind: Kind,
        writes: &[&Write<E>],
    ) -> Answers<E> {
        let mut connection = match opened {
            Ok(Shared::Connection(connection)) => connection,
            Ok(Shared::Transaction(open)) => {
                return self.write_in_transaction(open, writes).await.into();
            }
            Err(error) => return failed(error, WriteOutcome::Nothing, writes.len()).into(),
        };
        let mut answers = Answers::from(Vec::with_capacity(writes.len()));
        while answers.each.len() < writes.len() {
            // More than one statement only if the values are too large for one.
            let left = &writes[answers.each.len()..];
            let more = self.write_arrays(&mut connection, kind, left).await;
            answers.each.extend(more.each);
            answers.untold.extend(more.untold);
        }
        answers
    }

    /// Executes as many writes of one kind as one statement of arrays takes.
    async fn write_arrays(
        &self,
        connection: &mut DB::Connection,
        kind: Kind,
        writes: &[&Write<E>],
    ) -> Answers<E> {
        let given = kind.given::<DB>(E::SPEC.versioned);
        let mut rest = writes;
        let arrays = self.arrays(&mut rest, given, |write, binder| match write {
            Write::Delete(id) => (self.binding.bind_id)(id, binder),
            Write::Insert(row)
            | Write::Update(row)
            | Write::Save(row)
            | Write::DeleteRow(row)
            | Write::Modify(row, _) => (self.binding.bind)(row, binder),
        });
        let (sent, arguments) = match arrays {
            Ok(arrays) => arrays,
            Err(error) => return refused(error, writes.len()).into(),
        };
        let reads_back = self.statements.reads_back;
        let text = Text::new(E::SPEC.table, &self.columns);
        let purpose = Purpose::Gathered { reads_back };
        let sql = match kind {
            Kind::Insert | Kind::InsertGenerated => text.insert_gathered(given),
            Kind::Save => text.upsert_gathered(),
            Kind::Update => text.update_arrays(&[], purpose),
            Kind::Delete => text.delete_arrays(false, purpose),
            Kind::DeleteRow => text.delete_arrays(E::SPEC.versioned, purpose),
        };
        let returned = match DB::fetch_all(connection, sql, arguments).await {
            Ok(returned) => returned,
            Err(error) => return refused(error, sent.len()).into(),
        };
        match kind {
            Kind::Insert | Kind::InsertGenerated | Kind::Save => {
                self.answers_in_order(sent, &returned)
            }
            Kind::Update => self
                .answers_by_place(sent.len(), &returned, reads_back)
                .into(),
            Kind::Delete | Kind::DeleteRow => {
                self.answers_by_place(sent.len(), &returned, false).into()
            }
        }
    }

    /// Returns the answers of writes whose statement returns the place of each written row, after the row if it `reads_back`.
    fn answers_by_place(
        &self,
        writes: usize,
        returned: &[DB::Row],
        reads_back: bool,
    ) -> Vec<Answer<E>> {
        let mut answers: Vec<_> = std::iter::repeat_with(|| self.answer(None, false))
            .take(writes)
            .collect();
        let index = if reads_back { self.columns.len() } else { 0 };
        for row in returned {
            let place = match DB::integer(row, index) {
                Ok(place) => usize::try_from(place - 1).unwrap_or(usize::MAX),
                Err(error) => return failed(error, WriteOutcome::Applied, writes),
            };
            if let Some(answer) = answers.get_mut(place) {
                *answer = self.answer(Some(row), reads_back);
            }
        }
        answers
    }

    /// Returns the answers of writes whose statement returns the written rows in the order of the writes.
    fn answers_in_order(&self, writes: &[&Write<E>], returned: &[DB::Row]) -> Answers<E> {
        let reads_back = self.statements.reads_back;
        if returned.len() == writes.len() {
            let rows = returned.iter();
            let answers: Vec<_> = rows.map(|row| self.answer(Some(row), reads_back)).collect();
            return answers.into();
        }
        // Some were not written. The ids tell which.
        let mut rows: Vec<_> = returned
            .iter()
            .map(|returned| {
                let row = self.row(returned).ok();
                let id = row.as_ref().and_then(|row| self.id_values(&row.id()).ok());
                Some((returned, row, id))
            })
            .collect();
        let find = |write: &&Write<E>| {
            let wanted = self.id_values(&write.id()).ok()?;
            let is_it = |row: &&mut Option<(_, _, Option<Values>)>| {
                row.as_ref()
                    .is_some_and(|(_, _, id)| id.as_ref() == Some(&wanted))
            };
            rows.iter_mut().find(is_it)?.take()
        };
        let found: Vec<Option<&DB::Row>> = writes
            .iter()
            .map(find)
            .map(|found| found.map(|(returned, ..)| returned))
            .collect();
        let left: Vec<_> = rows.into_iter().flatten().collect();
        let is_unclear = !left.is_empty();
        let each = found.into_iter().map(|returned| match returned {
            // A trigger has changed the id of a row, or it cannot be read, and another row was suppressed. The database does not
            // say which is which.
            None if is_unclear => {
                let error = sqlx::Error::Protocol(
                    "the database has returned a row with an id that was not given, and suppressed another row"
                        .to_owned(),
                );
                Answer::Failed(error, WriteOutcome::Unknown)
            }
            returned => self.answer(returned, reads_back),
        });
        Answers {
            each: each.collect(),
            untold: left.into_iter().filter_map(|(_, row, _)| row).collect(),
        }
    }

    /// Returns the answer of a write from the row that the statement has returned for it, if there is one.
    fn answer(&self, returned: Option<&DB::Row>, reads_back: bool) -> Answer<E> {
        let row = match returned.filter(|_| reads_back) {
            Some(row) => match self.row(row) {
                Ok(row) => Some(row),
                Err(error) => return Answer::Failed(error, WriteOutcome::Applied),
            },
            None => None,
        };
        Answer::Written(Written {
            rows: returned.is_some().into(),
            row,
        })
    }

    /// Returns the values of an id, to compare.
    fn id_values(&self, id: &E::Id) -> Result<Values, sqlx::Error> {
        let mut values = Values::default();
        let mut binder = Binder::values(&mut values, |_| true);
        (self.binding.bind_id)(id, &mut binder).map_err(sqlx::Error::Encode)?;
        Ok(values)
    }

    /// Executes writes one after the other in a transaction, and commits it.
    async fn write_in_transaction(
        &self,
        mut open: OpenTransaction<DB>,
        writes: &[&Write<E>],
    ) -> Vec<Answer<E>> {
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            open.statements().begin();
            let written = self.apply(open.connection(), write).await;
            open.statements().end();
            match written {
                Ok(written) => answers.push(Answer::Written(written)),
                Err(error) => {
                    undo(open, &error).await;
                    return alone(writes.len());
                }
            }
        }
        let committed = open.commit().await;
        let restored = open.reset().await;
        if let Err(error) = restored {
            tracing::debug!(%error, "failed to reset a connection; it is closed");
        }
        match committed {
            Ok(()) => answers,
            Err(error) => refused(error, writes.len()),
        }
    }
}

/// Rolls back at once, so that nobody waits for the locks of the writes that are now run alone.
async fn undo<DB: Backend>(mut open: OpenTransaction<DB>, error: &sqlx::Error) {
    if database::aborts_transaction(error) {
        database::restart_if_rolled_back::<DB>(open.connection(), 0).await;
    }
    let undone = async {
        open.rollback().await?;
        open.reset().await
    };
    if let Err(error) = undone.await {
        tracing::debug!(%error, "failed to roll back a transaction; its connection is closed");
    }
}
