//! A Redis with options of its own, for as long as a target runs.
//!
//! What a queue costs depends on when Redis writes its file. The Redis of the whole run keeps no file, as a cache does.
//!
//! Not here: how a server is started, which the tests share (`testing/src/redis_process.rs`).

use larder_testing::redis_process::{RedisProcess, program};
use redis::aio::MultiplexedConnection;

use crate::Failure;

/// What appends each write to a file, which is flushed to disk once a second.
pub(crate) const EVERY_SECOND: &[&str] = &["--appendonly", "yes", "--appendfsync", "everysec"];
/// What has each write on disk before it is acknowledged.
pub(crate) const ALWAYS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
/// The file is never rewritten: that would fall into the turns of whoever has just then his.
const NO_REWRITE: &[&str] = &["--auto-aof-rewrite-percentage", "0"];

/// A running server.
pub(crate) struct RedisServer(RedisProcess);

impl RedisServer {
    /// Starts a server.
    pub(crate) fn start(options: &[&str]) -> Result<Self, Failure> {
        let options = [NO_REWRITE, options].concat();
        Ok(Self(RedisProcess::start(&program(), &options)?))
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    /// A connection that has been answered.
    pub(crate) async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let () = redis::cmd("PING").query_async(&mut connection).await?;
        Ok(connection)
    }
}
