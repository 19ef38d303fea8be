//! Finds in `#[serde(..)]` the keys that decide what a payload carries: which fields, in which place, under which name, and
//! whether what is written is what is read.
//!
//! Not here: whether the attribute is correct. Serde's own derive says so.

use proc_macro2::TokenStream;
use syn::{Attribute, LitStr, Meta};

use super::list::{self, Written};
use crate::ast::{Serde, SerdeKind, SerdeName};

/// Every kind that is looked for.
const KINDS: &[SerdeKind] = &[
    SerdeKind::Flatten,
    SerdeKind::SkipSerializingIf,
    SerdeKind::Tag,
    SerdeKind::Untagged,
    SerdeKind::Skip,
    SerdeKind::SkipSerializing,
    SerdeKind::SkipDeserializing,
    SerdeKind::RenameAll,
    SerdeKind::Rename,
    SerdeKind::Alias,
    SerdeKind::Default,
    SerdeKind::With,
    SerdeKind::SerializeWith,
    SerdeKind::DeserializeWith,
    SerdeKind::Into,
    SerdeKind::From,
    SerdeKind::TryFrom,
    SerdeKind::Transparent,
];

/// The keys of a struct or a field that matter to a cache.
pub(super) fn keys(attributes: &[Attribute]) -> Vec<Serde> {
    let ours = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("serde"));
    ours.filter_map(|attribute| match &attribute.meta {
        Meta::List(meta) => Some(list::entries(meta.tokens.clone())),
        Meta::Path(_) | Meta::NameValue(_) => None,
    })
    .flatten()
    .filter_map(Result::ok)
    .filter_map(|entry| {
        let kind = *KINDS.iter().find(|kind| entry.name == kind.name())?;
        Some(Serde {
            kind,
            name: name(&entry.value),
            tokens: entry.tokens,
        })
    })
    .collect()
}

/// The name that a key gives: `= "name"`, or `(serialize = "name", deserialize = "name")` with one or both of them.
fn name(value: &Written) -> SerdeName {
    match value {
        Written::Equals(value) => SerdeName {
            written: text(value),
            read: text(value),
        },
        Written::Parentheses(inner) => {
            let mut name = SerdeName::default();
            for entry in list::entries(inner.clone()).into_iter().flatten() {
                let Written::Equals(value) = &entry.value else {
                    continue;
                };
                match entry.name.to_string().as_str() {
                    "serialize" => name.written = text(value),
                    "deserialize" => name.read = text(value),
                    _ => {}
                }
            }
            name
        }
        Written::Nothing | Written::Other => SerdeName::default(),
    }
}

fn text(tokens: &TokenStream) -> Option<String> {
    let text: LitStr = syn::parse2(tokens.clone()).ok()?;
    Some(text.value())
}
