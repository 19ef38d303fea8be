//! A Redis for one test, which may stop, freeze, kill and restart it.
//! The shared server serves other tests at the same time and must not be touched.
//! 1. A port is reserved and the server started in a temporary folder. 2. The test breaks it; the
//!    port stays reserved while nothing listens on it. 3. Drop kills it and removes the folder.
//!
//! Invariant: when `start` and `restart` return, the server answers; when `stop` and `kill` return,
//! the process is gone; when `freeze` returns, it no longer runs.
//! Invariant: the data survives a restart only with the options for it (`--appendonly yes`).
//! Not here: faults of the network, see [`crate::proxy`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{is_frozen, signal};
use crate::readiness;
use crate::redis_process::{PATIENCE, RedisProcess, program, socket};

/// Where a server keeps its log of commands, in its folder.
const APPEND_ONLY: &str = "appendonlydir";

/// The pause between two looks at a server that is starting or stopping.
const STEP: Duration = Duration::from_millis(10);

/// A Redis of our own.
#[derive(Debug)]
pub struct RedisServer(RedisProcess);

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further options, such as `["--appendonly", "yes"]`.
    pub async fn start_with(options: &[&str]) -> Self {
        Self::start_program(&program(), options).await
    }

    /// The servers of this machine: the one that tests are run with, and another one that speaks its language.
    pub fn programs() -> Vec<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|place| place.join("valkey-server"));
        let other = places.find(|place| place.is_file());
        [program()].into_iter().chain(other).collect()
    }

    /// Starts another server than the one that tests are run with.
    pub async fn start_program(program: &Path, options: &[&str]) -> Self {
        let process = RedisProcess::prepare(program, options);
        let mut server = Self(process.expect("there is a port and room for a folder"));
        server.launch().await;
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Its address as clients want it.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// The address of its unix socket.
    pub fn socket_url(&self) -> String {
        format!("redis+unix://{}", socket(self.folder()).display())
    }

    /// Where it keeps its data.
    pub fn folder(&self) -> &Path {
        self.0.folder()
    }

    /// What it has logged since it was first started.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Asks it to end (TERM) and waits until it has.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.ended().await;
    }

    /// Kills it without warning and waits until it is gone.
    pub async fn kill(&mut self) {
        self.0.kill();
        self.ended().await;
    }

    /// Stops it in its tracks: connections stay open and nothing answers.
    pub async fn freeze(&mut self) {
        self.signal(Signal::STOP);
        let process = self.running();
        self.within("freeze", |_| is_frozen(process)).await;
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Runs a command on a connection of its own.
    pub async fn command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url()).expect("the address is one of Redis");
        let mut connection = client.get_multiplexed_async_connection().await?;
        let (name, arguments) = words.split_first().expect("a command has a name");
        redis::cmd(name)
            .arg(arguments)
            .query_async(&mut connection)
            .await
    }

    /// A copy of what it keeps on disk (`--appendonly yes`), to be put back with [`Self::put_back`].
    pub fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary folder can be created");
        copy_files(&self.path(APPEND_ONLY), copy.path());
        copy
    }

    /// Puts back what it kept on disk earlier; it must have been stopped or killed.
    pub fn put_back(&self, copy: &TempDir) {
        assert!(self.0.id().is_none(), "a running server keeps what it has");
        let folder = self.path(APPEND_ONLY);
        std::fs::remove_dir_all(&folder).expect("our own folder can be removed");
        std::fs::create_dir(&folder).expect("and made again");
        copy_files(copy.path(), &folder);
    }

    /// Starts it again on the same port, in the same folder, after a stop or kill.
    pub async fn restart(&mut self) {
        if self.0.id().is_some() {
            self.stop().await;
        }
        self.launch().await;
    }

    async fn launch(&mut self) {
        let started = self.0.spawn();
        started.unwrap_or_else(|error| panic!("{error}"));
        let answers = tokio::time::timeout(PATIENCE, async {
            while !self.answers().await {
                assert!(
                    !self.0.has_ended(),
                    "redis-server ended at once:\n{}",
                    self.log()
                );
                tokio::time::sleep(STEP).await;
            }
        });
        if answers.await.is_err() {
            panic!("redis-server does not answer:\n{}", self.log());
        }
    }

    /// Whether it answers PING.
    async fn answers(&self) -> bool {
        let address = self.address();
        // The runtime of a test may have one thread, on which others go on meanwhile.
        let asked = tokio::task::spawn_blocking(move || readiness::redis(address));
        asked.await.expect("asking does not panic").is_ok()
    }

    async fn ended(&mut self) {
        self.within("end", RedisProcess::has_ended).await;
    }

    async fn within(&mut self, what: &str, done: impl Fn(&mut RedisProcess) -> bool) {
        let polls = async {
            while !done(&mut self.0) {
                tokio::time::sleep(STEP).await;
            }
        };
        if tokio::time::timeout(PATIENCE, polls).await.is_err() {
            panic!("redis-server did not {what}:\n{}", self.log());
        }
    }

    fn signal(&self, name: Signal) {
        signal(self.running(), name);
    }

    /// The id of the process.
    fn running(&self) -> u32 {
        let process = self.0.id();
        process.expect("the server is running; it was neither stopped nor killed")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("the folder is there") {
        let file = file.expect("the folder can be read");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a file can be copied");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Reading may fail as well; the test has failed for another reason.
            let log = std::fs::read_to_string(self.0.log_file()).unwrap_or_default();
            eprintln!("the log of redis-server on {}:\n{log}", self.address());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    async fn connect(
        server: &RedisServer,
    ) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(server.url())?
            .get_multiplexed_async_connection()
            .await
    }

    async fn count(server: &RedisServer) -> u64 {
        let mut connection = connect(server).await.unwrap();
        redis::cmd("INCR")
            .arg("n")
            .query_async(&mut connection)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn stopped_server_refuses_and_restarts_empty_on_the_same_port() {
        let mut server = RedisServer::start().await;
        let address = server.address();
        assert_eq!(count(&server).await, 1);
        server.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
        server.restart().await;
        assert_eq!(server.address(), address);
        assert_eq!(count(&server).await, 1);
    }

    #[tokio::test]
    async fn killed_server_keeps_what_it_was_told_to_keep() {
        let options = ["--appendonly", "yes", "--appendfsync", "always"];
        let mut server = RedisServer::start_with(&options).await;
        assert_eq!(count(&server).await, 1);
        server.kill().await;
        server.restart().await;
        assert_eq!(count(&server).await, 2);
    }

    #[tokio::test]
    async fn server_comes_back_with_the_data_that_was_put_back() {
        let options = ["--appendonly", "yes", "--appendfsync", "always"];
        let mut server = RedisServer::start_with(&options).await;
        assert_eq!(count(&server).await, 1);
        let copy = server.copy();
        assert_eq!(count(&server).await, 2);
        server.kill().await;
        server.put_back(&copy);
        server.restart().await;
        assert_eq!(count(&server).await, 2, "the second time");
    }

    #[tokio::test]
    async fn frozen_server_is_silent_until_it_thaws() {
        let mut server = RedisServer::start().await;
        let mut connection = connect(&server).await.unwrap();
        server.freeze().await;
        let mut ping = Box::pin(async move {
            redis::cmd("PING")
                .query_async::<String>(&mut connection)
                .await
        });
        assert!(
            tokio::time::timeout(Duration::from_millis(150), &mut ping)
                .await
                .is_err()
        );
        server.thaw();
        // The client has its own patience; all that counts is that the server answers again.
        let mut connection = connect(&server).await.unwrap();
        let pong: String = redis::cmd("PING")
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(pong, "PONG");
    }

    #[tokio::test]
    async fn server_listens_on_its_socket_and_writes_a_log() {
        let server = RedisServer::start().await;
        let path = server.socket_url().replace("redis+unix://", "");
        assert!(tokio::net::UnixStream::connect(path).await.is_ok());
        assert!(server.log().contains("Ready to accept connections"));
    }

    #[tokio::test]
    async fn dropped_server_is_gone() {
        let server = RedisServer::start().await;
        let address = server.address();
        drop(server);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
