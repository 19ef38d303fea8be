//! Logs the problems of Redis: once when one begins, and once when it ends.
//!
//! A failure of the store is not an error of any read, so it would go unnoticed. One log line for every affected read
//! would be too many. So this file keeps the state, and logs only its changes, with the address and the code.
//!
//! - *Unavailable*: there is no usable link, and why (`UNREACHABLE`, `TIMEOUT`, `REPLICA`, `LOADING`, `NOAUTH`, ..). A
//!   new reason is a change.
//! - *Deaf*: the link works, but wake-ups do not, and why.
//! - *No large entries*: the link works, but the connection for large entries does not, and why.
//! - *Refused*: the link works, but the server rejects some operations (`OOM`, `NOREPLICAS`, `NOPERM`, ..). The problem
//!   ends when one of them is accepted again and none was rejected for a second: a server whose memory is almost full
//!   rejects every other command.
//!
//! The codes and texts come from the server. So codes are told apart up to a number, and there is a limit to the lines of a
//! minute.
//!
//! Invariant: while nothing is rejected, an operation that succeeds costs one relaxed load here.
//! Not here: how larder reacts (`connection`).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::RedisError;

use crate::{
    clock::{Deadline, timer_us},
    health::{Problem, ProblemKind},
    printed::{self, Printed},
};

/// How long an operation must not have been refused before it counts as accepted again.
const QUIET_PERIOD: Duration = Duration::from_secs(1);

/// For how long a rejected command is a problem of the cache's health, if none of its kind was accepted since.
const REPORTED_FOR: Duration = Duration::from_secs(10);

/// How many error codes are told apart at the same time. A server can send any text as a code.
const MAX_CODES: usize = 16;

/// Stands for further codes.
const OTHER: &str = "OTHER";

/// How many lines are logged about one server in a minute.
const MAX_LINES: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// The code for a connection that failed or was lost.
pub(crate) const UNREACHABLE: &str = "UNREACHABLE";

/// Why Redis cannot be used.
#[derive(Clone, Debug)]
pub(crate) struct Unavailable {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Unavailable {
    pub(crate) fn new(code: &str, message: &str) -> Self {
        Self {
            code: printed::short(&code),
            message: Printed::new(message).to_string(),
        }
    }
}

impl From<&RedisError> for Unavailable {
    fn from(error: &RedisError) -> Self {
        let code = match error.code() {
            Some(code) => code,
            None if error.is_timeout() => "TIMEOUT",
            None if error.kind() == redis::ErrorKind::AuthenticationFailed => "NOAUTH",
            None if error.is_io_error() => UNREACHABLE,
            None => error.category(),
        };
        Self::new(code, &printed::short(error))
    }
}

impl From<RedisError> for Unavailable {
    fn from(error: RedisError) -> Self {
        Self::from(&error)
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The logged state of one server.
#[derive(Debug)]
pub(crate) struct ServerStatusLog {
    address: String,
    away: Mutex<Option<Trouble>>,
    /// Why there are no wake-ups.
    deaf: Mutex<Option<Trouble>>,
    /// Why there are no large entries.
    no_large_entries: Mutex<Option<Trouble>>,
    /// The rejected operations, by error code.
    refused: Mutex<HashMap<String, Refusal>>,
    any_refused: AtomicBool,
    lines: Lines,
}

/// What does not work.
#[derive(Debug)]
struct Trouble {
    why: Unavailable,
    /// When it began, also if there was another reason then.
    began_us: u64,
}

impl Trouble {
    /// Describes it as a problem of the cache.
    fn problem(&self, kind: ProblemKind, address: &str, what: &str) -> Problem {
        let Unavailable { code, message } = &self.why;
        let message = format!("{what}: Redis at {address}: {code}: {message}");
        Problem::new(kind, Some(since_us(self.began_us)), message)
    }
}

/// Returns how long ago something was, by the timer.
fn since_us(began_us: u64) -> Duration {
    Duration::from_micros(timer_us().saturating_sub(began_us))
}

/// How many lines there still may be in this minute. The server decides how often its state changes, and by which codes.
#[derive(Debug, Default)]
struct Lines(Mutex<Option<(u32, Deadline)>>);

impl Lines {
    /// Returns whether a line may be logged now, and counts it. Says once a minute that some were left out.
    fn may_log(&self, address: &str) -> bool {
        let mut lines = lock(&self.0);
        let current = lines.filter(|(_, ends)| !ends.has_passed());
        let (logged, ends) = current.unwrap_or_else(|| (0, Deadline::after(MINUTE)));
        *lines = Some((logged.saturating_add(1), ends));
        drop(lines);
        if logged == MAX_LINES {
            tracing::warn!(
                address,
                code = "MANY",
                "the state of Redis changes too often to log each change; nothing more is logged about it for up to a minute"
            );
        }
        logged < MAX_LINES
    }
}

#[derive(Debug, Default)]
struct Refusal {
    /// The operations that were rejected with this code.
    operations: HashSet<&'static str>,
    /// The problem ends when one of them is accepted after this time.
    calm: Option<Deadline>,
    began_us: u64,
    last_us: u64,
}

impl ServerStatusLog {
    /// Returns the state of a server without known problems.
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            away: Mutex::default(),
            deaf: Mutex::default(),
            no_large_entries: Mutex::default(),
            refused: Mutex::default(),
            any_refused: AtomicBool::new(false),
            lines: Lines::default(),
        }
    }

