//! The statements of one entity in one dialect, written once when its repository is made.
//!
//! Text ids are compared twice: as the column's collation does, which finds the index, and byte for byte. Under a collation
//! that ignores case (MariaDB's default) `abc` and `ABC` are one row to the database but two keys to the cache; with the
//! second comparison they are two ids to the database too, so no write can reach a row past its key.
//!
//! Invariant: the text never contains a value; values are bound, in the order given by [`Binding`](crate::source::Binding).

use std::{fmt::Write, sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::{
    backend::Backend,
    column::{ColumnSpec, Role},
};

/// How a database spells its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    fn placeholder(self, number: usize) -> String {
        match self {
            Self::Postgres => format!("${number}"),
            Self::MySql => "?".to_owned(),
            Self::Sqlite => format!("?{number}"),
        }
    }

    /// A name as the dialect quotes it.
    pub(crate) fn quote(self, name: &str) -> String {
        // SQLite takes a name in double quotes that is no column for a text, and would answer with it.
        let quote = match self {
            Self::MySql | Self::Sqlite => '`',
            Self::Postgres => '"',
        };
        let doubled = name.replace(quote, &format!("{quote}{quote}"));
        format!("{quote}{doubled}{quote}")
    }

    /// The name of a table as the dialect quotes it; a dot separates its schema from it.
    pub(crate) fn quote_table(self, table: &str) -> String {
        let parts: Vec<_> = table.split('.').map(|part| self.quote(part)).collect();
        parts.join(".")
    }

    /// Whether a write can return the row it wrote.
    pub(crate) const fn returns_rows(self) -> bool {
        !matches!(self, Self::MySql)
    }

    /// How many parameters a statement may have.
    pub(crate) const fn most_parameters(self) -> usize {
        match self {
            Self::Postgres | Self::MySql => 65_535,
            Self::Sqlite => 32_766,
        }
    }

    /// Whether a parameter of the statement can be used twice by its number.
    const fn numbers_parameters(self) -> bool {
        !matches!(self, Self::MySql)
    }

    /// Whether values of a type have spellings that differ but that a collation may call equal.
    pub(crate) fn is_text(self, type_name: &str) -> bool {
        let name = type_name.trim_matches('"').to_ascii_uppercase();
        match self {
            Self::Postgres => matches!(
                name.as_str(),
                "TEXT" | "VARCHAR" | "CHAR" | "BPCHAR" | "NAME" | "CITEXT"
            ),
            Self::MySql => name.ends_with("CHAR") || name.ends_with("TEXT") || name == "ENUM",
            Self::Sqlite => name == "TEXT",
        }
    }

    /// The byte-for-byte comparison of a text column with a parameter.
    fn exactly(self, column: &str, parameter: &str) -> String {
        match self {
            Self::Postgres => format!("{column}::text = {parameter}::text COLLATE \"C\""),
            Self::MySql => format!(
                "CAST(CONVERT({column} USING utf8mb4) AS BINARY) = CAST({parameter} AS BINARY)"
            ),
            Self::Sqlite => format!("{column} = {parameter} COLLATE BINARY"),
        }
    }
}

/// A bound on how long a transaction may be idle, or its commit may run.
#[derive(Clone, Debug)]
pub(crate) struct DeadlineSql {
    /// Sets it on the connection.
    pub(crate) set: SqlStr,
    /// Takes it back, where it would outlive the transaction.
    pub(crate) reset: Option<SqlStr>,
}

/// Where a transaction of MySQL begins. It vanishes when the database rolls the transaction back by itself.
const BEGUN: &str = "SAVEPOINT larder_begun";

