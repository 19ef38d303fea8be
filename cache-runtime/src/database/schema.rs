//! Compares the table in the database with the struct, and reports all differences at once.
//!
//! Without it, mistakes appear only at run time: a renamed column, a `NULL` where the field is not an `Option`, an id
//! that is not the primary key (two rows, one cache key), a text id whose collation treats different texts as equal, or
//! a column that the database computes and that accepts no value.
//!
//! 1. The check reads the table's columns, primary key and collations from the catalogue.
//! 2. It prepares a statement that selects the struct's columns, and compares the returned types with those that the
//!    fields accept.
//!
//! This module also has the statements that create the tables of larder, for a migration.
//!
//! Not here: changing anything. The report is for a start-up check or a test.

use std::fmt;

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr, TypeInfo};

pub use crate::database::{
    database_id::{database_id_sql, database_sql, install},
    tables::{dead_letters_sql, offsets_sql},
};
use crate::{
    database::{
        self,
        backend::Backend,
        column::{ColumnSpec, Nullable},
        dialect::Dialect,
        entity::EntitySpec,
    },
    error::{Error, ErrorKind},
};

/// The result of [`check_schema`](crate::Repository::check_schema).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaReport {
    /// The name of the entity.
    pub entity: &'static str,
    /// The name of the table.
    pub table: &'static str,
    /// All mismatches between the table and the struct, in the order of the fields.
    pub differences: Vec<Difference>,
    /// Properties that work, but may be surprising.
    pub remarks: Vec<Difference>,
}

/// One mismatch, or one remark.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The column that it concerns, if any.
    pub column: Option<String>,
    /// What does not match, and how to correct it.
    pub message: String,
}

impl SchemaReport {
    /// Returns whether the table and the struct match. Remarks do not count.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.differences.is_empty()
    }

    /// Returns the report as an error, unless the table and the struct match.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] with the whole report as its message.
    pub fn into_result(self) -> Result<(), Error> {
        if self.is_ok() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Configuration, self.to_string()))
        }
    }
}

impl fmt::Display for SchemaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entity, table, .. } = self;
        if self.is_ok() {
            write!(f, "{entity} fits the table {table}")?;
        } else {
            write!(f, "{entity} does not fit the table {table}:")?;
        }
        for (mark, difference) in self
            .differences
            .iter()
            .map(|difference| ("", difference))
            .chain(self.remarks.iter().map(|remark| ("note: ", remark)))
        {
            match &difference.column {
                Some(column) => write!(f, "\n  {mark}column {column}: {}", difference.message)?,
                None => write!(f, "\n  {mark}{}", difference.message)?,
            }
        }
        Ok(())
    }
}

/// A column as the catalogue describes it.
struct Found {
    name: String,
    nullable: bool,
    in_primary_key: bool,
    has_default: bool,
    /// Whether the database computes the value and accepts none.
    computed: bool,
    /// The collation of a text column, where it is known not to compare byte for byte.
    folding: Option<String>,
    /// The type of a text column, where the database pads its values with blanks or strips them.
    padded: Option<String>,
}

/// Checks the columns when the repository is created, without asking the database. Fails for two fields with the same
/// column (one of them nested), and for ids whose values can be written in several ways: the database finds the row by
/// any of them, and the cache by only one.
pub(crate) fn check_columns<DB: Backend>(
    entity: &str,
    columns: &[ColumnSpec<DB>],
) -> Result<(), Error> {
    for (at, column) in columns.iter().enumerate() {
        if columns[..at].iter().any(|other| other.name == column.name) {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "two fields of {entity} are the column {}; rename one of them with `#[sqlx(rename = \"..\")]`, in the \
                     nested struct if the field is there",
                    column.name
                ),
            ));
        }
    }
    for column in columns.iter().filter(|column| column.role.is_id()) {
        let type_name = column.type_name().to_ascii_uppercase();
        let ambiguous = [
            "FLOAT", "DOUBLE", "REAL", "NUMERIC", "DECIMAL", "TIME", "INTERVAL", "JSON",
        ]
        .iter()
        .any(|ambiguous| type_name.starts_with(ambiguous))
            || type_name.ends_with("[]");
        if ambiguous || type_name == "DATETIME" {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "column {} of {entity} cannot be an id: a value of type {} can be written in several ways, which would be \
                     several cache keys of one row; use an integer, text, bytes, a uuid or a date",
                    column.name,
                    column.type_name()
                ),
            ));
        }
    }
    Ok(())
}

pub(crate) async fn check<DB: Backend>(
    spec: EntitySpec,
    pool: &Pool<DB>,
    columns: &[ColumnSpec<DB>],
) -> Result<SchemaReport, Error> {
    compare(&spec, pool, columns).await.map_err(|error| {
        database::describe(
            "load",
            &format!("the schema of table {}", spec.table),
            error,
            database::WriteOutcome::Nothing,
        )
    })
}

