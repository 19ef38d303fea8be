//! From the [`ast`](crate::ast) to the [`model`](crate::model): the one place that knows rules.
//!
//! Each rule is a function called `check_..` that says in its comment what would go wrong without it. The rules of one
//! field are in `field`, those of the whole entity in `entity`, those of its options in `policy`, those of a queue of
//! writes in `queue`, those of lookups in `lookup`, those of relations in `relation`, those of tags in `tag`, those of cascades
//! and queries in `group`, those of the end of a row in `ttl_from`, those of an entity without writes in `read_only`, those of
//! what serde makes of a row in `payload`, and those that any input must meet here.
//!
//! Invariant: where a rule is broken, something has been reported. A model may still be returned, so that later rules
//! are judged too; it is not expanded.

mod entity;
mod field;
mod group;
mod lookup;
mod payload;
mod policy;
mod queue;
mod read_only;
mod relation;
mod tag;
mod ttl_from;

use heck::{ToKebabCase, ToLowerCamelCase, ToShoutySnakeCase, ToSnakeCase, ToUpperCamelCase};
use proc_macro2::Ident;
use quote::quote;
use syn::{LitStr, ext::IdentExt};

use crate::{
    ast::{Derive, Field, Input, RenameAll, Setting, Settings, Shape, Value, Word},
    diagnostics::Errors,
    grammar::{self, Place},
    model::{Column, Kind, Lookup, Member, Model, Relation, Role, Skipped, Table, Tag},
    paths::Paths,
};

/// Judges the input; `None` if too little is left of it to generate anything.
pub(crate) fn model(errors: &mut Errors, input: &Input) -> Option<Model> {
    check_generics(errors, input);
    check_repeated(errors, &input.settings);
    let shaped = check_shape(errors, input);
    for field in input.fields() {
        check_repeated(errors, &field.settings);
        field::check(errors, input, field);
    }
    // The rules about an entity ask what its fields are; without fields they would only repeat the fault.
    if !shaped {
        return None;
    }
    check_columns(errors, input);
    payload::check(errors, input);
    match input.derive {
        Derive::Cached => {
            entity::model(errors, input).map(|entity| Model::Entity(Box::new(entity)))
        }
        Derive::Columns => {
            check_nested(errors, input);
            Some(Model::Nested(table(input)))
        }
    }
}

/// A row has named columns, so the struct has named fields, and at least one.
fn check_shape(errors: &mut Errors, input: &Input) -> bool {
    let derive = derive_name(input.derive);
    let message = match &input.shape {
        Shape::Named(fields) if !fields.is_empty() => return true,
        Shape::Named(_) => format!("`{derive}` needs a struct with fields, one per column"),
        Shape::Tuple => format!(
            "`{derive}` needs a struct with named fields, one per column; this one has no names"
        ),
        Shape::Unit => format!(
            "`{derive}` needs a struct with named fields, one per column; this one has none"
        ),
        Shape::Enum => format!(
            "`{derive}` needs a struct with named fields, one per column; \
             to store an enum in a column, derive `sqlx::Type` for it"
        ),
        Shape::Union => {
            format!("`{derive}` needs a struct with named fields, one per column; write a struct")
        }
    };
    errors.report(&input.ident, message);
    false
}

