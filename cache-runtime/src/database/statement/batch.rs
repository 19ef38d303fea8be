//! The statements of batches: as rows of parameters, or as one array per column.
//!
//! Not here: how many rows a statement gets (`chunks`).

use sqlx::SqlStr;

use super::Text;
use crate::database::{
    backend::Backend,
    column::Role,
    dialect::{LOCK_WAIT_MS, sql},
};

/// The alias of the given rows in a statement.
const GIVEN: &str = "given";
/// The alias of the table in a statement with given rows.
const TARGET: &str = "target";
/// The value after a returned row that triggers may change before the transaction ends.
pub(crate) const TRIGGERS: i64 = 1;
/// The value after a returned row that triggers may change when the transaction ends.
pub(crate) const DEFERRED: i64 = 2;

/// What a statement of arrays is for, and so what it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// One batch of one caller. It waits for locks as the session says.
    Batch,
    /// The writes of several callers. It returns the place of each row among the given ones, after the row itself if that is read
    /// back, and waits for each lock at most [`LOCK_WAIT_MS`](crate::database::dialect::LOCK_WAIT_MS).
    Gathered { reads_back: bool },
}

impl<DB: Backend> Text<'_, DB> {
    /// Inserts this many rows. Binds the wanted columns, row by row.
    pub(crate) fn insert_rows(
        &self,
        wanted: fn(Role) -> bool,
        rows: usize,
        reads_back: bool,
    ) -> SqlStr {
        sql(self.insert_values(wanted, rows) + &self.returning(reads_back))
    }

    /// Inserts this many rows, or updates those that exist. Binds the columns that a save writes, row by row. With
    /// `returns`, it returns the rows as in [`Text::returning_final`], if the dialect can.
    pub(crate) fn upsert_rows(&self, rows: usize, returns: bool) -> SqlStr {
        sql(self.insert_values(Role::is_saved, rows)
            + &self.on_conflict(&[])
            + &self.returning_final(returns))
    }

    fn insert_values(&self, wanted: fn(Role) -> bool, rows: usize) -> String {
        let names = self.names(wanted);
        let row = |row: usize| {
            let first = row * names.len() + 1;
            let parameters: Vec<_> = (first..first + names.len())
                .map(|number| self.dialect.placeholder(number))
                .collect();
            format!("({})", parameters.join(", "))
        };
        let rows: Vec<_> = (0..rows).map(row).collect();
        format!(
            "INSERT INTO {} ({}){} VALUES {}",
            self.table,
            names.join(", "),
            self.overriding(wanted),
            rows.join(", ")
        )
    }

    /// Inserts rows given as arrays, in their order. Binds one array per wanted column.
    pub(crate) fn insert_arrays(&self, wanted: fn(Role) -> bool, reads_back: bool) -> SqlStr {
        sql(self.insert_in_order(wanted, "") + &self.returning(reads_back))
    }

    /// Inserts rows of several callers given as arrays, in their order. Binds one array per wanted column. Returns the inserted rows
    /// in that order.
    pub(crate) fn insert_gathered(&self, wanted: fn(Role) -> bool) -> SqlStr {
        sql(self.insert_in_order(wanted, &bounded()) + &self.returning(true))
    }

    /// Inserts rows of several callers given as arrays, or updates those that exist, in their order. Binds one array per column that
    /// a save writes. Returns the written rows in that order.
    pub(crate) fn upsert_gathered(&self) -> SqlStr {
        sql(self.insert_in_order(Role::is_saved, &bounded())
            + &self.on_conflict(&[])
            + &self.returning(true))
    }

    fn insert_in_order(&self, wanted: fn(Role) -> bool, more: &str) -> String {
        let names = self.names(wanted).join(", ");
        // The index of each row determines the order in which ids are generated.
        format!(
            "INSERT INTO {} ({names}){} SELECT {names} FROM {}{more} ORDER BY larder_place",
            self.table,
            self.overriding(wanted),
            self.given_in_order(wanted),
        )
    }

    /// Inserts the rows given as arrays, or updates those that exist. Binds one array per column that a save writes.
    /// With `returns`, it returns the rows as in [`Text::returning_final`].
    pub(crate) fn upsert_arrays(&self, returns: bool) -> SqlStr {
        let names = self.names(Role::is_saved).join(", ");
        sql(format!(
            "INSERT INTO {} ({names}){} SELECT {names} FROM {}{}{}",
            self.table,
            self.overriding(Role::is_saved),
            self.given(Role::is_saved, "", ""),
            self.on_conflict(&[]),
            self.returning_final(returns)
        ))
    }

    /// Returns the clause that returns the resulting rows of a statement. After their columns it returns what may still
    /// change them: 0 for nothing, [`TRIGGERS`] for triggers, which may also change a row that was returned before, and
    /// [`DEFERRED`] for triggers that run when the transaction ends. Each statement asks for it, so that a trigger of a
    /// later migration is detected. The database computes it once for all rows.
    fn returning_final(&self, returns: bool) -> String {
        if !(returns && self.dialect.returns_rows_of_upserts()) {
            return String::new();
        }
        let table = format!("to_regclass('{}')", self.table.replace('\'', "''"));
        // A relation that is not a plain table has its triggers elsewhere.
        format!(
            " RETURNING {}, CASE WHEN (SELECT relkind = 'r' FROM pg_catalog.pg_class WHERE oid = {table}) \
             THEN COALESCE((SELECT MAX(CASE WHEN tginitdeferred THEN {DEFERRED} ELSE {TRIGGERS} END) \
             FROM pg_catalog.pg_trigger WHERE tgrelid = {table} AND NOT tgisinternal AND tgenabled <> 'D'), 0) ELSE {TRIGGERS} END::bigint",
            self.all_names()
        )
    }

    /// Updates the rows given as arrays, except in the columns with the places `left`. Binds one array per column that a save
    /// writes.
    pub(crate) fn update_arrays(&self, left: &[usize], purpose: Purpose) -> SqlStr {
        let mut assignments = self.assignments(left, |_, name| format!("{GIVEN}.{name}"));
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
        let mut conditions = vec![self.is_given(true)];
        conditions.extend(self.same_immutable(TARGET, GIVEN));
        let mut returned = match purpose {
            Purpose::Gathered { reads_back: false } => Vec::new(),
            Purpose::Batch | Purpose::Gathered { reads_back: true } => {
                let names = self.names(|_| true).into_iter();
                names.map(|name| format!("{TARGET}.{name}")).collect()
            }
        };
        if purpose != Purpose::Batch {
            returned.push(format!("{GIVEN}.larder_place"));
        }
        sql(format!(
            "UPDATE {} AS {TARGET} SET {} FROM {} WHERE {} RETURNING {}",
            self.table,
            assignments.join(", "),
            self.given_for(Role::is_saved, purpose),
            conditions.join(" AND "),
            returned.join(", ")
        ))
    }

    /// Deletes the rows given as arrays. Binds one array per part of the id, and one of versions if they are compared.
    pub(crate) fn delete_arrays(&self, compares_version: bool, purpose: Purpose) -> SqlStr {
        let returned = match purpose {
            Purpose::Batch => String::new(),
            Purpose::Gathered { .. } => format!(" RETURNING {GIVEN}.larder_place"),
        };
        sql(format!(
            "DELETE FROM {} AS {TARGET} USING {} WHERE {}{returned}",
            self.table,
            self.given_for(Self::identified_by(compares_version), purpose),
            self.is_given(compares_version)
        ))
    }

    /// Deletes this many rows. Binds the columns that identify them, row by row.
    pub(crate) fn delete_rows(&self, rows: usize, compares_version: bool) -> SqlStr {
        sql(format!(
            "DELETE FROM {} WHERE {}",
            self.table,
            self.any_of(rows, compares_version)
        ))
    }

    /// Reads the rows given as arrays. Binds one array per part of the id.
    pub(crate) fn select_arrays(&self) -> SqlStr {
        let names = self.names(|_| true);
        let names: Vec<_> = names
            .iter()
            .map(|name| format!("{TARGET}.{name}"))
            .collect();
        sql(format!(
            "SELECT {} FROM {} AS {TARGET}, {} WHERE {}",
            names.join(", "),
            self.table,
            self.given(Self::identified_by(false), "", ""),
            self.is_given(false)
        ))
    }

    /// Reads the rows with ids given as arrays, and possibly rows whose ids are equal for the database in another spelling.
    /// Binds one array per part of the id.
    pub(crate) fn select_any(&self) -> SqlStr {
        match &self.names(Role::is_id)[..] {
            [id] => sql(self.select(&format!("{id} = ANY({})", self.dialect.placeholder(1)))),
            _ => self.select_arrays(),
        }
    }

    /// Reads the rows with this many ids, and possibly rows whose ids are equal for the database in another spelling. Binds
    /// the ids one after the other.
    pub(crate) fn select_in(&self, ids: usize) -> SqlStr {
        let names = self.names(Role::is_id);
        let condition = match &names[..] {
            [id] => {
                let parameters: Vec<_> = (1..=ids)
                    .map(|number| self.dialect.placeholder(number))
                    .collect();
                format!("{id} IN ({})", parameters.join(", "))
            }
            parts => {
                let ids: Vec<_> = (0..ids)
                    .map(|id| format!("({})", self.id_conditions(id * parts.len() + 1).0))
                    .collect();
                ids.join(" OR ")
            }
        };
        sql(self.select(&condition))
    }

    /// Reads this many rows. Binds their ids, row by row.
    pub(crate) fn select_rows(&self, rows: usize) -> SqlStr {
        sql(self.current(self.select(&self.any_of(rows, false))))
    }

    /// Counts how many of this many rows exist now. Binds their ids, row by row.
    pub(crate) fn count_rows(&self, rows: usize) -> SqlStr {
        sql(self.current(format!(
            "SELECT COUNT(*) FROM {} WHERE {}",
            self.table,
            self.any_of(rows, false)
        )))
    }

    /// Returns the columns that identify a row, including its version if that is compared.
    pub(crate) fn identified_by(compares_version: bool) -> fn(Role) -> bool {
        if compares_version {
            |role| role.is_id() || role == Role::Version
        } else {
            Role::is_id
        }
    }

    /// Returns the number of parameters that identify a row.
    pub(crate) fn parameters_per_row(&self, compares_version: bool) -> usize {
        let identifying = self.names(Self::identified_by(compares_version)).len();
        let repeated = self.columns.iter().filter(|column| self.is_text_id(column));
        if self.dialect.numbers_parameters() {
            identifying
        } else {
            identifying + repeated.count()
        }
    }

    /// Returns the given rows as a table expression, with their places and a bound for the wait for locks if they are of several
    /// callers.
    fn given_for(&self, wanted: fn(Role) -> bool, purpose: Purpose) -> String {
        match purpose {
            Purpose::Batch => self.given(wanted, "", ""),
            Purpose::Gathered { .. } => self.given_in_order(wanted) + &bounded(),
        }
    }

    /// Returns the given rows as a table expression with their places, from 1 on.
    fn given_in_order(&self, wanted: fn(Role) -> bool) -> String {
        self.given(wanted, " WITH ORDINALITY", ", larder_place")
    }

    /// Returns the rows of a batch as a table expression.
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

    /// Returns the condition that a row of the table is one of the given ones.
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
}

/// Returns what bounds the wait for each lock of a statement, to stand after its last table expression. The database evaluates it
/// before it has the first row to lock, and forgets it when the statement ends, which is a transaction of its own.
fn bounded() -> String {
    format!(", (SELECT set_config('lock_timeout', '{LOCK_WAIT_MS}', true)) AS larder_bound")
}
