//! The rules about how an entity is cached, and its policy.

use syn::LitStr;

use super::{help, number, queue, text, word};
use crate::{
    ast::{Settings, Value},
    diagnostics::Errors,
    grammar::Place,
    model::{Negative, Policy},
};

/// What the runtime uses where `lease(..)` does not say: see `Policy::DEFAULT` there.
const DEFAULT_LEASE_TTL: u64 = 5_000;
const DEFAULT_LEASE_WAIT: u64 = 100;
/// The shortest life of an intent: a round trip, a statement and the pauses of a busy machine must fit in, and so must the
/// deadline that a commit is given, which MySQL counts in whole seconds.
const MIN_INTENT_TTL: u64 = 2_000;

/// Judges the options, except those of a queue; those that could not be read are left out.
pub(super) fn check(errors: &mut Errors, settings: &Settings) -> Policy {
    check_part(errors, settings, "namespace", "");
    check_lease(errors, settings);
    check_intent(errors, settings);
    check_announced(errors, settings);
    check_triggers(errors, settings);
    policy(settings)
}

/// The parts of a key are separated by `:`, and braces name its slot in a cluster; further separators may be refused. The
/// part, if it was named and can be one.
pub(super) fn check_part(
    errors: &mut Errors,
    settings: &Settings,
    key: &str,
    separators: &str,
) -> Option<String> {
    let text = settings.get(key).and_then(text)?;
    let part = text.value();
    let is_refused = |c: char| {
        ":{}".contains(c) || separators.contains(c) || c.is_whitespace() || c.is_control()
    };
    let fault = if part.is_empty() {
        format!("`{key}` is empty")
    } else if part.contains(is_refused) {
        let others: String = separators.chars().map(|c| format!(", `{c}`")).collect();
        format!(
            "`{}` contains a colon, a brace{others}, white space or a control character",
            part.escape_debug()
        )
    } else {
        return Some(part);
    };
    errors.report(text, format!("{fault}\n{}", help(Place::Struct, key)));
    None
}

/// A reader that waits longer than a lease can live waits for nobody.
fn check_lease(errors: &mut Errors, settings: &Settings) {
    let Some(lease) = group(settings, "lease") else {
        return;
    };
    if lease
        .list
        .iter()
        .any(|setting| matches!(setting.value, Value::Unreadable))
    {
        return;
    }
    let (ttl, wait) = (milliseconds(lease, "ttl"), milliseconds(lease, "wait"));
    if wait.unwrap_or(DEFAULT_LEASE_WAIT) <= ttl.unwrap_or(DEFAULT_LEASE_TTL) {
        return;
    }
    let message = match (wait, ttl) {
        (Some(wait), None) => format!(
            "`wait` is {wait} ms, longer than the lease, which lives {DEFAULT_LEASE_TTL} ms"
        ),
        (None, _) => {
            format!("`ttl` is shorter than the wait for the lease, {DEFAULT_LEASE_WAIT} ms")
        }
        (Some(_), Some(_)) => "`wait` is longer than the `ttl` of the lease".to_owned(),
    };
    let named = lease.get("wait").or_else(|| lease.get("ttl"));
    let help = help(Place::Struct, "lease");
    errors.report(
        named.map(|setting| &setting.name),
        format!("{message}\n{help}"),
    );
}

/// An intent that expires under its write lets readers store the old row.
fn check_intent(errors: &mut Errors, settings: &Settings) {
    let Some(setting) = group(settings, "intent").and_then(|intent| intent.get("ttl")) else {
        return;
    };
    if let Value::Duration(milliseconds) = setting.value
        && milliseconds < MIN_INTENT_TTL
    {
        let help = help(Place::Intent, "ttl");
        let message = format!(
            "`ttl` is {milliseconds} ms, but an intent must live for at least 2 s, because the deadline of a commit is shorter and counted in seconds\n{help}"
        );
        errors.report(&setting.name, message);
    }
}

