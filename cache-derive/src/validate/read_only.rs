//! The rules of `read_only`: what is about writes has no effect on an entity that is only read, and whoever wrote it
//! expects something of it.

use super::{named, word};
use crate::{ast::Input, diagnostics::Errors};

/// The options of the struct that are about writes.
const ABOUT_WRITES: &[&str] = &["on_outage", "intent", "gather_writes"];

/// The marks of a field that are about writes.
const MARKS: &[(&str, &str)] = &[
    (
        "generated",
        "the database fills the column in when a row is inserted",
    ),
    ("version", "an update compares it"),
    ("immutable", "an update does not change it"),
];

/// Judges what stands beside `read_only`.
pub(super) fn check(errors: &mut Errors, input: &Input) {
    let settings = &input.settings;
    if !settings.names("read_only") {
        return;
    }
    if let Some(setting) = settings.get("strategy")
        && let Some(strategy) = word(setting).filter(|strategy| strategy.word != "aside")
    {
        let message = format!(
            "`strategy = \"{}\"` is about writes, and an entity with `read_only` has none\nhelp: remove `strategy`, or `read_only`",
            strategy.word
        );
        errors.report(&setting.name, message);
    }
    for setting in ABOUT_WRITES.iter().filter_map(|name| settings.get(name)) {
        let name = setting.key.name;
        let message = format!(
            "`{name}` is about writes, and an entity with `read_only` has none\nhelp: remove `{name}`, or `read_only`"
        );
        errors.report(&setting.name, message);
    }
    for field in input.fields() {
        for (mark, why) in MARKS {
            if let Some(name) = named(field, mark) {
                let message = format!(
                    "`{mark}` is about writes ({why}), and an entity with `read_only` has none\nhelp: remove `{mark}`, or `read_only`"
                );
                errors.report(name, message);
            }
        }
    }
}
