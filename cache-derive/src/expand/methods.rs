//! The methods of a repository: one table row each, with the documentation that users read.
//!
//! Each costs every entity that has it compile time, so no entity has one that it cannot use.
//!
//! Not here: the methods of an entity whose writes are queued (`queued`).

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::ext::IdentExt;

use super::{
    method::{Method, Parameter, Writes, docs},
    queued,
};

/// The methods in the order of the documentation.
pub(super) fn methods(entity: &Ident, private: &TokenStream, writes: Writes) -> Vec<Method> {
    let name = &entity.unraw().to_string();
    let row = &quote!(::std::sync::Arc<#entity>);
    let words = Words::of(writes);
    let mut methods = reads(name, entity, row, private, &words);
    match writes {
        Writes::Database { versioned } | Writes::Unknown { versioned } => {
            methods.extend(row_writes(name, row, versioned));
            methods.extend(batch_writes(name, row, versioned));
        }
        Writes::Queue => methods.extend(queued::writes(name, row)),
    }
    if writes.may_queue() {
        methods.push(queued::modify(name, row));
        methods.extend(queued::queue(name, private));
    }
    methods.extend(upkeep(name, row, private, &words));
    methods
}

/// What the documentation says of reads besides, where writes are queued.
struct Words {
    unreadable: &'static str,
    uncached: &'static str,
    invalidated: &'static str,
    refreshed: &'static str,
}

impl Words {
    fn of(writes: Writes) -> Self {
        match writes {
            Writes::Queue => Self {
                unreadable: QUEUE_UNREADABLE,
                uncached: " It has no writes that are still queued.",
                invalidated: " A write that is still queued stays, and is served.",
                refreshed: " A write that is still queued is served in its place.",
            },
            Writes::Database { .. } | Writes::Unknown { .. } => Self {
                unreadable: DATABASE_UNREADABLE,
                uncached: "",
                invalidated: "",
                refreshed: "",
            },
        }
    }
}

fn reads(
    name: &str,
    entity: &Ident,
    row: &TokenStream,
    private: &TokenStream,
    words: &Words,
) -> Vec<Method> {
    let &Words {
        unreadable,
        uncached,
        ..
    } = words;
    let maybe_row = &quote!(::core::option::Option<#row>);
    vec![
        read(
            "find",
            maybe_row,
            &format!(
                "The `{name}` with this id, from the cache if it is there and otherwise from the \
                 database; `None` if there is no such row."
            ),
            unreadable,
        ),
        read(
            "find_outcome",
            &quote!(#private::Outcome<#entity>),
            &format!(
                "Finds a `{name}` as `find` does, and says where it came from and how old it is."
            ),
            unreadable,
        ),
        read(
            "find_uncached",
            maybe_row,
            &format!(
                "The `{name}` with this id as the database has it. The cache is neither asked nor filled.{uncached}"
            ),
            "Fails when the database cannot be read.",
        ),
        read(
            "exists",
            &quote!(::core::primitive::bool),
            &format!("Whether there is a `{name}` with this id. The cache answers if it knows."),
            unreadable,
        ),
    ]
}

fn row_writes(name: &str, row: &TokenStream, versioned: bool) -> Vec<Method> {
    let insert = write(
        "insert",
        Parameter::Row,
        row,
        &format!("Inserts a new `{name}` and returns it as it was written. {GENERATED}"),
        "Fails with the kind `Duplicate` when there is such a row or a unique constraint refuses it, and when the \
         database fails.",
    );
    let nothing = &quote!(());
    let [update, save, delete] = if versioned {
        let conflict = conflict(name);
        [
            write(
                "update",
                Parameter::Row,
                row,
                &format!(
                    "Overwrites the `{name}` with the same id if it still has the version of `row`, counts the version \
                     up, and returns it as it was written. {GENERATED}"
                ),
                &format!("{conflict} {NOT_FOUND}"),
            ),
            write(
                "save",
                Parameter::Row,
                row,
                &format!(
                    "Inserts the `{name}`, or overwrites the one with the same id as `update` does, and returns it as it \
                     was written. {GENERATED}"
                ),
                &format!("{conflict} {OTHER_DUPLICATE}"),
            ),
            Method {
                inner: "delete_row",
                ..write(
                    "delete",
                    Parameter::Row,
                    nothing,
                    &format!(
                        "Deletes the `{name}` with the id of `row` if it still has the version of `row`."
                    ),
                    &format!("{conflict} {NOT_FOUND}"),
                )
            },
        ]
    } else {
        [
            write(
                "update",
                Parameter::Row,
                row,
                &format!(
                    "Overwrites the `{name}` with the same id and returns it as it was written. {GENERATED}"
                ),
                NOT_FOUND,
            ),
            write(
                "save",
                Parameter::Row,
                row,
                &format!(
                    "Inserts the `{name}`, or overwrites the one with the same id, and returns it as it was \
                     written. {GENERATED}"
                ),
                OTHER_DUPLICATE,
            ),
            write(
                "delete",
                Parameter::Id,
                nothing,
                &format!("Deletes the `{name}` with this id."),
                NOT_FOUND,
            ),
        ]
    };
    vec![insert, update, save, delete]
}

/// Writes of many rows, in one transaction each.
fn batch_writes(name: &str, row: &TokenStream, versioned: bool) -> Vec<Method> {
    let rows = &quote!(::std::vec::Vec<#row>);
    let refused = |method: &str| {
        format!(
            "Fails as `{method}` does for the first row that is refused, with the kind `Duplicate` when a row is given \
             twice, and when the database fails. {NOTHING_WRITTEN}"
        )
    };
    let insert = write(
        "insert_many",
        Parameter::Rows,
        rows,
        &format!(
            "Inserts all of `rows` or none, and returns each `{name}` as it was written, in the order of `rows`. \
             {GENERATED}"
        ),
        &format!(
            "Fails with the kind `Duplicate` when there is one of the rows already or a unique constraint refuses it, and \
             when the database fails. {NOTHING_WRITTEN}"
        ),
    );
    let update = write(
        "update_many",
        Parameter::Rows,
        rows,
        &format!(
            "Overwrites each `{name}` in `rows` as `update` does, all or none, and returns them as they were written, in \
             the order of `rows`."
        ),
        &refused("update"),
    );
    let delete = if versioned {
        Method {
            inner: "delete_rows",
            ..write(
                "delete_many",
                Parameter::Rows,
                &quote!(()),
                &format!("Deletes each `{name}` in `rows` as `delete` does, all or none."),
                &refused("delete"),
            )
        }
    } else {
        write(
            "delete_many",
            Parameter::Ids,
            &quote!(::core::primitive::u64),
            &format!(
                "Deletes each `{name}` with one of these ids, all or none, and returns how many there were. An id without \
                 a row is no error."
            ),
            &format!("Fails when the database fails. {NOTHING_WRITTEN}"),
        )
    };
    vec![insert, update, delete]
}

fn upkeep(name: &str, row: &TokenStream, private: &TokenStream, words: &Words) -> Vec<Method> {
    let &Words {
        unreadable,
        invalidated,
        refreshed,
        ..
    } = words;
    vec![
        Method {
            name: "invalidate",
            inner: "invalidate",
            parameter: Parameter::Id,
            returns: quote!(()),
            docs: docs(
                &format!(
                    "Drops the `{name}` with this id from the cache, after a write that did not go through larder.{invalidated}"
                ),
                "Fails with the kind `Store` when the cache cannot be reached: it may then serve the old row until its \
                 time to live ends.",
                "A future that is dropped before it ends may have dropped nothing from the cache; call it again.",
            ),
        },
        Method {
            name: "invalidate_all",
            inner: "invalidate_all",
            parameter: Parameter::Nothing,
            returns: quote!(()),
            docs: docs(
                &format!(
                    "Drops every `{name}` from the cache, after writes that did not go through larder. It looks at every key of \
                     the cache once.{invalidated}"
                ),
                "Fails with the kind `Store` when the cache cannot be reached. This process then serves nothing from it until \
                 all rows were dropped; others may serve old rows until their time to live ends.",
                "A future that is dropped before it ends may have dropped only some of the rows; call it again.",
            ),
        },
        read(
            "refresh",
            &quote!(::core::option::Option<#row>),
            &format!(
                "Loads the `{name}` with this id anew, whatever the cache holds, and caches it.{refreshed}"
            ),
            unreadable,
        ),
        Method {
            parameter: Parameter::Nothing,
            ..read(
                "check_schema",
                &quote!(#private::SchemaReport),
                &format!(
                    "Compares the columns of `{name}` with those of the table, to find a mismatch at start-up."
                ),
                "Fails when the database cannot be asked. A mismatch is no error; it is in the report.",
            )
        },
    ]
}

/// The documentation of `within`, which is not asynchronous; `None` if there is no such method.
pub(super) fn within(name: &str, writes: Writes) -> Option<String> {
    let delete = match writes {
        Writes::Queue => return None,
        Writes::Database { versioned: true } | Writes::Unknown { versioned: true } => {
            " There, rows are deleted with `delete_row` and `delete_rows`."
        }
        Writes::Database { versioned: false } | Writes::Unknown { versioned: false } => "",
    };
    Some(format!(
        "Reads and writes of `{name}` inside a transaction, which must be one on the same database.{delete}\n\n\
         Reads see the transaction's own writes and ask the database. Nothing is cached, and nobody else sees anything, \
         before the transaction is committed."
    ))
}

const GENERATED: &str = "Columns marked `generated` are in it as the database filled them in.";

const DATABASE_UNREADABLE: &str = "Fails when the database cannot be read. A cache that cannot be reached is no error: \
                                   the row then comes from the database.";

const QUEUE_UNREADABLE: &str = "Fails when the database cannot be read. A cache that cannot be reached is no error: the \
                                row then comes from the database, without the writes that are still queued.";

const NOT_FOUND: &str =
    "Fails with the kind `NotFound` when there is no such row, and when the database fails.";

const OTHER_DUPLICATE: &str = "Fails with the kind `Duplicate` when another unique constraint refuses the row, and when \
                               the database fails.";

const NOTHING_WRITTEN: &str = "Nothing is written then.";

fn conflict(name: &str) -> String {
    format!(
        "Fails with the kind `Conflict` when the row was changed since it was read: `error.current::<{name}>()` is the row \
         as it is now."
    )
}

fn read(name: &'static str, returns: &TokenStream, does: &str, errors: &str) -> Method {
    let cancel = "The future may be dropped at any time. A load that others wait for goes on.";
    Method {
        name,
        inner: name,
        parameter: Parameter::Id,
        returns: returns.clone(),
        docs: docs(does, errors, cancel),
    }
}

fn write(
    name: &'static str,
    parameter: Parameter,
    returns: &TokenStream,
    does: &str,
    errors: &str,
) -> Method {
    let cancel = "A write that has begun runs to its end even if the future is dropped; only the answer is lost. A future \
                  that was never polled has begun nothing.";
    Method {
        name,
        inner: name,
        parameter,
        returns: returns.clone(),
        docs: docs(does, errors, cancel),
    }
}