/// An entity is one table with one set of columns, and its name is part of every key: two instances of a generic struct
/// would share keys. A borrowed row could not outlive the statement that read it.
fn check_generics(errors: &mut Errors, input: &Input) {
    if input.generics.params.is_empty() {
        return;
    }
    let message = "larder does not support generic structs: an entity is one table with columns of known types\n\
                   help: write a struct with concrete types that own their data, such as `String` in place of `&'a str`";
    let generics = &input.generics;
    errors.report(quote!(#generics), message);
}

/// The second of two values would silently win, or lose.
fn check_repeated(errors: &mut Errors, settings: &Settings) {
    for (index, setting) in settings.list.iter().enumerate() {
        match &setting.value {
            Value::Group(inner) => check_repeated(errors, inner),
            Value::Lookup(lookup) => {
                check_repeated(errors, &lookup.options);
                // A struct has as many of them as it likes.
                if !lookup.fields.is_empty() {
                    continue;
                }
            }
            _ => {}
        }
        let name = setting.key.name;
        if name == "has_many" {
            continue;
        }
        let earlier = settings.list[..index]
            .iter()
            .any(|other| other.name == name);
        if setting.name == name && earlier {
            errors.report(
                &setting.name,
                format!("`{name}` is named twice; remove one"),
            );
        }
    }
}

/// Two fields of one column would be two values in one statement.
fn check_columns(errors: &mut Errors, input: &Input) {
    let mut seen: Vec<(String, &Field)> = Vec::new();
    for field in input.fields().iter().filter(|field| has_column(field)) {
        let name = column_name(input, field);
        match seen.iter().find(|(other, _)| *other == name) {
            Some((_, other)) => {
                let message = format!(
                    "`{}` and `{}` are both the column `{name}`; rename one with `#[sqlx(rename = \"..\")]`",
                    other.ident, field.ident
                );
                match &field.sqlx.rename {
                    Some(rename) => errors.report(rename, message),
                    None => errors.report(&field.ident, message),
                }
            }
            None => seen.push((name, field)),
        }
    }
}

/// How a row is cached is the business of the entity around a nested struct.
fn check_nested(errors: &mut Errors, input: &Input) {
    for setting in input
        .settings
        .list
        .iter()
        .filter(|setting| setting.key.name != "crate")
    {
        let message = format!(
            "`{}` means nothing on a nested struct, which is cached as a part of its entity; move it there",
            setting.key.name
        );
        errors.report(&setting.name, message);
    }
}

/// The columns of the struct.
fn table(input: &Input) -> Table {
    let (skipped, members): (Vec<_>, Vec<_>) =
        input.fields().iter().partition(|field| is_skipped(field));
    let skipped = skipped.into_iter().map(|field| Skipped {
        ident: field.ident.clone(),
        is_of_struct: field.sqlx.skip.is_none() && field.sqlx.default.is_none(),
    });
    Table {
        ident: input.ident.clone(),
        paths: paths(&input.settings),
        members: members
            .into_iter()
            .map(|field| member(input, field))
            .collect(),
        skipped: skipped.collect(),
    }
}

fn member(input: &Input, field: &Field) -> Member {
    let column = || Column {
        name: column_name(input, field),
        role: role(field),
    };
    let sqlx = &field.sqlx;
    let kind = match (&sqlx.flatten, &sqlx.json, &sqlx.try_from) {
        (Some(_), _, _) => Kind::Flatten,
        (None, Some(json), _) => Kind::Json {
            column: column(),
            nullable: json.nullable,
        },
        (None, None, Some(try_from)) => Kind::Converted {
            column: column(),
            stored: Box::new(try_from.stored.clone()),
        },
        (None, None, None) => Kind::Column { column: column() },
    };
    Member {
        ident: field.ident.clone(),
        ty: field.ty.clone(),
        kind,
    }
}

fn role(field: &Field) -> Role {
    match (
        field.settings.names("id"),
        field.settings.names("generated"),
    ) {
        (true, true) => Role::GeneratedId,
        (true, false) => Role::Id,
        (false, true) => Role::Generated,
        (false, false) if field.settings.names("version") => Role::Version,
        (false, false) if field.settings.names("immutable") => Role::Immutable,
        (false, false) if field.settings.names("omit") => Role::Omitted,
        (false, false) => Role::Plain,
    }
}

/// The larder crate, as far as the settings name one. Also asked after an error, by the skeleton.
pub(crate) fn paths(settings: &Settings) -> Paths {
    Paths::new(
        settings
            .get("crate")
            .and_then(|setting| match &setting.value {
                Value::Path(path) => Some(path.clone()),
                _ => None,
            }),
    )
}

/// The name of the repository, if one is given that it can have. Also asked after an error, by the skeleton.
pub(crate) fn repository(input: &Input) -> Option<&Ident> {
    match &input.settings.get("repository")?.value {
        Value::Name(name) if name.unraw() != input.ident.unraw() => Some(name),
        _ => None,
    }
}

/// Whether the settings name the strategy that queues writes. Also asked after an error, by the skeleton.
pub(crate) fn queues(settings: &Settings) -> bool {
    queue::is_named(settings)
}

/// The lookups, as far as the input says. Also asked after an error, by the skeleton.
pub(crate) fn lookups(input: &Input) -> Vec<(bool, Vec<Ident>)> {
    lookup::suffixes(input)
}

/// The relations, as far as the input says. Also asked after an error, by the skeleton.
pub(crate) fn relations(input: &Input) -> Vec<Relation> {
    relation::check(&mut Errors::default(), input)
}

/// The tags, as far as the input says. Also asked after an error, by the skeleton.
pub(crate) fn tags(input: &Input) -> Vec<Tag> {
    tag::check(&mut Errors::default(), input)
}

/// The fields of tags by which rows are found, as far as the input says. Also asked after an error, by the skeleton.
pub(crate) fn finders(input: &Input) -> Vec<Lookup> {
    let lookups = lookup::check(&mut Errors::default(), input);
    tag::finders(input, &tags(input), &lookups)
}

/// Whether the field takes part in no statement.
fn is_skipped(field: &Field) -> bool {
    field.sqlx.skip.is_some() || field.settings.names("skip")
}

/// Whether the field is one column.
fn has_column(field: &Field) -> bool {
    !is_skipped(field) && field.sqlx.flatten.is_none()
}

/// The name of the field's column, by the rules of `#[derive(sqlx::FromRow)]`.
fn column_name(input: &Input, field: &Field) -> String {
    let name = field.ident.unraw().to_string();
    match (&field.sqlx.rename, input.sqlx.rename_all) {
        (Some(rename), _) => rename.value(),
        (None, Some(pattern)) => rename_all(&name, pattern),
        (None, None) => name,
    }
}

fn rename_all(name: &str, pattern: RenameAll) -> String {
    match pattern {
        RenameAll::Lower => name.to_lowercase(),
        RenameAll::Snake => name.to_snake_case(),
        RenameAll::Upper => name.to_uppercase(),
        RenameAll::ScreamingSnake => name.to_shouty_snake_case(),
        RenameAll::Kebab => name.to_kebab_case(),
        RenameAll::Camel => name.to_lower_camel_case(),
        RenameAll::Pascal => name.to_upper_camel_case(),
    }
}

/// The name of the key as it was written on the field, for a message to point at.
fn named<'a>(field: &'a Field, key: &str) -> Option<&'a Ident> {
    field.settings.get(key).map(|setting| &setting.name)
}

const fn derive_name(derive: Derive) -> &'static str {
    match derive {
        Derive::Cached => "Cached",
        Derive::Columns => "Columns",
    }
}

/// The text of a setting, where one could be read.
fn text(setting: &Setting) -> Option<&LitStr> {
    match &setting.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// The word of a setting, where one of its choice could be read.
fn word(setting: &Setting) -> Option<Word> {
    match setting.value {
        Value::Word(word) => Some(word),
        _ => None,
    }
}

/// The line of a message that shows a correct use of the key.
fn help(place: Place, name: &str) -> String {
    grammar::find(place, name)
        .map(grammar::Key::help)
        .unwrap_or_default()
}

/// A number, which the grammar keeps in the limits of its type.
fn number<T: TryFrom<u64>>(settings: &Settings, name: &str) -> Option<T> {
    match settings.get(name)?.value {
        Value::Number(number) => T::try_from(number).ok(),
        _ => None,
    }
}
