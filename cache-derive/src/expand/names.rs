//! Names in generated code that mean the same whatever is in scope around the entity.
//!
//! - What users do not see starts with `__cached`.
//! - The parameters of methods are shown by editors and in documentation, so they have plain names. A unit struct, a
//!   constant or a static of such a name would turn the parameter into a pattern. A function does not, and so [`shadows`]
//!   imports a function under each of the names.
//! - The type parameters of the repository are shown as well. They would hide a type of the user's, so they have a plain
//!   name only if the input does not use it ([`free`]).

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{format_ident, quote};
use syn::ext::IdentExt;

/// The plain names of parameters.
pub(crate) const PARAMETERS: &[&str] = &[
    "cache",
    "change",
    "column",
    "id",
    "ids",
    "options",
    "pool",
    "query",
    "repository",
    "row",
    "rows",
    "transaction",
    "values",
];

/// ```text
/// use ::larder::__private::{shadow as cache, shadow as change, ..};
/// ```
///
/// The parameters of lookups are named after fields.
pub(super) fn shadows(private: &TokenStream, fields: &[Ident]) -> TokenStream {
    let names = PARAMETERS
        .iter()
        .map(|name| Ident::new(name, Span::call_site()));
    let mut names: Vec<_> = names.collect();
    for field in fields {
        if !names.contains(field) {
            names.push(field.clone());
        }
    }
    quote!(use #private::{#(shadow as #names),*};)
}

/// The plain name of a type parameter, or one that nobody writes if the plain one is among the tokens.
pub(super) fn free(plain: &str, tokens: &TokenStream) -> Ident {
    match mentions(tokens, plain) {
        true => format_ident!("__Cached{plain}"),
        false => Ident::new(plain, Span::call_site()),
    }
}

/// Whether the tokens contain the name, or a macro that could expand to it.
fn mentions(tokens: &TokenStream, name: &str) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident.unraw() == name,
        TokenTree::Punct(punct) => punct.as_char() == '!',
        TokenTree::Group(group) => mentions(&group.stream(), name),
        TokenTree::Literal(_) => false,
    })
}
