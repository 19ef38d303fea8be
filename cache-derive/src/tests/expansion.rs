//! What the derive generates, beside its input, in one snapshot per behaviour.

use quote::ToTokens;

use super::{cached, columns};

/// Compares what is generated for some inputs with the stored snapshot.
#[track_caller]
fn check(name: &str, expand: impl Fn(&str) -> String, inputs: &[(&str, &str)]) {
    let sections: Vec<String> = inputs
        .iter()
        .map(|(label, input)| {
            let (input, output) = (unindented(input), expand(input));
            format!("// ===== {label} =====\n\n{input}\n\n// ----- becomes -----\n\n{output}")
        })
        .collect();
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true, snapshot_path => "snapshots" }, {
        insta::assert_snapshot!(name, sections.join("\n"));
    });
}

/// The impls in the expansion of an entity.
fn impls(input: &str) -> impl Iterator<Item = syn::ItemImpl> {
    let file = syn::parse_file(&cached(input)).expect("an expansion is a file");
    file.items.into_iter().flat_map(impls_inside)
}

/// The impls in the block of an anonymous constant, and in those inside it.
fn impls_inside(item: syn::Item) -> Vec<syn::ItemImpl> {
    match item {
        syn::Item::Impl(item) => vec![item],
        syn::Item::Const(item) => match *item.expr {
            syn::Expr::Block(block) => {
                let items = block
                    .block
                    .stmts
                    .into_iter()
                    .filter_map(|statement| match statement {
                        syn::Stmt::Item(item) => Some(item),
                        _ => None,
                    });
                items.flat_map(impls_inside).collect()
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Of an entity, only the impls of one trait.
fn only(trait_name: &'static str) -> impl Fn(&str) -> String {
    move |input| {
        let items = impls(input).filter_map(|item| {
            let (path, _) = item.trait_.as_ref()?;
            (path.segments.last()?.ident == trait_name).then(|| item.to_token_stream())
        });
        let file = syn::parse2(items.collect()).expect("impls are a file");
        prettyplease::unparse(&file)
    }
}

/// Of an entity, only the impl with the methods of its repository.
fn repository(input: &str) -> syn::ItemImpl {
    let of_repository = |item: &syn::ItemImpl| {
        let name = item.self_ty.to_token_stream().to_string();
        item.trait_.is_none() && !name.contains("RepositoryWithin")
    };
    impls(input)
        .filter(of_repository)
        .last()
        .expect("a repository has methods")
}

/// Of an entity, only the methods of its repository.
fn all_methods(input: &str) -> String {
    let file = syn::parse2(repository(input).to_token_stream()).expect("an impl is a file");
    prettyplease::unparse(&file)
}

#[test]
fn writes_of_all_rows_of_an_index_are_generated_where_they_are_possible() {
    let by_kind = |options: &str, version: &str| {
        format!(
            r#"#[cached(table = "goods"{options})]
               struct Good {{ #[cached(id)] id: i64, #[cached(index)] kind: String, #[cached(unique)] sku: String, {version} price: i64 }}"#
        )
    };
    let has = |input: &str| {
        let methods = all_methods(input);
        [
            "modify_by_kind",
            "delete_by_kind",
            "modify_by_sku",
            "delete_by_sku",
        ]
        .map(|method| methods.contains(&format!("fn {method}<")))
    };
    assert_eq!(has(&by_kind("", "")), [true, true, false, false]);
    let versioned = by_kind("", "#[cached(version)]");
    assert_eq!(has(&versioned), [true, false, false, false]);
    assert_eq!(has(&by_kind(", read_only", "")), [false; 4]);
}

#[test]
fn writes_of_all_rows_of_a_tag_are_generated_where_no_index_has_them() {
    let tagged = |tags: &str, options: &str| {
        let input = format!(
            r#"#[cached(table = "goods", tags({tags}){options})]
               struct Good {{ #[cached(id)] id: i64, kind: Option<String>, shop: i64, #[sqlx(try_from = "String")] size: Option<Size> }}"#
        );
        let methods = method_names(&input).into_iter();
        let methods =
            methods.filter(|name| name.starts_with("modify_by") || name.starts_with("delete_by"));
        methods.collect::<Vec<_>>()
    };
    assert_eq!(tagged(r#""all""#, ""), [""; 0]);
    assert_eq!(
        tagged(r#""kind:{kind}", "in:{shop}/{kind}", "{kind}""#, ""),
        [
            "modify_by_kind",
            "delete_by_kind",
            "modify_by_shop_and_kind",
            "delete_by_shop_and_kind"
        ]
    );
    // One row, a field that is named twice, and the value inside of a converted `Option`.
    let none = r#""good:{id}", "{shop}-{id}", "{kind}/{kind}", "size:{size}""#;
    assert_eq!(tagged(none, ""), [""; 0]);
    assert_eq!(tagged(r#""kind:{kind}""#, ", read_only"), [""; 0]);
    // Those of the index.
    assert_eq!(
        tagged(r#""kind:{kind}""#, ", index(kind)"),
        ["modify_by_kind", "delete_by_kind"]
    );
    assert_eq!(
        tagged(r#""kind:{kind}""#, ", unique(kind)"),
        ["modify_by_kind", "delete_by_kind"]
    );
}

/// Of an entity, only these methods of its repository.
fn methods(names: &'static [&'static str]) -> impl Fn(&str) -> String {
    move |input| {
        let mut item = repository(input);
        item.items.retain(|item| match item {
            syn::ImplItem::Fn(method) => names.iter().any(|name| method.sig.ident == name),
            _ => false,
        });
        let file = syn::parse2(item.to_token_stream()).expect("an impl is a file");
        prettyplease::unparse(&file)
    }
}

/// The names of the methods of an entity's repository.
fn method_names(input: &str) -> Vec<String> {
    let names = repository(input)
        .items
        .into_iter()
        .filter_map(|item| match item {
            syn::ImplItem::Fn(method) => Some(method.sig.ident.to_string()),
            _ => None,
        });
    names.collect()
}

/// The input without the indentation of the test around it.
fn unindented(input: &str) -> String {
    let lines = || input.lines().filter(|line| !line.trim().is_empty());
    let indent = lines()
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    lines()
        .map(|line| &line[indent..])
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn smallest_entity_expands_to_one_line_per_method() {
    let input = r#"
        #[cached(table = "flights")]
        pub struct Flight {
            #[cached(id)]
            pub id: i64,
            pub number: String,
        }
    "#;
    check("smallest_entity", cached, &[("an id and a column", input)]);
}

#[test]
fn id_is_a_value_or_a_tuple_in_field_order() {
    let one = r#"
        #[cached(table = "flights")]
        struct Flight { #[cached(id)] number: String, gate: i32 }
    "#;
    let composite = r#"
        #[cached(table = "seats")]
        struct Seat { #[cached(id)] flight: i64, class: Option<String>, #[cached(id)] seat: String }
    "#;
    let converted = r#"
        #[cached(table = "flights")]
        struct Flight { #[cached(id)] #[sqlx(try_from = "String")] number: Number, #[cached(id)] day: i32 }
    "#;
    let inputs = [
        ("one field", one),
        ("two fields", composite),
        ("a converted field", converted),
    ];
    check("id_entity", only("Entity"), &inputs);
    check("id_source", only("Source"), &inputs);
}

#[test]
fn repository_has_the_name_that_was_chosen() {
    // Also after an error, so that the code that uses the name does not fail as well.
    for ttl in ["1m", "soon"] {
        let expansion = cached(&format!(
            r#"#[cached(table = "t", repository = "Flights", ttl = "{ttl}")] pub struct Flight {{ #[cached(id)] id: i64 }}"#
        ));
        assert!(expansion.contains("pub struct Flights<DB: "), "{expansion}");
        assert!(expansion.contains("-> Flights<DB>"), "{expansion}");
        assert!(!expansion.contains("FlightRepository"), "{expansion}");
    }
}

#[test]
fn every_column_has_a_way_out_of_its_type() {
    let input = r#"
        #[cached(table = "t")]
        struct E {
            #[cached(id)] a: Uuid,
            b: u64,
            c: Option<u32>,
            #[sqlx(try_from = "u16")] d: Seats,
            #[sqlx(try_from = "Option<u16>")] e: Seats,
            f: Option<char>,
            g: Vec<String>,
            h: Status,
            #[sqlx(json)] i: Vec<u64>,
            #[sqlx(flatten)] j: Route,
        }
    "#;
    check(
        "fields",
        only("Fields"),
        &[("columns of every kind", input)],
    );
}

#[test]
fn generated_columns_have_their_own_role() {
    let input = r#"
        #[cached(table = "flights")]
        struct Flight {
            #[cached(id, generated)] id: i64,
            number: String,
            #[cached(generated)] updated_at: i64,
        }
    "#;
    check(
        "generated",
        only("Columns"),
        &[("a generated id and a generated column", input)],
    );
}

#[test]
fn version_is_in_the_spec_the_columns_and_the_methods() {
    let input = r#"
        #[cached(table = "flights", ttl = "10m")]
        struct Flight { #[cached(id)] id: i64, gate: String, #[cached(version)] version: i64 }
    "#;
    let cases = [("a version", input)];
    check("version_entity", only("Entity"), &cases);
    check("version_columns", only("Columns"), &cases);
    let differing = methods(&[
        "update",
        "save",
        "delete",
        "update_many",
        "delete_many",
        "within",
    ]);
    check("version_methods", differing, &cases);
}

#[test]
fn queued_entity_has_the_methods_of_its_queue() {
    let input = r#"
        #[cached(table = "positions", strategy = "write_behind")]
        struct Position { #[cached(id)] aircraft: String, #[cached(id)] day: i32, latitude: f64 }
    "#;
    check("queued", all_methods, &[("a queue", input)]);
}

#[test]
fn entity_has_no_method_that_it_cannot_use() {
    let names = |strategy: &str| {
        let input = format!(
            r#"#[cached(table = "t", strategy = "{strategy}")] struct E {{ #[cached(id)] id: i64 }}"#
        );
        method_names(&input)
    };
    let of_a_queue = [
        "install",
        "start_flushing",
        "flush",
        "pending",
        "dead_letters",
    ];
    let of_the_database = ["insert_many", "update_many", "delete_many", "within"];
    let (aside, through, behind) = (
        names("aside"),
        names("write_through"),
        names("write_behind"),
    );
    assert_eq!(aside, through);
    let without = |names: &[String], left_out: &[&str]| {
        let mut names: Vec<_> = names.to_vec();
        names.retain(|name| !left_out.contains(&name.as_str()));
        names
    };
    assert_eq!(without(&aside, &of_a_queue), aside);
    assert_eq!(without(&behind, &of_the_database), behind);
    let common = without(&behind, &of_a_queue);
    assert_eq!(behind.len(), common.len() + of_a_queue.len());
    assert_eq!(aside.len(), common.len() + of_the_database.len());
    assert_eq!(without(&aside, &of_the_database), common);
}

#[test]
fn error_leaves_every_method_in_place() {
    let faulty = |strategy: &str, version: &str| {
        method_names(&format!(
            r#"#[cached(table = "t", strategy = "{strategy}", tll = "5m")]
               struct E {{ #[cached(id)] id: i64, {version} version: i64 }}"#
        ))
    };
    let all = faulty("aside", "");
    for name in ["update_many", "within", "modify", "flush", "dead_letters"] {
        assert!(all.iter().any(|other| other == name), "{name}");
    }
    for strategy in ["aside", "write_through", "write_behind", "write_behnd"] {
        assert_eq!(faulty(strategy, ""), all);
        assert_eq!(faulty(strategy, "#[cached(version)]"), all);
    }
}

#[test]
fn an_entity_that_is_only_read_has_no_writing_methods() {
    let names =
        method_names(r#"#[cached(table = "t", read_only)] struct E { #[cached(id)] id: i64 }"#);
    assert_eq!(
        names,
        [
            "find",
            "find_outcome",
            "find_uncached",
            "find_many",
            "find_map",
            "fill_from",
            "exists",
            "invalidate",
            "invalidate_all",
            "refresh",
            "check_schema",
            "audit",
            "stats",
            "pause_reads",
            "resume_reads",
            "pause_fills",
            "resume_fills",
            "pool",
            "inner",
        ]
    );
}

#[test]
fn policy_names_only_what_was_named() {
    let with = |keys: &str| {
        format!(
            r#"#[cached(table = "app.flights"{keys})] struct Flight {{ #[cached(id)] id: i64 }}"#
        )
    };
    let cases = [
        ("nothing", ""),
        ("name", r#", name = "OrderItem""#),
        ("read only", ", read_only"),
        ("strategy", r#", strategy = "aside""#),
        (
            "write-through",
            r#", strategy = "write_through", after_triggers"#,
        ),
        ("gathered writes", ", gather_writes = true"),
        ("no gathered writes", ", gather_writes = false"),
        ("coherence", r#", coherence = "lease""#),
        ("outages", r#", on_outage = "consistent""#),
        ("ttl", r#", ttl = "10m""#),
        ("jitter", ", jitter = 0"),
        ("negative ttl", r#", negative_ttl = "1s500ms""#),
        ("no negative ttl", ", negative_ttl = false"),
        ("namespace", r#", namespace = "billing""#),
        ("hash tag", ", hash_tag"),
        ("codec", r#", codec = "msgpack""#),
        ("largest row", r#", max_row = "256 KiB""#),
        ("lease", r#", lease(ttl = "3s", wait = "50ms")"#),
        ("half a lease", r#", lease(wait = "50ms")"#),
        ("intent", r#", intent(ttl = "20s")"#),
        (
            "write-behind",
            r#", strategy = "write_behind", after_triggers"#,
        ),
        (
            "queue",
            r#", strategy = "write_behind", partitions = 8, max_pending = 10_000, on_full = "refuse", durability = "memory", batch = 500, linger = "0ms", journal = "queue""#,
        ),
        (
            "half a queue",
            r#", strategy = "write_behind", on_full = "flush", durability = "fsync", linger = "1s""#,
        ),
        (
            "everything",
            r#", ttl = "1h", jitter = 0.25, hash_tag, codec = "postcard", coherence = "ttl""#,
        ),
    ];
    let inputs = cases.map(|(label, keys)| (label, with(keys)));
    let inputs: Vec<_> = inputs
        .iter()
        .map(|(label, input)| (*label, input.as_str()))
        .collect();
    let spec = |input: &str| {
        let entity = only("Entity")(input);
        let start = entity.find("const SPEC").expect("an entity has a SPEC");
        let end = entity.find("fn id").expect("an entity has an id");
        format!("{}\n", entity[start..end].trim_end())
    };
    check("policy", spec, &inputs);
}

#[test]
fn sqlx_attributes_decide_the_columns() {
    let fields = r#"
        #[cached(table = "flights")]
        #[sqlx(rename_all = "SCREAMING_SNAKE_CASE", default)]
        struct Flight {
            #[cached(id)] id: i64,
            arrival_time: Option<i64>,
            #[sqlx(rename = "Gate No")] gate: String,
            #[sqlx(json)] meta: Meta,
            #[sqlx(json(nullable))] extra: Option<Extra>,
            #[sqlx(flatten)] route: Route,
            #[sqlx(try_from = "Option<String>")] status: Status,
            #[sqlx(skip)] cached_label: String,
            #[cached(skip)] note: String,
            #[sqlx(default)] added_later: i32,
        }
    "#;
    let raw = r#"
        #[cached(table = "events")]
        struct r#Event { #[cached(id)] r#type: i64, r#match: i64 }
    "#;
    check(
        "sqlx",
        only("Columns"),
        &[("every attribute", fields), ("raw identifiers", raw)],
    );
}

#[test]
fn rename_all_follows_sqlx() {
    let patterns = [
        "snake_case",
        "lowercase",
        "UPPERCASE",
        "camelCase",
        "PascalCase",
        "SCREAMING_SNAKE_CASE",
        "kebab-case",
    ];
    let names = patterns.map(|pattern| {
        let input = format!(
            r#"#[cached(table = "t")] #[sqlx(rename_all = "{pattern}")]
               struct E {{ #[cached(id)] arrival_time_2: i64, wifi: i64, _seq: i64 }}"#
        );
        let columns = only("Columns")(&input);
        let names: Vec<_> = columns.split('"').skip(1).step_by(2).collect();
        format!("{pattern}: {}", names.join(", "))
    });
    insta::assert_snapshot!(names.join("\n"), @r"
    snake_case: arrival_time_2, wifi, seq
    lowercase: arrival_time_2, wifi, _seq
    UPPERCASE: ARRIVAL_TIME_2, WIFI, _SEQ
    camelCase: arrivalTime2, wifi, seq
    PascalCase: ArrivalTime2, Wifi, Seq
    SCREAMING_SNAKE_CASE: ARRIVAL_TIME_2, WIFI, SEQ
    kebab-case: arrival-time-2, wifi, seq
    ");
}

#[test]
fn each_type_is_bound_once() {
    let input = r#"
        #[cached(table = "t")]
        struct E { #[cached(id)] a: i64, b: i64, c: Vec < u8 >, d: Vec<u8>, #[sqlx(flatten)] e: E1, #[sqlx(flatten)] f: E1 }
    "#;
    check("bounds", only("Columns"), &[("repeated types", input)]);
}

#[test]
fn hazard_for_positional_codecs_is_recorded() {
    let optional = r#"
        #[cached(table = "t")]
        struct E { #[cached(id)] a: i64, #[serde(skip_serializing_if = "Option::is_none")] b: Option<i64> }
    "#;
    let dynamic = r#"
        #[cached(table = "t")]
        struct E { #[cached(id)] a: i64, #[sqlx(json)] b: serde_json::Value }
    "#;
    let inputs = [
        ("a field that may be missing", optional),
        ("a value of any type", dynamic),
    ];
    check("hazard", only("Entity"), &inputs);
}

#[test]
fn nested_struct_has_columns_and_nothing_else() {
    let input = r#"
        struct Address {
            street: String,
            #[sqlx(rename = "zip")] code: String,
            #[cached(generated)] verified_at: Option<i64>,
            #[sqlx(flatten)] country: Country,
        }
    "#;
    let path = r#"
        #[cached(crate = crate::cache)]
        struct Address { street: String }
    "#;
    check(
        "nested",
        columns,
        &[("a nested struct", input), ("with a crate path", path)],
    );
}

#[test]
fn crate_path_is_used_everywhere() {
    let with = |path: &str| {
        format!(r#"#[cached(table = "t", crate = {path})] struct E {{ #[cached(id)] id: i64 }}"#)
    };
    for path in ["::my::larder", r#""::my::larder""#] {
        let expansion = cached(&with(path));
        assert!(
            !expansion.contains("::larder::__private") || expansion.contains("::my::larder"),
            "{expansion}"
        );
        assert_eq!(
            expansion.matches("larder::__private").count(),
            expansion.matches("::my::larder::__private").count(),
        );
    }
}

#[test]
fn fingerprint_depends_on_names_and_types_only() {
    let fingerprint = |fields: &str| {
        let entity = only("Entity")(&format!(
            r#"#[cached(table = "t")] struct E {{ #[cached(id)] id: i64, {fields} }}"#
        ));
        let start = entity.find("0x").expect("a fingerprint is hexadecimal");
        entity[start..start + 10].to_owned()
    };
    let base = fingerprint("a: Option<String>");
    assert_eq!(base, fingerprint("pub a : Option < String >"));
    assert_eq!(
        base,
        fingerprint(r#"#[sqlx(rename = "b")] a: Option<String>"#)
    );
    assert_ne!(base, fingerprint("b: Option<String>"));
    assert_ne!(base, fingerprint("a: Option<&'static str>"));
    assert_ne!(base, fingerprint("a: Option<String>, #[sqlx(skip)] b: i64"));
    assert_ne!(base, fingerprint("#[cached(omit)] a: Option<String>"));
    // Stored by other builds: a change here makes every cached entry of every user read as absent.
    assert_eq!(base, "0xc980a0ca");
}

#[test]
fn error_leaves_the_names_in_place() {
    let entity = r#"
        #[cached(table = "flights", tll = "5m")]
        pub struct Flight { #[cached(id)] id: i64 }
    "#;
    check("skeleton", cached, &[("an entity with a mistake", entity)]);
    check(
        "skeleton_nested",
        columns,
        &[(
            "a nested struct with a mistake",
            "struct Address { #[cached(id)] id: i64 }",
        )],
    );
    assert!(
        !cached(r#"#[cached(table = "t")] struct E<T> { #[cached(id)] id: T }"#).contains("impl")
    );
}

#[test]
fn a_row_has_its_tags_and_the_repository_a_method_for_each() {
    let input = r#"
        #[cached(table = "flights", tags("board", "origin:{origin}", "{gate}/{{{origin}}}"))]
        pub struct Flight {
            #[cached(id)]
            pub id: i64,
            pub origin: String,
            pub gate: Option<i64>,
        }
    "#;
    let repository = methods(&[
        "invalidate_tag",
        "invalidate_tags",
        "bump",
        "invalidate_board",
        "invalidate_origin",
        "invalidate_gate_and_origin",
    ]);
    check("tags_entity", only("Entity"), &[("with tags", input)]);
    check("tags_methods", repository, &[("with tags", input)]);
}

#[test]
fn what_is_invalidated_beyond_one_entity_is_named() {
    let written = r#"
        #[cached(table = "articles", on_delete(Comment::article_id), queries)]
        pub struct Article {
            #[cached(id)]
            pub id: i64,
        }
    "#;
    let query = r#"
        #[cached(select = "SELECT 1 AS id", depends_on(blog::Article))]
        pub struct Summary {
            #[cached(id)]
            pub id: i64,
        }
    "#;
    let inputs = [("with cascades and queries", written), ("a query", query)];
    check("groups_entity", only("Entity"), &inputs);
    check("groups_methods", methods(&["query"]), &inputs[..1]);
    check("groups_dependency", only("DependsOn"), &inputs[..1]);
}

#[test]
fn a_row_says_when_it_ends() {
    let input = r#"
        #[cached(table = "sessions", ttl_from = "expires_at")]
        pub struct Session {
            #[cached(id)]
            pub id: i64,
            pub expires_at: Option<DateTime<Utc>>,
        }
    "#;
    check("ttl_from", only("Entity"), &[("with an end", input)]);
}

#[test]
fn a_column_is_not_in_the_cache() {
    let input = r#"
        #[cached(table = "users")]
        pub struct User {
            #[cached(id)]
            pub id: i64,
            #[cached(omit)]
            pub password_hash: Option<String>,
        }
    "#;
    let inputs = [("with a column that is left out", input)];
    check("omit_entity", only("Entity"), &inputs);
    check("omit_columns", only("Columns"), &inputs);
    check("omit_complete", only("OmitsColumns"), &inputs);
}
