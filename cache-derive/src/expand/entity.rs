//! `impl Entity`: what does not depend on a database.

use proc_macro2::{Literal, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::Ident;

use super::{groups, lookups, tags};
use crate::{
    ast::Word,
    model::{Entity, Id, Negative, Policy},
};

/// ```text
/// impl Entity for Flight {
///     type Id = i64;
///     type Writes = ToDatabase;
///     type Deletes = ById;
///     const SPEC: EntitySpec = EntitySpec::new("Flight", "flights", 0x1234abcd_u32)
///         .with_policy(Policy::DEFAULT.ttl(600000u64));
///     fn id(&self) -> i64 {
///         Clone::clone(&self.id)
///     }
///     bindings! { Flight }
/// }
/// ```
///
/// The type of the id is spelled out: behind `Self::Id` rustc would look for the whole of `Entity` a second time, and
/// report a derive that is missing on the struct a second time.
pub(super) fn entity_impl(entity: &Entity) -> TokenStream {
    let private = entity.table.paths.private();
    let ident = &entity.table.ident;
    let name = &entity.name;
    let table = &entity.table_name;
    let fingerprint = hexadecimal(entity.fingerprint);
    let hazard = entity
        .hazard
        .iter()
        .map(|hazard| quote!(.with_positional_hazard(#hazard)));
    let version = entity.is_versioned().then(|| quote!(.with_version()));
    let read_only = entity.is_read_only.then(|| quote!(.with_read_only()));
    let omitted = entity.omits().then(|| quote!(.with_omitted()));
    let omits = entity.omits().then(|| {
        quote! {
            #[automatically_derived]
            impl #private::OmitsColumns for #ident {}
        }
    });
    let policy = policy(&private, &entity.policy);
    let kinds = kinds(
        &private,
        if entity.is_read_only {
            "Nowhere"
        } else {
            direction(entity.policy.queues())
        },
        entity.is_versioned(),
    );
    let lookups = lookups::specs(&private, &entity.lookups);
    let lookup_keys = lookups::keys(&private, &entity.lookups);
    let finders = lookups::finders(&private, &entity.finders);
    let patterns = tags::patterns(&private, &entity.tags);
    let tags = tags::of_row(&private, &entity.tags);
    let groups = groups::spec(&private, entity);
    let ends_at = entity
        .ends_at
        .as_ref()
        .map(|field| ends_at(&private, field));
    let id_type = id_type(&entity.id);
    let id_in_tags = groups::id_in_tags(entity, &id_type);
    let id_value = id_value(&entity.id);
    quote! {
        #[automatically_derived]
        impl #private::Entity for #ident {
            type Id = #id_type;
            #kinds
            const SPEC: #private::EntitySpec = #private::EntitySpec::new(#name, #table, #fingerprint) #(#hazard)* #version #read_only #lookups #finders #patterns #groups #omitted #policy;
            fn id(&self) -> #id_type {
                #id_value
            }
            #lookup_keys
            #tags
            #id_in_tags
            #ends_at
            #private::bindings! { #ident }
        }
        #omits
    }
}

/// ```text
/// fn ends_at(&self) -> Option<SystemTime> {
///     ends_at(&self.expires_at)
/// }
/// ```
///
/// The value stands at the field, where rustc reports a type that is no point in time.
fn ends_at(private: &TokenStream, field: &Ident) -> TokenStream {
    let span = Span::call_site().located_at(field.span());
    let value = quote_spanned!(span=> &self.#field);
    quote! {
        fn ends_at(&self) -> ::core::option::Option<::std::time::SystemTime> {
            #private::ends_at(#value)
        }
    }
}

/// The type that says where writes go.
pub(super) fn direction(queues: bool) -> &'static str {
    if queues { "ToQueue" } else { "ToDatabase" }
}

/// Where writes go, and what a delete needs.
pub(super) fn kinds(private: &TokenStream, writes: &str, versioned: bool) -> TokenStream {
    let writes = Ident::new(writes, Span::call_site());
    let deletes = Ident::new(
        if versioned { "ByVersion" } else { "ById" },
        Span::call_site(),
    );
    quote! {
        type Writes = #private::#writes;
        type Deletes = #private::#deletes;
    }
}

/// The type of the one id, or a tuple.
pub(super) fn id_type(id: &Id) -> TokenStream {
    let types: Vec<_> = id.parts().map(|part| &part.ty).collect();
    match types[..] {
        [only] => quote!(#only),
        _ => quote!((#(#types),*)),
    }
}

fn id_value(id: &Id) -> TokenStream {
    let values = id.parts().map(|part| {
        let ident = &part.ident;
        quote!(::core::clone::Clone::clone(&self.#ident))
    });
    match id.rest.is_empty() {
        true => quote!(#(#values)*),
        false => quote!((#(#values),*)),
    }
}

/// One call per option that was named.
fn policy(private: &TokenStream, policy: &Policy) -> Option<TokenStream> {
    let choice = |method: &str, choice: &str, word: Option<Word>| {
        let method = Ident::new(method, Span::call_site());
        let choice = Ident::new(choice, Span::call_site());
        word.map(|word| {
            let variant = variant(word);
            quote!(.#method(#private::#choice::#variant))
        })
    };
    let negative_ttl = policy.negative_ttl.map(|negative| match negative {
        Negative::For(milliseconds) => quote!(.negative_ttl(#milliseconds)),
        Negative::Off => quote!(.without_negative()),
    });
    let calls = [
        choice("strategy", "Strategy", policy.strategy),
        policy.after_triggers.then(|| quote!(.after_triggers())),
        policy
            .gather_writes
            .map(|gathers| quote!(.gather_writes(#gathers))),
        choice("coherence", "Coherence", policy.coherence),
        choice("on_outage", "OnOutage", policy.on_outage),
        policy.ttl.map(|milliseconds| quote!(.ttl(#milliseconds))),
        policy.jitter.map(|share| quote!(.jitter(#share))),
        negative_ttl,
        policy
            .namespace
            .as_ref()
            .map(|namespace| quote!(.namespace(#namespace))),
        policy.hash_tag.then(|| quote!(.hash_tag())),
        choice("codec", "Codec", policy.codec),
        policy.max_row.map(|bytes| quote!(.max_row(#bytes))),
        policy
            .lease_ttl
            .map(|milliseconds| quote!(.lease_ttl(#milliseconds))),
        policy
            .lease_wait
            .map(|milliseconds| quote!(.lease_wait(#milliseconds))),
        policy
            .intent_ttl
            .map(|milliseconds| quote!(.intent_ttl(#milliseconds))),
        policy
            .partitions
            .map(|partitions| quote!(.partitions(#partitions))),
        policy
            .max_pending
            .map(|writes| quote!(.max_pending(#writes))),
        choice("on_full", "OnFull", policy.on_full),
        choice("durability", "Durability", policy.durability),
        policy.batch.map(|writes| quote!(.batch(#writes))),
        policy
            .linger
            .map(|milliseconds| quote!(.linger(#milliseconds))),
        policy.journal.as_ref().map(|path| quote!(.journal(#path))),
    ];
    let calls: Vec<TokenStream> = calls.into_iter().flatten().collect();
    (!calls.is_empty()).then(|| quote!(.with_policy(#private::Policy::DEFAULT #(#calls)*)))
}

/// The variant of a word. It stands where the word was written, because a codec whose feature is off does not exist.
fn variant(word: Word) -> Ident {
    let variant = match word.word {
        "msgpack" => "MessagePack".to_owned(),
        word => heck::ToUpperCamelCase::to_upper_camel_case(word),
    };
    Ident::new(&variant, word.span)
}

/// A literal that is easy to compare with the one in a cached entry.
fn hexadecimal(fingerprint: u32) -> Literal {
    let text = format!("0x{fingerprint:08x}_u32");
    text.parse()
        .expect("a hexadecimal number with a suffix is a literal")
}
