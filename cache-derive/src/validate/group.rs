//! The rules of what is invalidated together beyond one entity: `on_delete`, `same_table`, `queries`, `select` and
//! `depends_on`.
//!
//! What the other entities have (a tag, `queries`) is known to the compiler only, which checks it in the generated code.

use super::{help, queue, text};
use crate::{
    ast::{Input, Setting, Value},
    diagnostics::Errors,
    grammar::Place,
    model::Cascade,
};

/// The options that an entity without a table cannot have, with the reason.
const ABOUT_TABLES: &[(&str, &str)] = &[
    ("table", "the query stands for it"),
    ("strategy", "its rows are only read"),
    ("on_outage", "its rows are only read"),
    ("intent", "its rows are only read"),
    ("on_delete", "its rows are only read"),
    ("same_table", "its rows are only read"),
    ("queries", "its rows are only read"),
    (
        "tags",
        "its rows are invalidated by the entities that it depends on",
    ),
];

/// Judges `on_delete`.
pub(super) fn cascades(errors: &mut Errors, input: &Input) -> Vec<Cascade> {
    let Some(setting) = input.settings.get("on_delete") else {
        return Vec::new();
    };
    let Value::Paths(paths) = &setting.value else {
        return Vec::new();
    };
    check_writes(errors, input, setting, "a delete");
    let mut ids = input.fields().iter();
    if ids
        .by_ref()
        .filter(|field| field.settings.names("id"))
        .count()
        > 1
    {
        let message = "`on_delete` needs an entity with one `id`: a tag of the other entity has one field with it\n\
                       help: call `invalidate_tag` of the other repository, or `mark_tags_changed` in a transaction";
        errors.report(&setting.name, message);
    }
    let mut cascades = Vec::new();
    for path in paths {
        let mut entity = path.clone();
        let field = entity.segments.pop().map(|segment| segment.ident);
        let Some(field) = field.filter(|_| !entity.segments.is_empty()) else {
            let message = format!(
                "`on_delete` names an entity and its field that has the id of this one\n{}",
                setting.key.help()
            );
            errors.report(path, message);
            continue;
        };
        entity.segments.pop_punct();
        cascades.push(Cascade { entity, field });
    }
    cascades
}

/// Judges `same_table`.
pub(super) fn twins(errors: &mut Errors, input: &Input) -> Vec<syn::Path> {
    let Some(setting) = input.settings.get("same_table") else {
        return Vec::new();
    };
    check_writes(errors, input, setting, "a write");
    match &setting.value {
        Value::Paths(paths) => paths.clone(),
        _ => Vec::new(),
    }
}

/// Judges `queries`.
pub(super) fn check_queries(errors: &mut Errors, input: &Input) {
    if let Some(setting) = input.settings.get("queries") {
        check_writes(errors, input, setting, "a write");
    }
}

/// A queued write reaches the database after it was answered, so a query would be cached again before it.
fn check_writes(errors: &mut Errors, input: &Input, setting: &Setting, what: &str) {
    let name = setting.key.name;
    if queue::is_named(&input.settings) {
        let message = format!(
            "`{name}` cannot be used with `strategy = \"write_behind\"`: {what} reaches the database only after it was answered, and \
             what depends on it would be cached again before that\n\
             help: use another strategy"
        );
        errors.report(&setting.name, message);
    } else if input.settings.names("read_only") {
        let message = format!(
            "`{name}` is about writes, and an entity with `read_only` has none\nhelp: remove `{name}`, or `read_only`"
        );
        errors.report(&setting.name, message);
    }
}

/// The query in parentheses, as it stands in statements.
pub(super) fn check_select(
    errors: &mut Errors,
    input: &Input,
    setting: &Setting,
) -> Option<String> {
    for (name, why) in ABOUT_TABLES {
        if let Some(other) = input.settings.get(name) {
            let message = format!(
                "`{name}` cannot be used with `select`: {why}\nhelp: remove `{name}`, or name a `table` in place of `select`"
            );
            errors.report(&other.name, message);
        }
    }
    let text = text(setting)?;
    let query = text.value();
    let query = query.trim();
    let is_query = ["select", "with"].iter().any(|word| {
        query
            .get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    });
    if !is_query || query.contains(';') {
        let fault = match is_query {
            true => "`select` is one statement, without a semicolon",
            false => "`select` begins with SELECT or WITH",
        };
        let help = help(Place::Struct, "select");
        errors.report(text, format!("{fault}\n{help}"));
        return None;
    }
    // A comment at its end must not swallow the parenthesis.
    Some(format!("({query}\n) AS larder_select"))
}

/// The entities that a `select` reads.
pub(super) fn reads(errors: &mut Errors, input: &Input) -> Option<Vec<syn::Path>> {
    let is_query = input.settings.get("select").is_some();
    let setting = input.settings.get("depends_on");
    if let Some(setting) = setting.filter(|_| !is_query) {
        let message = "`depends_on` is about an entity with `select`: the rows of a table depend on nothing else\n\
                       help: remove `depends_on`";
        errors.report(&setting.name, message);
    }
    let paths = match setting.map(|setting| &setting.value) {
        Some(Value::Paths(paths)) => paths.clone(),
        _ => Vec::new(),
    };
    is_query.then_some(paths)
}
