//! The databases that larder supports: one sealed trait over sqlx's drivers.
//!
//! Otherwise code that is generic over the database would repeat sqlx's bounds on every function. The macro at the end
//! of this file meets them once, and all other code needs only `DB: Backend`.

use std::future::Future;
#[cfg(any(feature = "postgres", feature = "mysql"))]
use std::path::PathBuf;
#[cfg(feature = "sqlite")]
use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::{
    Connection, Database, Decode, Executor, Pool, Row, SqlStr, Type, error::BoxDynError,
    pool::PoolConnection, query_with, types::Json,
};

#[cfg(feature = "postgres")]
use crate::database::postgres_array;
#[cfg(feature = "sqlite")]
use crate::database::sqlite_value;
use crate::database::{
    column::{Array, Column, ColumnSpec},
    dialect::Dialect,
    endpoint,
    entity::Entity,
    fit::{self, Declared, Fit},
    source::Binding,
    stale_plan,
};

mod sealed {
    pub trait Sealed {}
}

/// A database that larder can read and write: `sqlx::Postgres`, `sqlx::MySql` (also for MariaDB) or `sqlx::Sqlite`.
/// Each needs the feature of its name. The trait is sealed: other crates cannot implement it.
#[diagnostic::on_unimplemented(
    message = "larder cannot use the database `{Self}`",
    note = "the supported ones are `sqlx::Postgres`, `sqlx::MySql` and `sqlx::Sqlite`; each needs the larder feature of its name"
)]
pub trait Backend: Database + sealed::Sealed + Sync {
    /// The SQL dialect of the database.
    #[doc(hidden)]
    const DIALECT: Dialect;

    /// The column type that holds JSON.
    #[doc(hidden)]
    type JsonValue: Type<Self>;

    /// Names the binding of an entity to this database.
    #[doc(hidden)]
    type Of<E: Entity>: Bound<E, Self>;

    /// A JSON value or `NULL` as it is sent.
    #[doc(hidden)]
    type Json: Column<Self>;

    /// A JSON value, or `NULL`.
    #[doc(hidden)]
    fn json(json: Option<Box<RawValue>>) -> Self::Json;

    /// Returns the size of a value in a message to the database, in bytes, or zero if nothing is sent.
    #[doc(hidden)]
    fn size_of<T: Column<Self>>(_value: &T) -> Result<usize, BoxDynError> {
        Ok(0)
    }

    /// Appends a value as it would be bound. Returns whether it is `NULL`, which appends nothing. The bytes are
    /// compared with those of other values of the same type, and not sent.
    #[doc(hidden)]
    fn append<T: Column<Self>>(bytes: &mut Vec<u8>, value: &T) -> Result<bool, BoxDynError>;

