//! How generated code reaches the runtime.
//!
//! Everything it names is an item of the hidden module `__private` of the larder crate, whatever that crate is called
//! (`#[cached(crate = path)]`), or has an absolute path into `core` or `std`. So an expansion means the same in every
//! module, whatever is imported or shadowed there.

use proc_macro2::TokenStream;
use quote::quote;
use syn::Path;

/// The path of the larder crate.
pub(crate) struct Paths(Option<Path>);

impl Paths {
    /// The crate at `path`, or the one called `larder`.
    pub(crate) fn new(path: Option<Path>) -> Self {
        Self(path)
    }

    /// The module that generated code calls.
    pub(crate) fn private(&self) -> TokenStream {
        match &self.0 {
            Some(path) => quote!(#path::__private),
            None => quote!(::larder::__private),
        }
    }
}
