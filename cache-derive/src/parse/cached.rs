//! Reads `#[cached(..)]`: finds each key in the grammar, or says what is wrong with it.

use proc_macro2::TokenStream;
use syn::{Attribute, Meta, ext::IdentExt};

use super::{
    list::{self, Entry, Written},
    value, words,
};
use crate::{
    ast::{Lookup, Setting, Settings, Value},
    diagnostics::{Errors, nearest},
    grammar::{self, Form, Key, Place},
};

/// Reads all `#[cached(..)]` attributes of the struct or the field.
pub(super) fn settings(errors: &mut Errors, place: Place, attributes: &[Attribute]) -> Settings {
    let mut settings = Settings::default();
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cached"))
    {
        match &attribute.meta {
            Meta::List(meta) if !meta.tokens.is_empty() => {
                group(errors, place, meta.tokens.clone(), &mut settings);
            }
            meta => {
                let example = grammar::KEYS
                    .iter()
                    .find(|key| key.place == place)
                    .map_or("", |key| key.example);
                errors.report(
                    meta,
                    format!("`cached` expects keys in parentheses\nhelp: for example `#[cached({example})]`"),
                );
                settings.garbled = true;
            }
        }
    }
    settings
}

/// Reads the keys between two parentheses.
fn group(errors: &mut Errors, place: Place, tokens: TokenStream, settings: &mut Settings) {
    for entry in list::entries(tokens) {
        match entry {
            Ok(entry) => setting(errors, place, entry, settings),
            Err(tokens) => {
                let surroundings = place.surroundings();
                let keys = grammar::list(grammar::names(place));
                errors.report(
                    tokens,
                    format!("expected a key of `{surroundings}`: {keys}"),
                );
                settings.garbled = true;
            }
        }
    }
}

fn setting(errors: &mut Errors, place: Place, entry: Entry, settings: &mut Settings) {
    let name = entry.name.unraw().to_string();
    if let Some(key) = grammar::find(place, &name) {
        let value = match (key.form, entry.value) {
            (Form::Group(place), Written::Parentheses(tokens)) if !tokens.is_empty() => {
                let mut inner = Settings::default();
                group(errors, place, tokens, &mut inner);
                Value::Group(inner)
            }
            (Form::Lookup(_), Written::Nothing) => Value::Lookup(Lookup::default()),
            (Form::Lookup(inside), Written::Parentheses(tokens)) if !tokens.is_empty() => {
                Value::Lookup(lookup(errors, inside, tokens))
            }
            (_, written) => value::read(errors, key, &written, &entry.tokens),
        };
        let name = entry.name;
        settings.list.push(Setting { key, name, value });
    } else if let Some(key) = grammar::find_elsewhere(place, &name) {
        errors.report(&entry.name, misplaced(place, key));
        settings.misplaced.push(key);
    } else {
        let absent = words::absent(&name);
        let likely = || words::key(place, &name).or_else(|| nearest(&name, grammar::names(place)));
        let meant = match absent {
            Some(_) => None,
            None => likely().and_then(|name| grammar::find(place, name)),
        };
        errors.report(&entry.name, unknown(place, &name, meant, absent));
        // Counted as the key that was meant, lest that one be reported as missing.
        settings.list.extend(meant.map(|key| Setting {
            key,
            name: entry.name,
            value: Value::Unreadable,
        }));
    }
}

/// Reads the names of fields, and the keys between them.
fn lookup(errors: &mut Errors, inside: Place, tokens: TokenStream) -> Lookup {
    let mut lookup = Lookup::default();
    for entry in list::entries(tokens) {
        match entry {
            Ok(entry) => {
                let name = entry.name.unraw().to_string();
                let is_field = matches!(entry.value, Written::Nothing)
                    && grammar::find(inside, &name).is_none();
                if is_field {
                    lookup.fields.push(entry.name);
                } else {
                    setting(errors, inside, entry, &mut lookup.options);
                }
            }
            Err(tokens) => {
                let surroundings = inside.surroundings();
                errors.report(
                    tokens,
                    format!("expected the name of a field or a key of `{surroundings}`"),
                );
                lookup.options.garbled = true;
            }
        }
    }
    lookup
}

fn misplaced(place: Place, key: &Key) -> String {
    let (name, belongs, here) = (key.name, key.place.belongs(), place.belongs());
    format!("`{name}` belongs {belongs}, not {here}\n{}", key.help())
}

fn unknown(place: Place, name: &str, meant: Option<&Key>, absent: Option<&str>) -> String {
    let surroundings = place.surroundings();
    let way_out = match (absent, meant) {
        (Some(instead), _) => instead.to_owned(),
        (None, Some(key)) => format!("did you mean `{}`?", key.name),
        (None, None) => format!(
            "the keys {} are {}",
            place.belongs(),
            grammar::list(grammar::names(place))
        ),
    };
    format!("unknown key `{name}` in `{surroundings}`; {way_out}")
}
