//! An entity of every kind compiles whatever has the names of parameters, locals, methods and types in its scope.
//!
//! A unit struct, a constant or a static of the name of a parameter turns the parameter into a pattern: route macros of web
//! frameworks leave unit structs with the names of functions. A trait that every type implements offers its methods before
//! those that take `&self`. A type parameter hides a type of the same name.
#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    non_camel_case_types,
    non_upper_case_globals,
    reason = "the names are only there to be in the way"
)]

/// Calls a macro with the names that are in the way.
macro_rules! with_names {
    ($macro:ident) => {
        $macro! {
            any_id binder cache change column columns conn connection database db e entities entity error f fields
            formatter id ids inner item items k list name other pool private r repository result role row rows s self_ spec
            stats t table transaction tx user users v value values within writes x
            all bind clone debug_struct delete describe find finish_non_exhaustive flatten flush get insert json new or_else
            save shadow try_new update
        }
    };
}

macro_rules! unit_structs {
    ($($name:ident)*) => { $(pub struct $name;)* };
}
macro_rules! tuple_structs {
    ($($name:ident)*) => { $(pub struct $name(u8);)* };
}
macro_rules! constants {
    ($($name:ident)*) => { $(pub const $name: u8 = 1;)* };
}
macro_rules! statics {
    ($($name:ident)*) => { $(pub static $name: u8 = 1;)* };
}
macro_rules! variants {
    ($($name:ident)*) => {
        pub enum Variants { $($name),* }
        pub use Variants::*;
    };
}
macro_rules! functions {
    ($($name:ident)*) => { $(pub fn $name() {})* };
}
/// Methods that take the value itself, for every type. The compiler tries them before those that take a reference.
macro_rules! traits {
    ($($name:ident)*) => {
        pub trait Taking: Sized {
            $(fn $name(self) {})*
        }
        impl<T> Taking for T {}
        pub trait Borrowing {
            $(fn $name(&self) {})*
        }
        impl<T: ?Sized> Borrowing for T {}
    };
}

/// Reads nothing: the derive of sqlx makes locals of the names of fields, so it needs a clean scope.
macro_rules! from_row {
    ($($row:ident)*) => {
        $(
            impl<'r, R: ::sqlx::Row> ::sqlx::FromRow<'r, R> for $row {
                fn from_row(_: &'r R) -> ::core::result::Result<Self, ::sqlx::Error> {
                    ::core::result::Result::Err(::sqlx::Error::RowNotFound)
                }
            }
        )*
    };
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, sqlx::Type)]
#[sqlx(transparent)]
pub struct Other(i64);

