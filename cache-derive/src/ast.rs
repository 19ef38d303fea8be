//! What the user wrote, mistakes included.
//!
//! A repeated key is two [`Setting`]s, an id on an `Option` is a field like any other: whatever `validate` must find
//! fault with can be written down here. What could not even be read was reported by `parse` and is left out, so that
//! one mistake is not reported twice.

use proc_macro2::{Ident, Span, TokenStream};
use syn::{Generics, LitStr, Path, Type, Visibility};

use crate::grammar::Key;

/// Which macro was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Derive {
    /// `#[derive(Cached)]`.
    Cached,
    /// `#[derive(Columns)]`.
    Columns,
}

/// The input of a derive.
pub(crate) struct Input {
    pub(crate) derive: Derive,
    pub(crate) visibility: Visibility,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) shape: Shape,
    pub(crate) settings: Settings,
    pub(crate) sqlx: SqlxStruct,
    pub(crate) serde: Vec<Serde>,
}

impl Input {
    /// The fields, where the input is a struct that names them.
    pub(crate) fn fields(&self) -> &[Field] {
        match &self.shape {
            Shape::Named(fields) => fields,
            Shape::Tuple | Shape::Unit | Shape::Enum | Shape::Union => &[],
        }
    }
}

/// What kind of item the derive stands on.
pub(crate) enum Shape {
    Named(Vec<Field>),
    Tuple,
    Unit,
    Enum,
    Union,
}

/// A named field.
pub(crate) struct Field {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    pub(crate) settings: Settings,
    pub(crate) sqlx: SqlxField,
    pub(crate) serde: Vec<Serde>,
}

/// The keys of all `#[cached(..)]` attributes at one place, in the order of writing.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) list: Vec<Setting>,
    /// Keys that belong elsewhere; reported, and remembered so that they are not called missing there as well.
    pub(crate) misplaced: Vec<&'static Key>,
    /// Whether there is an attribute whose keys could not be found at all; reported.
    pub(crate) garbled: bool,
}

impl Settings {
    /// The first setting of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Setting> {
        self.list.iter().find(|setting| setting.key.name == name)
    }

    /// Whether the key is named at all, be it with a value that could not be read.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// One key with its value.
pub(crate) struct Setting {
    /// The key, or the one that was most likely meant.
    pub(crate) key: &'static Key,
    /// The name as it was written; what a message about the key points at.
    pub(crate) name: Ident,
    pub(crate) value: Value,
}

/// The value of a key.
pub(crate) enum Value {
    /// What could not be read; reported.
    Unreadable,
    Flag,
    Switch(bool),
    Text(LitStr),
    /// Whole milliseconds, above zero where the form does not allow it.
    Duration(u64),
    /// `false` where a duration could stand.
    Off,
    Number(u64),
    /// Bytes, above zero.
    Size(u64),
    Share(f64),
    /// One of the words of a choice.
    Word(Word),
    Path(Path),
    /// An identifier, where the string stands.
    Name(Ident),
    Group(Settings),
    Lookup(Lookup),
    Relation(Relation),
    /// At least one string.
    Texts(Vec<LitStr>),
    /// At least one path.
    Paths(Vec<Path>),
}

/// What stands after `belongs_to` or `has_many`.
pub(crate) struct Relation {
    pub(crate) path: Path,
    /// What the other rows are called, if that was chosen.
    pub(crate) name: Option<Ident>,
}

/// What stands after `unique` or `index`.
#[derive(Default)]
pub(crate) struct Lookup {
    /// The fields that are named.
    pub(crate) fields: Vec<Ident>,
    pub(crate) options: Settings,
}

/// A word of a choice, and where it was written.
#[derive(Clone, Copy)]
pub(crate) struct Word {
    pub(crate) word: &'static str,
    pub(crate) span: Span,
}

/// The `#[sqlx(..)]` attributes of a struct.
#[derive(Default)]
pub(crate) struct SqlxStruct {
    pub(crate) rename_all: Option<RenameAll>,
    pub(crate) default: bool,
}

/// How sqlx turns the name of a field into the name of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RenameAll {
    Lower,
    Snake,
    Upper,
    ScreamingSnake,
    Kebab,
    Camel,
    Pascal,
}

/// The `#[sqlx(..)]` attributes of a field.
#[derive(Default)]
pub(crate) struct SqlxField {
    pub(crate) rename: Option<LitStr>,
    pub(crate) skip: Option<Ident>,
    pub(crate) default: Option<Ident>,
    pub(crate) flatten: Option<Ident>,
    pub(crate) json: Option<Json>,
    pub(crate) try_from: Option<TryFrom>,
}

/// `#[sqlx(json)]` or `#[sqlx(json(nullable))]`.
pub(crate) struct Json {
    pub(crate) name: Ident,
    pub(crate) nullable: bool,
}

/// `#[sqlx(try_from = "Stored")]`.
pub(crate) struct TryFrom {
    pub(crate) name: Ident,
    pub(crate) stored: Type,
}

/// One key of a `#[serde(..)]` attribute, of those that decide what a payload carries.
#[derive(Clone)]
pub(crate) struct Serde {
    pub(crate) kind: SerdeKind,
    /// The name that it gives, if it gives one.
    pub(crate) name: SerdeName,
    /// The key with its value, for a message.
    pub(crate) tokens: TokenStream,
}

/// A name, or a rule for names, for each direction.
#[derive(Clone, Default)]
pub(crate) struct SerdeName {
    pub(crate) written: Option<String>,
    pub(crate) read: Option<String>,
}

/// What a serde key does to the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SerdeKind {
    Flatten,
    SkipSerializingIf,
    Tag,
    Untagged,
    Skip,
    SkipSerializing,
    SkipDeserializing,
    RenameAll,
    Rename,
    Alias,
    Default,
    With,
    SerializeWith,
    DeserializeWith,
    Into,
    From,
    TryFrom,
    Transparent,
}

impl SerdeKind {
    /// The key as the user writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Flatten => "flatten",
            Self::SkipSerializingIf => "skip_serializing_if",
            Self::Tag => "tag",
            Self::Untagged => "untagged",
            Self::Skip => "skip",
            Self::SkipSerializing => "skip_serializing",
            Self::SkipDeserializing => "skip_deserializing",
            Self::RenameAll => "rename_all",
            Self::Rename => "rename",
            Self::Alias => "alias",
            Self::Default => "default",
            Self::With => "with",
            Self::SerializeWith => "serialize_with",
            Self::DeserializeWith => "deserialize_with",
            Self::Into => "into",
            Self::From => "from",
            Self::TryFrom => "try_from",
            Self::Transparent => "transparent",
        }
    }

    /// Whether the field is missing from the payload in at least one direction.
    pub(crate) const fn loses_field(self) -> bool {
        matches!(
            self,
            Self::Skip | Self::SkipSerializing | Self::SkipDeserializing
        )
    }

    /// Whether a codec that knows fields by their position only cannot carry the struct.
    pub(crate) const fn breaks_positions(self) -> bool {
        matches!(
            self,
            Self::Flatten
                | Self::SkipSerializingIf
                | Self::Tag
                | Self::Untagged
                | Self::SkipSerializing
                | Self::SkipDeserializing
        )
    }
}