    /// Returns the JSON texts inside an appended value, if columns of this type hold JSON.
    #[doc(hidden)]
    fn json_texts<'v>(column: &Self::TypeInfo, value: &'v [u8]) -> Option<Vec<&'v [u8]>>;

    /// Returns whether a batch can send the values of a column of this type as one array.
    #[doc(hidden)]
    fn has_arrays_of(_column: &Self::TypeInfo) -> bool {
        false
    }

    /// Adds a value to an array.
    #[doc(hidden)]
    fn add_element<T: Column<Self>>(_array: &mut Array, _value: &T) -> Result<(), BoxDynError> {
        Err(format!("{} has no arrays", Self::NAME).into())
    }

    /// Appends an array of values of the given type.
    #[doc(hidden)]
    fn add_array(
        _arguments: &mut Self::Arguments,
        _array: Array,
        _column: &Self::TypeInfo,
    ) -> Result<(), BoxDynError> {
        Err(format!("{} has no arrays", Self::NAME).into())
    }

    /// Runs a statement and returns its first row, if any.
    #[doc(hidden)]
    fn fetch(
        connection: &mut Self::Connection,
        sql: SqlStr,
        arguments: Self::Arguments,
    ) -> impl Future<Output = Result<Option<Self::Row>, sqlx::Error>> + Send;

    /// Runs a statement and returns all of its rows.
    #[doc(hidden)]
    fn fetch_all(
        connection: &mut Self::Connection,
        sql: SqlStr,
        arguments: Self::Arguments,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;

    /// Runs a statement that returns no rows.
    #[doc(hidden)]
    fn execute(
        connection: &mut Self::Connection,
        sql: SqlStr,
        arguments: Self::Arguments,
    ) -> impl Future<Output = Result<Executed, sqlx::Error>> + Send;

    /// Runs statements without parameters.
    #[doc(hidden)]
    fn run(
        connection: &mut Self::Connection,
        sql: SqlStr,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Returns the types of the columns that a statement returns, in order.
    #[doc(hidden)]
    fn column_types(
        connection: &mut Self::Connection,
        sql: SqlStr,
    ) -> impl Future<Output = Result<Vec<Self::TypeInfo>, sqlx::Error>> + Send;

    /// Returns how well a field fits a column, by its declared type and the type that the driver returns.
    #[doc(hidden)]
    fn fit(field: &ColumnSpec<Self>, declared: &Declared, actual: &Self::TypeInfo) -> Fit;

    /// Reads a column.
    #[doc(hidden)]
    fn read<'r, T: Decode<'r, Self> + Type<Self>>(
        row: &'r Self::Row,
        index: usize,
    ) -> Result<T, sqlx::Error>;

    /// Reads a column whose value is stored as a `Stored`.
    #[doc(hidden)]
    fn read_converted<'r, Stored, T>(row: &'r Self::Row, index: usize) -> Result<T, sqlx::Error>
    where
        Stored: Decode<'r, Self> + Type<Self>,
        T: TryFrom<Stored>,
        T::Error: Into<BoxDynError>,
    {
        let stored = Self::read::<Stored>(row, index)?;
        T::try_from(stored).map_err(|error| sqlx::Error::Decode(error.into()))
    }

    /// Reads a text column.
    #[doc(hidden)]
    fn text(row: &Self::Row, index: usize) -> Result<Option<String>, sqlx::Error>;

    /// Appends a text value or `NULL`.
    #[doc(hidden)]
    fn add_text(arguments: &mut Self::Arguments, text: Option<&str>) -> Result<(), BoxDynError>;

    /// Reads an integer column.
    #[doc(hidden)]
    fn integer(row: &Self::Row, index: usize) -> Result<i64, sqlx::Error>;

    /// Appends an integer.
    #[doc(hidden)]
    fn add_integer(arguments: &mut Self::Arguments, integer: i64) -> Result<(), BoxDynError>;

    /// Reads a column of bytes.
    #[doc(hidden)]
    fn bytes(row: &Self::Row, index: usize) -> Result<Vec<u8>, sqlx::Error>;

    /// Appends bytes.
    #[doc(hidden)]
    fn add_bytes(arguments: &mut Self::Arguments, bytes: &[u8]) -> Result<(), BoxDynError>;

    /// Appends the id that the database generated, for the statement that reads the new row back.
    #[doc(hidden)]
    fn add_generated_id(_arguments: &mut Self::Arguments, _id: u64) -> Result<(), BoxDynError> {
        Err(format!("{} returns the row instead", Self::NAME).into())
    }

    /// Returns the endpoint of a pool, from its options. Pools with equal endpoints connect to the same database.
    #[doc(hidden)]
    fn endpoint(pool: &Pool<Self>) -> String;

    /// Takes a connection out of the pool.
    #[doc(hidden)]
    fn acquire(
        pool: &Pool<Self>,
    ) -> impl Future<Output = Result<PoolConnection<Self>, sqlx::Error>> + Send {
        pool.acquire()
    }
}

/// The result of a statement without rows.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Executed {
    /// How many rows the statement matched.
    pub rows: u64,
    /// The id the database generated, where the protocol reports it.
    pub generated_id: Option<u64>,
}

/// The constant behind [`Backend::Of`].
#[doc(hidden)]
pub trait Bound<E: Entity, DB: Backend> {
    /// The functions of the entity, if all of its columns fit the database.
    const BINDING: Option<Binding<E, DB>>;
}

/// Runs a prepared statement. If the server refuses it because it was prepared before its table was altered, runs it once
/// more, freshly prepared.
macro_rules! run_prepared {
    ($connection:ident, $method:ident, $sql:ident, $arguments:ident) => {{
        let spare = Self::DIALECT
            .keeps_plans()
            .then(|| ($sql.clone(), $arguments.clone()));
        let done = (&mut *$connection)
            .$method(query_with($sql, $arguments))
            .await;
        match (done, spare) {
            (Err(refusal), Some((sql, arguments))) if stale_plan::is_refused(&refusal) => {
                $connection.clear_cached_statements().await?;
                let again = $connection.$method(query_with(sql, arguments)).await;
                again.map_err(|error| stale_plan::final_error(refusal, error))
            }
            (done, _) => done,
        }
    }};
}

