//! From the model to tokens. Nothing here can fail, and nothing here decides: a branch in generated code would be logic
//! that belongs into the runtime.
//!
//! Invariant: generated impls stand inside `const _: () = { .. }`, so nothing they import is seen outside. Only the
//! repository type, which the user must be able to name, stands beside it. No name in the user's scope changes what
//! generated code means (`names`), and no trait in scope does either: methods are called by their paths.

mod bounds;
mod entity;
mod fields;
mod groups;
mod lookups;
mod method;
mod methods;
mod names;
mod queued;
mod relations;
mod repository;
mod skeleton;
mod source;
mod tags;

#[cfg(test)]
pub(crate) use names::PARAMETERS;
use proc_macro2::TokenStream;
use quote::quote;

use crate::{
    ast,
    model::{Entity, Model, Table},
};

/// The items of a correct input.
pub(crate) fn model(model: &Model) -> TokenStream {
    match model {
        Model::Entity(entity) => expand_entity(entity),
        Model::Nested(table) => expand_nested(table),
    }
}

/// The items that take their place after an error.
pub(crate) fn skeleton(input: &ast::Input) -> TokenStream {
    skeleton::items(input)
}

/// ```text
/// pub struct FlightRepository<DB: Backend> { .. }
/// const _: () = {
///     use ::larder::__private::{ProbeFallback as _, ProbeTypeFallback as _};
///     impl Entity for Flight { .. }
///     impl Fields for Flight { .. }
///     impl<__CachedDb: Backend> Columns<__CachedDb> for Flight where .. { .. }
///     impl<__CachedDb: Backend> Source<__CachedDb> for Flight where .. { .. }
///     const _: () = {
///         use ::larder::__private::{shadow as cache, ..};
///         impl Flight { /* repository, try_repository */ }
///         impl<DB: Backend> FlightRepository<DB> { /* find, insert, .. */ }
///     };
///     const _: () = assert!(/* a field fits a database */);
/// };
/// ```
fn expand_entity(entity: &Entity) -> TokenStream {
    let private = entity.table.paths.private();
    let repository::Items { type_item, impls } = repository::of_entity(entity);
    let entity_impl = entity::entity_impl(entity);
    let fields_impl = fields::fields_impl(&entity.table);
    let columns_impl = source::columns_impl(&entity.table);
    let source_impl = source::source_impl(entity);
    let bounds = bounds::entity(&entity.table);
    let tag_texts = tags::texts(&entity.tags);
    let checks = groups::checks(&private, entity);
    quote! {
        #type_item
        const _: () = {
            // `bindings!`, `fits_any!` and `fits_each!` ask these where a type does not fit.
            use #private::{ProbeFallback as _, ProbeTypeFallback as _};
            #entity_impl
            #fields_impl
            #columns_impl
            #source_impl
            #tag_texts
            #impls
            #bounds
            #checks
        };
    }
}

/// ```text
/// const _: () = {
///     use ::larder::__private::ProbeTypeFallback as _;
///     impl Fields for Address { .. }
///     impl<__CachedDb: Backend> Columns<__CachedDb> for Address where .. { .. }
///     const _: () = assert!(/* a field fits a database */);
/// };
/// ```
fn expand_nested(table: &Table) -> TokenStream {
    let private = table.paths.private();
    let fields_impl = fields::fields_impl(table);
    let columns_impl = source::columns_impl(table);
    let bounds = bounds::nested(table);
    quote! {
        const _: () = {
            use #private::ProbeTypeFallback as _;
            #fields_impl
            #columns_impl
            #bounds
        };
    }
}
