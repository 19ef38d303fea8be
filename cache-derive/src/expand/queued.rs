//! The methods that only a repository with queued writes has, and those whose words differ there.
//!
//! A write is acknowledged when it stands in the queue. So there are no writes of many rows, which could not be all or none,
//! and no transaction, which the queue is no part of.

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
                "Fails with the kind `Duplicate` when there is such a row. {UNQUEUED} {UNKNOWN} {REFUSED}"
            ),
        ),
        write(
            "update",
            Parameter::Row,
            row.clone(),
            &format!("Overwrites the `{name}` with the same id and returns it. {ACKNOWLEDGED}"),
            &format!(
                "Fails with the kind `NotFound` when there is no such row. {UNQUEUED} {UNKNOWN} {REFUSED}"
            ),
        ),
        write(
            "save",
            Parameter::Row,
            row.clone(),
            &format!(
                "Inserts the `{name}`, or overwrites the one with the same id, and returns it. {ACKNOWLEDGED} Whether there is \
                 such a row need not be known."
            ),
            &format!("{UNQUEUED} {ASKED} {REFUSED}"),
        ),
        write(
            "delete",
            Parameter::Id,
            quote!(()),
            &format!("Deletes the `{name}` with this id. {ACKNOWLEDGED}"),
            &format!(
                "Fails with the kind `NotFound` when there is no such row. {UNQUEUED} {UNKNOWN} {REFUSED}"
            ),
        ),
    ]
}

/// A change that no other write comes in between.
pub(super) fn modify(name: &str, row: &TokenStream) -> Method {
    write(
        "modify",
        Parameter::Change,
        row.clone(),
        &format!(
            "Changes the `{name}` with this id and returns it: `change` is given the row as it is now, and no other write of \
             the row comes in between. If one did, `change` is called again with the row that it left, so it should do nothing \
             but change the row. {ACKNOWLEDGED}"
        ),
        &format!(
            "Fails with the kind `NotFound` when there is no such row, and with the kind `Conversion` when `change` gives the \
             row another id. {UNQUEUED} {UNKNOWN} {REFUSED}"
        ),
    )
}

/// What is done with the queue itself.
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
            "Creates the tables in which larder keeps the positions of queues and the writes that the database refused, if \
             they are not there. The statements are in `larder::schema`, for programs that run them in a migration.",
            "Fails when the database refuses to create them.",
            "A future that is dropped before it ends may have created one of them; call it again.",
        ),
        method(
            "start_flushing",
            quote!(#private::Flusher),
            &format!(
                "Brings queued writes of `{name}` to the database from now on, in the background, until the `Flusher` that it \
                 returns is shut down or dropped. Any number of processes may do so: one at a time works on a partition, and \
                 when it ends another takes over. While the store or the database is away it starts all the same, and goes on \
                 by itself when they are back."
            ),
            "Fails with the kind `Configuration` when the queue cannot be kept as the entity asks, or the database has not the \
             tables that `install` creates. What cannot be asked within a few seconds is logged when it is known.",
            "A future that is dropped before it ends has started nothing.",
        ),
        method(
            "flush",
            quote!(()),
            &format!(
                "Brings every write of `{name}` to the database that was acknowledged before the call, and returns when it is \
                 there or a dead letter."
            ),
            &format!("{QUEUE_OR_DATABASE} Nothing is lost then."),
            "The future may be dropped at any time. What was not flushed stays queued.",
        ),
        method(
            "pending",
            quote!(#private::Pending),
            &format!(
                "How many acknowledged writes of `{name}` are not in the database yet, and how long the oldest has waited. While \
                 the database is away the queue alone tells, and what has not left it counts."
            ),
            "Fails with the kind `Store` when the queue cannot be reached, and with `Configuration`.",
            "The future may be dropped at any time.",
        ),
    ]
}

/// The documentation of `dead_letters`, which is not asynchronous; `None` if there is no such method.
pub(super) fn dead_letters(name: &str, writes: Writes) -> Option<String> {
    writes.may_queue().then(|| {
        format!(
            "The writes of `{name}` that were acknowledged and then refused by the database: to be listed, queued again, or \
             discarded."
        )
    })
}

const ACKNOWLEDGED: &str =
    "It returns when the write stands in the queue; every reader sees it then.";

const UNQUEUED: &str = "Fails with the kind `Backpressure` when the queue is full and `on_full` is `refuse`, with `Store` when \
                        it cannot be reached, with `OutcomeUnknown` when it did not answer and the write may be queued or not, \
                        and with `Configuration` when it cannot be kept as the entity asks.";

const ASKED: &str = "The database is asked, and may fail, when the queue is new or full.";

const UNKNOWN: &str = "The database is asked, and may fail, when the queue is new or full, and when the cache does not know \
                       whether there is such a row.";

const REFUSED: &str =
    "What the database refuses later is no error of this call; it becomes a dead letter.";

const QUEUE_OR_DATABASE: &str =
    "Fails with the kind `Store` when the queue cannot be reached, and when the database fails.";

fn write(
    name: &'static str,
    parameter: Parameter,
    returns: TokenStream,
    does: &str,
    errors: &str,
) -> Method {
    let cancel = "A future that is dropped before it ends may have queued the write or not.";
    Method {
        name,
        inner: name,
        parameter,
        returns,
        docs: docs(does, errors, cancel),
    }
}
