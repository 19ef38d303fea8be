//! Compares the table in the database with the struct, and says everything that does not fit, at once.
//!
//! Without it the first surprise comes with the first row: a renamed column, a `NULL` where the struct has none, an id that
//! is no primary key (two rows, one cache key), a text id under a collation that calls two spellings equal, a column that
//! takes no value because the database computes it.
//!
//! 1. The catalogue is asked for the table's columns, primary key and collations.
//! 2. A statement that selects the struct's columns is prepared, and the types it would return are compared with the types
//!    that the fields accept.
//!
//! The statements that create the tables of larder, for a migration, are reached through here.
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

/// What [`check_schema`](crate::Repository::check_schema) found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaReport {
    /// The struct.
    pub entity: &'static str,
    /// The table.
    pub table: &'static str,
    /// Everything that does not fit, in the order of the fields.
    pub differences: Vec<Difference>,
    /// What works, but differently from what one might expect.
    pub remarks: Vec<Difference>,
}

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The column, if it is about one.
    pub column: Option<String>,
    /// What does not fit, and the way out.
    pub message: String,
}

impl SchemaReport {
    /// Whether table and struct fit.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.differences.is_empty()
    }

    /// The report as an error, unless table and struct fit.
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
    /// Whether the database computes the value and takes none.
    computed: bool,
    /// The collation of a text column, where it is known not to compare byte for byte.
    folding: Option<String>,
    /// The type of a text column, where the database pads its values with blanks or strips them.
    padded: Option<String>,
}

/// Refuses what can be known of the columns without asking the database, and only when the repository is made: two fields
/// for one column (one of them nested), and ids whose values have several spellings, by any of which the database would find
/// the row, and the cache by one.
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
                     nested struct if it is there",
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
                    "column {} of {entity} cannot be an id: a value of type {} can be written in several ways, and the cache \
                     would take them for several rows; use an integer, text, bytes, a uuid or a date",
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
            database::Fate::Nothing,
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
                "the struct has no such field, and the column must not be NULL and has no default: inserts will fail".to_owned(),
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
            "the column can be NULL and the field cannot; make the field an `Option`, or the column NOT NULL".to_owned(),
        );
    }
    if !found.nullable && column.nullable == Nullable::Yes {
        report.remark(
            Some(column.name),
            "the field is an `Option` and the column is NOT NULL: writing `None` will fail"
                .to_owned(),
        );
    }
    if column.role.is_generated() && !found.has_default {
        // Triggers fill columns in as well, and no catalogue says so.
        report.remark(
            Some(column.name),
            "the field is `generated` and the column has no default: a trigger has to fill it in"
                .to_owned(),
        );
    }
    if found.computed && !column.role.is_generated() {
        report.differ(
            Some(column.name),
            "the database computes the column and takes no value for it: writes will fail; mark the field `generated`"
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
                "the column has type {padded}: the database pads or strips blanks, so an id that is shorter than the column or \
                 ends in a blank is not the one that was written; make it VARCHAR or TEXT unless all ids fill it"
            ),
        );
    }
    if let Some(collation) = &found.folding {
        report.remark(
            Some(column.name),
            format!(
                "collation {collation} calls different spellings of an id equal; larder compares ids byte for byte, so \
                 another spelling of an existing id is not found"
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
                 because one cache key stands for one row",
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
        // SQLite knows no type for an expression or an untyped column; anything may be in it.
        if actual.is_null() || (column.compatible)(actual) {
            continue;
        }
        report.differ(
            Some(column.name),
            format!(
                "the column has type {}, which the field cannot hold; it expects {}",
                actual.name(),
                column.type_name()
            ),
        );
    }
    Ok(())
}

/// The columns of a table out of the database's own catalogue.
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
            // The schema is a parameter of the table-valued functions. Only indexes tell a collation, and the primary key
            // has one, unless it is the row number itself, which the database can choose.
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
            // A domain is judged by the type it is made of. `indkey` counts from zero, and what an index only includes
            // stands behind its key.
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
            // `extra` says `DEFAULT_GENERATED` of a default that is an expression, and `VIRTUAL GENERATED` or
            // `STORED GENERATED` of a computed column; what an update sets (`on update ..`) is no default.
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
    // Made of quoted names out of the struct's attributes.
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
