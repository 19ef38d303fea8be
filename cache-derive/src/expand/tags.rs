//! Tags: what the entity says about them, those of a row, and the methods that invalidate them.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt;

use super::{
    method::{Writes, docs},
    names,
};
use crate::model::{Tag, TagField};

/// The parameters of the methods that every repository with tags has.
pub(crate) const PARAMETERS: [&str; 3] = ["tag", "tags", "write"];

/// ```text
/// .with_tags(&[TagPattern::new(&["country:", ""], &[("country", "country")])])
/// ```
pub(super) fn patterns(private: &TokenStream, tags: &[Tag]) -> Option<TokenStream> {
    let patterns = tags.iter().map(|tag| {
        let texts = &tag.texts;
        let fields = tag.fields.iter().map(|TagField { ident, column, .. }| {
            let name = ident.unraw().to_string();
            quote!((#name, #column))
        });
        quote!(#private::TagPattern::new(&[#(#texts),*], &[#(#fields),*]))
    });
    (!tags.is_empty()).then(|| quote!(.with_tags(&[#(#patterns),*])))
}

/// ```text
/// fn __cached_tag_1(__cached_0: &String) -> String {
///     format!("country:{}", __cached_0)
/// }
/// ```
///
/// One function for the row and for the method, so that rustc reports once a field that has no text.
pub(super) fn texts(tags: &[Tag]) -> TokenStream {
    let texts = tags.iter().enumerate().map(|(number, tag)| {
        let (text, format) = (text(number), format(tag));
        let parameters = tag.fields.iter().enumerate().map(|(number, field)| {
            let (inner, ty) = (inner(number, field), &field.ty);
            quote!(#inner: &#ty)
        });
        let fields = tag.fields.iter().enumerate();
        let values = fields.map(|(number, field)| inner(number, field));
        quote! {
            fn #text(#(#parameters),*) -> ::std::string::String {
                ::std::format!(#format #(, #values)*)
            }
        }
    });
    quote!(#(#texts)*)
}

/// The function with the text of a tag.
fn text(number: usize) -> Ident {
    format_ident!("__cached_tag_{number}")
}

/// The name of the value of a field, which points at the field.
fn inner(number: usize, field: &TagField) -> Ident {
    let span = Span::call_site().located_at(field.ident.span());
    format_ident!("__cached_{number}", span = span)
}

/// ```text
/// fn tags(&self, __cached_tags: &mut Tags) {
///     Tags::add(__cached_tags, &__cached_tag_1(&self.country));
/// }
/// ```
///
/// A row with a `NULL` in one of the fields does not have the tag.
pub(super) fn of_row(private: &TokenStream, tags: &[Tag]) -> Option<TokenStream> {
    let adds = tags.iter().enumerate().map(|(number, tag)| {
        let text = text(number);
        let fields = || tag.fields.iter().enumerate();
        let values = fields().map(|(number, field)| {
            let (ident, inner) = (&field.ident, inner(number, field));
            match field.is_nullable {
                true => quote!(#inner),
                false => quote!(&self.#ident),
            }
        });
        let add = quote!(#private::Tags::add(__cached_tags, &#text(#(#values),*)););
        let nullable = fields().filter(|(_, field)| field.is_nullable);
        nullable.fold(add, |add, (number, field)| {
            let (ident, inner) = (&field.ident, inner(number, field));
            quote! {
                match &self.#ident {
                    ::core::option::Option::Some(#inner) => { #add }
                    ::core::option::Option::None => {}
                }
            }
        })
    });
    (!tags.is_empty()).then(|| {
        quote! {
            fn tags(&self, __cached_tags: &mut #private::Tags) {
                #(#adds)*
            }
        }
    })
}

/// The format string of a tag.
fn format(tag: &Tag) -> String {
    let texts = tag.texts.iter();
    let texts = texts.map(|text| text.replace('{', "{{").replace('}', "}}"));
    texts.collect::<Vec<_>>().join("{}")
}

const FAILS: &str = "Fails with the kind `CacheUnavailable` if the cache cannot be reached. This process then reads the rows from \
                     the database until they have been dropped. Other processes may serve old rows until their time to live ends.";

const CANCEL: &str = "If the future is dropped before it ends, the rows may or may not be invalidated. Call it again.";

/// ```text
/// pub fn invalidate_tag(&self, tag: impl Into<String>) -> impl Future<Output = Result<(), Error>> {
///     Repository::invalidate_tag(&self.inner, tag)
/// }
/// pub fn invalidate_tags(&self, tags: impl IntoIterator<Item = impl Into<String>>) -> .. { .. }
/// pub fn bump(&self) -> .. { Repository::invalidate_all(&self.inner) }
/// pub fn write_tagged<T: Send>(
///     &self,
///     tags: impl IntoIterator<Item = impl Into<String>> + Send,
///     write: impl for<'c> FnOnce(&'c mut <DB as Database>::Connection) -> WriteFuture<'c, T> + Send,
/// ) -> impl Future<Output = Result<T, Error>> + Send { .. }
/// pub fn invalidate_country<V: AsId<String>>(&self, country: V) -> V::Operation<impl Future<Output = Result<(), Error>>> {
///     Repository::invalidate_tag(&self.inner, __cached_tag_1(&AsId::<String>::as_id(&country)))
/// }
/// ```
///
/// `is_faulty`: the entity has a mistake, and the methods are never run.
pub(super) fn methods(
    entity: &Ident,
    private: &TokenStream,
    database: &Ident,
    tags: &[Tag],
    writes: Writes,
    is_faulty: bool,
) -> Option<TokenStream> {
    if tags.is_empty() {
        return None;
    }
    let name = entity.unraw();
    let known: Vec<_> = tags
        .iter()
        .map(|tag| format!("`{}`", tag.shown()))
        .collect();
    let wrong = "Fails with the kind `Configuration` if no row can have the tag.";
    let one = docs(
        &format!(
            "Invalidates each cached `{name}` with this tag, in one round trip, however many they are. When it returns, no process \
             serves them any more. The tags are {}.",
            known.join(", ")
        ),
        &format!("{wrong} {FAILS}"),
        CANCEL,
    );
    let many = docs(
        &format!(
            "Invalidates each cached `{name}` with one of these tags, as `invalidate_tag` does, in one round trip."
        ),
        &format!("{wrong} Nothing is invalidated then. {FAILS}"),
        CANCEL,
    );
    let future = quote! {
        impl ::core::future::Future<Output = ::core::result::Result<(), #private::Error>> + ::core::marker::Send
    };
    let body = |inner: &str, argument: &TokenStream| {
        let inner = format_ident!("{inner}");
        match is_faulty {
            true => quote!(async move { ::core::panic!("this entity has a mistake") }),
            false => quote!(#private::Repository::#inner(&self.inner, #argument)),
        }
    };
    let typed = tags.iter().enumerate().map(|(number, tag)| {
        let docs = docs(
            &format!(
                "Invalidates each cached `{name}` with the tag `{}`, in one round trip, however many they are. When it returns, no \
                 process serves them any more.",
                tag.shown()
            ),
            FAILS,
            CANCEL,
        );
        let method = tag.method();
        let text = text(number);
        if is_faulty {
            let parameters = tag.fields.iter().map(|TagField { ident, .. }| {
                quote!(#ident: impl ::core::any::Any)
            });
            return quote! {
                #[doc = #docs]
                pub fn #method(&self #(, #parameters)*) -> #future {
                    async move { ::core::panic!("this entity has a mistake") }
                }
            };
        }
        let values = tag.fields.iter().map(|TagField { ident, ty, .. }| {
            quote!(&#private::AsId::<#ty>::as_id(&#ident))
        });
        let types = tag.fields.iter().map(|field| &field.ty);
        let mentioned = quote!(#entity #private #database #(#types)*);
        let mut future = future.clone();
        let mut body = body("invalidate_tag", &quote!(#text(#(#values),*)));
        let (mut generics, mut parameters) = (Vec::new(), Vec::new());
        // The future depends on the types of the values, so that rustc reports a wrong one once, as in a lookup.
        for (number, TagField { ident, ty, .. }) in tag.fields.iter().enumerate() {
            let plain = match &tag.fields[..] {
                [_] => "V".to_owned(),
                _ => format!("V{}", number + 1),
            };
            let given = names::free(&plain, &mentioned);
            future = quote!(<#given as #private::AsId<#ty>>::Operation<#future>);
            body = quote! {
                <<#given as #private::AsId<#ty>>::Operation<_> as ::core::convert::From<_>>::from(#body)
            };
            parameters.push(quote!(#ident: #given));
            generics.push(quote!(#given: #private::AsId<#ty>));
        }
        quote! {
            #[doc = #docs]
            pub fn #method<#(#generics),*>(&self #(, #parameters)*) -> #future {
                #body
            }
        }
    });
    let (of_one, of_many, of_all) = (
        body("invalidate_tag", &quote!(tag)),
        body("invalidate_tags", &quote!(tags)),
        body("invalidate_all", &quote!()),
    );
    let bump = docs(
        &format!(
            "Begins a new version of every `{name}`: nothing that is cached so far is served any more, in any process. It is \
             `invalidate_all` under a name that only entities with tags have, so it is one round trip and never a scan."
        ),
        FAILS,
        CANCEL,
    );
    let string = quote!(impl ::core::convert::Into<::std::string::String>);
    let write = (writes != Writes::Nowhere).then(|| {
        let docs = docs(
            &format!(
                "Runs statements of your own that change each `{name}` with one of these tags, in a transaction, and returns what \
                 they return. Name the tags that the rows have before the change as well as those that they get. From before the \
                 commit until after it, readers of these rows, of absences and of lists go to the database, and nothing of it is \
                 cached, so nothing has to be invalidated afterwards."
            ),
            &format!(
                "{wrong} Nothing is changed then. Fails with the error of the statements, which are rolled back, and as the commit of a \
                 transaction does."
            ),
            "If the future is dropped, the transaction is rolled back, unless its commit has begun: that runs to its end.",
        );
        let body = body("write_tagged", &quote!(tags, write));
        let value = names::free("T", &quote!(#entity #private #database));
        quote! {
            #[doc = #docs]
            pub fn write_tagged<#value: ::core::marker::Send>(
                &self,
                tags: impl ::core::iter::IntoIterator<Item = #string> + ::core::marker::Send,
                write: impl for<'c> ::core::ops::FnOnce(
                    &'c mut <#database as #private::Database>::Connection,
                ) -> #private::WriteFuture<'c, #value> + ::core::marker::Send,
            ) -> impl ::core::future::Future<Output = ::core::result::Result<#value, #private::Error>> + ::core::marker::Send {
                #body
            }
        }
    });
    Some(quote! {
        #[doc = #one]
        pub fn invalidate_tag(&self, tag: #string) -> #future {
            #of_one
        }

        #[doc = #many]
        pub fn invalidate_tags(
            &self,
            tags: impl ::core::iter::IntoIterator<Item = #string>,
        ) -> #future {
            #of_many
        }

        #[doc = #bump]
        pub fn bump(&self) -> #future {
            #of_all
        }

        #write

        #(#typed)*
    })
}
