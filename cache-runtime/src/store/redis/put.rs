//! Sends puts to Redis: a group is one pipeline, with one call of the script for each queue.
//!
//! 1. The writes of a group (`gathering`) are sorted by their queues. The script evaluates each separately, in their order.
//! 2. If Redis syncs its file only once a second, a `WAITAOF` follows the scripts in the same pipeline. Redis answers it
//!    when the writes are on disk. It blocks its connection, so such groups have a connection of their own, and are sent one
//!    at a time.
//! 3. If the server does not know the script, the calls that it rejected for that are sent again with the script.
//!
//! Invariant: a put is sent only to the history of the store that it was prepared for.
//! Invariant: a put is acknowledged only if the server has executed it, and has it on disk where `durability` asks for that.
//! The error of any other put says whether the server may have executed it.
//! Not here: the rules (`state`, and `put.lua`).

use std::{sync::Arc, time::Duration};

use redis::{RedisError, Value};

use crate::{
    error::StoreError,
    gathering::{Bounds, Gathering, Transport},
    printed,
    protocol::{
        key::Key,
        partition_keys::PartitionKeys,
        queue_position::{Incarnation, QUEUE_POSITION_LENGTH, QueuePosition},
        seal::Seals,
        state::{Condition, Pending},
        token::Token,
    },
    store::{
        Payload,
        queue::{Body, Put, PutAnswer},
        redis::{
            connection::{Connection, Connector, Link, MAX_SYNC},
            log_reader::LARGE,
            queue::{incarnation, unexpected},
            scripts::SCRIPTS,
            send::{is_unknown_script, unless_silent},
        },
    },
};

/// The maximum number of single puts in flight.
const MAX_SINGLE: usize = 2;
/// The maximum number of groups in flight: the second is sent while the server executes the first.
const MAX_GROUPS: usize = 2;
/// The maximum number of puts in a group.
const MAX_GROUP: usize = 256;
/// The size in bytes at which a group takes no more puts. A group should not take longer than a single put.
const MAX_BYTES: usize = 1 << 20;
/// The maximum number of puts in one call of the script. Redis executes nothing else during the call.
const MAX_CALL: usize = 64;

/// One put.
pub(super) struct Call {
    partition: Arc<PartitionKeys>,
    key: Key,
    /// The history that it was prepared for.
    history: u64,
    /// The header of its entry.
    header: Vec<u8>,
    body: Body,
    demand: u8,
    token: Token,
    most: u64,
}

/// Sends puts to the server.
pub(super) struct Puts {
    connector: Arc<Connector>,
    /// Whether the answers wait until the writes are on the server's disk.
    synced: bool,
}

/// The puts of one group for one queue, as indices into the group.
type Batch = Vec<usize>;

/// The answer to one put of a group, once it is known.
type Answer = Option<Result<PutAnswer, StoreError>>;

/// The commands of a pipeline, in this order.
#[derive(Clone, Copy)]
struct Plan {
    /// Whether the script is loaded first.
    loads_script: bool,
    /// The number of script calls that follow.
    batches: usize,
    /// Whether a `WAITAOF` follows.
    waits_for_disk: bool,
}

/// The replies to a pipeline.
#[derive(Debug, PartialEq)]
struct PipelineReply {
    /// One for each batch.
    batches: Vec<Value>,
    /// The reply to `WAITAOF`, if it was sent.
    disk: Option<Value>,
}

/// Why a batch, or one put of it, failed.
#[derive(Debug)]
enum Failure {
    /// Redis has rejected it.
    Refused(RedisError),
    /// The script never gives this reply.
    Unexpected(StoreError),
}

impl Call {
    pub(super) fn new(
        partition: Arc<PartitionKeys>,
        key: Key,
        put: Put,
        seals: &Seals,
    ) -> Result<Self, StoreError> {
        if let Body::Row(Payload::Shared(..)) = put.body {
            return Err(StoreError::new("a row was not encoded for Redis"));
        }
        let pending = Pending {
            position: QueuePosition::from_bytes([0; QUEUE_POSITION_LENGTH]),
            is_deletion: matches!(put.body, Body::Deletion(_)),
            meta: put.meta,
        };
        let (header, sealed) = seals.encode_queued(&key, pending, encoded(&put.body));
        let body = match sealed {
            Some(sealed) => Body::Row(Payload::Bytes(sealed, 0)),
            None => put.body,
        };
        let (demand, token) = match put.condition {
            Condition::Any => (0, Token::numbered(0)),
            Condition::Present => (1, Token::numbered(0)),
            Condition::Absent => (2, Token::numbered(0)),
            Condition::Unchanged(token) => (3, token),
        };
        Ok(Self {
            partition,
            key,
            history: put.meta.lease.identity.history,
            header,
            body,
            demand,
            token,
            most: put.most,
        })
    }

