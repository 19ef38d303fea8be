//! What is invalidated together beyond one entity: rows that are deleted with others, and queries.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Path, ext::IdentExt, spanned::Spanned};

use super::names;
use crate::model::{Cascade, Entity};

/// The parameter of `query`.
pub(crate) const PARAMETERS: [&str; 1] = ["name"];

/// ```text
/// .with_cascades(&[Cascade { entity: || <Comment as Entity>::SPEC, field: "article_id" }])
/// .with_same_table(&[|| <UserName as Entity>::SPEC])
/// .with_query(&[|| <Flight as Entity>::SPEC])
/// .with_queries()
/// ```
pub(super) fn spec(private: &TokenStream, entity: &Entity) -> TokenStream {
    let cascades = entity.cascades.iter().map(|Cascade { entity, field }| {
        let field = field.unraw().to_string();
        quote!(#private::Cascade { entity: || <#entity as #private::Entity>::SPEC, field: #field })
    });
    let cascades = (!entity.cascades.is_empty()).then(|| quote!(.with_cascades(&[#(#cascades),*])));
    let twins = entity
        .twins
        .iter()
        .map(|twin| quote!(|| <#twin as #private::Entity>::SPEC));
    let twins = (!entity.twins.is_empty()).then(|| quote!(.with_same_table(&[#(#twins),*])));
    let reads = entity.reads.iter().map(|reads| {
        let reads = reads
            .iter()
            .map(|read| quote!(|| <#read as #private::Entity>::SPEC));
        quote!(.with_query(&[#(#reads),*]))
    });
    let queries = entity.has_queries.then(|| quote!(.with_queries()));
    quote!(#cascades #twins #(#reads)* #queries)
}

/// ```text
/// fn id_in_tags(id: &i64) -> String {
///     ToString::to_string(id)
/// }
/// ```
pub(super) fn id_in_tags(entity: &Entity, id_type: &TokenStream) -> Option<TokenStream> {
    (!entity.cascades.is_empty()).then(|| {
        quote! {
            fn id_in_tags(__cached_id: &#id_type) -> ::std::string::String {
                ::std::string::ToString::to_string(__cached_id)
            }
        }
    })
}

/// ```text
/// const _: () = assert!(has_tag_of(&<Comment as Entity>::SPEC, "article_id"), "..");
/// const _: () = match cannot_share(&<User as Entity>::SPEC, &<UserName as Entity>::SPEC) { .. };
/// const _: () = assert!(<Flight as Entity>::SPEC.queries, "..");
/// ```
pub(super) fn checks(private: &TokenStream, entity: &Entity) -> TokenStream {
    let cascades = entity.cascades.iter().map(|Cascade { entity, field }| {
        let (name, field) = (shown(entity), field.unraw().to_string());
        let message = format!(
            "`on_delete`: {name} has no tag that consists of its field `{field}`, so its rows cannot be invalidated together; give it \
             one, such as `tags(\"{field}:{{{field}}}\")`"
        );
        let message = unformatted(&message);
        quote_spanned! {entity.span()=>
            const _: () = ::core::assert!(
                #private::has_tag_of(&<#entity as #private::Entity>::SPEC, #field),
                #message
            );
        }
    });
    let reads = entity.reads.iter().flatten().map(|read| {
        let message = format!(
            "`depends_on`: the writes of {} are not announced to queries; add `queries` to its attribute",
            shown(read)
        );
        quote_spanned! {read.span()=>
            const _: () = ::core::assert!(<#read as #private::Entity>::SPEC.queries, #message);
        }
    });
    let own = &entity.table.ident;
    let twins = entity.twins.iter().map(|twin| {
        quote_spanned! {twin.span()=>
            const _: () = match #private::cannot_share(
                &<#own as #private::Entity>::SPEC,
                &<#twin as #private::Entity>::SPEC,
            ) {
                ::core::option::Option::None => {}
                ::core::option::Option::Some(why) => ::core::panic!("{}", why),
            };
            // The ids of both are of one type.
            const _: fn(&<#own as #private::Entity>::Id) -> &<#twin as #private::Entity>::Id = |id| id;
        }
    });
    quote!(#(#cascades)* #(#twins)* #(#reads)*)
}

/// The message as a format string without arguments.
fn unformatted(message: &str) -> String {
    message.replace('{', "{{").replace('}', "}}")
}

fn shown(path: &Path) -> String {
    let names = path
        .segments
        .iter()
        .map(|segment| segment.ident.unraw().to_string());
    format!("`{}`", names.collect::<Vec<_>>().join("::"))
}

/// ```text
/// pub fn query<T: Answers>(&self, name: &str) -> Query<T, DB> {
///     Repository::query(&self.inner, name)
/// }
/// ```
pub(super) fn method(
    entity: &Ident,
    private: &TokenStream,
    database: &Ident,
    is_faulty: bool,
) -> TokenStream {
    let name = entity.unraw();
    let docs = format!(
        "Returns a cached query that depends on each `{name}`: any write of one of them, from any process, invalidates its answer. \
         `key` says for which values it is, and `fetch` runs it. Use a name for one query and one type only."
    );
    let answer = names::free("T", &quote!(#entity #private #database));
    let parameter = Ident::new("name", Span::call_site());
    let body = match is_faulty {
        true => quote!(::core::panic!("this entity has a mistake")),
        false => quote!(#private::Repository::query(&self.inner, #parameter)),
    };
    quote! {
        #[doc = #docs]
        pub fn query<#answer: #private::Answers>(&self, #parameter: &str) -> #private::Query<#answer, #database> {
            #body
        }
    }
}

/// ```text
/// impl<DB: Backend> DependsOn for FlightRepository<DB> {
///     fn dependency(&self) -> Dependency {
///         Repository::dependency(&self.inner)
///     }
/// }
/// ```
pub(super) fn dependency(
    repository: &Ident,
    private: &TokenStream,
    database: &Ident,
) -> TokenStream {
    quote! {
        #[automatically_derived]
        impl<#database: #private::Backend> #private::DependsOn for #repository<#database> {
            fn dependency(&self) -> #private::Dependency {
                #private::Repository::dependency(&self.inner)
            }
        }
    }
}
