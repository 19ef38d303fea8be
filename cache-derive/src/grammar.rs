//! The grammar of `#[cached(..)]`: every key, where it may stand, the form of its value, one correct example.
//!
//! Messages, the reference in `docs/attributes.md` and the tests all start from this table, so a key cannot be added
//! without an example, and an example cannot be wrong without a test failing.

/// What a key is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The entity, or a nested struct.
    Struct,
    /// One field.
    Field,
    /// The parentheses of `lease(..)`.
    Lease,
    /// The parentheses of `intent(..)`.
    Intent,
    /// The parentheses of `unique(..)`.
    Unique,
    /// The parentheses of `index(..)`.
    Index,
}

impl Place {
    /// The place in the words of a message, after "belongs".
    pub(crate) const fn belongs(self) -> &'static str {
        match self {
            Self::Struct => "on the struct",
            Self::Field => "on a field",
            Self::Lease => "inside `lease(..)`",
            Self::Intent => "inside `intent(..)`",
            Self::Unique => "inside `unique(..)`",
            Self::Index => "inside `index(..)`",
        }
    }

    /// The surroundings of a key in the words of a message.
    pub(crate) const fn surroundings(self) -> &'static str {
        match self {
            Self::Struct | Self::Field => "#[cached(..)]",
            Self::Lease => "lease(..)",
            Self::Intent => "intent(..)",
            Self::Unique => "unique(..)",
            Self::Index => "index(..)",
        }
    }
}

/// What stands after the name of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing.
    Flag,
    /// `= true` or `= false`.
    Switch,
    /// `= "text"`.
    Text,
    /// `= "10m"`.
    Duration,
    /// `= "10m"` or `= false`.
    DurationOrOff,
    /// `= "10ms"` or `= "0ms"`, at most so many milliseconds.
    Pause(u64),
    /// `= "256 KiB"`.
    Size,
    /// `= 4`, in these limits.
    Number { least: u64, most: Option<u64> },
    /// `= 0.1`, at least 0 and below 1.
    Share,
    /// `= "word"`, one of these.
    Choice(&'static [&'static str]),
    /// `= path` or `= "path"`.
    Path,
    /// `= "Name"`, an identifier.
    Name,
    /// `(..)` with keys of its own.
    Group(Place),
    /// Nothing on a field, or `(..)` with the names of fields and keys of its own.
    Lookup(Place),
    /// `= path` or `(path, name = "word")`.
    Relation,
    /// `("text", "text")`.
    Texts,
    /// `(path, path)`.
    Paths,
}

impl Form {
    /// What the key expects, in the words of a message.
    pub(crate) fn expects(self) -> String {
        match self {
            Self::Flag => "no value".to_owned(),
            Self::Switch => "`true` or `false`".to_owned(),
            Self::Text => "a string".to_owned(),
            Self::Duration => "a duration".to_owned(),
            Self::DurationOrOff => "a duration or `false`".to_owned(),
            Self::Pause(most) => format!("a duration of at most {} s", most / 1000),
            Self::Size => "a size".to_owned(),
            Self::Number {
                least,
                most: Some(most),
            } => {
                format!("a whole number from {least} to {most}")
            }
            Self::Number { least, most: None } => {
                format!("a whole number of at least {least}")
            }
            Self::Share => "a number of at least 0 and below 1".to_owned(),
            Self::Choice(words) => format!(
                "one of {}",
                list(words.iter().map(|word| format!("\"{word}\"")))
            ),
            Self::Path => "the path of a crate".to_owned(),
            Self::Name => "the name of a type in a string".to_owned(),
            Self::Lookup(_) => "nothing, or names of fields and keys in parentheses".to_owned(),
            Self::Relation => "a path, or a path and `name = \"..\"` in parentheses".to_owned(),
            Self::Texts => "strings in parentheses".to_owned(),
            Self::Paths => "paths in parentheses".to_owned(),
            Self::Group(place) => format!("keys in parentheses: {}", list(names(place))),
        }
    }
}

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Its name.
    pub(crate) name: &'static str,
    /// Where it may stand.
    pub(crate) place: Place,
    /// What stands after its name.
    pub(crate) form: Form,
    /// What a correct use looks like, without the `#[cached(..)]` around it.
    pub(crate) example: &'static str,
}

