//! The derive macros of larder. Use them through the `larder` crate, which re-exports them.
//!
//! An input goes through three phases, and only the first two can find fault with it:
//!
//! 1. `parse` writes down what the user wrote (`ast`), mistakes included, and reports what cannot be read.
//! 2. `validate` knows the rules. It turns the ast into a `model`, which cannot be wrong.
//! 3. `expand` turns the model into tokens: names and order, no logic.
//!
//! All faults of an input are collected (`diagnostics`) and reported in one compile, and beside them a skeleton of the
//! generated items is emitted so that the code that uses them does not fail as well.
//!
//! Not here: anything that runs. Generated code calls the runtime, one line per method.

mod ast;
mod diagnostics;
mod expand;
mod grammar;
mod model;
mod parse;
mod paths;
mod validate;

#[cfg(test)]
mod tests;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

use crate::{ast::Derive, diagnostics::Errors};

#[doc = include_str!("../docs/attributes.md")]
#[proc_macro_derive(Cached, attributes(cached, sqlx))]
pub fn derive_cached(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(Derive::Cached, &input).into()
}

#[doc = include_str!("../docs/columns.md")]
#[proc_macro_derive(Columns, attributes(cached, sqlx))]
pub fn derive_columns(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(Derive::Columns, &input).into()
}

/// All three phases; a function over `proc_macro2` so that tests can call it.
fn expand(derive: Derive, input: &DeriveInput) -> proc_macro2::TokenStream {
    let mut errors = Errors::default();
    let ast = parse::input(&mut errors, derive, input);
    let model = validate::model(&mut errors, &ast);
    match (model, errors.render()) {
        (Some(model), None) => expand::model(&model),
        (_, faults) => {
            let skeleton = expand::skeleton(&ast);
            quote::quote! { #faults #skeleton }
        }
    }
}
