//! A transaction that the caller has begun with sqlx, in which repositories read and write too.
//!
//! Existing code passes its `sqlx::Transaction` around, and commits it at one place. It can be moved over step by step: one
//! function after the other writes through repositories, on the same transaction.
//!
//! 1. [`Transaction::adopt`] sets a savepoint inside the caller's transaction, and another one that marks the transaction.
//!    `repository.within(&mut adopted)` has the operations of the repository.
//! 2. [`AdoptedTransaction::announce`] places the intents on all recorded keys, and releases the savepoint.
//! 3. [`Announced::commit`] releases the mark, which no other transaction has, commits the caller's transaction as larder's own
//!    are committed, and ends the intents.
//!
//! Invariant: a write of larder is part of the caller's transaction only after it was announced. Until then it is lost with the
//! savepoint.
//! Invariant: an announcement that is dropped keeps its intents until they expire (`announce`): the caller may have committed
//! without it.
//! Not here: the operations (`transaction`) and the commit (`commit`).

use std::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use sqlx::{Connection, SqlStr};
use sqlx_core::transaction::TransactionManager;

use crate::{
    database::{
        self, WriteOutcome, backend::Backend, dialect::DeadlineSql, open_transaction::Statements,
    },
    error::{Error, ErrorKind},
    policy::Policy,
    protocol::token::Token,
    write::{
        announce::{Announcement, WriteEnd},
        commit::{Committable, commit_announced},
        transaction::{
            Callback, Level, ROLLED_BACK, Scope, Transaction, aborted, failed, run_callbacks,
        },
    },
};

/// A part of a transaction that the caller has begun with sqlx. It has the operations of a [`Transaction`]. If it is dropped
/// before it is announced, its writes are rolled back, and the caller's transaction can continue.
///
/// After an error of the kind [`ErrorKind::TransactionAborted`], the database has rolled back the whole transaction, with what
/// the caller had done before. Roll it back too, and begin again.
#[must_use = "an adopted transaction that is dropped is rolled back; announce it"]
pub struct AdoptedTransaction<'c, DB: Backend> {
    part: Transaction<'c, DB>,
    /// The name of the announcement and of the mark.
    token: Token,
}

/// The announced writes of a part of a transaction. Commit the transaction with [`Announced::commit`].
///
/// If it is dropped, the rows stay uncached until their intents expire (`intent(ttl)`), because the transaction may be committed
/// without it. Commit within that time, or old rows may be cached. Entities with `coherence = "lease"` have no intents, so
/// do not drop it there before the commit.
#[must_use = "commit the transaction with `Announced::commit`; otherwise its rows stay uncached until their intents expire"]
pub struct Announced<DB: Backend> {
    announcement: Announcement,
    token: Token,
    ttl: Duration,
    callbacks: Vec<Callback>,
    database: PhantomData<fn() -> DB>,
}

impl<DB: Backend> fmt::Debug for AdoptedTransaction<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AdoptedTransaction")
            .field(&self.part)
            .finish()
    }
}

impl<DB: Backend> fmt::Debug for Announced<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announced")
            .field("database", &DB::NAME)
            .finish_non_exhaustive()
    }
}

impl<'c, DB: Backend> Deref for AdoptedTransaction<'c, DB> {
    type Target = Transaction<'c, DB>;

    fn deref(&self) -> &Self::Target {
        &self.part
    }
}

impl<DB: Backend> DerefMut for AdoptedTransaction<'_, DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.part
    }
}

impl<'c, DB: Backend> Transaction<'c, DB> {
    /// Adopts a transaction that was begun with sqlx, so that repositories write in it.
    ///
    /// ```
    /// # use larder_runtime::{Error, Transaction};
    /// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut transaction = pool.begin().await?;
    /// sqlx::query("UPDATE seats SET free = free - 1").execute(&mut *transaction).await?;
    ///
    /// let adopted = Transaction::adopt(&mut transaction).await?;
    /// // flights.within(&mut adopted).update(&flight).await?;
    /// let announced = adopted.announce().await?;
    ///
    /// announced.commit(transaction).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// larder does not see the caller's own statements: as with [`Transaction::connection`], mark the rows that they change
    /// (`within(..).mark_changed(..)`).
    ///
    /// # Errors
    ///
    /// Errors of the database, and these kinds. After any of them, roll the transaction back.
    ///
    /// - [`ErrorKind::Configuration`] for a savepoint: adopt the outermost transaction.
    /// - [`ErrorKind::TransactionAborted`] if the database has rolled the transaction back.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, roll the transaction back: sqlx may not know of the savepoint.
    pub async fn adopt(
        transaction: &'c mut sqlx::Transaction<'_, DB>,
    ) -> Result<AdoptedTransaction<'c, DB>, Error> {
        check_outermost("adopt", transaction)?;
        if database::restart_if_rolled_back::<DB>(transaction, 0).await {
            return Err(aborted(ROLLED_BACK));
        }
        let failed = |error| failed("adopt", error, WriteOutcome::Nothing);
        let token = Token::draw();
        let (mark, _) = DB::DIALECT.mark(token);
        DB::run(transaction, mark).await.map_err(failed)?;
        let open = transaction.begin().await.map_err(failed)?;
        let statements = Statements::default();
        // What the caller has sent before is unknown.
        statements.raw();
        let scope = Scope::new(statements, Arc::default(), 1);
        let level = Level::Adopted(open);
        Ok(AdoptedTransaction {
            part: Self { level, scope },
            token,
        })
    }
}

