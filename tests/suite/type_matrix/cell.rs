//! An entity with one column of any type: the Rust type is chosen at run time, so that all of them share the code of one
//! repository.
//!
//! [`RustType`] has the functions that the derive would generate for a field of the type. The cells of a database use the
//! type that was chosen last ([`Matrix::chosen`]), so one test at a time may use them.

use std::{any::Any, fmt, marker::PhantomData, sync::Arc, sync::Mutex};

use larder::{
    __private::{
        BindResult, Binder, Column, ColumnList, Columns, Entity, EntitySpec, Field, Fields,
        FromRow, Nullable, ProbeFallback as _, Role, Source, bindings,
    },
    Backend,
    writes::{ById, ToDatabase},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use sqlx::{ColumnIndex, Decode, MySql, Postgres, Row, Sqlite};

use crate::world::Tested;

/// A database with cells.
pub(crate) trait Matrix: Tested {
    /// The Rust type of the cells.
    fn chosen() -> &'static Mutex<Option<Arc<RustType<Self>>>>;

    /// Returns the Rust type of the cells.
    fn rust_type() -> Arc<RustType<Self>> {
        let chosen = Self::chosen().lock().expect("no holder panics");
        Arc::clone(chosen.as_ref().expect("a type was chosen"))
    }
}

macro_rules! with_cells {
    ($($database:ident),*) => {$(
        impl Matrix for $database {
            fn chosen() -> &'static Mutex<Option<Arc<RustType<Self>>>> {
                static CHOSEN: Mutex<Option<Arc<RustType<$database>>>> = Mutex::new(None);
                &CHOSEN
            }
        }

        impl Entity for Cell<$database> {
            type Id = i64;
            type Writes = ToDatabase;
            type Deletes = ById;
            const SPEC: EntitySpec = EntitySpec::new("Cell", "cells", 1);
            fn id(&self) -> i64 {
                self.id
            }
            bindings! { Cell<$database> }
        }

        // All databases are known here, so there is no message to compose.
        impl Fields for Cell<$database> {
            const FIELDS: &'static [Field] = &[];
        }

        impl Columns<$database> for Cell<$database> {
            fn describe(columns: &mut ColumnList<$database>) {
                columns.column::<i64>("id", Role::Id, Nullable::No);
                ($database::rust_type().describe)(columns);
            }

            fn bind(&self, values: &mut Binder<'_, $database>) -> BindResult {
                values.value(Role::Id, &self.id)?;
                ($database::rust_type().bind)(&self.value, values)
            }
        }

        impl Source<$database> for Cell<$database> {
            fn bind_id(id: &i64, values: &mut Binder<'_, $database>) -> BindResult {
                values.value(Role::Id, id)
            }
        }

        impl<'r> FromRow<'r, <$database as sqlx::Database>::Row> for Cell<$database> {
            fn from_row(row: &'r <$database as sqlx::Database>::Row) -> Result<Self, sqlx::Error> {
                let value = ($database::rust_type().decode)(row)?;
                Ok(Self::new(row.try_get(0)?, &value))
            }
        }
    )*};
}

with_cells!(Postgres, MySql, Sqlite);

/// A value of some type.
#[derive(Clone)]
pub(crate) struct Value(Arc<dyn Held>);

trait Held: Any + Send + Sync {
    fn json(&self) -> serde_json::Value;
    fn shown(&self) -> String;
    fn is(&self, other: &dyn Any) -> bool;
    fn any(&self) -> &dyn Any;
}

/// What a field of an entity can hold.
pub(crate) trait Plain:
    Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<T> Plain for T where
    T: Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<T: Plain> Held for T {
    fn json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("the value can be written as JSON")
    }

    fn shown(&self) -> String {
        format!("{self:?}")
    }

    fn is(&self, other: &dyn Any) -> bool {
        // A NaN is not equal to itself, and its text is.
        other
            .downcast_ref::<T>()
            .is_some_and(|other| self == other || self.shown() == other.shown())
    }

    fn any(&self) -> &dyn Any {
        self
    }
}

impl Value {
    pub(crate) fn new<T: Plain>(value: T) -> Self {
        Self(Arc::new(value))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        self.0.json()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.shown())
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(other.0.any())
    }
}

/// A value of the type, and how other programs write it.
pub(crate) struct Sample {
    pub(crate) value: Value,
    /// Whether applications have such values every day.
    pub(crate) is_usual: bool,
    /// Its SQL in a column of texts.
    pub(crate) text: Option<&'static str>,
    /// Its SQL in a column of bytes, or of anything.
    pub(crate) natural: Option<&'static str>,
}

/// A Rust type as the field of an entity in a database.
pub(crate) struct RustType<DB: Backend> {
    pub(crate) name: &'static str,
    pub(crate) samples: Vec<Sample>,
    describe: fn(&mut ColumnList<DB>),
    bind: fn(&Value, &mut Binder<'_, DB>) -> BindResult,
    decode: fn(&DB::Row) -> Result<Value, sqlx::Error>,
    from_json: fn(serde_json::Value) -> Result<Value, serde_json::Error>,
}

impl<DB: Backend> RustType<DB>
where
    usize: ColumnIndex<DB::Row>,
{
    pub(crate) fn new<T>(name: &'static str, nullable: Nullable, samples: Vec<Sample>) -> Self
    where
        T: Plain + Column<DB> + for<'r> Decode<'r, DB>,
    {
        Self {
            name,
            samples,
            describe: match nullable {
                Nullable::No => |columns| columns.column::<T>("value", Role::Plain, Nullable::No),
                Nullable::Yes => |columns| columns.column::<T>("value", Role::Plain, Nullable::Yes),
            },
            bind: |value, binder| {
                let value: &T = value.0.any().downcast_ref().expect("the chosen type");
                binder.value(Role::Plain, value)
            },
            decode: |row| row.try_get::<T, usize>(1).map(Value::new),
            from_json: |json| serde_json::from_value::<T>(json).map(Value::new),
        }
    }
}

impl<DB: Backend> RustType<DB> {
    /// Returns the value that SQL writes as a number or a text, if the type has it.
    pub(crate) fn written(&self, sql: &str) -> Option<Value> {
        let json = match sql
            .strip_prefix('\'')
            .and_then(|sql| sql.strip_suffix('\''))
        {
            Some(text) => serde_json::Value::from(text),
            None => serde_json::from_str(sql).ok()?,
        };
        (self.from_json)(json).ok()
    }
}

/// A row of a table with one column.
pub(crate) struct Cell<DB> {
    pub(crate) id: i64,
    pub(crate) value: Value,
    database: PhantomData<fn() -> DB>,
}

impl<DB> Cell<DB> {
    pub(crate) fn new(id: i64, value: &Value) -> Self {
        Self {
            id,
            value: value.clone(),
            database: PhantomData,
        }
    }
}

impl<DB> Clone for Cell<DB> {
    fn clone(&self) -> Self {
        Self::new(self.id, &self.value)
    }
}

impl<DB> Serialize for Cell<DB> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.id, self.value.json()).serialize(serializer)
    }
}

impl<'de, DB: Matrix> Deserialize<'de> for Cell<DB> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, json) = Deserialize::deserialize(deserializer)?;
        let value = (DB::rust_type().from_json)(json).map_err(serde::de::Error::custom)?;
        Ok(Self::new(id, &value))
    }
}