macro_rules! backend {
    ($database:ident, $feature:literal, $dialect:ident, $constant:ident, $bound:ident, $generated_id:expr, {$($arrays:item)*}) => {
        #[cfg(feature = $feature)]
        impl sealed::Sealed for sqlx::$database {}

        /// Names the binding of an entity to this database.
        #[cfg(feature = $feature)]
        #[doc(hidden)]
        #[derive(Debug)]
        pub struct $bound<E>(std::marker::PhantomData<E>);

        #[cfg(feature = $feature)]
        impl<E: Entity> Bound<E, sqlx::$database> for $bound<E> {
            const BINDING: Option<Binding<E, sqlx::$database>> = E::$constant;
        }

        #[cfg(feature = $feature)]
        impl Backend for sqlx::$database {
            const DIALECT: Dialect = Dialect::$dialect;
            type JsonValue = Json<serde_json::Value>;
            type Of<E: Entity> = $bound<E>;

            type Json = Option<Json<Box<RawValue>>>;

            fn json(json: Option<Box<RawValue>>) -> Self::Json {
                json.map(Json)
            }

            $($arrays)*

            async fn fetch(
                connection: &mut Self::Connection,
                sql: SqlStr,
                arguments: Self::Arguments,
            ) -> Result<Option<Self::Row>, sqlx::Error> {
                run_prepared!(connection, fetch_optional, sql, arguments)
            }

            async fn fetch_all(
                connection: &mut Self::Connection,
                sql: SqlStr,
                arguments: Self::Arguments,
            ) -> Result<Vec<Self::Row>, sqlx::Error> {
                run_prepared!(connection, fetch_all, sql, arguments)
            }

            async fn execute(
                connection: &mut Self::Connection,
                sql: SqlStr,
                arguments: Self::Arguments,
            ) -> Result<Executed, sqlx::Error> {
                let result = run_prepared!(connection, execute, sql, arguments)?;
                let generated_id: fn(&Self::QueryResult) -> Option<u64> = $generated_id;
                Ok(Executed {
                    rows: result.rows_affected(),
                    generated_id: generated_id(&result),
                })
            }

            async fn run(
                connection: &mut Self::Connection,
                sql: SqlStr,
            ) -> Result<(), sqlx::Error> {
                connection.execute(sqlx::raw_sql(sql)).await.map(drop)
            }

            async fn column_types(
                connection: &mut Self::Connection,
                sql: SqlStr,
            ) -> Result<Vec<Self::TypeInfo>, sqlx::Error> {
                use sqlx::{Column as _, Statement as _};
                // An earlier check on this connection has left its statement, with the types that the columns had then.
                connection.clear_cached_statements().await?;
                let statement = connection.prepare(sql).await?;
                Ok(statement
                    .columns()
                    .iter()
                    .map(|column| column.type_info().clone())
                    .collect())
            }

            fn read<'r, T: Decode<'r, Self> + Type<Self>>(
                row: &'r Self::Row,
                index: usize,
            ) -> Result<T, sqlx::Error> {
                row.try_get(index)
            }

            fn text(row: &Self::Row, index: usize) -> Result<Option<String>, sqlx::Error> {
                row.try_get(index)
            }

            fn add_text(
                arguments: &mut Self::Arguments,
                text: Option<&str>,
            ) -> Result<(), BoxDynError> {
                sqlx::Arguments::add(arguments, text)
            }

            fn integer(row: &Self::Row, index: usize) -> Result<i64, sqlx::Error> {
                row.try_get(index)
            }

            fn add_integer(
                arguments: &mut Self::Arguments,
                integer: i64,
            ) -> Result<(), BoxDynError> {
                sqlx::Arguments::add(arguments, integer)
            }

            fn bytes(row: &Self::Row, index: usize) -> Result<Vec<u8>, sqlx::Error> {
                row.try_get(index)
            }

            fn add_bytes(
                arguments: &mut Self::Arguments,
                bytes: &[u8],
            ) -> Result<(), BoxDynError> {
                sqlx::Arguments::add(arguments, bytes)
            }
        }
    };
}

