//! The methods of a repository: one table row each, with the documentation that users read.
//!
//! Each method costs compile time in every entity that has it, so no entity has a method that it cannot use.
//!
//! Not here: the methods of an entity whose writes are queued (`queued`).

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::ext::IdentExt;

use super::{
    method::{Method, Parameter, Writes, docs},
    queued,
};

/// Returns the methods in the order of the documentation.
pub(super) fn methods(
    entity: &Ident,
    private: &TokenStream,
    any_id: &Ident,
    any_result: &Ident,
    writes: Writes,
) -> Vec<Method> {
    let modified = &quote!(
        #private::Modified<#entity, <#any_result as #private::ChangeResult>::Value>
    );
    let name = &entity.unraw().to_string();
    let row = &quote!(::std::sync::Arc<#entity>);
    let words = Words::of(writes);
    let mut methods = reads(name, entity, row, private, any_id, &words);
    match writes {
        Writes::Database { versioned } | Writes::Unknown { versioned } => {
            methods.extend(row_writes(name, row, versioned));
            methods.extend(batch_writes(name, row, versioned));
        }
        Writes::Queue => methods.extend(queued::writes(name, row)),
        Writes::Nowhere => {}
    }
    match writes {
        Writes::Database { .. } | Writes::Unknown { .. } => {
            methods.extend(modify(name, modified, row, writes));
        }
        Writes::Queue => methods.extend(queued::modify(name, modified, row)),
        Writes::Nowhere => {}
    }
    if writes.may_queue() {
        methods.extend(queued::queue(name, private));
    }
    methods.extend(upkeep(name, row, private, &words));
    methods
}

/// Sentences of the documentation that depend on whether writes are queued.
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
                uncached: " Writes that are still queued are not visible in it.",
                invalidated: " A write that is still queued stays in the queue and is still served.",
                refreshed: " If a write of the row is still queued, that row is returned instead.",
            },
            Writes::Database { .. } | Writes::Unknown { .. } | Writes::Nowhere => Self {
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
    any_id: &Ident,
    words: &Words,
) -> Vec<Method> {
    let &Words {
        unreadable,
        uncached,
        ..
    } = words;
    let maybe_row = &quote!(::core::option::Option<#row>);
    vec![
        Method {
            parameter: Parameter::IdAndOptions,
            ..read(
                "find",
                maybe_row,
                &format!(
                    "Returns the `{name}` with this id, or `None` if there is no such row. It is read from the cache if it is \
                     there, and otherwise from the database. {OPTIONS}"
                ),
                unreadable,
            )
        },
        Method {
            parameter: Parameter::IdAndOptions,
            ..read(
                "find_outcome",
                &quote!(#private::Outcome<#entity>),
                &format!(
                    "Finds a `{name}` as `find` does, and also returns where it came from and how old it is. {OPTIONS}"
                ),
                unreadable,
            )
        },
        read(
            "find_uncached",
            maybe_row,
            &format!(
                "Returns the `{name}` with this id from the database. The cache is neither read nor filled.{uncached}"
            ),
            "Fails if the database cannot be read.",
        ),
        Method {
            parameter: Parameter::Ids,
            ..read(
                "find_many",
                &quote!(::std::vec::Vec<#maybe_row>),
                &format!(
                    "Returns each `{name}` with one of these ids, in the order of `ids`; `None` if there is no such row. The \
                     cache is read in one round trip for 500 ids, and what it lacks with one statement. The rows are not a \
                     snapshot of one moment."
                ),
                unreadable,
            )
        },
        Method {
            parameter: Parameter::MapIds,
            ..read(
                "find_map",
                &quote!(::std::collections::HashMap<#any_id, #row>),
                &format!(
                    "Finds each `{name}` as `find_many` does, and returns those that exist by their ids."
                ),
                unreadable,
            )
        },
        Method {
            parameter: Parameter::Query,
            ..read(
                "fill_from",
                &quote!(::std::vec::Vec<#row>),
                &format!(
                    "Returns each `{name}` that a query of your own finds, in its order, and caches it. The query says which rows \
                     there are; they are then read as `find_many` reads them."
                ),
                "Fails if the query fails, or if the database cannot be read.",
            )
        },
        read(
            "exists",
            &quote!(::core::primitive::bool),
            &format!(
                "Returns whether there is a `{name}` with this id. The answer comes from the cache if possible."
            ),
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
        "Fails with the kind `Duplicate` if the row exists or a unique constraint rejects it, and if the database fails.",
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
                    "Overwrites the `{name}` with the same id if it still has the version of `row`, increments the version, \
                     and returns the row as it was written. {GENERATED}"
                ),
                &format!("{conflict} {NOT_FOUND}"),
            ),
            write(
                "save",
                Parameter::Row,
                row,
                &format!(
                    "Inserts the `{name}`, or overwrites the one with the same id as `update` does. Returns it as it was \
                     written. {GENERATED}"
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
                    "Inserts the `{name}`, or overwrites the one with the same id. Returns it as it was written. {GENERATED}"
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

/// Returns the methods that change a row, for an entity whose writes go to the database.
fn modify(name: &str, modified: &TokenStream, row: &TokenStream, writes: Writes) -> [Method; 2] {
    let others = match writes {
        Writes::Database { versioned: true } | Writes::Unknown { versioned: true } => {
            "The row is not locked: if another write comes in between, nothing is written, and `change` is called again with the \
             new row. So `change` should do nothing but change the row. Only the columns that it changes are written."
        }
        _ => {
            "The row is read under a lock, in a transaction of its own, so that no other write comes in between. Only the columns \
             that `change` changes are written."
        }
    };
    queued::modifications(
        name,
        modified,
        row,
        others,
        "Fails if the database fails.",
        "If the future is dropped before it ends, the row may or may not have been changed, and no transaction stays open.",
    )
}

/// Writes of many rows, in one transaction each.
fn batch_writes(name: &str, row: &TokenStream, versioned: bool) -> Vec<Method> {
    let rows = &quote!(::std::vec::Vec<#row>);
    let refused = |method: &str| {
        format!(
            "Fails as `{method}` does for the first row that is rejected, with the kind `Duplicate` if `rows` contains a row \
             twice, and if the database fails. {NOTHING_WRITTEN}"
        )
    };
    let insert = write(
        "insert_many",
        Parameter::Rows,
        rows,
        &format!(
            "Inserts all of `rows` or none. Returns each `{name}` as it was written, in the order of `rows`. {GENERATED}"
        ),
        &format!(
            "Fails with the kind `Duplicate` if one of the rows exists or a unique constraint rejects it, and if the database \
             fails. {NOTHING_WRITTEN}"
        ),
    );
    let update = write(
        "update_many",
        Parameter::Rows,
        rows,
        &format!(
            "Overwrites each `{name}` in `rows` as `update` does, all or none. Returns them as they were written, in the \
             order of `rows`."
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
                "Deletes each `{name}` with one of these ids, all or none, and returns how many were deleted. An id without \
                 a row is not an error."
            ),
            &format!("Fails if the database fails. {NOTHING_WRITTEN}"),
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
                    "Drops the `{name}` with this id from the cache. Call it after a write that did not go through larder.{invalidated}"
                ),
                "Fails with the kind `CacheUnavailable` if the cache cannot be reached. This process then reads the row from the \
                 database until the cache has dropped it. Other processes may serve the old row until its time to live ends.",
                "If the future is dropped before it ends, the row may still be in the cache. Call it again.",
            ),
        },
        Method {
            name: "invalidate_all",
            inner: "invalidate_all",
            parameter: Parameter::Nothing,
            returns: quote!(()),
            docs: docs(
                &format!(
                    "Drops every `{name}` from the cache. Call it after writes that did not go through larder. An entity with `tags` \
                     needs one round trip for it; without, it scans all keys of the cache once.{invalidated}"
                ),
                "Fails with the kind `CacheUnavailable` if the cache cannot be reached. This process then reads the rows from the \
                 database until they have been dropped. Other processes may serve old rows until their time to live ends.",
                "If the future is dropped before it ends, only some of the rows may have been dropped. Call it again.",
            ),
        },
        read(
            "refresh",
            &quote!(::core::option::Option<#row>),
            &format!(
                "Drops the `{name}` with this id from the cache, loads it from the database, caches it and returns it.{refreshed}"
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
                "Fails if the database cannot be queried. A mismatch is not an error: the report lists it.",
            )
        },
    ]
}

/// The documentation of `within`, which is not asynchronous; `None` if there is no such method.
pub(super) fn within(name: &str, writes: Writes) -> Option<String> {
    let delete = match writes {
        Writes::Queue | Writes::Nowhere => return None,
        Writes::Database { versioned: true } | Writes::Unknown { versioned: true } => {
            " Inside the transaction, delete rows with `delete_row` and `delete_rows`."
        }
        Writes::Database { versioned: false } | Writes::Unknown { versioned: false } => "",
    };
    Some(format!(
        "Returns the reads and writes of `{name}` inside a transaction, which must be on the same database.{delete}\n\n\
         Reads query the database and see the transaction's own writes. Before the commit, no row of the transaction is \
         cached, and no other reader sees its writes."
    ))
}

const OPTIONS: &str =
    "The result has options for this call, such as `.max_age(..)` and `.timeout(..)`.";

const GENERATED: &str = "Columns marked `generated` have the values that the database filled in.";

const DATABASE_UNREADABLE: &str = "Fails if the database cannot be read. An unreachable cache is not an error: the row is \
                                   then read from the database.";

const QUEUE_UNREADABLE: &str = "Fails if the database cannot be read. An unreachable cache is not an error: the row is then \
                                read from the database, without the writes that are still queued.";

const NOT_FOUND: &str =
    "Fails with the kind `NotFound` if there is no such row, and if the database fails.";

const OTHER_DUPLICATE: &str = "Fails with the kind `Duplicate` if another unique constraint rejects the row, and if the \
                               database fails.";

const NOTHING_WRITTEN: &str = "Nothing was written then.";

fn conflict(name: &str) -> String {
    format!(
        "Fails with the kind `Conflict` if the row was changed since it was read: `error.current::<{name}>()` returns the \
         current row."
    )
}

fn read(name: &'static str, returns: &TokenStream, does: &str, errors: &str) -> Method {
    let cancel =
        "The future may be dropped at any time. A load that other callers wait for continues.";
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
    let cancel = "A write that has begun runs to its end even if the future is dropped. Only its result is lost. A future \
                  that was never polled has not begun.";
    Method {
        name,
        inner: name,
        parameter,
        returns: returns.clone(),
        docs: docs(does, errors, cancel),
    }
}
