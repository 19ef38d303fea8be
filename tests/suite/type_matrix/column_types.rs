//! The column types of the three databases, with values that other programs store in them.

/// A type of column.
#[derive(Clone, Copy)]
pub(crate) struct ColumnType {
    /// Its name on the page.
    pub(crate) name: &'static str,
    /// The column in CREATE TABLE, after its name.
    pub(crate) sql: &'static str,
    /// What follows the parentheses of CREATE TABLE.
    pub(crate) table_options: &'static str,
    pub(crate) content: Content,
    /// Whether a constraint refuses values that are not of its own, which is not counted.
    pub(crate) is_checked: bool,
    /// The Rust types of texts whose texts it holds, if other ones mean something else.
    pub(crate) meant: Option<&'static [&'static str]>,
}

/// What other programs store in a column.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// Values of its own: usual ones, and those at the edges of the type.
    Own {
        usual: &'static [&'static str],
        edge: &'static [&'static str],
    },
    /// Texts of any meaning.
    Texts,
    /// Bytes, or values of any type.
    Anything,
}

const fn own(
    sql: &'static str,
    usual: &'static [&'static str],
    edge: &'static [&'static str],
) -> ColumnType {
    column(sql, Content::Own { usual, edge })
}

const fn column(sql: &'static str, content: Content) -> ColumnType {
    ColumnType {
        name: sql,
        sql,
        table_options: "",
        content,
        is_checked: false,
        meant: None,
    }
}

const fn named(name: &'static str, column: ColumnType) -> ColumnType {
    ColumnType { name, ..column }
}

const fn strict(name: &'static str, column: ColumnType) -> ColumnType {
    ColumnType {
        name,
        table_options: " STRICT",
        ..column
    }
}

const INTEGERS: &[&str] = &["1", "0"];
const INTEGER_EDGES: &[&str] = &["5", "-5", "9223372036854775807", "-9223372036854775808"];
const FRACTIONS: &[&str] = &["0.5", "1"];
const LABELS: &[&str] = &["'happy'", "'grumpy'"];
const UUIDS: &[&str] = &["'01234567-89ab-4def-8123-456789abcdef'"];
const INSTANT: &[&str] = &["'2024-02-29 12:34:56'"];

const fn checked(column: ColumnType) -> ColumnType {
    ColumnType {
        is_checked: true,
        ..column
    }
}

const fn meant(meant: &'static [&'static str], column: ColumnType) -> ColumnType {
    ColumnType {
        meant: Some(meant),
        ..column
    }
}

const DAYS: &[&str] = &["chrono::NaiveDate", "time::Date"];
const TIMES: &[&str] = &["chrono::NaiveTime", "time::Time"];
const INSTANTS: &[&str] = &[
    "chrono::NaiveDateTime",
    "chrono::DateTime<Utc>",
    "time::PrimitiveDateTime",
    "time::OffsetDateTime",
];

pub(crate) const SQLITE: &[ColumnType] = &[
    own("INTEGER", INTEGERS, INTEGER_EDGES),
    own("BIGINT", INTEGERS, INTEGER_EDGES),
    own("INT8", INTEGERS, INTEGER_EDGES),
    own("INT4", INTEGERS, INTEGER_EDGES),
    own("BOOLEAN", &["0", "1"], &[]),
    own("REAL", FRACTIONS, &["0.1", "1e300"]),
    own("DOUBLE PRECISION", FRACTIONS, &["0.1", "1e300"]),
    own("FLOATING POINT", &["1"], INTEGER_EDGES),
    own("DECIMAL(10, 2)", FRACTIONS, &["0.1"]),
    own("NUMERIC", FRACTIONS, &["0.1"]),
    column("TEXT", Content::Texts),
    column("VARCHAR(50)", Content::Texts),
    meant(&[], own("STRING", &["'text'"], &[])),
    meant(&["Json<T>"], own("JSON", &["'{\"a\":1}'"], &["'5'"])),
    meant(
        &["uuid::Uuid", "uuid::fmt::Hyphenated"],
        own("UUID", &[], UUIDS),
    ),
    column("BLOB", Content::Anything),
    named("no type", column("", Content::Anything)),
    meant(DAYS, own("DATE", &["'2024-02-29'"], &[])),
    meant(TIMES, own("TIME", &["'12:34:56'"], &[])),
    meant(
        INSTANTS,
        own("DATETIME", INSTANT, &["'2024-02-29T12:34:56Z'"]),
    ),
    meant(
        INSTANTS,
        own("TIMESTAMP", INSTANT, &["'2024-02-29T12:34:56Z'"]),
    ),
    named(
        "BIGINT, can be NULL",
        own("BIGINT NULL", &["5", "NULL"], INTEGER_EDGES),
    ),
    strict("INTEGER, STRICT", own("INTEGER", INTEGERS, INTEGER_EDGES)),
    strict("REAL, STRICT", own("REAL", FRACTIONS, &["0.1", "1e300"])),
    strict("TEXT, STRICT", column("TEXT", Content::Texts)),
    strict("BLOB, STRICT", column("BLOB", Content::Anything)),
    strict("ANY, STRICT", column("ANY", Content::Anything)),
];

