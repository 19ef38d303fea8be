//! An entity in a nested module may use types that are private to it.
#![deny(warnings)]
#![allow(dead_code, reason = "the types are only derived")]

mod outer {
    mod inner {
        use larder::Cached;
        use serde::{Deserialize, Serialize};

        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::Type)]
        #[sqlx(transparent)]
        struct Number(String);

        #[derive(Clone, Debug, Serialize, Deserialize)]
        struct Meta {
            tags: Vec<String>,
        }

        #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = "flights")]
        struct Flight {
            #[cached(id)]
            number: Number,
            #[sqlx(json)]
            meta: Meta,
        }

        pub(crate) async fn find(cache: &larder::Cache, pool: sqlx::SqlitePool) -> bool {
            let flights = Flight::repository(cache, pool);
            flights.exists(Number("LH1".to_owned())).await.is_ok()
        }
    }

    pub(crate) use inner::find;
}

fn main() {
    let _ = outer::find;
}
