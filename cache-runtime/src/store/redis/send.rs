//! Sending: a command or a script goes to Redis, and its reply comes back as a value.
//!
//! 1. Every reply goes through `Connector::check_reply`, which decides whether it counts.
//! 2. A server that does not know a script gets its text, and the call is sent again.
//! 3. No call waits longer than the heartbeat finds the server alive ([`unless_silent`]).
//!
//! Invariant: a script or command that is sent in a pipeline may run twice, so only those are sent so that may.
//! Not here: which operation sends what (`redis`, `queue`, `put`), and the connection (`connection`).

use std::sync::Arc;

use redis::{RedisError, RedisResult, Script, ScriptInvocation, Value};

#[cfg(feature = "metrics")]
use crate::observe::timing::Began;
use crate::{
    error::StoreError,
    store::redis::{
        RedisStore,
        connection::{Connection, Connector, Link},
        heartbeat::Heartbeat,
    },
};

/// How many commands are sent before their answers are waited for.
const MAX_PIPELINE: usize = 500;

impl RedisStore {
    /// Runs a script.
    pub(super) async fn run_script(
        &self,
        operation: &'static str,
        mut link: Link,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<Value, StoreError> {
        let heartbeat = Arc::clone(&link.heartbeat);
        let answer =
            unless_silent(&heartbeat, invocation.invoke_async(&mut link.connection)).await?;
        self.connector.check_reply(&link, operation, answer)
    }

    /// Runs a script, and then a command, in one round trip. Commands of others may run in between, and both may run twice. It is
    /// not a transaction, because in a transaction a Redis without memory refuses also the commands that make room.
    pub(super) async fn run_script_and(
        &self,
        operation: &'static str,
        mut link: Link,
        invocation: &ScriptInvocation<'_>,
        command: redis::Cmd,
    ) -> Result<(Value, Value), StoreError> {
        let mut both = redis::pipe();
        both.invoke_script(invocation).add_command(command);
        let heartbeat = Arc::clone(&link.heartbeat);
        let connection = &mut link.connection;
        let answers = unless_silent(&heartbeat, async {
            let sent = send(connection, &both).await;
            if sent.as_ref().is_err_and(is_unknown_script) {
                invocation.load_async(connection).await?;
                return send(connection, &both).await;
            }
            sent
        });
        let answers = answers.await?;
        let answers = self.connector.check_reply(&link, operation, answers)?;
        let answers = <[Value; 2]>::try_from(answers);
        let [script, command] = answers
            .map_err(|_| StoreError::new("a pipeline of Redis with another number of answers"))?;
        Ok((script, command))
    }

    /// Runs a script on one key at a time, in as few round trips as a pipeline of bounded length needs.
    pub(super) async fn run_at_each<T>(
        &self,
        operation: &'static str,
        mut link: Link,
        script: &Script,
        items: &[T],
        arguments: impl Fn(&T, &mut redis::Cmd),
    ) -> Result<(), StoreError> {
        for items in items.chunks(MAX_PIPELINE) {
            let mut pipeline = redis::Pipeline::with_capacity(items.len());
            for item in items {
                let mut call = redis::cmd("EVALSHA");
                call.arg(script.get_hash()).arg(1);
                arguments(item, &mut call);
                pipeline.add_command(call);
            }
            let heartbeat = Arc::clone(&link.heartbeat);
            let answer = unless_silent(&heartbeat, send_all(&mut link, script, &pipeline)).await?;
            self.connector.check_reply(&link, operation, answer)?;
        }
        Ok(())
    }

    /// Sends commands ([`run_all`]).
    pub(super) async fn run_all(
        &self,
        operation: &'static str,
        link: Link,
        scripts: &[&Script],
        commands: Vec<redis::Cmd>,
    ) -> Vec<Result<Value, StoreError>> {
        run_all(&self.connector, operation, link, scripts, commands).await
    }

    /// Runs a command.
    pub(super) async fn command(
        &self,
        operation: &'static str,
        mut link: Link,
        command: &redis::Cmd,
    ) -> Result<Value, StoreError> {
        let heartbeat = Arc::clone(&link.heartbeat);
        let answer =
            unless_silent(&heartbeat, link.connection.send_packed_command(command)).await?;
        // With this call, a refusal of the server arrives as a value.
        let answer = answer.and_then(extract_entry);
        self.connector.check_reply(&link, operation, answer)
    }
}

/// Sends commands, in as few round trips as pipelines of bounded length need. Returns a reply for each: the server may
/// refuse one and execute the others. A call of a script that the server does not know is sent again with its text.
pub(super) async fn run_all(
    connector: &Arc<Connector>,
    operation: &'static str,
    mut link: Link,
    scripts: &[&Script],
    commands: Vec<redis::Cmd>,
) -> Vec<Result<Value, StoreError>> {
    let mut replies = Vec::with_capacity(commands.len());
    let mut rest = commands.into_iter().peekable();
    while rest.peek().is_some() {
        let commands: Vec<_> = rest.by_ref().take(MAX_PIPELINE).collect();
        let count = commands.len();
        let heartbeat = Arc::clone(&link.heartbeat);
        let sent = send_known(&mut link.connection, scripts, commands);
        match unless_silent(&heartbeat, sent).await {
            Err(silent) => replies.extend(vec![Err(silent); count]),
            Ok(Err(error)) => {
                let failed = connector.check_reply::<Value>(&link, operation, Err(error));
                replies.extend(vec![failed; count]);
            }
            Ok(Ok(answers)) => replies.extend(
                answers
                    .into_iter()
                    .map(|answer| connector.check_reply(&link, operation, extract_entry(answer))),
            ),
        }
    }
    replies
}

/// What a read gets from a key of another type than a string. It is no entry, and so a damaged one.
const OTHER_TYPE: &[u8] = b"\0";

/// Returns the error in a reply, unless it says that the key of an entry has another type: that is damage at the key.
pub(super) fn extract_entry(reply: Value) -> RedisResult<Value> {
    match reply.extract_error() {
        Err(error) if error.code() == Some("WRONGTYPE") => {
            Ok(Value::BulkString(OTHER_TYPE.to_vec()))
        }
        reply => reply,
    }
}

/// Returns the call of a script on keys, without its other arguments.
pub(super) fn calling(script: &Script, keys: &[&[u8]]) -> redis::Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(script.get_hash()).arg(keys.len());
    for key in keys {
        call.arg(key);
    }
    call
}

