//! `impl Columns` and `impl Source`: the fields in order, once as columns and once as values.
//!
//! Both are written for any database, with a `where` clause per field type. So an entity compiles whatever its columns
//! are, and fits exactly the databases that can store them all.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Type, spanned::Spanned};

use crate::model::{Column, Entity, Kind, Member, Role, Table, option_argument, spelling};

/// ```text
/// impl<__CachedDb: Backend> Columns<__CachedDb> for Flight
/// where
///     i64: Column<__CachedDb>,
/// {
///     fn describe(__cached_columns: &mut ColumnList<__CachedDb>) {
///         __cached_columns.column::<i64>("id", Role::Id, Nullable::No);
///     }
///     fn bind(&self, __cached_values: &mut Binder<'_, __CachedDb>) -> BindResult {
///         __cached_values.value(Role::Id, &self.id)?;
///         Ok(())
///     }
/// }
/// ```
pub(super) fn columns_impl(table: &Table) -> TokenStream {
    let private = table.paths.private();
    let ident = &table.ident;
    let bounds = bounds(&private, table);
    let describe = table
        .members
        .iter()
        .map(|member| describe(&private, member));
    let bind = table.members.iter().map(|member| bind(&private, member));
    let clear = clear_skipped(&private, table);
    let omit = clear_omitted(table);
    let told_apart = told_apart(&private, table);
    quote! {
        #[automatically_derived]
        impl<__CachedDb: #private::Backend> #private::Columns<__CachedDb> for #ident
        where
            #(#bounds,)*
        {
            fn describe(__cached_columns: &mut #private::ColumnList<__CachedDb>) {
                #(#describe;)*
            }
            fn bind(&self, __cached_values: &mut #private::Binder<'_, __CachedDb>) -> #private::BindResult {
                #(#bind?;)*
                ::core::result::Result::Ok(())
            }
            #clear
            #omit
            #told_apart
        }
    }
}

/// Types whose values come back from every codec as they are bound to a database, or not at all.
const PLAIN: &[&str] = &[
    "bool",
    "i8",
    "i16",
    "i32",
    "i64",
    "u8",
    "u16",
    "u32",
    "u64",
    "f32",
    "f64",
    "String",
    "Uuid",
    "Decimal",
    "BigDecimal",
    "DateTime",
    "NaiveDateTime",
    "NaiveDate",
    "NaiveTime",
    "OffsetDateTime",
    "PrimitiveDateTime",
];

/// Whether a type is one of [`PLAIN`], an `Option` or a `Vec` of one. Of any other, serde may leave out what the database has.
fn is_plain(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    if PLAIN.iter().any(|plain| last.ident == plain) {
        return true;
    }
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return false;
    };
    let mut of_plain = arguments
        .args
        .iter()
        .filter(|argument| matches!(argument, syn::GenericArgument::Type(ty) if is_plain(ty)));
    (last.ident == "Option" || last.ident == "Vec") && of_plain.next().is_some()
}

