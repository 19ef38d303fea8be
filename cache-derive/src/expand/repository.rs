//! The repository of an entity: a type of its own, so that its methods can be documented in the entity's words and a
//! signature can say `FlightRepository<Postgres>`.
//!
//! Invariant: every method is one call of a method on the inner repository of the runtime, almost always of the same name.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{Visibility, ext::IdentExt};

use super::{
    entity, groups, lookups,
    method::{Method, Parameter, Writes},
    methods, names, queued, relations, tags,
};
use crate::{
    ast::Input,
    model::{Entity, LookupField, Table, Tag, lookup_suffix},
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
    let name = entity.repository.as_ref();
    let own = entity.lookups.len();
    let lookups = entity.found_by().enumerate();
    let lookups = lookups.map(|(place, lookup)| RepositoryLookup {
        is_unique: lookup.is_unique,
        is_of_tag: place >= own,
        suffix: lookup.method_suffix(),
        idents: lookup
            .fields
            .iter()
            .map(|field| field.ident.clone())
            .collect(),
        fields: Some(&lookup.fields),
    });
    let mut repository = Repository::new(
        ident,
        name,
        &entity.visibility,
        paths.private(),
        Some(id),
        writes,
    );
    repository.lookups = lookups.collect();
    repository.relations = entity
        .relations
        .iter()
        .map(|relation| relations::method(ident, &repository.private, relation, false))
        .collect();
    repository.tag(&entity.tags, false);
    repository.answer(entity.has_queries, false);
    repository.items()
}

/// The repository of an entity with a mistake: the same names, and bodies that are never run.
pub(super) fn of_faulty(input: &Input) -> Items {
    let private = validate::paths(&input.settings).private();
    let name = validate::repository(input);
    let versioned = is_versioned(input);
    let writes = Writes::Unknown { versioned };
    let mut repository =
        Repository::new(&input.ident, name, &input.visibility, private, None, writes);
    let lookups = validate::lookups(input).into_iter();
    repository.lookups = lookups
        .map(|(is_unique, idents)| RepositoryLookup {
            is_unique,
            is_of_tag: false,
            suffix: lookup_suffix(idents.iter()),
            idents,
            fields: None,
        })
        .collect();
    for finder in validate::finders(input) {
        let suffix = finder.method_suffix();
        let mut others = repository.lookups.iter();
        if others.all(|other| other.is_unique || other.suffix != suffix) {
            repository.lookups.push(RepositoryLookup {
                is_unique: false,
                is_of_tag: true,
                suffix,
                idents: finder.fields.into_iter().map(|field| field.ident).collect(),
                fields: None,
            });
        }
    }
    let relations = validate::relations(input);
    repository.relations = relations
        .iter()
        .map(|relation| relations::method(&input.ident, &repository.private, relation, true))
        .collect();
    repository.tag(&validate::tags(input), true);
    repository.answer(input.settings.names("queries"), true);
    repository.items()
}

/// Whether rows are deleted in their version, as far as an input with a mistake says. With a queue the version is the
/// mistake, and rows are deleted by their ids.
pub(super) fn is_versioned(input: &Input) -> bool {
    let mut fields = input.fields().iter();
    !validate::queues(&input.settings) && fields.any(|field| field.settings.names("version"))
}

struct Repository<'a> {
    entity: &'a Ident,
    ident: Ident,
    visibility: &'a Visibility,
    private: TokenStream,
    /// The type parameter for the database.
    database: Ident,
    /// The type parameter for what is passed as an id.
    any_id: Ident,
    /// The type parameter for what a change of a row returns.
    any_result: Ident,
    /// The type of the id; `None` after an error.
    id: Option<TokenStream>,
    writes: Writes,
    lookups: Vec<RepositoryLookup<'a>>,
    /// The methods of relations.
    relations: Vec<TokenStream>,
    /// The methods of tags.
    tags: Option<TokenStream>,
    /// The parameters of these methods.
    tag_parameters: Vec<Ident>,
    /// The method of queries, and the impl that says that they may depend on the repository.
    queries: Option<(TokenStream, TokenStream)>,
}

/// A lookup that the repository has methods for.
struct RepositoryLookup<'a> {
    is_unique: bool,
    /// Whether its values are those of a tag.
    is_of_tag: bool,
    suffix: String,
    idents: Vec<Ident>,
    /// `None` after an error.
    fields: Option<&'a [LookupField]>,
}