/// Defines an entity of every kind, whose fields have the names as well.
macro_rules! entities {
    () => {
        #[derive(Clone, serde::Serialize, serde::Deserialize, larder::Cached)]
        #[cached(table = "plain", ttl = "10m", lease(ttl = "3s"))]
        pub struct Plain {
            #[cached(id)]
            id: i64,
            row: ::std::string::String,
            pool: ::core::option::Option<i32>,
        }

        #[derive(Clone, serde::Serialize, serde::Deserialize, larder::Cached)]
        #[cached(table = "through", strategy = "write_through", negative_ttl = false)]
        pub struct Through {
            #[cached(id, generated)]
            ids: i64,
            #[cached(version)]
            change: i64,
            #[sqlx(json)]
            values: ::std::vec::Vec<i64>,
            #[sqlx(json(nullable))]
            rows: ::core::option::Option<::std::string::String>,
        }

        #[derive(Clone, serde::Serialize, serde::Deserialize, larder::Cached)]
        #[cached(table = "behind", strategy = "write_behind", partitions = 2)]
        pub struct Behind {
            #[cached(id)]
            transaction: i64,
            #[cached(generated)]
            cache: i64,
        }

        #[derive(Clone, serde::Serialize, serde::Deserialize, larder::Cached)]
        #[cached(table = "composite", repository = "Composites", codec = "json")]
        pub struct Composite {
            #[cached(id)]
            #[sqlx(try_from = "i64")]
            id: u64,
            #[cached(id)]
            row: ::std::string::String,
            #[sqlx(flatten)]
            columns: Nested,
            #[sqlx(skip)]
            #[serde(default)]
            other: ::core::option::Option<crate::Other>,
        }

        #[derive(Clone, serde::Serialize, serde::Deserialize, larder::Cached)]
        #[cached(
            table = "found",
            unique(user, name),
            index(find, values, order_by = "row desc"),
            has_many(Found::user, name = "rows"),
            has_many(Found::user, name = "repository"),
            tags("rows", "group:{user}", "{name}/{find}", "id {values}"),
            on_delete(Found::user),
            queries
        )]
        pub struct Found {
            #[cached(id)]
            id: i64,
            #[cached(immutable, index, belongs_to = Found)]
            user: i64,
            #[cached(unique(fold = "lower"))]
            name: ::std::string::String,
            #[cached(index)]
            #[sqlx(try_from = "i64")]
            find: u64,
            #[cached(index)]
            change: i64,
            #[cached(unique, belongs_to(Found, name = "query"))]
            values: ::core::option::Option<i64>,
            row: i64,
        }

        #[derive(Clone, serde::Serialize, serde::Deserialize, larder::Cached)]
        #[cached(table = "ending", ttl_from = "value")]
        pub struct Ending {
            #[cached(id)]
            id: i64,
            value: ::core::option::Option<::chrono::DateTime<::chrono::Utc>>,
            #[cached(omit)]
            row: ::core::option::Option<::std::string::String>,
        }

        #[derive(Clone, serde::Serialize, serde::Deserialize, larder::Columns)]
        pub struct Nested {
            #[sqlx(flatten)]
            inner: Deeper,
        }

        #[derive(Clone, serde::Serialize, serde::Deserialize, larder::Columns)]
        pub struct Deeper {
            value: crate::Other,
        }

        from_row! { Plain Through Behind Composite Found Ending Nested Deeper }
    };
}

mod beside_unit_structs {
    with_names!(unit_structs);
    entities!();
}
mod beside_tuple_structs {
    with_names!(tuple_structs);
    entities!();
}
mod beside_constants {
    with_names!(constants);
    entities!();
}
mod beside_statics {
    with_names!(statics);
    entities!();
}
mod beside_variants {
    with_names!(variants);
    entities!();
}
mod beside_functions {
    with_names!(functions);
    entities!();
}
mod beside_traits {
    with_names!(traits);
    entities!();
}
mod beside_imports {
    use super::beside_unit_structs::*;
    mod one_by_one {
        pub use super::super::beside_constants::{cache, change, id, ids, pool, row, rows, transaction};
        entities!();
    }
}
/// Items of a function are in scope in it.
fn beside_local_items() {
    with_names!(unit_structs);
    entities!();
    let _ = Plain::repository::<sqlx::Sqlite>;
}

