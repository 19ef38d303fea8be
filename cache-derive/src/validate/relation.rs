//! The rules of relations: `belongs_to` on a field, `has_many` on the struct.
//!
//! A relation becomes a method that is named after the rows of the other entity. What that entity has (an id of the field's type,
//! an index) is known to the compiler only, which checks it in the generated code.

use heck::ToSnakeCase;
use proc_macro2::Ident;
use quote::format_ident;
use syn::{Path, ext::IdentExt};

use super::is_skipped;
use crate::{
    ast::{Input, Setting, Value},
    diagnostics::Errors,
    model::{Relation, RelationKind},
};

/// Judges the relations of an entity.
pub(super) fn check(errors: &mut Errors, input: &Input) -> Vec<Relation> {
    let mut relations: Vec<Relation> = Vec::new();
    for (setting, relation) in declared(errors, input) {
        let same = |other: &&Relation| other.method().unraw() == relation.method().unraw();
        if let Some(other) = relations.iter().find(same) {
            let message = format!(
                "two relations would have the method `{}`; give one a name of its own: `{}({}, name = \"..\")`",
                other.method(),
                setting.key.name,
                path_text(setting)
            );
            errors.report(&setting.name, message);
            continue;
        }
        relations.push(relation);
    }
    relations
}

/// Those of the struct first, then those of the fields.
fn declared<'a>(errors: &mut Errors, input: &'a Input) -> Vec<(&'a Setting, Relation)> {
    let mut all = Vec::new();
    for setting in &input.settings.list {
        if let Value::Relation(written) = &setting.value {
            let relation = has_many(errors, setting, &written.path, written.name.as_ref());
            all.extend(relation.map(|relation| (setting, relation)));
        }
    }
    for field in input.fields() {
        for setting in &field.settings.list {
            let Value::Relation(written) = &setting.value else {
                continue;
            };
            if field.sqlx.flatten.is_some() || is_skipped(field) {
                let message = format!(
                    "`{}` is no column, so no row belongs to another one by it; remove `belongs_to`",
                    field.ident
                );
                errors.report(&setting.name, message);
                continue;
            }
            let relation = Relation {
                entity: written.path.clone(),
                name: name(&written.path, written.name.as_ref()),
                kind: RelationKind::BelongsTo {
                    field: field.ident.clone(),
                    ty: Box::new(field.ty.clone()),
                },
            };
            all.push((setting, relation));
        }
    }
    all
}

/// The path of an index: `Book::author_id` is the index `author_id` of `Book`.
fn has_many(
    errors: &mut Errors,
    setting: &Setting,
    path: &Path,
    chosen: Option<&Ident>,
) -> Option<Relation> {
    let mut entity = path.clone();
    let index = entity.segments.pop().map(|segment| segment.ident);
    let index = index.filter(|_| !entity.segments.is_empty());
    let Some(index) = index else {
        let message = format!(
            "`has_many` names an entity and its index that has the id of this one\n{}",
            setting.key.help()
        );
        errors.report(path, message);
        return None;
    };
    entity.segments.pop_punct();
    Some(Relation {
        name: name(&entity, chosen),
        entity,
        kind: RelationKind::HasMany { index },
    })
}

/// What the rows of an entity are called: as chosen, or the plural of its name.
fn name(entity: &Path, chosen: Option<&Ident>) -> Ident {
    if let Some(chosen) = chosen {
        return chosen.clone();
    }
    let last = entity.segments.last().map(|segment| &segment.ident);
    let singular = last.map(|ident| ident.unraw().to_string().to_snake_case());
    let plural = plural(&singular.unwrap_or_default());
    match last {
        Some(last) => format_ident!("{plural}", span = last.span()),
        None => format_ident!("{plural}"),
    }
}

/// The regular plural of an English noun.
fn plural(singular: &str) -> String {
    let is_vowel = |letter: char| "aeiou".contains(letter);
    if let Some(stem) = singular.strip_suffix('y')
        && !stem.ends_with(is_vowel)
    {
        return format!("{stem}ies");
    }
    let hisses = ["s", "x", "z", "ch", "sh"];
    match hisses.iter().any(|end| singular.ends_with(end)) {
        true => format!("{singular}es"),
        false => format!("{singular}s"),
    }
}

fn path_text(setting: &Setting) -> String {
    let Value::Relation(written) = &setting.value else {
        return String::new();
    };
    let names = written.path.segments.iter();
    let names = names.map(|segment| segment.ident.unraw().to_string());
    names.collect::<Vec<_>>().join("::")
}

#[cfg(test)]
mod tests {
    use super::plural;

    #[test]
    fn the_plural_is_regular() {
        let words = [
            ("author", "authors"),
            ("category", "categories"),
            ("day", "days"),
            ("address", "addresses"),
            ("box", "boxes"),
            ("branch", "branches"),
            ("order_line", "order_lines"),
        ];
        for (singular, expected) in words {
            assert_eq!(plural(singular), expected);
        }
    }
}
