//! What will be generated. Built by `validate` only, and cannot be wrong: an entity has an id, a flattened field has no
//! column name, a duration is above zero.
//!
//! Facts that follow from others are methods, so they cannot disagree.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::{Path, Type, Visibility, ext::IdentExt};

use crate::{ast::Word, paths::Paths};

/// What a derive generates.
pub(crate) enum Model {
    /// `#[derive(Cached)]`.
    Entity(Box<Entity>),
    /// `#[derive(Columns)]`.
    Nested(Table),
}

/// The columns of a struct.
pub(crate) struct Table {
    pub(crate) ident: Ident,
    pub(crate) paths: Paths,
    /// The fields that take part in statements, in the order of writing.
    pub(crate) members: Vec<Member>,
    /// The fields that are no columns.
    pub(crate) skipped: Vec<Skipped>,
}

impl Table {
    /// The name of the struct as a user reads it.
    pub(crate) fn name(&self) -> String {
        self.ident.unraw().to_string()
    }
}

/// A field that is no column.
pub(crate) struct Skipped {
    pub(crate) ident: Ident,
    /// Whether sqlx takes its value from the default of the whole struct, and not from that of its type.
    pub(crate) is_of_struct: bool,
}

/// An entity.
pub(crate) struct Entity {
    pub(crate) table: Table,
    pub(crate) visibility: Visibility,
    /// The table in the database.
    pub(crate) table_name: String,
    /// What it is called in keys and messages: the name of the struct, unless another one was chosen.
    pub(crate) name: String,
    /// The name of the repository, if one was chosen.
    pub(crate) repository: Option<Ident>,
    pub(crate) fingerprint: u32,
    /// What in the struct a positional codec cannot carry.
    pub(crate) hazard: Option<String>,
    pub(crate) is_read_only: bool,
    pub(crate) policy: Policy,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) relations: Vec<Relation>,
    pub(crate) tags: Vec<Tag>,
    /// The fields of tags by which rows are found to be changed. Nothing is cached of them.
    pub(crate) finders: Vec<Lookup>,
    pub(crate) cascades: Vec<Cascade>,
    /// The other entities over the same table.
    pub(crate) twins: Vec<Path>,
    /// Whether cached queries may depend on the rows.
    pub(crate) has_queries: bool,
    /// The entities that the query which stands for the table reads, if there is one.
    pub(crate) reads: Option<Vec<Path>>,
    /// The field that says when a row ends.
    pub(crate) ends_at: Option<Ident>,
    pub(crate) id: Id,
}

impl Entity {
    /// Whether a column is the number of the row's last change.
    pub(crate) fn is_versioned(&self) -> bool {
        self.has(Role::Version)
    }

    /// What rows are found by, in the order of their places: the lookups, then the fields of tags.
    pub(crate) fn found_by(&self) -> impl Iterator<Item = &Lookup> {
        self.lookups.iter().chain(&self.finders)
    }

    /// Whether there are columns that are not in the cache.
    pub(crate) fn omits(&self) -> bool {
        self.has(Role::Omitted)
    }

    fn has(&self, role: Role) -> bool {
        let mut members = self.table.members.iter();
        members.any(|member| member.role() == Some(role))
    }
}

/// One field that takes part in statements.
pub(crate) struct Member {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    pub(crate) kind: Kind,
}

impl Member {
    /// What the statements do with it, if it is one column.
    pub(crate) fn role(&self) -> Option<Role> {
        match &self.kind {
            Kind::Column { column }
            | Kind::Converted { column, .. }
            | Kind::Json { column, .. } => Some(column.role),
            Kind::Flatten => None,
        }
    }

    /// The type that is sent to the database, where larder must know it.
    pub(crate) fn stored(&self) -> Option<&Type> {
        match &self.kind {
            Kind::Column { .. } => Some(&self.ty),
            Kind::Converted { stored, .. } => Some(stored),
            Kind::Json { .. } | Kind::Flatten => None,
        }
    }
}

