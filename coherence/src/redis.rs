//! The Redis of a run, which can be killed, rolled back, frozen, emptied and replaced by its replica.
//! 1. Workers reach it through a proxy, which can break their connections and lead them elsewhere. 2. It appends every command to a
//!    file before it answers, so that a kill loses nothing unless the file is cut. 3. A failover starts a replica behind a proxy of its
//!    own, cuts that link, kills the primary and promotes the replica.
//!
//! Invariant: workers never reach an old primary and its successor at the same time.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use larder_testing::{
    proxy::{Point, Proxy},
    redis_server::RedisServer,
};

/// The file is written before the answer; only a crash of the machine could lose it, and this machine stays.
const OPTIONS: [&str; 8] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "no",
    "--auto-aof-rewrite-percentage",
    "0",
    // A replica is wanted at once.
    "--repl-diskless-sync-delay",
    "0",
];

/// How long Redis may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Redis {
    server: RedisServer,
    door: Proxy,
}

/// A point in the past of the data.
pub(crate) struct Past {
    file: PathBuf,
    length: u64,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let server = RedisServer::start_with(&OPTIONS).await;
        let door = Proxy::start(server.address());
        Self { server, door }
    }

    /// Where workers find it.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.door.address())
    }

    pub(crate) async fn restart(&mut self, away: Duration) {
        self.server.kill().await;
        tokio::time::sleep(away).await;
        self.server.restart().await;
    }

    /// Remembers the data as it is now.
    pub(crate) fn remember(&self) -> Past {
        let file = self.newest_file();
        let length = fs::metadata(&file).expect("the file is there").len();
        Past { file, length }
    }

    /// Kills it and restarts it with the data of the past.
    pub(crate) async fn restart_in(&mut self, past: Past) {
        self.server.kill().await;
        let file = File::options()
            .write(true)
            .open(past.file)
            .expect("the file is there");
        file.set_len(past.length)
            .expect("a file of ours can be cut");
        drop(file);
        self.server.restart().await;
    }

    /// Freezes it for a while.
    pub(crate) async fn freeze(&mut self, duration: Duration) {
        self.server.freeze().await;
        tokio::time::sleep(duration).await;
        self.server.thaw();
    }

    /// Deletes all keys.
    pub(crate) async fn flush(&self) {
        command(&self.server, &["FLUSHALL"]).await;
    }

    /// Forgets the scripts.
    pub(crate) async fn flush_scripts(&self) {
        command(&self.server, &["SCRIPT", "FLUSH"]).await;
    }

    /// Breaks the connection of the next command of this name after it was carried out. Whether there was one in time.
    pub(crate) async fn cut(&self, name: &str, within: Duration) -> bool {
        let trap = self.door.cut(Point::BeforeReply, name);
        tokio::time::timeout(within, trap.sprung()).await.is_ok()
    }

    /// Replaces it by a replica that has not heard of the last changes.
    pub(crate) async fn fail_over(&mut self, lag: Duration) {
        let link = Proxy::start(self.server.address());
        let replica = RedisServer::start_with(&OPTIONS).await;
        // By command, so that it is forgotten when the replica, by then a primary, is restarted.
        let port = link.address().port().to_string();
        command(&replica, &["REPLICAOF", "127.0.0.1", &port]).await;
        let synced = async {
            while !is_synced(&replica).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, synced)
            .await
            .expect("a replica on the same machine comes up");
        link.blackhole();
        tokio::time::sleep(lag).await;
        self.server.kill().await;
        command(&replica, &["REPLICAOF", "NO", "ONE"]).await;
        self.door.redirect(replica.address());
        self.server = replica;
    }

    /// The file that commands are appended to; a rewrite begins a new one with a higher number.
    fn newest_file(&self) -> PathBuf {
        let folder = self.server.folder().join("appendonlydir");
        let number = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            let rest = name.strip_prefix("appendonly.aof.")?;
            rest.strip_suffix(".incr.aof")?.parse::<u64>().ok()
        };
        fs::read_dir(folder)
            .expect("a Redis that appends has the folder")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| number(path).is_some())
            .max_by_key(number)
            .expect("a Redis that appends has such a file")
    }
}

/// Sends a command to a server that runs.
async fn command(server: &RedisServer, words: &[&str]) -> redis::Value {
    let sent = tokio::time::timeout(PATIENCE, server.command(words)).await;
    sent.expect("a Redis that runs answers")
        .expect("a Redis that runs does what it is told")
}

/// Whether a replica has all that its primary had when it was asked for.
async fn is_synced(replica: &RedisServer) -> bool {
    let reply = command(replica, &["INFO", "replication"]).await;
    let info: String = redis::from_redis_value(reply).expect("INFO answers with text");
    info.contains("master_link_status:up")
}
