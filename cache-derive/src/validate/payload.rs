//! The rules about the payload: what serde writes is what it reads.
//!
//! A cached row is the struct as serde writes it, read again. Where the attributes of the struct say that the two differ, that
//! is an error here. Those of the types of its fields are not seen here; a row that they change is found when it is stored.

use syn::ext::IdentExt;

use super::is_skipped;
use crate::{
    ast::{Field, Input, Serde, SerdeKind},
    diagnostics::Errors,
    model::option_argument,
};

/// Judges all fields.
pub(super) fn check(errors: &mut Errors, input: &Input) {
    if !check_conversion(errors, input) {
        return;
    }
    check_names(errors, input);
    for field in input.fields() {
        if check_column(errors, field) {
            if !is_skipped(field) {
                check_functions(errors, field);
            }
            check_absence(errors, input, field);
        }
    }
}

/// A struct that is converted to be written is read as what it was converted to. Whether its own fields are what is written
/// and read.
fn check_conversion(errors: &mut Errors, input: &Input) -> bool {
    let into = key(&input.serde, SerdeKind::Into);
    let from = key(&input.serde, SerdeKind::From).or(key(&input.serde, SerdeKind::TryFrom));
    let (one, other) = match (into, from) {
        (None, None) => return true,
        (Some(_), Some(_)) => return false,
        (Some(into), None) => (into, "`from` or `try_from`"),
        (None, Some(from)) => (from, "`into`"),
    };
    let message = format!(
        "`#[serde({})]` converts the struct in one direction only, so a cached row may come back as another one\n\
         help: add {other} with the same type",
        one.kind.name()
    );
    errors.report(&one.tokens, message);
    false
}

/// A column that serde leaves out is read from the database and lost in the cache: the first read has it, the second
/// has not. Whether it does not.
fn check_column(errors: &mut Errors, field: &Field) -> bool {
    if is_skipped(field) {
        return true;
    }
    let Some(serde) = field.serde.iter().find(|serde| serde.kind.loses_field()) else {
        return true;
    };
    if serde.kind == SerdeKind::Skip && field.settings.names("omit") {
        return true;
    }
    let (name, key) = (&field.ident, serde.kind.name());
    let message = format!(
        "`{name}` is a column, but `#[serde({key})]` keeps it out of the cache: a cached row would come back without it\n\
         help: remove `{key}`; to hide the field from an API, serialize another struct there; to keep an `Option` out of the cache \
         only, write `#[cached(omit)]`"
    );
    errors.report(&serde.tokens, message);
    false
}

/// A field that is written under one name and read under another is not found again, and an `Option` is `None` then.
fn check_names(errors: &mut Errors, input: &Input) {
    if key(&input.serde, SerdeKind::Transparent).is_some() {
        return;
    }
    let mut is_reported = false;
    for field in input.fields() {
        let is_nameless =
            |serde: &Serde| serde.kind == SerdeKind::Flatten || serde.kind.loses_field();
        let names = Names::of(input, field);
        // What is no column has no value in the cache: it is read as if it were absent, if that can be read.
        let is_no_column = is_skipped(field) && reads_absence(input, field);
        if is_no_column
            || field.serde.iter().any(is_nameless)
            || names.read.contains(&names.written)
        {
            continue;
        }
        let ident = &field.ident;
        let message = format!(
            "serde writes `{ident}` as `{}` and reads it as `{}`, so a cached row would come back without it\n\
             help: give both directions one name; for other names in an API, serialize another struct there",
            names.written, names.read[0]
        );
        match key(&field.serde, SerdeKind::Rename) {
            Some(rename) => errors.report(&rename.tokens, message),
            // One mistake on the struct is many fields.
            None if is_reported => {}
            None => {
                is_reported = true;
                match key(&input.serde, SerdeKind::RenameAll) {
                    Some(rename_all) => errors.report(&rename_all.tokens, message),
                    None => errors.report(ident, message),
                }
            }
        }
    }
}

/// The names of a field in a payload.
struct Names {
    written: String,
    /// Its own name first, then its aliases.
    read: Vec<String>,
}

impl Names {
    /// The names, by the rules of serde.
    fn of(input: &Input, field: &Field) -> Self {
        let ident = field.ident.unraw().to_string();
        let keys = |serde: &'_ [Serde], kind| -> Vec<Serde> {
            serde
                .iter()
                .filter(|serde| serde.kind == kind)
                .cloned()
                .collect()
        };
        let own = keys(&field.serde, SerdeKind::Rename);
        let all = keys(&input.serde, SerdeKind::RenameAll);
        let pick = |of: fn(&Serde) -> Option<&String>| {
            let own = own.iter().find_map(of).cloned();
            let all = || all.iter().find_map(of);
            own.unwrap_or_else(|| renamed(&ident, all().map(String::as_str)))
        };
        let mut read = vec![pick(|serde| serde.name.read.as_ref())];
        let aliases = keys(&field.serde, SerdeKind::Alias);
        read.extend(aliases.into_iter().filter_map(|alias| alias.name.read));
        Self {
            written: pick(|serde| serde.name.written.as_ref()),
            read,
        }
    }
}