impl<'a> Repository<'a> {
    fn new(
        entity: &'a Ident,
        name: Option<&Ident>,
        visibility: &'a Visibility,
        private: TokenStream,
        id: Option<TokenStream>,
        writes: Writes,
    ) -> Self {
        // Seen where the user named it, but resolved as generated code, so that lints do not blame the user for it.
        let span = Span::call_site().located_at(name.unwrap_or(entity).span());
        let mut ident = match name {
            Some(name) => name.clone(),
            None => format_ident!("{}Repository", entity.unraw()),
        };
        ident.set_span(span);
        let tokens = quote!(#entity #ident #visibility #private #id);
        Self {
            entity,
            ident,
            visibility,
            database: names::free("DB", &tokens),
            any_id: names::free("Id", &tokens),
            any_result: names::free("R", &tokens),
            private,
            id,
            writes,
            lookups: Vec::new(),
            relations: Vec::new(),
            tags: None,
            tag_parameters: Vec::new(),
            queries: None,
        }
    }

    fn tag(&mut self, tags: &[Tag], is_faulty: bool) {
        self.tags = tags::methods(
            self.entity,
            &self.private,
            &self.database,
            tags,
            self.writes,
            is_faulty,
        );
        if tags.is_empty() {
            return;
        }
        let fields = tags.iter().flat_map(|tag| &tag.fields);
        let fields = fields.map(|field| field.ident.clone());
        let own = tags::PARAMETERS.map(|name| Ident::new(name, Span::call_site()));
        self.tag_parameters = fields.chain(own).collect();
    }

    fn answer(&mut self, has_queries: bool, is_faulty: bool) {
        self.queries = has_queries.then(|| {
            let (private, database) = (&self.private, &self.database);
            let method = groups::method(self.entity, private, database, is_faulty);
            (method, groups::dependency(&self.ident, private, database))
        });
        if has_queries {
            let own = groups::PARAMETERS.map(|name| Ident::new(name, Span::call_site()));
            self.tag_parameters.extend(own);
        }
    }

    fn items(&self) -> Items {
        let fields = self.lookups.iter().flat_map(|lookup| lookup.idents.clone());
        let fields = fields.chain(self.tag_parameters.clone());
        let shadows = names::shadows(&self.private, &fields.collect::<Vec<_>>());
        let (traits, constructors, methods) = (self.traits(), self.constructors(), self.methods());
        let (type_item, within_type, within_impls) =
            (self.type_item(), self.within_type(), self.within_impls());
        Items {
            type_item: quote!(#type_item #within_type),
            impls: quote! {
                const _: () = {
                    #shadows
                    #traits
                    #constructors
                    #methods
                    #within_impls
                };
            },
        }
    }

    /// ```text
    /// /// The cached rows of [`Flight`].
    /// pub struct FlightRepository<DB: Backend> {
    ///     inner: Repository<Flight, DB>,
    /// }
    /// ```
    fn type_item(&self) -> TokenStream {
        let Self {
            entity,
            ident,
            visibility,
            private,
            database,
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
            #visibility struct #ident<#database: #private::Backend> {
                inner: #private::Repository<#entity, #database>,
            }
        }
    }

    /// Written out, because a derive would ask for `DB: Clone`.
    fn traits(&self) -> TokenStream {
        let Self {
            ident,
            private,
            database,
            ..
        } = self;
        let name = ident.unraw().to_string();
        let entity = self.entity;
        let (id, find_each) = match &self.id {
            Some(id) => (
                id.clone(),
                quote!(#private::Repository::find_each(&repository.inner, ids)),
            ),
            None => (
                quote!(()),
                quote!(async move { ::core::panic!("this entity has a mistake") }),
            ),
        };
        quote! {
            #[automatically_derived]
            impl #private::HasRepository for #entity {
                type Id = #id;
                type Repository<#database: #private::Backend> = #ident<#database>;
                fn find_each<#database: #private::Backend>(
                    repository: &Self::Repository<#database>,
                    ids: ::std::vec::Vec<::core::option::Option<Self::Id>>,
                ) -> impl ::core::future::Future<
                    Output = ::core::result::Result<
                        ::std::vec::Vec<::core::option::Option<::std::sync::Arc<Self>>>,
                        #private::Error,
                    >,
                > + ::core::marker::Send {
                    #find_each
                }
                fn id_of(column: &Self::Id) -> Self::Id {
                    ::core::clone::Clone::clone(column)
                }
            }
            #[automatically_derived]
            impl<#database: #private::Backend> ::core::clone::Clone for #ident<#database> {
                fn clone(&self) -> Self {
                    Self { inner: ::core::clone::Clone::clone(&self.inner) }
                }
            }
            #[automatically_derived]
            impl<#database: #private::Backend> ::core::fmt::Debug for #ident<#database> {
                fn fmt(&self, __cached_formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    ::core::fmt::DebugStruct::finish_non_exhaustive(
                        &mut ::core::fmt::Formatter::debug_struct(__cached_formatter, #name),
                    )
                }
            }
        }
    }

    /// ```text
    /// impl Flight {
    ///     pub fn repository<DB: Backend>(cache: &Cache, pool: Pool<DB>) -> FlightRepository<DB> {
    ///         const { check::<Flight, DB>() };
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
            database,
            id,
            ..
        } = self;
        let name = entity.unraw();
        let check = id
            .as_ref()
            .map(|_| quote!(const { #private::check::<#entity, #database>() };));
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
                pub fn repository<#database: #private::Backend>(
                    cache: &#private::Cache,
                    pool: #private::Pool<#database>,
                ) -> #ident<#database> {
                    #check
                    #ident { inner: #private::Repository::new(cache, pool) }
                }
                #[doc = #try_docs]
                pub fn try_repository<#database: #private::Backend>(
                    cache: &#private::Cache,
                    pool: #private::Pool<#database>,
                ) -> ::core::result::Result<#ident<#database>, #private::Error> {
                    #check
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
            database,
            any_id,
            ..
        } = self;
        let methods = methods::methods(entity, private, any_id, &self.any_result, self.writes);
        let methods = methods.iter().map(|method| self.method(method));
        let lookups = self.lookups(lookups::Place::Repository);
        let (relations, tags) = (&self.relations, &self.tags);
        let queries = self.queries.as_ref().map(|(method, _)| method);
        let dependency = self.queries.as_ref().map(|(_, dependency)| dependency);
        let within = self.within();
        let dead_letters = self.dead_letters();
        quote! {
            impl<#database: #private::Backend> #ident<#database> {
                #(#methods)*

                #lookups

                #(#relations)*

                #tags

                #queries

                #within
                #dead_letters

                /// Compares cached rows with the database, as `Repository::audit` of the runtime does.
                pub async fn audit(
                    &self,
                    options: #private::AuditOptions,
                ) -> ::core::result::Result<#private::Audit, #private::Error> {
                    #private::Repository::audit(&self.inner, options).await
                }

                /// Returns the counters of this entity since the repository was created.
                #[must_use]
                pub fn stats(&self) -> #private::Stats {
                    #private::Repository::stats(&self.inner)
                }

                /// Reads rows of this entity from the database from now on, and stores none. Writes go on to announce what they
                /// change, so that `resume_reads` is safe at any time. It holds for this process.
                pub fn pause_reads(&self) {
                    #private::Repository::pause_reads(&self.inner);
                }

                /// Ends what `pause_reads` began.
                pub fn resume_reads(&self) {
                    #private::Repository::resume_reads(&self.inner);
                }

                /// Serves what is cached of this entity, and stores nothing new. It holds for this process.
                pub fn pause_fills(&self) {
                    #private::Repository::pause_fills(&self.inner);
                }

                /// Ends what `pause_fills` began.
                pub fn resume_fills(&self) {
                    #private::Repository::resume_fills(&self.inner);
                }

                /// Returns the pool that rows are read and written through.
                #[must_use]
                pub fn pool(&self) -> &#private::Pool<#database> {
                    #private::Repository::pool(&self.inner)
                }

                /// Returns the repository of the runtime, for code that is generic over the entity.
                #[must_use]
                pub fn inner(&self) -> &#private::Repository<#entity, #database> {
                    &self.inner
                }
            }

            #dependency
        }
    }

    /// The methods of the lookups.
    fn lookups(&self, reads: lookups::Place) -> TokenStream {
        let lookups = self.lookups.iter().enumerate().map(|(place, lookup)| {
            let methods = lookups::Methods {
                reads,
                entity: self.entity,
                private: &self.private,
                database: &self.database,
                place,
                is_unique: lookup.is_unique,
                is_of_tag: lookup.is_of_tag,
                writes: self.writes,
                suffix: lookup.suffix.clone(),
                idents: lookup.idents.clone(),
                fields: lookup.fields,
            };
            methods.tokens()
        });
        quote!(#(#lookups)*)
    }

    /// The type of the operations inside a transaction: a type of the entity's own if it has lookups.
    fn within_ident(&self) -> Option<Ident> {
        let has_own = !self.lookups.is_empty() && self.within_docs().is_some();
        has_own.then(|| format_ident!("{}Within", self.ident, span = self.ident.span()))
    }

    fn within_docs(&self) -> Option<String> {
        methods::within(&self.entity.unraw().to_string(), self.writes)
    }

    fn within(&self) -> Option<TokenStream> {
        let Self {
            entity,
            private,
            database,
            ..
        } = self;
        let docs = self.within_docs()?;
        let body = self.body("within", &quote!(transaction));
        let (ty, body) = match (self.within_ident(), &self.id) {
            (Some(own), Some(_)) => (
                quote!(#own<'t, 'c, #database>),
                quote!(#own { inner: #body }),
            ),
            (Some(own), None) => (quote!(#own<'t, 'c, #database>), body),
            (None, _) => (quote!(#private::Within<'t, 'c, #entity, #database>), body),
        };
        Some(quote! {
            #[doc = #docs]
            pub fn within<'t, 'c>(
                &'t self,
                transaction: &'t mut #private::Transaction<'c, #database>,
            ) -> #ty {
                #body
            }
        })
    }

    /// ```text
    /// /// The operations of a [`UserRepository`] inside a transaction.
    /// pub struct UserRepositoryWithin<'t, 'c, DB: Backend> {
    ///     inner: Within<'t, 'c, User, DB>,
    /// }
    /// ```
    fn within_type(&self) -> Option<TokenStream> {
        let Self {
            entity,
            visibility,
            private,
            database,
            ..
        } = self;
        let ident = self.within_ident()?;
        let docs = format!(
            "The rows of [`{}`], read and written inside a transaction. It has all operations of `larder::Within`, and the \
             lookups.",
            entity.unraw()
        );
        Some(quote! {
            #[doc = #docs]
            #visibility struct #ident<'t, 'c, #database: #private::Backend> {
                inner: #private::Within<'t, 'c, #entity, #database>,
            }
        })
    }

    /// Besides the lookups it has the operations of every entity.
    fn within_impls(&self) -> Option<TokenStream> {
        let Self {
            entity,
            private,
            database,
            ..
        } = self;
        let ident = self.within_ident()?;
        let name = ident.unraw().to_string();
        let lookups = self.lookups(lookups::Place::Within);
        Some(quote! {
            #[automatically_derived]
            impl<#database: #private::Backend> ::core::fmt::Debug for #ident<'_, '_, #database> {
                fn fmt(&self, __cached_formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    ::core::fmt::DebugStruct::finish_non_exhaustive(
                        &mut ::core::fmt::Formatter::debug_struct(__cached_formatter, #name),
                    )
                }
            }
            #[automatically_derived]
            impl<'t, 'c, #database: #private::Backend> ::core::ops::Deref for #ident<'t, 'c, #database> {
                type Target = #private::Within<'t, 'c, #entity, #database>;
                fn deref(&self) -> &Self::Target {
                    &self.inner
                }
            }
            #[automatically_derived]
            impl<#database: #private::Backend> ::core::ops::DerefMut for #ident<'_, '_, #database> {
                fn deref_mut(&mut self) -> &mut Self::Target {
                    &mut self.inner
                }
            }
            impl<'c, #database: #private::Backend> #ident<'_, 'c, #database> {
                #lookups
            }
        })
    }

    fn dead_letters(&self) -> Option<TokenStream> {
        let Self {
            entity,
            private,
            database,
            ..
        } = self;
        let docs = queued::dead_letters(&entity.unraw().to_string(), self.writes)?;
        let body = self.body("dead_letters", &TokenStream::new());
        Some(quote! {
            #[doc = #docs]
            #[must_use]
            pub fn dead_letters(&self) -> #private::DeadLetters<#entity, #database> {
                #body
            }
        })
    }

    /// The call of a method of the runtime, by its path: a trait in the user's scope may have a method of the same name.
    fn body(&self, method: &str, arguments: &TokenStream) -> TokenStream {
        let private = &self.private;
        let method = Ident::new(method, Span::call_site());
        match &self.id {
            Some(_) => quote!(#private::Repository::#method(&self.inner, #arguments)),
            None => quote!(::core::panic!("this entity has a mistake")),
        }
    }

    /// ```text
    /// pub fn exists<Id: AsId<i64>>(
    ///     &self,
    ///     id: Id,
    /// ) -> Id::Operation<impl Future<Output = Result<bool, Error>>> {
    ///     Repository::exists(&self.inner, id)
    /// }
    /// ```
    ///
    /// A read that has options returns `Id::Operation<Find<'_, Flight, DB, Id, impl Future<..>>>`.
    ///
    /// Not an `async fn`: that would be one more state machine per method and entity for the compiler to check.
    fn method(&self, method: &Method) -> TokenStream {
        let Self {
            entity,
            private,
            database,
            any_id,
            any_result,
            ..
        } = self;
        let name = Ident::new(method.name, Span::call_site());
        let returns = &method.returns;
        let docs = &method.docs;
        let change =
            quote!(impl ::core::ops::FnMut(&mut #entity) -> #any_result + ::core::marker::Send);
        let (parameters, arguments) = match (&method.parameter, &self.id) {
            (Parameter::Nothing, _) => (quote!(), quote!()),
            (Parameter::Row, _) => (quote!(row: &#entity), quote!(row)),
            (Parameter::Rows, _) => (quote!(rows: &[#entity]), quote!(rows)),
            (Parameter::Ids, Some(id)) => (quote!(ids: &[#id]), quote!(ids)),
            (Parameter::MapIds, _) => (quote!(ids: &[#any_id]), quote!(ids)),
            (Parameter::Id | Parameter::IdAndOptions, _) | (Parameter::Ids, None) => {
                (quote!(id: #any_id), quote!(id))
            }
            (Parameter::Change, _) => (quote!(id: #any_id, change: #change), quote!(id, change)),
            (Parameter::RowChange, _) => {
                (quote!(row: &#entity, change: #change), quote!(row, change))
            }
            (Parameter::Query, _) => {
                let connection = quote!(<#database as #private::Database>::Connection);
                let future = quote!(#private::QueryFuture<'c, #entity>);
                let query = quote! {
                    impl for<'c> ::core::ops::FnOnce(&'c mut #connection) -> #future + ::core::marker::Send + 'static
                };
                (quote!(query: #query), quote!(query))
            }
        };
        let future = quote! {
            impl ::core::future::Future<Output = ::core::result::Result<#returns, #private::Error>>
        };
        let takes_id = matches!(
            method.parameter,
            Parameter::Id | Parameter::IdAndOptions | Parameter::Change
        );
        let result = quote!(#any_result: #private::ChangeResult);
        let (generics, future) = match &self.id {
            Some(id) if matches!(method.parameter, Parameter::Change) => (
                quote!(<#any_id: #private::AsId<#id>, #result>),
                quote!(#any_id::Operation<#future>),
            ),
            None if matches!(method.parameter, Parameter::Change) => {
                (quote!(<#any_id, #result>), future)
            }
            _ if matches!(method.parameter, Parameter::RowChange) => {
                (quote!(<#result<Value = ()>>), future)
            }
            Some(id) if matches!(method.parameter, Parameter::IdAndOptions) => (
                quote!(<#any_id: #private::AsId<#id>>),
                quote!(#any_id::Operation<#private::Find<'_, #entity, #database, #any_id, #future>>),
            ),
            Some(id) if takes_id => (
                quote!(<#any_id: #private::AsId<#id>>),
                quote!(#any_id::Operation<#future>),
            ),
            Some(id) if matches!(method.parameter, Parameter::MapIds) => (
                quote!(<#any_id: #private::AsId<#id> + ::core::clone::Clone + ::core::cmp::Eq + ::core::hash::Hash>),
                future,
            ),
            None if takes_id || matches!(method.parameter, Parameter::Ids | Parameter::MapIds) => {
                (quote!(<#any_id>), future)
            }
            _ => (quote!(), future),
        };
        let body = self.body(method.inner, &arguments);
        let body = match &self.id {
            Some(_) => body,
            None => quote!(async move { #body }),
        };
        quote! {
            #[doc = #docs]
            pub fn #name #generics(
                &self,
                #parameters
            ) -> #future {
                #body
            }
        }
    }
}
