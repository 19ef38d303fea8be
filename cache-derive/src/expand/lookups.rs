//! Lookups: what the entity says about them, how their values are bound, and their methods.
//!
//! Invariant: every method is one call of a method on the inner repository of the runtime, with the place of the lookup and a
//! tuple of its values.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{Index, ext::IdentExt};

use super::{
    method::{Writes, docs},
    names,
};
use crate::model::{Entity, Lookup, LookupField};

/// How many ids of a list are cached, unless `max` says otherwise.
const DEFAULT_MAX: u32 = 1_000;

/// ```text
/// .with_lookups(&[LookupSpec::unique("email", &["email"])])
/// ```
pub(super) fn specs(private: &TokenStream, lookups: &[Lookup]) -> Option<TokenStream> {
    let specs = lookups.iter().map(|lookup| {
        let name = lookup.key_name();
        let columns = lookup.fields.iter().map(|field| &field.column);
        let folded = lookup.folds.then(|| quote!(.folded()));
        if lookup.is_unique {
            return quote!(#private::LookupSpec::unique(#name, &[#(#columns),*]) #folded);
        }
        let order = lookup
            .order_by
            .iter()
            .map(|(column, descends)| quote!((#column, #descends)));
        let max = lookup.max.unwrap_or(DEFAULT_MAX);
        quote!(#private::LookupSpec::index(#name, &[#(#columns),*], &[#(#order),*], #max) #folded)
    });
    (!lookups.is_empty()).then(|| quote!(.with_lookups(&[#(#specs),*])))
}

/// ```text
/// .with_finders(&[LookupSpec::index("country", &["country"], &[], 0u32)])
/// ```
pub(super) fn finders(private: &TokenStream, finders: &[Lookup]) -> Option<TokenStream> {
    let specs = finders.iter().map(|finder| {
        let name = finder.key_name();
        let columns = finder.fields.iter().map(|field| &field.column);
        quote!(#private::LookupSpec::index(#name, &[#(#columns),*], &[], 0u32))
    });
    (!finders.is_empty()).then(|| quote!(.with_finders(&[#(#specs),*])))
}

/// ```text
/// fn lookup_keys(&self, __cached_keys: &mut LookupKeys<'_>) {
///     __cached_keys.add(0usize, || Some((&self.tenant, Option::as_ref(&self.email)?,)));
/// }
/// ```
pub(super) fn keys(private: &TokenStream, lookups: &[Lookup]) -> Option<TokenStream> {
    let adds = lookups.iter().enumerate().map(|(place, lookup)| {
        let values = lookup.fields.iter().map(|field| {
            let ident = &field.ident;
            let value = match field.is_nullable {
                true => quote!(::core::option::Option::as_ref(&self.#ident)?),
                false => quote!(&self.#ident),
            };
            match field.is_folded {
                true => quote!(#private::folded(#value)),
                false => value,
            }
        });
        quote! {
            #private::LookupKeys::add(__cached_keys, #place, || ::core::option::Option::Some((#(#values,)*)));
        }
    });
    (!lookups.is_empty()).then(|| {
        quote! {
            fn lookup_keys(&self, __cached_keys: &mut #private::LookupKeys<'_>) {
                #(#adds)*
            }
        }
    })
}

/// The types that a lookup binds, and those of the id, which it reads.
pub(super) fn bounds(private: &TokenStream, entity: &Entity) -> Vec<TokenStream> {
    if entity.found_by().next().is_none() {
        return Vec::new();
    }
    let fields = entity.found_by().flat_map(|lookup| &lookup.fields);
    let bound = super::source::distinct(fields.map(LookupField::stored));
    let ids = entity.id.parts();
    let read = super::source::distinct(ids.map(|part| part.stored.as_ref().unwrap_or(&part.ty)));
    let bound = bound
        .into_iter()
        .map(|ty| quote!(#ty: #private::Column<__CachedDb>));
    let read = read
        .into_iter()
        .map(|ty| quote!(#ty: for<'__cached> #private::Decode<'__cached, __CachedDb>));
    bound.chain(read).collect()
}

/// ```text
/// fn bind_lookup(
///     __cached_lookup: usize,
///     __cached_given: &dyn Any,
///     __cached_values: &mut Binder<'_, __CachedDb>,
/// ) -> BindResult {
///     match __cached_lookup {
///         0usize => Binder::lookup(__cached_values, __cached_given, |__cached_values, __cached_given: &(String,)| {
///             __cached_values.value(Role::Id, &__cached_given.0)?;
///             Ok(())
///         }),
///         _ => Err(NO_LOOKUP.into()),
///     }
/// }
/// fn read_id(__cached_row: &__CachedDb::Row) -> Result<i64, sqlx::Error> {
///     Backend::read::<i64>(__cached_row, 1usize)
/// }
/// ```
pub(super) fn source(private: &TokenStream, entity: &Entity) -> Option<TokenStream> {
    entity.found_by().next()?;
    let arms = entity.found_by().enumerate().map(|(place, lookup)| {
        let types = lookup.fields.iter().map(|field| &field.ty);
        let binds = lookup.fields.iter().enumerate().map(|(index, field)| {
            let index = Index::from(index);
            let arguments = quote!(__cached_values, #private::Role::Id, &__cached_given.#index);
            match &field.stored {
                Some(stored) => quote!(#private::Binder::converted::<#stored, _>(#arguments)),
                None => quote!(#private::Binder::value(#arguments)),
            }
        });
        quote! {
            #place => #private::Binder::lookup(
                __cached_values,
                __cached_given,
                |__cached_values, __cached_given: &(#(#types,)*)| {
                    #(#binds?;)*
                    ::core::result::Result::Ok(())
                },
            ),
        }
    });
    let id_type = super::entity::id_type(&entity.id);
    let parts = entity.id.parts().enumerate().map(|(index, part)| {
        let place = index + 1;
        let ty = &part.ty;
        match &part.stored {
            Some(stored) => quote! {
                <__CachedDb as #private::Backend>::read_converted::<#stored, #ty>(__cached_row, #place)
            },
            None => quote! {
                <__CachedDb as #private::Backend>::read::<#ty>(__cached_row, #place)
            },
        }
    });
    let id = match entity.id.rest.is_empty() {
        true => quote!(#(#parts)*),
        false => quote!(::core::result::Result::Ok((#(#parts?),*))),
    };
    Some(quote! {
        fn bind_lookup(
            __cached_lookup: ::core::primitive::usize,
            __cached_given: &dyn ::core::any::Any,
            __cached_values: &mut #private::Binder<'_, __CachedDb>,
        ) -> #private::BindResult {
            match __cached_lookup {
                #(#arms)*
                _ => ::core::result::Result::Err(::core::convert::Into::into(#private::NO_LOOKUP)),
            }
        }
        fn read_id(__cached_row: &__CachedDb::Row) -> ::core::result::Result<#id_type, #private::SqlxError> {
            #id
        }
    })
}

const UNREADABLE: &str = "Fails if the database cannot be read. An unreachable cache is not an error: the rows are then read \
                          from the database.";

const NOTHING_WRITTEN: &str = "Nothing was written then.";

const CANCEL: &str =
    "The future may be dropped at any time. A load that other callers wait for continues.";

/// Where a lookup reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Through the cache.
    Repository,
    /// Inside a transaction.
    Within,
}

/// What the methods of a lookup need to know.
pub(super) struct Methods<'a> {
    pub(super) reads: Place,
    pub(super) entity: &'a Ident,
    pub(super) private: &'a TokenStream,
    /// The type parameter for the database.
    pub(super) database: &'a Ident,
    /// The place of the lookup.
    pub(super) place: usize,
    pub(super) is_unique: bool,
    /// Whether its values are those of a tag: rows are found by them to be changed only.
    pub(super) is_of_tag: bool,
    pub(super) writes: Writes,
    pub(super) suffix: String,
    pub(super) idents: Vec<Ident>,
    /// `None` after an error: the methods take anything, and are never run.
    pub(super) fields: Option<&'a [LookupField]>,
}

impl Methods<'_> {
    /// ```text
    /// pub fn find_by_email(&self, email: impl AsId<String>) -> impl Future<Output = Result<Option<Arc<User>>, Error>> {
    ///     Repository::find_by(&self.inner, 0usize, (AsId::<String>::as_id(&email).into_owned(),))
    /// }
    /// ```
    pub(super) fn tokens(&self) -> TokenStream {
        if self.is_of_tag {
            let (modify, delete) = (self.modify(), self.delete());
            return quote!(#modify #delete);
        }
        let own = match self.is_unique {
            true => self.of_unique(),
            false => self.of_index(),
        };
        let exists = self.exists();
        let invalidate = match self.reads {
            Place::Repository => Some(self.invalidate()),
            Place::Within => None,
        };
        quote!(#own #exists #invalidate)
    }

    /// The documentation of a method: inside a transaction it points to the method outside.
    fn docs(&self, method: &str, does: &str, fails: &str) -> String {
        match self.reads {
            Place::Repository => docs(does, fails, CANCEL),
            Place::Within => docs(
                &format!(
                    "As `{method}` of the repository, as the transaction sees the rows. The cache is neither read nor filled."
                ),
                "Fails if the database cannot be read, or if the transaction can only be rolled back.",
                "Dropping the future changes nothing. On MySQL and MariaDB the transaction can then only be rolled back.",
            ),
        }
    }

    /// The receiver of a method, and the inner value with the method that it calls.
    fn receiver(&self) -> (TokenStream, TokenStream, TokenStream) {
        let private = self.private;
        match self.reads {
            Place::Repository => (
                quote!(&self),
                quote!(#private::Repository),
                quote!(&self.inner),
            ),
            Place::Within => (
                quote!(&mut self),
                quote!(#private::Within),
                quote!(&mut self.inner),
            ),
        }
    }

    fn of_unique(&self) -> TokenStream {
        let (row, name, words, suffix) = (self.row(), self.name(), self.words(), &self.suffix);
        let maybe_row = quote!(::core::option::Option<#row>);
        let unreadable = "Fails if the database cannot be read, and with the kind `Duplicate` if several rows have the values. An \
                          unreachable cache is not an error: the row is then read from the database.";
        let find = self.one(
            "find_by",
            &maybe_row,
            &format!(
                "Returns the `{name}` with this {words}, or `None` if there is no such row. The row is compared with the \
                 values, so a row that does not have them any more is never returned."
            ),
            unreadable,
        );
        let rows = quote!(::std::vec::Vec<#maybe_row>);
        let find_many = self.many(
            &format!("find_many_by_{suffix}"),
            "find_many_by",
            &rows,
            &format!(
                "Finds each `{name}` as `find_by_{suffix}` does, in the order of the values; `None` where there is no such \
                 row. The cache is read in two round trips for 500 values, and what it lacks with one statement for 64 values \
                 and one for the rows."
            ),
            unreadable,
        );
        quote!(#find #find_many)
    }

    fn of_index(&self) -> TokenStream {
        let (entity, private, name, words, suffix) = (
            self.entity,
            self.private,
            self.name(),
            self.words(),
            &self.suffix,
        );
        let (parameters, values) = self.parameters();
        let method = format_ident!("find_all_by_{suffix}");
        let find_docs = self.docs(
            &method.to_string(),
            &format!(
                "Returns each `{name}` with this {words}, in the order of the index, when it is awaited. `.limit(n)` and \
                 `.after(&row)` choose a page. Each row is compared with the values, so a row that does not have them any more is \
                 never returned."
            ),
            UNREADABLE,
        );
        let (database, place) = (self.database, self.place);
        let (receiver, callee, inner) = self.receiver();
        let list = match self.reads {
            Place::Repository => quote!(#private::FindAll<'_, #entity, #database>),
            Place::Within => quote!(#private::FindAllWithin<'_, 'c, #entity, #database>),
        };
        let body = match self.fields {
            Some(_) => quote!(#callee::find_all_by(#inner, #place, #values)),
            None => quote!(::core::panic!("this entity has a mistake")),
        };
        let find = quote! {
            #[doc = #find_docs]
            pub fn #method(#receiver, #parameters) -> #list {
                #body
            }
        };
        let page = quote!(#private::Page<#entity>);
        let find_many = self.many(
            &format!("find_all_by_{suffix}_many"),
            "find_all_many",
            &quote!(::std::vec::Vec<#page>),
            &format!(
                "Finds the rows of several lists as `find_all_by_{suffix}` does: one page for each value, in their order. The \
                 cache is read in two round trips, and what it lacks with one statement for 64 values and one for the rows."
            ),
            UNREADABLE,
        );
        let count = self.one(
            "count_by",
            &quote!(::core::primitive::u64),
            &format!(
                "Counts each `{name}` with this {words}. If the cache has all of their ids, their rows are counted, otherwise \
                 the database counts."
            ),
            UNREADABLE,
        );
        let (modify, delete) = (self.modify(), self.delete());
        quote!(#find #find_many #count #modify #delete)
    }

    /// ```text
    /// pub fn modify_by_category<V: AsId<i64>, R: ChangeResult<Value = ()>>(
    ///     &self,
    ///     category: V,
    ///     change: impl FnMut(&mut Product) -> R + Send,
    /// ) -> V::Operation<impl Future<Output = Result<Vec<Arc<Product>>, Error>>> { .. }
    /// ```
    fn modify(&self) -> Option<TokenStream> {
        if matches!(self.writes, Writes::Queue | Writes::Nowhere) {
            return None;
        }
        let (row, name, words, suffix) = (self.row(), self.name(), self.words(), &self.suffix);
        let docs = match self.reads {
            Place::Repository => docs(
                &format!(
                    "Changes each `{name}` with this {words}, all or none, and returns them as they are afterwards, in the order of \
                     their ids. `change` is called for each row, and again if the database has rolled the transaction back, so it \
                     should do nothing but change the row. It returns nothing or a `Result`. Only the rows that it changes are \
                     written, as `update_many` does.\n\n\
                     The rows are read under a lock (`SELECT .. FOR UPDATE`; SQLite locks the database), in a transaction of its \
                     own, so that no other write comes in between. All of them are in memory, and locked until the commit. MySQL \
                     and MariaDB lock every row of the table if it has no index that begins with {words}. A row that another \
                     writer gives this {words} at the same time may be left out, as by `UPDATE .. WHERE`. Change very many rows \
                     with SQL and `write_tagged`."
                ),
                &format!("Fails with the kind `Refused` if `change` returns an error, and if the database fails. {NOTHING_WRITTEN}"),
                "If the future is dropped before it ends, either all of the rows were changed or none, and no transaction stays open.",
            ),
            Place::Within => self.written_docs(
                &format!("modify_by_{suffix}"),
                "The rows stay locked until the transaction ends. After an error of `change`, the transaction can continue.",
            ),
        };
        let change = match self.idents.iter().any(|ident| ident.unraw() == "change") {
            true => format_ident!("__cached_change"),
            false => format_ident!("change"),
        };
        let given = Some((&change, "R"));
        Some(self.documented("modify_by", &quote!(::std::vec::Vec<#row>), &docs, given))
    }

    /// Not for rows with a version: they are deleted one by one, if they still have it.
    fn delete(&self) -> Option<TokenStream> {
        let (Writes::Database { versioned } | Writes::Unknown { versioned }) = self.writes else {
            return None;
        };
        if versioned {
            return None;
        }
        let (name, words, suffix) = (self.name(), self.words(), &self.suffix);
        let docs = match self.reads {
            Place::Repository => docs(
                &format!(
                    "Deletes each `{name}` with this {words}, all or none, and returns how many were deleted. It is one statement, \
                     which returns the ids of the rows. On MySQL and MariaDB the ids are read under a lock before, in the same \
                     transaction. A row that another writer gives this {words} at the same time may be left, as by \
                     `DELETE .. WHERE`."
                ),
                &format!("Fails if the database fails. {NOTHING_WRITTEN}"),
                "A write that has begun runs to its end even if the future is dropped. Only its result is lost. A future that was \
                 never polled has not begun.",
            ),
            Place::Within => self.written_docs(&format!("delete_by_{suffix}"), ""),
        };
        Some(self.documented("delete_by", &quote!(::core::primitive::u64), &docs, None))
    }

    /// The documentation of a write inside a transaction.
    fn written_docs(&self, method: &str, more: &str) -> String {
        docs(
            format!("As `{method}` of the repository, in this transaction. {more}").trim_end(),
            &format!(
                "As `{method}` of the repository, and with the kind `TransactionAborted` if the transaction can only be rolled back."
            ),
            "If the future is dropped half-way, it is unknown whether the database executed the statement. The transaction can then \
             only be rolled back.",
        )
    }

    fn exists(&self) -> TokenStream {
        let (name, words) = (self.name(), self.words());
        self.one(
            "exists_by",
            &quote!(::core::primitive::bool),
            &format!("Returns whether there is a `{name}` with this {words}."),
            UNREADABLE,
        )
    }

    fn invalidate(&self) -> TokenStream {
        let (name, words) = (self.name(), self.words());
        let docs = docs(
            &format!(
                "Drops what is cached about the `{name}` with this {words}, but not the rows. Call it after a write of this \
                 value that did not go through larder, beside `invalidate`."
            ),
            "Fails with the kind `CacheUnavailable` if the cache cannot be reached. This process then reads the database until the \
             cache has dropped it.",
            "If the future is dropped before it ends, it may still be in the cache. Call it again.",
        );
        self.documented("invalidate_by", &quote!(()), &docs, None)
    }

    fn row(&self) -> TokenStream {
        let entity = self.entity;
        quote!(::std::sync::Arc<#entity>)
    }

    fn name(&self) -> String {
        self.entity.unraw().to_string()
    }

    /// A method for the values of one lookup. Its future depends on the types of the values, so that rustc reports a wrong one
    /// once (`AsId::Operation`).
    fn one(&self, inner: &str, returns: &TokenStream, does: &str, fails: &str) -> TokenStream {
        let docs = self.docs(&format!("{inner}_{}", self.suffix), does, fails);
        self.documented(inner, returns, &docs, None)
    }

    /// `change`: the name of a parameter with what to do with each row, and of the type of its result.
    fn documented(
        &self,
        inner: &str,
        returns: &TokenStream,
        docs: &str,
        change: Option<(&Ident, &str)>,
    ) -> TokenStream {
        let method = format_ident!("{inner}_{}", self.suffix);
        let (private, place, entity, database) =
            (self.private, self.place, self.entity, self.database);
        let fields = self.fields.unwrap_or_default();
        let mentioned = fields.iter().map(|field| &field.ty);
        let mentioned = quote!(#private #entity #database #(#mentioned)*);
        let change = change.map(|(change, result)| {
            let result = names::free(result, &mentioned);
            let generic = quote!(#result: #private::ChangeResult<Value = ()>);
            let function =
                quote!(impl ::core::ops::FnMut(&mut #entity) -> #result + ::core::marker::Send);
            (change, generic, function)
        });
        let result = change.as_ref().map(|(_, generic, _)| generic);
        let Some(fields) = self.fields else {
            let (mut parameters, _) = self.parameters();
            if let Some((_, _, function)) = &change {
                parameters.extend(quote!(, _: #function));
            }
            return self.method(
                (&method, result),
                inner,
                &parameters,
                &quote!(),
                returns,
                docs,
            );
        };
        let given = change.as_ref().map(|(change, ..)| quote!(, #change));
        let inner = format_ident!("{inner}");
        let mut generics = Vec::new();
        let mut parameters = Vec::new();
        let mut future = quote! {
            impl ::core::future::Future<Output = ::core::result::Result<#returns, #private::Error>>
        };
        let values = fields.iter().map(|field| {
            let ident = &field.ident;
            self.value(field, &quote!(&#ident))
        });
        let (receiver, callee, own) = self.receiver();
        let mut body = quote!(#callee::#inner(#own, #place, (#(#values,)*) #given));
        for (number, LookupField { ident, ty, .. }) in fields.iter().enumerate() {
            let plain = match fields {
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
        if let Some((change, generic, function)) = change {
            parameters.push(quote!(#change: #function));
            generics.push(generic);
        }
        quote! {
            #[doc = #docs]
            pub fn #method<#(#generics),*>(
                #receiver,
                #(#parameters),*
            ) -> #future {
                #body
            }
        }
    }

    /// A method for many values.
    fn many(
        &self,
        method: &str,
        inner: &str,
        returns: &TokenStream,
        does: &str,
        fails: &str,
    ) -> TokenStream {
        let (parameters, values) = self.slice();
        let docs = self.docs(method, does, fails);
        let method = format_ident!("{method}");
        self.method((&method, None), inner, &parameters, &values, returns, &docs)
    }

    fn method(
        &self,
        (method, generics): (&Ident, Option<&TokenStream>),
        inner: &str,
        parameters: &TokenStream,
        values: &TokenStream,
        returns: &TokenStream,
        docs: &str,
    ) -> TokenStream {
        let (private, place) = (self.private, self.place);
        let (receiver, callee, own) = self.receiver();
        let inner = format_ident!("{inner}");
        let body = match self.fields {
            Some(_) => quote!(#callee::#inner(#own, #place, #values)),
            None => quote!(async move { ::core::panic!("this entity has a mistake") }),
        };
        let generics = generics.map(|generics| quote!(<#generics>));
        quote! {
            #[doc = #docs]
            pub fn #method #generics(
                #receiver,
                #parameters
            ) -> impl ::core::future::Future<Output = ::core::result::Result<#returns, #private::Error>> {
                #body
            }
        }
    }

    /// The fields in words.
    fn words(&self) -> String {
        let names = self
            .idents
            .iter()
            .map(|ident| format!("`{}`", ident.unraw()));
        names.collect::<Vec<_>>().join(" and ")
    }

    /// One parameter for each field, and the tuple of their values.
    fn parameters(&self) -> (TokenStream, TokenStream) {
        let idents = &self.idents;
        let Some(fields) = self.fields else {
            let parameters = idents.iter().map(|_| quote!(_: impl ::core::any::Any));
            return (quote!(#(#parameters),*), quote!());
        };
        let private = self.private;
        let parameters = fields.iter().map(|field| {
            let LookupField { ident, ty, .. } = field;
            quote!(#ident: impl #private::AsId<#ty>)
        });
        let values = fields.iter().map(|field| {
            let ident = &field.ident;
            self.value(field, &quote!(&#ident))
        });
        (quote!(#(#parameters),*), quote!((#(#values,)*)))
    }

    /// A slice of values, and the list of their tuples.
    fn slice(&self) -> (TokenStream, TokenStream) {
        let Some(fields) = self.fields else {
            return (quote!(_: &[impl ::core::any::Any]), quote!());
        };
        let private = self.private;
        let types = fields.iter().map(|field| {
            let ty = &field.ty;
            quote!(impl #private::AsId<#ty>)
        });
        let ty = match fields {
            [_] => quote!(#(#types)*),
            _ => quote!((#(#types),*)),
        };
        let values = fields.iter().enumerate().map(|(index, field)| {
            let index = Index::from(index);
            match fields {
                [_] => self.value(field, &quote!(__cached_value)),
                _ => self.value(field, &quote!(&__cached_value.#index)),
            }
        });
        let list = quote! {
            ::core::iter::Iterator::collect(::core::iter::Iterator::map(
                <[_]>::iter(values),
                |__cached_value| (#(#values,)*),
            ))
        };
        (quote!(values: &[#ty]), list)
    }

    fn value(&self, field: &LookupField, given: &TokenStream) -> TokenStream {
        let private = self.private;
        let ty = &field.ty;
        let value = quote!(#private::AsId::<#ty>::as_id(#given));
        match field.is_folded {
            true => quote!(#private::folded(&#value)),
            false => quote!(::std::borrow::Cow::into_owned(#value)),
        }
    }
}