/// Sends calls of a script together. Returns the first error of any of them.
async fn send_all(
    link: &mut Link,
    script: &Script,
    pipeline: &redis::Pipeline,
) -> Result<(), RedisError> {
    let connection = &mut link.connection;
    let mut sent = send(connection, pipeline).await;
    if sent.as_ref().is_err_and(is_unknown_script) {
        script.prepare_invoke().load_async(connection).await?;
        // All of them again: the scripts that are run this way may run twice.
        sent = send(connection, pipeline).await;
    }
    sent.map(drop)
}

/// Sends commands together. Returns a reply for each. Those that call an unknown script are sent again after the scripts.
async fn send_known(
    connection: &mut Connection,
    scripts: &[&Script],
    commands: Vec<redis::Cmd>,
) -> Result<Vec<Value>, RedisError> {
    let mut pipeline = redis::Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command);
    }
    let mut answers = connection.send_packed_commands(&pipeline).await?;
    let is_unknown = |answer: &Value| {
        let error = answer.clone().extract_error().err();
        error.is_some_and(|error| is_unknown_script(&error))
    };
    let unknown = |answers: &[Value]| {
        let errors = answers.iter().enumerate();
        let errors = errors.filter(|(_, answer)| matches!(answer, Value::ServerError(_)));
        let unknown = errors.filter(|(_, answer)| is_unknown(answer));
        unknown.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let again = unknown(&answers);
    if again.is_empty() {
        return Ok(answers);
    }
    for script in scripts {
        script.prepare_invoke().load_async(connection).await?;
    }
    let mut repetition = redis::pipe();
    for (at, command) in pipeline.cmd_iter().enumerate() {
        if again.contains(&at) {
            repetition.add_command(command.clone());
        }
    }
    let repeated = connection.send_packed_commands(&repetition).await?;
    for (at, answer) in again.into_iter().zip(repeated) {
        answers[at] = answer;
    }
    Ok(answers)
}

/// Sends commands together. Returns their replies, or the first refusal.
pub(super) async fn send(
    connection: &mut Connection,
    pipeline: &redis::Pipeline,
) -> Result<Vec<Value>, RedisError> {
    let answers = connection.send_packed_commands(pipeline).await?;
    answers.into_iter().map(Value::extract_error).collect()
}

/// Returns whether the server does not know a script by its hash.
pub(super) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}

/// Waits for a reply, and stops waiting when the heartbeat finds the server silent. Otherwise the time-outs of
/// several requests of one caller would add up.
pub(super) async fn unless_silent<T>(
    heartbeat: &Heartbeat,
    answer: impl Future<Output = T>,
) -> Result<T, StoreError> {
    #[cfg(feature = "metrics")]
    let began = Began::now();
    tokio::select! {
        biased;
        answer = answer => {
            #[cfg(feature = "metrics")]
            heartbeat.round_trips.add(began);
            Ok(answer)
        }
        () = heartbeat.fell_silent() => Err(StoreError::unanswered("Redis has stopped answering")),
    }
}