async fn compare<DB: Backend>(
    spec: &EntitySpec,
    pool: &Pool<DB>,
    columns: &[ColumnSpec<DB>],
) -> Result<SchemaReport, sqlx::Error> {
    let mut connection = DB::acquire(pool).await?;
    let mut report = SchemaReport {
        entity: spec.name,
        table: spec.table,
        differences: Vec::new(),
        remarks: Vec::new(),
    };
    let found = catalogue::<DB>(&mut connection, spec.table).await?;
    if found.is_empty() {
        report.differ(
            None,
            "there is no such table; create it, or correct `table = \"..\"`".to_owned(),
        );
        return Ok(report);
    }
    let mut present = Vec::new();
    for column in columns {
        match found.iter().find(|found| found.name.eq_ignore_ascii_case(column.name)) {
            Some(found) => {
                compare_column(&mut report, DB::DIALECT, column, found);
                present.push(column);
            }
            None => report.differ(
                Some(column.name),
                "the table has no such column; add it, or name the right one with `#[sqlx(rename = \"..\")]`".to_owned(),
            ),
        }
    }
    compare_primary_key(&mut report, columns, &found);
    for found in &found {
        let known = columns
            .iter()
            .any(|column| column.name.eq_ignore_ascii_case(&found.name));
        if !known && !found.nullable && !found.has_default && !found.in_primary_key {
            report.differ(
                Some(&found.name),
                "the struct has no such field, and the column is NOT NULL without a default, so inserts will fail; add the field, \
                 or give the column a default"
                    .to_owned(),
            );
        }
    }
    compare_types::<DB>(&mut report, &mut connection, spec.table, &present).await?;
    Ok(report)
}

fn compare_column<DB: Backend>(
    report: &mut SchemaReport,
    dialect: Dialect,
    column: &ColumnSpec<DB>,
    found: &Found,
) {
    if found.nullable && column.nullable == Nullable::No && !column.role.is_id() {
        report.differ(
            Some(column.name),
            "the column can be NULL and the field cannot be `None`; make the field an `Option`, or the column NOT NULL".to_owned(),
        );
    }
    if !found.nullable && column.nullable == Nullable::Yes {
        report.remark(
            Some(column.name),
            "the field is an `Option` and the column is NOT NULL, so writing `None` will fail"
                .to_owned(),
        );
    }
    if column.role.is_generated() && !found.has_default {
        // A trigger may fill the column in, which the catalogue does not show.
        report.remark(
            Some(column.name),
            "the field is `generated` and the column has no default, so a trigger must fill it in"
                .to_owned(),
        );
    }
    if found.computed && !column.role.is_generated() {
        report.differ(
            Some(column.name),
            "the database computes the column and takes no value for it, so writes will fail; mark the field `generated`"
                .to_owned(),
        );
    }
    if !column.role.is_id() || !dialect.is_text(column.type_name()) {
        return;
    }
    if let Some(padded) = &found.padded {
        report.remark(
            Some(column.name),
            format!(
                "the column has type {padded}: the database pads or strips blanks, so it changes an id that is shorter than the \
                 column or ends in a blank; use VARCHAR or TEXT, unless all ids have the full length"
            ),
        );
    }
    if let Some(collation) = &found.folding {
        report.remark(
            Some(column.name),
            format!(
                "collation {collation} treats different spellings of an id as equal; larder compares ids byte for byte, so \
                 it does not find a row by another spelling of its id; always use the stored one, or a binary collation"
            ),
        );
    }
}

fn compare_primary_key<DB: Backend>(
    report: &mut SchemaReport,
    columns: &[ColumnSpec<DB>],
    found: &[Found],
) {
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let wanted = sorted(
        columns
            .iter()
            .filter(|column| column.role.is_id())
            .map(|column| column.name.to_ascii_lowercase())
            .collect(),
    );
    let actual = sorted(
        found
            .iter()
            .filter(|found| found.in_primary_key)
            .map(|found| found.name.to_ascii_lowercase())
            .collect(),
    );
    if wanted != actual {
        let actual = if actual.is_empty() {
            "none".to_owned()
        } else {
            actual.join(", ")
        };
        report.differ(
            None,
            format!(
                "the fields marked `id` are {}, the primary key of the table is {actual}; they must be the same columns, \
                 because one cache key identifies one row",
                wanted.join(", ")
            ),
        );
    }
}

async fn compare_types<DB: Backend>(
    report: &mut SchemaReport,
    connection: &mut DB::Connection,
    table: &str,
    columns: &[&ColumnSpec<DB>],
) -> Result<(), sqlx::Error> {
    let names: Vec<_> = columns
        .iter()
        .map(|column| DB::DIALECT.quote(column.name))
        .collect();
    let text = format!(
        "SELECT {} FROM {} WHERE 1 = 0",
        names.join(", "),
        DB::DIALECT.quote_table(table)
    );
    let types = DB::column_types(connection, safe(text)).await?;
    for (column, actual) in columns.iter().zip(&types) {
        // SQLite reports no type for an expression or an untyped column, which may contain any value.
        if actual.is_null() || (column.compatible)(actual) {
            continue;
        }
        report.differ(
            Some(column.name),
            format!(
                "the column has type {}, which the field cannot hold; the field expects {}",
                actual.name(),
                column.type_name()
            ),
        );
    }
    Ok(())
}

