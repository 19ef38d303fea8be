//! The two kinds of connections: one that its callers drive (`direct`), and that of redis-rs, which knows TLS.
//!
//! Not here: which is made when (`handshake`).

use redis::{
    Cmd, ErrorKind, Pipeline, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use crate::{
    protocol::key::Key,
    store::redis::{direct::Direct, read_beginning},
};

/// A connection to one server. Its clones share it.
#[derive(Clone)]
pub(crate) enum Connection {
    /// Without TLS.
    Direct(Direct),
    /// With TLS, or for commands that take long.
    Multiplexed(MultiplexedConnection),
}

impl Connection {
    /// Sends a command. An error of the server is a value.
    pub(crate) async fn send_packed_command(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Direct(direct) => direct.send_packed_command(command).await,
            Self::Multiplexed(connection) => connection.send_packed_command(command).await,
        }
    }

    /// Reads an entry, or the beginning of a large one.
    pub(crate) async fn read_beginning(&mut self, key: &Key) -> RedisResult<Value> {
        match self {
            Self::Direct(direct) => direct.read_beginning(key).await,
            Self::Multiplexed(connection) => {
                connection.send_packed_command(&read_beginning(key)).await
            }
        }
    }

    /// Reads an entry, or the beginning of a large one, and then a clock, whose reading may be shared with others.
    pub(crate) async fn read_beginning_and(
        &mut self,
        key: &Key,
        clock: &Key,
        command: impl FnOnce() -> Cmd,
    ) -> RedisResult<[Value; 2]> {
        match self {
            Self::Direct(direct) => direct.read_beginning_and(key, clock, command).await,
            Self::Multiplexed(connection) => {
                let mut both = redis::pipe();
                both.add_command(read_beginning(key)).add_command(command());
                let values = connection.send_packed_commands(&both, 0, 2).await?;
                let values = <[Value; 2]>::try_from(values);
                values.map_err(|_| {
                    (
                        ErrorKind::UnexpectedReturnType,
                        "two commands have other than two replies",
                    )
                        .into()
                })
            }
        }
    }

    /// Sends the commands of a pipeline. An error of the server is a value.
    pub(crate) async fn send_packed_commands(
        &mut self,
        pipeline: &Pipeline,
    ) -> RedisResult<Vec<Value>> {
        match self {
            Self::Direct(direct) => direct.send_packed_commands(pipeline).await,
            Self::Multiplexed(connection) => {
                connection
                    .send_packed_commands(pipeline, 0, pipeline.len())
                    .await
            }
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.send_packed_command(command))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        skipped: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let values = self.send_packed_commands(pipeline).await?;
            Ok(values.into_iter().skip(skipped).take(count).collect())
        })
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Direct(direct) => direct.database(),
            Self::Multiplexed(connection) => connection.get_db(),
        }
    }
}
