//! The rules about the queue of `strategy = "write_behind"`: a write is acknowledged when it stands there, before the
//! database has seen it.
//!
//! What only the database could tell a writer comes too late then, and is refused. So is an option that would do nothing,
//! because whoever wrote it expects something of it.

use super::{help, named, number, text, word};
use crate::{
    ast::{Input, Settings, Value},
    diagnostics::Errors,
    grammar::{self, Place},
};

/// What the runtime uses where `partitions` is not named: see `QueuePolicy::DEFAULT` there.
const DEFAULT_PARTITIONS: u64 = 4;

const STRATEGY: &str = "`strategy = \"write_behind\"`";

/// Judges the options of the queue, and what else the entity cannot have beside one.
pub(super) fn check(errors: &mut Errors, input: &Input) {
    let settings = &input.settings;
    if is_named(settings) {
        check_id(errors, input);
        check_version(errors, input);
        check_immutable(errors, input);
        check_omit(errors, input);
        check_coherence(errors, settings);
        check_on_outage(errors, settings);
        check_intent(errors, settings);
        check_hash_tag(errors, settings);
        check_gathered(errors, settings);
        check_room(errors, settings);
        check_journal(errors, settings);
    } else if settings
        .get("strategy")
        .is_none_or(|setting| word(setting).is_some())
    {
        // A strategy that could not be read may have been the right one.
        check_needless(errors, settings);
    }
}

/// Whether the strategy is the one that queues writes.
pub(super) fn is_named(settings: &Settings) -> bool {
    let strategy = settings.get("strategy").and_then(word);
    strategy.is_some_and(|strategy| strategy.word == "write_behind")
}

/// Without a queue its options do nothing. The mistake is one, however many of them are named.
fn check_needless(errors: &mut Errors, settings: &Settings) {
    let needless: Vec<_> = settings
        .list
        .iter()
        .filter(|setting| grammar::QUEUE.contains(&setting.key.name))
        .filter(|setting| !matches!(setting.value, Value::Unreadable))
        .collect();
    let Some(first) = needless.first() else {
        return;
    };
    let names = grammar::list(needless.iter().map(|setting| setting.key.name));
    let them = if needless.len() == 1 { "it" } else { "them" };
    let message = format!(
        "only {STRATEGY} queues writes, and without it {names} would do nothing\n\
         help: use {STRATEGY}, or remove {them}"
    );
    errors.report(&first.name, message);
}

/// The row is stored under its id, and its caller told so, before the database could choose one.
fn check_id(errors: &mut Errors, input: &Input) {
    let mut ids = input
        .fields()
        .iter()
        .filter(|field| named(field, "id").is_some());
    let (Some(id), None) = (ids.next(), ids.next()) else {
        // One part of a composite id is never generated, with no strategy.
        return;
    };
    let Some(generated) = named(id, "generated") else {
        return;
    };
    let message = format!(
        "an id cannot be generated with {STRATEGY}: the write is acknowledged before the database sees it\n\
         help: remove `generated` and let the application choose the id, a UUID, say, or use `strategy = \"write_through\"`"
    );
    errors.report(generated, message);
}

/// The database would find the conflict when the writer has long been told that all is well.
fn check_version(errors: &mut Errors, input: &Input) {
    let Some(version) = input
        .fields()
        .iter()
        .find_map(|field| named(field, "version"))
    else {
        return;
    };
    let message = format!(
        "a row cannot have a version with {STRATEGY}: a conflict would be found after the write was acknowledged\n\
         help: remove `version`, and change rows with `modify`, which reads and writes a row in one step, or use \
         `strategy = \"write_through\"`"
    );
    errors.report(version, message);
}

/// A queued write is the whole row.
fn check_omit(errors: &mut Errors, input: &Input) {
    let mut fields = input.fields().iter();
    let Some(omit) = fields.find_map(|field| named(field, "omit")) else {
        return;
    };
    let message = format!(
        "a column cannot be `omit` with {STRATEGY}: a queued write is in the store until the database has it, with all columns\n\
         help: remove `omit`, or use `strategy = \"write_through\"`"
    );
    errors.report(omit, message);
}