/// Returns the columns of a table from the database's catalogue.
async fn catalogue<DB: Backend>(
    connection: &mut DB::Connection,
    table: &str,
) -> Result<Vec<Found>, sqlx::Error> {
    let (schema, name) = match table.rsplit_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, table),
    };
    let mut arguments = DB::Arguments::default();
    let text = match DB::DIALECT {
        Dialect::Sqlite => {
            // The schema is a parameter of the table-valued functions. Only indexes report a collation. The primary key
            // has an index unless it is the row number itself, which the database can generate.
            "SELECT name, CASE WHEN \"notnull\" OR pk THEN 'no' ELSE 'yes' END, CASE WHEN pk THEN 'yes' ELSE 'no' END, \
             CASE WHEN dflt_value IS NOT NULL OR hidden IN (2, 3) \
             OR (pk AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1, ?2) WHERE origin = 'pk')) THEN 'yes' ELSE 'no' END, \
             CASE WHEN hidden IN (2, 3) THEN 'yes' ELSE 'no' END, \
             (SELECT NULLIF(part.coll, 'BINARY') FROM pragma_index_list(?1, ?2) AS indexes \
              JOIN pragma_index_xinfo(indexes.name, ?2) AS part \
              WHERE indexes.origin = 'pk' AND part.key AND part.name = columns.name), \
             NULL FROM pragma_table_xinfo(?1, ?2) AS columns WHERE hidden <> 1"
        }
        Dialect::Postgres => {
            // For a domain, its base type counts. `indkey` counts from zero, and columns that an index only includes
            // follow its key.
            "SELECT a.attname::text, CASE WHEN a.attnotnull THEN 'no' ELSE 'yes' END, \
             CASE WHEN a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]) THEN 'yes' ELSE 'no' END, \
             CASE WHEN a.atthasdef OR a.attidentity <> '' THEN 'yes' ELSE 'no' END, \
             CASE WHEN a.attgenerated <> '' OR a.attidentity = 'a' THEN 'yes' ELSE 'no' END, \
             CASE WHEN COALESCE(b.typname, t.typname) = 'citext' THEN 'citext' \
             WHEN NOT c.collisdeterministic THEN c.collname::text END, \
             CASE WHEN COALESCE(b.typname, t.typname) = 'bpchar' THEN format_type(a.atttypid, a.atttypmod) END \
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype \
             LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary \
             LEFT JOIN pg_collation c ON c.oid = a.attcollation \
             WHERE a.attrelid = to_regclass(CASE WHEN $2::text IS NULL THEN quote_ident($1) ELSE quote_ident($2) || '.' || quote_ident($1) END) \
             AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
        }
        Dialect::MySql => {
            // `extra` contains `DEFAULT_GENERATED` for a default that is an expression, and `VIRTUAL GENERATED` or
            // `STORED GENERATED` for a computed column. `on update ..` is not a default.
            "SELECT CAST(column_name AS CHAR), CASE WHEN is_nullable = 'YES' THEN 'yes' ELSE 'no' END, \
             CASE WHEN column_key = 'PRI' THEN 'yes' ELSE 'no' END, \
             CASE WHEN (column_default IS NOT NULL AND column_default <> 'NULL') \
             OR LOCATE('auto_increment', extra) > 0 OR LOCATE('GENERATED', extra) > 0 THEN 'yes' ELSE 'no' END, \
             CASE WHEN LOCATE(' GENERATED', extra) > 0 THEN 'yes' ELSE 'no' END, \
             CASE WHEN collation_name LIKE '%\\_bin' THEN NULL ELSE CAST(collation_name AS CHAR) END, \
             CASE WHEN data_type = 'char' THEN CAST(column_type AS CHAR) END \
             FROM information_schema.columns WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE()) ORDER BY ordinal_position"
        }
    };
    DB::add_text(&mut arguments, Some(name)).map_err(sqlx::Error::Encode)?;
    let schema = schema.or((DB::DIALECT == Dialect::Sqlite).then_some("main"));
    DB::add_text(&mut arguments, schema).map_err(sqlx::Error::Encode)?;
    let rows = DB::fetch_all(connection, SqlStr::from_static(text), arguments).await?;
    rows.iter()
        .map(|row| {
            let text = |index| DB::text(row, index).map(Option::unwrap_or_default);
            Ok(Found {
                name: text(0)?,
                nullable: text(1)? == "yes",
                in_primary_key: text(2)? == "yes",
                has_default: text(3)? == "yes",
                computed: text(4)? == "yes",
                folding: DB::text(row, 5)?,
                padded: DB::text(row, 6)?,
            })
        })
        .collect()
}

fn safe(text: String) -> SqlStr {
    // It consists of quoted names from the struct's attributes.
    AssertSqlSafe(text).into_sql_str()
}

impl SchemaReport {
    fn differ(&mut self, column: Option<&str>, message: String) {
        self.differences.push(Difference {
            column: column.map(str::to_owned),
            message,
        });
    }

    fn remark(&mut self, column: Option<&str>, message: String) {
        self.remarks.push(Difference {
            column: column.map(str::to_owned),
            message,
        });
    }
}
