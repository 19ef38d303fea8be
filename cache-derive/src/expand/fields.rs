//! `impl Fields`: which field decides which database fits, and what to write instead of a type that does not.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Type, spanned::Spanned};

use crate::model::{Column, Kind, Member, Role, Table, option_argument, spelling, type_name};

/// ```text
/// impl Fields for Flight {
///     const FIELDS: &'static [Field] = &[
///         Field::column("id", "i64", "..", fits_each!(IS_COLUMN, i64), fits_each!(IS_READ, i64)),
///         Field::Nested(<Route as Fields>::FIELDS),
///     ];
/// }
/// ```
pub(super) fn fields_impl(table: &Table) -> TokenStream {
    let private = table.paths.private();
    let fields = deciding(table).map(|member| field(&private, member));
    of(&private, &table.ident, &quote!(#(#fields),*))
}

/// The impl with these fields.
pub(super) fn of(private: &TokenStream, ident: &syn::Ident, fields: &TokenStream) -> TokenStream {
    quote! {
        #[automatically_derived]
        impl #private::Fields for #ident {
            const FIELDS: &'static [#private::Field] = &[#fields];
        }
    }
}

/// The members that are listed: every database stores JSON.
pub(super) fn deciding(table: &Table) -> impl Iterator<Item = &Member> {
    let members = table.members.iter();
    members.filter(|member| !matches!(member.kind, Kind::Json { .. }))
}

fn field(private: &TokenStream, member: &Member) -> TokenStream {
    let Some((column, stored)) = column(member) else {
        let ty = &member.ty;
        let span = Span::call_site().located_at(ty.span());
        return quote_spanned!(span=> #private::Field::Nested(<#ty as #private::Fields>::FIELDS));
    };
    let (name, ty, way_out) = (
        &column.name,
        spelling(stored),
        way_out(member, column, stored),
    );
    quote! {
        #private::Field::column(
            #name,
            #ty,
            #way_out,
            #private::fits_each!(IS_COLUMN, #stored),
            #private::fits_each!(IS_READ, #stored),
        )
    }
}

/// The column of a member and the type that it is sent as, unless it is a nested struct or JSON.
pub(super) fn column(member: &Member) -> Option<(&Column, &Type)> {
    match &member.kind {
        Kind::Column { column } => Some((column, &member.ty)),
        Kind::Converted { column, stored } => Some((column, stored)),
        Kind::Json { .. } | Kind::Flatten => None,
    }
}

/// What to write instead of a type that does not fit, as the end of a message.
pub(super) fn way_out(member: &Member, column: &Column, stored: &Type) -> String {
    let (is_nullable, ty) = match option_argument(stored) {
        Some(ty) => (true, ty),
        None => (false, stored),
    };
    let name = type_name(ty).unwrap_or_default();
    let is_converted = matches!(member.kind, Kind::Converted { .. });
    // An id is compared by the database, which does not compare JSON.
    let is_id = matches!(column.role, Role::Id | Role::GeneratedId);
    let otherwise = match (is_converted, is_id) {
        (true, _) => "name another type in `#[sqlx(try_from = \"..\")]`",
        (false, true) => "mark the field `#[sqlx(try_from = \"..\")]`",
        (false, false) => "mark the field `#[sqlx(json)]` or `#[sqlx(try_from = \"..\")]`",
    };
    let integer = match (is_converted, is_nullable) {
        (true, false) => "write `#[sqlx(try_from = \"i64\")]`",
        (true, true) => "write `#[sqlx(try_from = \"Option<i64>\")]`",
        (false, true) => "use `Option<i64>`",
        (false, false) => "use `i64`, or mark the field `#[sqlx(try_from = \"i64\")]`",
    };
    match (name.as_str(), feature(&name)) {
        ("u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i128" | "isize", _) => {
            integer.to_owned()
        }
        ("char", _) => format!("use `String`, or {otherwise}"),
        ("Vec", _) => otherwise.to_owned(),
        (_, Some(feature)) => format!("enable the feature `{feature}` of sqlx, or {otherwise}"),
        (_, None) => format!("derive `sqlx::Type` for it, or {otherwise}"),
    }
}

/// The feature of sqlx without which it does not know a type of another crate.
fn feature(name: &str) -> Option<&'static str> {
    Some(match name {
        "Uuid" => "uuid",
        "Decimal" => "rust_decimal",
        "BigDecimal" => "bigdecimal",
        "DateTime" | "NaiveDateTime" | "NaiveDate" | "NaiveTime" => "chrono",
        "OffsetDateTime" | "PrimitiveDateTime" => "time",
        "IpNetwork" => "ipnetwork",
        "MacAddress" => "mac_address",
        _ => return None,
    })
}