/// The name of a field by a rule of serde's `rename_all`.
fn renamed(name: &str, rule: Option<&str>) -> String {
    let pascal = || -> String {
        let words = name.split('_').filter(|word| !word.is_empty());
        words
            .map(|word| {
                let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
                first.to_ascii_uppercase() + rest
            })
            .collect()
    };
    match rule {
        Some("UPPERCASE" | "SCREAMING_SNAKE_CASE") => name.to_ascii_uppercase(),
        Some("PascalCase") => pascal(),
        Some("camelCase") => {
            let pascal = pascal();
            let (first, rest) = pascal.split_at(pascal.chars().next().map_or(0, char::len_utf8));
            first.to_ascii_lowercase() + rest
        }
        Some("kebab-case") => name.replace('_', "-"),
        Some("SCREAMING-KEBAB-CASE") => name.to_ascii_uppercase().replace('_', "-"),
        // An unknown rule is reported by serde.
        _ => name.to_owned(),
    }
}

/// A function that writes a field in its own way has no counterpart in the usual way to read it, and the reverse.
fn check_functions(errors: &mut Errors, field: &Field) {
    let writes = key(&field.serde, SerdeKind::SerializeWith);
    let reads = key(&field.serde, SerdeKind::DeserializeWith);
    let (one, other, usual) = match (writes, reads) {
        _ if field.serde.iter().any(|serde| serde.kind.loses_field()) => return,
        (Some(writes), None) => (
            writes,
            SerdeKind::DeserializeWith,
            "Deserialize::deserialize",
        ),
        (None, Some(reads)) => (reads, SerdeKind::SerializeWith, "Serialize::serialize"),
        (None, None) | (Some(_), Some(_)) => return,
    };
    let (name, other) = (&field.ident, other.name());
    let message = format!(
        "`#[serde({})]` on `{name}` is for one direction only, so a cached row may come back with another value\n\
         help: add `{other}`, or use `with`; if the usual way fits, say so: `{other} = \"serde::{usual}\"`",
        one.kind.name()
    );
    errors.report(&one.tokens, message);
}

/// A field that is not always written is not always found, and the whole row cannot be read then.
fn check_absence(errors: &mut Errors, input: &Input, field: &Field) {
    let of = |kind| key(&field.serde, kind);
    let Some(absent) = of(SerdeKind::SkipSerializingIf).or(of(SerdeKind::SkipSerializing)) else {
        return;
    };
    if reads_absence(input, field) {
        return;
    }
    let (name, key) = (&field.ident, absent.kind.name());
    let message = format!(
        "`#[serde({key})]` leaves `{name}` out, and serde cannot read a row without it\n\
         help: add `#[serde(default)]`"
    );
    errors.report(&absent.tokens, message);
}

/// Whether serde reads a struct in which this field is absent.
fn reads_absence(input: &Input, field: &Field) -> bool {
    let of = |kind| key(&field.serde, kind);
    let is_none = option_argument(&field.ty).is_some()
        && of(SerdeKind::With)
            .or(of(SerdeKind::DeserializeWith))
            .is_none();
    let default = of(SerdeKind::Default)
        .or(key(&input.serde, SerdeKind::Default))
        .or(of(SerdeKind::SkipDeserializing));
    is_none || default.is_some()
}

fn key(serde: &[Serde], kind: SerdeKind) -> Option<&Serde> {
    serde.iter().find(|serde| serde.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::renamed;

    #[test]
    fn fields_are_renamed_as_serde_renames_them() {
        let named = |rule| renamed("seats_left", Some(rule));
        assert_eq!(named("lowercase"), "seats_left");
        assert_eq!(named("UPPERCASE"), "SEATS_LEFT");
        assert_eq!(named("PascalCase"), "SeatsLeft");
        assert_eq!(named("camelCase"), "seatsLeft");
        assert_eq!(named("snake_case"), "seats_left");
        assert_eq!(named("SCREAMING_SNAKE_CASE"), "SEATS_LEFT");
        assert_eq!(named("kebab-case"), "seats-left");
        assert_eq!(named("SCREAMING-KEBAB-CASE"), "SEATS-LEFT");
        assert_eq!(renamed("seats_left", None), "seats_left");
        assert_eq!(renamed("gate", Some("camelCase")), "gate");
        assert_eq!(renamed("__", Some("camelCase")), "");
    }
}