    fn payload(&self) -> &[u8] {
        encoded(&self.body)
    }

    /// Returns whether one call of the script can execute both.
    fn goes_with(&self, other: &Self) -> bool {
        self.most == other.most && self.partition.state == other.partition.state
    }
}

/// Returns the row, or the id of the row to delete.
fn encoded(body: &Body) -> &[u8] {
    match body {
        Body::Row(Payload::Bytes(bytes, header)) => &bytes[*header..],
        Body::Row(Payload::Shared(..)) => &[],
        Body::Deletion(id) => id,
    }
}

impl Puts {
    /// Groups the puts that the reply acknowledges.
    pub(super) fn at_once(connector: Arc<Connector>) -> Arc<Gathering<Self>> {
        let response = connector.timeouts().response;
        Self::gathering(connector, false, (MAX_SINGLE, MAX_GROUPS), response)
    }

    /// Groups the puts that are acknowledged when they are on disk.
    pub(super) fn after_sync(connector: Arc<Connector>) -> Arc<Gathering<Self>> {
        let longest = MAX_SYNC + connector.timeouts().response;
        // No single puts here. A single put whose caller is dropped releases its permit, although the server still waits for
        // its disk. Callers that give up and try again could then cause any number of waits. A group keeps its permit.
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
            together: MAX_GROUP,
            size: MAX_BYTES,
            // For the group before, for its own group, and for a server that needs the script first.
            timeout: Some(longest * 3),
        };
        Gathering::new(Self { connector, synced }, bounds)
    }

    /// Sends batches until the server knows the script, and records their answers.
    async fn send(
        &self,
        link: &Link,
        calls: &[Call],
        mut batches: Vec<Batch>,
        answers: &mut [Answer],
    ) -> Result<(), StoreError> {
        let mut connection = if self.synced {
            self.connector.blocking_connection(link).await?
        } else {
            link.connection.clone()
        };
        let mut loads_script = false;
        while !batches.is_empty() {
            let reply = self
                .round_trip(link, &mut connection, calls, &batches, loads_script)
                .await;
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => {
                    record(answers, batches.iter().flatten(), || Err(error.clone()));
                    return Ok(());
                }
            };
            let unsynced = reply.disk.and_then(|disk| self.unsynced(link, disk));
            let mut unknown = Vec::new();
            for (batch, reply) in batches.into_iter().zip(reply.batches) {
                match parse_batch(reply) {
                    Err(Failure::Refused(error)) if !loads_script && is_unknown_script(&error) => {
                        unknown.push(batch);
                    }
                    Err(failure) => {
                        let error = self.failed(link, failure);
                        record(answers, &batch, || Err(error.clone()));
                    }
                    Ok(BatchReply::NeedsIncarnation(from)) => {
                        record(answers, &batch, || Ok(PutAnswer::NeedsIncarnation(from)));
                    }
                    Ok(BatchReply::Each(each)) => {
                        for (&at, answer) in batch.iter().zip(each) {
                            let answer = answer.map_err(|failure| self.failed(link, failure));
                            answers[at] = Some(on_disk(answer, unsynced.as_ref()));
                        }
                    }
                }
            }
            batches = unknown;
            loads_script = true;
        }
        if self.synced {
            link.keep_blocking_connection(connection);
        }
        Ok(())
    }

    /// Sends one pipeline, and returns its replies.
    async fn round_trip(
        &self,
        link: &Link,
        connection: &mut Connection,
        calls: &[Call],
        batches: &[Batch],
        loads_script: bool,
    ) -> Result<PipelineReply, StoreError> {
        let mut pipeline = redis::Pipeline::with_capacity(batches.len() + 2);
        let plan = Plan {
            loads_script,
            batches: batches.len(),
            waits_for_disk: self.synced,
        };
        if plan.loads_script {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(&SCRIPTS.put_text);
        }
        for batch in batches {
            pipeline.add_command(command(link, calls, batch));
        }
        if plan.waits_for_disk {
            let ms = u64::try_from(MAX_SYNC.as_millis()).unwrap_or(u64::MAX);
            pipeline.add_command(wait_for_sync(1, ms));
        }
        let sent = connection.send_packed_commands(&pipeline);
        let replies = unless_silent(&link.heartbeat, sent).await?;
        let replies = if self.synced {
            self.connector.check_blocking_reply(link, "put", replies)?
        } else {
            self.connector.check_reply(link, "put", replies)?
        };
        Ok(parse_pipeline(replies, plan))
    }

    /// Returns why the writes are not known to be on disk, by the reply to `WAITAOF`; `None` if they are.
    fn unsynced(&self, link: &Link, reply: Value) -> Option<StoreError> {
        let reply = reply.extract_error();
        let message = match self.connector.check_blocking_reply(link, "waitaof", reply) {
            Ok(Value::Array(disks)) if matches!(disks.first(), Some(Value::Int(1..))) => {
                return None;
            }
            Ok(_) => format!("Redis has not synced to its disk within {MAX_SYNC:?}"),
            Err(error) => printed::short(&error),
        };
        Some(StoreError::unanswered(message))
    }

    /// Returns the error of a put that failed, and reports a rejection to the connection. A script that failed half-way may
    /// have queued the write. A server that rejects the script has queued nothing.
    fn failed(&self, link: &Link, failure: Failure) -> StoreError {
        let error = match failure {
            Failure::Unexpected(error) => return error,
            Failure::Refused(error) => error,
        };
        let detail = error.detail();
        let has_begun = detail.is_some_and(|detail| detail.contains("user_script"));
        match self
            .connector
            .check_reply(link, "put", Err::<Value, _>(error))
        {
            Err(error) if has_begun => StoreError::unanswered(printed::short(&error)),
            Err(error) => error,
            Ok(reply) => unexpected(&reply),
        }
    }
}

