//! Puts on their way to Redis: a group is one pipeline, with one call of the script for each queue.
//!
//! 1. Writes that meet (`gathering`) are sorted by their queues. The script judges each by itself, in their order.
//! 2. Where Redis flushes its file once a second only, a `WAITAOF` behind the scripts, in the same round trip, is answered
//!    when what they wrote is on disk. It holds up its connection, so such groups have one of their own, and go one at a time.
//! 3. A server that does not know the script gets it, and then those calls again that it has refused for that; no other.
//!
//! Invariant: a put is sent only to the history of the store that it was prepared for.
//! Invariant: an acknowledgement is given only for what the server is known to have done, and to have on disk where that is
//! waited for. Of everything else it is said whether it may have been done.
//! Not here: the rules (`state`, and `put.lua`).

use std::{sync::Arc, time::Duration};

use redis::{RedisError, Value, aio::MultiplexedConnection};

use crate::{
    error::StoreError,
    protocol::{
        entry,
        key::Key,
        mark::{MARK_LENGTH, Mark},
        partition::Partition,
        state::{Condition, Pending, State},
        token::Token,
    },
    store::{
        Payload,
        queue::{Body, Put, PutAnswer},
        redis::{
            SCRIPTS,
            connection::{Connector, LONGEST_SYNC, Link},
            gathering::{Bounds, Carrier, Gathering},
            is_unknown_script,
            log_reader::LARGE,
            queue::{incarnation, unexpected},
            unless_silent,
        },
    },
};

/// How many puts may be under way alone.
const ALONE: usize = 2;
/// How many groups are under way at once: while the server does one, the next is made ready.
const AT_ONCE: usize = 2;
/// How many puts a group may have.
const TOGETHER: usize = 256;
/// After how many bytes a group takes no more of them: it is to be answered as fast as a single one.
const BYTES: usize = 1 << 20;
/// How many puts one call of the script may have, which nothing else of Redis runs beside.
const IN_ONE_CALL: usize = 64;

/// One put on its way.
pub(super) struct Call {
    partition: Arc<Partition>,
    key: Key,
    /// The history it was prepared for.
    stamp: u64,
    /// The header of its entry.
    header: Vec<u8>,
    body: Body,
    demand: u8,
    token: Token,
    most: u64,
}

/// Takes puts to the server.
pub(super) struct Puts {
    connector: Arc<Connector>,
    /// Whether the answers wait for the server's disk.
    synced: bool,
}

/// The puts of one group that go to one queue, by their places in the group.
type Batch = Vec<usize>;

/// What became of one put of a group, when that is known.
type Answer = Option<Result<PutAnswer, StoreError>>;

/// What the server says to a pipeline.
struct Said {
    /// To each batch.
    batches: Vec<Result<Value, RedisError>>,
    /// Why what it has written is not known to be on disk, if that was to be waited for.
    unsynced: Option<StoreError>,
}

impl Call {
    pub(super) fn new(partition: Arc<Partition>, key: Key, put: Put) -> Result<Self, StoreError> {
        if let Body::Row(Payload::Shared(_)) = put.body {
            return Err(StoreError::new("a row was not encoded for Redis"));
        }
        let pending = Pending {
            mark: Mark::from_bytes([0; MARK_LENGTH]),
            is_deletion: matches!(put.body, Body::Deletion(_)),
            meta: put.meta,
        };
        let mut header = entry::encode(&State::Pending(pending, &[]));
        header.truncate(entry::HEADER_LENGTH);
        let (demand, token) = match put.condition {
            Condition::Any => (0, Token::numbered(0)),
            Condition::Present => (1, Token::numbered(0)),
            Condition::Absent => (2, Token::numbered(0)),
            Condition::Unchanged(token) => (3, token),
        };
        Ok(Self {
            partition,
            key,
            stamp: put.meta.lease.identity.stamp,
            header,
            body: put.body,
            demand,
            token,
            most: put.most,
        })
    }

    fn payload(&self) -> &[u8] {
        match &self.body {
            Body::Row(Payload::Bytes(bytes, header)) => &bytes[*header..],
            Body::Row(Payload::Shared(_)) => &[],
            Body::Deletion(id) => id,
        }
    }

    /// Whether one call of the script can do both.
    fn goes_with(&self, other: &Self) -> bool {
        self.most == other.most && self.partition.state == other.partition.state
    }
}

impl Puts {
    /// Where puts meet whose answer is the acknowledgement.
    pub(super) fn at_once(connector: Arc<Connector>) -> Arc<Gathering<Self>> {
        let response = connector.timeouts().response;
        Self::gathering(connector, false, (ALONE, AT_ONCE), response)
    }

