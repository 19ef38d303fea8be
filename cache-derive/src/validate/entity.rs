//! The rules about a whole entity, and its model.

use proc_macro2::Ident;
use syn::ext::IdentExt;

use super::{
    group, help, lookup, named, policy, queue, read_only, relation, repository, table, tag, text,
    ttl_from, word,
};
use crate::{
    ast::{Field, Input, Serde, Value},
    diagnostics::Errors,
    grammar::Place,
    model::{Entity, Id, IdPart, spelling, type_name},
};

/// Judges the entity; `None` if it has no table or no id.
pub(super) fn model(errors: &mut Errors, input: &Input) -> Option<Entity> {
    let table_name = check_table(errors, input);
    let id = check_id(errors, input);
    let name = check_name(errors, input);
    let repository = check_repository(errors, input);
    let policy = policy::check(errors, &input.settings);
    queue::check(errors, input);
    read_only::check(errors, input);
    check_versions(errors, input.fields());
    check_positions(errors, input);
    let lookups = lookup::check(errors, input);
    let relations = relation::check(errors, input);
    let tags = tag::check(errors, input);
    let is_read_only = input.settings.names("read_only") || input.settings.names("select");
    let finders = match is_read_only {
        true => Vec::new(),
        false => tag::finders(input, &tags, &lookups),
    };
    let cascades = group::cascades(errors, input);
    let twins = group::twins(errors, input);
    group::check_queries(errors, input);
    let reads = group::reads(errors, input);
    let ends_at = ttl_from::check(errors, input);
    Some(Entity {
        table: table(input),
        visibility: input.visibility.clone(),
        table_name: table_name?,
        name,
        repository,
        fingerprint: fingerprint(input.fields()),
        hazard: hazards(input).next().map(|(hazard, _)| hazard),
        is_read_only,
        policy,
        lookups,
        relations,
        tags,
        finders,
        cascades,
        twins,
        has_queries: input.settings.names("queries"),
        reads,
        ends_at,
        id: id?,
    })
}

/// Larder writes the name into statements, quoted part by part, so it must be the bare name.
fn check_table(errors: &mut Errors, input: &Input) -> Option<String> {
    let settings = &input.settings;
    if let Some(setting) = settings.get("select") {
        return group::check_select(errors, input, setting);
    }
    let Some(setting) = settings.get("table") else {
        let elsewhere = |field: &Field| {
            field
                .settings
                .misplaced
                .iter()
                .any(|key| key.name == "table")
        };
        if !settings.garbled && !input.fields().iter().any(elsewhere) {
            let help = help(Place::Struct, "table");
            errors.report(&input.ident, format!("the entity names no table\n{help}"));
        }
        return None;
    };
    let text = text(setting)?;
    let name = text.value();
    let parts: Vec<&str> = name.split('.').collect();
    let fault = if name.is_empty() {
        "`table` is empty".to_owned()
    } else if name.contains(['"', '`', '[', ']']) {
        format!("`{name}` contains quotes, which larder adds itself")
    } else if parts.iter().any(|part| part.is_empty()) {
        format!("`{name}` has an empty part")
    } else if parts.len() > 2 {
        format!("`{name}` has more parts than a schema and a table")
    } else if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        format!("`{name}` contains white space")
    } else {
        return Some(name);
    };
    errors.report(
        text,
        format!("{fault}\nhelp: write `flights`, or `app.flights` with a schema"),
    );
    None
}

/// The name is a part of keys, and of the names of queues, whose other parts are told by separators.
fn check_name(errors: &mut Errors, input: &Input) -> String {
    let settings = &input.settings;
    let chosen = policy::check_part(errors, settings, "name", "/@#");
    chosen.unwrap_or_else(|| input.ident.unraw().to_string())
}

/// The repository is a type beside the entity, so it needs a name of its own.
fn check_repository(errors: &mut Errors, input: &Input) -> Option<Ident> {
    let name = repository(input);
    if let Some(Value::Name(entity)) = input
        .settings
        .get("repository")
        .map(|setting| &setting.value)
        && name.is_none()
    {
        let help = help(Place::Struct, "repository");
        let message =
            format!("`{entity}` is the entity itself; give its repository another name\n{help}");
        errors.report(entity, message);
    }
    name.cloned()
}

