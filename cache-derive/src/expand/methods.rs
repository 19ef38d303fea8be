//! The asynchronous methods of a repository: one table row each, with the documentation that users read.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::ext::IdentExt;

/// One method.
pub(super) struct Method {
    pub(super) name: &'static str,
    pub(super) parameter: Parameter,
    /// What it returns if it does not fail.
    pub(super) returns: TokenStream,
    pub(super) docs: String,
}

/// What a method is called with, besides the repository.
pub(super) enum Parameter {
    Nothing,
    Id,
    Row,
}

/// The methods in the order of the documentation.
pub(super) fn methods(entity: &Ident, private: &TokenStream) -> Vec<Method> {
    let name = entity.unraw().to_string();
    let row = &quote!(::std::sync::Arc<#entity>);
    let maybe_row = &quote!(::core::option::Option<#row>);
    let nothing = &quote!(());
    vec![
        read(
            "find",
            maybe_row,
            &format!(
                "The `{name}` with this id, from the cache if it is there and otherwise from the \
                 database; `None` if there is no such row."
            ),
            DATABASE_UNREADABLE,
        ),
        read(
            "find_outcome",
            &quote!(#private::Outcome<#entity>),
            &format!(
                "Finds a `{name}` as `find` does, and says where it came from and how old it is."
            ),
            DATABASE_UNREADABLE,
        ),
        read(
            "find_uncached",
            maybe_row,
            &format!(
                "The `{name}` with this id as the database has it. The cache is neither asked nor filled."
            ),
            "Fails when the database cannot be read.",
        ),
        read(
            "exists",
            &quote!(::core::primitive::bool),
            &format!("Whether there is a `{name}` with this id. The cache answers if it knows."),
            DATABASE_UNREADABLE,
        ),
        write(
            "insert",
            Parameter::Row,
            row,
            &format!("Inserts a new `{name}` and returns it as it was written. {GENERATED}"),
            "Fails with the kind `Duplicate` when there is such a row or a unique constraint refuses it, and when the \
             database fails.",
        ),
        write(
            "update",
            Parameter::Row,
            row,
            &format!(
                "Overwrites the `{name}` with the same id and returns it as it was written. {GENERATED}"
            ),
            "Fails with the kind `NotFound` when there is no such row, and when the database fails.",
        ),
        write(
            "save",
            Parameter::Row,
            row,
            &format!(
                "Inserts the `{name}`, or overwrites the one with the same id, and returns it as it was \
                 written. {GENERATED}"
            ),
            "Fails with the kind `Duplicate` when another unique constraint refuses the row, and when the database \
             fails.",
        ),
        write(
            "delete",
            Parameter::Id,
            nothing,
            &format!("Deletes the `{name}` with this id."),
            "Fails with the kind `NotFound` when there is no such row, and when the database fails.",
        ),
        Method {
            name: "invalidate",
            parameter: Parameter::Id,
            returns: nothing.clone(),
            docs: docs(
                &format!(
                    "Drops the `{name}` with this id from the cache, after a write that did not go through larder."
                ),
                "Fails with the kind `Store` when the cache cannot be reached: it may then serve the old row until its \
                 time to live ends.",
                "A future that is dropped before it ends may have dropped nothing from the cache; call it again.",
            ),
        },
        read(
            "refresh",
            maybe_row,
            &format!(
                "Loads the `{name}` with this id anew, whatever the cache holds, and caches it."
            ),
            DATABASE_UNREADABLE,
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

const GENERATED: &str = "Columns marked `generated` are in it as the database filled them in.";

const DATABASE_UNREADABLE: &str = "Fails when the database cannot be read. A cache that cannot be reached is no error: \
                                   the row then comes from the database.";

fn read(name: &'static str, returns: &TokenStream, does: &str, errors: &str) -> Method {
    let cancel = "The future may be dropped at any time. A load that others wait for goes on.";
    Method {
        name,
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
        parameter,
        returns: returns.clone(),
        docs: docs(does, errors, cancel),
    }
}

fn docs(does: &str, errors: &str, cancel: &str) -> String {
    format!("{does}\n\n# Errors\n\n{errors}\n\n# Cancel safety\n\n{cancel}")
}
