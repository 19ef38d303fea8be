//! The commands with which a process lists itself and its entities in Redis (`protocol::listing`).
//!
//! Invariant: a failure of these commands says nothing of the server, and is not logged as one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::{Cmd, FromRedisValue, Value};

use super::{
    RedisStore,
    connection::Link,
    send::{send, unless_silent},
};
use crate::{
    clock::millis,
    error::StoreError,
    printed,
    protocol::listing::{
        AUDIT, AuditRequest, ListedEntity, ListedProcess, REPLAY, ReplayRequest, Switches,
        entities_key, entity_field, processes_key, request_key, result_key, switches_key,
    },
};

/// How long entities stay listed that no process lists any more.
const LISTED_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How long the list of processes lives after the last one. The tools decide which of them are gone.
const PROCESSES_FOR: Duration = Duration::from_secs(3_600);

/// How long the result of a request is kept.
const RESULTS_FOR: Duration = Duration::from_secs(3_600);

/// What is asked from outside: by entity, replays by the name of the queue.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) switches: HashMap<String, Switches>,
    pub(crate) audits: HashMap<String, AuditRequest>,
    pub(crate) replays: HashMap<String, ReplayRequest>,
}

impl RedisStore {
    /// Returns the time of the server in milliseconds since 1970, and what is asked from outside.
    pub(crate) async fn read_wishes(&self, namespace: &str) -> Result<(u64, Wishes), NotListed> {
        let link = self.connector.link()?;
        let mut switches = redis::cmd("HGETALL");
        switches.arg(switches_key(namespace));
        let replies = self.list(link, vec![redis::cmd("TIME"), switches]).await?;
        let [time, switches] = <[Value; 2]>::try_from(replies).map_err(|_| NotListed::Failed)?;
        let (seconds, micros) = <(u64, u64)>::from_redis_value(time).unwrap_or_default();
        let texts = HashMap::<String, String>::from_redis_value(switches).unwrap_or_default();
        let mut wishes = Wishes::default();
        for (field, text) in texts {
            if let Some(entity) = field.strip_prefix(AUDIT) {
                wishes.audits.extend(wish(entity, &text));
            } else if let Some(queue) = field.strip_prefix(REPLAY) {
                wishes.replays.extend(wish(queue, &text));
            } else {
                wishes.switches.extend(wish(&field, &text));
            }
        }
        let now_ms = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
        Ok((now_ms, wishes))
    }

    /// Returns whether this process does what a request asks for, because no other one has said so before.
    pub(crate) async fn claim_request(&self, namespace: &str, id: &str) -> Result<bool, NotListed> {
        let link = self.connector.link()?;
        let mut set = redis::cmd("SET");
        set.arg(request_key(namespace, id)).arg(1);
        set.arg("NX").arg("PX").arg(millis(RESULTS_FOR));
        let replies = self.list(link, vec![set]).await?;
        Ok(matches!(replies[..], [Value::Okay]))
    }

    /// Stores the result of a request.
    pub(crate) async fn leave_result(
        &self,
        namespace: &str,
        id: &str,
        result: &impl serde::Serialize,
    ) -> Result<(), NotListed> {
        let link = self.connector.link()?;
        let mut set = redis::cmd("SET");
        set.arg(result_key(namespace, id)).arg(json(result));
        set.arg("PX").arg(millis(RESULTS_FOR));
        self.list(link, vec![set]).await.map(drop)
    }

    /// Lists a process.
    pub(crate) async fn list_process(
        &self,
        namespace: &str,
        id: &str,
        process: &ListedProcess,
    ) -> Result<(), NotListed> {
        let link = self.connector.link()?;
        let key = processes_key(namespace);
        let mut set = redis::cmd("HSET");
        set.arg(&key).arg(id).arg(json(process));
        let commands = vec![set, expire(&key, PROCESSES_FOR)];
        self.list(link, commands).await.map(drop)
    }

    /// Lists entities.
    pub(crate) async fn list_entities(
        &self,
        namespace: &str,
        entities: &[ListedEntity],
    ) -> Result<(), NotListed> {
        let link = self.connector.link()?;
        let key = entities_key(namespace);
        let mut set = redis::cmd("HSET");
        set.arg(&key);
        for listed in entities {
            set.arg(entity_field(namespace, &listed.namespace, &listed.entity));
            set.arg(json(listed));
        }
        let commands = vec![set, expire(&key, LISTED_FOR)];
        self.list(link, commands).await.map(drop)
    }

    async fn list(&self, mut link: Link, commands: Vec<Cmd>) -> Result<Vec<Value>, NotListed> {
        let mut pipeline = redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command);
        }
        let heartbeat = Arc::clone(&link.heartbeat);
        let sent = send(&mut link.connection, &pipeline);
        let replies = unless_silent(&heartbeat, sent).await?;
        replies.map_err(|error| match error.code() {
            Some("NOPERM") => NotListed::Refused(printed::short(&error)),
            _ => NotListed::Failed,
        })
    }
}

/// Why nothing was listed.
#[derive(Debug)]
pub(crate) enum NotListed {
    /// The user lacks a right.
    Refused(String),
    /// The server did not answer, or not as expected.
    Failed,
}

impl From<StoreError> for NotListed {
    fn from(_: StoreError) -> Self {
        Self::Failed
    }
}

/// Returns what a field asks for. What others have written there is passed over.
fn wish<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Option<(String, T)> {
    Some((name.to_owned(), serde_json::from_str(text).ok()?))
}

fn expire(key: &str, after: Duration) -> Cmd {
    let mut command = redis::cmd("PEXPIRE");
    command.arg(key).arg(millis(after));
    command
}

fn json(listed: &impl serde::Serialize) -> String {
    serde_json::to_string(listed).expect("texts and numbers can be written as JSON")
}
