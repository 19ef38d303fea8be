//! Tests of the derive without a compiler: what comes out for what goes in.
//!
//! What rustc makes of it is tested in the workspace's `tests/ui.rs`.

mod diagnostics;
mod expansion;
mod grammar;
mod names;

use syn::DeriveInput;

use crate::ast::Derive;

/// The expansion of `#[derive(Cached)]`.
fn cached(input: &str) -> String {
    expand(Derive::Cached, input)
}

/// The expansion of `#[derive(Columns)]`.
fn columns(input: &str) -> String {
    expand(Derive::Columns, input)
}

fn expand(derive: Derive, input: &str) -> String {
    let input: DeriveInput = syn::parse_str(input).expect("the input is an item");
    let file =
        syn::parse2(crate::expand(derive, &input)).expect("the expansion is a list of items");
    prettyplease::unparse(&file)
}

/// The messages of all `compile_error!` items in the expansion of `#[derive(Cached)]`.
fn faults(input: &str) -> Vec<String> {
    messages(Derive::Cached, input)
}

fn messages(derive: Derive, input: &str) -> Vec<String> {
    let input: DeriveInput = syn::parse_str(input).expect("the input is an item");
    let file: syn::File =
        syn::parse2(crate::expand(derive, &input)).expect("the expansion is a list of items");
    let errors = file.items.iter().filter_map(|item| match item {
        syn::Item::Macro(item) if item.mac.path.segments.last()?.ident == "compile_error" => {
            Some(&item.mac)
        }
        _ => None,
    });
    errors
        .map(|error| {
            error
                .parse_body::<syn::LitStr>()
                .expect("a message is a string")
                .value()
        })
        .collect()
}
