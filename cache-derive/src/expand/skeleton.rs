//! What is still emitted after an error: the names that other code uses, without the content.
//!
//! Without it one forgotten key would be reported at the struct and then again wherever `Flight::repository` or
//! `FlightRepository` is used. The methods take anything as an id, because the id may be the mistake.
//!
//! Not here: generic structs, whose repository could not be named either way, and unions, which serde cannot write.

use proc_macro2::TokenStream;
use quote::quote;

use super::{
    entity, fields,
    repository::{self, Items},
};
use crate::{
    ast::{Derive, Input, Shape},
    validate,
};

/// ```text
/// pub struct FlightRepository<DB: Backend> { .. }
/// const _: () = {
///     impl Entity for Flight { type Id = i64; .. }
///     impl<DB: Backend> FlightRepository<DB> { /* methods that are never run */ }
/// };
/// ```
pub(super) fn items(input: &Input) -> TokenStream {
    if !input.generics.params.is_empty() || matches!(input.shape, Shape::Union) {
        return TokenStream::new();
    }
    match input.derive {
        Derive::Cached => entity_items(input),
        Derive::Columns => nested(input),
    }
}

fn entity_items(input: &Input) -> TokenStream {
    let ident = &input.ident;
    let private = validate::paths(&input.settings).private();
    let Items { type_item, impls } = repository::of_faulty(input);
    let columns = nested(input);
    let versioned = repository::is_versioned(input);
    let writes = entity::direction(validate::queues(&input.settings));
    let kinds = entity::kinds(&private, writes, versioned);
    quote! {
        #type_item
        #columns
        const _: () = {
            use #private::ProbeFallback as _;
            #[automatically_derived]
            impl #private::Entity for #ident {
                type Id = ();
                #kinds
                const SPEC: #private::EntitySpec = #private::EntitySpec::new("", "", 0);
                fn id(&self) -> Self::Id {}
                #private::bindings! { #ident }
            }
            #impls
        };
    }
}

/// A struct without columns, for the entity that flattens it.
fn nested(input: &Input) -> TokenStream {
    let ident = &input.ident;
    let private = validate::paths(&input.settings).private();
    let fields_impl = fields::of(&private, ident, &TokenStream::new());
    quote! {
        const _: () = {
            #fields_impl
            #[automatically_derived]
            impl<__CachedDb: #private::Backend> #private::Columns<__CachedDb> for #ident {
                fn describe(_: &mut #private::ColumnList<__CachedDb>) {}
                fn bind(&self, _: &mut #private::Binder<'_, __CachedDb>) -> #private::BindResult {
                    ::core::result::Result::Ok(())
                }
            }
        };
    }
}