impl<DB: Backend> AdoptedTransaction<'_, DB> {
    /// Announces the writes, and makes them a part of the caller's transaction. Call it last, and then commit: from now on reads
    /// of these rows go to the database.
    ///
    /// # Errors
    ///
    /// As [`Transaction::commit`]. After an error nothing of this part was written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, roll the transaction back.
    pub async fn announce(self) -> Result<Announced<DB>, Error> {
        let Transaction { level, mut scope } = self.part.checked().await?;
        let Level::Adopted(open) = level else {
            return Err(Error::new(
                ErrorKind::Configuration,
                "failed to announce a transaction: it was not adopted",
            ));
        };
        // The caller's later statements may change the rows again.
        scope.staging.cancel_updates();
        let ttl = scope.staging.intent_ttl();
        let mut announcement = Announcement::new(self.token, scope.staging);
        announcement.begin().await;
        let (released, announcement) = announcement.attempt("announce", open.commit()).await?;
        if let Err(error) = released {
            announcement.end(WriteEnd::Undone).await;
            return Err(failed("announce", error, WriteOutcome::Nothing));
        }
        Ok(Announced {
            announcement,
            token: self.token,
            ttl: ttl.unwrap_or(Policy::DEFAULT.intent_ttl),
            callbacks: scope.callbacks,
            database: PhantomData,
        })
    }

    /// Rolls the writes of this part back. The caller's transaction can continue. The cache does not change.
    ///
    /// # Errors
    ///
    /// Errors of the database, and kind [`ErrorKind::TransactionAborted`] if the database has rolled back the caller's
    /// transaction too.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is the same as dropping the adopted transaction.
    pub async fn rollback(self) -> Result<(), Error> {
        self.part.rollback().await
    }
}

impl<DB: Backend> Announced<DB> {
    /// Commits the transaction, and ends the intents. Then the callbacks of [`Transaction::after_commit`] run.
    ///
    /// # Errors
    ///
    /// As [`Transaction::commit`]. Also for a transaction that is not the adopted one, or that was rolled back in between: then
    /// nothing is committed. Kind [`ErrorKind::Configuration`] for a savepoint: pass the outermost transaction.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, it is unknown whether the transaction was committed. Its rows stay uncached until their
    /// intents expire. To commit in any case, run it in a task of its own.
    pub async fn commit(self, mut transaction: sqlx::Transaction<'_, DB>) -> Result<(), Error> {
        check_outermost("commit", &transaction)?;
        if database::restart_if_rolled_back::<DB>(&mut transaction, 0).await {
            return Err(aborted(ROLLED_BACK));
        }
        // If this fails, the adopted transaction may still be committed, so its intents stay.
        let (_, release) = DB::DIALECT.mark(self.token);
        let released = DB::run(&mut transaction, release).await;
        released.map_err(|error| failed("commit", error, WriteOutcome::Nothing))?;
        commit_announced(transaction, self.announcement, Some(self.ttl)).await?;
        run_callbacks(self.callbacks).await;
        Ok(())
    }
}

fn check_outermost<DB: Backend>(
    verb: &str,
    transaction: &sqlx::Transaction<'_, DB>,
) -> Result<(), Error> {
    match DB::TransactionManager::get_transaction_depth(transaction) {
        1 => Ok(()),
        0 => Err(aborted(ROLLED_BACK)),
        _ => Err(Error::new(
            ErrorKind::Configuration,
            format!(
                "failed to {verb} a transaction: it is a savepoint; pass the outermost transaction"
            ),
        )),
    }
}

impl<DB: Backend> Committable for sqlx::Transaction<'_, DB> {
    fn deadline(intent_ttl: Duration) -> Option<DeadlineSql> {
        DB::DIALECT.deadline_elsewhere(intent_ttl)
    }

    async fn run(&mut self, statement: SqlStr) -> Result<(), sqlx::Error> {
        DB::run(self, statement).await
    }

    async fn commit(&mut self) -> Result<(), sqlx::Error> {
        DB::TransactionManager::commit(self).await
    }

    async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        DB::TransactionManager::rollback(self).await
    }
}
