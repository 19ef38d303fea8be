//! The methods that only a repository with queued writes has, and those whose documentation differs there.
//!
//! A write is acknowledged when it is queued. So there are no writes of many rows, which could not be all or none, and
//! no transactions, because the queue is not part of a transaction.

use proc_macro2::TokenStream;
use quote::quote;

use super::method::{Method, Parameter, Writes, docs};

/// Writes that are acknowledged by the queue.
pub(super) fn writes(name: &str, row: &TokenStream) -> Vec<Method> {
    vec![
        write(
            "insert",
            Parameter::Row,
            row.clone(),
            &format!("Inserts a new `{name}` and returns it. {ACKNOWLEDGED}"),
            &format!(
                "Fails with the kind `Duplicate` if the row exists. {UNQUEUED} {UNKNOWN} {REFUSED}"
            ),
        ),
        write(
            "update",
            Parameter::Row,
            row.clone(),
            &format!("Overwrites the `{name}` with the same id and returns it. {ACKNOWLEDGED}"),
            &format!(
                "Fails with the kind `NotFound` if there is no such row. {UNQUEUED} {UNKNOWN} {REFUSED}"
            ),
        ),
        write(
            "save",
            Parameter::Row,
            row.clone(),
            &format!(
                "Inserts the `{name}`, or overwrites the one with the same id. Returns it. {ACKNOWLEDGED} It does not need to \
                 know whether the row exists."
            ),
            &format!("{UNQUEUED} {ASKED} {REFUSED}"),
        ),
        write(
            "delete",
            Parameter::Id,
            quote!(()),
            &format!("Deletes the `{name}` with this id. {ACKNOWLEDGED}"),
            &format!(
                "Fails with the kind `NotFound` if there is no such row. {UNQUEUED} {UNKNOWN} {REFUSED}"
            ),
        ),
    ]
}

/// Returns the methods that change a row without another write of the row in between.
pub(super) fn modify(name: &str, modified: &TokenStream, row: &TokenStream) -> [Method; 2] {
    let errors = format!("{UNQUEUED} {UNKNOWN} {REFUSED}");
    modifications(
        name,
        modified,
        row,
        &format!(
            "If another write of the row comes in between, nothing is queued, and `change` is called again with the new row. So \
             `change` should do nothing but change the row. {ACKNOWLEDGED}"
        ),
        &errors,
        "If the future is dropped before it ends, the change may or may not be queued.",
    )
}

/// Returns the methods that change a row, with what they do about other writes of it.
pub(super) fn modifications(
    name: &str,
    modified: &TokenStream,
    row: &TokenStream,
    others: &str,
    errors: &str,
    cancel: &str,
) -> [Method; 2] {
    let refused = "Fails with the kind `NotFound` if there is no such row, with the kind `Refused` if `change` returns an error, \
                   and with the kind `Conversion` if `change` gives the row another id.";
    [
        Method {
            name: "modify",
            inner: "modify",
            parameter: Parameter::Change,
            returns: modified.clone(),
            docs: docs(
                &format!(
                    "Changes the `{name}` with this id and returns it. `change` gets the current row. {others} `change` returns \
                     nothing, or a `Result`: its value is passed on, and its error stops the operation."
                ),
                &format!("{refused} {errors}"),
                cancel,
            ),
        },
        Method {
            name: "modify_or_insert",
            inner: "modify_or_insert",
            parameter: Parameter::RowChange,
            returns: row.clone(),
            docs: docs(
                &format!(
                    "Changes the `{name}` with the id of `row` as `modify` does, or inserts `row` as it is if there is none."
                ),
                &format!("Fails as `modify` and `insert` do. {errors}"),
                cancel,
            ),
        },
    ]
}

/// Returns the methods that work on the queue itself.
pub(super) fn queue(name: &str, private: &TokenStream) -> Vec<Method> {
    let method = |name, returns, does: &str, errors: &str, cancel: &str| Method {
        name,
        inner: name,
        parameter: Parameter::Nothing,
        returns,
        docs: docs(does, errors, cancel),
    };
    vec![
        method(
            "install",
            quote!(()),
            "Creates the tables of larder if they do not exist: the positions of queues, the dead letters, and the id of the \
             database. To run the statements in a migration, see `larder::schema`.",
            "Fails if the database cannot create the tables.",
            "If the future is dropped before it ends, only some of the tables may exist. Call it again.",
        ),
        method(
            "start_flushing",
            quote!(#private::Flusher),
            &format!(
                "Flushes queued writes of `{name}` to the database in the background, until the returned `Flusher` is shut down \
                 or dropped. Any number of processes may call it: one process at a time flushes a partition, and when it ends \
                 another takes over. The tasks start even if the store or the database cannot be reached, and begin to flush \
                 as soon as both are reachable."
            ),
            "Fails with the kind `Configuration` if the store does not keep the queue as safely as the entity's `durability` \
             asks, if the database does not have the tables that `install` creates, or if writes are queued under another \
             number of partitions. The call checks this for a few seconds. Mistakes that are found later are logged.",
            "If the future is dropped before it ends, nothing was started.",
        ),
        method(
            "flush",
            quote!(()),
            &format!(
                "Flushes every write of `{name}` that was acknowledged before the call. Returns when each of them is in the \
                 database or a dead letter."
            ),
            &format!("{QUEUE_OR_DATABASE} No write is lost: the remaining ones stay queued."),
            "The future may be dropped at any time. Writes that were not flushed stay queued.",
        ),
        method(
            "pending",
            quote!(#private::Pending),
            &format!(
                "Returns how many acknowledged writes of `{name}` are not in the database yet, and how old the oldest is. While \
                 the database does not answer, all writes in the queue count, even those that are in the database already."
            ),
            "Fails with the kind `CacheUnavailable` if the queue cannot be reached, and with `Configuration`.",
            "The future may be dropped at any time.",
        ),
    ]
}

/// The documentation of `dead_letters`, which is not asynchronous; `None` if there is no such method.
pub(super) fn dead_letters(name: &str, writes: Writes) -> Option<String> {
    writes.may_queue().then(|| {
        format!(
            "Returns the dead letters of `{name}`: the writes that were acknowledged and later rejected by the database. They \
             can be listed, queued again, or discarded."
        )
    })
}

const ACKNOWLEDGED: &str = "It returns when the write is queued. All readers see it from then on.";

const UNQUEUED: &str = "Fails with these kinds: `Backpressure` if the queue is full and `on_full` is `refuse`, \
                        `CacheUnavailable` if the store cannot be reached, `OutcomeUnknown` if the store did not reply, so the \
                        write may or may not be queued, `TooLarge` if the row is larger than `max_row`, and `Configuration` if \
                        the store does not keep the queue as safely as the entity's `durability` asks.";

const ASKED: &str = "The database is queried, and may fail, if the queue is new or full.";

const UNKNOWN: &str = "The database is queried, and may fail, if the queue is new or full, and if the cache does not know \
                       whether the row exists.";

const REFUSED: &str = "A write that the database rejects later is not an error of this call. It becomes a dead letter.";

const QUEUE_OR_DATABASE: &str = "Fails with the kind `CacheUnavailable` if the queue cannot be reached, and if the database fails.";

fn write(
    name: &'static str,
    parameter: Parameter,
    returns: TokenStream,
    does: &str,
    errors: &str,
) -> Method {
    let cancel = "If the future is dropped before it ends, the write may or may not be queued.";
    Method {
        name,
        inner: name,
        parameter,
        returns,
        docs: docs(does, errors, cancel),
    }
}