    /// Where puts meet that are acknowledged when they are on disk.
    pub(super) fn after_sync(connector: Arc<Connector>) -> Arc<Gathering<Self>> {
        let longest = LONGEST_SYNC + connector.timeouts().response;
        // What goes alone gives its place up when its caller is dropped, though the server still waits for its disk: callers
        // who give up and try again would have any number of waits going on. In a group it keeps its room.
        Self::gathering(connector, true, (0, 1), longest)
    }

    fn gathering(
        connector: Arc<Connector>,
        synced: bool,
        (alone, at_once): (usize, usize),
        longest: Duration,
    ) -> Arc<Gathering<Self>> {
        let bounds = Bounds {
            alone,
            at_once,
            together: TOGETHER,
            bytes: BYTES,
            // For the group before, for its own, and for a server that has to be given the script first.
            patience: longest * 3,
        };
        Gathering::new(Self { connector, synced }, bounds)
    }

    /// Sends batches until the server knows the script, and notes their answers.
    async fn send(
        &self,
        link: &Link,
        calls: &[Call],
        mut batches: Vec<Batch>,
        answers: &mut [Answer],
    ) -> Result<(), StoreError> {
        let mut connection = if self.synced {
            self.connector.companion(link).await?
        } else {
            link.connection.clone()
        };
        let mut knows_script = true;
        while !batches.is_empty() {
            let replies = self
                .round_trip(link, &mut connection, calls, &batches, knows_script)
                .await;
            let said = match replies {
                Ok(said) => said,
                Err(error) => {
                    for &at in batches.iter().flatten() {
                        answers[at] = Some(Err(error.clone()));
                    }
                    return Ok(());
                }
            };
            let mut unknown = Vec::new();
            for (batch, reply) in batches.into_iter().zip(said.batches) {
                match reply {
                    Err(error) if knows_script && is_unknown_script(&error) => unknown.push(batch),
                    reply => self.note(link, &batch, reply, said.unsynced.as_ref(), answers),
                }
            }
            batches = unknown;
            knows_script = false;
        }
        if self.synced {
            link.keep_companion(connection);
        }
        Ok(())
    }

    /// One pipeline. What the server says to each batch, if it says anything.
    async fn round_trip(
        &self,
        link: &Link,
        connection: &mut MultiplexedConnection,
        calls: &[Call],
        batches: &[Batch],
        knows_script: bool,
    ) -> Result<Said, StoreError> {
        let mut pipeline = redis::Pipeline::with_capacity(batches.len() + 2);
        if !knows_script {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(&SCRIPTS.put_text);
        }
        for batch in batches {
            pipeline.add_command(command(link, calls, batch));
        }
        if self.synced {
            let ms = u64::try_from(LONGEST_SYNC.as_millis()).unwrap_or(u64::MAX);
            pipeline.add_command(wait_for_sync(1, ms));
        }
        let sent = connection.send_packed_commands(&pipeline, 0, pipeline.len());
        let replies = unless_silent(&link.pulse, sent).await?;
        let replies = if self.synced {
            self.connector.judge_companion(link, "put", replies)?
        } else {
            self.connector.judge(link, "put", replies)?
        };
        let mut replies = replies.into_iter();
        if !knows_script {
            // If it is refused, each batch says so; and another process may have loaded it meanwhile.
            replies.next();
        }
        let batches = (&mut replies).take(batches.len());
        Ok(Said {
            batches: batches.map(said).collect(),
            unsynced: self
                .synced
                .then(|| self.unsynced(link, replies.next()))
                .flatten(),
        })
    }

    /// Why what was written is not known to be on disk.
    fn unsynced(&self, link: &Link, reply: Option<Value>) -> Option<StoreError> {
        let reply = reply.unwrap_or(Value::Nil).extract_error();
        let message = match self.connector.judge_companion(link, "waitaof", reply) {
            Ok(Value::Array(disks)) if matches!(disks.first(), Some(Value::Int(1..))) => {
                return None;
            }
            Ok(_) => format!("Redis has not written to its disk for {LONGEST_SYNC:?}"),
            Err(error) => error.to_string(),
        };
        Some(StoreError::unanswered(message))
    }