/// Without an id there is no key. A composite id is chosen by the application: larder could not learn from the database
/// one generated part of it on every backend.
fn check_id(errors: &mut Errors, input: &Input) -> Option<Id> {
    let parts: Vec<&Field> = input
        .fields()
        .iter()
        .filter(|field| named(field, "id").is_some())
        .collect();
    if let [_, _, ..] = parts[..] {
        for generated in parts.iter().filter_map(|field| named(field, "generated")) {
            let message = "one part of a composite id cannot be generated, because the application must know the whole id; \
                           remove `generated`, or make this field the only id";
            errors.report(generated, message);
        }
    }
    let mut parts = parts.into_iter().map(|field| IdPart {
        ident: field.ident.clone(),
        ty: field.ty.clone(),
        stored: field
            .sqlx
            .try_from
            .as_ref()
            .map(|try_from| try_from.stored.clone()),
    });
    let Some(first) = parts.next() else {
        let misplaced = input.settings.misplaced.iter().any(|key| key.name == "id");
        let garbled = input.fields().iter().any(|field| field.settings.garbled);
        if !misplaced && !garbled {
            errors.report(&input.ident, no_id(input.fields()));
        }
        return None;
    };
    Some(Id {
        first,
        rest: parts.collect(),
    })
}

fn no_id(fields: &[Field]) -> String {
    let field = fields
        .iter()
        .find(|field| field.ident == "id")
        .or(fields.first());
    let name = field.map_or_else(String::new, |field| field.ident.to_string());
    format!(
        "no field is the id\nhelp: write `#[cached(id)]` on the primary key, for example above `{name}`"
    )
}

/// Each change counts one number up.
fn check_versions(errors: &mut Errors, fields: &[Field]) {
    let mut versions = fields
        .iter()
        .filter_map(|field| Some((&field.ident, named(field, "version")?)));
    let Some((first, _)) = versions.next() else {
        return;
    };
    for (second, version) in versions {
        let message = format!(
            "`{first}` and `{second}` are both the version, of which a row has one; remove one `version`"
        );
        errors.report(version, message);
    }
}

/// Postcard writes the fields in order and without names. A field that may be missing shifts all that follow.
fn check_positions(errors: &mut Errors, input: &Input) {
    let codec = input.settings.get("codec").and_then(word);
    if codec.is_none_or(|codec| codec.word != "postcard") {
        return;
    }
    for (hazard, place) in hazards(input) {
        let message = format!(
            "`codec = \"postcard\"` cannot carry {hazard}, because it knows fields by their position only\n\
             help: use `codec = \"msgpack\"`, or change the field"
        );
        match place {
            Hazard::Serde(serde) => errors.report(&serde.tokens, message),
            Hazard::Type(field) => errors.report(&field.ty, message),
        }
    }
}

/// Where a hazard stands.
enum Hazard<'a> {
    Serde(&'a Serde),
    Type(&'a Field),
}

/// Everything in the struct that a positional codec cannot carry, in the words of a message.
fn hazards(input: &Input) -> impl Iterator<Item = (String, Hazard<'_>)> {
    let on_struct = input
        .serde
        .iter()
        .filter(|serde| serde.kind.breaks_positions());
    let on_struct = on_struct.map(|serde| {
        (
            format!("`#[serde({})]`", serde.kind.name()),
            Hazard::Serde(serde),
        )
    });
    on_struct.chain(input.fields().iter().flat_map(|field| {
        let name = &field.ident;
        let is_column = !super::is_skipped(field);
        // On a column this is a fault with every codec, and reported as such.
        let serde = field
            .serde
            .iter()
            .filter(move |serde| {
                serde.kind.breaks_positions() && !(is_column && serde.kind.loses_field())
            })
            .map(move |serde| {
                let hazard = format!("`#[serde({})]` on `{name}`", serde.kind.name());
                (hazard, Hazard::Serde(serde))
            });
        // A value that does not know its own type until it is read can only be read from a self-describing payload.
        let dynamic = spelling(&field.ty).contains("serde_json::Value")
            || type_name(&field.ty).is_some_and(|name| name == "JsonValue");
        let dynamic = dynamic.then(|| {
            (
                format!("the `serde_json::Value` in `{name}`"),
                Hazard::Type(field),
            )
        });
        serde.chain(dynamic)
    }))
}

/// FNV-1a over the names and types of all fields, and whether they are `omit`: what a payload looks like. Stable across
/// compilers and releases, since it decides whether an entry that another build wrote may be read.
fn fingerprint(fields: &[Field]) -> u32 {
    let text = fields.iter().flat_map(|field| {
        // An entry from before has a column that is `omit`.
        let omitted = field.settings.names("omit").then(|| "omit".to_owned());
        let words = [field.ident.unraw().to_string(), spelling(&field.ty)];
        words.into_iter().chain(omitted)
    });
    // A terminator per word keeps `ab, c` apart from `a, bc`.
    let bytes = text.flat_map(|word| {
        word.into_bytes()
            .into_iter()
            .chain([0])
            .collect::<Vec<u8>>()
    });
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