backend!(
    Postgres,
    "postgres",
    Postgres,
    POSTGRES,
    PostgresBound,
    |_| None,
    {
        fn fit(field: &ColumnSpec<Self>, declared: &Declared, actual: &Self::TypeInfo) -> Fit {
            fit::postgres::fit(field, declared, actual)
        }

        fn endpoint(pool: &Pool<Self>) -> String {
            let options = pool.connect_options();
            let name = options.get_database().unwrap_or(options.get_username());
            let socket = options.get_socket().map(PathBuf::as_path);
            endpoint::of_server(options.get_host(), socket, options.get_port(), name)
        }

        fn size_of<T: Column<Self>>(value: &T) -> Result<usize, BoxDynError> {
            let mut encoded = sqlx::postgres::PgArgumentBuffer::default();
            let _is_null = value.encode_by_ref(&mut encoded)?;
            Ok(encoded.len())
        }

        fn append<T: Column<Self>>(bytes: &mut Vec<u8>, value: &T) -> Result<bool, BoxDynError> {
            Ok(postgres_array::append(bytes, value)?.is_null())
        }

        fn json_texts<'v>(column: &Self::TypeInfo, value: &'v [u8]) -> Option<Vec<&'v [u8]>> {
            postgres_array::json_texts(column, value)
        }

        fn has_arrays_of(column: &Self::TypeInfo) -> bool {
            postgres_array::oid_of(column).is_some()
        }

        fn add_element<T: Column<Self>>(array: &mut Array, value: &T) -> Result<(), BoxDynError> {
            postgres_array::add_element(array, value)
        }

        fn add_array(
            arguments: &mut Self::Arguments,
            array: Array,
            column: &Self::TypeInfo,
        ) -> Result<(), BoxDynError> {
            postgres_array::add_array(arguments, &array, column)
        }
    }
);
backend!(
    MySql,
    "mysql",
    MySql,
    MYSQL,
    MySqlBound,
    |result| Some(result.last_insert_id()),
    {
        fn fit(field: &ColumnSpec<Self>, declared: &Declared, actual: &Self::TypeInfo) -> Fit {
            fit::mysql::fit(field, declared, actual)
        }

        fn add_generated_id(arguments: &mut Self::Arguments, id: u64) -> Result<(), BoxDynError> {
            // Unsigned, as the protocol reports it: a BIGINT UNSIGNED may exceed an i64.
            sqlx::Arguments::add(arguments, id)
        }

        fn endpoint(pool: &Pool<Self>) -> String {
            let options = pool.connect_options();
            let name = options.get_database().unwrap_or_default();
            let socket = options.get_socket().map(PathBuf::as_path);
            endpoint::of_server(options.get_host(), socket, options.get_port(), name)
        }

        fn size_of<T: Column<Self>>(value: &T) -> Result<usize, BoxDynError> {
            let mut encoded = Vec::new();
            let _is_null = value.encode_by_ref(&mut encoded)?;
            Ok(encoded.len())
        }

        fn append<T: Column<Self>>(bytes: &mut Vec<u8>, value: &T) -> Result<bool, BoxDynError> {
            Ok(value.encode_by_ref(bytes)?.is_null())
        }

        fn json_texts<'v>(column: &Self::TypeInfo, value: &'v [u8]) -> Option<Vec<&'v [u8]>> {
            // A text begins with its length: one byte, or a byte with the number of length bytes that follow.
            let length = match value.first()? {
                0xFC => 3,
                0xFD => 4,
                0xFE => 9,
                _ => 1,
            };
            let is_json = *column == <Self::JsonValue as Type<Self>>::type_info();
            is_json.then(|| value.get(length..).into_iter().collect())
        }
    }
);
backend!(Sqlite, "sqlite", Sqlite, SQLITE, SqliteBound, |_| None, {
    fn fit(field: &ColumnSpec<Self>, declared: &Declared, _actual: &Self::TypeInfo) -> Fit {
        fit::sqlite::fit(field, declared)
    }

    fn append<T: Column<Self>>(bytes: &mut Vec<u8>, value: &T) -> Result<bool, BoxDynError> {
        sqlite_value::append(bytes, value)
    }

    fn json_texts<'v>(column: &Self::TypeInfo, value: &'v [u8]) -> Option<Vec<&'v [u8]>> {
        let is_json = *column == <Self::JsonValue as Type<Self>>::type_info();
        is_json.then(|| sqlite_value::text(value).into_iter().collect())
    }

    fn endpoint(pool: &Pool<Self>) -> String {
        let options = pool.connect_options();
        // The options show only in this way that `mode=memory` was requested.
        let in_memory = format!("{options:?}").contains("in_memory: true");
        endpoint::of_file(
            options.get_filename(),
            in_memory,
            Arc::as_ptr(&options).addr(),
        )
    }
});
