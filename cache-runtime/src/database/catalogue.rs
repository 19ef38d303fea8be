//! What the database's catalogue says of a table or a view: its columns, its unique keys, and whether it takes writes.
//!
//! 1. Each database has a catalogue of its own, so each question has three statements.
//! 2. Their answers are texts (`yes`, `no`, names), so that they are read alike.
//!
//! Not here: what follows from the answers (`schema`, `fit`).

use sqlx::SqlStr;

use crate::database::{backend::Backend, dialect::Dialect, fit::Declared};

/// A table or a view.
pub(super) struct Relation {
    pub(super) kind: Kind,
    pub(super) columns: Vec<Found>,
    pub(super) keys: Vec<UniqueKey>,
}

/// What a table is, as far as writes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A table.
    Table,
    /// A view that takes all writes of larder.
    View,
    /// A view with triggers, or a table on another server: it takes no upsert.
    WithoutUpsert,
    /// A view that takes no writes.
    ReadOnly,
}

/// A column.
pub(super) struct Found {
    pub(super) name: String,
    /// Whether it can be NULL. Databases do not know it of the columns of a view, or say that all of them can.
    pub(super) nullable: bool,
    pub(super) in_primary_key: bool,
    pub(super) has_default: bool,
    /// Whether the database computes the value and accepts none.
    pub(super) computed: bool,
    /// The collation of a text column, where it is known not to compare byte for byte.
    pub(super) folding: Option<String>,
    pub(super) declared: Declared,
}

/// The columns of a unique key without a condition.
pub(super) struct UniqueKey {
    pub(super) columns: Vec<String>,
    pub(super) is_primary: bool,
    /// Whether the database compares it only when a transaction ends.
    pub(super) is_deferrable: bool,
}

/// Reads the catalogue. A table that does not exist has no columns.
pub(super) async fn relation<DB: Backend>(
    connection: &mut DB::Connection,
    table: &str,
) -> Result<Relation, sqlx::Error> {
    let columns = columns::<DB>(connection, table).await?;
    let kind = ask::<DB>(connection, table, kind_sql(DB::DIALECT)).await?;
    let kind = match kind.first() {
        Some(row) => DB::text(row, 0)?,
        None => None,
    };
    let kind = match kind.as_deref() {
        Some("view") => Kind::View,
        Some("without upsert") => Kind::WithoutUpsert,
        Some("read only") => Kind::ReadOnly,
        _ => Kind::Table,
    };
    let mut keys = keys::<DB>(connection, table).await?;
    // An id of SQLite that is the row number has no index.
    if !keys.iter().any(|key| key.is_primary) {
        let primary = columns.iter().filter(|column| column.in_primary_key);
        let primary: Vec<_> = primary.map(|column| column.name.clone()).collect();
        if !primary.is_empty() {
            keys.push(UniqueKey {
                columns: primary,
                is_primary: true,
                is_deferrable: false,
            });
        }
    }
    Ok(Relation {
        kind,
        columns,
        keys,
    })
}

/// Runs a statement that binds the name of the table and its schema.
async fn ask<DB: Backend>(
    connection: &mut DB::Connection,
    table: &str,
    text: &'static str,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    let (schema, name) = match table.rsplit_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, table),
    };
    let schema = schema.or((DB::DIALECT == Dialect::Sqlite).then_some("main"));
    let mut arguments = DB::Arguments::default();
    DB::add_text(&mut arguments, Some(name)).map_err(sqlx::Error::Encode)?;
    DB::add_text(&mut arguments, schema).map_err(sqlx::Error::Encode)?;
    DB::fetch_all(connection, SqlStr::from_static(text), arguments).await
}

async fn columns<DB: Backend>(
    connection: &mut DB::Connection,
    table: &str,
) -> Result<Vec<Found>, sqlx::Error> {
    let rows = ask::<DB>(connection, table, columns_sql(DB::DIALECT)).await?;
    let found = rows.iter().map(|row| {
        let text = |index| DB::text(row, index).map(Option::unwrap_or_default);
        Ok(Found {
            name: text(0)?,
            nullable: text(1)? == "yes",
            in_primary_key: text(2)? == "yes",
            has_default: text(3)? == "yes",
            computed: text(4)? == "yes",
            folding: DB::text(row, 5)?,
            declared: Declared {
                type_name: text(6)?,
                is_strict: text(7)? == "yes",
                character_set: DB::text(row, 8)?,
            },
        })
    });
    found.collect()
}