/// Types and type parameters.
mod named_like_parameters {
    macro_rules! entities_of {
        ($($entity:ident($id:ty))*) => {
            $(
                #[derive(Clone, serde::Serialize, serde::Deserialize, sqlx::FromRow, larder::Cached)]
                #[cached(table = "named")]
                pub struct $entity {
                    #[cached(id)]
                    number: $id,
                }
            )*
        };
    }
    macro_rules! key {
        () => {
            DB
        };
    }
    pub mod entities {
        entities_of! { DB(i64) Id(i64) E(i64) T(i64) Db(i64) Backend(i64) Repository(i64) Cache(i64) Pool(i64) Entity(i64) }
        entities_of! { Future(i64) Send(i64) Sized(i64) Fields(i64) Columns(i64) Error(i64) cache(i64) row(i64) r#type(i64) }
    }
    mod ids {
        #[derive(Clone, serde::Serialize, serde::Deserialize, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct Id(i64);
        pub type DB = Id;
        entities_of! { Named(Id) ByDatabase(DB) ByPath(self::DB) Expanded(key!()) }
    }
    mod repositories {
        #[derive(Clone, serde::Serialize, serde::Deserialize, sqlx::FromRow, larder::Cached)]
        #[cached(table = "named", repository = "DB")]
        pub struct Database {
            #[cached(id)]
            number: i64,
        }
        // Written by hand, beside the generated one.
        pub struct UserRepository(pub Users<sqlx::Sqlite>);
        #[derive(Clone, serde::Serialize, serde::Deserialize, sqlx::FromRow, larder::Cached)]
        #[cached(table = "users", repository = "Users")]
        pub struct User {
            #[cached(id)]
            number: i64,
        }
        impl UserRepository {
            pub async fn exists(&self) -> bool {
                self.0.exists(1).await.unwrap_or(false)
            }
        }
        #[derive(Clone, serde::Serialize, serde::Deserialize, sqlx::FromRow, larder::Cached)]
        #[cached(table = "types", repository = "r#struct")]
        pub struct r#enum {
            #[cached(id)]
            number: i64,
        }
        pub fn of(rows: r#struct<sqlx::Sqlite>) -> r#struct<sqlx::Sqlite> {
            rows
        }
    }
}

/// Names of the prelude, of crates, and of macros.
mod beside_preludes {
    mod core {}
    mod std {}
    mod larder {}
    mod sqlx {}
    mod serde {}
    pub struct Option;
    pub struct Result;
    pub struct Vec;
    pub struct String;
    pub struct Arc;
    pub struct Box;
    pub struct Some;
    pub struct None;
    pub struct Ok;
    pub struct Err;
    pub struct Policy;
    pub struct Backend;
    pub struct Repository;
    pub trait Clone {}
    pub trait Send {}
    pub trait Sync {}
    pub trait Sized {}
    pub trait Default {}
    pub trait FnMut {}
    pub trait Future {}
    pub type bool = ();
    macro_rules! refused {
        ($d:tt $($name:ident)*) => {
            $(macro_rules! $name {
                ($d($d tokens:tt)*) => { compile_error!("the macro is not the one of core") };
            })*
        };
    }
    refused! { $ assert panic vec format matches bindings fits_any fits_each concat stringify }

    #[derive(
        ::core::clone::Clone, ::serde::Serialize, ::serde::Deserialize, ::sqlx::FromRow, ::larder::Cached,
    )]
    #[cached(table = "flights", strategy = "write_behind")]
    struct Flight {
        #[cached(id)]
        number: i64,
        gate: i32,
        #[sqlx(flatten)]
        route: Route,
    }

    #[derive(
        ::core::clone::Clone, ::serde::Serialize, ::serde::Deserialize, ::sqlx::FromRow, ::larder::Columns,
    )]
    struct Route {
        #[sqlx(json)]
        stops: ::std::vec::Vec<i64>,
    }
}

async fn used(
    plain: beside_unit_structs::PlainRepository<sqlx::Sqlite>,
    behind: beside_traits::BehindRepository<sqlx::Sqlite>,
    composites: beside_constants::Composites<sqlx::Sqlite>,
    mut transaction: larder::Transaction<'_, sqlx::Sqlite>,
) -> Result<(), larder::Error> {
    plain.find(1).await?;
    plain.find(1).ttl(std::time::Duration::MAX).await?;
    plain.within(&mut transaction).exists(&1).await?;
    behind.modify(1, |_| {}).await?;
    behind.dead_letters().list(1).await?;
    composites.find((1, String::new())).await?;
    composites.delete_many(&[(1, String::new())]).await?;
    Ok(())
}

fn main() {
    let _ = beside_unit_structs::Plain::repository::<sqlx::Sqlite>;
    let _ = beside_statics::Through::repository::<sqlx::Postgres>;
    let _ = beside_traits::Behind::try_repository::<sqlx::MySql>;
    let _ = named_like_parameters::entities::DB::repository::<sqlx::Sqlite>;
    let _ = used;
}