impl Dialect {
    /// What begins a transaction in place of `BEGIN`.
    pub(crate) const fn begin(self) -> Option<&'static str> {
        match self {
            Self::MySql => Some("BEGIN; SAVEPOINT larder_begun"),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    /// What follows a beginning in the user's own words.
    pub(crate) const fn begun(self) -> Option<&'static str> {
        match self {
            Self::MySql => Some(BEGUN),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    /// Makes the database give up a commit before an intent of this life expires, should the process stop or be cut off
    /// between the two: a commit that comes later would find readers storing the old row. Fails if the transaction is no
    /// longer open.
    pub(crate) fn deadline(self, intent_ttl: Duration) -> Option<DeadlineSql> {
        // An intent that is as old as a third of its life is renewed before the commit.
        let within = intent_ttl * 3 / 5;
        match self {
            // What waits for the commit is done in a statement, because a commit has no time-out.
            Self::Postgres => Some(DeadlineSql {
                set: sql(format!(
                    "SET LOCAL idle_in_transaction_session_timeout = {0}; SET LOCAL statement_timeout = {0}; \
                     SET CONSTRAINTS ALL IMMEDIATE",
                    within.as_millis()
                )),
                reset: None,
            }),
            // Idle sessions only: there is no bound for the commit itself.
            Self::MySql => Some(DeadlineSql {
                set: sql(format!(
                    "RELEASE {BEGUN}; SET @larder_wait_timeout = @@SESSION.wait_timeout, SESSION wait_timeout = {}",
                    within.as_secs().max(1)
                )),
                reset: Some(SqlStr::from_static(
                    "SET SESSION wait_timeout = @larder_wait_timeout",
                )),
            }),
            // The database dies with the process, and nobody else commits for it.
            Self::Sqlite => None,
        }
    }
}

/// The statements of an entity.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    /// Reads the row with an id. Binds the id (see [`Statements::repeats_text_ids`]).
    pub(crate) select: SqlStr,
    /// Reads a row as it is now, also in a transaction that has read before. Binds the id as `select` does.
    pub(crate) select_current: SqlStr,
    /// Reads the row whose generated id the driver reported, as it is now. Binds that number.
    pub(crate) select_generated: SqlStr,
    /// Inserts a row. Binds the columns that the database does not fill in.
    pub(crate) insert: SqlStr,
    /// Changes a row. Binds the plain columns, then the id, then the version if there is one.
    pub(crate) update: SqlStr,
    /// Inserts a row or changes it. Binds all columns but the generated ones in field order.
    pub(crate) upsert: SqlStr,
    /// Deletes a row whatever its version. Binds the id.
    pub(crate) delete: SqlStr,
    /// Deletes a row of one version. Binds the id, then the version if there is one.
    pub(crate) delete_row: SqlStr,
    /// Whether the id's text parts are bound a second time behind the id, because parameters cannot be used twice.
    pub(crate) repeats_text_ids: bool,
    /// Whether a written row is read back: because the database fills in columns, or because what it holds is wanted.
    pub(crate) reads_back: bool,
    /// Whether the database chooses the id.
    pub(crate) generates_id: bool,
}

impl Statements {
    /// Writes the statements for a table with these columns; `wants_rows` asks for every written row to be read back.
    pub(crate) fn new<DB: Backend>(
        table: &str,
        columns: &[ColumnSpec<DB>],
        wants_rows: bool,
    ) -> Self {
        let text = Text::new(table, columns);
        // The version is counted up by the database.
        let reads_back = wants_rows
            || columns
                .iter()
                .any(|column| column.role.is_generated() || column.role == Role::Version);
        let has_text_id = columns.iter().any(|column| text.is_text_id(column));
        Self {
            select: sql(text.select(&text.id_condition(1))),
            select_current: sql(text.current(text.select(&text.id_condition(1)))),
            select_generated: sql(text.current(text.select_generated())),
            insert: sql(text.insert(|role| !role.is_generated(), reads_back)),
            update: sql(text.update(reads_back)),
            upsert: sql(text.upsert(reads_back)),
            delete: sql(format!(
                "DELETE FROM {} WHERE {}",
                text.table,
                text.id_condition(1)
            )),
            delete_row: sql(format!(
                "DELETE FROM {} WHERE {}",
                text.table,
                text.row_condition(1)
            )),
            repeats_text_ids: has_text_id && !text.dialect.numbers_parameters(),
            reads_back,
            generates_id: columns
                .iter()
                .any(|column| column.role == Role::GeneratedId),
        }
    }
}

fn sql(text: String) -> SqlStr {
    // The text is made of quoted names out of the struct's attributes; no value of a user is in it.
    AssertSqlSafe(Arc::<str>::from(text)).into_sql_str()
}

/// Writes statements for the columns of a table.
pub(crate) struct Text<'a, DB: Backend> {
    dialect: Dialect,
    table: String,
    columns: &'a [ColumnSpec<DB>],
}