/// Returns the columns in their order: name, can be NULL, in the primary key, has a default, takes no value, collation,
/// type, STRICT, character set.
const fn columns_sql(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            // The schema is a parameter of the table-valued functions. Only indexes report a collation. The primary key
            // has an index unless it is the row number itself, which the database can generate.
            "SELECT name, CASE WHEN \"notnull\" OR pk THEN 'no' ELSE 'yes' END, CASE WHEN pk THEN 'yes' ELSE 'no' END, \
             CASE WHEN dflt_value IS NOT NULL OR hidden IN (2, 3) \
             OR (pk AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1, ?2) WHERE origin = 'pk')) THEN 'yes' ELSE 'no' END, \
             CASE WHEN hidden IN (2, 3) THEN 'yes' ELSE 'no' END, \
             (SELECT MAX(NULLIF(part.coll, 'BINARY')) FROM pragma_index_list(?1, ?2) AS indexes \
              JOIN pragma_index_xinfo(indexes.name, ?2) AS part \
              WHERE indexes.\"unique\" AND part.key AND part.name = columns.name), \
             type, \
             (SELECT CASE WHEN tables.strict THEN 'yes' ELSE 'no' END FROM pragma_table_list(?1) AS tables WHERE tables.schema = ?2), \
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
             format_type(a.atttypid, a.atttypmod), 'no', NULL::text \
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
             CAST(column_type AS CHAR), 'no', CAST(character_set_name AS CHAR) \
             FROM information_schema.columns WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE()) ORDER BY ordinal_position"
        }
    }
}

/// Returns what the table is, in the words of [`relation`].
const fn kind_sql(dialect: Dialect) -> &'static str {
    match dialect {
        // A view takes writes by triggers only, and SQLite does not count the rows that those write.
        Dialect::Sqlite => {
            "SELECT CASE type WHEN 'view' THEN 'read only' ELSE 'table' END FROM pragma_table_list(?1) WHERE schema = ?2"
        }
        // The bits are those of UPDATE, INSERT and DELETE. The second argument counts triggers in.
        Dialect::Postgres => {
            "SELECT CASE WHEN relkind IN ('r', 'p') THEN 'table' \
             WHEN relkind = 'v' AND pg_relation_is_updatable(oid, false) & 28 = 28 THEN 'view' \
             WHEN pg_relation_is_updatable(oid, true) & 28 = 28 THEN 'without upsert' ELSE 'read only' END FROM pg_class \
             WHERE oid = to_regclass(CASE WHEN $2::text IS NULL THEN quote_ident($1) ELSE quote_ident($2) || '.' || quote_ident($1) END)"
        }
        Dialect::MySql => {
            "SELECT CASE is_updatable WHEN 'YES' THEN 'view' ELSE 'read only' END FROM information_schema.views \
             WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE())"
        }
    }
}

/// A column of another table that a foreign key changes, or whose rows it deletes, when a row of this one is deleted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Referrer {
    pub(super) table: String,
    pub(super) column: String,
    /// `CASCADE`, `SET NULL` or `SET DEFAULT`.
    pub(super) action: String,
}

/// Reads the foreign keys that refer to a table and do something when a row of it is deleted.
pub(super) async fn referrers<DB: Backend>(
    connection: &mut DB::Connection,
    table: &str,
) -> Result<Vec<Referrer>, sqlx::Error> {
    let rows = ask::<DB>(connection, table, referrers_sql(DB::DIALECT)).await?;
    let referrers = rows.iter().map(|row| {
        let text = |index| DB::text(row, index).map(Option::unwrap_or_default);
        Ok(Referrer {
            table: text(0)?,
            column: text(1)?,
            action: text(2)?,
        })
    });
    referrers.collect()
}

