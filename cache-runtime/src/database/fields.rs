//! Which fields of a struct a database cannot store, and the message that says so.
//!
//! An entity fits a database if the database has a type for every field. This is known where the database is a concrete
//! type: only there does the compiler evaluate [`check`]. So the derive lists the fields with the answer of every
//! database, and the message names all fields that do not fit, each with its type and the way out.
//!
//! Not here: a field that no enabled database can store. The derive reports it at the field.

use crate::database::{
    backend::{Backend, Bound},
    dialect::Dialect,
    entity::Entity,
};

/// For each database whether it can do something with a type; `false` if its feature is off.
pub type PerDatabase = [bool; 3];

/// The fields of a struct. Implemented by `#[derive(Cached)]` and `#[derive(Columns)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which columns it holds",
    label = "its columns are unknown",
    note = "a struct nested with `#[sqlx(flatten)]` needs `#[derive(larder::Columns)]`"
)]
pub trait Fields {
    /// The fields whose types decide which database fits, in field order.
    const FIELDS: &'static [Field];
}

/// A field whose type decides which database fits.
#[derive(Debug)]
pub enum Field {
    /// One column.
    Column {
        /// The name of the column.
        name: &'static str,
        /// The type that is stored, as the struct spells it.
        ty: &'static str,
        /// What to write instead of a type that does not fit.
        way_out: &'static str,
        /// Whether a value of the type can be written to a column.
        stored: PerDatabase,
        /// Whether a value of the type can be read from a column.
        read: PerDatabase,
    },
    /// The fields of a nested struct.
    Nested(&'static [Self]),
}

impl Field {
    /// Returns a column.
    #[must_use]
    pub const fn column(
        name: &'static str,
        ty: &'static str,
        way_out: &'static str,
        stored: PerDatabase,
        read: PerDatabase,
    ) -> Self {
        Self::Column {
            name,
            ty,
            way_out,
            stored,
            read,
        }
    }
}

/// Returns whether some database can store and read the field. A struct that is a row has a way to read it.
#[must_use]
pub const fn fits_somewhere(field: &Field, is_row: bool) -> bool {
    match field {
        Field::Column { stored, read, .. } => any(stored) && (is_row || any(read)),
        Field::Nested(fields) => !has_misfit(fields, is_row),
    }
}

/// Returns whether the struct can be read from a row of some database, or has a field that prevents it. Such a field is
/// reported itself.
#[must_use]
pub const fn is_row_or_has_misfit(is_row: bool, fields: &[Field]) -> bool {
    is_row || has_misfit(fields, is_row)
}

const fn has_misfit(fields: &[Field], is_row: bool) -> bool {
    let mut index = 0;
    while index < fields.len() {
        if !fits_somewhere(&fields[index], is_row) {
            return true;
        }
        index += 1;
    }
    false
}

const fn any(databases: &PerDatabase) -> bool {
    databases[0] || databases[1] || databases[2]
}

/// Fails to compile if database `DB` cannot store the entity. Evaluated where `DB` becomes a concrete type.
#[track_caller]
pub const fn check<E: Entity, DB: Backend>() {
    if <DB::Of<E> as Bound<E, DB>>::BINDING.is_none() {
        panic!("{}", misfits::<E, DB>().as_str());
    }
}

/// Returns the message about an entity that the database cannot store.
pub(crate) const fn misfits<E: Entity, DB: Backend>() -> Message {
    let index = match DB::DIALECT {
        Dialect::Postgres => 0,
        Dialect::MySql => 1,
        Dialect::Sqlite => 2,
    };
    let start = [
        DB::NAME,
        " cannot store every column of `",
        E::SPEC.name,
        "`",
    ];
    let message = Message::EMPTY.line(&start);
    let listed = message.fields(E::FIELDS, index);
    if listed.length > message.length {
        return listed;
    }
    let start = [
        "`",
        E::SPEC.name,
        "` cannot be read from a row of ",
        DB::NAME,
    ];
    let message = Message::EMPTY.line(&start);
    message.line(&["; derive `sqlx::FromRow` for it"])
}

/// A text that is composed while the program is compiled, where nothing can be allocated.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Message {
    const CAPACITY: usize = 8192;

    const EMPTY: Self = Self {
        bytes: [0; Self::CAPACITY],
        length: 0,
    };

    pub(crate) const fn as_str(&self) -> &str {
        match str::from_utf8(self.bytes.split_at(self.length).0) {
            Ok(text) => text,
            Err(_) => panic!("it is composed of texts"),
        }
    }

    /// Adds a line for each field that the database cannot store.
    const fn fields(mut self, fields: &[Field], database: usize) -> Self {
        let mut index = 0;
        while index < fields.len() {
            match &fields[index] {
                Field::Nested(fields) => self = self.fields(fields, database),
                Field::Column {
                    name,
                    ty,
                    way_out,
                    stored,
                    read,
                } => {
                    if !stored[database] || !read[database] {
                        let verb = if stored[database] { "read" } else { "store" };
                        let start = ["\n- column `", name, "`: it cannot ", verb, " `", ty, "`; "];
                        self = self.line(&start).line(&[way_out]);
                    }
                }
            }
            index += 1;
        }
        self
    }

    /// Adds all texts, or none of them if there is no room.
    const fn line(mut self, texts: &[&str]) -> Self {
        let start = self.length;
        let mut index = 0;
        while index < texts.len() {
            let text = texts[index].as_bytes();
            if self.length + text.len() > Self::CAPACITY {
                self.length = start;
                return self;
            }
            let mut at = 0;
            while at < text.len() {
                self.bytes[self.length + at] = text[at];
                at += 1;
            }
            self.length += text.len();
            index += 1;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn column(name: &'static str, stored: bool, read: bool) -> Field {
        Field::column(
            name,
            "u64",
            "use `i64`",
            [true, stored, false],
            [true, read, false],
        )
    }

    const NESTED: &[Field] = &[column("nested", false, true)];
    const FIELDS: &[Field] = &[
        column("fits", true, true),
        column("written", false, true),
        Field::Nested(NESTED),
        column("read", true, false),
    ];

    #[test]
    fn message_names_every_field_that_does_not_fit_and_no_other() {
        assert_eq!(Message::EMPTY.fields(FIELDS, 0).as_str(), "");
        assert_eq!(
            Message::EMPTY.fields(FIELDS, 1).as_str(),
            "\n- column `written`: it cannot store `u64`; use `i64`\
             \n- column `nested`: it cannot store `u64`; use `i64`\
             \n- column `read`: it cannot read `u64`; use `i64`"
        );
    }

    #[test]
    fn message_without_room_ends_with_a_whole_text() {
        let mut message = Message::EMPTY;
        for _ in 0..Message::CAPACITY {
            message = message.line(&["é", "é", "é"]);
        }
        assert_eq!(message.as_str().len(), Message::CAPACITY / 6 * 6);
    }

    #[test]
    fn field_that_fits_nowhere_excuses_the_row() {
        assert!(is_row_or_has_misfit(true, &[]));
        assert!(!is_row_or_has_misfit(false, FIELDS));
        let nowhere = || Field::column("a", "B", "", [false; 3], [true; 3]);
        assert!(is_row_or_has_misfit(false, &[nowhere()]));
        const DEEP: &[Field] = &[Field::column("a", "B", "", [true; 3], [false; 3])];
        assert!(is_row_or_has_misfit(false, &[Field::Nested(DEEP)]));
    }
}
