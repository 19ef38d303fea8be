//! A Redis for one test, which may stop, freeze, kill and restart it.
//! The shared server serves other tests at the same time and must not be touched.
//! 1. A port is reserved and the server started in a temporary folder. 2. The test breaks it; the
//!    port stays reserved while nothing listens on it. 3. Drop kills it and removes the folder.
//!
//! Invariant: when `start` and `restart` return, the server answers; when `stop` and `kill` return,
//! the process is gone; when `freeze` returns, it no longer runs.
//! Invariant: the data survives a restart only with the options for it (`--appendonly yes`).
//! Not here: faults of the network, see [`super::proxy`].

use std::fs::{File, read_to_string};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::port::Port;

/// How long a start or a stop may take before a test fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Where a server keeps its log of commands, in its folder.
const APPEND_ONLY: &str = "appendonlydir";

/// The pause between two looks at a server that is starting or stopping.
const STEP: Duration = Duration::from_millis(10);

/// A Redis of our own.
#[derive(Debug)]
pub(crate) struct RedisServer {
    process: Option<Child>,
    port: Port,
    folder: TempDir,
    program: PathBuf,
    options: Vec<String>,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further options, such as `["--appendonly", "yes"]`.
    pub(crate) async fn start_with(options: &[&str]) -> Self {
        Self::start_program(&program(), options).await
    }

    /// The servers of this machine: the one that tests are run with, and another one that speaks its language.
    pub(crate) fn programs() -> Vec<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|place| place.join("valkey-server"));
        let other = places.find(|place| place.is_file());
        [program()].into_iter().chain(other).collect()
    }

    /// Starts another server than the one that tests are run with.
    pub(crate) async fn start_program(program: &Path, options: &[&str]) -> Self {
        let mut server = Self {
            process: None,
            port: Port::reserve(),
            folder: tempfile::tempdir().expect("a temporary folder can be created"),
            program: program.to_owned(),
            options: options.iter().map(ToString::to_string).collect(),
        };
        server.launch().await;
        server
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Its address as clients want it.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    /// The address of its unix socket.
    pub(crate) fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.path("redis.sock").display())
    }

    /// Where it keeps its data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged since it was first started.
    pub(crate) fn log(&self) -> String {
        read_to_string(self.path("redis.log")).expect("the log was created at the start")
    }

    /// Asks it to end (TERM) and waits until it has.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        self.ended().await;
    }

    /// Kills it without warning and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.running()
            .kill()
            .expect("a child that was not waited for can be killed");
        self.ended().await;
    }

    /// Stops it in its tracks: connections stay open and nothing answers.
    pub(crate) async fn freeze(&mut self) {
        self.signal("STOP");
        let process = self.running().id();
        self.within("freeze", || super::process::is_frozen(process))
            .await;
    }

    /// Lets it go on after [`Self::freeze`].
    pub(crate) fn thaw(&mut self) {
        self.signal("CONT");
    }

    /// Runs a command on a connection of its own.
    pub(crate) async fn command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url()).expect("the address is one of Redis");
        let mut connection = client.get_multiplexed_async_connection().await?;
        let (name, arguments) = words.split_first().expect("a command has a name");
        redis::cmd(name)
            .arg(arguments)
            .query_async(&mut connection)
            .await
    }

    /// A copy of what it keeps on disk (`--appendonly yes`), to be put back with [`Self::put_back`].
    pub(crate) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary folder can be created");
        copy_files(&self.path(APPEND_ONLY), copy.path());
        copy
    }

    /// Puts back what it kept on disk earlier; it must have been stopped or killed.
    pub(crate) fn put_back(&self, copy: &TempDir) {
        assert!(self.process.is_none(), "a running server keeps what it has");
        let folder = self.path(APPEND_ONLY);
        std::fs::remove_dir_all(&folder).expect("our own folder can be removed");
        std::fs::create_dir(&folder).expect("and made again");
        copy_files(copy.path(), &folder);
    }

    /// Starts it again on the same port, in the same folder, after a stop or kill.
    pub(crate) async fn restart(&mut self) {
        if self.process.is_some() {
            self.stop().await;
        }
        self.launch().await;
    }

    async fn launch(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("redis.log"))
            .expect("a log can be created in our own folder");
        let process = Command::new(&self.program)
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &self.address().port().to_string(),
            ])
            .arg("--unixsocket")
            .arg(self.path("redis.sock"))
            .arg("--dir")
            .arg(self.folder.path())
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--enable-debug-command", "local"])
            // Of an option given twice the last one counts.
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log can be shared"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {:?}: {error}", self.program));
        self.process = Some(process);
        let answers = tokio::time::timeout(PATIENCE, async {
            while !self.answers().await {
                let ended = self
                    .running()
                    .try_wait()
                    .expect("a child can be waited for");
                assert!(
                    ended.is_none(),
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

    /// Whether it answers PING; while it loads its data it answers with an error.
    async fn answers(&self) -> bool {
        let ping = async {
            let mut stream = TcpStream::connect(self.address()).await?;
            stream.write_all(b"PING\r\n").await?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer == *b"+PONG\r\n")
        };
        ping.await.unwrap_or(false)
    }

    async fn ended(&mut self) {
        let mut process = self.process.take().expect("the server was started");
        self.within("end", || {
            process
                .try_wait()
                .expect("a child can be waited for")
                .is_some()
        })
        .await;
    }

    async fn within(&self, what: &str, mut done: impl FnMut() -> bool) {
        let polls = async {
            while !done() {
                tokio::time::sleep(STEP).await;
            }
        };
        if tokio::time::timeout(PATIENCE, polls).await.is_err() {
            panic!("redis-server did not {what}:\n{}", self.log());
        }
    }

    fn signal(&mut self, signal: &str) {
        let process = self.running().id();
        super::process::signal(process, signal);
    }

    fn running(&mut self) -> &mut Child {
        self.process
            .as_mut()
            .expect("the server is running; it was neither stopped nor killed")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

/// The server that tests are run with.
fn program() -> PathBuf {
    let program = std::env::var_os("LARDER_REDIS_SERVER");
    program.map_or_else(|| PathBuf::from("redis-server"), PathBuf::from)
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("the folder is there") {
        let file = file.expect("the folder can be read");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a file can be copied");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself, which is what we want.
            let _killed = process.kill();
            let _ended = process.wait();
        }
        if std::thread::panicking() {
            // Reading may fail as well; the test has failed for another reason.
            let log = read_to_string(self.path("redis.log")).unwrap_or_default();
            eprintln!("the log of redis-server on {}:\n{log}", self.address());
        }
    }
}

#[cfg(test)]
mod tests {
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
