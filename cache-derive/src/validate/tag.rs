//! The rules of tags.
//!
//! A tag is a text with the names of fields in braces. It becomes a text of each row, and a method that is named after what comes
//! before its first field.

use heck::ToSnakeCase;
use proc_macro2::Ident;
use quote::format_ident;
use syn::{LitStr, ext::IdentExt};

use super::{column_name, lookup, queue};
use crate::{
    ast::{Input, Setting, Value},
    diagnostics::Errors,
    model::{Lookup, LookupField, Tag, TagField, lookup_suffix, option_argument},
};

/// The methods beside `invalidate` that every repository with tags has.
const TAKEN: &[&str] = &["all", "tag", "tags"];

/// Judges the tags of an entity.
pub(super) fn check(errors: &mut Errors, input: &Input) -> Vec<Tag> {
    let Some(setting) = input.settings.get("tags") else {
        return Vec::new();
    };
    let Value::Texts(texts) = &setting.value else {
        return Vec::new();
    };
    check_queue(errors, input, setting);
    let mut tags: Vec<Tag> = Vec::new();
    for text in texts {
        let Some(tag) = tag(errors, input, text) else {
            continue;
        };
        let (method, suffix) = (tag.method(), tag.suffix.unraw().to_string());
        let others = tags.iter().map(|other| other.suffix.unraw());
        let is_repeated = others.into_iter().any(|other| other == suffix);
        if is_repeated || TAKEN.contains(&&*suffix) || suffix.starts_with("by_") {
            let message = match is_repeated {
                true => format!(
                    "two tags would have the method `{method}`; begin them with different words"
                ),
                false => {
                    format!(
                        "the tag would have the method `{method}`, which larder needs; begin it with another word"
                    )
                }
            };
            errors.report(text, message);
            continue;
        }
        tags.push(tag);
    }
    tags
}

/// The fields of tags by which rows are found to be changed, as by those of an index. Not where an index of the same fields is
/// declared, or where they find one row by its id.
pub(super) fn finders(input: &Input, tags: &[Tag], lookups: &[Lookup]) -> Vec<Lookup> {
    let field = |ident: &Ident| {
        let mut fields = input.fields().iter();
        fields.find(|field| field.ident == *ident)
    };
    let mut finders: Vec<Lookup> = Vec::new();
    for tag in tags {
        let fields: Option<Vec<_>> = tag
            .fields
            .iter()
            .map(|part| {
                let try_from = field(&part.ident)?.sqlx.try_from.as_ref();
                // The value inside of such an `Option` cannot be written alone.
                let is_whole = try_from.is_some() && part.is_nullable;
                (!is_whole).then(|| LookupField {
                    ident: part.ident.clone(),
                    ty: part.ty.clone(),
                    stored: try_from.map(|try_from| try_from.stored.clone()),
                    is_nullable: part.is_nullable,
                    column: part.column.clone(),
                    is_folded: false,
                })
            })
            .collect();
        let Some(fields) = fields.filter(|fields| !fields.is_empty()) else {
            continue;
        };
        let repeats = |(at, field): (usize, &LookupField)| {
            fields[..at].iter().any(|other| other.ident == field.ident)
        };
        let mut ids = input
            .fields()
            .iter()
            .filter(|field| field.settings.names("id"));
        let finds_one = ids.all(|id| fields.iter().any(|field| field.ident == id.ident));
        if finds_one || fields.iter().enumerate().any(repeats) {
            continue;
        }
        let finder = Lookup {
            is_unique: false,
            fields,
            folds: false,
            order_by: Vec::new(),
            max: None,
        };
        let is_same =
            |other: &Lookup| !other.is_unique && other.method_suffix() == finder.method_suffix();
        if !lookups.iter().chain(&finders).any(is_same) {
            finders.push(finder);
        }
    }
    finders
}

