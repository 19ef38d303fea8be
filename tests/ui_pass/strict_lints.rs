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
    #[cached(
        table = "gates",
        tags("gates", "next:{next}"),
        on_delete(Gate::next),
        same_table(GateName),
        queries
    )]
    pub(crate) struct Gate {
        #[cached(id)]
        pub(crate) name: String,
        #[cached(unique, immutable, belongs_to = Gate)]
        pub(crate) next: Option<String>,
        #[cached(index)]
        pub(crate) hall: i64,
    }

    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "gates", read_only)]
    pub(crate) struct GateName {
        #[cached(id)]
        pub(crate) name: String,
    }

    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(
        select = "SELECT hall AS id, COUNT(*) AS gates FROM gates GROUP BY hall",
        depends_on(Gate)
    )]
    pub(crate) struct Hall {
        #[cached(id)]
        pub(crate) id: i64,
        #[cached(index)]
        pub(crate) gates: i64,
    }
}

/// Sessions.
pub mod sessions {
    use larder::Cached;
    use serde::{Deserialize, Serialize};

    /// A session.
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "sessions", ttl_from = "expires_at")]
    pub struct Session {
        /// Its id.
        #[cached(id)]
        pub id: i64,
        /// When it ends.
        pub expires_at: Option<chrono::DateTime<chrono::Utc>>,
        /// What proves that it is one.
        #[cached(omit)]
        pub secret: Option<String>,
    }

    /// Finds one that was loaded just now.
    pub async fn find(sessions: &SessionRepository<sqlx::Sqlite>) -> bool {
        let read = sessions.find(1).max_age(std::time::Duration::ZERO);
        read.await.is_ok_and(|session| session.is_some())
    }

    /// Finds one with its secret.
    pub async fn complete(sessions: &SessionRepository<sqlx::Sqlite>) -> bool {
        let read = sessions.find(1).complete();
        read.await.is_ok_and(|session| session.is_some_and(|session| session.secret.is_some()))
    }
}

fn main() {
    let _ = (sessions::find, sessions::complete);
    let gate = entities::Gate {
        name: "A1".to_owned(),
        next: None,
        hall: 1,
    };
    println!("{gate:?} {} {:?} {}", gate.name, gate.next, gate.hall);
}
