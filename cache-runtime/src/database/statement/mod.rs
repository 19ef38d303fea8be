//! The statements of one entity in one dialect, generated once when its repository is created.
//!
//! Text ids are compared twice: with the column's collation, which uses the index, and byte for byte. Under a collation
//! that ignores case (MariaDB's default), `abc` and `ABC` are one row for the database but two keys for the cache. With
//! the second comparison they are two ids for the database too, so no write can change a row without its cache key.
//!
//! Invariant: the text never contains a value; values are bound, in the order given by [`Binding`](crate::database::source::Binding).

mod batch;
mod lookup;

use std::fmt::Write;

use sqlx::SqlStr;

pub(crate) use self::batch::{DEFERRED, Purpose, TRIGGERS};
use crate::database::{
    backend::Backend,
    column::{ColumnSpec, Role},
    dialect::{Dialect, sql},
};

/// The statements of an entity.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    /// Reads the row with an id. Binds the id (see [`Statements::repeats_text_ids`]).
    pub(crate) select: SqlStr,
    /// Reads the current row, also in a transaction that has read before. Binds the id as `select` does.
    pub(crate) select_current: SqlStr,
    /// Reads the row with an id and locks it. Binds the id as `select` does.
    pub(crate) select_locked: SqlStr,
    /// Reads a row whose id is equal for the database, in any spelling. Binds the id once.
    pub(crate) select_equal: SqlStr,
    /// Reads the current row with the generated id that the driver reported. Binds that number.
    pub(crate) select_generated: SqlStr,
    /// Inserts a row. Binds the columns that the database does not fill in.
    pub(crate) insert: SqlStr,
    /// Updates a row. Binds the plain columns, then the id, then the version if there is one, then the immutable columns.
    pub(crate) update: SqlStr,
    /// Inserts a row or updates it. Binds all columns but the generated ones in field order.
    pub(crate) upsert: SqlStr,
    /// Deletes a row with any version. Binds the id.
    pub(crate) delete: SqlStr,
    /// Deletes a row of one version. Binds the id, then the version if there is one.
    pub(crate) delete_row: SqlStr,
    /// Whether the id's text parts are bound a second time after the id, because parameters cannot be used twice.
    pub(crate) repeats_text_ids: bool,
    /// Whether a written row is read back, because the database fills in columns, or because the caller needs it.
    pub(crate) reads_back: bool,
    /// Whether the database generates the id.
    pub(crate) generates_id: bool,
}