    /// Records that Redis cannot be used.
    pub(crate) fn away(&self, away: &Unavailable) {
        let code = &away.code;
        if begins(&self.away, away) && self.lines.may_log(&self.address) {
            tracing::warn!(
                address = self.address,
                code,
                error = %away,
                "Redis cannot be used; reading from the database and reconnecting in the background"
            );
        }
    }

    /// Records that Redis can be used. Returns whether it could not be used before.
    pub(crate) fn back(&self) -> bool {
        let before = lock(&self.away).take();
        if let Some(Trouble { why, .. }) = &before
            && self.lines.may_log(&self.address)
        {
            let code = &why.code;
            tracing::info!(address = self.address, code, "Redis can be used again");
        }
        before.is_some()
    }

    /// Records why Redis has closed the connection that was lost.
    pub(crate) fn lost_because(&self, closing: &Unavailable) {
        let away = lock(&self.away);
        let is_unexplained = away
            .as_ref()
            .is_some_and(|trouble| trouble.why.code == UNREACHABLE);
        drop(away);
        if is_unexplained {
            self.away(closing);
        }
    }

    /// Records that wake-ups do not work.
    pub(crate) fn deaf(&self, away: &Unavailable) {
        let code = &away.code;
        if begins(&self.deaf, away) && self.lines.may_log(&self.address) {
            tracing::warn!(
                address = self.address,
                code,
                error = %away,
                "wake-ups from Redis do not work; callers that wait for a load, and flushers, continue after their timeout"
            );
        }
    }

    /// Records that wake-ups work.
    pub(crate) fn hears(&self) {
        let before = lock(&self.deaf).take();
        if let Some(Trouble { why, .. }) = before
            && self.lines.may_log(&self.address)
        {
            let code = why.code;
            tracing::info!(
                address = self.address,
                code,
                "wake-ups from Redis work again"
            );
        }
    }

    /// Records that large entries cannot be read or written.
    pub(crate) fn large_entries_fail(&self, away: &Unavailable) {
        let code = &away.code;
        if begins(&self.no_large_entries, away) && self.lines.may_log(&self.address) {
            tracing::warn!(
                address = self.address,
                code,
                error = %away,
                "large entries of Redis do not arrive; reading rows of 128 KiB and more from the database; if it takes too long to \
                 transfer them, lower `max_row` or raise `response_timeout`"
            );
        }
    }

    /// Records that a large entry was read or written.
    pub(crate) fn large_entries_work(&self) {
        let before = lock(&self.no_large_entries).take();
        if let Some(Trouble { why, .. }) = before
            && self.lines.may_log(&self.address)
        {
            let code = why.code;
            tracing::info!(
                address = self.address,
                code,
                "large entries of Redis arrive again"
            );
        }
    }

    /// Records that a reachable server has rejected an operation.
    pub(crate) fn refused(&self, operation: &'static str, error: &RedisError) {
        let Unavailable {
            mut code,
            message: error,
        } = error.into();
        let mut refused = lock(&self.refused);
        if refused.len() >= MAX_CODES && !refused.contains_key(&code) {
            OTHER.clone_into(&mut code);
        }
        let known = refused.contains_key(&code);
        let refusal = refused.entry(code.clone()).or_default();
        refusal.operations.insert(operation);
        refusal.calm = Some(Deadline::after(QUIET_PERIOD));
        refusal.last_us = timer_us();
        if !known {
            refusal.began_us = refusal.last_us;
        }
        self.any_refused.store(true, Ordering::Relaxed);
        drop(refused);
        if !known && self.lines.may_log(&self.address) {
            tracing::warn!(
                address = self.address,
                code,
                operation,
                error,
                "Redis rejected a command; continuing without it"
            );
        }
    }

    /// Returns why Redis cannot be used, if it cannot.
    pub(crate) fn problem_of_link(&self) -> Option<Problem> {
        let what = "reads go to the database, because Redis cannot be used";
        let away = lock(&self.away);
        let away = away.as_ref();
        away.map(|trouble| trouble.problem(ProblemKind::StoreAway, &self.address, what))
    }

    /// Returns what does not work on a link that can be used.
    pub(crate) fn problems_on_link(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (code, refusal) in &*lock(&self.refused) {
            // Nobody may have tried one of them since.
            if since_us(refusal.last_us) > REPORTED_FOR {
                continue;
            }
            let mut operations: Vec<_> = refusal.operations.iter().copied().collect();
            operations.sort_unstable();
            let (address, operations) = (&self.address, operations.join(", "));
            problems.push(Problem::new(
                ProblemKind::CommandsRefused,
                Some(since_us(refusal.began_us)),
                format!("Redis at {address} rejects commands with {code}: {operations}"),
            ));
        }
        problems.sort_unstable_by(|one, other| one.message.cmp(&other.message));
        let troubles = [
            (
                &self.deaf,
                ProblemKind::NoWakeups,
                "callers that wait for a load, and flushers, continue after their timeout, because wake-ups do not work",
            ),
            (
                &self.no_large_entries,
                ProblemKind::NoLargeEntries,
                "rows of 128 KiB and more are read from the database, because large entries do not arrive",
            ),
        ];
        for (trouble, kind, what) in troubles {
            let trouble = lock(trouble);
            let trouble = trouble.as_ref();
            problems.extend(trouble.map(|trouble| trouble.problem(kind, &self.address, what)));
        }
        problems
    }