/// What the rows given to a statement are called in it.
const GIVEN: &str = "given";
/// What the table is called in a statement that is given rows.
const TARGET: &str = "target";

impl<'a, DB: Backend> Text<'a, DB> {
    pub(crate) fn new(table: &str, columns: &'a [ColumnSpec<DB>]) -> Self {
        Self {
            dialect: DB::DIALECT,
            table: DB::DIALECT.quote_table(table),
            columns,
        }
    }

    /// Inserts so many rows. Binds the wanted columns, row by row.
    pub(crate) fn insert_rows(
        &self,
        wanted: fn(Role) -> bool,
        rows: usize,
        reads_back: bool,
    ) -> SqlStr {
        let names = self.names(wanted);
        let row = |row: usize| {
            let first = row * names.len() + 1;
            let parameters: Vec<_> = (first..first + names.len())
                .map(|number| self.dialect.placeholder(number))
                .collect();
            format!("({})", parameters.join(", "))
        };
        let rows: Vec<_> = (0..rows).map(row).collect();
        sql(format!(
            "INSERT INTO {} ({}) VALUES {}{}",
            self.table,
            names.join(", "),
            rows.join(", "),
            self.returning(reads_back)
        ))
    }

    /// Inserts rows given as arrays, in their order. Binds one array per wanted column.
    pub(crate) fn insert_arrays(&self, wanted: fn(Role) -> bool, reads_back: bool) -> SqlStr {
        let names = self.names(wanted).join(", ");
        // The place of each row decides the order in which ids are generated.
        sql(format!(
            "INSERT INTO {} ({names}) SELECT {names} FROM {} ORDER BY larder_place{}",
            self.table,
            self.given(wanted, " WITH ORDINALITY", ", larder_place"),
            self.returning(reads_back)
        ))
    }

    /// Changes the rows given as arrays. Binds one array per column that an update writes or compares.
    pub(crate) fn update_arrays(&self) -> SqlStr {
        let mut assignments: Vec<_> = self
            .names(|role| role == Role::Plain)
            .iter()
            .map(|name| format!("{name} = {GIVEN}.{name}"))
            .collect();
        let version = self.version();
        assignments.extend(
            version
                .iter()
                .map(|version| format!("{version} = {TARGET}.{version} + 1")),
        );
        if assignments.is_empty() {
            let ids = self.names(Role::is_id);
            assignments.extend(ids.iter().map(|id| format!("{id} = {TARGET}.{id}")));
        }
        let returned: Vec<_> = self
            .names(|_| true)
            .iter()
            .map(|name| format!("{TARGET}.{name}"))
            .collect();
        sql(format!(
            "UPDATE {} AS {TARGET} SET {} FROM {} WHERE {} RETURNING {}",
            self.table,
            assignments.join(", "),
            self.given(Role::is_saved, "", ""),
            self.is_given(true),
            returned.join(", ")
        ))
    }

    /// Deletes the rows given as arrays. Binds one array per part of the id, and one of versions if they are compared.
    pub(crate) fn delete_arrays(&self, compares_version: bool) -> SqlStr {
        sql(format!(
            "DELETE FROM {} AS {TARGET} USING {} WHERE {}",
            self.table,
            self.given(Self::told_by(compares_version), "", ""),
            self.is_given(compares_version)
        ))
    }

    /// Deletes so many rows. Binds what tells each of them, row by row.
    pub(crate) fn delete_rows(&self, rows: usize, compares_version: bool) -> SqlStr {
        sql(format!(
            "DELETE FROM {} WHERE {}",
            self.table,
            self.any_of(rows, compares_version)
        ))
    }

