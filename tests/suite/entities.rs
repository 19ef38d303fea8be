//! The rows of the items: the table that most tests use, and the entities that several of them share.
//!
//! [`of_items!`] makes an entity of that table with keys of its own. A test whose claim is about these keys makes it beside the
//! claim.
//!
//! Not here: entities of other tables, which belong to the claims they are made for.

/// The table of the items.
pub(crate) const ITEMS: &str = "CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL, note VARCHAR(200), quantity BIGINT NOT NULL)";

/// Makes an entity of the items with these attributes.
macro_rules! of_items {
    ($(#[$($attribute:tt)*])* $visibility:vis struct $name:ident) => {
        #[derive(
            Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, sqlx::FromRow, larder::Cached,
        )]
        #[cached(table = "items")]
        $(#[$($attribute)*])*
        $visibility struct $name {
            #[cached(id)]
            $visibility id: i64,
            $visibility name: String,
            $visibility note: Option<String>,
            $visibility quantity: i64,
        }
    };
}

pub(crate) use of_items;

of_items! {
    /// The row that most tests read and write.
    #[cached(
        ttl = "10m",
        negative_ttl = "30s",
        jitter = 0,
        lease(ttl = "20s", wait = "10s")
    )]
    pub(crate) struct Item
}

of_items! {
    /// The same row, written through.
    #[cached(
        strategy = "write_through",
        ttl = "10m",
        negative_ttl = "30s",
        jitter = 0,
        lease(ttl = "20s", wait = "10s")
    )]
    pub(crate) struct Through
}

of_items! {
    /// The same row, written behind.
    #[cached(
        strategy = "write_behind",
        durability = "memory",
        linger = "1ms",
        ttl = "10m",
        negative_ttl = "30s",
        jitter = 0,
        lease(ttl = "20s", wait = "10s")
    )]
    pub(crate) struct Behind
}

of_items! {
    /// The same row, whose queue is kept in a journal.
    #[cached(strategy = "write_behind", journal = "items.journal")]
    pub(crate) struct Kept
}

macro_rules! made_of_id_and_name {
    ($($name:ident),*) => {
        $(
            impl $name {
                pub(crate) fn new(id: i64, name: &str) -> Self {
                    Self {
                        id,
                        name: name.to_owned(),
                        note: None,
                        quantity: 1,
                    }
                }
            }
        )*
    };
}

pub(crate) use made_of_id_and_name;

made_of_id_and_name!(Item, Through, Behind, Kept);
