//! The statements of lookups: the ids of the rows that have given values.
//!
//! Text is compared as ids are: with the column's collation, which uses the index, and byte for byte. A lookup that folds
//! compares `lower(column)` instead, which uses an index on that expression.
//!
//! Not here: how many values a statement gets (`database::lookup`).

use std::fmt::Write;

use sqlx::SqlStr;

use super::Text;
use crate::database::{
    backend::Backend,
    column::{ColumnSpec, Role},
    dialect::{Dialect, sql},
    lookup::LookupSpec,
};

impl<DB: Backend> Text<'_, DB> {
    /// Reads the ids of the rows that have the values of a lookup, for this many values. Binds the values one after the
    /// other. Returns the number of the values before each id, in the order of the values and then of the lookup.
    pub(crate) fn select_lookup(&self, spec: &LookupSpec, values: usize) -> SqlStr {
        if values == 1 {
            return sql(self.found_by(spec, 0, false));
        }
        let parts: Vec<_> = (0..values)
            .map(|place| {
                format!(
                    "SELECT * FROM ({}) AS part_{place}",
                    self.found_by(spec, place, true)
                )
            })
            .collect();
        let ids = self.names(Role::is_id).join(", ");
        let mut order = "larder_place".to_owned();
        for (at, (_, descends)) in self.order(spec).iter().enumerate() {
            write!(order, ", larder_order_{at}{}", direction(*descends))
                .expect("writing to a string cannot fail");
        }
        sql(format!(
            "SELECT larder_place, {ids} FROM ({}) AS found ORDER BY {order}",
            parts.join(" UNION ALL ")
        ))
    }

    /// Reads the ids of the first rows that have the values of a lookup, or with `is_after` of those after a row. Binds the
    /// values, then those columns of the row that [`Text::compared_for_page`] lists, then the maximum number of rows.
    pub(crate) fn select_page(&self, spec: &LookupSpec, is_after: bool) -> SqlStr {
        let ids = self.names(Role::is_id).join(", ");
        let mut condition = self.has_values(spec, 1);
        let mut next = spec.columns.len() + 1;
        if is_after {
            let mut parameter = || {
                next += 1;
                self.dialect.placeholder(next - 1)
            };
            let after = self.comes_after(&self.order(spec), &mut parameter);
            write!(condition, " AND {after}").expect("writing to a string cannot fail");
        }
        sql(format!(
            "SELECT {} AS larder_place, {ids} FROM {} WHERE {condition} ORDER BY {} LIMIT {}",
            self.number(0),
            self.table,
            self.in_order(spec),
            self.dialect.placeholder(next)
        ))
    }

    /// Returns the places of the columns whose values the condition of a page compares, in the order of its parameters.
    pub(crate) fn compared_for_page(&self, spec: &LookupSpec) -> Vec<usize> {
        let order = self.order(spec);
        let place = |name: &str| {
            let mut columns = self.columns.iter();
            let place = columns.position(|column| column.name == name);
            place.expect("the derive names columns of the entity")
        };
        let (last, others) = order.split_last().expect("an entity has an id");
        let others = others.iter().flat_map(|(name, _)| [place(name); 3]);
        others.chain([place(last.0)]).collect()
    }

    /// Returns the places of the columns whose values the condition of a lookup compares, in the order of its parameters.
    pub(crate) fn compared_for_lookup(&self, spec: &LookupSpec) -> Vec<usize> {
        let place = |name: &&str| {
            let mut columns = self.columns.iter();
            columns.position(|column| column.name == *name)
        };
        let mut places: Vec<_> = spec.columns.iter().filter_map(place).collect();
        if self.repeats_texts(spec) {
            let is_text = |place: &usize| self.dialect.is_text(self.columns[*place].type_name());
            let texts: Vec<_> = places.iter().copied().filter(is_text).collect();
            places.extend(texts);
        }
        places
    }

    /// Counts the rows that have the values of a lookup. Binds the values.
    pub(crate) fn count_lookup(&self, spec: &LookupSpec) -> SqlStr {
        sql(format!(
            "SELECT COUNT(*) FROM {} WHERE {}",
            self.table,
            self.has_values(spec, 1)
        ))
    }

    /// Reads the rows that have the values of a lookup and locks them until the transaction ends, in the order of their ids: two
    /// transactions that lock the same rows then wait for each other, and do not deadlock. Binds the values.
    pub(crate) fn select_found_locked(&self, spec: &LookupSpec) -> SqlStr {
        sql(self.locked(self.by_id(&self.select(&self.has_values(spec, 1)))))
    }

    /// As [`Text::select_found_locked`], but reads only the ids, each after a number as [`Text::select_lookup`] returns it.
    pub(crate) fn select_found_ids_locked(&self, spec: &LookupSpec) -> SqlStr {
        sql(self.locked(self.by_id(&format!(
            "SELECT {} FROM {} WHERE {}",
            self.found_ids(),
            self.table,
            self.has_values(spec, 1)
        ))))
    }

    /// Deletes the rows that have the values of a lookup, and returns their ids, each after a number as
    /// [`Text::select_lookup`] returns it. Binds the values. Only for a dialect that returns rows of writes.
    pub(crate) fn delete_found(&self, spec: &LookupSpec) -> SqlStr {
        sql(format!(
            "DELETE FROM {} WHERE {} RETURNING {}",
            self.table,
            self.has_values(spec, 1),
            self.found_ids()
        ))
    }

    fn found_ids(&self) -> String {
        let ids = self.names(Role::is_id).join(", ");
        format!("{} AS larder_place, {ids}", self.number(0))
    }

    fn by_id(&self, select: &str) -> String {
        format!("{select} ORDER BY {}", self.names(Role::is_id).join(", "))
    }

    /// Returns the condition that a row comes after the one whose values are the parameters.
    fn comes_after(
        &self,
        order: &[(&str, bool)],
        parameter: &mut impl FnMut() -> String,
    ) -> String {
        let Some(((column, descends), rest)) = order.split_first() else {
            return "1 = 0".to_owned();
        };
        let name = self.dialect.quote(column);
        let sign = if *descends { '<' } else { '>' };
        if rest.is_empty() {
            return format!("{name} {sign} {}", parameter());
        }
        // The first part repeats the others, for the index.
        let (bound, beyond, equal) = (parameter(), parameter(), parameter());
        let rest = self.comes_after(rest, parameter);
        format!(
            "({name} {sign}= {bound} AND ({name} {sign} {beyond} OR ({name} = {equal} AND {rest})))"
        )
    }

    /// Returns the columns that the rows of a lookup are ordered by, each with whether it is descending. The id makes the
    /// order total.
    fn order<'s>(&'s self, spec: &LookupSpec) -> Vec<(&'s str, bool)> {
        let named = spec.order_by.iter().filter_map(|(name, descends)| {
            let mut columns = self.columns.iter();
            let column = columns.find(|column| column.name == *name)?;
            Some((column.name, *descends))
        });
        let mut order: Vec<_> = named.collect();
        for column in self.columns.iter().filter(|column| column.role.is_id()) {
            if order.iter().all(|(name, _)| *name != column.name) {
                order.push((column.name, false));
            }
        }
        order
    }

    /// Returns the columns of a lookup's order with their directions.
    fn in_order(&self, spec: &LookupSpec) -> String {
        let order = self.order(spec).into_iter();
        let order =
            order.map(|(column, descends)| self.dialect.quote(column) + direction(descends));
        order.collect::<Vec<_>>().join(", ")
    }

    /// Reads the ids of the rows that have the values with this number. `with_order`: also the columns they are ordered by.
    fn found_by(&self, spec: &LookupSpec, place: usize, with_order: bool) -> String {
        let ids = self.names(Role::is_id).join(", ");
        let mut selected = format!("{} AS larder_place, {ids}", self.number(place));
        if with_order {
            for (at, (column, _)) in self.order(spec).iter().enumerate() {
                let column = self.dialect.quote(column);
                write!(selected, ", {column} AS larder_order_{at}")
                    .expect("writing to a string cannot fail");
            }
        }
        format!(
            "SELECT {selected} FROM {} WHERE {} ORDER BY {} LIMIT {}",
            self.table,
            self.has_values(spec, place * spec.columns.len() + 1),
            self.in_order(spec),
            u64::from(spec.max) + 1
        )
    }

    /// Returns the condition that a row has the values of a lookup, for parameters from `first` on.
    fn has_values(&self, spec: &LookupSpec, first: usize) -> String {
        let mut equal = Vec::new();
        let mut exact = Vec::new();
        for (at, column) in self.columns_of(spec).enumerate() {
            let name = self.dialect.quote(column.name);
            let parameter = self.dialect.placeholder(first + at);
            match (self.dialect.is_text(column.type_name()), spec.folds) {
                (true, folds) => {
                    let text = if folds {
                        format!("lower({name})")
                    } else {
                        name
                    };
                    equal.push(format!("{text} = {parameter}"));
                    exact.push(self.dialect.exactly(&text, &parameter));
                }
                (false, _) => equal.push(format!("{name} = {parameter}")),
            }
        }
        equal.extend(exact);
        equal.join(" AND ")
    }

    /// Returns whether the texts among the values of a lookup are bound a second time after the values.
    pub(crate) fn repeats_texts(&self, spec: &LookupSpec) -> bool {
        let mut columns = self.columns_of(spec);
        !self.dialect.numbers_parameters()
            && columns.any(|column| self.dialect.is_text(column.type_name()))
    }

    fn columns_of(&self, spec: &LookupSpec) -> impl Iterator<Item = &ColumnSpec<DB>> {
        let named = |name: &&str| self.columns.iter().find(|column| column.name == *name);
        spec.columns.iter().filter_map(named)
    }

    /// Returns a number of 64 bits.
    fn number(&self, number: usize) -> String {
        match self.dialect {
            Dialect::Postgres => format!("CAST({number} AS BIGINT)"),
            Dialect::MySql => format!("CAST({number} AS SIGNED)"),
            Dialect::Sqlite => number.to_string(),
        }
    }
}

fn direction(descends: bool) -> &'static str {
    if descends { " DESC" } else { "" }
}
