//! Assertions that say what is missing where rustc would only say that a bound does not hold.
//!
//! The generated impls are generic over the database, so a field that no database can store is no error in them: the
//! entity just fits no database, and the user would learn so at the first call, far from the field. These assertions are
//! evaluated where the struct is defined, by `cargo check` too.
//!
//! Invariant: each assertion is a constant of its own, so all fields that do not fit are reported. Such a field also keeps
//! the struct from being read from a row, and only the field is reported.
//!
//! Not here: `Clone`, `Serialize` and `Deserialize`. They do not depend on the database, so rustc reports them at the
//! `impl Entity`, once. A field that some databases can store is reported where a pool of another one is used (`fields`).

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Index, spanned::Spanned};

use super::fields;
use crate::model::{Member, Table, spelling};

/// ```text
/// const __CACHED_IS_ROW: bool = fits_any!(IS_ROW, Flight);
/// const _: () = assert!(fits_somewhere(&<Flight as Fields>::FIELDS[1], __CACHED_IS_ROW), "column `status` of `Flight`: ..");
/// const _: () = assert!(is_row_or_has_misfit(__CACHED_IS_ROW, <Flight as Fields>::FIELDS), "`Flight` cannot be read ..");
/// ```
pub(super) fn entity(table: &Table) -> TokenStream {
    let private = table.paths.private();
    let ident = &table.ident;
    let message = format!(
        "`{}` cannot be read from a row of any enabled database; derive `sqlx::FromRow` for it, \
         with fields that sqlx can decode",
        table.name()
    );
    let condition = quote! {
        #private::is_row_or_has_misfit(__CACHED_IS_ROW, <#ident as #private::Fields>::FIELDS)
    };
    let fields = nested(table);
    let row = assertion(ident.span(), &condition, &message);
    quote!(#fields #row)
}

/// The assertions about the fields alone.
pub(super) fn nested(table: &Table) -> TokenStream {
    let private = table.paths.private();
    let ident = &table.ident;
    let fields = fields::deciding(table)
        .enumerate()
        .filter_map(|(index, member)| field(table, index, member));
    quote! {
        const __CACHED_IS_ROW: ::core::primitive::bool = #private::fits_any!(IS_ROW, #ident);
        #(#fields)*
    }
}

/// Nothing for a nested struct, whose own derive reports its fields.
fn field(table: &Table, index: usize, member: &Member) -> Option<TokenStream> {
    let (column, stored) = fields::column(member)?;
    let private = table.paths.private();
    let (ident, index) = (&table.ident, Index::from(index));
    let message = format!(
        "column `{}` of `{}`: no enabled database can store and read `{}`; {}",
        column.name,
        table.name(),
        spelling(stored),
        fields::way_out(member, column, stored)
    );
    let condition = quote! {
        #private::fits_somewhere(&<#ident as #private::Fields>::FIELDS[#index], __CACHED_IS_ROW)
    };
    Some(assertion(member.ty.span(), &condition, &message))
}

fn assertion(span: Span, condition: &TokenStream, message: &str) -> TokenStream {
    let span = Span::call_site().located_at(span);
    // The message is a format string.
    let message = message.replace('{', "{{").replace('}', "}}");
    quote_spanned!(span=> const _: () = ::core::assert!(#condition, #message);)
}