    /// Reads so many rows. Binds their ids, row by row.
    pub(crate) fn select_rows(&self, rows: usize) -> SqlStr {
        sql(self.current(self.select(&self.any_of(rows, false))))
    }

    /// The columns that tell a row, and its version if that is compared.
    pub(crate) fn told_by(compares_version: bool) -> fn(Role) -> bool {
        if compares_version {
            |role| role.is_id() || role == Role::Version
        } else {
            Role::is_id
        }
    }

    /// How many parameters it takes to tell a row.
    pub(crate) fn parameters_per_row(&self, compares_version: bool) -> usize {
        let told = self.names(Self::told_by(compares_version)).len();
        let repeated = self.columns.iter().filter(|column| self.is_text_id(column));
        if self.dialect.numbers_parameters() {
            told
        } else {
            told + repeated.count()
        }
    }

    /// The rows of a batch as a table.
    fn given(&self, wanted: fn(Role) -> bool, suffix: &str, more: &str) -> String {
        let names = self.names(wanted);
        let arrays: Vec<_> = (1..=names.len())
            .map(|number| self.dialect.placeholder(number))
            .collect();
        format!(
            "UNNEST({}){suffix} AS {GIVEN}({}{more})",
            arrays.join(", "),
            names.join(", ")
        )
    }

    /// That a row of the table is one of the given ones.
    fn is_given(&self, compares_version: bool) -> String {
        let mut conditions = Vec::new();
        for column in self.columns.iter().filter(|column| column.role.is_id()) {
            let name = self.dialect.quote(column.name);
            let (own, given) = (format!("{TARGET}.{name}"), format!("{GIVEN}.{name}"));
            conditions.push(format!("{own} = {given}"));
            if self.is_text_id(column) {
                conditions.push(self.dialect.exactly(&own, &given));
            }
        }
        if let Some(version) = self.version().filter(|_| compares_version) {
            conditions.push(format!("{TARGET}.{version} = {GIVEN}.{version}"));
        }
        conditions.join(" AND ")
    }

    fn any_of(&self, rows: usize, compares_version: bool) -> String {
        let each = self.parameters_per_row(compares_version);
        let rows: Vec<_> = (0..rows)
            .map(|row| {
                let first = row * each + 1;
                let condition = if compares_version {
                    self.row_condition(first)
                } else {
                    self.id_condition(first)
                };
                format!("({condition})")
            })
            .collect();
        rows.join(" OR ")
    }

    fn is_text_id(&self, column: &ColumnSpec<DB>) -> bool {
        column.role.is_id() && self.dialect.is_text(column.type_name())
    }

    fn names(&self, wanted: fn(Role) -> bool) -> Vec<String> {
        self.columns
            .iter()
            .filter(|column| wanted(column.role))
            .map(|column| self.dialect.quote(column.name))
            .collect()
    }

    fn all_names(&self) -> String {
        self.names(|_| true).join(", ")
    }

    /// `id = ..`, exactly, for parameters from `first` on.
    fn id_condition(&self, first: usize) -> String {
        let mut equal = Vec::new();
        let mut exact = Vec::new();
        for (at, column) in self
            .columns
            .iter()
            .filter(|column| column.role.is_id())
            .enumerate()
        {
            let name = self.dialect.quote(column.name);
            let parameter = self.dialect.placeholder(first + at);
            equal.push(format!("{name} = {parameter}"));
            if self.is_text_id(column) {
                exact.push(self.dialect.exactly(&name, &parameter));
            }
        }
        equal.append(&mut exact);
        equal.join(" AND ")
    }

    /// As [`Text::id_condition`], and that the row still has the version that follows the id.
    fn row_condition(&self, first: usize) -> String {
        let mut condition = self.id_condition(first);
        if let Some(version) = self.version() {
            let ids = self.names(Role::is_id).len();
            let parameter = self.dialect.placeholder(first + ids);
            write!(condition, " AND {version} = {parameter}")
                .expect("writing to a string cannot fail");
        }
        condition
    }

    fn version(&self) -> Option<String> {
        self.names(|role| role == Role::Version).pop()
    }

    fn select(&self, condition: &str) -> String {
        format!(
            "SELECT {} FROM {} WHERE {condition}",
            self.all_names(),
            self.table
        )
    }