/// As with a version: the database would compare the column too late.
fn check_immutable(errors: &mut Errors, input: &Input) {
    let mut fields = input.fields().iter();
    let Some(immutable) = fields.find_map(|field| named(field, "immutable")) else {
        return;
    };
    let message = format!(
        "a column cannot be `immutable` with {STRATEGY}: that an update changes it would be found after the write was acknowledged\n\
         help: remove `immutable`, or use `strategy = \"write_through\"`"
    );
    errors.report(immutable, message);
}

/// A queued write is served at once. A weaker promise cannot be had, nor would it save anything.
fn check_coherence(errors: &mut Errors, settings: &Settings) {
    let Some(setting) = settings.get("coherence") else {
        return;
    };
    let Some(coherence) = word(setting).filter(|coherence| coherence.word != "intent") else {
        return;
    };
    let coherence = coherence.word;
    let message = format!(
        "`coherence = \"{coherence}\"` has no effect with {STRATEGY}, whose writes all readers see as soon as they are queued\n\
         help: remove `coherence`, or use `strategy = \"aside\"`"
    );
    errors.report(&setting.name, message);
}

/// There is nothing to choose: without the store there is no queue.
fn check_on_outage(errors: &mut Errors, settings: &Settings) {
    let Some(setting) = settings.get("on_outage") else {
        return;
    };
    if word(setting).is_none() {
        return;
    }
    let message = format!(
        "`on_outage` has no effect with {STRATEGY}, whose queue is in the store: a write fails with the kind `CacheUnavailable` when \
         the store cannot be reached\n\
         help: remove `on_outage`, or use `strategy = \"write_through\"`"
    );
    errors.report(&setting.name, message);
}

/// A write is not announced; it is made in one step.
fn check_intent(errors: &mut Errors, settings: &Settings) {
    let Some(setting) = settings.get("intent") else {
        return;
    };
    if !matches!(setting.value, Value::Group(_)) {
        return;
    }
    let message = format!(
        "`intent(..)` is about the announcement of a write, and with {STRATEGY} there is none\n\
         help: remove `intent(..)`, or use `strategy = \"write_through\"`"
    );
    errors.report(&setting.name, message);
}

/// A queue flushes its writes in batches.
fn check_gathered(errors: &mut Errors, settings: &Settings) {
    let Some(setting) = settings.get("gather_writes") else {
        return;
    };
    if !matches!(setting.value, Value::Switch(_)) {
        return;
    }
    let message = format!(
        "`gather_writes` has no effect with {STRATEGY}, whose writes are flushed in batches\n\
         help: remove `gather_writes`; `batch` is how many writes a flush takes"
    );
    errors.report(&setting.name, message);
}

/// Rows and queue of a partition share a slot by a tag of their own.
fn check_hash_tag(errors: &mut Errors, settings: &Settings) {
    let Some(setting) = settings.get("hash_tag") else {
        return;
    };
    if !matches!(setting.value, Value::Flag) {
        return;
    }
    let message = format!(
        "`hash_tag` has no effect with {STRATEGY}, whose keys carry a tag for each partition\n\
         help: remove `hash_tag`; with `partitions = 1` all keys of the entity are in one slot"
    );
    errors.report(&setting.name, message);
}

/// The room is shared out among the partitions, and one without room would take no write.
fn check_room(errors: &mut Errors, settings: &Settings) {
    let unreadable = |name: &str| settings.names(name) && number::<u64>(settings, name).is_none();
    let Some(max_pending) = number::<u64>(settings, "max_pending") else {
        return;
    };
    let partitions = number(settings, "partitions").unwrap_or(DEFAULT_PARTITIONS);
    if unreadable("partitions") || max_pending >= partitions {
        return;
    }
    let message = format!(
        "`max_pending` is {max_pending}, which leaves some of the {partitions} partitions without room for a write\n\
         help: write `max_pending = {partitions}` or more, or fewer `partitions`"
    );
    errors.report(
        settings.get("max_pending").map(|setting| &setting.name),
        message,
    );
}

/// An empty path names no directory.
fn check_journal(errors: &mut Errors, settings: &Settings) {
    let Some(text) = settings.get("journal").and_then(text) else {
        return;
    };
    if text.value().is_empty() {
        let help = help(Place::Struct, "journal");
        errors.report(text, format!("`journal` is empty\n{help}"));
    }
}
