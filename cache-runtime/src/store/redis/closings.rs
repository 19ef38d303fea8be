//! Connections that Redis has closed: finds out because of which setting, if Redis counts them.
//!
//! Redis does not tell a client why it closes its connection. Newer servers have a count for each of their limits. If a
//! count has grown while a connection was lost, it names the setting that a person has to change. For a server without
//! counts, larder can only say that it has such a limit.
//!
//! Invariant: counts of two runs of a server are never compared.
//! Not here: when the counts are read (`connection`: in each handshake and with each heartbeat).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock::Deadline,
    printed::Printed,
    store::redis::{condition::Unavailable, connection::field},
};

/// The counts of `INFO stats`, the setting of each limit, and what Redis does at the limit.
const LIMITS: [(&str, &str, &str); 3] = [
    (
        "client_output_buffer_limit_disconnections",
        "client-output-buffer-limit",
        "because its unread replies exceeded the setting `client-output-buffer-limit`",
    ),
    (
        "client_query_buffer_limit_disconnections",
        "client-query-buffer-limit",
        "because a command exceeded the setting `client-query-buffer-limit`",
    ),
    (
        "evicted_clients",
        "maxmemory-clients",
        "because the memory of all clients exceeded the setting `maxmemory-clients`",
    ),
];

/// How long a counted closing may explain the loss of a connection.
const LATELY: Duration = Duration::from_secs(5);

type Counts = [Option<u64>; LIMITS.len()];

/// What a server has reported about the connections that it has closed.
#[derive(Debug, Default)]
pub(super) struct Closings(Mutex<Reported>);

#[derive(Debug, Default)]
struct Reported {
    /// The latest counts, and the history they belong to.
    counts: Option<(u64, Counts)>,
    /// The latest closing, and until when it explains a loss.
    latest: Option<(Unavailable, Deadline)>,
    /// The setting `client-output-buffer-limit`, for all kinds of clients.
    output_limits: String,
}

impl Closings {
    /// Records the counts in the INFO of a server.
    pub(super) fn note(&self, history: u64, info: &str) {
        let counts = LIMITS.map(|(count, ..)| field(info, count)?.parse().ok());
        let mut info = self.info();
        let before = info.counts.replace((history, counts));
        let Some((_, before)) = before.filter(|(before, _)| *before == history) else {
            return;
        };
        let mut limits = LIMITS.iter().zip(before).zip(counts);
        let grown = limits.find(|((_, before), now)| before.is_some() && before < now);
        if let Some(((&(_, setting, reason), _), _)) = grown {
            let closing =
                Unavailable::new(setting, &format!("Redis has closed a connection {reason}"));
            info.latest = Some((closing, Deadline::after(LATELY)));
        }
    }

    /// Returns why Redis has closed a connection recently, if that is known. It explains one loss.
    pub(super) fn take(&self) -> Option<Unavailable> {
        let (closing, lately) = self.info().latest.take()?;
        (!lately.has_passed()).then_some(closing)
    }

    /// Records the setting `client-output-buffer-limit`, or `None` if the server does not report it.
    pub(super) fn note_output_limits(&self, limits: Option<String>) {
        self.info().output_limits = limits.unwrap_or_default();
    }

    /// Returns a text about the possible reason of a loss, to append to its message. It is empty if the server would
    /// count such a closing, or has no such limit for this kind of client.
    pub(super) fn suspicion(&self, kind: &str) -> String {
        let info = self.info();
        let counts = info
            .counts
            .is_some_and(|(_, [output, ..])| output.is_some());
        let words: Vec<&str> = info.output_limits.split_whitespace().collect();
        // The kind of client, the hard limit, the soft limit, and the seconds that the soft limit may be exceeded.
        let mut limits = words.chunks_exact(4);
        let limit = limits.find(|limit| limit[0] == kind && limit[1..3] != ["0", "0"]);
        match limit {
            Some(limit) if !counts => format!(
                "; Redis does not report the reason, but it closes a connection whose unread replies exceed its setting \
                 `client-output-buffer-limit` (`{}`)",
                Printed::short(&limit.join(" "))
            ),
            _ => String::new(),
        }
    }

    fn info(&self) -> MutexGuard<'_, Reported> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(output: u64, query: u64) -> String {
        format!(
            "# Stats\r\nclient_query_buffer_limit_disconnections:{query}\r\n\
             client_output_buffer_limit_disconnections:{output}\r\n"
        )
    }

    fn code(closings: &Closings, history: u64, info: &str) -> Option<String> {
        closings.note(history, info);
        closings.take().map(|closing| closing.code)
    }

    #[tokio::test]
    async fn increased_count_names_its_setting_once_and_only_for_a_while() {
        let closings = Closings::default();
        let code = |info: &str| code(&closings, 1, info);
        assert_eq!(code(&info(3, 5)), None);
        assert_eq!(code(&info(3, 5)), None);
        let output = code(&info(4, 5));
        assert_eq!(output.as_deref(), Some("client-output-buffer-limit"));
        let query = code(&info(4, 6));
        assert_eq!(query.as_deref(), Some("client-query-buffer-limit"));
        assert_eq!(code(&info(4, 6)), None);
        let evicted = info(4, 6) + "evicted_clients:";
        assert_eq!(code(&(evicted.clone() + "0\r\n")), None);
        let memory = code(&(evicted.clone() + "2\r\n"));
        assert_eq!(memory.as_deref(), Some("maxmemory-clients"));
        // The heartbeat reports the closing before the loss is noticed. Then it reports one that is too old.
        closings.note(1, &(evicted.clone() + "3\r\n"));
        assert!(code(&(evicted.clone() + "3\r\n")).is_some());
        closings.note(1, &(evicted.clone() + "4\r\n"));
        if let Some((_, lately)) = &mut closings.info().latest {
            *lately = Deadline::after(Duration::ZERO);
        }
        assert_eq!(code(&(evicted + "4\r\n")), None);
    }

    #[test]
    fn server_without_counts_is_suspected_of_its_limits() {
        let closings = Closings::default();
        closings.note(1, "# Stats\r\nevicted_clients:0\r\n");
        assert_eq!(closings.suspicion("pubsub"), "", "it does not report them");
        let limits = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        closings.note_output_limits(Some(limits.to_owned()));
        assert_eq!(closings.suspicion("normal"), "", "there is none");
        let said = closings.suspicion("pubsub");
        assert!(said.contains("(`pubsub 33554432 8388608 60`)"), "{said}");
        closings.note_output_limits(Some("normal 0 1024 5".to_owned()));
        assert!(closings.suspicion("normal").contains("1024"));
        closings.note(1, &info(0, 0));
        assert_eq!(closings.suspicion("normal"), "", "it would count it");
    }

    #[tokio::test]
    async fn counts_of_another_run_and_missing_counts_prove_nothing() {
        let closings = Closings::default();
        assert_eq!(code(&closings, 1, &info(3, 5)), None);
        assert_eq!(code(&closings, 2, &info(9, 9)), None, "another run");
        assert_eq!(code(&closings, 2, "# Stats\r\n"), None, "no counts");
        assert_eq!(
            code(&closings, 2, &info(10, 10)),
            None,
            "first counts again"
        );
    }
}