pub(crate) const MYSQL: &[ColumnType] = &[
    own("TINYINT", INTEGERS, &["5", "-128", "127"]),
    own("SMALLINT", INTEGERS, &["-32768", "32767"]),
    own("MEDIUMINT", INTEGERS, &["-8388608", "8388607"]),
    own("INT", INTEGERS, &["-2147483648", "2147483647"]),
    own("BIGINT", INTEGERS, INTEGER_EDGES),
    own("TINYINT UNSIGNED", INTEGERS, &["5", "255"]),
    own("SMALLINT UNSIGNED", INTEGERS, &["65535"]),
    own("MEDIUMINT UNSIGNED", INTEGERS, &["16777215"]),
    own("INT UNSIGNED", INTEGERS, &["4294967295"]),
    own("BIGINT UNSIGNED", INTEGERS, &["18446744073709551615"]),
    own("BOOLEAN", &["0", "1"], &[]),
    own("BIT(1)", INTEGERS, &[]),
    own("BIT(8)", INTEGERS, &["5", "255"]),
    own("YEAR", &["2024"], &["1901", "2155", "0"]),
    own("DECIMAL(10, 2)", FRACTIONS, &["99999999.99"]),
    own(
        "DECIMAL(40, 10)",
        FRACTIONS,
        &["123456789012345678901234567890.0123456789"],
    ),
    own("FLOAT", FRACTIONS, &["0.25"]),
    own("DOUBLE", FRACTIONS, &["0.1", "1e300"]),
    column("CHAR(4)", Content::Texts),
    column("VARCHAR(50)", Content::Texts),
    column("VARCHAR(50) CHARACTER SET latin1", Content::Texts),
    column("VARCHAR(50) COLLATE utf8mb4_bin", Content::Texts),
    column("TEXT", Content::Texts),
    column("BINARY(16)", Content::Anything),
    column("VARBINARY(50)", Content::Anything),
    column("BLOB", Content::Anything),
    own(
        "DATE",
        &["'2024-02-29'"],
        &["'0000-00-00'", "'1000-01-01'", "'9999-12-31'"],
    ),
    own("TIME", &["'12:34:56'"], &["'-838:59:59'", "'838:59:59'"]),
    own(
        "TIME(6)",
        &["'12:34:56'"],
        &["'-838:59:59'", "'00:00:00.000001'"],
    ),
    own(
        "DATETIME",
        INSTANT,
        &[
            "'0000-00-00'",
            "'1000-01-01 00:00:00'",
            "'9999-12-31 23:59:59'",
        ],
    ),
    own(
        "DATETIME(6)",
        INSTANT,
        &[
            "'0000-00-00'",
            "'1000-01-01 00:00:00'",
            "'9999-12-31 23:59:59.999999'",
        ],
    ),
    own(
        "TIMESTAMP",
        INSTANT,
        &["'0000-00-00'", "'2038-01-19 03:14:07'"],
    ),
    own(
        "TIMESTAMP(6)",
        INSTANT,
        &["'0000-00-00'", "'2038-01-19 03:14:07.999999'"],
    ),
    own("ENUM('happy', 'grumpy')", LABELS, &[]),
    named(
        "ENUM('happy', 'grumpy'), can be NULL",
        own("ENUM('happy', 'grumpy') NULL", &["'happy'", "NULL"], &[]),
    ),
    own("SET('happy', 'grumpy')", LABELS, &["'happy,grumpy'", "''"]),
    meant(
        &["Json<T>"],
        checked(own("JSON", &["'{\"a\":1}'"], &["'5'"])),
    ),
    own("UUID", UUIDS, &[]),
    own("INET6", &["'2001:db8::1'"], &[]),
    named(
        "BIGINT, can be NULL",
        own("BIGINT NULL", &["5", "NULL"], INTEGER_EDGES),
    ),
];