/// Nothing where all columns are plain; otherwise:
///
/// ```text
/// fn told_apart(&self, __cached_other: &Self) -> Option<&'static str> {
///     use LikenessFallback as _;
///     None
///         .or_else(|| told_apart("meta", [Likeness::<Meta>::EQUAL, Likeness::<Meta>::SHOWN], &self.meta, &__cached_other.meta))
///         .or_else(|| <Route as Columns<__CachedDb>>::told_apart(&self.route, &__cached_other.route))
/// }
/// ```
fn told_apart(private: &TokenStream, table: &Table) -> TokenStream {
    let members = table.members.iter().filter_map(|member| {
        let (ident, ty) = (&member.ident, &member.ty);
        let values = quote!(&self.#ident, &__cached_other.#ident);
        let column = match &member.kind {
            Kind::Flatten => {
                return Some(quote!(<#ty as #private::Columns<__CachedDb>>::told_apart(#values)));
            }
            Kind::Column { .. } if is_plain(ty) => return None,
            Kind::Json { column, .. }
            | Kind::Column { column }
            | Kind::Converted { column, .. } => &column.name,
        };
        let likeness = quote!(#private::Likeness::<#ty>);
        let ways = quote!([#likeness::EQUAL, #likeness::SHOWN]);
        Some(quote!(#private::told_apart(#column, #ways, #values)))
    });
    let members: Vec<_> = members.collect();
    if members.is_empty() {
        return TokenStream::new();
    }
    quote! {
        fn told_apart(&self, __cached_other: &Self) -> ::core::option::Option<&'static ::core::primitive::str> {
            use #private::LikenessFallback as _;
            ::core::option::Option::None #(.or_else(|| #members))*
        }
    }
}

/// Nothing where every field is a column; otherwise:
///
/// ```text
/// fn clear_skipped(&mut self) {
///     self.label = Default::default();
///     <Route as Columns<__CachedDb>>::clear_skipped(&mut self.route);
/// }
/// ```
fn clear_skipped(private: &TokenStream, table: &Table) -> TokenStream {
    let skipped = table.skipped.iter().map(|field| {
        let ident = &field.ident;
        match field.is_of_struct {
            true => quote!(self.#ident = <Self as ::core::default::Default>::default().#ident),
            false => quote!(self.#ident = ::core::default::Default::default()),
        }
    });
    let flattened = table
        .members
        .iter()
        .filter(|member| matches!(member.kind, Kind::Flatten));
    let flattened = flattened.map(|member| {
        let (ident, ty) = (&member.ident, &member.ty);
        quote!(<#ty as #private::Columns<__CachedDb>>::clear_skipped(&mut self.#ident))
    });
    let statements: Vec<_> = skipped.chain(flattened).collect();
    if statements.is_empty() {
        return TokenStream::new();
    }
    quote! {
        fn clear_skipped(&mut self) {
            #(#statements;)*
        }
    }
}

/// Nothing where every column is in the cache; otherwise:
///
/// ```text
/// fn clear_omitted(&mut self) {
///     self.password_hash = None;
/// }
/// ```
fn clear_omitted(table: &Table) -> TokenStream {
    let omitted = table
        .members
        .iter()
        .filter(|member| member.role() == Some(Role::Omitted));
    let statements: Vec<_> = omitted
        .map(|member| {
            let ident = &member.ident;
            quote!(self.#ident = ::core::option::Option::None)
        })
        .collect();
    if statements.is_empty() {
        return TokenStream::new();
    }
    quote! {
        fn clear_omitted(&mut self) {
            #(#statements;)*
        }
    }
}

/// ```text
/// trait __CachedEntity<'__cached>: Entity {}
/// impl<__CachedDb: Backend> Source<__CachedDb> for Flight
/// where
///     Self: for<'__cached> __CachedEntity<'__cached>,
///     Self: Columns<__CachedDb>,
///     Self: for<'r> FromRow<'r, __CachedDb::Row>,
///     i64: Column<__CachedDb>,
/// {
///     fn bind_id(__cached_id: &i64, __cached_values: &mut Binder<'_, __CachedDb>) -> BindResult {
///         __cached_values.value(Role::Id, __cached_id)?;
///         Ok(())
///     }
/// }
/// ```
pub(super) fn source_impl(entity: &Entity) -> TokenStream {
    let private = entity.table.paths.private();
    let ident = &entity.table.ident;
    let id_type = super::entity::id_type(&entity.id);
    let parts = || entity.id.parts();
    let bounds = distinct(parts().map(|part| part.stored.as_ref().unwrap_or(&part.ty)));
    let of_lookups = super::lookups::bounds(&private, entity);
    let lookups = super::lookups::source(&private, entity);
    let bind = parts().enumerate().map(|(index, part)| {
        let index = syn::Index::from(index);
        let value = match entity.id.rest.is_empty() {
            true => quote!(__cached_id),
            false => quote!(&__cached_id.#index),
        };
        match &part.stored {
            Some(stored) => {
                quote!(__cached_values.converted::<#stored, _>(#private::Role::Id, #value))
            }
            None => quote!(__cached_values.value(#private::Role::Id, #value)),
        }
    });
    quote! {
        // A struct that lacks a derive is no entity, which rustc says at `impl Entity`. With this bound it does not say so
        // here again: a bound on `Self` alone would be checked here, one for every lifetime is not.
        trait __CachedEntity<'__cached>: #private::Entity {}
        #[automatically_derived]
        impl<__CachedEntityType: #private::Entity> __CachedEntity<'_> for __CachedEntityType {}
        #[automatically_derived]
        impl<__CachedDb: #private::Backend> #private::Source<__CachedDb> for #ident
        where
            Self: for<'__cached> __CachedEntity<'__cached>,
            Self: #private::Columns<__CachedDb>,
            Self: for<'__cached> #private::FromRow<'__cached, __CachedDb::Row>,
            #(#bounds: #private::Column<__CachedDb>,)*
            #(#of_lookups,)*
        {
            fn bind_id(
                __cached_id: &#id_type,
                __cached_values: &mut #private::Binder<'_, __CachedDb>,
            ) -> #private::BindResult {
                #(#bind?;)*
                ::core::result::Result::Ok(())
            }
            #lookups
        }
    }
}

/// One bound per distinct type, in the order of the fields.
fn bounds(private: &TokenStream, table: &Table) -> Vec<TokenStream> {
    let stored = distinct(table.members.iter().filter_map(Member::stored));
    let nested = table
        .members
        .iter()
        .filter(|member| matches!(member.kind, Kind::Flatten));
    let nested = distinct(nested.map(|member| &member.ty));
    let stored = stored
        .into_iter()
        .map(|ty| quote!(#ty: #private::Column<__CachedDb>));
    let nested = nested
        .into_iter()
        .map(|ty| quote!(#ty: #private::Columns<__CachedDb>));
    stored.chain(nested).collect()
}

/// The types without repetition, so that no bound is stated twice.
pub(super) fn distinct<'a>(types: impl Iterator<Item = &'a Type>) -> Vec<&'a Type> {
    let mut seen = Vec::new();
    types
        .filter(|ty| {
            !seen.contains(&spelling(ty)) && {
                seen.push(spelling(ty));
                true
            }
        })
        .collect()
}

fn describe(private: &TokenStream, member: &Member) -> TokenStream {
    let ty = &member.ty;
    match &member.kind {
        Kind::Column { column } => describe_column(private, column, ty),
        Kind::Converted { column, stored } => describe_column(private, column, stored),
        Kind::Json { column, nullable } => {
            let (name, role) = (&column.name, role(private, column));
            let nullable = nullability(private, *nullable);
            quote!(__cached_columns.json(#name, #role, #nullable))
        }
        Kind::Flatten => quote!(__cached_columns.flatten::<#ty>()),
    }
}

fn describe_column(private: &TokenStream, column: &Column, stored: &Type) -> TokenStream {
    let (name, role) = (&column.name, role(private, column));
    let nullable = nullability(private, option_argument(stored).is_some());
    quote!(__cached_columns.column::<#stored>(#name, #role, #nullable))
}

fn bind(private: &TokenStream, member: &Member) -> TokenStream {
    let ident = &member.ident;
    // Located at the field, so that a type mistake found in here is shown there.
    let span = Span::call_site().located_at(member.ty.span());
    match &member.kind {
        Kind::Column { column } => {
            let role = role(private, column);
            quote_spanned!(span=> __cached_values.value(#role, &self.#ident))
        }
        Kind::Converted { column, stored } => {
            let role = role(private, column);
            quote_spanned!(span=> __cached_values.converted::<#stored, _>(#role, &self.#ident))
        }
        Kind::Json { column, nullable } => {
            let role = role(private, column);
            let method = Ident::new(if *nullable { "json_nullable" } else { "json" }, span);
            quote_spanned!(span=> __cached_values.#method(#role, &self.#ident))
        }
        Kind::Flatten => quote_spanned!(span=> __cached_values.flatten(&self.#ident)),
    }
}

fn role(private: &TokenStream, column: &Column) -> TokenStream {
    match column.role {
        Role::Id => quote!(#private::Role::Id),
        Role::GeneratedId => quote!(#private::Role::GeneratedId),
        Role::Plain => quote!(#private::Role::Plain),
        Role::Omitted => quote!(#private::Role::Omitted),
        Role::Immutable => quote!(#private::Role::Immutable),
        Role::Version => quote!(#private::Role::Version),
        Role::Generated => quote!(#private::Role::Generated),
    }
}

fn nullability(private: &TokenStream, nullable: bool) -> TokenStream {
    match nullable {
        true => quote!(#private::Nullable::Yes),
        false => quote!(#private::Nullable::No),
    }
}