/// With a coherence below `intent` no write is announced. Then nothing proves that what a write stored is not older than
/// the row, and the other options about announcements would do nothing.
fn check_announced(errors: &mut Errors, settings: &Settings) {
    // What a queue has to say about these options is said there.
    if queue::is_named(settings) {
        return;
    }
    let coherence = settings.get("coherence").and_then(word);
    let Some(coherence) = coherence.filter(|coherence| coherence.word != "intent") else {
        return;
    };
    let coherence = format!("`coherence = \"{}\"`", coherence.word);
    let is = |name: &str, value: &str| {
        let setting = settings.get(name)?;
        (word(setting)?.word == value).then_some(&setting.name)
    };
    if let Some(strategy) = is("strategy", "write_through") {
        let message = format!(
            "`strategy = \"write_through\"` stores rows safely only where writes are announced, and with {coherence} they \
             are not\nhelp: remove {coherence}, or use `strategy = \"aside\"`"
        );
        errors.report(strategy, message);
    }
    if let Some(on_outage) = is("on_outage", "consistent") {
        let message = format!(
            "`on_outage = \"consistent\"` refuses a write that cannot be announced, and with {coherence} none is\n\
             help: remove {coherence}, or `on_outage`"
        );
        errors.report(on_outage, message);
    }
    if let Some(intent) = settings.get("intent") {
        let message = format!(
            "`intent(..)` is about the announcement of a write, and with {coherence} there is none\n\
             help: remove {coherence}, or `intent(..)`"
        );
        errors.report(&intent.name, message);
    }
}

/// Cache-aside stores nothing that a statement returned, so triggers that run after it change nothing in the cache.
fn check_triggers(errors: &mut Errors, settings: &Settings) {
    let Some(setting) = settings.get("after_triggers") else {
        return;
    };
    let is_aside = match settings.get("strategy") {
        // A strategy that could not be read may have been the right one.
        Some(strategy) => word(strategy).is_some_and(|strategy| strategy.word == "aside"),
        None => true,
    };
    if is_aside && matches!(setting.value, Value::Flag) {
        let message = "`after_triggers` has no effect with `strategy = \"aside\"`, which stores nothing that a write returned\n\
                       help: remove it, or use `strategy = \"write_through\"`";
        errors.report(&setting.name, message);
    }
}

fn policy(settings: &Settings) -> Policy {
    let lease = group(settings, "lease");
    let intent = group(settings, "intent");
    Policy {
        strategy: settings.get("strategy").and_then(word),
        after_triggers: settings.names("after_triggers"),
        gather_writes: settings
            .get("gather_writes")
            .and_then(|setting| match setting.value {
                Value::Switch(gathers) => Some(gathers),
                _ => None,
            }),
        coherence: settings.get("coherence").and_then(word),
        on_outage: settings.get("on_outage").and_then(word),
        ttl: milliseconds(settings, "ttl"),
        jitter: settings
            .get("jitter")
            .and_then(|setting| match setting.value {
                Value::Share(share) => Some(share),
                _ => None,
            }),
        negative_ttl: settings
            .get("negative_ttl")
            .and_then(|setting| match setting.value {
                Value::Duration(milliseconds) => Some(Negative::For(milliseconds)),
                Value::Off => Some(Negative::Off),
                _ => None,
            }),
        namespace: settings.get("namespace").and_then(text).map(LitStr::value),
        hash_tag: settings.names("hash_tag"),
        codec: settings.get("codec").and_then(word),
        max_row: settings
            .get("max_row")
            .and_then(|setting| match setting.value {
                Value::Size(bytes) => Some(bytes),
                _ => None,
            }),
        lease_ttl: lease.and_then(|lease| milliseconds(lease, "ttl")),
        lease_wait: lease.and_then(|lease| milliseconds(lease, "wait")),
        intent_ttl: intent.and_then(|intent| milliseconds(intent, "ttl")),
        partitions: number(settings, "partitions"),
        max_pending: number(settings, "max_pending"),
        on_full: settings.get("on_full").and_then(word),
        durability: settings.get("durability").and_then(word),
        batch: number(settings, "batch"),
        linger: milliseconds(settings, "linger"),
        journal: settings.get("journal").and_then(text).map(LitStr::value),
    }
}

fn group<'a>(settings: &'a Settings, name: &str) -> Option<&'a Settings> {
    match &settings.get(name)?.value {
        Value::Group(group) => Some(group),
        _ => None,
    }
}

fn milliseconds(settings: &Settings, name: &str) -> Option<u64> {
    match settings.get(name)?.value {
        Value::Duration(milliseconds) => Some(milliseconds),
        _ => None,
    }
}