/// Returns the error of a call to Redis that has no answer.
pub(super) fn no_reply(waited: Option<Duration>) -> StoreError {
    StoreError::unanswered(match waited {
        Some(waited) => format!("Redis has not replied within {waited:?}"),
        None => "the runtime stopped while the call was waiting for Redis".to_owned(),
    })
}

impl Transport for Puts {
    type Call = Call;
    type Answer = Result<PutAnswer, StoreError>;

    fn size(call: &Call) -> usize {
        call.key.as_bytes().len() + call.header.len() + call.payload().len()
    }

    fn unanswered(waited: Option<Duration>) -> Self::Answer {
        Err(no_reply(waited))
    }

    async fn carry(&self, calls: Vec<Call>) -> Vec<Self::Answer> {
        let mut answers: Vec<Answer> = calls.iter().map(|_| None).collect();
        let sent = match self.connector.link() {
            Ok(link) => {
                let batches = batches(&calls, link.history);
                self.send(&link, &calls, batches, &mut answers).await
            }
            Err(error) => Err(error),
        };
        let unsent = sent.err();
        let unsent = || {
            let replaced = || {
                StoreError::new("Redis was restarted or replaced after the write began; try again")
            };
            Err(unsent.clone().unwrap_or_else(replaced))
        };
        let answers = answers.into_iter();
        answers
            .map(|answer| answer.unwrap_or_else(unsent))
            .collect()
    }
}

/// Sorts the puts of one history by their queues. Puts of one queue keep their order.
fn batches(calls: &[Call], history: u64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        if call.history != history {
            continue;
        }
        let own = batches.iter_mut().rev().find(|batch| {
            let first = batch.first().map(|&first| &calls[first]);
            batch.len() < MAX_CALL && first.is_some_and(|first| call.goes_with(first))
        });
        match own {
            Some(batch) => batch.push(at),
            None => batches.push(vec![at]),
        }
    }
    batches
}