pub(crate) const POSTGRES: &[ColumnType] = &[
    own("SMALLINT", INTEGERS, &["-32768", "32767"]),
    own("INTEGER", INTEGERS, &["-2147483648", "2147483647"]),
    own("BIGINT", INTEGERS, INTEGER_EDGES),
    own("NUMERIC", FRACTIONS, &["'NaN'", "1e40", "'infinity'"]),
    own("NUMERIC(10, 2)", FRACTIONS, &["99999999.99", "'NaN'"]),
    own("REAL", FRACTIONS, &["0.25", "'NaN'", "'infinity'"]),
    own(
        "DOUBLE PRECISION",
        FRACTIONS,
        &["0.1", "1e300", "'NaN'", "'infinity'"],
    ),
    own("MONEY", FRACTIONS, &[]),
    own("BOOLEAN", &["TRUE", "FALSE"], &[]),
    column("TEXT", Content::Texts),
    column("VARCHAR(50)", Content::Texts),
    column("CHAR(4)", Content::Texts),
    own("\"char\"", &["'a'"], &[]),
    column("NAME", Content::Texts),
    column("CITEXT", Content::Texts),
    column("BYTEA", Content::Anything),
    own(
        "DATE",
        &["'2024-02-29'"],
        &[
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 BC'",
            "'5874897-12-31'",
        ],
    ),
    own("TIME", &["'12:34:56'"], &["'24:00'", "'23:59:59.999999'"]),
    own("TIMETZ", &["'12:34:56+02'"], &[]),
    own(
        "TIMESTAMP",
        INSTANT,
        &[
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 BC'",
            "'294276-12-31 23:59:59.999999'",
        ],
    ),
    own("TIMESTAMP(0)", INSTANT, &["'infinity'"]),
    own(
        "TIMESTAMPTZ",
        INSTANT,
        &[
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 BC'",
            "'294276-12-31 23:59:59.999999'",
        ],
    ),
    own("INTERVAL", &["'1 month 2 days'"], &[]),
    own("UUID", UUIDS, &[]),
    own("JSON", &["'{\"a\":1}'"], &["'5'"]),
    own("JSONB", &["'{\"a\":1}'"], &["'5'"]),
    own("INET", &["'10.0.0.1'"], &[]),
    own("BIT(8)", &["B'00000101'"], &[]),
    own("OID", INTEGERS, &[]),
    named("an enum", own("mood", LABELS, &[])),
    named("a domain over TEXT", column("label", Content::Texts)),
    named(
        "a domain over BIGINT",
        own("positive", INTEGERS, &["9223372036854775807"]),
    ),
    own(
        "INTEGER[]",
        &["'{1,2}'"],
        &["'{1,NULL}'", "'{{1,2},{3,4}}'"],
    ),
    own("BIGINT[]", &["'{1,2}'"], &["'{1,NULL}'", "'{{1,2},{3,4}}'"]),
    own("TEXT[]", &["'{a,b}'"], &["'{a,NULL}'", "'{{a,b},{c,d}}'"]),
    named(
        "BIGINT, can be NULL",
        own("BIGINT NULL", &["5", "NULL"], INTEGER_EDGES),
    ),
];
