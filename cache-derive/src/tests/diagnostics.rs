//! Which faults are reported for which mistakes, and that each mistake is reported once.

use super::{faults, messages};
use crate::{ast::Derive, diagnostics::nearest, grammar::QUEUE};

/// Asserts that the input has exactly one fault, which starts with `message`.
#[track_caller]
fn one(input: &str, message: &str) {
    let faults = faults(input);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(
        faults[0].starts_with(message),
        "{:?} does not start with {message:?}",
        faults[0]
    );
}

/// An entity whose struct has these keys beside `table`.
fn entity(keys: &str) -> String {
    format!(r#"#[cached(table = "flights", {keys})] struct Flight {{ #[cached(id)] id: i64 }}"#)
}

/// An entity with these keys whose writes are queued.
fn queued(keys: &str) -> String {
    entity(&format!(r#"strategy = "write_behind", {keys}"#))
}

/// An entity with an id and this field.
fn with_field(field: &str) -> String {
    format!(r#"#[cached(table = "flights")] struct Flight {{ #[cached(id)] id: i64, {field} }}"#)
}

/// An entity with this field and no other.
fn with_only(field: &str) -> String {
    format!(r#"#[cached(table = "flights")] struct Flight {{ {field} }}"#)
}

#[test]
fn three_mistakes_are_three_messages() {
    let faults = faults(
        r#"#[cached(table = "flights", tll = "5m", jitter = 2)]
           struct Flight { #[cached(id)] id: Option<i64>, name: String }"#,
    );
    assert_eq!(faults.len(), 3, "{faults:#?}");
    assert!(faults[0].contains("`tll`"));
    assert!(faults[1].contains("`jitter`"));
    assert!(faults[2].contains("`Option`"));
}

#[test]
fn misspelled_required_key_is_not_missing_as_well() {
    one(
        r#"#[cached(tabel = "flights")] struct Flight { #[cached(id)] id: i64 }"#,
        "unknown key `tabel` in `#[cached(..)]`; did you mean `table`?",
    );
    one(
        &with_only("#[cached(idd)] id: i64"),
        "unknown key `idd` in `#[cached(..)]`; did you mean `id`?",
    );
    one(
        &with_only("#[cached(id = 1)] id: i64"),
        "`id` expects no value",
    );
    one(
        r#"#[cached(table = 5)] struct Flight { #[cached(id)] id: i64 }"#,
        "`table` expects a string",
    );
    one(
        r#"#[cached(table)] struct Flight { #[cached(id)] id: i64 }"#,
        "`table` expects a string",
    );
}

#[test]
fn misplaced_required_key_is_not_missing_as_well() {
    one(
        r#"struct Flight { #[cached(id, table = "flights")] id: i64 }"#,
        "`table` belongs on the struct, not on a field",
    );
    one(
        r#"#[cached(table = "flights", id)] struct Flight { id: i64 }"#,
        "`id` belongs on a field, not on the struct",
    );
}

#[test]
fn attribute_without_keys_is_one_fault() {
    for attribute in ["#[cached]", "#[cached()]", r#"#[cached = "flights"]"#] {
        one(
            &format!("{attribute} struct Flight {{ #[cached(id)] id: i64 }}"),
            "`cached` expects keys in parentheses",
        );
        one(
            &with_only(&format!("{attribute} id: i64")),
            "`cached` expects keys in parentheses",
        );
    }
    one(&entity("5"), "expected a key of `#[cached(..)]`");
    one(&entity(", hash_tag"), "expected a key of `#[cached(..)]`");
}

#[test]
fn missing_required_key_is_reported_once() {
    one(
        "struct Flight { #[cached(id)] id: i64 }",
        "the entity names no table",
    );
    one(&with_only("id: i64"), "no field is the id");
}

#[test]
fn shape_without_fields_is_the_only_fault() {
    one(
        "enum Flight { A }",
        "`Cached` needs a struct with named fields",
    );
    one(
        "union Flight { a: i64 }",
        "`Cached` needs a struct with named fields",
    );
    one(
        "struct Flight;",
        "`Cached` needs a struct with named fields",
    );
    one(
        "struct Flight(i64);",
        "`Cached` needs a struct with named fields",
    );
    one("struct Flight {}", "`Cached` needs a struct with fields");
}

#[test]
fn generics_of_every_kind_are_refused() {
    for generics in ["<T>", "<'a>", "<const N: usize>"] {
        let input = format!(
            r#"#[cached(table = "t")] struct Flight{generics} {{ #[cached(id)] id: i64 }}"#
        );
        one(&input, "larder does not support generic structs");
    }
}

#[test]
fn repeated_key_is_reported_wherever_it_stands() {
    one(
        &entity(r#"ttl = "5m", ttl = "6m""#),
        "`ttl` is named twice; remove one",
    );
    one(
        &entity(r#"lease(ttl = "5s", ttl = "6s")"#),
        "`ttl` is named twice; remove one",
    );
    one(
        &with_only("#[cached(id)] #[cached(id)] id: i64"),
        "`id` is named twice; remove one",
    );
}

#[test]
fn unknown_value_names_the_known_ones() {
    one(
        &entity(r#"strategy = "refresh_ahead""#),
        "unknown value `refresh_ahead` for `strategy`; the values are `aside`, `write_through`, `write_behind`",
    );
    one(
        &entity(r#"on_outage = "consistant""#),
        "unknown value `consistant` for `on_outage`; did you mean `consistent`?",
    );
    one(
        &entity(r#"codec = "postcrad""#),
        "unknown value `postcrad` for `codec`; did you mean `postcard`?",
    );
    one(
        &entity(r#"coherence = "strict""#),
        "unknown value `strict` for `coherence`; the values are `ttl`, `lease`, `intent`",
    );
}

#[test]
fn value_of_another_tool_is_answered_with_what_it_is_called_here() {
    for (key, written, meant) in [
        ("strategy", "read_through", "aside"),
        ("strategy", "ReadThrough", "aside"),
        ("strategy", "cache-aside", "aside"),
        ("strategy", "write_around", "aside"),
        ("strategy", "write_back", "write_behind"),
        ("strategy", "writethrough", "write_through"),
        ("codec", "messagepack", "msgpack"),
        ("on_outage", "fail", "consistent"),
    ] {
        one(
            &entity(&format!("{key} = \"{written}\"")),
            &format!("unknown value `{written}` for `{key}`; did you mean `{meant}`?"),
        );
    }
    one(
        &queued(r#"on_full = "reject""#),
        "unknown value `reject` for `on_full`; did you mean `refuse`?",
    );
}

#[test]
fn key_of_another_tool_is_answered_with_what_it_is_called_here() {
    one(
        r#"#[cached(table_name = "flights")] struct Flight { #[cached(id)] id: i64 }"#,
        "unknown key `table_name` in `#[cached(..)]`; did you mean `table`?",
    );
    for (written, meant) in [
        ("expire", "ttl"),
        ("keyPrefix", "namespace"),
        ("repo", "repository"),
    ] {
        one(
            &entity(&format!("{written} = \"x\"")),
            &format!("unknown key `{written}` in `#[cached(..)]`; did you mean `{meant}`?"),
        );
    }
    for (written, meant) in [("primary_key", "id"), ("pk", "id")] {
        one(
            &with_only(&format!("#[cached({written})] id: i64")),
            &format!("unknown key `{written}` in `#[cached(..)]`; did you mean `{meant}`?"),
        );
    }
    for (written, meant) in [
        ("auto_increment", "generated"),
        ("ignore", "skip"),
        ("etag", "version"),
        ("find_by", "unique"),
        ("lookup", "index"),
    ] {
        one(
            &with_field(&format!("#[cached({written})] #[sqlx(default)] a: i64")),
            &format!("unknown key `{written}` in `#[cached(..)]`; did you mean `{meant}`?"),
        );
    }
}

#[test]
fn key_that_larder_does_not_have_is_answered_with_what_it_has() {
    for (written, instead) in [
        (
            "rename = \"b\"",
            "sqlx has the names of columns\nhelp: write `#[sqlx(rename = \"..\")]`",
        ),
        (
            "json",
            "how a column is read is said to sqlx\nhelp: write `#[sqlx(json)]`",
        ),
    ] {
        let name = written.split(' ').next().unwrap_or_default();
        one(
            &with_field(&format!("#[cached({written})] a: i64")),
            &format!("unknown key `{name}` in `#[cached(..)]`; {instead}"),
        );
    }
    for (written, instead) in [
        ("groups", "rows are invalidated together by their tags"),
        (
            "capacity",
            "how many rows fit is an option of the in-process store",
        ),
        ("schema", "the schema is a part of the name of the table"),
        ("refresh_ahead", "larder loads a row when it is read"),
        (
            "pool",
            "the database and the store are chosen where the repository is made",
        ),
    ] {
        one(
            &entity(written),
            &format!("unknown key `{written}` in `#[cached(..)]`; {instead}"),
        );
    }
}

#[test]
fn repository_has_a_name_of_its_own() {
    for name in ["Flight", "r#Flight"] {
        one(
            &entity(&format!("repository = \"{name}\"")),
            &format!("`{name}` is the entity itself; give its repository another name\nhelp: "),
        );
    }
    for name in [
        "",
        "my flights",
        "app::Flights",
        "Flights<DB>",
        "1st",
        "Self",
        "struct",
        "_",
        "Flight-s",
    ] {
        one(
            &entity(&format!("repository = \"{name}\"")),
            &format!(
                "`repository` expects the name of a type in a string, but `{name}` is no identifier\nhelp: "
            ),
        );
    }
    one(
        &entity("repository = Flights"),
        "`repository` expects the name of a type in a string\nhelp: ",
    );
    for name in ["Flights", "flights", "r#struct", "Flüge", "DB"] {
        assert_eq!(
            faults(&entity(&format!("repository = \"{name}\""))),
            [""; 0],
            "{name}"
        );
    }
    let nested = messages(
        Derive::Columns,
        r#"#[cached(repository = "Routes")] struct Route { a: i64 }"#,
    );
    assert!(
        nested[0].starts_with("`repository` means nothing on a nested struct"),
        "{nested:?}"
    );
}

#[test]
fn durations_and_shares_have_limits() {
    one(
        &entity(r#"ttl = "0s""#),
        "`ttl` expects a duration, but `0s` is zero",
    );
    one(
        &entity("ttl = 5"),
        "`ttl` expects a duration\nhelp: the correct form is `#[cached(ttl = \"5m\")]`",
    );
    one(&entity("ttl = false"), "`ttl` expects a duration\n");
    one(
        &entity("negative_ttl = true"),
        "`negative_ttl` expects a duration or `false`\n",
    );
    for share in ["1", "1.0", "-0.1", "2", r#""0.1""#, "0.1f32"] {
        one(
            &entity(&format!("jitter = {share}")),
            "`jitter` expects a number of at least 0 and below 1",
        );
    }
}

#[test]
fn names_are_checked() {
    for table in [
        "",
        ".",
        "a.",
        "a.b.c",
        "my table",
        "\\\"flights\\\"",
        "[flights]",
    ] {
        let input =
            format!("#[cached(table = \"{table}\")] struct Flight {{ #[cached(id)] id: i64 }}");
        assert_eq!(faults(&input).len(), 1, "{table}");
    }
    let refused = |key: &str, name: &str| {
        let faults = faults(&entity(&format!("{key} = \"{name}\"")));
        assert!(faults.len() < 2, "{key} = {name}: {faults:?}");
        !faults.is_empty()
    };
    for part in ["", "a:b", "a b", "a\\n", "a{b", "a}"] {
        assert!(
            refused("namespace", part) && refused("name", part),
            "{part}"
        );
    }
    // They separate the parts of the name of a queue.
    for part in ["a/b", "a@b"] {
        assert!(
            !refused("namespace", part) && refused("name", part),
            "{part}"
        );
    }
    assert!(!refused("name", "OrderItem") && !refused("name", "order-items.v2"));
}

#[test]
fn lease_must_outlive_the_wait_for_it() {
    one(
        &entity(r#"lease(ttl = "1s", wait = "2s")"#),
        "`wait` is longer than the `ttl` of the lease",
    );
    one(
        &entity(r#"lease(wait = "6s")"#),
        "`wait` is 6000 ms, longer than the lease",
    );
    one(
        &entity(r#"lease(ttl = "50ms")"#),
        "`ttl` is shorter than the wait for the lease",
    );
    one(&entity("lease()"), "`lease` expects keys in parentheses");
    one(
        &entity(r#"lease(ttl = 5, wait = "6s")"#),
        "`ttl` expects a duration",
    );
    assert_eq!(
        faults(&entity(r#"lease(ttl = "1s", wait = "1s")"#)),
        [""; 0]
    );
}

#[test]
fn intent_lives_for_at_least_two_seconds() {
    one(
        &entity(r#"intent(ttl = "1999ms")"#),
        "`ttl` is 1999 ms, but an intent must live for at least 2 s",
    );
    assert_eq!(faults(&entity(r#"intent(ttl = "2s")"#)), [""; 0]);
    one(&entity("intent()"), "`intent` expects keys in parentheses");
    one(&entity("intent(ttl = 5)"), "`ttl` expects a duration");
    one(
        &entity(r#"intent(wait = "1s")"#),
        "`wait` belongs inside `lease(..)`, not inside `intent(..)`",
    );
    one(
        &entity(r#"intent(tll = "5s")"#),
        "unknown key `tll` in `intent(..)`; did you mean `ttl`?",
    );
}

#[test]
fn options_about_announcements_need_the_coherence_that_announces() {
    let keys = [
        r#"strategy = "write_through""#,
        r#"on_outage = "consistent""#,
        r#"intent(ttl = "5s")"#,
    ];
    for coherence in ["ttl", "lease"] {
        for key in keys {
            let faults = faults(&entity(&format!(r#"coherence = "{coherence}", {key}"#)));
            assert_eq!(faults.len(), 1, "{faults:#?}");
            let way_out = format!("help: remove `coherence = \"{coherence}\"`");
            assert!(faults[0].contains(&way_out), "{faults:#?}");
        }
        let harmless = r#"strategy = "aside", on_outage = "available""#;
        let input = entity(&format!(r#"coherence = "{coherence}", {harmless}"#));
        assert_eq!(faults(&input), [""; 0]);
    }
    let all = keys.join(", ");
    assert_eq!(faults(&entity(&all)), [""; 0]);
    assert_eq!(
        faults(&entity(&format!(r#"coherence = "intent", {all}"#))),
        [""; 0]
    );
    one(
        &entity(r#"coherence = "tll", strategy = "write_through""#),
        "unknown value `tll` for `coherence`",
    );
}

#[test]
fn what_is_about_writes_has_no_place_beside_read_only() {
    assert_eq!(faults(&entity("read_only")), [""; 0]);
    let harmless = r#"read_only, strategy = "aside", coherence = "lease", ttl = "1h", lease(ttl = "3s"), max_row = "1 MiB""#;
    assert_eq!(faults(&entity(harmless)), [""; 0]);
    for strategy in ["write_through", "write_behind"] {
        one(
            &entity(&format!(r#"read_only, strategy = "{strategy}""#)),
            &format!("`strategy = \"{strategy}\"` is about writes"),
        );
    }
    one(
        &entity(r#"read_only, intent(ttl = "5s")"#),
        "`intent` is about writes",
    );
    one(
        &entity(r#"read_only, on_outage = "available""#),
        "`on_outage` is about writes",
    );
    for (field, mark) in [
        (
            "#[cached(id)] id: i64, #[cached(version)] version: i64",
            "version",
        ),
        (
            "#[cached(id)] id: i64, #[cached(generated)] at: i64",
            "generated",
        ),
        ("#[cached(id, generated)] id: i64", "generated"),
    ] {
        let input = format!(r#"#[cached(table = "t", read_only)] struct E {{ {field} }}"#);
        one(&input, &format!("`{mark}` is about writes"));
    }
    one(&entity("read_only = true"), "`read_only` expects no value");
    one(&entity("readonly"), "unknown key `readonly`");
}

#[test]
fn triggers_matter_to_write_through_only() {
    let message = "`after_triggers` has no effect with `strategy = \"aside\"`";
    one(&entity("after_triggers"), message);
    one(&entity(r#"strategy = "aside", after_triggers"#), message);
    assert_eq!(
        faults(&entity(r#"strategy = "write_through", after_triggers"#)),
        [""; 0]
    );
    one(
        &entity(r#"strategy = "write_thru", after_triggers"#),
        "unknown value `write_thru` for `strategy`",
    );
    one(
        &entity("after_triggers = true"),
        "`after_triggers` expects no value",
    );
}

#[test]
fn numbers_have_limits() {
    let limits = [
        ("partitions", "a whole number from 1 to 256"),
        ("max_pending", "a whole number of at least 1"),
        ("batch", "a whole number from 1 to 10000"),
    ];
    for (key, limits) in limits {
        for wrong in [
            "0",
            "-1",
            "1.0",
            r#""8""#,
            "8u16",
            "1 + 1",
            "99999999999999999999",
        ] {
            one(
                &queued(&format!("{key} = {wrong}")),
                &format!("`{key}` expects {limits}\nhelp: the correct form is `#[cached({key} = "),
            );
        }
    }
    one(&queued("partitions = 257"), "`partitions` expects ");
    one(&queued("batch = 10_001"), "`batch` expects ");
    let widest = "partitions = 256, max_pending = 18_446_744_073_709_551_615, batch = 10_000";
    let narrowest = "partitions = 1, max_pending = 1, batch = 0x1";
    for keys in [widest, narrowest] {
        assert_eq!(faults(&queued(keys)), [""; 0]);
    }
}

#[test]
fn linger_is_short_and_may_be_nothing() {
    for linger in ["0ms", "0s", "10ms", "10s"] {
        assert_eq!(faults(&queued(&format!("linger = \"{linger}\""))), [""; 0]);
    }
    one(
        &queued(r#"linger = "11s""#),
        "`linger` expects a duration of at most 10 s, but `11s` is longer\nhelp: ",
    );
    one(
        &queued(r#"linger = "10""#),
        "`linger` expects a duration of at most 10 s, but `10` has no unit",
    );
    one(
        &queued("linger = 10"),
        "`linger` expects a duration of at most 10 s\n",
    );
    one(
        &queued("linger = false"),
        "`linger` expects a duration of at most 10 s\n",
    );
}

#[test]
fn largest_row_has_a_unit_and_is_not_zero() {
    let sized = |keys: &str| {
        format!(r#"#[cached(table = "t", {keys})] struct E {{ #[cached(id)] id: i64 }}"#)
    };
    for size in ["1 KiB", "256KiB", "4 MiB", "1024 MiB"] {
        assert_eq!(faults(&sized(&format!("max_row = \"{size}\""))), [""; 0]);
    }
    let wrong = [
        (r#""0 KiB""#, ", but `0 KiB` is zero\nhelp: "),
        (
            r#""4 MB""#,
            ", but `MB` is no unit; the units are `KiB`, `MiB`\n",
        ),
        (r#""4096""#, ", but `4096` has no unit"),
        (r#""2000 MiB""#, ", but `2000 MiB` is more than 1024 MiB"),
        (r#""""#, ", but this one is empty"),
        (
            "4096",
            "\nhelp: the correct form is `#[cached(max_row = \"256 KiB\")]`",
        ),
        ("false", "\nhelp: "),
    ];
    for (value, reason) in wrong {
        one(
            &sized(&format!("max_row = {value}")),
            &format!("`max_row` expects a size{reason}"),
        );
    }
}

#[test]
fn queue_has_room_in_every_partition() {
    one(
        &queued("partitions = 8, max_pending = 7"),
        "`max_pending` is 7, which leaves some of the 8 partitions without room for a write",
    );
    one(
        &queued("max_pending = 3"),
        "`max_pending` is 3, which leaves some of the 4 partitions without room",
    );
    for keys in [
        "max_pending = 4",
        "partitions = 8, max_pending = 8",
        "partitions = 256",
        "partitions = 1, max_pending = 1",
    ] {
        assert_eq!(faults(&queued(keys)), [""; 0]);
    }
    one(
        &queued("partitions = 0, max_pending = 1"),
        "`partitions` expects ",
    );
}

#[test]
fn journal_has_a_path() {
    one(&queued(r#"journal = """#), "`journal` is empty\nhelp: ");
}

#[test]
fn options_of_a_queue_need_one() {
    let keys = [
        "partitions = 8",
        "max_pending = 1000",
        r#"on_full = "flush""#,
        r#"durability = "memory""#,
        "batch = 10",
        r#"linger = "0ms""#,
        r#"journal = "queue""#,
    ];
    assert_eq!(keys.len(), QUEUE.len());
    for (key, name) in keys.iter().zip(QUEUE) {
        for strategy in [
            "",
            r#", strategy = "aside""#,
            r#", strategy = "write_through""#,
        ] {
            let input = entity(&format!("{key}{strategy}"));
            one(
                &input,
                &format!(
                    "only `strategy = \"write_behind\"` queues writes, and without it `{name}` would do nothing\n\
                     help: use `strategy = \"write_behind\"`, or remove it"
                ),
            );
        }
        assert_eq!(faults(&queued(key)), [""; 0]);
        one(
            &entity(&format!(r#"{key}, strategy = "write_behnd""#)),
            "unknown value `write_behnd` for `strategy`; did you mean `write_behind`?",
        );
    }
    one(
        &entity(&keys.join(", ")),
        "only `strategy = \"write_behind\"` queues writes, and without it `partitions`, `max_pending`, ",
    );
    one(&entity("partitions = 0"), "`partitions` expects ");
    assert_eq!(faults(&queued(&keys.join(", "))), [""; 0]);
}

#[test]
fn queue_refuses_what_would_do_nothing_beside_it() {
    let keys = [
        (
            r#"coherence = "ttl""#,
            "`coherence = \"ttl\"` has no effect",
        ),
        (
            r#"coherence = "lease""#,
            "`coherence = \"lease\"` has no effect",
        ),
        (r#"on_outage = "available""#, "`on_outage` has no effect"),
        (r#"on_outage = "consistent""#, "`on_outage` has no effect"),
        (
            r#"intent(ttl = "5s")"#,
            "`intent(..)` is about the announcement of a write",
        ),
        ("hash_tag", "`hash_tag` has no effect"),
        ("gather_writes = true", "`gather_writes` has no effect with"),
    ];
    for (key, message) in keys {
        let faults = faults(&queued(key));
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(faults[0].starts_with(message), "{faults:#?}");
        assert!(faults[0].contains("\nhelp: remove `"), "{faults:#?}");
    }
    let all = r#"coherence = "ttl", on_outage = "consistent", intent(ttl = "5s"), hash_tag, gather_writes = false"#;
    assert_eq!(faults(&queued(all)).len(), 5);
    let harmless = r#"coherence = "intent", after_triggers, ttl = "1h", jitter = 0, negative_ttl = false,
                      namespace = "a", codec = "json", lease(wait = "1s")"#;
    assert_eq!(faults(&queued(harmless)), [""; 0]);
    one(
        &queued(r#"coherence = "tll""#),
        "unknown value `tll` for `coherence`",
    );
    one(&queued("intent()"), "`intent` expects keys in parentheses");
    one(&queued("hash_tag = true"), "`hash_tag` expects no value");
    for wrong in [
        "gather_writes",
        r#"gather_writes = "yes""#,
        "gather_writes = 1",
    ] {
        let message = "`gather_writes` expects `true` or `false`";
        one(&queued(wrong), message);
        one(&entity(wrong), message);
    }
    one(
        &entity("read_only, gather_writes = true"),
        "`gather_writes` is about writes, and an entity with `read_only` has none",
    );
    one(
        &queued(r#"on_outage = "x""#),
        "unknown value `x` for `on_outage`",
    );
}

#[test]
fn queued_row_has_an_id_of_the_application_and_no_version() {
    let with = |fields: &str| {
        format!(r#"#[cached(table = "t", strategy = "write_behind")] struct E {{ {fields} }}"#)
    };
    one(
        &with("#[cached(id, generated)] id: i64"),
        "an id cannot be generated with `strategy = \"write_behind\"`: the write is acknowledged before the database \
         sees it\nhelp: remove `generated` and let the application choose the id",
    );
    one(
        &with("#[cached(id, generated)] a: i64, #[cached(id)] b: i64"),
        "one part of a composite id cannot be generated",
    );
    one(
        &with("#[cached(id)] id: i64, #[cached(version)] version: i64"),
        "a row cannot have a version with `strategy = \"write_behind\"`: a conflict would be found after the write \
         was acknowledged\nhelp: remove `version`, and change rows with `modify`",
    );
    for fields in [
        "#[cached(id)] id: i64, #[cached(generated)] at: i64",
        "#[cached(id)] a: i64, #[cached(id)] b: String",
    ] {
        assert_eq!(faults(&with(fields)), [""; 0]);
    }
}

#[test]
fn version_must_be_one_integer_column() {
    for ty in ["i16", "i64", "u8", "::core::primitive::i32", "Revision"] {
        assert_eq!(
            faults(&with_field(&format!("#[cached(version)] version: {ty}"))),
            [""; 0]
        );
    }
    for ty in [
        "f64",
        "bool",
        "String",
        "::std::string::String",
        "&'static str",
        "[u8; 8]",
        "(i64,)",
        "DateTime<Utc>",
        "Uuid",
    ] {
        one(
            &with_field(&format!("#[cached(version)] version: {ty}")),
            "a version must be an integer",
        );
    }
    one(
        &with_field("#[cached(version)] version: Option<i64>"),
        "a version cannot be an `Option`",
    );
    one(
        &with_field("#[cached(version, generated)] version: i64"),
        "a version cannot be generated",
    );
    one(
        &with_field("#[cached(version, skip)] version: i64"),
        "`version` is left out of every statement and cannot be the version",
    );
    one(
        &with_field("#[cached(version)] #[sqlx(skip)] version: i64"),
        "`version` is left out of every statement and cannot be the version",
    );
    one(
        &with_field("#[cached(version)] #[sqlx(json)] version: i64"),
        "a version cannot be stored as JSON",
    );
    one(
        &with_field("#[cached(version)] #[sqlx(flatten)] version: Version"),
        "a version cannot be flattened",
    );
    one(
        &with_field(r#"#[cached(version)] #[sqlx(try_from = "i64")] version: Version"#),
        "a version cannot be written through `try_from`",
    );
    one(
        &with_only("#[cached(id, version)] id: i64"),
        "`id` is the id, which never changes",
    );
    one(
        &with_field("#[cached(version)] a: i64, #[cached(version)] b: i64"),
        "`a` and `b` are both the version, of which a row has one",
    );
}

#[test]
fn id_must_be_one_plain_column() {
    one(
        &with_only("#[cached(id)] id: Option<i64>"),
        "an id cannot be an `Option`",
    );
    one(
        &with_only("#[cached(id)] id: ::std::option::Option<i64>"),
        "an id cannot be an `Option`",
    );
    one(
        &with_only("#[cached(id, generated)] id: Option<i64>"),
        "an id cannot be an `Option`",
    );
    one(
        &with_only("#[cached(id)] id: f64"),
        "an id cannot be a floating point number",
    );
    one(
        &with_only("#[cached(id)] #[sqlx(json)] id: Vec<i64>"),
        "an id cannot be stored as JSON",
    );
    one(
        &with_only("#[cached(id)] #[sqlx(flatten)] id: Key"),
        "an id cannot be flattened",
    );
    one(
        &with_only("#[cached(id, skip)] id: i64"),
        "`id` is left out of every statement",
    );
    one(
        &with_only("#[cached(id)] #[sqlx(skip)] id: i64"),
        "`id` is left out of every statement",
    );
    one(
        &with_only("#[cached(id, generated)] a: i64, #[cached(id)] b: i64"),
        "one part of a composite id cannot be generated",
    );
}

#[test]
fn generated_field_must_be_a_column() {
    one(
        &with_field("#[cached(generated, skip)] at: i64"),
        "`at` is left out of every statement, so nobody",
    );
    one(
        &with_field("#[cached(generated)] #[sqlx(skip)] at: i64"),
        "`at` is left out of every statement",
    );
    one(
        &with_field("#[cached(generated)] #[sqlx(flatten)] at: At"),
        "`at` is flattened",
    );
}

#[test]
fn skipped_field_needs_a_value() {
    one(
        &with_field("#[cached(skip)] note: String"),
        "`note` is left out of every statement, but",
    );
    for filled in ["#[sqlx(skip)]", "#[sqlx(default)]"] {
        assert_eq!(
            faults(&with_field(&format!(
                "#[cached(skip)] {filled} note: String"
            ))),
            [""; 0]
        );
    }
    let input = r#"#[cached(table = "t")] #[sqlx(default)] struct E { #[cached(id)] id: i64, #[cached(skip)] n: i64 }"#;
    assert_eq!(faults(input), [""; 0]);
}

#[test]
fn columns_have_different_names() {
    one(
        &with_field(r#"#[sqlx(rename = "id")] other: i64"#),
        "`id` and `other` are both the column `id`",
    );
    assert_eq!(
        faults(&with_field(r#"#[sqlx(rename = "id", skip)] other: i64"#)),
        [""; 0]
    );
}

#[test]
fn sqlx_attribute_that_cannot_be_honoured_is_reported() {
    one(
        &with_field("#[sqlx(flatten, json)] a: A"),
        "a field cannot be flattened and stored as JSON",
    );
    one(
        &with_field(r#"#[sqlx(flatten, try_from = "B")] a: A"#),
        "larder cannot write a flattened field",
    );
    one(
        &with_field(r#"#[sqlx(json, try_from = "B")] a: A"#),
        "larder cannot write JSON through `try_from`",
    );
    one(
        &with_field("#[sqlx(renam)] a: A"),
        "larder cannot honour `renam` in `#[sqlx(..)]` on a field; did you mean `rename`?",
    );
    one(
        &with_field("#[sqlx(json(always))] a: A"),
        "sqlx does not know this form of `json`",
    );
    one(
        &with_field("#[sqlx(rename = 5)] a: A"),
        "sqlx does not know this form of `rename`",
    );
}

#[test]
fn column_that_serde_skips_is_reported() {
    for key in ["skip", "skip_serializing", "skip_deserializing"] {
        one(
            &with_field(&format!("#[serde({key})] a: i64")),
            &format!("`a` is a column, but `#[serde({key})]`"),
        );
        assert_eq!(
            faults(&with_field(&format!(
                "#[serde({key}, default)] #[sqlx(skip)] a: i64"
            ))),
            [""; 0]
        );
    }
}

/// An entity with this serde attribute on the struct and these fields.
fn with_serde(serde: &str, fields: &str) -> String {
    format!(
        r#"#[cached(table = "flights")] #[serde({serde})] struct Flight {{ #[cached(id)] id: i64, {fields} }}"#
    )
}

#[test]
fn name_for_one_direction_is_reported() {
    for rename in [
        r#"rename(serialize = "b")"#,
        r#"rename(deserialize = "b")"#,
        r#"rename(serialize = "b", deserialize = "c")"#,
        r#"rename(serialize = "b"), alias = "c""#,
    ] {
        one(
            &with_field(&format!("#[serde({rename})] a: i64")),
            "serde writes `a` as ",
        );
    }
    for rename_all in [
        r#"rename_all(serialize = "camelCase")"#,
        r#"rename_all(deserialize = "camelCase")"#,
        r#"rename_all(serialize = "camelCase", deserialize = "kebab-case")"#,
    ] {
        // Two fields, one mistake.
        one(
            &with_serde(rename_all, "big_number: i64, small_number: i64"),
            "serde writes `big_number` as ",
        );
    }
    let nested = messages(
        Derive::Columns,
        r#"#[serde(rename_all(serialize = "camelCase"))] struct Place { house_number: i64 }"#,
    );
    assert_eq!(nested.len(), 1, "{nested:?}");
}

#[test]
fn name_that_is_read_as_it_is_written_is_accepted() {
    for field in [
        r#"#[serde(rename = "b")] a: i64"#,
        r#"#[serde(rename(serialize = "b", deserialize = "b"))] a: i64"#,
        r#"#[serde(rename(serialize = "b"))] #[serde(rename(deserialize = "b"))] a: i64"#,
        r#"#[serde(rename(serialize = "b"), alias = "b")] a: i64"#,
        r#"#[serde(rename(serialize = "a"))] a: i64"#,
        r#"#[serde(rename(serialize = "b"), skip)] #[sqlx(skip)] a: i64"#,
        r#"#[serde(rename(serialize = "type"))] r#type: i64"#,
    ] {
        assert_eq!(faults(&with_field(field)), [""; 0], "{field}");
    }
    for rename_all in [
        r#"rename_all = "camelCase""#,
        r#"rename_all(serialize = "camelCase", deserialize = "camelCase")"#,
        r#"rename_all(serialize = "snake_case")"#,
        r#"transparent, rename_all(serialize = "camelCase")"#,
    ] {
        let entity = with_serde(rename_all, "big_number: i64");
        assert_eq!(faults(&entity), [""; 0], "{rename_all}");
    }
    // A rule that changes none of the names is no mistake.
    let entity = with_serde(r#"rename_all(serialize = "camelCase")"#, "gate: i64");
    assert_eq!(faults(&entity), [""; 0]);
}

#[test]
fn function_for_one_direction_is_reported() {
    for key in ["serialize_with", "deserialize_with"] {
        one(
            &with_field(&format!(r#"#[serde({key} = "f")] a: i64"#)),
            &format!("`#[serde({key})]` on `a` is for one direction only"),
        );
    }
    for field in [
        r#"#[serde(serialize_with = "f", deserialize_with = "g")] a: i64"#,
        r#"#[serde(with = "m")] a: i64"#,
        r#"#[serde(skip, serialize_with = "f")] #[sqlx(skip)] a: i64"#,
    ] {
        assert_eq!(faults(&with_field(field)), [""; 0], "{field}");
    }
}

#[test]
fn conversion_for_one_direction_is_reported() {
    for key in ["into", "from", "try_from"] {
        one(
            &with_serde(&format!(r#"{key} = "Raw""#), "big_number: i64"),
            &format!("`#[serde({key})]` converts the struct in one direction only"),
        );
    }
    for both in [
        r#"into = "Raw", from = "Raw""#,
        r#"into = "Raw", try_from = "Raw", rename_all(serialize = "camelCase")"#,
    ] {
        assert_eq!(
            faults(&with_serde(both, "big_number: i64")),
            [""; 0],
            "{both}"
        );
    }
}

#[test]
fn field_whose_absence_cannot_be_read_is_reported() {
    for field in [
        r#"#[serde(skip_serializing_if = "Vec::is_empty")] a: Vec<i64>"#,
        r#"#[serde(skip_serializing_if = "Option::is_none", with = "m")] a: Option<i64>"#,
        "#[serde(skip_serializing)] #[sqlx(skip)] a: i64",
    ] {
        one(&with_field(field), "`#[serde(skip_serializing");
    }
    for field in [
        r#"#[serde(skip_serializing_if = "Vec::is_empty", default)] a: Vec<i64>"#,
        r#"#[serde(skip_serializing_if = "Option::is_none")] a: Option<i64>"#,
        r#"#[serde(skip_serializing_if = "Option::is_none", with = "m", default = "f")] a: Option<i64>"#,
        "#[serde(skip_serializing)] #[sqlx(skip)] a: Option<i64>",
    ] {
        assert_eq!(faults(&with_field(field)), [""; 0], "{field}");
    }
    let entity = with_serde("default", r#"#[serde(skip_serializing_if = "f")] a: i64"#);
    assert_eq!(faults(&entity), [""; 0]);
}

#[test]
fn positional_codec_refuses_what_it_cannot_carry() {
    let postcard = |field: &str| {
        format!(
            r#"#[cached(table = "t", codec = "postcard")] struct E {{ #[cached(id)] id: i64, {field} }}"#
        )
    };
    for field in [
        "#[serde(flatten)] #[sqlx(json)] a: A",
        r#"#[serde(skip_serializing_if = "Option::is_none")] a: Option<i64>"#,
        "#[serde(skip_serializing, default)] #[sqlx(skip)] a: i64",
        "#[sqlx(json)] a: serde_json::Value",
        "#[sqlx(json)] a: Vec<serde_json::Value>",
    ] {
        one(&postcard(field), "`codec = \"postcard\"` cannot carry ");
    }
    one(&postcard("#[serde(skip)] a: i64"), "`a` is a column");
    one(
        r#"#[cached(table = "t", codec = "postcard")] #[serde(tag = "type")] struct E { #[cached(id)] id: i64 }"#,
        "`codec = \"postcard\"` cannot carry `#[serde(tag)]`",
    );
}

#[test]
fn nested_struct_has_no_id_no_version_and_no_policy() {
    let faults = |input: &str| messages(Derive::Columns, input);
    let id = faults("struct Address { #[cached(id)] id: i64 }");
    assert_eq!(id.len(), 1, "{id:?}");
    assert!(
        id[0].starts_with("`Columns` is for nested structs"),
        "{id:?}"
    );
    let version = faults("struct Address { #[cached(version)] version: i64 }");
    assert_eq!(version.len(), 1, "{version:?}");
    assert!(
        version[0].starts_with("`Columns` is for nested structs, which have no version"),
        "{version:?}"
    );
    let ttl = faults(r#"#[cached(ttl = "5m")] struct Address { city: String }"#);
    assert_eq!(ttl.len(), 1, "{ttl:?}");
    assert!(
        ttl[0].starts_with("`ttl` means nothing on a nested struct"),
        "{ttl:?}"
    );
    assert_eq!(
        faults("#[cached(crate = crate)] struct Address { city: String }"),
        [""; 0]
    );
}

#[test]
fn message_is_lower_case_without_full_stop() {
    let inputs = [
        entity("tll"),
        entity("ttl = 5"),
        with_only("id: i64"),
        with_only("#[cached(id)] id: f32"),
        with_field("#[cached(skip)] a: i64"),
        with_field("#[cached(version)] a: f64"),
        with_field("#[cached(version)] a: Option<i64>"),
        with_field("#[cached(version, generated)] a: i64"),
        entity("after_triggers"),
        entity("gather_writes"),
        entity(r#"read_only, strategy = "write_through", intent(ttl = "5s")"#),
        entity(r#"coherence = "ttl", strategy = "write_through", on_outage = "consistent""#),
        entity(r#"intent(ttl = "1ms")"#),
        entity("partitions = 8, batch = 5"),
        queued(r#"partitions = 0, linger = "1h", journal = "", hash_tag, max_pending = 1"#),
        queued(r#"coherence = "ttl", on_outage = "available", intent(ttl = "5s")"#),
        r#"#[cached(table = "t", strategy = "write_behind")]
           struct E { #[cached(id, generated)] id: i64, #[cached(version)] version: i64 }"#
            .to_owned(),
        "enum Flight { A }".to_owned(),
        with_serde(r#"rename_all(serialize = "camelCase")"#, "big_number: i64"),
        with_serde(r#"into = "Raw""#, "a: i64"),
        with_field(r#"#[serde(serialize_with = "f")] a: i64"#),
        with_field(r#"#[serde(skip_serializing_if = "f")] a: i64"#),
        entity(r#"repository = "Flight", unique, tags, rename, json, schema, db, size, refresh"#),
    ];
    for message in inputs.iter().flat_map(|input| faults(input)) {
        assert!(!message.ends_with('.'), "{message}");
        assert!(
            !message.starts_with(|c: char| c.is_uppercase()),
            "{message}"
        );
    }
}

#[test]
fn nearest_name_is_a_slip_away() {
    let names = ["table", "ttl", "jitter", "negative_ttl"];
    assert_eq!(nearest("tll", names), Some("ttl"));
    assert_eq!(nearest("tabel", names), Some("table"));
    assert_eq!(nearest("negative_tttl", names), Some("negative_ttl"));
    assert_eq!(nearest("TTL", names), Some("ttl"));
    assert_eq!(nearest("expiry", names), None);
    assert_eq!(nearest("x", names), None);
}

/// An entity with these keys on the struct, and fields of many kinds.
fn found_by(keys: &str) -> String {
    format!(
        r#"#[cached(table = "users", {keys})] struct User {{
            #[cached(id)] id: i64, tenant: i64, email: String, badge: Option<i64>, score: f64, #[sqlx(json)] meta: Meta,
            #[sqlx(flatten)] address: Address, #[cached(skip)] #[sqlx(skip)] label: String, created_at: i64
        }}"#
    )
}

#[test]
fn lookups_name_fields_that_rows_can_be_found_by() {
    for key in ["unique", "index"] {
        let of = |fields: &str| found_by(&format!("{key}({fields})"));
        assert_eq!(faults(&of("tenant, email")), [""; 0]);
        assert_eq!(faults(&of("badge")), [""; 0]);
        one(
            &of("tenant, emial"),
            &format!("there is no field `emial` for `{key}`; did you mean `email`?"),
        );
        one(
            &of("zzzzzzzz"),
            &format!("there is no field `zzzzzzzz` for `{key}`; the fields are `id`, `tenant`, "),
        );
        one(&of("email, email"), "`email` is named twice; remove one");
        one(
            &of("score"),
            &format!("a floating point number cannot be in `{key}`"),
        );
        one(&of("meta"), "`meta` is stored as JSON");
        one(&of("address"), "`address` is flattened");
        one(&of("label"), "`label` is left out of every statement");
        one(
            &of("id"),
            &format!("`{key}` contains the id, which finds one row by itself"),
        );
        one(&of("email, id"), &format!("`{key}` contains the id"));
        one(
            &found_by(key),
            &format!("`{key}` on the struct names the fields"),
        );
        one(
            &with_field(&format!("#[cached({key}(tenant))] email: String")),
            &format!(
                "`{key}` on a field is about this field; write `#[cached({key}(email, tenant))]` on the struct"
            ),
        );
        one(
            &of("badge, fold = \"lower\""),
            "`fold` compares texts, and none of the fields is a `String`",
        );
        one(
            &of("email, fold = \"upper\""),
            "unknown value `upper` for `fold`; the values are `lower`",
        );
        one(
            &with_field(&format!(
                "#[cached({key})] #[sqlx(try_from = \"i64\")] badge: Option<Badge>"
            )),
            "`badge` is an `Option` that is written through `try_from`",
        );
    }
}

#[test]
fn part_of_a_composite_id_can_be_an_index() {
    let seat = r#"#[cached(table = "seats")] struct Seat { #[cached(id, index)] flight: i64, #[cached(id)] number: String }"#;
    assert_eq!(faults(seat), [""; 0]);
}

#[test]
fn two_lookups_cannot_have_the_same_methods() {
    let twice = "unique(tenant, email), index(tenant, email)";
    one(
        &found_by(twice),
        "two lookups would have the methods of `tenant_and_email`",
    );
    one(
        r#"#[cached(table = "t", unique(a, b))] struct T { #[cached(id)] id: i64, a: i64, b: i64, #[cached(index)] a_and_b: i64 }"#,
        "two lookups would have the methods of `a_and_b`",
    );
    assert_eq!(
        faults(&found_by(
            "unique(tenant, email), unique(email), index(tenant)"
        )),
        [""; 0]
    );
}

#[test]
fn order_of_an_index_names_columns_that_are_never_null() {
    let by = |order: &str| found_by(&format!("index(tenant, order_by = \"{order}\")"));
    for order in [
        "email",
        "created_at desc",
        "created_at DESC, email asc",
        "id desc",
    ] {
        assert_eq!(faults(&by(order)), [""; 0], "{order}");
    }
    one(&by("badge"), "`badge` can be `NULL`");
    one(
        &by("creatd_at"),
        "there is no field `creatd_at` for `order_by`; did you mean `created_at`?",
    );
    one(&by("email down"), "`email down` is no order");
    one(&by("email,"), "`` is no order");
    one(&by(""), "`` is no order");
    one(&by("1"), "`1` is no field");
    one(
        &found_by("unique(email, order_by = \"email\")"),
        "`order_by` belongs inside `index(..)`, not inside `unique(..)`",
    );
    one(
        &found_by("index(tenant, max = 0)"),
        "`max` expects a whole number from 1 to 100000",
    );
}

#[test]
fn queued_writes_are_not_found_by_lookups() {
    for key in ["unique", "index"] {
        let queued = format!(
            r#"#[cached(table = "t", strategy = "write_behind")] struct T {{ #[cached(id)] id: i64, #[cached({key})] a: i64, #[cached({key})] b: i64 }}"#
        );
        one(
            &queued,
            &format!(
                "`{key}` cannot be used with `strategy = \"write_behind\"`: a lookup reads the database"
            ),
        );
    }
}

#[test]
fn an_immutable_column_is_one_that_an_update_could_write_and_compare() {
    for (field, message) in [
        (
            "#[cached(immutable, version)] a: i64",
            "`a` is the version, which every update changes",
        ),
        (
            "#[cached(immutable, generated)] a: i64",
            "`a` is generated, so larder never writes it",
        ),
        (
            "#[cached(immutable)] #[sqlx(skip)] a: i64",
            "`a` is left out of every statement",
        ),
        (
            "#[cached(immutable, skip)] a: i64",
            "`a` is left out of every statement",
        ),
        (
            "#[cached(immutable)] #[sqlx(flatten)] a: Address",
            "a flattened field is no column",
        ),
        (
            "#[cached(immutable)] #[sqlx(json)] a: Vec<i64>",
            "a column of JSON cannot be `immutable`",
        ),
        (
            "#[cached(immutable)] a: Option<serde_json::Value>",
            "a column of JSON cannot be `immutable`",
        ),
        (
            "#[cached(immutable)] a: Option<f64>",
            "a floating point number cannot be `immutable`",
        ),
    ] {
        one(&with_field(field), message);
    }
    one(
        &with_only("#[cached(id, immutable)] id: i64"),
        "`id` is the id, which never changes",
    );
    assert_eq!(
        faults(&with_field(
            "#[cached(immutable, unique)] a: Option<String>"
        )),
        [""; 0]
    );
    one(
        r#"#[cached(table = "t", strategy = "write_behind")] struct T { #[cached(id)] id: i64, #[cached(immutable)] a: i64 }"#,
        "a column cannot be `immutable` with `strategy = \"write_behind\"`",
    );
    one(
        r#"#[cached(table = "t", read_only)] struct T { #[cached(id)] id: i64, #[cached(immutable)] a: i64 }"#,
        "`immutable` is about writes",
    );
    let nested = messages(
        Derive::Columns,
        "struct N { #[cached(immutable)] a: i64, #[cached(belongs_to = B)] b: i64 }",
    );
    assert_eq!(nested.len(), 2, "{nested:?}");
}

#[test]
fn a_column_that_is_not_in_the_cache_is_an_option_that_nothing_else_needs() {
    for (field, message) in [
        (
            "#[cached(omit, version)] a: i64",
            "`a` cannot be left out of the cache: a cached row needs its version",
        ),
        (
            "#[cached(omit, generated)] a: Option<i64>",
            "`a` cannot be left out of the cache: larder never writes the column",
        ),
        (
            "#[cached(omit, immutable)] a: Option<i64>",
            "`a` cannot be left out of the cache: an update compares the column",
        ),
        (
            "#[cached(omit, unique)] a: Option<i64>",
            "`a` is not in the cache, so it cannot be in `unique`",
        ),
        (
            "#[cached(omit, index)] a: Option<i64>",
            "`a` is not in the cache, so it cannot be in `index`",
        ),
        (
            "#[cached(omit)] #[sqlx(skip)] a: Option<i64>",
            "`a` is left out of every statement",
        ),
        (
            "#[cached(omit)] #[sqlx(flatten)] a: Address",
            "a flattened field is no column",
        ),
        (
            "#[cached(omit)] a: String",
            "`a` is empty in a row from the cache, so it must be an `Option`\nhelp: write `Option<String>`",
        ),
        (
            "#[cached(omit)] #[sqlx(json)] a: Option<Meta>",
            "`None` must be NULL, so that an update can leave the column as it is; write `#[sqlx(json(nullable))]`",
        ),
        (
            "#[cached(omit)] #[sqlx(try_from = \"String\")] a: Option<Secret>",
            "`None` must be NULL, so that an update can leave the column as it is; write `#[sqlx(try_from = \"Option<String>\")]`",
        ),
    ] {
        one(&with_field(field), message);
    }
    one(
        &with_only("#[cached(id, omit)] id: i64"),
        "`id` cannot be left out of the cache: it is the id",
    );
    for field in [
        "#[cached(omit)] a: Option<String>",
        "#[cached(omit)] #[serde(skip)] a: Option<String>",
        "#[cached(omit)] #[sqlx(json(nullable))] a: Option<Meta>",
        "#[cached(omit)] #[sqlx(try_from = \"Option<String>\")] a: Option<Secret>",
    ] {
        assert_eq!(faults(&with_field(field)), [""; 0]);
    }
    let with_keys = |keys: &str| {
        format!(
            "#[cached(table = \"t\", {keys})] struct T {{ #[cached(id)] id: i64, b: i64, #[cached(omit)] a: Option<i64> }}"
        )
    };
    for (keys, message) in [
        (
            "unique(b, a)",
            "`a` is not in the cache, so it cannot be in `unique`",
        ),
        (
            "index(b, order_by = \"a\")",
            "`a` is not in the cache, so it cannot be in `order_by`",
        ),
        (
            "tags(\"a:{a}\")",
            "`a` is not in the cache, so it cannot be in `tags`",
        ),
        (
            "ttl_from = \"a\"",
            "`a` is not in the cache, so it cannot be in `ttl_from`",
        ),
        (
            "strategy = \"write_behind\"",
            "a column cannot be `omit` with `strategy = \"write_behind\"`",
        ),
    ] {
        one(&with_keys(keys), message);
    }
    assert_eq!(faults(&with_keys("read_only")), [""; 0]);
    let nested = messages(
        Derive::Columns,
        "struct N { #[cached(omit)] a: Option<i64> }",
    );
    assert_eq!(nested.len(), 1, "{nested:?}");
}

#[test]
fn two_relations_cannot_have_the_same_method() {
    let entity = |relations: &str, fields: &str| {
        format!(
            r#"#[cached(table = "t", {relations})] struct T {{ #[cached(id)] id: i64, {fields} }}"#
        )
    };
    one(
        &entity(
            "has_many(Book::author), has_many(library::Book::editor)",
            "",
        ),
        "two relations would have the method `books_of`; give one a name of its own: \
         `has_many(library::Book::editor, name = \"..\")`",
    );
    one(
        &entity(
            "has_many(Book::author)",
            "#[cached(belongs_to(Shelf, name = \"books\"))] shelf: i64",
        ),
        "two relations would have the method `books_of`",
    );
    let named = "has_many(Book::author), has_many(Book::editor, name = \"edited\",)";
    let fields = "#[cached(belongs_to = a::Author)] a: Option<i64>, #[cached(belongs_to(Author, name = \"editors\"))] b: i64";
    assert_eq!(faults(&entity(named, fields)), [""; 0]);
    one(
        &entity("has_many = Book", ""),
        "`has_many` names an entity and its index",
    );
    for wrong in [
        "has_many(Book::a, called = \"b\")",
        "has_many(Book::a, name = b)",
        "has_many(\"Book::a\")",
        "has_many",
        "has_many(Book::a Book::b)",
    ] {
        one(
            &entity(wrong, ""),
            "`has_many` expects a path, or a path and `name = \"..\"` in parentheses",
        );
    }
    one(
        &entity(
            "ttl = \"1m\"",
            "#[cached(belongs_to = Author, skip)] #[sqlx(skip)] a: i64",
        ),
        "`a` is no column, so no row belongs to another one by it",
    );
    one(
        &entity("belongs_to = Author", ""),
        "`belongs_to` belongs on a field, not on the struct",
    );
    one(
        &with_field("#[cached(belongs_to = A, belongs_to = B)] a: i64"),
        "`belongs_to` is named twice",
    );
}

#[test]
fn tags_name_fields_that_rows_have() {
    let with_tags = |tags: &str| {
        format!(
            r#"#[cached(table = "t", {tags})] struct E {{ #[cached(id)] id: i64, country: String, size: f64, #[sqlx(skip)] note: String, #[sqlx(json)] extra: Vec<i64> }}"#
        )
    };
    for (tags, message) in [
        (
            r#"tags("c:{contry}")"#,
            "there is no field `contry` for `tags`; did you mean `country`?",
        ),
        (
            r#"tags("c:{size}")"#,
            "a floating point number cannot be in `tags`",
        ),
        (
            r#"tags("c:{note}")"#,
            "`note` is left out of every statement, so it cannot be in `tags`",
        ),
        (r#"tags("c:{extra}")"#, "`extra` is stored as JSON"),
        (
            r#"tags("c:{country")"#,
            "`c:{country` has a brace without its partner",
        ),
        (r#"tags("c:{country:?}")"#, "`{country:?}` is no field"),
        (r#"tags("")"#, "a tag is empty"),
        (
            r#"tags("c", "c:{country}")"#,
            "two tags would have the method `invalidate_c`",
        ),
        (
            r#"tags("all")"#,
            "the tag would have the method `invalidate_all`, which larder needs",
        ),
        (r#"tags("by {country}")"#, ""),
        (r#"tags = "c""#, "`tags` expects strings in parentheses"),
        ("tags(country)", "`tags` expects strings in parentheses"),
        ("tags()", "`tags` expects strings in parentheses"),
        (
            r#"strategy = "write_behind", tags("c")"#,
            "`tags` cannot be used with `strategy = \"write_behind\"`",
        ),
    ] {
        if message.is_empty() {
            assert_eq!(faults(&with_tags(tags)), [""; 0], "{tags}");
        } else {
            one(&with_tags(tags), message);
        }
    }
}

#[test]
fn what_depends_on_rows_and_what_is_deleted_with_them_is_checked() {
    let entity = |options: &str| {
        format!(r#"#[cached({options})] struct E {{ #[cached(id)] id: i64, other: i64 }}"#)
    };
    for (options, message) in [
        (r#"table = "t", on_delete(C::e)"#, ""),
        (r#"table = "t", on_delete(a::C::e, E::other), queries"#, ""),
        (
            r#"table = "t", on_delete(C)"#,
            "`on_delete` names an entity and its field that has the id of this one",
        ),
        (
            r#"table = "t", on_delete()"#,
            "`on_delete` expects paths in parentheses",
        ),
        (
            r#"table = "t", on_delete = C::e"#,
            "`on_delete` expects paths in parentheses",
        ),
        (
            r#"table = "t", read_only, on_delete(C::e)"#,
            "`on_delete` is about writes, and an entity with `read_only` has none",
        ),
        (
            r#"table = "t", strategy = "write_behind", on_delete(C::e)"#,
            "`on_delete` cannot be used with `strategy = \"write_behind\"`: a delete",
        ),
        (
            r#"table = "t", strategy = "write_behind", queries"#,
            "`queries` cannot be used with `strategy = \"write_behind\"`: a write",
        ),
        (
            r#"table = "t", read_only, queries"#,
            "`queries` is about writes, and an entity with `read_only` has none",
        ),
        (
            r#"table = "t", queries = true"#,
            "`queries` expects no value",
        ),
        (
            r#"table = "t", depends_on(F)"#,
            "`depends_on` is about an entity with `select`",
        ),
        (
            r#"select = "SELECT id, other FROM t", depends_on(F, G)"#,
            "",
        ),
        (
            r#"select = " with a as (select 1) select * from a -- all""#,
            "",
        ),
        (
            r#"select = "DELETE FROM t""#,
            "`select` begins with SELECT or WITH",
        ),
        (
            r#"select = "SELECT 1; DELETE FROM t""#,
            "`select` is one statement, without a semicolon",
        ),
        (
            r#"select = "SELECT 1", table = "t""#,
            "`table` cannot be used with `select`: the query stands for it",
        ),
        (
            r#"select = "SELECT 1", queries"#,
            "`queries` cannot be used with `select`: its rows are only read",
        ),
        (
            r#"select = "SELECT 1", tags("a")"#,
            "`tags` cannot be used with `select`: its rows are invalidated by the entities that it depends on",
        ),
        (
            r#"select = "SELECT 1", on_outage = "consistent""#,
            "`on_outage` cannot be used with `select`: its rows are only read",
        ),
    ] {
        if message.is_empty() {
            assert_eq!(faults(&entity(options)), [""; 0], "{options}");
        } else {
            one(&entity(options), message);
        }
    }
    one(
        r#"#[cached(table = "t", on_delete(C::e))] struct E { #[cached(id)] id: i64, #[cached(id)] part: i64 }"#,
        "`on_delete` needs an entity with one `id`",
    );
}

#[test]
fn the_end_of_a_row_is_a_column_of_it() {
    let ending = |keys: &str| {
        format!(
            r#"#[cached(table = "t", {keys})] struct E {{ #[cached(id)] id: i64, expires_at: Moment, #[sqlx(skip)] note: Moment, #[sqlx(json)] extra: Moment }}"#
        )
    };
    for (keys, message) in [
        (
            r#"ttl_from = "expire_at""#,
            "there is no field `expire_at` for `ttl_from`; did you mean `expires_at`?",
        ),
        (
            r#"ttl_from = "expires_at + 5m""#,
            "`expires_at + 5m` is no field",
        ),
        (
            r#"ttl_from = "note""#,
            "`note` is left out of every statement, so it cannot be in `ttl_from`",
        ),
        (r#"ttl_from = "extra""#, "`extra` is stored as JSON"),
        ("ttl_from", "`ttl_from` expects a string"),
        (
            r#"ttl_from = "expires_at", strategy = "write_behind""#,
            "`ttl_from` cannot be used with `strategy = \"write_behind\"`",
        ),
    ] {
        one(&ending(keys), message);
    }
    assert_eq!(faults(&ending(r#"ttl_from = "expires_at""#)), [""; 0]);
}
