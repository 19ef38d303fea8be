//! The disk of a Redis, as far as a client can ask for it: `WAITAOF` of 7.2, in front of a server of any version.
//! A disk that is slow, or that does not write at all, cannot be had from a server on request; and what a client does while
//! it waits can only be seen while it waits.
//! 1. Commands pass to the server as they are, and its replies too. 2. For each `WAITAOF` the server runs a script in its
//!    place that answers what the disk would, once the test lets it.
//!
//! Invariant: what a client has sent before a `WAITAOF` reaches the server before the wait, and what it sends behind it does
//! not before the wait is over, as with a server that waits itself.
//! Not here: a server that knows the command itself, which is asked where there is one (`durability`).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the disk does when it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// It has written already.
    AtOnce,
    /// It writes, and is not done.
    Slowly,
    /// It does not write; the wait ends in vain.
    Never,
    /// Nobody knows: the connection that waits is lost.
    Lost,
}

/// A server's disk, in front of the server.
pub struct Disk {
    address: SocketAddr,
    writes: watch::Sender<Writes>,
    waits: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Disk {
    /// The disk of the server at an address.
    pub async fn of(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let (writes, waits) = (watch::Sender::new(Writes::AtOnce), watch::Sender::new(0));
        let task = tokio::spawn({
            let (writes, waits) = (writes.clone(), waits.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if let Ok(server) = TcpStream::connect(server).await {
                        tokio::spawn(pass(client, server, writes.clone(), waits.clone()));
                    }
                }
            }
        });
        Self {
            address,
            writes,
            waits,
            task,
        }
    }

    /// The address of the server behind it, as clients want it.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// What it does from now on, also for those who wait already.
    pub fn set(&self, writes: Writes) {
        self.writes.send_replace(writes);
    }

    /// How often it was waited for.
    pub fn waits(&self) -> u64 {
        *self.waits.borrow()
    }

    /// Returns when it was waited for so many times.
    pub async fn waited_for(&self, times: u64) {
        let mut waits = self.waits.subscribe();
        let reached = waits.wait_for(|waits| *waits >= times);
        let reached = tokio::time::timeout(crate::redis_process::PATIENCE, reached).await;
        let _waits = reached.unwrap_or_else(|_| {
            panic!(
                "the disk was waited for {} times, not {times}",
                self.waits()
            )
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes the bytes of one connection, until either side ends it.
async fn pass(
    client: TcpStream,
    server: TcpStream,
    writes: watch::Sender<Writes>,
    waits: watch::Sender<u64>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let replies = tokio::io::copy(&mut from_server, &mut to_client);
    let commands = async {
        let mut read = Vec::new();
        loop {
            while let Some(command) = first(&read) {
                let rest = read.split_off(command.length);
                forward(&read, &command, &mut to_server, &writes, &waits).await?;
                read = rest;
            }
            if from_client.read_buf(&mut read).await? == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    tokio::select! {
        // Either ends when its side has hung up.
        _ended = replies => {}
        _ended = commands => {}
    }
}

async fn forward(
    bytes: &[u8],
    command: &Command,
    server: &mut OwnedWriteHalf,
    writes: &watch::Sender<Writes>,
    waits: &watch::Sender<u64>,
) -> std::io::Result<()> {
    if !command.words[0].eq_ignore_ascii_case("WAITAOF") {
        return server.write_all(bytes).await;
    }
    if command.words[1] == "0" {
        return server.write_all(&answer(0)).await;
    }
    waits.send_modify(|waits| *waits += 1);
    let mut writes = writes.subscribe();
    let done = writes.wait_for(|writes| *writes != Writes::Slowly).await;
    let writes = done.map_or(Writes::Lost, |writes| *writes);
    if writes == Writes::Lost {
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    server
        .write_all(&answer(u8::from(writes == Writes::AtOnce)))
        .await
}

/// A command that is answered as `WAITAOF` is when so many disks of the server's own have written.
fn answer(disks: u8) -> Vec<u8> {
    let script = format!("return {{{disks}, 0}}");
    let length = script.len();
    format!("*3\r\n$4\r\nEVAL\r\n${length}\r\n{script}\r\n$1\r\n0\r\n").into_bytes()
}

/// A command, and how many bytes it has.
struct Command {
    words: Vec<String>,
    length: usize,
}

/// The first command, if it is there to its end.
fn first(bytes: &[u8]) -> Option<Command> {
    let (count, mut at) = number(bytes, 0, b'*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, begin) = number(bytes, at, b'$')?;
        let word = bytes.get(begin..begin + length)?;
        words.push(String::from_utf8_lossy(word).into_owned());
        at = begin + length + 2;
    }
    (at <= bytes.len()).then_some(Command { words, length: at })
}

/// The number behind a sign, and where its line ends.
fn number(bytes: &[u8], at: usize, sign: u8) -> Option<(usize, usize)> {
    let line = bytes.get(at..)?;
    let end = line.iter().position(|byte| *byte == b'\n')?;
    assert_eq!(line[0], sign, "a client sends arrays of strings");
    let digits = std::str::from_utf8(&line[1..end - 1]).expect("a number is text");
    Some((digits.parse().expect("a number"), at + end + 1))
}
