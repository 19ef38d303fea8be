//! A server whose every reply is an error with another code, which contains commands for a terminal: the log stays short and
//! readable, and the reads are answered by the database.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use larder::{Cache, Origin};
use larder_testing::{log, redis_server::RedisServer};
use sqlx::Sqlite;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    entities::Item,
    world::{Kind, World, eventually, unique},
};

/// How many lines about one server there may be in a minute, and the one that says so.
const MAX_LINES: usize = 61;

/// Stands between a cache and a server. From a moment on, it answers each command itself.
struct Impostor {
    address: SocketAddr,
    is_hostile: Arc<AtomicBool>,
    replies: Arc<AtomicUsize>,
}

impl Impostor {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let impostor = Self {
            address: listener.local_addr().unwrap(),
            is_hostile: Arc::default(),
            replies: Arc::default(),
        };
        let (is_hostile, replies) = (impostor.is_hostile.clone(), impostor.replies.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(stand_between(
                    client,
                    server,
                    is_hostile.clone(),
                    replies.clone(),
                ));
            }
        });
        impostor
    }
}

/// Passes commands on, or answers them with an error of a new code.
async fn stand_between(
    client: TcpStream,
    server: TcpStream,
    is_hostile: Arc<AtomicBool>,
    replies: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let (from_client, to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let to_client = Arc::new(tokio::sync::Mutex::new(to_client));
    let back = to_client.clone();
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = from_server.read(&mut bytes).await {
            if back.lock().await.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    });
    let mut commands = BufReader::new(from_client);
    loop {
        let command = next_command(&mut commands).await?;
        if is_hostile.load(Ordering::SeqCst) {
            let number = replies.fetch_add(1, Ordering::SeqCst);
            let filler = "x".repeat(number % 3_000);
            let reply =
                format!("-CODE\u{1b}[2J{number}\u{202e} a\u{2028}line\u{1b}[31m{filler}\r\n");
            to_client.lock().await.write_all(reply.as_bytes()).await?;
        } else {
            to_server.write_all(&command).await?;
        }
    }
}

/// Reads one command: the number of its words, then the length of each and the word.
async fn next_command(
    from: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
) -> std::io::Result<Vec<u8>> {
    let mut command = Vec::new();
    let words = number(from, &mut command).await?;
    for _ in 0..words {
        let length = number(from, &mut command).await?;
        let start = command.len();
        command.resize(start + length + 2, 0);
        from.read_exact(&mut command[start..]).await?;
    }
    Ok(command)
}

async fn number(
    from: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
    command: &mut Vec<u8>,
) -> std::io::Result<usize> {
    let start = command.len();
    if from.read_until(b'\n', command).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = std::str::from_utf8(&command[start + 1..]).unwrap();
    Ok(line.trim_end().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_that_a_server_makes_up_fill_no_log() {
    log::listen();
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "one")).await;
    let server = RedisServer::start().await;
    let impostor = Impostor::before(server.address()).await;
    let cache = Cache::builder()
        .redis(format!("redis://{}/", impostor.address))
        .listed(false)
        .namespace(unique("hostile"))
        .response_timeout(Duration::from_secs(10))
        .connect()
        .await
        .unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    eventually("the row is cached", async || {
        items.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
    impostor.is_hostile.store(true, Ordering::SeqCst);
    while impostor.replies.load(Ordering::SeqCst) < 2_000 {
        assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
        let error = items.invalidate(1).await.err();
        for text in error.iter().flat_map(texts_of) {
            assert_readable(&text);
        }
    }
    let lines = log::lines_with("address", &impostor.address.to_string());
    assert!(lines.len() > 2, "the first codes are logged");
    assert!(lines.len() <= MAX_LINES, "{} lines", lines.len());
    for line in &lines {
        for field in ["code", "error", "message"] {
            assert_readable(line.field(field).unwrap_or_default());
        }
    }
    world.database.close().await;
}

fn texts_of(error: &larder::Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts
}

/// Checks that a text is one short line of visible characters.
#[track_caller]
fn assert_readable(text: &str) {
    assert!(text.len() < 700, "{} bytes: {text}", text.len());
    let hidden = |character: char| character.is_control() || "\u{202e}\u{2028}".contains(character);
    assert!(!text.contains(hidden), "{text:?}");
}
