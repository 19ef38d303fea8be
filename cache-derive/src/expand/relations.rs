//! The methods of relations: the rows of another entity for many rows of this one, in one batch.
//!
//! Nothing is loaded when a field is read. So a page of rows and what belongs to them is a fixed number of statements, and each
//! of them can be seen in the code.

use proc_macro2::{Ident, Span, TokenStream};
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
///     <Author as HasRepository>::find_each(repository, ..)
/// }
/// ```
///
/// All of it is located at the path of the other entity, so that rustc reports once what is wrong with it. `is_faulty`: the entity
/// has a mistake, and the method is never run.
pub(super) fn method(
    entity: &Ident,
    private: &TokenStream,
    relation: &Relation,
    is_faulty: bool,
) -> TokenStream {
    let method = relation.method();
    let span = Span::call_site().located_at(relation.entity.span());
    let mut other = relation.entity.clone();
    for segment in &mut other.segments {
        segment.ident.set_span(span);
    }
    let mentioned = quote!(#entity #private #other);
    let database = names::free("D", &mentioned);
    let own_name = entity.unraw().to_string();
    let other_name = relation
        .entity
        .to_token_stream()
        .to_string()
        .replace(' ', "");
    let (does, returns, body) = match &relation.kind {
        RelationKind::BelongsTo { field, ty } => {
            let field_name = field.unraw();
            let does = format!(
                "Returns the `{other_name}` that each `{own_name}` belongs to by `{field_name}`, in the order of `rows`; `None` where there \
                 is none. They are found in one batch, as `find_many` does."
            );
            let returns = quote_spanned!(span=> ::core::option::Option<::std::sync::Arc<#other>>);
            let at_type = Span::call_site().located_at(ty.span());
            let id = match option_argument(ty) {
                Some(_) => quote_spanned! {at_type=>
                    ::core::option::Option::map(
                        ::core::option::Option::as_ref(&__cached_row.#field),
                        <#other as #private::HasRepository>::id_of,
                    )
                },
                None => quote_spanned! {at_type=>
                    ::core::option::Option::Some(<#other as #private::HasRepository>::id_of(&__cached_row.#field))
                },
            };
            let body = quote_spanned! {span=>
                <#other as #private::HasRepository>::find_each(
                    repository,
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
            let returns = quote_spanned!(span=> #private::Page<#other>);
            let body = quote_spanned! {span=>
                async move {
                    <<#other as #private::HasRepository>::Repository<#database>>::#find(
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
    let body = match is_faulty {
        true => quote!(async move { ::core::panic!("this entity has a mistake") }),
        false => body,
    };
    let docs = docs(&does, UNREADABLE, CANCEL);
    quote_spanned! {span=>
        #[doc = #docs]
        pub fn #method<#database: #private::Backend>(
            &self,
            rows: &[::std::sync::Arc<#entity>],
            repository: &<#other as #private::HasRepository>::Repository<#database>,
        ) -> impl ::core::future::Future<Output = ::core::result::Result<::std::vec::Vec<#returns>, #private::Error>> {
            #body
        }
    }
}