    /// Notes what the server says to a batch.
    fn note(
        &self,
        link: &Link,
        batch: &Batch,
        reply: Result<Value, RedisError>,
        unsynced: Option<&StoreError>,
        answers: &mut [Answer],
    ) {
        match self.judge(link, reply) {
            Err(error) => {
                for &at in batch {
                    answers[at] = Some(Err(error.clone()));
                }
            }
            Ok(Value::Array(all)) => match all.as_slice() {
                [Value::Int(1), from] => {
                    for &at in batch {
                        answers[at] = Some(Ok(PutAnswer::Rotate(incarnation(from))));
                    }
                }
                _ => {
                    for (&at, reply) in batch.iter().zip(all) {
                        let judged = self.judge(link, said(reply));
                        let answer = match (judged.and_then(|said| answer(&said)), unsynced) {
                            (Ok(PutAnswer::Done(_)), Some(unsynced)) => Err(unsynced.clone()),
                            (answer, _) => answer,
                        };
                        answers[at] = Some(answer);
                    }
                }
            },
            Ok(reply) => {
                for &at in batch {
                    answers[at] = Some(Err(unexpected(&reply)));
                }
            }
        }
    }

    /// A script that has failed half-way may have done something; a server that does not begin it has done nothing.
    fn judge(&self, link: &Link, reply: Result<Value, RedisError>) -> Result<Value, StoreError> {
        let failed_half_way = reply.as_ref().err().is_some_and(|error| {
            let detail = error.detail();
            detail.is_some_and(|detail| detail.contains("user_script"))
        });
        let judged = self.connector.judge(link, "put", reply);
        judged.map_err(|error| {
            if failed_half_way {
                StoreError::unanswered(error.to_string())
            } else {
                error
            }
        })
    }
}

impl Carrier for Puts {
    type Call = Call;
    type Answer = PutAnswer;

    fn size(call: &Call) -> usize {
        call.key.as_bytes().len() + call.header.len() + call.payload().len()
    }

    async fn carry(&self, calls: Vec<Call>) -> Vec<Result<PutAnswer, StoreError>> {
        let mut answers: Vec<Answer> = calls.iter().map(|_| None).collect();
        let sent = match self.connector.link() {
            Ok(link) => {
                let batches = batches(&calls, link.stamp);
                self.send(&link, &calls, batches, &mut answers).await
            }
            Err(error) => Err(error),
        };
        let unsent = sent.err();
        let unsent = || {
            let replaced = || StoreError::new("Redis was replaced since the write began");
            Err(unsent.clone().unwrap_or_else(replaced))
        };
        let answers = answers.into_iter();
        answers
            .map(|answer| answer.unwrap_or_else(unsent))
            .collect()
    }
}

/// Sorts the puts of one history by their queues; each queue's stay in their order.
fn batches(calls: &[Call], stamp: u64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        if call.stamp != stamp {
            continue;
        }
        let own = batches.iter_mut().rev().find(|batch| {
            let first = batch.first().map(|&first| &calls[first]);
            batch.len() < IN_ONE_CALL && first.is_some_and(|first| call.goes_with(first))
        });
        match own {
            Some(batch) => batch.push(at),
            None => batches.push(vec![at]),
        }
    }
    batches
}

/// The call of the script for puts to one queue.
fn command(link: &Link, calls: &[Call], batch: &Batch) -> redis::Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(SCRIPTS.put.get_hash()).arg(3 + batch.len());
    let calls = || batch.iter().map(|&at| &calls[at]);
    if let Some(first) = calls().next() {
        let partition = &first.partition;
        for key in [&partition.state, &partition.marks, &partition.flusher] {
            command.arg(key.as_bytes());
        }
        for call in calls() {
            command.arg(call.key.as_bytes());
        }
        let stamp = link.stamp.to_le_bytes();
        command.arg(&stamp).arg(first.most).arg(LARGE);
    }
    for call in calls() {
        command
            .arg(&call.header)
            .arg(call.payload())
            .arg(call.demand)
            .arg(&call.token.0);
    }
    command
}

/// The question whether what was written before is on the server's own disk, to be answered within so many milliseconds.
pub(super) fn wait_for_sync(disks: u8, ms: u64) -> redis::Cmd {
    let mut command = redis::cmd("WAITAOF");
    command.arg(disks).arg(0).arg(ms);
    command
}

/// What the server says, or its error. An error inside of it is that of one put, and no other's.
fn said(reply: Value) -> Result<Value, RedisError> {
    match reply {
        Value::ServerError(error) => Err(error.into()),
        said => Ok(said),
    }
}

fn answer(said: &Value) -> Result<PutAnswer, StoreError> {
    match said {
        Value::BulkString(mark) => match <[u8; MARK_LENGTH]>::try_from(mark.as_slice()) {
            Ok(mark) => Ok(PutAnswer::Done(Mark::from_bytes(mark))),
            Err(_) => Err(unexpected(said)),
        },
        Value::Int(2) => Ok(PutAnswer::Full),
        Value::Int(3) => Ok(PutAnswer::Unknown),
        Value::Int(4) => Ok(PutAnswer::Refused),
        _ => Err(unexpected(said)),
    }
}
