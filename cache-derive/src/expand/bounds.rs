//! Assertions that say what is missing where rustc would only say that a bound does not hold.
//!
//! The generated impls are generic over the database, so a field that no database can store is no error in them: the
//! entity just fits no database, and the user would learn so at the first call, far from the field. These assertions are
//! evaluated where the struct is defined, by `cargo check` too.
//!
//! Invariant: all assertions of a struct stand in one constant, which stops at the first that fails. A field that does
//! not fit also keeps the struct from being read from a row, and only the field is reported.
//!
//! Not here: `Clone`, `Serialize` and `Deserialize`. They do not depend on the database, so rustc reports them at the
//! `impl Entity`, once.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::spanned::Spanned;

use crate::model::{Kind, Member, Table, spelling};

/// ```text
/// assert!(fits_any!(IS_COLUMN, Status), "column `status` of `Flight`: no enabled database can store `Status`; ..");
/// assert!(fits_any!(IS_ROW, Flight), "`Flight` cannot be read from a row of any enabled database; ..");
/// ```
pub(super) fn entity(table: &Table) -> TokenStream {
    let ident = &table.ident;
    let name = table.name();
    let message = format!(
        "`{name}` cannot be read from a row of any enabled database; derive `sqlx::FromRow` for it, \
         with fields that sqlx can decode"
    );
    let fields = nested(table);
    let row = assertion(table, "IS_ROW", ident, ident.span(), &message);
    quote_spanned!(Span::call_site()=> #fields #row)
}

/// The assertions about the fields alone.
pub(super) fn nested(table: &Table) -> TokenStream {
    table
        .members
        .iter()
        .filter_map(|member| field(table, member))
        .collect()
}

fn field(table: &Table, member: &Member) -> Option<TokenStream> {
    let (name, field) = (table.name(), &member.ident);
    match &member.kind {
        Kind::Flatten => {
            let ty = spelling(&member.ty);
            let message = format!(
                "field `{field}` of `{name}`: no enabled database can store the columns of `{ty}`; \
                 derive `larder::Columns` for it, with fields that sqlx can store"
            );
            Some(assertion(
                table,
                "HAS_COLUMNS",
                &member.ty,
                member.ty.span(),
                &message,
            ))
        }
        Kind::Column { column } | Kind::Converted { column, .. } => {
            let stored = member.stored()?;
            let ty = spelling(stored);
            let message = format!(
                "column `{}` of `{name}`: no enabled database can store `{ty}`; derive `sqlx::Type` for it, \
                 or mark the field `#[sqlx(json)]` or `#[sqlx(try_from = \"..\")]`",
                column.name
            );
            Some(assertion(
                table,
                "IS_COLUMN",
                stored,
                member.ty.span(),
                &message,
            ))
        }
        Kind::Json { .. } => None,
    }
}

fn assertion(
    table: &Table,
    property: &str,
    ty: &impl quote::ToTokens,
    span: Span,
    message: &str,
) -> TokenStream {
    let private = table.paths.private();
    let span = Span::call_site().located_at(span);
    let property = syn::Ident::new(property, span);
    // The message is a format string.
    let message = message.replace('{', "{{").replace('}', "}}");
    quote_spanned!(span=> ::core::assert!(#private::fits_any!(#property, #ty), #message);)
}