/// A queued write is in the cache before it is in the database, so no time of the clock says which of the two an invalidation
/// was about.
fn check_queue(errors: &mut Errors, input: &Input, setting: &Setting) {
    if queue::is_named(&input.settings) {
        let message = "`tags` cannot be used with `strategy = \"write_behind\"`: a queued write is in the cache before it is in the \
                       database, so an invalidation would not say which of them is old\n\
                       help: use another strategy, or invalidate the rows by their ids";
        errors.report(&setting.name, message);
    }
}

fn tag(errors: &mut Errors, input: &Input, written: &LitStr) -> Option<Tag> {
    let parts = match parts(&written.value()) {
        Ok(parts) => parts,
        Err(fault) => {
            let message = format!(
                "{fault}\nhelp: write fields in braces, as in `country:{{country}}`; a brace of the text is written twice"
            );
            errors.report(written, message);
            return None;
        }
    };
    let mut fields = Vec::new();
    for name in &parts.fields {
        let Some(ident) = lookup::identifier(name, written.span()) else {
            let message = format!(
                "`{{{name}}}` is no field; a tag has the names of fields in braces, without a format"
            );
            errors.report(written, message);
            return None;
        };
        let field = lookup::field(errors, input, &ident, "tags")?;
        lookup::check_type(errors, field, "tags")?;
        let nullable = option_argument(&field.ty);
        fields.push(TagField {
            ident: field.ident.clone(),
            column: column_name(input, field),
            ty: nullable.unwrap_or(&field.ty).clone(),
            is_nullable: nullable.is_some(),
        });
    }
    let suffix = suffix(&parts.texts[0], &fields);
    let suffix = lookup::identifier(&suffix, written.span())
        .unwrap_or_else(|| format_ident!("tag_{suffix}", span = written.span()));
    Some(Tag {
        texts: parts.texts,
        fields,
        suffix,
    })
}

/// The word before the first field, or the names of the fields.
fn suffix(first: &str, fields: &[TagField]) -> String {
    let word = first.to_snake_case();
    match word.is_empty() {
        true => lookup_suffix(fields.iter().map(|field| &field.ident)),
        false => word,
    }
}

/// A tag as it was written: the texts before, between and after the names in braces.
struct Parts {
    /// One more than there are fields.
    texts: Vec<String>,
    fields: Vec<String>,
}

fn parts(written: &str) -> Result<Parts, String> {
    let mut parts = Parts {
        texts: vec![String::new()],
        fields: Vec::new(),
    };
    let mut name: Option<String> = None;
    let mut letters = written.chars().peekable();
    while let Some(letter) = letters.next() {
        match (&mut name, letter) {
            (None, '{' | '}') if letters.next_if_eq(&letter).is_some() => parts.add(letter),
            (None, '{') => name = Some(String::new()),
            (Some(field), '}') => {
                parts.fields.push(std::mem::take(field));
                parts.texts.push(String::new());
                name = None;
            }
            (None, '}') | (Some(_), '{') => {
                return Err(format!("`{written}` has a brace without its partner"));
            }
            (Some(field), letter) => field.push(letter),
            (None, letter) => parts.add(letter),
        }
    }
    if name.is_some() {
        return Err(format!("`{written}` has a brace without its partner"));
    }
    if written.trim().is_empty() {
        return Err("a tag is empty".to_owned());
    }
    Ok(parts)
}

impl Parts {
    fn add(&mut self, letter: char) {
        self.texts.last_mut().expect("there is one").push(letter);
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn fields_are_in_braces() {
        let read = |written| {
            let parts = parts(written).expect("it can be read");
            (parts.texts.join("|"), parts.fields.join("|"))
        };
        let cases = [
            ("catalog", "catalog", ""),
            ("country:{country}", "country:|", "country"),
            ("{a}/{b}.", "|/|.", "a|b"),
            ("{{a}}", "{a}", ""),
            ("{{{a}}}", "{|}", "a"),
        ];
        for (written, texts, fields) in cases {
            assert_eq!(read(written), (texts.to_owned(), fields.to_owned()));
        }
        for wrong in ["{a", "a}", "{a{b}}", "{", "}", "", " "] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