impl Statements {
    /// Returns the statements for a table with these columns. `wants_rows`: read back every written row.
    pub(crate) fn new<DB: Backend>(
        table: &str,
        columns: &[ColumnSpec<DB>],
        wants_rows: bool,
    ) -> Self {
        let text = Text::new(table, columns);
        // The database increments the version.
        let reads_back = wants_rows
            || columns
                .iter()
                .any(|column| column.role.is_generated() || column.role == Role::Version);
        let has_text_id = columns.iter().any(|column| text.is_text_id(column));
        Self {
            select: sql(text.select(&text.id_condition(1))),
            select_current: sql(text.current(text.select(&text.id_condition(1)))),
            select_locked: sql(text.locked(text.select(&text.id_condition(1)))),
            select_equal: sql(text.select(&text.id_conditions(1).0)),
            select_generated: sql(text.current(text.select_generated())),
            insert: sql(text.insert(|role| !role.is_generated(), reads_back)),
            update: text.update(&[], reads_back),
            upsert: text.upsert(&[], reads_back),
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

/// Writes statements for the columns of a table.
pub(crate) struct Text<'a, DB: Backend> {
    dialect: Dialect,
    table: String,
    columns: &'a [ColumnSpec<DB>],
}

impl<'a, DB: Backend> Text<'a, DB> {
    pub(crate) fn new(table: &str, columns: &'a [ColumnSpec<DB>]) -> Self {
        Self {
            dialect: DB::DIALECT,
            table: DB::DIALECT.quote_table(table),
            columns,
        }
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

    /// Returns the exact condition `id = ..` for parameters from `first` on.
    fn id_condition(&self, first: usize) -> String {
        let (equal, exact) = self.id_conditions(first);
        match exact.is_empty() {
            true => equal,
            false => format!("{equal} AND {exact}"),
        }
    }

    /// Returns the condition that an id is equal for the database, and the condition on its text parts that it is equal
    /// byte for byte, which is empty if there are none.
    fn id_conditions(&self, first: usize) -> (String, String) {
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
        (equal.join(" AND "), exact.join(" AND "))
    }

    /// As [`Text::id_condition`], with the condition that the row still has the version that follows the id.
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

    /// As [`Text::row_condition`], with the condition that the immutable columns have the values that follow.
    fn update_condition(&self, first: usize) -> String {
        let mut condition = self.row_condition(first);
        let compared = self.names(|role| role.is_id() || role == Role::Version);
        for (at, column) in self.immutable().enumerate() {
            let name = self.dialect.quote(column.name);
            let value = self.dialect.placeholder(first + compared.len() + at);
            let is_text = self.dialect.is_text(column.type_name());
            let is_same = self.dialect.is_same(&name, &value, is_text);
            write!(condition, " AND {is_same}").expect("writing to a string cannot fail");
        }
        condition
    }

    /// Returns the columns that updates compare and do not write.
    fn immutable(&self) -> impl Iterator<Item = &ColumnSpec<DB>> {
        let mut columns = self.columns.iter();
        std::iter::from_fn(move || columns.find(|column| column.role == Role::Immutable))
    }

    /// Returns the conditions that the immutable columns of two rows, each given by what comes before the name of a
    /// column, are the same.
    fn same_immutable(&self, one: &str, other: &str) -> impl Iterator<Item = String> {
        self.immutable().map(move |column| {
            let name = self.dialect.quote(column.name);
            let is_text = self.dialect.is_text(column.type_name());
            let (one, other) = (format!("{one}.{name}"), format!("{other}.{name}"));
            self.dialect.is_same(&one, &other, is_text)
        })
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

    /// Returns a read of MySQL that does not use the transaction's snapshot. An update that does not change a row
    /// leaves no new version of it in the snapshot.
    fn current(&self, select: String) -> String {
        match self.dialect {
            Dialect::MySql => select + " FOR UPDATE",
            Dialect::Postgres | Dialect::Sqlite => select,
        }
    }

    /// Returns a read that locks the row until the transaction ends.
    fn locked(&self, select: String) -> String {
        match self.dialect {
            Dialect::Postgres | Dialect::MySql => select + " FOR UPDATE",
            Dialect::Sqlite => select,
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
                " ({}){} VALUES ({})",
                names.join(", "),
                self.overriding(wanted),
                placeholders.join(", ")
            )
            .expect("writing to a string cannot fail");
        }
        text + &self.returning(reads_back)
    }

    /// Returns the clause of an insert that gives a generated id a value, as a save does. Without it, Postgres takes none
    /// for an id that is GENERATED ALWAYS, not even to update the row that has it.
    fn overriding(&self, wanted: fn(Role) -> bool) -> &'static str {
        let gives = self
            .columns
            .iter()
            .any(|column| column.role == Role::GeneratedId);
        match self.dialect {
            Dialect::Postgres if gives && wanted(Role::GeneratedId) => " OVERRIDING SYSTEM VALUE",
            _ => "",
        }
    }

    /// Updates a row, except in the columns with the places `left`. Binds the other columns that an update writes, then what
    /// identifies the row, then the immutable columns.
    pub(crate) fn update(&self, left: &[usize], reads_back: bool) -> SqlStr {
        let assignments = self.assignments(left, |at, _| self.dialect.placeholder(at + 1));
        let condition = self.update_condition(assignments.len() + 1);
        sql(self.update_to(assignments, &condition, reads_back))
    }

    /// Returns the places of the columns that an update writes, except those that are `left` as they are.
    pub(crate) fn updated(&self, left: &[usize]) -> impl Iterator<Item = usize> {
        let columns = self.columns.iter().enumerate();
        columns
            .filter(|(place, column)| column.role.is_updated() && !left.contains(place))
            .map(|(place, _)| place)
    }

    /// Returns the assignments of an update. `value`: the new value of a column, by its number among them and its name.
    fn assignments(&self, left: &[usize], value: impl Fn(usize, &str) -> String) -> Vec<String> {
        let assignments = self.updated(left).enumerate().map(|(at, place)| {
            let name = self.dialect.quote(self.columns[place].name);
            format!("{name} = {}", value(at, &name))
        });
        assignments.collect()
    }

    /// Updates a row in the columns with these places. Binds them, then the id, then the version if there is one.
    pub(crate) fn update_columns(&self, places: &[usize], reads_back: bool) -> SqlStr {
        let names = places.iter().map(|place| self.columns[*place].name);
        let assignments = names.enumerate().map(|(at, name)| {
            let (name, value) = (self.dialect.quote(name), self.dialect.placeholder(at + 1));
            format!("{name} = {value}")
        });
        let condition = self.row_condition(places.len() + 1);
        sql(self.update_to(assignments.collect(), &condition, reads_back))
    }

    fn update_to(&self, mut assignments: Vec<String>, condition: &str, reads_back: bool) -> String {
        assignments.extend(
            self.version()
                .map(|version| format!("{version} = {version} + 1")),
        );
        if assignments.is_empty() {
            // Nothing to change: the statement still shows whether the row exists.
            let ids = self.names(Role::is_id);
            assignments.extend(ids.iter().map(|id| format!("{id} = {id}")));
        }
        format!(
            "UPDATE {} SET {} WHERE {condition}{}",
            self.table,
            assignments.join(", "),
            self.returning(reads_back)
        )
    }

    /// Returns the insert-or-update statement. MySQL's `ON DUPLICATE KEY UPDATE` would update the row that any unique
    /// key collides with, even one with another id, whose cache key would not be invalidated. So on MySQL an update is
    /// tried first, and this is the insert that follows.
    pub(crate) fn upsert(&self, left: &[usize], reads_back: bool) -> SqlStr {
        let insert = self.insert(Role::is_saved, false);
        if self.dialect == Dialect::MySql {
            return sql(insert);
        }
        sql(insert + &self.on_conflict(left) + &self.returning(reads_back))
    }

    /// Returns the clause of an insert for an existing id: update that row if it has the given version and the given values
    /// of the immutable columns, and no other row. The columns with the places `left` stay as they are.
    fn on_conflict(&self, left: &[usize]) -> String {
        if self.dialect == Dialect::MySql {
            return self.on_duplicate();
        }
        let ids = self.names(Role::is_id);
        let version = self.version();
        let mut assignments = self.assignments(left, |_, name| format!("excluded.{name}"));
        assignments.extend(
            version
                .iter()
                .map(|version| format!("{version} = excluded.{version} + 1")),
        );
        if assignments.is_empty() {
            assignments.extend(ids.iter().map(|id| format!("{id} = excluded.{id}")));
        }
        let mut text = format!(
            " ON CONFLICT ({}) DO UPDATE SET {}",
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
        conditions.extend(self.same_immutable(&self.table, "excluded"));
        if !conditions.is_empty() {
            write!(text, " WHERE {}", conditions.join(" AND "))
                .expect("writing to a string cannot fail");
        }
        text
    }

    /// As [`Text::on_conflict`] for MySQL, which selects the row that any unique key collides with, even one with
    /// another id. Such a row is not changed, and the caller must check whether its own row exists.
    fn on_duplicate(&self) -> String {
        let mut own = Vec::new();
        for column in self.columns.iter().filter(|column| column.role.is_id()) {
            let name = self.dialect.quote(column.name);
            own.push(format!("{name} = VALUES({name})"));
            if self.is_text_id(column) {
                let given = format!("CONVERT(VALUES({name}) USING utf8mb4)");
                own.push(self.dialect.exactly(&name, &given));
            }
        }
        let own = own.join(" AND ");
        let given = |name: &str| format!("IF({own}, VALUES({name}), {name})");
        let mut assignments = self.assignments(&[], |_, name| given(name));
        if assignments.is_empty() {
            let ids = self.names(Role::is_id);
            assignments.extend(ids.iter().map(|id| format!("{id} = {}", given(id))));
        }
        format!(" ON DUPLICATE KEY UPDATE {}", assignments.join(", "))
    }

    fn returning(&self, reads_back: bool) -> String {
        if reads_back && self.dialect.returns_rows() {
            format!(" RETURNING {}", self.all_names())
        } else {
            String::new()
        }
    }
}
