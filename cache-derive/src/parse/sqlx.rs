//! Reads `#[sqlx(..)]` as `#[derive(sqlx::FromRow)]` reads it, so that a field is written to the column it is read from.
//!
//! On the struct sqlx reports its own mistakes at the right place, and they are not repeated here. On a field it takes an
//! unknown word in silence and answers any other mistake with a panic that does not say where, so there larder reports.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{Attribute, LitStr, Meta};

use super::list::{self, Entry, Written};
use crate::{
    ast::{Json, RenameAll, SqlxField, SqlxStruct, TryFrom},
    diagnostics::{Errors, nearest},
    grammar,
};

/// What larder knows on a field, each with a correct example.
const FIELD_KEYS: &[(&str, &str)] = &[
    ("rename", r#"rename = "column""#),
    ("skip", "skip"),
    ("default", "default"),
    ("flatten", "flatten"),
    ("json", "json"),
    ("try_from", r#"try_from = "String""#),
];

/// Reads the attributes of a struct.
pub(super) fn container(attributes: &[Attribute]) -> SqlxStruct {
    let mut sqlx = SqlxStruct::default();
    for entry in entries(attributes).into_iter().flatten() {
        match (entry.name.to_string().as_str(), &entry.value) {
            ("default", Written::Nothing) => sqlx.default = true,
            ("rename_all", Written::Equals(tokens)) => sqlx.rename_all = rename_all(tokens),
            // `transparent`, `type_name` and the like are not about rows.
            _ => {}
        }
    }
    sqlx
}

/// Reads the attributes of a field.
pub(super) fn field(errors: &mut Errors, attributes: &[Attribute]) -> SqlxField {
    let mut sqlx = SqlxField::default();
    for entry in entries(attributes) {
        match entry {
            Ok(entry) => field_entry(errors, entry, &mut sqlx),
            Err(tokens) => unknown(errors, &tokens, &tokens.to_string()),
        }
    }
    sqlx
}

fn field_entry(errors: &mut Errors, entry: Entry, sqlx: &mut SqlxField) {
    let Entry {
        name,
        value,
        tokens,
    } = entry;
    match (name.to_string().as_str(), value) {
        ("skip", Written::Nothing) => sqlx.skip = Some(name),
        ("default", Written::Nothing) => sqlx.default = Some(name),
        ("flatten", Written::Nothing) => sqlx.flatten = Some(name),
        ("json", Written::Nothing) => {
            sqlx.json = Some(Json {
                name,
                nullable: false,
            });
        }
        ("json", Written::Parentheses(inner)) if inner.to_string() == "nullable" => {
            sqlx.json = Some(Json {
                name,
                nullable: true,
            });
        }
        ("rename", Written::Equals(value)) => match text(&value) {
            Some(column) => sqlx.rename = Some(column),
            None => malformed(errors, &name, &tokens),
        },
        ("try_from", Written::Equals(value)) => {
            match text(&value).and_then(|stored| stored.parse().ok()) {
                Some(stored) => sqlx.try_from = Some(TryFrom { name, stored }),
                None => malformed(errors, &name, &tokens),
            }
        }
        (word, _) if FIELD_KEYS.iter().any(|(key, _)| *key == word) => {
            malformed(errors, &name, &tokens);
        }
        (word, _) => unknown(errors, &name, word),
    }
}

fn malformed(errors: &mut Errors, name: &Ident, tokens: &TokenStream) {
    let example = FIELD_KEYS
        .iter()
        .find(|(key, _)| name == key)
        .map_or("", |(_, example)| example);
    errors.report(
        tokens,
        format!("sqlx does not know this form of `{name}`\nhelp: the correct form is `#[sqlx({example})]`"),
    );
}

fn unknown(errors: &mut Errors, tokens: &impl ToTokens, word: &str) {
    let keys = || FIELD_KEYS.iter().map(|(key, _)| *key);
    let way_out = match nearest(word, keys()) {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("those it can honour are {}", grammar::list(keys())),
    };
    errors.report(
        tokens,
        format!("larder cannot honour `{word}` in `#[sqlx(..)]` on a field; {way_out}"),
    );
}

fn rename_all(tokens: &TokenStream) -> Option<RenameAll> {
    Some(match text(tokens)?.value().as_str() {
        "lowercase" => RenameAll::Lower,
        "snake_case" => RenameAll::Snake,
        "UPPERCASE" => RenameAll::Upper,
        "SCREAMING_SNAKE_CASE" => RenameAll::ScreamingSnake,
        "kebab-case" => RenameAll::Kebab,
        "camelCase" => RenameAll::Camel,
        "PascalCase" => RenameAll::Pascal,
        _ => return None,
    })
}

fn text(tokens: &TokenStream) -> Option<LitStr> {
    syn::parse2(quote!(#tokens)).ok()
}

fn entries(attributes: &[Attribute]) -> Vec<Result<Entry, TokenStream>> {
    let ours = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("sqlx"));
    ours.filter_map(|attribute| match &attribute.meta {
        Meta::List(meta) => Some(list::entries(meta.tokens.clone())),
        Meta::Path(_) | Meta::NameValue(_) => None,
    })
    .flatten()
    .collect()
}