impl Key {
    /// The line of a message that shows the way out.
    pub(crate) fn help(&self) -> String {
        format!("help: the correct form is `#[cached({})]`", self.example)
    }
}

/// Every key there is.
pub(crate) const KEYS: &[Key] = &[
    key("table", Place::Struct, Form::Text, r#"table = "flights""#),
    key("name", Place::Struct, Form::Text, r#"name = "OrderItem""#),
    key(
        "repository",
        Place::Struct,
        Form::Name,
        r#"repository = "Flights""#,
    ),
    key("read_only", Place::Struct, Form::Flag, "read_only"),
    key(
        "strategy",
        Place::Struct,
        Form::Choice(&["aside", "write_through", "write_behind"]),
        r#"strategy = "write_through""#,
    ),
    key(
        "after_triggers",
        Place::Struct,
        Form::Flag,
        "after_triggers",
    ),
    key(
        "gather_writes",
        Place::Struct,
        Form::Switch,
        "gather_writes = false",
    ),
    key(
        "coherence",
        Place::Struct,
        Form::Choice(&["ttl", "lease", "intent"]),
        r#"coherence = "intent""#,
    ),
    key(
        "on_outage",
        Place::Struct,
        Form::Choice(&["available", "consistent"]),
        r#"on_outage = "consistent""#,
    ),
    key("ttl", Place::Struct, Form::Duration, r#"ttl = "5m""#),
    key("jitter", Place::Struct, Form::Share, "jitter = 0.1"),
    key(
        "negative_ttl",
        Place::Struct,
        Form::DurationOrOff,
        r#"negative_ttl = "30s""#,
    ),
    key(
        "namespace",
        Place::Struct,
        Form::Text,
        r#"namespace = "billing""#,
    ),
    key("hash_tag", Place::Struct, Form::Flag, "hash_tag"),
    key(
        "codec",
        Place::Struct,
        Form::Choice(&["msgpack", "postcard", "json"]),
        r#"codec = "msgpack""#,
    ),
    key(
        "max_row",
        Place::Struct,
        Form::Size,
        r#"max_row = "256 KiB""#,
    ),
    key(
        "lease",
        Place::Struct,
        Form::Group(Place::Lease),
        r#"lease(ttl = "5s", wait = "100ms")"#,
    ),
    key(
        "intent",
        Place::Struct,
        Form::Group(Place::Intent),
        r#"intent(ttl = "10s")"#,
    ),
    key(
        "partitions",
        Place::Struct,
        Form::Number {
            least: 1,
            most: Some(256),
        },
        "partitions = 4",
    ),
    key(
        "max_pending",
        Place::Struct,
        Form::Number {
            least: 1,
            most: None,
        },
        "max_pending = 100_000",
    ),
    key(
        "on_full",
        Place::Struct,
        Form::Choice(&["flush", "refuse"]),
        r#"on_full = "refuse""#,
    ),
    key(
        "durability",
        Place::Struct,
        Form::Choice(&["fsync", "memory"]),
        r#"durability = "memory""#,
    ),
    key(
        "batch",
        Place::Struct,
        Form::Number {
            least: 1,
            most: Some(10_000),
        },
        "batch = 1_000",
    ),
    key(
        "linger",
        Place::Struct,
        Form::Pause(10_000),
        r#"linger = "10ms""#,
    ),
    key(
        "journal",
        Place::Struct,
        Form::Text,
        r#"journal = "/var/lib/app/queue""#,
    ),
    key(
        "unique",
        Place::Struct,
        Form::Lookup(Place::Unique),
        "unique(tenant, email)",
    ),
    key(
        "index",
        Place::Struct,
        Form::Lookup(Place::Index),
        r#"index(country, order_by = "created_at desc")"#,
    ),
    key(
        "has_many",
        Place::Struct,
        Form::Relation,
        "has_many(Book::author_id)",
    ),
    key(
        "tags",
        Place::Struct,
        Form::Texts,
        r#"tags("catalog", "country:{country}")"#,
    ),
    key(
        "on_delete",
        Place::Struct,
        Form::Paths,
        "on_delete(Comment::article_id)",
    ),
    key(
        "same_table",
        Place::Struct,
        Form::Paths,
        "same_table(UserName)",
    ),
    key("queries", Place::Struct, Form::Flag, "queries"),
    key(
        "select",
        Place::Struct,
        Form::Text,
        r#"select = "SELECT f.id, a.country FROM flights f JOIN airports a ON a.iata = f.origin""#,
    ),
    key(
        "depends_on",
        Place::Struct,
        Form::Paths,
        "depends_on(Flight, Airport)",
    ),
    key(
        "ttl_from",
        Place::Struct,
        Form::Text,
        r#"ttl_from = "expires_at""#,
    ),
    key("crate", Place::Struct, Form::Path, "crate = ::larder"),
    key("ttl", Place::Lease, Form::Duration, r#"lease(ttl = "5s")"#),
    key(
        "wait",
        Place::Lease,
        Form::Duration,
        r#"lease(wait = "100ms")"#,
    ),
    key(
        "ttl",
        Place::Intent,
        Form::Duration,
        r#"intent(ttl = "10s")"#,
    ),
    key("id", Place::Field, Form::Flag, "id"),
    key(
        "unique",
        Place::Field,
        Form::Lookup(Place::Unique),
        "unique",
    ),
    key(
        "fold",
        Place::Unique,
        Form::Choice(&["lower"]),
        r#"unique(fold = "lower")"#,
    ),
    key("index", Place::Field, Form::Lookup(Place::Index), "index"),
    key(
        "order_by",
        Place::Index,
        Form::Text,
        r#"index(order_by = "created_at desc")"#,
    ),
    key(
        "max",
        Place::Index,
        Form::Number {
            least: 1,
            most: Some(100_000),
        },
        "index(max = 1_000)",
    ),
    key(
        "fold",
        Place::Index,
        Form::Choice(&["lower"]),
        r#"index(fold = "lower")"#,
    ),
    key(
        "belongs_to",
        Place::Field,
        Form::Relation,
        "belongs_to = Author",
    ),
    key("immutable", Place::Field, Form::Flag, "immutable"),
    key("omit", Place::Field, Form::Flag, "omit"),
    key("generated", Place::Field, Form::Flag, "generated"),
    key("version", Place::Field, Form::Flag, "version"),
    key("skip", Place::Field, Form::Flag, "skip"),
];

/// The keys of the struct that are about the queue of `strategy = "write_behind"`.
pub(crate) const QUEUE: &[&str] = &[
    "partitions",
    "max_pending",
    "on_full",
    "durability",
    "batch",
    "linger",
    "journal",
];

const fn key(name: &'static str, place: Place, form: Form, example: &'static str) -> Key {
    Key {
        name,
        place,
        form,
        example,
    }
}

/// The key of this name at this place.
pub(crate) fn find(place: Place, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.place == place && key.name == name)
}

/// The key of this name at some other place.
pub(crate) fn find_elsewhere(place: Place, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.place != place && key.name == name)
}

/// The names of all keys at a place.
pub(crate) fn names(place: Place) -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .filter(move |key| key.place == place)
        .map(|key| key.name)
}

/// Names as a message lists them: each in backticks, with commas between.
pub(crate) fn list<T: AsRef<str>>(names: impl Iterator<Item = T>) -> String {
    let quoted: Vec<String> = names.map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(", ")
}