    /// Records that an operation was accepted.
    #[inline]
    pub(crate) fn accepted(&self, operation: &'static str) {
        if self.any_refused.load(Ordering::Relaxed) {
            self.accepted_again(operation);
        }
    }

    #[cold]
    fn accepted_again(&self, operation: &'static str) {
        let mut refused = lock(&self.refused);
        let ended: Vec<_> = refused
            .extract_if(|_, refusal| refusal.has_ended(operation))
            .collect();
        self.any_refused
            .store(!refused.is_empty(), Ordering::Relaxed);
        drop(refused);
        for (code, _) in ended {
            if !self.lines.may_log(&self.address) {
                break;
            }
            tracing::info!(
                address = self.address,
                code,
                "Redis accepts commands again that it rejected"
            );
        }
    }
}

impl Refusal {
    /// Returns whether the problem has ended, given that this operation was accepted.
    fn has_ended(&self, operation: &'static str) -> bool {
        self.operations.contains(operation) && self.calm.is_some_and(Deadline::has_passed)
    }
}

/// Records why there is a problem. Returns whether it is another one than before.
fn begins(problem: &Mutex<Option<Trouble>>, why: &Unavailable) -> bool {
    let mut problem = lock(problem);
    let began_us = problem
        .as_ref()
        .map_or_else(timer_us, |trouble| trouble.began_us);
    let before = problem.replace(Trouble {
        why: why.clone(),
        began_us,
    });
    before.is_none_or(|before| before.why.code != why.code)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span::{Attributes, Id, Record},
    };

    use super::*;

    /// Counts lines, and keeps their text.
    #[derive(Clone, Default)]
    struct Counted {
        lines: Arc<AtomicUsize>,
        text: Arc<Mutex<String>>,
    }

    impl Visit for Counted {
        fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
            lock(&self.text).push_str(&format!("{value:?} "));
        }

        fn record_str(&mut self, _: &Field, value: &str) {
            lock(&self.text).push_str(value);
        }
    }

    impl Subscriber for Counted {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            self.lines.fetch_add(1, Ordering::SeqCst);
            event.record(&mut self.clone());
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// Returns the error of a reply.
    fn error(reply: &str) -> RedisError {
        let reply = format!("-{reply}\r\n");
        let value = redis::parse_redis_value(reply.as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    fn logged(run: impl FnOnce(&ServerStatusLog)) -> (usize, String) {
        let log = Counted::default();
        let status = ServerStatusLog::new("host:1".to_owned());
        tracing::subscriber::with_default(log.clone(), || run(&status));
        let text = lock(&log.text).clone();
        (log.lines.load(Ordering::SeqCst), text)
    }

    #[tokio::test]
    async fn codes_that_a_server_makes_up_are_told_apart_up_to_a_number() {
        let (lines, text) = logged(|status| {
            for number in 0..20_000 {
                status.refused(
                    "get",
                    &error(&format!("CODE{number}\u{1b}[2J text\u{202e}")),
                );
            }
            assert_eq!(lock(&status.refused).len(), MAX_CODES + 1);
        });
        assert_eq!(lines, MAX_CODES + 1);
        assert!(text.contains(r"CODE0\u{1b}[2J"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }

    #[tokio::test]
    async fn a_state_that_changes_all_the_time_is_logged_a_number_of_times_in_a_minute() {
        let flap = |status: &ServerStatusLog, times: usize| {
            for number in 0..times {
                status.away(&Unavailable::new(&format!("CODE{number}"), "it is away"));
                status.back();
            }
        };
        let log = Counted::default();
        let _kept = tracing::subscriber::set_default(log.clone());
        let lines = || log.lines.load(Ordering::SeqCst);
        let status = ServerStatusLog::new("host:1".to_owned());
        flap(&status, 20_000);
        let most = MAX_LINES as usize + 1;
        assert_eq!(lines(), most, "the last one says that there are more");
        assert!(lock(&log.text).contains("changes too often"));
        // The minute ends.
        if let Some((_, ends)) = &mut *lock(&status.lines.0) {
            *ends = Deadline::after(Duration::ZERO);
        }
        flap(&status, 1);
        assert_eq!(
            lines(),
            most + 2,
            "in another minute, lines are logged again"
        );
    }

    #[tokio::test]
    async fn a_text_of_a_server_is_cut() {
        let long = "x".repeat(1 << 20);
        let away = Unavailable::from(error(&format!("CODE {long}")));
        assert!(away.message.chars().count() < 300);
        let away = Unavailable::from(error(&format!("{long} text")));
        assert!(away.code.chars().count() < 300);
    }
}
