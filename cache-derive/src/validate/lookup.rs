//! The rules of lookups: `unique` and `index`, on a field or on the struct.
//!
//! A lookup becomes methods that are named after its fields, keys that are written from their values, and a condition in SQL. So
//! its fields are columns whose values are equal to themselves, and no two lookups have the same name.

use proc_macro2::{Ident, Span};
use syn::ext::IdentExt;

use super::{column_name, has_column, is_skipped, queue, text};
use crate::{
    ast::{Field, Input, Setting, Value},
    diagnostics::{Errors, nearest},
    grammar,
    model::{Lookup, LookupField, lookup_suffix, option_argument, type_name},
};

/// A lookup as it was written: the key, and its fields.
struct Declared<'a> {
    setting: &'a Setting,
    fields: Vec<&'a Ident>,
}

/// Judges the lookups of an entity.
pub(super) fn check(errors: &mut Errors, input: &Input) -> Vec<Lookup> {
    let declared = declared(errors, input);
    check_queue(errors, input, &declared);
    let mut lookups: Vec<Lookup> = Vec::new();
    for declared in &declared {
        let Some(lookup) = lookup(errors, input, declared) else {
            continue;
        };
        if let Some(other) = lookups
            .iter()
            .find(|other| other.method_suffix() == lookup.method_suffix())
        {
            let name = other.method_suffix();
            let message = format!(
                "two lookups would have the methods of `{name}`; remove one, or rename a field"
            );
            errors.report(&declared.setting.name, message);
            continue;
        }
        lookups.push(lookup);
    }
    lookups
}

/// The names of the methods of the lookups, as far as an input with a mistake says. Also asked after an error, by the
/// skeleton.
pub(super) fn suffixes(input: &Input) -> Vec<(bool, Vec<Ident>)> {
    let mut ignored = Errors::default();
    let declared = declared(&mut ignored, input);
    let names = declared.into_iter().map(|declared| {
        let fields: Vec<Ident> = declared.fields.into_iter().cloned().collect();
        let is_unique = declared.setting.key.name == "unique";
        (is_unique, fields)
    });
    let mut seen: Vec<(bool, Vec<Ident>)> = Vec::new();
    for name in names {
        let suffix = |fields: &[Ident]| lookup_suffix(fields.iter());
        if !name.1.is_empty()
            && seen
                .iter()
                .all(|(_, other)| suffix(other) != suffix(&name.1))
        {
            seen.push(name);
        }
    }
    seen
}

/// Lookups on the struct first, then those of the fields.
fn declared<'a>(errors: &mut Errors, input: &'a Input) -> Vec<Declared<'a>> {
    let mut all = Vec::new();
    for setting in &input.settings.list {
        let Value::Lookup(value) = &setting.value else {
            continue;
        };
        if value.fields.is_empty() {
            let name = setting.key.name;
            let message = format!(
                "`{name}` on the struct names the fields that rows are found by\n{}",
                setting.key.help()
            );
            errors.report(&setting.name, message);
            continue;
        }
        all.push(Declared {
            setting,
            fields: value.fields.iter().collect(),
        });
    }
    for field in input.fields() {
        for setting in &field.settings.list {
            let Value::Lookup(value) = &setting.value else {
                continue;
            };
            if let Some(other) = value.fields.first() {
                let name = setting.key.name;
                let message = format!(
                    "`{name}` on a field is about this field; write `#[cached({name}({}, {other}))]` on the struct",
                    field.ident
                );
                errors.report(other, message);
                continue;
            }
            all.push(Declared {
                setting,
                fields: vec![&field.ident],
            });
        }
    }
    all
}