/// Returns the other table, its column, and what the foreign key does to it.
const fn referrers_sql(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            "SELECT tables.name, parts.\"from\", parts.on_delete FROM pragma_table_list() AS tables \
             JOIN pragma_foreign_key_list(tables.name, tables.schema) AS parts \
             WHERE parts.\"table\" = ?1 COLLATE NOCASE AND tables.schema = ?2 \
             AND parts.on_delete IN ('CASCADE', 'SET NULL', 'SET DEFAULT') ORDER BY 1, 2"
        }
        Dialect::Postgres => {
            "SELECT t.relname::text, a.attname::text, \
             CASE c.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END \
             FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid \
             CROSS JOIN LATERAL unnest(c.conkey) AS part(number) \
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = part.number \
             WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confdeltype IN ('c', 'n', 'd') \
             AND c.confrelid = to_regclass(CASE WHEN $2::text IS NULL THEN quote_ident($1) ELSE quote_ident($2) || '.' || quote_ident($1) END) \
             ORDER BY 1, 2"
        }
        Dialect::MySql => {
            "SELECT CAST(parts.table_name AS CHAR), CAST(parts.column_name AS CHAR), CAST(rules.delete_rule AS CHAR) \
             FROM information_schema.referential_constraints AS rules JOIN information_schema.key_column_usage AS parts \
             ON parts.constraint_schema = rules.constraint_schema AND parts.constraint_name = rules.constraint_name \
             AND parts.table_name = rules.table_name \
             WHERE rules.referenced_table_name = ? AND rules.unique_constraint_schema = COALESCE(?, DATABASE()) \
             AND rules.delete_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT') ORDER BY 1, 2"
        }
    }
}

async fn keys<DB: Backend>(
    connection: &mut DB::Connection,
    table: &str,
) -> Result<Vec<UniqueKey>, sqlx::Error> {
    let rows = ask::<DB>(connection, table, keys_sql(DB::DIALECT)).await?;
    let mut keys: Vec<(String, UniqueKey)> = Vec::new();
    for row in &rows {
        let text = |index| DB::text(row, index).map(Option::unwrap_or_default);
        let (name, column) = (text(0)?, text(1)?);
        match keys.last_mut() {
            Some((last, key)) if *last == name => key.columns.push(column),
            _ => keys.push((
                name,
                UniqueKey {
                    columns: vec![column],
                    is_primary: text(2)? == "yes",
                    is_deferrable: text(3)? == "yes",
                },
            )),
        }
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

/// Returns the columns of the unique keys, key by key: name of the key, column, is the primary key, is deferrable. A key
/// with a condition or an expression does not count.
const fn keys_sql(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            "SELECT indexes.name, part.name, CASE indexes.origin WHEN 'pk' THEN 'yes' ELSE 'no' END, 'no' \
             FROM pragma_index_list(?1, ?2) AS indexes JOIN pragma_index_info(indexes.name, ?2) AS part \
             WHERE indexes.\"unique\" AND NOT indexes.partial \
             AND NOT EXISTS (SELECT 1 FROM pragma_index_info(indexes.name, ?2) AS other WHERE other.name IS NULL) \
             ORDER BY indexes.name, part.seqno"
        }
        Dialect::Postgres => {
            "SELECT i.indexrelid::text, a.attname::text, CASE WHEN i.indisprimary THEN 'yes' ELSE 'no' END, \
             CASE WHEN i.indimmediate THEN 'no' ELSE 'yes' END \
             FROM pg_index i CROSS JOIN LATERAL unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS part(number) \
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = part.number \
             WHERE i.indrelid = to_regclass(CASE WHEN $2::text IS NULL THEN quote_ident($1) ELSE quote_ident($2) || '.' || quote_ident($1) END) \
             AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY i.indexrelid"
        }
        Dialect::MySql => {
            "SELECT CAST(index_name AS CHAR), CAST(column_name AS CHAR), CASE index_name WHEN 'PRIMARY' THEN 'yes' ELSE 'no' END, \
             'no' FROM information_schema.statistics WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE()) \
             AND non_unique = 0 AND column_name IS NOT NULL ORDER BY index_name, seq_in_index"
        }
    }
}
