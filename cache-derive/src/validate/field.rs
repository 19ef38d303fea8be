//! The rules about one field.

use super::{derive_name, is_skipped, named};
use crate::{
    ast::{Derive, Field, Input},
    diagnostics::Errors,
    model::{option_argument, spelling, type_name},
};

/// Judges a field by every rule that needs nothing but the field and its struct.
pub(super) fn check(errors: &mut Errors, input: &Input, field: &Field) {
    check_combination(errors, field);
    match input.derive {
        Derive::Cached => {
            check_id(errors, field);
            check_version(errors, field);
            check_immutable(errors, field);
            check_omit(errors, field);
        }
        Derive::Columns => {
            check_nested(errors, field, "id");
            check_nested(errors, field, "version");
            check_nested(errors, field, "unique");
            check_nested(errors, field, "index");
            check_nested(errors, field, "belongs_to");
            check_nested(errors, field, "immutable");
            check_nested(errors, field, "omit");
        }
    }
    check_generated(errors, field);
    check_skip(errors, input, field);
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

/// The version is compared and counted up in SQL, so it is one integer column that larder writes.
fn check_version(errors: &mut Errors, field: &Field) {
    let Some(version) = named(field, "version") else {
        return;
    };
    let (name, sqlx) = (&field.ident, &field.sqlx);
    if field.settings.names("id") {
        let message = format!(
            "`{name}` is the id, which never changes, so it cannot count the changes; mark another field"
        );
        errors.report(version, message);
    } else if let Some(generated) = named(field, "generated") {
        let message =
            "a version cannot be generated, because larder counts it up itself; remove `generated`";
        errors.report(generated, message);
    } else if is_skipped(field) {
        let message = format!(
            "`{name}` is left out of every statement and cannot be the version; remove `version` or `skip`"
        );
        errors.report(version, message);
    } else if let Some(flatten) = &sqlx.flatten {
        let message = "a version cannot be flattened; mark an integer field of this struct";
        errors.report(flatten, message);
    } else if let Some(json) = &sqlx.json {
        let message = "a version cannot be stored as JSON, which databases do not count up; store it as an integer";
        errors.report(&json.name, message);
    } else if let Some(try_from) = &sqlx.try_from {
        let message = "a version cannot be written through `try_from`, because the database counts it up; \
                       use the stored integer";
        errors.report(&try_from.name, message);
    } else if option_argument(&field.ty).is_some() {
        let message = "a version cannot be an `Option`: `NULL` counted up is `NULL`; \
                       use the type inside, and make the column `NOT NULL`";
        errors.report(&field.ty, message);
    } else if type_name(&field.ty).is_none_or(|name| NO_INTEGERS.contains(&name.as_str())) {
        let ty = spelling(&field.ty);
        let message =
            format!("a version must be an integer, which `{ty}` is not; use `i64`, for example");
        errors.report(&field.ty, message);
    }
}

/// An update compares the column in SQL and does not write it.
fn check_immutable(errors: &mut Errors, field: &Field) {
    let Some(immutable) = named(field, "immutable") else {
        return;
    };
    let (name, sqlx) = (&field.ident, &field.sqlx);
    if field.settings.names("id") {
        let message = format!("`{name}` is the id, which never changes; remove `immutable`");
        errors.report(immutable, message);
    } else if field.settings.names("version") {
        let message =
            format!("`{name}` is the version, which every update changes; remove `immutable`");
        errors.report(immutable, message);
    } else if field.settings.names("generated") {
        let message = format!(
            "`{name}` is generated, so larder never writes it; remove `immutable` or `generated`"
        );
        errors.report(immutable, message);
    } else if is_skipped(field) {
        let message = format!(
            "`{name}` is left out of every statement, so no update could change it; remove `immutable` or `skip`"
        );
        errors.report(immutable, message);
    } else if let Some(flatten) = &sqlx.flatten {
        let message = "a flattened field is no column of its own, so it cannot be `immutable`";
        errors.report(flatten, message);
    } else if let Some(json) = &sqlx.json {
        let message = "a column of JSON cannot be `immutable`: an update compares the column, and databases do not compare JSON";
        errors.report(&json.name, message);
    } else {
        let inner = option_argument(&field.ty).unwrap_or(&field.ty);
        let name = type_name(inner).unwrap_or_default();
        if name == "Json" || name == "Value" {
            let message = "a column of JSON cannot be `immutable`: an update compares the column, and databases do not compare JSON";
            errors.report(&field.ty, message);
        } else if name == "f32" || name == "f64" {
            let message = "a floating point number cannot be `immutable`: an update compares the column, and such a number is not \
                           reliably equal to itself";
            errors.report(&field.ty, message);
        }
    }
}

/// What else a field with `omit` cannot be, and why.
const NOT_OMITTED: &[(&str, &str)] = &[
    ("id", "it is the id, by which a row is cached"),
    (
        "version",
        "a cached row needs its version for the next write",
    ),
    (
        "immutable",
        "an update compares the column, also of a cached row",
    ),
    ("generated", "larder never writes the column"),
    (
        "belongs_to",
        "the other row is found by its value in a cached row",
    ),
];

/// A column that is not in the cache is empty in a cached row, and an update must tell an empty one from a new value.
fn check_omit(errors: &mut Errors, field: &Field) {
    let Some(omit) = named(field, "omit") else {
        return;
    };
    let (name, sqlx) = (&field.ident, &field.sqlx);
    let other = NOT_OMITTED
        .iter()
        .find(|(key, _)| field.settings.names(key));
    if let Some((key, why)) = other {
        let message =
            format!("`{name}` cannot be left out of the cache: {why}; remove `omit` or `{key}`");
        errors.report(omit, message);
    } else if is_skipped(field) {
        let message = format!(
            "`{name}` is left out of every statement, so it is not in the cache either; remove `omit` or `skip`"
        );
        errors.report(omit, message);
    } else if let Some(flatten) = &sqlx.flatten {
        let message = "a flattened field is no column of its own, so it cannot be `omit`; move the column into the entity";
        errors.report(flatten, message);
    } else if option_argument(&field.ty).is_none() {
        let ty = spelling(&field.ty);
        let message = format!(
            "`{name}` is empty in a row from the cache, so it must be an `Option`\nhelp: write `Option<{ty}>`; the column can be NOT NULL"
        );
        errors.report(&field.ty, message);
    } else if let Some(json) = sqlx.json.as_ref().filter(|json| !json.nullable) {
        let message = "`None` must be NULL, so that an update can leave the column as it is; write `#[sqlx(json(nullable))]`";
        errors.report(&json.name, message);
    } else if let Some(try_from) = &sqlx.try_from
        && option_argument(&try_from.stored).is_none()
    {
        let stored = spelling(&try_from.stored);
        let message = format!(
            "`None` must be NULL, so that an update can leave the column as it is; write `#[sqlx(try_from = \"Option<{stored}>\")]`"
        );
        errors.report(&try_from.name, message);
    }
}

/// Types that are mistaken for a version. An unknown name may be that of an integer.
const NO_INTEGERS: &[&str] = &[
    "f32",
    "f64",
    "bool",
    "char",
    "String",
    "Vec",
    "Uuid",
    "DateTime",
    "NaiveDateTime",
    "OffsetDateTime",
    "PrimitiveDateTime",
];

/// Id and version belong to the row, and a nested struct is only a part of one.
fn check_nested(errors: &mut Errors, field: &Field, key: &str) {
    if let Some(name) = named(field, key) {
        let derive = derive_name(Derive::Columns);
        let message = format!(
            "`{derive}` is for nested structs, which have no {key}; move the field into the entity"
        );
        errors.report(name, message);
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
    // A skipped id, generated field or version has been reported; how it would be filled does not matter then.
    let is_reported = ["id", "generated", "version", "immutable", "omit"]
        .iter()
        .any(|key| field.settings.names(key));
    if filled || is_reported {
        return;
    }
    let name = &field.ident;
    let message = format!(
        "`{name}` is left out of every statement, but `sqlx::FromRow` wants a column for it\n\
         help: add `#[sqlx(skip)]`, which fills it with its default value"
    );
    errors.report(skip, message);
}
