//! The rules about one field.

use super::{derive_name, is_skipped, named};
use crate::{
    ast::{Derive, Field, Input},
    diagnostics::Errors,
    model::{option_argument, type_name},
};

/// Judges a field by every rule that needs nothing but the field and its struct.
pub(super) fn check(errors: &mut Errors, input: &Input, field: &Field) {
    check_combination(errors, field);
    match input.derive {
        Derive::Cached => check_id(errors, field),
        Derive::Columns => check_nested_id(errors, field),
    }
    check_generated(errors, field);
    check_skip(errors, input, field);
    check_payload(errors, field);
}

/// What sqlx reads in two steps larder would have to write in two steps, and it has no way to.
fn check_combination(errors: &mut Errors, field: &Field) {
    let sqlx = &field.sqlx;
    match (&sqlx.flatten, &sqlx.json, &sqlx.try_from) {
        (Some(_), Some(json), _) => {
            let message =
                "a field cannot be flattened and stored as JSON; remove `flatten` or `json`";
            errors.report(&json.name, message);
        }
        (Some(_), None, Some(try_from)) => {
            let message = "larder cannot write a flattened field through `try_from`; \
                           let the nested struct convert its own fields";
            errors.report(&try_from.name, message);
        }
        (None, Some(_), Some(try_from)) => {
            let message = "larder cannot write JSON through `try_from`; \
                           let the type convert itself with `#[serde(try_from = \"..\", into = \"..\")]`";
            errors.report(&try_from.name, message);
        }
        _ => {}
    }
}

/// An id is one column that is never `NULL`, is equal to itself, and is the same bytes each time it is written down.
fn check_id(errors: &mut Errors, field: &Field) {
    let Some(id) = named(field, "id") else {
        return;
    };
    let name = &field.ident;
    let message = if let Some(flatten) = &field.sqlx.flatten {
        let message = "an id cannot be flattened; mark the fields of a composite id one by one, in this struct";
        return errors.report(flatten, message);
    } else if let Some(json) = &field.sqlx.json {
        let message = "an id cannot be stored as JSON, which databases do not compare as a key; store it as text";
        return errors.report(&json.name, message);
    } else if is_skipped(field) {
        format!(
            "`{name}` is left out of every statement and cannot be the id; remove `id` or `skip`"
        )
    } else if option_argument(&field.ty).is_some() {
        let message = "an id cannot be an `Option`: no row is found by `NULL`; \
                       use the type inside, or mark another field with `#[cached(id)]`";
        return errors.report(&field.ty, message);
    } else if type_name(&field.ty).is_some_and(|name| name == "f32" || name == "f64") {
        let message = "an id cannot be a floating point number, which is not reliably equal to itself; \
                       use an integer or a string";
        return errors.report(&field.ty, message);
    } else {
        return;
    };
    errors.report(id, message);
}

/// The id belongs to the row, and a nested struct is only a part of one.
fn check_nested_id(errors: &mut Errors, field: &Field) {
    if let Some(id) = named(field, "id") {
        let derive = derive_name(Derive::Columns);
        let message = format!(
            "`{derive}` is for nested structs, which have no id; move the field into the entity"
        );
        errors.report(id, message);
    }
}

/// The database fills in columns, and only those that larder reads back.
fn check_generated(errors: &mut Errors, field: &Field) {
    let Some(generated) = named(field, "generated") else {
        return;
    };
    let name = &field.ident;
    if field.sqlx.flatten.is_some() {
        let message = format!(
            "`{name}` is flattened, so it is no column that could be generated; \
             mark the generated fields inside the nested struct"
        );
        errors.report(generated, message);
    } else if is_skipped(field) && !field.settings.names("id") {
        let message = format!(
            "`{name}` is left out of every statement, so nobody would see what is generated; \
             remove `generated` or `skip`"
        );
        errors.report(generated, message);
    }
}

/// A row must be read into the whole struct, so a field that has no column needs a value from elsewhere.
fn check_skip(errors: &mut Errors, input: &Input, field: &Field) {
    let Some(skip) = named(field, "skip") else {
        return;
    };
    let filled = field.sqlx.skip.is_some() || field.sqlx.default.is_some() || input.sqlx.default;
    // A skipped id or generated field has been reported; how it would be filled does not matter then.
    if filled || field.settings.names("id") || field.settings.names("generated") {
        return;
    }
    let name = &field.ident;
    let message = format!(
        "`{name}` is left out of every statement, but `sqlx::FromRow` wants a column for it\n\
         help: add `#[sqlx(skip)]`, which fills it with its default value"
    );
    errors.report(skip, message);
}

/// A column that serde leaves out is read from the database and lost in the cache: the first read has it, the second
/// has not.
fn check_payload(errors: &mut Errors, field: &Field) {
    if is_skipped(field) {
        return;
    }
    if let Some(serde) = field.serde.iter().find(|serde| serde.kind.loses_field()) {
        let (name, key) = (&field.ident, serde.kind.name());
        let message = format!(
            "`{name}` is a column, but `#[serde({key})]` keeps it out of the cache: a cached row would come back without it\n\
             help: remove `{key}`; to hide the field from an API, serialize another struct there"
        );
        errors.report(&serde.tokens, message);
    }
}
