//! A crate with strict lints can derive.
#![deny(
    missing_docs,
    unsafe_code,
    unused,
    unreachable_pub,
    unused_qualifications,
    rust_2018_idioms,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic
)]

/// Entities.
pub mod entities {
    use larder::{Cached, Columns};
    use serde::{Deserialize, Serialize};

    /// A flight.
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "flights", ttl = "10m")]
    pub struct Flight {
        /// Its id.
        #[cached(id, generated)]
        pub id: i64,
        /// Where it goes.
        #[sqlx(flatten)]
        pub route: Route,
    }

    /// From where to where.
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Columns)]
    pub struct Route {
        /// From here.
        pub origin: String,
    }

    // Nobody uses its repository, and that is no dead code of the user's.
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "gates", tags("gates", "next:{next}"))]
    pub(crate) struct Gate {
        #[cached(id)]
        pub(crate) name: String,
        #[cached(unique, immutable, belongs_to = Gate)]
        pub(crate) next: Option<String>,
        #[cached(index)]
        pub(crate) hall: i64,
    }
}

fn main() {
    let gate = entities::Gate {
        name: "A1".to_owned(),
        next: None,
        hall: 1,
    };
    println!("{gate:?} {} {:?} {}", gate.name, gate.next, gate.hall);
}
