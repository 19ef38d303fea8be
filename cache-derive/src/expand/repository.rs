//! The repository of an entity: a type of its own, so that its methods can be documented in the entity's words and a
//! signature can say `FlightRepository<Postgres>`.
//!
//! Invariant: every method is one call of a method on the inner repository of the runtime, almost always of the same name.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{Visibility, ext::IdentExt};

use super::{
    entity,
    method::{Method, Parameter, Writes},
    methods, queued,
};
use crate::{
    ast::Input,
    model::{Entity, Table},
    validate,
};

/// What is generated around a repository.
pub(super) struct Items {
    /// The type, which users name.
    pub(super) type_item: TokenStream,
    /// Everything that is implemented for it, and its constructors on the entity.
    pub(super) impls: TokenStream,
}

/// The repository of a correct entity.
pub(super) fn of_entity(entity: &Entity) -> Items {
    let id = entity::id_type(&entity.id);
    let Table { ident, paths, .. } = &entity.table;
    let writes = if entity.is_read_only {
        Writes::Nowhere
    } else if entity.policy.queues() {
        Writes::Queue
    } else {
        Writes::Database {
            versioned: entity.is_versioned(),
        }
    };
    let repository = Repository::new(ident, paths.private(), Some(id), writes);
    repository.items(&entity.visibility)
}

/// The repository of an entity with a mistake: the same names, and bodies that are never run.
pub(super) fn of_faulty(input: &Input) -> Items {
    let private = validate::paths(&input.settings).private();
    let mut fields = input.fields().iter();
    // With a queue the version is the mistake, and rows are deleted by their ids.
    let versioned =
        !validate::queues(&input.settings) && fields.any(|field| field.settings.names("version"));
    let writes = Writes::Unknown { versioned };
    Repository::new(&input.ident, private, None, writes).items(&input.visibility)
}

struct Repository<'a> {
    entity: &'a Ident,
    ident: Ident,
    private: TokenStream,
    /// The type of the id; `None` after an error.
    id: Option<TokenStream>,
    writes: Writes,
}

impl<'a> Repository<'a> {
    fn new(
        entity: &'a Ident,
        private: TokenStream,
        id: Option<TokenStream>,
        writes: Writes,
    ) -> Self {
        // Seen where the struct is, but resolved as generated code, so that lints do not blame the user for it.
        let span = Span::call_site().located_at(entity.span());
        Self {
            entity,
            ident: format_ident!("{}Repository", entity.unraw(), span = span),
            private,
            id,
            writes,
        }
    }

    fn items(&self, visibility: &Visibility) -> Items {
        Items {
            type_item: self.type_item(visibility),
            impls: [self.traits(), self.constructors(), self.methods()]
                .into_iter()
                .collect(),
        }
    }

