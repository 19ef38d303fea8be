//! What larder has logged, kept so that a test can count it: one line for each change of state, not one for each request.
//! 1. There is one listener in a process, of all threads; it also hands the reports of sqlx to [`crate::statements`].
//! 2. Lines are told apart by the address of the server that they are about, which no other test has.
//!
//! Invariant: what is logged after the first look is kept, also by background tasks on other threads.
//! Invariant: of sqlx's lines too, each with the name of its `thread`.
//! Not here: lines below INFO, which are for people who look for something.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// What sqlx calls its reports of statements.
const STATEMENTS: &str = "sqlx::query";

/// A line of the log: its level, and its fields by name; the text is the field `message`.
#[derive(Debug, Clone)]
pub struct Line {
    level: Level,
    fields: BTreeMap<&'static str, String>,
}

impl Line {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Whether it tells of trouble, and its code.
    pub fn summary(&self) -> (bool, &str) {
        let code = self.fields.get("code").map_or("", String::as_str);
        (self.level <= Level::WARN, code)
    }
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// What has been logged about the server at this address, as pairs: whether it is trouble, and its code.
pub fn lines(address: SocketAddr) -> Vec<(bool, String)> {
    listen();
    let address = address.to_string();
    kept()
        .iter()
        .filter(|line| line.fields.get("address") == Some(&address))
        .map(Line::summary)
        .filter(|(_, code)| !code.is_empty())
        .map(|(trouble, code)| (trouble, code.to_owned()))
        .collect()
}

/// What has been logged with this value of a field.
pub fn lines_with(field: &str, value: &str) -> Vec<Line> {
    listen();
    let lines = kept();
    let ours = lines.iter().filter(|line| line.field(field) == Some(value));
    ours.cloned().collect()
}

/// Whether the log has named a setting of the server at this address as the reason of trouble, or as a possible one.
pub fn names(address: SocketAddr, setting: &str) -> bool {
    listen();
    let address = address.to_string();
    let is_of = |line: &&Line| line.fields.get("address") == Some(&address);
    let mut troubles = kept().clone().into_iter().filter(|line| line.summary().0);
    troubles.any(|line| {
        let error = line.fields.get("error");
        is_of(&&line)
            && (line.summary().1 == setting || error.is_some_and(|error| error.contains(setting)))
    })
}

/// How often trouble was logged about an entity, which no other test may have.
pub fn troubles_of(entity: &str) -> usize {
    listen();
    let is_of = |line: &&Line| line.fields.get("entity").is_some_and(|name| name == entity);
    let lines = kept();
    lines
        .iter()
        .filter(is_of)
        .filter(|line| line.summary().0)
        .count()
}

/// The texts of the lines that have a field whose value begins so, in their order, and whether each tells of trouble.
pub fn texts_with(field: &str, beginning: &str) -> Vec<(bool, String)> {
    listen();
    kept()
        .iter()
        .filter(|line| {
            line.field(field)
                .is_some_and(|told| told.starts_with(beginning))
        })
        .map(|line| {
            let text = line.fields.get("message").cloned();
            (line.summary().0, text.unwrap_or_default())
        })
        .collect()
}

/// Makes us the listener of this process, unless we are.
///
/// # Panics
///
/// When somebody else is: tests that look at events themselves use `tracing::subscriber::with_default`, which is local to a
/// thread.
pub fn listen() {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        tracing::subscriber::set_global_default(Listener)
            .expect("no other global tracing subscriber is set in this test binary");
    });
}

fn kept() -> MutexGuard<'static, Vec<Line>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps what larder says, and hands on what sqlx says about statements.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_of_interest = target.starts_with("larder") || target.starts_with("sqlx");
        // sqlx asks first whether an event is wanted, and such a question is not itself an event.
        !metadata.is_span()
            && (target == STATEMENTS || is_of_interest && *metadata.level() <= Level::INFO)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        if metadata.target() == STATEMENTS {
            crate::statements::heard(event);
        }
        if *metadata.level() > Level::INFO {
            return;
        }
        let mut line = Line {
            level: *metadata.level(),
            fields: BTreeMap::new(),
        };
        event.record(&mut line);
        if metadata.target().starts_with("sqlx") {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default().to_owned();
            line.fields.insert("thread", name);
        }
        kept().push(line);
    }

    // Spans are never enabled; these are required by the trait and have nothing to do.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}