    /// A read of MySQL that is not of the transaction's snapshot: an update that sets a row to what it is already leaves no
    /// version of it there.
    fn current(&self, select: String) -> String {
        match self.dialect {
            Dialect::MySql => select + " FOR UPDATE",
            Dialect::Postgres | Dialect::Sqlite => select,
        }
    }

    fn select_generated(&self) -> String {
        let id = self.names(|role| role == Role::GeneratedId).pop();
        let condition = id.map(|id| format!("{id} = {}", self.dialect.placeholder(1)));
        self.select(condition.as_deref().unwrap_or("1 = 0"))
    }

    fn insert(&self, wanted: fn(Role) -> bool, reads_back: bool) -> String {
        let names = self.names(wanted);
        let mut text = format!("INSERT INTO {}", self.table);
        if names.is_empty() {
            text.push_str(match self.dialect {
                Dialect::MySql => " () VALUES ()",
                Dialect::Postgres | Dialect::Sqlite => " DEFAULT VALUES",
            });
        } else {
            let placeholders: Vec<_> = (1..=names.len())
                .map(|number| self.dialect.placeholder(number))
                .collect();
            write!(
                text,
                " ({}) VALUES ({})",
                names.join(", "),
                placeholders.join(", ")
            )
            .expect("writing to a string cannot fail");
        }
        text + &self.returning(reads_back)
    }

    fn update(&self, reads_back: bool) -> String {
        let plain = self.names(|role| role == Role::Plain);
        let mut assignments: Vec<_> = plain
            .iter()
            .enumerate()
            .map(|(at, name)| format!("{name} = {}", self.dialect.placeholder(at + 1)))
            .collect();
        assignments.extend(
            self.version()
                .map(|version| format!("{version} = {version} + 1")),
        );
        if assignments.is_empty() {
            // Nothing to change: the statement still tells whether the row exists.
            let ids = self.names(Role::is_id);
            assignments.extend(ids.iter().map(|id| format!("{id} = {id}")));
        }
        format!(
            "UPDATE {} SET {} WHERE {}{}",
            self.table,
            assignments.join(", "),
            self.row_condition(plain.len() + 1),
            self.returning(reads_back)
        )
    }

    /// Insert or change. MySQL's `ON DUPLICATE KEY UPDATE` would change the row that any unique key collides with, whatever
    /// its id, and so past its cache key; there an update is tried first, and this is the insert that follows.
    fn upsert(&self, reads_back: bool) -> String {
        let insert = self.insert(Role::is_saved, false);
        if self.dialect == Dialect::MySql {
            return insert;
        }
        let ids = self.names(Role::is_id);
        let version = self.version();
        let mut changed = self.names(|role| role == Role::Plain);
        if changed.is_empty() && version.is_none() {
            changed.clone_from(&ids);
        }
        let mut assignments: Vec<_> = changed
            .iter()
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        assignments.extend(
            version
                .iter()
                .map(|version| format!("{version} = excluded.{version} + 1")),
        );
        let mut text = format!(
            "{insert} ON CONFLICT ({}) DO UPDATE SET {}",
            ids.join(", "),
            assignments.join(", ")
        );
        let mut conditions: Vec<_> = self
            .columns
            .iter()
            .filter(|column| self.is_text_id(column))
            .map(|column| {
                let name = self.dialect.quote(column.name);
                self.dialect.exactly(
                    &format!("{}.{name}", self.table),
                    &format!("excluded.{name}"),
                )
            })
            .collect();
        conditions.extend(
            version
                .iter()
                .map(|version| format!("{}.{version} = excluded.{version}", self.table)),
        );
        if !conditions.is_empty() {
            write!(text, " WHERE {}", conditions.join(" AND "))
                .expect("writing to a string cannot fail");
        }
        text + &self.returning(reads_back)
    }

    fn returning(&self, reads_back: bool) -> String {
        if reads_back && self.dialect.returns_rows() {
            format!(" RETURNING {}", self.all_names())
        } else {
            String::new()
        }
    }
}