/// Returns the call of the script for puts to one queue.
fn command(link: &Link, calls: &[Call], batch: &Batch) -> redis::Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(SCRIPTS.put.get_hash()).arg(3 + batch.len());
    let calls = || batch.iter().map(|&at| &calls[at]);
    if let Some(first) = calls().next() {
        let partition = &first.partition;
        for key in [
            &partition.state,
            &partition.pending_index,
            &partition.flusher,
        ] {
            command.arg(key.as_bytes());
        }
        for call in calls() {
            command.arg(call.key.as_bytes());
        }
        let history = link.history.to_le_bytes();
        command.arg(&history).arg(first.most).arg(LARGE);
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

/// Returns the command that waits until earlier writes are on the server's disk, for at most `ms` milliseconds.
pub(super) fn wait_for_sync(disks: u8, ms: u64) -> redis::Cmd {
    let mut command = redis::cmd("WAITAOF");
    command.arg(disks).arg(0).arg(ms);
    command
}

/// Splits the replies to a pipeline by command. Missing replies count as nil.
fn parse_pipeline(replies: Vec<Value>, plan: Plan) -> PipelineReply {
    let mut replies = replies.into_iter();
    if plan.loads_script {
        // If the server rejects it, the replies to the batches show that. And another process may have loaded the script
        // meanwhile.
        replies.next();
    }
    let batches = (0..plan.batches).map(|_| replies.next().unwrap_or(Value::Nil));
    PipelineReply {
        batches: batches.collect(),
        disk: plan
            .waits_for_disk
            .then(|| replies.next().unwrap_or(Value::Nil)),
    }
}

/// The reply of the script to a batch.
#[derive(Debug)]
enum BatchReply {
    /// The queue is of another history of the store, or does not exist. Nothing was queued.
    NeedsIncarnation(Option<Incarnation>),
    /// One answer for each put, in their order. An error concerns only its own put.
    Each(Vec<Result<PutAnswer, Failure>>),
}

/// Reads any reply as one to a batch.
#[cfg(feature = "internal-faults")]
pub(super) fn read_any(reply: Value) {
    if let Ok(BatchReply::Each(answers)) = parse_batch(reply) {
        for answer in answers {
            let _read = answer.map(|answer| format!("{answer:?}"));
        }
    }
}

fn parse_batch(reply: Value) -> Result<BatchReply, Failure> {
    match reply {
        Value::ServerError(error) => Err(Failure::Refused(error.into())),
        Value::Array(all) => Ok(match all.as_slice() {
            [Value::Int(1), from] => BatchReply::NeedsIncarnation(incarnation(from)),
            _ => BatchReply::Each(all.into_iter().map(parse_put).collect()),
        }),
        reply => Err(Failure::Unexpected(unexpected(&reply))),
    }
}

fn parse_put(reply: Value) -> Result<PutAnswer, Failure> {
    match reply {
        Value::ServerError(error) => Err(Failure::Refused(error.into())),
        Value::BulkString(position) if position.len() == QUEUE_POSITION_LENGTH => {
            let mut bytes = [0; QUEUE_POSITION_LENGTH];
            bytes.copy_from_slice(&position);
            Ok(PutAnswer::Queued(QueuePosition::from_bytes(bytes)))
        }
        Value::Int(2) => Ok(PutAnswer::Full),
        Value::Int(3) => Ok(PutAnswer::RowUnknown),
        Value::Int(4) => Ok(PutAnswer::ConditionFailed),
        reply => Err(Failure::Unexpected(unexpected(&reply))),
    }
}

/// Returns the answer to a put: an error for a queued write that is not known to be on disk.
fn on_disk(
    answer: Result<PutAnswer, StoreError>,
    unsynced: Option<&StoreError>,
) -> Result<PutAnswer, StoreError> {
    match (answer, unsynced) {
        (Ok(PutAnswer::Queued(_)), Some(unsynced)) => Err(unsynced.clone()),
        (answer, _) => answer,
    }
}

/// Gives several puts of a group the same answer.
fn record<'b>(
    answers: &mut [Answer],
    puts: impl IntoIterator<Item = &'b usize>,
    answer: impl Fn() -> Result<PutAnswer, StoreError>,
) {
    for &at in puts {
        answers[at] = Some(answer());
    }
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use crate::protocol::state::{Identity, Lease, Meta};
    use crate::store::queue::Acknowledged;

    use super::*;

    fn error(text: &str) -> Value {
        parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap()
    }

    fn position(number: u8) -> Value {
        let mut bytes = vec![0; QUEUE_POSITION_LENGTH];
        bytes[QUEUE_POSITION_LENGTH - 1] = number;
        Value::BulkString(bytes)
    }

    #[test]
    fn one_call_of_the_script_has_puts_of_one_partition_and_one_limit() {
        let call = |partition, most| {
            let put = Put {
                meta: Meta {
                    lease: Lease {
                        token: Token::draw(),
                        identity: Identity::default(),
                    },
                    loaded_at_ms: 0,
                    stamp: None,
                },
                body: Body::Row(Payload::Bytes(Vec::new(), 0)),
                condition: Condition::Any,
                most,
                journaled: None,
                acknowledged: Acknowledged::AtOnce,
            };
            let partition = Arc::new(PartitionKeys::new("queue", partition));
            Call::new(partition, Key::from_bytes(b"key"), put, &Seals::default()).unwrap()
        };
        let first = call(0, 10);
        assert!(first.goes_with(&call(0, 10)));
        assert!(!first.goes_with(&call(1, 10)));
        assert!(!first.goes_with(&call(0, 11)));
    }

    #[test]
    fn replies_of_a_pipeline_are_sorted_by_what_was_asked() {
        let (loaded, one, two, disk) = (
            Value::Okay,
            Value::Int(1),
            Value::Int(2),
            Value::Array(vec![Value::Int(1)]),
        );
        let plan = |loads_script, batches, waits_for_disk| Plan {
            loads_script,
            batches,
            waits_for_disk,
        };
        for (replies, plan, batches, expected) in [
            (
                vec![one.clone()],
                plan(false, 1, false),
                vec![one.clone()],
                None,
            ),
            (
                vec![loaded.clone(), one.clone(), two.clone(), disk.clone()],
                plan(true, 2, true),
                vec![one.clone(), two.clone()],
                Some(disk.clone()),
            ),
            (
                vec![one.clone(), disk.clone()],
                plan(false, 1, true),
                vec![one.clone()],
                Some(disk),
            ),
            // A pipeline without all of its replies acknowledges nothing.
            (
                vec![loaded],
                plan(true, 1, true),
                vec![Value::Nil],
                Some(Value::Nil),
            ),
        ] {
            let disk = expected;
            assert_eq!(
                parse_pipeline(replies, plan),
                PipelineReply { batches, disk }
            );
        }
    }

    #[test]
    fn each_put_of_a_batch_has_its_own_answer() {
        let reply = Value::Array(vec![
            position(7),
            Value::Int(2),
            Value::Int(3),
            Value::Int(4),
            error("WRONGTYPE of one key"),
            Value::Int(9),
            Value::BulkString(vec![1, 2]),
        ]);
        let Ok(BatchReply::Each(answers)) = parse_batch(reply) else {
            panic!("the queue was there");
        };
        assert!(matches!(answers[0], Ok(PutAnswer::Queued(at)) if at.number == 7));
        assert!(matches!(answers[1], Ok(PutAnswer::Full)));
        assert!(matches!(answers[2], Ok(PutAnswer::RowUnknown)));
        assert!(matches!(answers[3], Ok(PutAnswer::ConditionFailed)));
        assert!(
            matches!(&answers[4], Err(Failure::Refused(error)) if error.code() == Some("WRONGTYPE"))
        );
        assert!(matches!(answers[5], Err(Failure::Unexpected(_))));
        assert!(matches!(answers[6], Err(Failure::Unexpected(_))));
    }

    #[test]
    fn whole_batch_may_need_an_incarnation_or_fail() {
        let from = Value::BulkString([[0; 8], [5; 8]].concat());
        let none = Value::BulkString(Vec::new());
        assert!(matches!(
            parse_batch(Value::Array(vec![Value::Int(1), from])),
            Ok(BatchReply::NeedsIncarnation(Some(_)))
        ));
        assert!(matches!(
            parse_batch(Value::Array(vec![Value::Int(1), none])),
            Ok(BatchReply::NeedsIncarnation(None))
        ));
        assert!(matches!(
            parse_batch(error("NOSCRIPT No matching script")),
            Err(Failure::Refused(error)) if is_unknown_script(&error)
        ));
        assert!(matches!(
            parse_batch(Value::Nil),
            Err(Failure::Unexpected(_))
        ));
    }

    #[test]
    fn queued_put_that_is_not_on_disk_is_not_acknowledged() {
        let queued = || {
            Ok(PutAnswer::Queued(QueuePosition::from_bytes(
                [1; QUEUE_POSITION_LENGTH],
            )))
        };
        let unsynced = StoreError::unanswered("late");
        assert!(on_disk(queued(), None).is_ok());
        assert!(on_disk(queued(), Some(&unsynced)).is_err_and(|error| error.may_be_done));
        assert_eq!(
            on_disk(Ok(PutAnswer::Full), Some(&unsynced)).unwrap(),
            PutAnswer::Full
        );
    }
}
