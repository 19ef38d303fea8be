//! That each switch and each trap does what it says, and nothing else.

use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const SHORT: Duration = Duration::from_millis(150);

/// A server that answers each line with the number of lines it has seen, all connections taken
/// together, so that a test can tell a request that arrived from one that did not.
async fn counting_server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, Arc::clone(&lines)));
        }
    });
    (address, seen)
}

async fn answer(stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let count = {
            let mut seen = seen.lock().unwrap();
            seen.push(line);
            seen.len()
        };
        if write
            .write_all(format!("{count}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(proxy: &Proxy) -> Self {
        Self(BufReader::new(
            TcpStream::connect(proxy.address()).await.unwrap(),
        ))
    }

    async fn ask(&mut self, line: &str) -> io::Result<String> {
        self.0
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .await?;
        let mut answer = String::new();
        match self.0.read_line(&mut answer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim().to_owned()),
        }
    }
}

async fn proxied() -> (Proxy, Arc<Mutex<Vec<String>>>) {
    let (address, seen) = counting_server().await;
    (Proxy::start(address), seen)
}

#[tokio::test]
async fn bytes_pass_both_ways() {
    let (proxy, seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("a").await.unwrap(), "1");
    assert_eq!(client.ask("b").await.unwrap(), "2");
    assert_eq!(*seen.lock().unwrap(), ["a", "b"]);
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn delayed_reply_is_late_and_healing_ends_the_delay() {
    let (proxy, seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    proxy.delay(Direction::ToClient, SHORT);
    let before = tokio::time::Instant::now();
    client.ask("a").await.unwrap();
    assert!(before.elapsed() >= SHORT);
    proxy.delay(Direction::ToServer, PATIENCE);
    let mut asking = Box::pin(client.ask("b"));
    assert!(tokio::time::timeout(SHORT, &mut asking).await.is_err());
    assert_eq!(*seen.lock().unwrap(), ["a"]);
    proxy.heal();
    assert_eq!(asking.await.unwrap(), "2");
}

#[tokio::test]
async fn blackhole_swallows_and_the_connection_is_reset_when_it_heals() {
    let (proxy, seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    client.ask("a").await.unwrap();
    proxy.blackhole();
    let mut newcomer = Client::connect(&proxy).await;
    assert!(
        tokio::time::timeout(SHORT, newcomer.ask("lost"))
            .await
            .is_err()
    );
    let mut asking = Box::pin(client.ask("lost"));
    assert!(tokio::time::timeout(SHORT, &mut asking).await.is_err());
    proxy.heal();
    assert_eq!(
        asking.await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(Client::connect(&proxy).await.ask("b").await.unwrap(), "2");
    assert_eq!(*seen.lock().unwrap(), ["a", "b"]);
}

#[tokio::test]
async fn refused_client_cannot_connect_until_healed_while_others_go_on() {
    let (proxy, _seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    client.ask("a").await.unwrap();
    proxy.refuse();
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    client.ask("b").await.unwrap();
    proxy.heal();
    assert_eq!(Client::connect(&proxy).await.ask("c").await.unwrap(), "3");
}

#[tokio::test]
async fn reset_ends_open_connections_and_no_later_ones() {
    let (proxy, _seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    client.ask("a").await.unwrap();
    proxy.reset();
    assert_eq!(proxy.connections(), 0);
    assert_eq!(
        client.ask("b").await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    let mut client = Client::connect(&proxy).await;
    client.ask("c").await.unwrap();
    client.ask("d").await.unwrap();
}

#[tokio::test]
async fn redirected_client_finds_another_server() {
    let (proxy, seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    client.ask("a").await.unwrap();
    let (other, seen_there) = counting_server().await;
    proxy.redirect(other);
    client.ask("b").await.unwrap_err();
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("b").await.unwrap(), "1");
    assert_eq!(*seen.lock().unwrap(), ["a"]);
    assert_eq!(*seen_there.lock().unwrap(), ["b"]);
}

#[tokio::test]
async fn request_whose_reply_is_cut_has_reached_the_server() {
    let (proxy, seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    let trap = proxy.cut(Point::BeforeReply, "COMMIT");
    client.ask("a").await.unwrap();
    assert!(!trap.has_sprung());
    assert_eq!(
        client.ask("COMMIT").await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    trap.sprung().await;
    assert_eq!(*seen.lock().unwrap(), ["a", "COMMIT"]);
    assert_eq!(
        Client::connect(&proxy).await.ask("COMMIT").await.unwrap(),
        "3"
    );
}

#[tokio::test]
async fn request_that_is_cut_has_not_reached_the_server() {
    let (proxy, seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    let _trap = proxy.cut(Point::BeforeRequest, "COMMIT");
    assert_eq!(
        client.ask("COMMIT").await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn held_request_goes_on_when_released() {
    let (proxy, seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    let trap = proxy.hold(Point::BeforeRequest, "slow");
    let asking = tokio::spawn(async move { client.ask("slow").await });
    trap.sprung().await;
    assert_eq!(
        Client::connect(&proxy).await.ask("quick").await.unwrap(),
        "1"
    );
    trap.release();
    assert_eq!(asking.await.unwrap().unwrap(), "2");
    assert_eq!(*seen.lock().unwrap(), ["quick", "slow"]);
}

#[tokio::test]
async fn dropped_trap_catches_nothing() {
    let (proxy, _seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    drop(proxy.cut(Point::BeforeRequest, "a"));
    assert_eq!(client.ask("a").await.unwrap(), "1");
}

#[tokio::test]
async fn dropped_proxy_ends_its_connections() {
    let (proxy, _seen) = proxied().await;
    let mut client = Client::connect(&proxy).await;
    client.ask("a").await.unwrap();
    drop(proxy);
    client.ask("b").await.unwrap_err();
}