    /// ```text
    /// /// The cached rows of [`Flight`].
    /// pub struct FlightRepository<DB: Backend> {
    ///     inner: Repository<Flight, DB>,
    /// }
    /// ```
    fn type_item(&self, visibility: &Visibility) -> TokenStream {
        let Self {
            entity,
            ident,
            private,
            ..
        } = self;
        let docs = [
            format!(
                "The cached rows of [`{}`], read and written through one database pool.",
                entity.unraw()
            ),
            "Cloning is cheap. Clones share the cache and the pool.".to_owned(),
        ]
        .join("\n\n");
        quote! {
            #[doc = #docs]
            #visibility struct #ident<DB: #private::Backend> {
                inner: #private::Repository<#entity, DB>,
            }
        }
    }

    /// Written out, because a derive would ask for `DB: Clone`.
    fn traits(&self) -> TokenStream {
        let Self { ident, private, .. } = self;
        let name = ident.to_string();
        quote! {
            #[automatically_derived]
            impl<DB: #private::Backend> ::core::clone::Clone for #ident<DB> {
                fn clone(&self) -> Self {
                    Self { inner: ::core::clone::Clone::clone(&self.inner) }
                }
            }
            #[automatically_derived]
            impl<DB: #private::Backend> ::core::fmt::Debug for #ident<DB> {
                fn fmt(&self, __cached_formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    __cached_formatter.debug_struct(#name).finish_non_exhaustive()
                }
            }
        }
    }

    /// ```text
    /// impl Flight {
    ///     pub fn repository<DB: Backend>(cache: &Cache, pool: Pool<DB>) -> FlightRepository<DB> {
    ///         const { assert!(fits::<Flight, DB>(), "..") };
    ///         FlightRepository { inner: Repository::new(cache, pool) }
    ///     }
    ///     pub fn try_repository<DB: Backend>(..) -> Result<FlightRepository<DB>, Error> { .. }
    /// }
    /// ```
    fn constructors(&self) -> TokenStream {
        let Self {
            entity,
            ident,
            private,
            id,
            ..
        } = self;
        let name = entity.unraw();
        let fits = id.as_ref().map(|_| {
            let message =
                format!("a column of `{entity}` has a type that this database cannot store");
            quote!(const { ::core::assert!(#private::fits::<#entity, DB>(), #message) };)
        });
        let docs = [
            format!("Returns the repository that caches rows of `{name}` in `cache` and reads and writes them through `pool`."),
            "# Panics".to_owned(),
            "Panics if the entity, the cache and the database cannot work together, so that the mistake is found at start-up. \
             `try_repository` returns it as an error instead."
                .to_owned(),
        ]
        .join("\n\n");
        let try_docs = [
            format!("As `repository` of `{name}`, but returns an error instead of panicking."),
            "# Errors".to_owned(),
            "Fails with the kind `Configuration` if the entity, the cache and the database cannot work together.".to_owned(),
        ]
        .join("\n\n");
        quote! {
            impl #entity {
                #[doc = #docs]
                #[must_use]
                #[track_caller]
                pub fn repository<DB: #private::Backend>(cache: &#private::Cache, pool: #private::Pool<DB>) -> #ident<DB> {
                    #fits
                    #ident { inner: #private::Repository::new(cache, pool) }
                }
                #[doc = #try_docs]
                pub fn try_repository<DB: #private::Backend>(
                    cache: &#private::Cache,
                    pool: #private::Pool<DB>,
                ) -> ::core::result::Result<#ident<DB>, #private::Error> {
                    #fits
                    ::core::result::Result::Ok(#ident { inner: #private::Repository::try_new(cache, pool)? })
                }
            }
        }
    }

    fn methods(&self) -> TokenStream {
        let Self {
            entity,
            ident,
            private,
            ..
        } = self;
        let methods = methods::methods(entity, private, self.writes);
        let methods = methods.iter().map(|method| self.method(method));
        let within = self.within();
        let dead_letters = self.dead_letters();
        quote! {
            impl<DB: #private::Backend> #ident<DB> {
                #(#methods)*

                #within
                #dead_letters

                /// Returns the counters of this entity since the repository was created.
                #[must_use]
                pub fn stats(&self) -> #private::Stats {
                    self.inner.stats()
                }

                /// Returns the pool that rows are read and written through.
                #[must_use]
                pub fn pool(&self) -> &#private::Pool<DB> {
                    self.inner.pool()
                }

                /// Returns the repository of the runtime, for code that is generic over the entity.
                #[must_use]
                pub fn inner(&self) -> &#private::Repository<#entity, DB> {
                    &self.inner
                }
            }
        }
    }

    fn within(&self) -> Option<TokenStream> {
        let Self {
            entity, private, ..
        } = self;
        let docs = methods::within(&entity.unraw().to_string(), self.writes)?;
        Some(quote! {
            #[doc = #docs]
            pub fn within<'t, 'c>(
                &'t self,
                transaction: &'t mut #private::Transaction<'c, DB>,
            ) -> #private::Within<'t, 'c, #entity, DB> {
                self.inner.within(transaction)
            }
        })
    }

    fn dead_letters(&self) -> Option<TokenStream> {
        let Self {
            entity, private, ..
        } = self;
        let docs = queued::dead_letters(&entity.unraw().to_string(), self.writes)?;
        Some(quote! {
            #[doc = #docs]
            #[must_use]
            pub fn dead_letters(&self) -> #private::DeadLetters<#entity, DB> {
                self.inner.dead_letters()
            }
        })
    }

    /// ```text
    /// pub fn find(&self, id: impl AsId<i64>) -> impl Future<Output = Result<Option<Arc<Flight>>, Error>> {
    ///     self.inner.find(id)
    /// }
    /// ```
    ///
    /// Not an `async fn`: that would be one more state machine per method and entity for the compiler to check.
    fn method(&self, method: &Method) -> TokenStream {
        let Self {
            entity, private, ..
        } = self;
        let name = Ident::new(method.name, Span::call_site());
        let returns = &method.returns;
        let docs = &method.docs;
        let any_id = match &self.id {
            Some(id) => quote!(impl #private::AsId<#id>),
            None => quote!(impl ::core::marker::Sized),
        };
        let (parameters, arguments) = match (&method.parameter, &self.id) {
            (Parameter::Nothing, _) => (quote!(), quote!()),
            (Parameter::Row, _) => (quote!(row: &#entity), quote!(row)),
            (Parameter::Rows, _) => (quote!(rows: &[#entity]), quote!(rows)),
            (Parameter::Ids, Some(id)) => (quote!(ids: &[#id]), quote!(ids)),
            (Parameter::Id, _) | (Parameter::Ids, None) => (quote!(id: #any_id), quote!(id)),
            (Parameter::Change, _) => {
                let change = quote!(impl ::core::ops::FnMut(&mut #entity) + ::core::marker::Send);
                (quote!(id: #any_id, change: #change), quote!(id, change))
            }
        };
        let inner = Ident::new(method.inner, Span::call_site());
        let body = match &self.id {
            Some(_) => quote!(self.inner.#inner(#arguments)),
            None => quote!(async move { ::core::panic!("this entity has a mistake") }),
        };
        quote! {
            #[doc = #docs]
            pub fn #name(
                &self,
                #parameters
            ) -> impl ::core::future::Future<Output = ::core::result::Result<#returns, #private::Error>> {
                #body
            }
        }
    }
}