/// A queued write is acknowledged before it is in the database, where lookups read. They would not see it, and no intent
/// covers the time until it is flushed.
fn check_queue(errors: &mut Errors, input: &Input, declared: &[Declared<'_>]) {
    let Some(first) = declared
        .first()
        .filter(|_| queue::is_named(&input.settings))
    else {
        return;
    };
    let name = first.setting.key.name;
    let message = format!(
        "`{name}` cannot be used with `strategy = \"write_behind\"`: a lookup reads the database, which does not have the queued \
         writes yet\nhelp: use another strategy, or find the rows by their ids"
    );
    errors.report(&first.setting.name, message);
}

fn lookup(errors: &mut Errors, input: &Input, declared: &Declared<'_>) -> Option<Lookup> {
    let (setting, name) = (declared.setting, declared.setting.key.name);
    let Value::Lookup(value) = &setting.value else {
        return None;
    };
    let folds = value.options.names("fold");
    let mut fields = Vec::new();
    for (index, ident) in declared.fields.iter().enumerate() {
        if declared.fields[..index].contains(ident) {
            errors.report(*ident, format!("`{ident}` is named twice; remove one"));
            return None;
        }
        let field = field(errors, input, ident, name)?;
        check_type(errors, field, name)?;
        let (ty, is_nullable) = match option_argument(&field.ty) {
            Some(_) if field.sqlx.try_from.is_some() => {
                let message = format!(
                    "`{ident}` is an `Option` that is written through `try_from`, so larder cannot find rows by the value inside; \
                     let the type inside convert itself"
                );
                errors.report(*ident, message);
                return None;
            }
            Some(inner) => (inner, true),
            None => (&field.ty, false),
        };
        fields.push(LookupField {
            ident: field.ident.clone(),
            ty: ty.clone(),
            stored: field
                .sqlx
                .try_from
                .as_ref()
                .map(|try_from| try_from.stored.clone()),
            is_nullable,
            column: column_name(input, field),
            is_folded: folds && type_name(ty).is_some_and(|name| name == "String"),
        });
    }
    check_id(errors, input, declared)?;
    if let Some(fold) = value.options.get("fold")
        && fields.iter().all(|field| !field.is_folded)
    {
        let message = "`fold` compares texts, and none of the fields is a `String`; remove it";
        errors.report(&fold.name, message);
        return None;
    }
    Some(Lookup {
        is_unique: name == "unique",
        fields,
        folds,
        order_by: order_by(errors, input, value.options.get("order_by"))?,
        max: super::number(&value.options, "max"),
    })
}

/// The field of a name. Without a column there is nothing to find rows by.
pub(super) fn field<'a>(
    errors: &mut Errors,
    input: &'a Input,
    ident: &Ident,
    what: &str,
) -> Option<&'a Field> {
    let fields = input.fields();
    let Some(field) = fields
        .iter()
        .find(|field| field.ident.unraw() == ident.unraw())
    else {
        let names: Vec<_> = fields
            .iter()
            .map(|field| field.ident.unraw().to_string())
            .collect();
        errors.report(ident, unknown(&ident.unraw().to_string(), what, &names));
        return None;
    };
    let is_omitted = field.settings.names("omit");
    if has_column(field) && field.sqlx.json.is_none() && !is_omitted {
        return Some(field);
    }
    let why = if is_omitted {
        "is not in the cache"
    } else if is_skipped(field) {
        "is left out of every statement"
    } else if field.sqlx.json.is_some() {
        "is stored as JSON, which databases do not compare"
    } else {
        "is flattened, and no column of its own"
    };
    errors.report(
        ident,
        format!("`{ident}` {why}, so it cannot be in `{what}`"),
    );
    None
}

fn unknown(name: &str, what: &str, fields: &[String]) -> String {
    let way_out = match nearest(name, fields.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("the fields are {}", grammar::list(fields.iter())),
    };
    format!("there is no field `{name}` for `{what}`; {way_out}")
}

/// A key is written from the value, so a value must be written in one way only.
pub(super) fn check_type(errors: &mut Errors, field: &Field, what: &str) -> Option<()> {
    let inner = option_argument(&field.ty).unwrap_or(&field.ty);
    let name = type_name(inner)?;
    if name == "f32" || name == "f64" {
        let message = format!(
            "a floating point number cannot be in `{what}`, because it is not reliably equal to itself; use an integer or a string"
        );
        errors.report(&field.ty, message);
        return None;
    }
    Some(())
}

/// The id finds its row already.
fn check_id(errors: &mut Errors, input: &Input, declared: &Declared<'_>) -> Option<()> {
    let ids: Vec<_> = input
        .fields()
        .iter()
        .filter(|field| field.settings.names("id"))
        .map(|field| &field.ident)
        .collect();
    let covers = ids.iter().all(|id| declared.fields.contains(id));
    if ids.is_empty() || !covers {
        return Some(());
    }
    let name = declared.setting.key.name;
    let message = format!(
        "`{name}` contains the id, which finds one row by itself; use `find`, and remove `{name}`"
    );
    errors.report(&declared.setting.name, message);
    None
}

/// The columns of `order_by`, each with whether it is descending. A `NULL` has no place that a page could begin after.
fn order_by(
    errors: &mut Errors,
    input: &Input,
    setting: Option<&Setting>,
) -> Option<Vec<(String, bool)>> {
    let Some(setting) = setting else {
        return Some(Vec::new());
    };
    let written = text(setting)?;
    let mut columns = Vec::new();
    for part in written.value().split(',') {
        let mut words = part.split_whitespace();
        let (name, direction) = (words.next(), words.next());
        let descends = match (
            direction.map(str::to_ascii_lowercase).as_deref(),
            words.next(),
        ) {
            (None | Some("asc"), None) => Some(false),
            (Some("desc"), None) => Some(true),
            _ => None,
        };
        let (Some(name), Some(descends)) = (name, descends) else {
            let message = format!(
                "`{}` is no order: write fields with commas between, each with `asc` or `desc` if you like\n{}",
                part.trim(),
                setting.key.help()
            );
            errors.report(written, message);
            return None;
        };
        let Some(ident) = identifier(name, written.span()) else {
            errors.report(written, format!("`{name}` is no field"));
            return None;
        };
        let field = field(errors, input, &ident, "order_by")?;
        if option_argument(&field.ty).is_some() {
            let message = format!(
                "`{name}` can be `NULL`, which has no place in an order that pages begin after; order by a column that is `NOT NULL`"
            );
            errors.report(written, message);
            return None;
        }
        columns.push((column_name(input, field), descends));
    }
    Some(columns)
}

/// The identifier of a text, if it is one.
pub(super) fn identifier(text: &str, span: Span) -> Option<Ident> {
    let plain = syn::parse_str::<Ident>(text);
    let mut ident = plain
        .or_else(|_| syn::parse_str(&format!("r#{text}")))
        .ok()?;
    ident.set_span(span);
    Some(ident)
}
