//! A table that is altered while a pool is open: the server then refuses statements that were prepared before.
//!
//! sqlx prepares a statement once on each connection and keeps it. After `ALTER TABLE`, Postgres refuses to run it if its
//! result would have other types ("cached plan must not change result type"), and it does so for as long as the connection
//! lives. MySQL prepares such statements again by itself, and gives up if the table keeps changing (error 1615). SQLite
//! always prepares them again.
//!
//! 1. Every prepared statement of larder runs in `backend`. If it is refused for this reason, all statements of its
//!    connection are forgotten, and it is prepared and run once more. The server refuses it before it runs, and a statement
//!    that fails changes nothing, so a write is not made twice.
//! 2. In a transaction Postgres also refuses the second attempt. A transaction of larder's own is repeated as a whole; one
//!    of the caller fails with an error that says so. Its connection is good again.
//!
//! Not here: the difference between the altered table and the struct (`schema`).

use std::ops::Range;

use sqlx::Pool;

use crate::{
    database::{backend::Backend, dialect::Dialect},
    error::Error,
};

/// What the message says besides what was attempted.
pub(crate) const WHY: &str = "its table was altered after this connection had prepared the statement, and inside a transaction the statement \
     cannot be repeated alone; run the transaction again";

impl Dialect {
    /// Returns whether the server can refuse a statement that it has prepared before.
    pub(crate) const fn keeps_plans(self) -> bool {
        match self {
            Self::Postgres | Self::MySql => true,
            Self::Sqlite => false,
        }
    }
}

/// Returns whether the server has refused a statement because it was prepared before a table or a type was changed.
pub(crate) fn is_refused(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(refusal) = error else {
        return false;
    };
    #[cfg(feature = "postgres")]
    if let Some(refusal) = refusal.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        // The first text is translated into the language of the server, so look at the function that has raised it too.
        // The others are never translated: a type that was dropped, and perhaps made again with its name.
        return match refusal.code() {
            "0A000" => {
                refusal.routine() == Some("RevalidateCachedQuery")
                    || refusal.message() == "cached plan must not change result type"
            }
            "XX000" => refusal
                .message()
                .starts_with("cache lookup failed for type"),
            _ => false,
        };
    }
    #[cfg(feature = "mysql")]
    if let Some(refusal) = refusal.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return refusal.number() == 1615;
    }
    let _ = refusal;
    false
}

/// Returns the error to report after a second attempt: its own, unless the first refusal has ended the transaction.
pub(crate) fn final_error(first: sqlx::Error, second: sqlx::Error) -> sqlx::Error {
    let is_ended = second
        .as_database_error()
        .is_some_and(|refusal| refusal.code().as_deref() == Some("25P02"));
    if is_ended { first } else { second }
}

/// How often a transaction of larder's own is repeated: each connection of the pool can have old statements.
pub(crate) struct Repetitions(Range<u32>);

impl Repetitions {
    pub(crate) fn on<DB: Backend>(pool: &Pool<DB>) -> Self {
        Self(0..pool.options().get_max_connections())
    }

    /// Returns whether to repeat a transaction that has failed with this error and was rolled back.
    pub(crate) fn allow(&mut self, error: &sqlx::Error) -> bool {
        is_refused(error) && self.0.next().is_some()
    }

    /// As [`Repetitions::allow`], for an error of larder.
    pub(crate) fn allow_after(&mut self, error: &Error) -> bool {
        error
            .database_error()
            .is_some_and(|error| self.allow(error))
    }
}
