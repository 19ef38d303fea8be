//! The grammar table agrees with the parser, with the reference, and with the messages.

use super::faults;
use crate::grammar::{KEYS, Key, Place, QUEUE};

/// Whether the key stands in the parentheses of another one.
fn is_inner(key: &Key) -> bool {
    matches!(
        key.place,
        Place::Lease | Place::Intent | Place::Unique | Place::Index
    )
}

/// Whether the key has a meaning both on the struct and on a field.
fn is_lookup(key: &Key) -> bool {
    matches!(key.name, "unique" | "index")
}

/// An entity without a mistake in which `key` stands at its place.
fn entity_with(key: &str, place: Place) -> String {
    let table = if key.starts_with("table") || key.starts_with("select") {
        ""
    } else if key.starts_with("depends_on") {
        r#"#[cached(select = "SELECT 1 AS id")]"#
    } else if key.starts_with("after_triggers") {
        r#"#[cached(table = "t", strategy = "write_through")]"#
    } else if QUEUE.iter().any(|name| key.starts_with(name)) {
        r#"#[cached(table = "t", strategy = "write_behind")]"#
    } else {
        r#"#[cached(table = "t")]"#
    };
    match place {
        Place::Struct
            if ["unique(", "index(", "tags(", "ttl_from"]
                .iter()
                .any(|name| key.starts_with(name)) =>
        {
            format!(
                "#[cached({key})] {table} struct E {{ #[cached(id)] id: i64, tenant: i64, email: String, country: String, created_at: i64, expires_at: i64 }}"
            )
        }
        Place::Struct | Place::Lease | Place::Intent => {
            format!("#[cached({key})] {table} struct E {{ #[cached(id)] id: i64 }}")
        }
        Place::Unique | Place::Index => format!(
            "{table} struct E {{ #[cached(id)] id: i64, #[cached({key})] email: String, created_at: i64 }}"
        ),
        Place::Field if key == "id" => format!("{table} struct E {{ #[cached({key})] id: i64 }}"),
        Place::Field if key.starts_with("omit") => {
            format!(
                "{table} struct E {{ #[cached(id)] id: i64, #[cached({key})] field: Option<i64> }}"
            )
        }
        Place::Field => {
            format!(
                "{table} struct E {{ #[cached(id)] id: i64, #[sqlx(default)] #[cached({key})] field: i64 }}"
            )
        }
    }
}

#[test]
fn every_example_is_accepted() {
    for key in KEYS {
        assert_eq!(
            faults(&entity_with(key.example, key.place)),
            [""; 0],
            "{}",
            key.example
        );
    }
}

#[test]
fn every_key_refuses_a_wrong_form_with_its_example() {
    for key in KEYS {
        let wrong = match key.place {
            Place::Lease => format!("lease({} = [])", key.name),
            Place::Intent => format!("intent({} = [])", key.name),
            Place::Unique => format!("unique({} = [])", key.name),
            Place::Index => format!("index({} = [])", key.name),
            Place::Struct | Place::Field => format!("{} = []", key.name),
        };
        let faults = faults(&entity_with(&wrong, key.place));
        assert_eq!(faults.len(), 1, "{wrong}: {faults:?}");
        assert!(
            faults[0].starts_with(&format!("`{}` expects ", key.name)),
            "{faults:?}"
        );
        assert!(faults[0].contains(key.example), "{faults:?}");
    }
}

#[test]
fn every_key_of_the_queue_stands_on_the_struct() {
    for name in QUEUE {
        assert!(
            crate::grammar::find(Place::Struct, name).is_some(),
            "{name}"
        );
    }
}

#[test]
fn every_key_is_misplaced_elsewhere() {
    for key in KEYS
        .iter()
        .filter(|key| !is_inner(key) && !is_lookup(key) && key.name != "ttl")
    {
        let elsewhere = match key.place {
            Place::Struct => Place::Field,
            Place::Field | Place::Lease | Place::Intent | Place::Unique | Place::Index => {
                Place::Struct
            }
        };
        // The key stands beside the required ones, so that it is the one mistake.
        let input = match elsewhere {
            Place::Field => format!(
                r#"#[cached(table = "t")] struct E {{ #[cached(id)] id: i64, #[cached({})] field: i64 }}"#,
                key.example
            ),
            Place::Struct | Place::Lease | Place::Intent | Place::Unique | Place::Index => format!(
                r#"#[cached(table = "t", {})] struct E {{ #[cached(id)] id: i64 }}"#,
                key.example
            ),
        };
        let faults = faults(&input);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("belongs on"), "{faults:?}");
    }
}

#[test]
fn every_key_has_a_section_in_the_reference() {
    let reference = include_str!("../../docs/attributes.md");
    for key in KEYS.iter().filter(|key| !is_inner(key)) {
        let heading = format!("\n### `{}`\n", key.name);
        let section = reference
            .split(&heading)
            .nth(1)
            .unwrap_or_else(|| panic!("no section for `{}`", key.name));
        let section = section.split("\n### ").next().unwrap_or(section);
        for label in [
            "Applies to",
            "Forms",
            "Default",
            "Interactions",
            "Not supported",
        ] {
            assert!(
                section.contains(&format!("**{label}**")),
                "`{}` has no `{label}`",
                key.name
            );
        }
        assert!(section.contains(key.name), "`{}` is not shown", key.name);
    }
}