/// How a field is stored.
pub(crate) enum Kind {
    /// As it is.
    Column { column: Column },
    /// As a value of another type.
    Converted { column: Column, stored: Box<Type> },
    /// As JSON; `nullable` if an absent value is `NULL` and not the JSON value `null`.
    Json { column: Column, nullable: bool },
    /// As the columns of a nested struct.
    Flatten,
}

/// A column.
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) role: Role,
}

/// What the statements do with a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Id,
    GeneratedId,
    Plain,
    Omitted,
    Immutable,
    Version,
    Generated,
}

/// What rows are found by, besides the id.
pub(crate) struct Lookup {
    /// Whether one row at most has the values.
    pub(crate) is_unique: bool,
    /// At least one.
    pub(crate) fields: Vec<LookupField>,
    /// Whether texts are compared in lower case.
    pub(crate) folds: bool,
    /// The columns that the rows are ordered by, each with whether it is descending.
    pub(crate) order_by: Vec<(String, bool)>,
    /// How many ids are cached, if that was named.
    pub(crate) max: Option<u32>,
}

impl Lookup {
    /// The part of a method's name that says what rows are found by.
    pub(crate) fn method_suffix(&self) -> String {
        lookup_suffix(self.fields.iter().map(|field| &field.ident))
    }

    /// The name in keys.
    pub(crate) fn key_name(&self) -> String {
        let names = self
            .fields
            .iter()
            .map(|field| field.ident.unraw().to_string());
        names.collect::<Vec<_>>().join("+")
    }
}

/// The part of a method's name that says what rows are found by.
pub(crate) fn lookup_suffix<'a>(fields: impl Iterator<Item = &'a Ident>) -> String {
    let names: Vec<_> = fields.map(|field| field.unraw().to_string()).collect();
    names.join("_and_")
}

/// One field of a lookup.
pub(crate) struct LookupField {
    pub(crate) ident: Ident,
    /// The type of its values that are not `NULL`.
    pub(crate) ty: Type,
    /// The type it is sent as, where that is another one.
    pub(crate) stored: Option<Type>,
    pub(crate) is_nullable: bool,
    pub(crate) column: String,
    /// Whether it is compared in lower case.
    pub(crate) is_folded: bool,
}

impl LookupField {
    /// The type that is sent to the database.
    pub(crate) fn stored(&self) -> &Type {
        self.stored.as_ref().unwrap_or(&self.ty)
    }
}

/// Rows of another entity that belong to a row, or that it belongs to.
pub(crate) struct Relation {
    /// The other entity.
    pub(crate) entity: Path,
    /// What its rows are called.
    pub(crate) name: Ident,
    pub(crate) kind: RelationKind,
}

/// How the other rows are found.
pub(crate) enum RelationKind {
    /// By their ids, which this field has.
    BelongsTo { field: Ident, ty: Box<Type> },
    /// By the id of this row, with this index of theirs.
    HasMany { index: Ident },
}

impl Relation {
    /// The name of the method.
    pub(crate) fn method(&self) -> Ident {
        format_ident!("{}_of", self.name, span = self.name.span())
    }
}

/// What rows are invalidated by together.
pub(crate) struct Tag {
    /// The texts before, between and after the fields: one more than there are fields.
    pub(crate) texts: Vec<String>,
    pub(crate) fields: Vec<TagField>,
    /// The part of a method's name that says what is invalidated.
    pub(crate) suffix: Ident,
}

impl Tag {
    /// The name of the method.
    pub(crate) fn method(&self) -> Ident {
        let suffix = self.suffix.unraw();
        format_ident!("invalidate_{suffix}", span = self.suffix.span())
    }

    /// The tag as it was written.
    pub(crate) fn shown(&self) -> String {
        let names = self.fields.iter().map(|field| field.ident.unraw());
        let names = names.map(|name| format!("{{{name}}}"));
        let mut texts = self
            .texts
            .iter()
            .map(|text| text.replace('{', "{{").replace('}', "}}"));
        let first = texts.next().unwrap_or_default();
        let rest = names.zip(texts).map(|(name, text)| name + &text);
        first + &rest.collect::<String>()
    }
}

