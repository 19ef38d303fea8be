//! Connections that Redis has closed by itself: for which setting, as far as it counts them.
//!
//! A client whose connection is closed hears nothing of the reason. Newer servers keep a count for each of their limits, so a
//! count that has grown while a connection was lost names the setting that a person has to look at. Of one that does not
//! count, all that can be told is that it has such a limit.
//!
//! Invariant: counts of two runs of a server are never compared.
//! Not here: when they are asked for (`connection`: in each handshake and with each beat).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock::Deadline,
    store::redis::{condition::Away, connection::field},
};

/// The counts of `INFO stats`, the settings behind them, and what happens at their limits.
const LIMITS: [(&str, &str, &str); 3] = [
    (
        "client_output_buffer_limit_disconnections",
        "client-output-buffer-limit",
        "because more waited to be read from it than its setting `client-output-buffer-limit` allows",
    ),
    (
        "client_query_buffer_limit_disconnections",
        "client-query-buffer-limit",
        "because more was sent to it than its setting `client-query-buffer-limit` allows",
    ),
    (
        "evicted_clients",
        "maxmemory-clients",
        "because its clients needed more memory than its setting `maxmemory-clients` allows",
    ),
];

/// How long a connection may have been closed before its loss is noticed.
const LATELY: Duration = Duration::from_secs(5);

type Counts = [Option<u64>; LIMITS.len()];

/// What a server has told of the connections that it has closed.
#[derive(Debug, Default)]
pub(super) struct Closings(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// The counts that were heard last, and the stamp of the run they are of.
    counts: Option<(u64, Counts)>,
    /// The latest closing, and until when it explains a loss.
    latest: Option<(Away, Deadline)>,
    /// The setting about what may wait to be read, for all kinds of clients.
    output_limits: String,
}

impl Closings {
    /// Takes note of what a server tells of itself.
    pub(super) fn note(&self, stamp: u64, told: &str) {
        let counts = LIMITS.map(|(count, ..)| field(told, count)?.parse().ok());
        let mut told = self.told();
        let before = told.counts.replace((stamp, counts));
        let Some((_, before)) = before.filter(|(before, _)| *before == stamp) else {
            return;
        };
        let mut limits = LIMITS.iter().zip(before).zip(counts);
        let grown = limits.find(|((_, before), now)| before.is_some() && before < now);
        if let Some(((&(_, setting, reason), _), _)) = grown {
            let closing = Away::new(setting, &format!("Redis has closed a connection {reason}"));
            told.latest = Some((closing, Deadline::after(LATELY)));
        }
    }

    /// Why a connection was closed lately, if that is known; it explains one loss.
    pub(super) fn take(&self) -> Option<Away> {
        let (closing, lately) = self.told().latest.take()?;
        (!lately.has_passed()).then_some(closing)
    }

    /// Takes note of the setting about what may wait to be read; nothing if the server does not tell it.
    pub(super) fn note_output_limits(&self, limits: Option<String>) {
        self.told().output_limits = limits.unwrap_or_default();
    }

    /// What a loss may come from, to be said behind it: nothing where the server would count it, or has no such limit for
    /// this kind of client.
    pub(super) fn suspicion(&self, kind: &str) -> String {
        let told = self.told();
        let counts = told
            .counts
            .is_some_and(|(_, [output, ..])| output.is_some());
        let words: Vec<&str> = told.output_limits.split_whitespace().collect();
        // A kind, a limit, and another one that holds for so many seconds.
        let mut limits = words.chunks_exact(4);
        let limit = limits.find(|limit| limit[0] == kind && limit[1..3] != ["0", "0"]);
        match limit {
            Some(limit) if !counts => format!(
                "; Redis does not tell why, but closes a connection when more waits to be read from it than its setting \
                 `client-output-buffer-limit` allows (`{}`)",
                limit.join(" ")
            ),
            _ => String::new(),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(output: u64, query: u64) -> String {
        format!(
            "# Stats\r\nclient_query_buffer_limit_disconnections:{query}\r\n\
             client_output_buffer_limit_disconnections:{output}\r\n"
        )
    }

    fn code(closings: &Closings, stamp: u64, told: &str) -> Option<String> {
        closings.note(stamp, told);
        closings.take().map(|closing| closing.code)
    }

    #[tokio::test]
    async fn the_count_that_has_grown_names_its_setting_once_and_lately() {
        let closings = Closings::default();
        let code = |told: &str| code(&closings, 1, told);
        assert_eq!(code(&told(3, 5)), None);
        assert_eq!(code(&told(3, 5)), None);
        let output = code(&told(4, 5));
        assert_eq!(output.as_deref(), Some("client-output-buffer-limit"));
        let query = code(&told(4, 6));
        assert_eq!(query.as_deref(), Some("client-query-buffer-limit"));
        assert_eq!(code(&told(4, 6)), None);
        let evicted = told(4, 6) + "evicted_clients:";
        assert_eq!(code(&(evicted.clone() + "0\r\n")), None);
        let memory = code(&(evicted.clone() + "2\r\n"));
        assert_eq!(memory.as_deref(), Some("maxmemory-clients"));
        // Heard of with a beat, before the loss was noticed; or too long before.
        closings.note(1, &(evicted.clone() + "3\r\n"));
        assert!(code(&(evicted.clone() + "3\r\n")).is_some());
        closings.note(1, &(evicted.clone() + "4\r\n"));
        if let Some((_, lately)) = &mut closings.told().latest {
            *lately = Deadline::after(Duration::ZERO);
        }
        assert_eq!(code(&(evicted + "4\r\n")), None);
    }

    #[test]
    fn a_server_that_does_not_count_is_suspected_of_the_limits_it_has() {
        let closings = Closings::default();
        closings.note(1, "# Stats\r\nevicted_clients:0\r\n");
        assert_eq!(closings.suspicion("pubsub"), "", "it does not tell");
        let limits = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        closings.note_output_limits(Some(limits.to_owned()));
        assert_eq!(closings.suspicion("normal"), "", "there is none");
        let said = closings.suspicion("pubsub");
        assert!(said.contains("(`pubsub 33554432 8388608 60`)"), "{said}");
        closings.note_output_limits(Some("normal 0 1024 5".to_owned()));
        assert!(closings.suspicion("normal").contains("1024"));
        closings.note(1, &told(0, 0));
        assert_eq!(closings.suspicion("normal"), "", "it would count it");
    }

    #[tokio::test]
    async fn counts_of_another_run_or_of_a_server_that_does_not_count_tell_nothing() {
        let closings = Closings::default();
        assert_eq!(code(&closings, 1, &told(3, 5)), None);
        assert_eq!(code(&closings, 2, &told(9, 9)), None, "another run");
        assert_eq!(code(&closings, 2, "# Stats\r\n"), None, "none any more");
        assert_eq!(code(&closings, 2, &told(10, 10)), None, "new to us");
    }
}
