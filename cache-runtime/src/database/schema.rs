//! Compares the table in the database with the struct, and reports all differences at once.
//!
//! Without it, mistakes appear only at run time: a renamed column, a `NULL` where the field is not an `Option`, an id
//! that is not the primary key (two rows, one cache key), a text id whose collation treats different texts as equal, or
//! a column that the database computes and that accepts no value.
//!
//! 1. The check reads the table's columns, unique keys and collations from the catalogue (`catalogue`).
//! 2. It prepares a statement that selects the struct's columns. The rule of the database judges each field by the
//!    declared type and the type that the driver returns (`fit`).
//!
//! This module also has the statements that create the tables of larder, for a migration.
//!
//! Not here: changing anything. The report is for a start-up check or a test.

use std::fmt;

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr};

pub use crate::database::{
    database_id::{database_id_sql, database_sql, install},
    tables::{dead_letters_sql, offsets_sql},
};
use crate::{
    database::{
        self,
        backend::Backend,
        catalogue::{self, Found, Kind, Referrer, Relation},
        column::{ColumnSpec, Nullable, Role},
        dialect::Dialect,
        entity::{Cascade, EntitySpec},
        fit::Fit,
        lookup::LookupSpec,
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

/// Compares a table with its struct. `of_keys`: remarks on foreign keys too.
pub(crate) async fn check<DB: Backend>(
    spec: EntitySpec,
    pool: &Pool<DB>,
    columns: &[ColumnSpec<DB>],
    of_keys: bool,
) -> Result<SchemaReport, Error> {
    compare(&spec, pool, columns, of_keys)
        .await
        .map_err(|error| {
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
    of_keys: bool,
) -> Result<SchemaReport, sqlx::Error> {
    let mut connection = DB::acquire(pool).await?;
    let mut report = SchemaReport {
        entity: spec.name,
        table: spec.table,
        differences: Vec::new(),
        remarks: Vec::new(),
    };
    if spec.is_query {
        let message = "a query stands for the table, so its columns are not compared".to_owned();
        report.remark(None, message);
        return Ok(report);
    }
    let relation = catalogue::relation::<DB>(&mut connection, spec.table).await?;
    if relation.columns.is_empty() {
        report.differ(
            None,
            "there is no such table; create it, or correct `table = \"..\"`".to_owned(),
        );
        return Ok(report);
    }
    let rules = Rules {
        dialect: DB::DIALECT,
        is_written: !spec.read_only,
        knows_nulls: relation.kind == Kind::Table,
    };
    compare_kind(&mut report, &rules, relation.kind);
    let found = &relation.columns;
    let mut present = Vec::new();
    for column in columns {
        match found.iter().find(|found| found.name.eq_ignore_ascii_case(column.name)) {
            Some(found) => {
                compare_column(&mut report, &rules, column, found);
                present.push((column, found));
            }
            None => report.differ(
                Some(column.name),
                "the table has no such column; add it, or name the right one with `#[sqlx(rename = \"..\")]`".to_owned(),
            ),
        }
    }
    compare_key(&mut report, &rules, columns, &relation);
    for lookup in spec.lookups {
        compare_lookup(&mut report, &rules, lookup, &present, &relation);
    }
    for found in found {
        let known = columns
            .iter()
            .any(|column| column.name.eq_ignore_ascii_case(&found.name));
        let is_asked_for = rules.is_written && rules.knows_nulls;
        if !known && is_asked_for && !found.nullable && !found.has_default {
            report.differ(
                Some(&found.name),
                "the struct has no such field, and the column is NOT NULL without a default, so inserts will fail; add the field, \
                 or give the column a default"
                    .to_owned(),
            );
        }
    }
    compare_types::<DB>(&mut report, &mut connection, spec.table, &present).await?;
    if rules.is_written && of_keys {
        let referrers = catalogue::referrers::<DB>(&mut connection, spec.table).await?;
        compare_cascades(&mut report, spec, &referrers);
    }
    Ok(report)
}

/// Remarks on the foreign keys that change rows of other tables, which no `on_delete` names.
fn compare_cascades(report: &mut SchemaReport, spec: &EntitySpec, referrers: &[Referrer]) {
    let declared: Vec<_> = spec.cascades.iter().filter_map(Cascade::column).collect();
    for Referrer {
        table,
        column,
        action,
    } in referrers
    {
        let is_declared = declared.iter().any(|(entity, own)| {
            let (_, name) = entity.table.rsplit_once('.').unwrap_or(("", entity.table));
            name.eq_ignore_ascii_case(table) && own.eq_ignore_ascii_case(column)
        });
        if !is_declared {
            report.remark(
                None,
                format!(
                    "the foreign key of `{table}`.`{column}` says ON DELETE {action}; if rows of `{table}` are cached, they stay \
                     cached after such a delete until their time to live ends; name the field of their entity in \
                     `#[cached(on_delete(..))]`"
                ),
            );
        }
    }
}

/// What decides which differences count.
struct Rules {
    dialect: Dialect,
    /// Whether the entity is written.
    is_written: bool,
    /// Whether the database says which columns can be NULL.
    knows_nulls: bool,
}

fn compare_kind(report: &mut SchemaReport, rules: &Rules, kind: Kind) {
    if kind == Kind::ReadOnly && rules.is_written {
        let why = match rules.dialect {
            Dialect::Sqlite => "SQLite does not report the rows that the triggers of a view write",
            Dialect::Postgres | Dialect::MySql => "the database takes no writes for this view",
        };
        report.differ(
            None,
            format!(
                "{why}; mark the entity `#[cached(read_only)]`, or name the table behind the view"
            ),
        );
    }
    if kind == Kind::WithoutUpsert && rules.is_written {
        report.remark(
            None,
            "the database takes no ON CONFLICT for a view that triggers write, or for a table on another server, so `save` will \
             fail; use `insert` and `update`, or mark the entity `#[cached(read_only)]`"
                .to_owned(),
        );
    }
    if !rules.knows_nulls {
        report.remark(
            None,
            "the database does not say which columns of a view can be NULL; a row with a NULL in a field that is not an `Option` \
             cannot be read"
                .to_owned(),
        );
    }
}

fn compare_column<DB: Backend>(
    report: &mut SchemaReport,
    rules: &Rules,
    column: &ColumnSpec<DB>,
    found: &Found,
) {
    if found.nullable && rules.knows_nulls && column.nullable == Nullable::No {
        report.differ(
            Some(column.name),
            "the column can be NULL and the field cannot be `None`; make the field an `Option`, or the column NOT NULL".to_owned(),
        );
    }
    if rules.is_written {
        compare_writes(report, column, found);
    }
    if !column.role.is_id() || !rules.dialect.is_text(column.type_name()) {
        return;
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

fn compare_writes<DB: Backend>(report: &mut SchemaReport, column: &ColumnSpec<DB>, found: &Found) {
    // A column that is `omit` is an `Option` for its absence from the cache.
    if !found.nullable && column.nullable == Nullable::Yes && column.role != Role::Omitted {
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
}

fn compare_key<DB: Backend>(
    report: &mut SchemaReport,
    rules: &Rules,
    columns: &[ColumnSpec<DB>],
    relation: &Relation,
) {
    let sorted = |names: &mut dyn Iterator<Item = &str>| {
        let mut names: Vec<_> = names.map(str::to_ascii_lowercase).collect();
        names.sort();
        names
    };
    let ids = columns.iter().filter(|column| column.role.is_id());
    let wanted = sorted(&mut ids.map(|column| column.name));
    let mut same = relation.keys.iter().filter(|key| {
        let columns = key.columns.iter().map(String::as_str);
        sorted(&mut { columns }) == wanted
    });
    match same.clone().find(|key| !key.is_deferrable).or(same.next()) {
        Some(key) if key.is_deferrable && rules.is_written => report.remark(
            None,
            "the unique key of the id is DEFERRABLE, which ON CONFLICT does not take, so `save` will fail; use `insert` and `update`, \
             or a key that is not deferrable"
                .to_owned(),
        ),
        Some(_) => {}
        None if relation.kind != Kind::Table && relation.keys.is_empty() => report.remark(
            None,
            format!(
                "the database does not say which columns of a view identify a row; the fields marked `id` ({}) must, because one \
                 cache key identifies one row",
                wanted.join(", ")
            ),
        ),
        None => {
            let primary = relation.keys.iter().find(|key| key.is_primary);
            let primary = match primary {
                Some(key) => sorted(&mut key.columns.iter().map(String::as_str)).join(", "),
                None => "none".to_owned(),
            };
            report.differ(
                None,
                format!(
                    "the fields marked `id` are {}, the primary key of the table is {primary}; they must be the same columns, or \
                     those of a UNIQUE key without a condition, because one cache key identifies one row",
                    wanted.join(", ")
                ),
            );
        }
    }
}

/// Reports a lookup that is declared `unique` and that the table does not keep so, and what the collation of its texts means.
fn compare_lookup<DB: Backend>(
    report: &mut SchemaReport,
    rules: &Rules,
    lookup: &LookupSpec,
    present: &[(&ColumnSpec<DB>, &Found)],
    relation: &Relation,
) {
    let (what, columns) = (lookup.name, lookup.columns.join(", "));
    let is_among = |name: &String| {
        let mut columns = lookup.columns.iter();
        columns.any(|column| column.eq_ignore_ascii_case(name))
    };
    // A key of fewer columns makes more of them unique.
    let mut keys = relation.keys.iter();
    let is_kept = keys.any(|key| key.columns.iter().all(is_among));
    let of = if lookup.folds { " in lower case" } else { "" };
    if lookup.is_unique && !is_kept {
        if lookup.folds || relation.kind != Kind::Table {
            report.remark(
                None,
                format!(
                    "larder cannot see whether the database keeps the lookup `{what}` unique; the values of {columns}{of} must be, or \
                     `find_by` fails"
                ),
            );
        } else {
            report.differ(
                None,
                format!(
                    "the lookup `{what}` is `unique`, and the table has no unique index without a condition on {columns}; create one, \
                     or declare an `index` instead"
                ),
            );
        }
    }
    if lookup.folds {
        return;
    }
    for (column, found) in present {
        let is_compared = lookup.columns.contains(&column.name);
        if let Some(collation) = found.folding.as_ref().filter(|_| is_compared)
            && rules.dialect.is_text(column.type_name())
        {
            report.remark(
                Some(column.name),
                format!(
                    "collation {collation} treats different spellings as equal; the lookup `{what}` compares byte for byte, so it does \
                     not find a row by another spelling; use `fold = \"lower\"` to find it in any case"
                ),
            );
        }
    }
}

async fn compare_types<DB: Backend>(
    report: &mut SchemaReport,
    connection: &mut DB::Connection,
    table: &str,
    columns: &[(&ColumnSpec<DB>, &Found)],
) -> Result<(), sqlx::Error> {
    let names: Vec<_> = columns
        .iter()
        .map(|(column, _)| DB::DIALECT.quote(column.name))
        .collect();
    let text = format!(
        "SELECT {} FROM {} WHERE 1 = 0",
        names.join(", "),
        DB::DIALECT.quote_table(table)
    );
    let types = DB::column_types(connection, safe(text)).await?;
    for ((column, found), actual) in columns.iter().zip(&types) {
        match DB::fit(column, &found.declared, actual) {
            Fit::Fits => {}
            Fit::Remark(message) => report.remark(Some(column.name), message),
            Fit::Refused(message) => report.differ(Some(column.name), message),
        }
    }
    Ok(())
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