/// Rows of another entity that the database changes when it deletes a row.
pub(crate) struct Cascade {
    /// The other entity.
    pub(crate) entity: Path,
    /// Its field with the id of this one.
    pub(crate) field: Ident,
}

/// One field of a tag.
pub(crate) struct TagField {
    pub(crate) ident: Ident,
    pub(crate) column: String,
    /// The type of its values that are not `NULL`.
    pub(crate) ty: Type,
    pub(crate) is_nullable: bool,
}

/// The fields that identify a row: at least one.
pub(crate) struct Id {
    pub(crate) first: IdPart,
    pub(crate) rest: Vec<IdPart>,
}

impl Id {
    /// All parts in the order of their fields.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &IdPart> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

/// One field of the id.
pub(crate) struct IdPart {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    /// The type it is sent as, where that is another one.
    pub(crate) stored: Option<Type>,
}

/// The options that were named; the runtime has the defaults.
#[derive(Default)]
pub(crate) struct Policy {
    pub(crate) strategy: Option<Word>,
    pub(crate) after_triggers: bool,
    pub(crate) gather_writes: Option<bool>,
    pub(crate) coherence: Option<Word>,
    pub(crate) on_outage: Option<Word>,
    pub(crate) ttl: Option<u64>,
    pub(crate) jitter: Option<f64>,
    pub(crate) negative_ttl: Option<Negative>,
    pub(crate) namespace: Option<String>,
    pub(crate) hash_tag: bool,
    pub(crate) codec: Option<Word>,
    pub(crate) max_row: Option<u64>,
    pub(crate) lease_ttl: Option<u64>,
    pub(crate) lease_wait: Option<u64>,
    pub(crate) intent_ttl: Option<u64>,
    pub(crate) partitions: Option<u16>,
    pub(crate) max_pending: Option<u64>,
    pub(crate) on_full: Option<Word>,
    pub(crate) durability: Option<Word>,
    pub(crate) batch: Option<u32>,
    pub(crate) linger: Option<u64>,
    pub(crate) journal: Option<String>,
}

impl Policy {
    /// Whether writes go to a queue, and to the database later.
    pub(crate) fn queues(&self) -> bool {
        self.strategy
            .is_some_and(|strategy| strategy.word == "write_behind")
    }
}

/// What to do about rows that are not there.
#[derive(Clone, Copy)]
pub(crate) enum Negative {
    /// Remember their absence for so many milliseconds.
    For(u64),
    /// Do not remember it.
    Off,
}

/// The argument of `Option<..>`, if the type is spelled as one.
pub(crate) fn option_argument(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ungrouped(ty) else {
        return None;
    };
    let last = path.path.segments.last()?;
    match &last.arguments {
        syn::PathArguments::AngleBracketed(arguments) if last.ident == "Option" => {
            match arguments.args.first()? {
                syn::GenericArgument::Type(argument) => Some(argument),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The name of a type without its path and arguments, if it has one.
pub(crate) fn type_name(ty: &Type) -> Option<String> {
    match ungrouped(ty) {
        Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        _ => None,
    }
}

/// The type inside the invisible groups that `macro_rules!` puts around a `$ty:ty`.
fn ungrouped(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => ungrouped(&group.elem),
        Type::Paren(paren) => ungrouped(&paren.elem),
        _ => ty,
    }
}

/// A type as text that depends on its tokens only: not on spacing, nor on the compiler that prints it.
pub(crate) fn spelling(ty: &Type) -> String {
    let mut text = String::new();
    spell(ty.to_token_stream(), &mut text);
    text
}

fn spell(tokens: TokenStream, text: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                spell(group.stream(), text);
                text.push_str(close);
            }
            token => {
                let token = token.to_string();
                let touches = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                if text.ends_with([',', ';'])
                    || touches(text.chars().last()) && touches(token.chars().next())
                {
                    text.push(' ');
                }
                text.push_str(&token);
            }
        }
    }
}
