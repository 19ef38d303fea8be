//! A Redis with options of its own, for as long as a target runs.
//!
//! What a queue costs depends on when Redis writes its file. The Redis of the whole run keeps no file, as a cache does.
//!
//! 1. A free port and a new folder are found, and the server is started in them. 2. It is waited for. 3. Drop kills it and
//!    removes the folder.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::aio::MultiplexedConnection;

use crate::{Failure, clock::now_ns};

/// How long a start may take.
const PATIENCE_NS: u64 = 20_000_000_000;
/// The pause between two looks at a server that is starting.
const STEP: Duration = Duration::from_millis(10);

/// What appends each write to a file, which is flushed to disk once a second.
pub(crate) const EVERY_SECOND: &[&str] = &["--appendonly", "yes", "--appendfsync", "everysec"];
/// What has each write on disk before it is acknowledged.
pub(crate) const ALWAYS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// A running server.
pub(crate) struct RedisServer {
    process: Child,
    port: u16,
    folder: PathBuf,
}

impl RedisServer {
    /// Starts a server. Its file is never rewritten: that would fall into the turns of whoever has just then his.
    pub(crate) async fn start(options: &[&str]) -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(crate::servers::namespace("redis"));
        std::fs::create_dir(&folder)?;
        // Free until somebody else asks for one; then the server ends at once, and the run with it.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let program = std::env::var("LARDER_REDIS_SERVER");
        let process = Command::new(program.as_deref().unwrap_or("redis-server"))
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .arg("--dir")
            .arg(&folder)
            .args(["--save", "", "--daemonize", "no"])
            .args(["--auto-aof-rewrite-percentage", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut server = Self {
            process,
            port,
            folder,
        };
        let began = now_ns();
        while server.connect().await.is_err() {
            if let Some(status) = server.process.try_wait()? {
                return Err(format!("redis-server {} ended: {status}", options.join(" ")).into());
            }
            if now_ns() - began > PATIENCE_NS {
                return Err("redis-server does not answer".into());
            }
            tokio::time::sleep(STEP).await;
        }
        Ok(server)
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// A connection that has been answered.
    pub(crate) async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let () = redis::cmd("PING").query_async(&mut connection).await?;
        Ok(connection)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended by itself, which is what we want; and a folder that stays is one in the folder for such.
        let _killed = self.process.kill();
        let _ended = self.process.wait();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}
