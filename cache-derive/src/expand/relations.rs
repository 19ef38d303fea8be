//! The methods of relations: the rows of another entity for many rows of this one, in one batch.
//!
//! Nothing is loaded when a field is read. So a page of rows and what belongs to them is a fixed number of statements, and each
//! of them can be seen in the code.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{ext::IdentExt, spanned::Spanned};

use super::{method::docs, names};
use crate::model::{Relation, RelationKind, option_argument};

const UNREADABLE: &str = "Fails if the database cannot be read. An unreachable cache is not an error: the rows are then read \
                          from the database.";

const CANCEL: &str =
    "The future may be dropped at any time. A load that other callers wait for continues.";

/// ```text
/// pub fn authors_of<D: Backend>(
///     &self,
///     rows: &[Arc<Book>],
///     repository: &<Author as HasRepository>::Repository<D>,
/// ) -> impl Future<Output = Result<Vec<Option<Arc<Author>>>, Error>> {
///     Repository::find_each(<Author as HasRepository>::Repository::<D>::inner(repository), ..)
/// }
/// ```
pub(super) fn method(entity: &Ident, private: &TokenStream, relation: &Relation) -> TokenStream {
    let method = relation.method();
    let other = &relation.entity;
    let mentioned = quote!(#entity #private #other);
    let database = names::free("D", &mentioned);
    let repository = quote!(<#other as #private::HasRepository>::Repository<#database>);
    let own_name = entity.unraw().to_string();
    let other_name = other.to_token_stream().to_string().replace(' ', "");
    let (does, returns, body) = match &relation.kind {
        RelationKind::BelongsTo { field, ty } => {
            let is_nullable = option_argument(ty).is_some();
            let field_name = field.unraw();
            let ty = quote_spanned!(ty.span()=> ::core::clone::Clone::clone(&__cached_row.#field));
            let id = match is_nullable {
                true => ty,
                false => quote!(::core::option::Option::Some(#ty)),
            };
            let does = format!(
                "Returns the `{other_name}` that each `{own_name}` belongs to by `{field_name}`, in the order of `rows`; `None` where there \
                 is none. They are found in one batch, as `find_many` does."
            );
            let returns = quote!(::core::option::Option<::std::sync::Arc<#other>>);
            let body = quote! {
                #private::Repository::find_each(
                    <#repository>::inner(repository),
                    ::core::iter::Iterator::collect(::core::iter::Iterator::map(
                        <[_]>::iter(rows),
                        |__cached_row| #id,
                    )),
                )
            };
            (does, returns, body)
        }
        RelationKind::HasMany { index } => {
            let index_name = index.unraw();
            let find = format_ident!("find_all_by_{index_name}_many", span = index.span());
            let does = format!(
                "Returns each `{other_name}` that belongs to each `{own_name}`, in the order of `rows`: one page for each, as \
                 `find_all_by_{index_name}_many` of their repository returns it."
            );
            let returns = quote!(#private::Page<#other>);
            let body = quote! {
                async move {
                    <#repository>::#find(
                        repository,
                        &::core::iter::Iterator::collect::<::std::vec::Vec<_>>(::core::iter::Iterator::map(
                            <[_]>::iter(rows),
                            |__cached_row| #private::Entity::id(&**__cached_row),
                        )),
                    ).await
                }
            };
            (does, returns, body)
        }
    };
    let docs = docs(&does, UNREADABLE, CANCEL);
    quote! {
        #[doc = #docs]
        pub fn #method<#database: #private::Backend>(
            &self,
            rows: &[::std::sync::Arc<#entity>],
            repository: &#repository,
        ) -> impl ::core::future::Future<Output = ::core::result::Result<::std::vec::Vec<#returns>, #private::Error>> {
            #body
        }
    }
}
