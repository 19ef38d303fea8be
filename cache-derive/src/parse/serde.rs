//! Finds in `#[serde(..)]` the keys that keep a field out of a payload, or out of its place in one.
//!
//! Not here: whether the attribute is correct. Serde's own derive says so.

use syn::{Attribute, Meta};

use super::list;
use crate::ast::{Serde, SerdeKind};

/// Every kind that is looked for.
const KINDS: &[SerdeKind] = &[
    SerdeKind::Flatten,
    SerdeKind::SkipSerializingIf,
    SerdeKind::Tag,
    SerdeKind::Untagged,
    SerdeKind::Skip,
    SerdeKind::SkipSerializing,
    SerdeKind::SkipDeserializing,
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
        let tokens = entry.tokens;
        Some(Serde { kind, tokens })
    })
    .collect()
}
