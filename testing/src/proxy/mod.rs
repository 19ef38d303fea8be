//! A TCP proxy that breaks connections on request, at the request the test names.
//! "The commit reached the server, its answer did not reach us" is the failure that matters most,
//! and no server can be asked to produce it.
//! 1. Clients connect to [`Proxy::address`]; bytes pass both ways. 2. Switches slow, swallow, refuse
//!    or reset from now on. 3. A [`Trap`] waits for a request that contains certain bytes and then
//!    cuts or holds the connection, before the request or before its reply. 4. [`Proxy::heal`]
//!    takes all switches back.
//!
//! Invariant: a switch has taken effect when its method returns.
//! Invariant: a connection that lost bytes is reset before it carries any others.
//! Invariant: the proxy runs on a thread of its own, so a test may block, or stop tokio's clock.
//! Not here: requests longer than one read (64 KiB), which a trap may miss; what the bytes mean,
//! which is the business of [`crate::wire`].

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::port::Port;
use crate::wire::Observer;

/// How long anything in here may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most that is read at once.
const READ: usize = 64 * 1024;

/// Which way bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests.
    ToServer,
    /// From the server to the client: replies.
    ToClient,
}

/// Where a trap stops a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The server never sees the request.
    BeforeRequest,
    /// The server has carried out the request; the client does not see the reply.
    BeforeReply,
}

/// Makes the observer of a new connection.
pub type Observers = Box<dyn Fn() -> Box<dyn Observer> + Send + Sync>;

/// A proxy in front of one server; it and its connections end on drop.
pub struct Proxy {
    port: Port,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy in front of this address.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::start_observed(upstream, None)
    }

    /// Starts a proxy that shows the bytes of each connection to an observer.
    pub fn start_observed(upstream: SocketAddr, observers: Option<Observers>) -> Self {
        let port = Port::reserve().expect("one of many ports is free");
        let address = port.address();
        let shared = Arc::new(Shared {
            switches: watch::Sender::default(),
            progress: Mutex::default(),
            changed: Condvar::new(),
            observers,
            upstream: Mutex::new(upstream),
        });
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&shared, address)
            })
            .expect("a thread can be started");
        let proxy = Self {
            port,
            shared,
            thread: Some(thread),
        };
        proxy.shared.wait("listen", |progress| progress.listening);
        proxy
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Holds all bytes of one direction for this long, each time they are read.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.shared.switch(|switches| match direction {
            Direction::ToServer => switches.delay_requests = delay,
            Direction::ToClient => switches.delay_replies = delay,
        });
    }

    /// Accepts connections and swallows all bytes, both ways, like a network that lost its route.
    pub fn blackhole(&self) {
        self.shared.switch(|switches| switches.blackhole = true);
    }

    /// Stops listening: new connections are refused, open ones go on.
    pub fn refuse(&self) {
        self.shared.switch(|switches| switches.refuse = true);
        self.shared
            .wait("stop listening", |progress| !progress.listening);
    }

    /// Resets all open connections (the peer sees `ECONNRESET`, not an orderly end).
    pub fn reset(&self) {
        let open = self.shared.progress().open.clone();
        self.shared
            .switch(|switches| switches.reset_below = open.last().map_or(0, |id| id + 1));
        self.shared.wait("reset connections", |progress| {
            progress.open.is_disjoint(&open)
        });
    }

    /// Leads new connections to another server, and resets those that are open.
    pub fn redirect(&self, upstream: SocketAddr) {
        *self
            .shared
            .upstream
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = upstream;
        self.reset();
    }

    /// Takes back delays, blackhole and refusal; traps stay.
    pub fn heal(&self) {
        self.shared.switch(|switches| {
            *switches = Switches {
                reset_below: switches.reset_below,
                traps: std::mem::take(&mut switches.traps),
                ..Switches::default()
            };
        });
        self.shared
            .wait("listen again", |progress| progress.listening);
    }

    /// Cuts the connection of the next request that contains these bytes, once.
    pub fn cut(&self, point: Point, bytes: impl Into<Vec<u8>>) -> Trap {
        self.trap(point, bytes.into(), TrapState::Cutting)
    }

    /// Holds the next request that contains these bytes, or its reply, until [`Trap::release`].
    pub fn hold(&self, point: Point, bytes: impl Into<Vec<u8>>) -> Trap {
        self.trap(point, bytes.into(), TrapState::Holding)
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.shared.progress().open.len()
    }

    fn trap(&self, point: Point, bytes: Vec<u8>, kind: TrapState) -> Trap {
        let armed = Arc::new(ArmedTrap {
            point,
            bytes,
            kind,
            state: watch::Sender::new(kind),
        });
        self.shared
            .switch(|switches| switches.traps.push(Arc::clone(&armed)));
        Trap {
            armed,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.switch(|switches| switches.stop = true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the proxy panicked"
            );
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// A trap set by [`Proxy::cut`] or [`Proxy::hold`]; dropping it disarms it and lets go.
#[must_use = "a trap is disarmed when it is dropped"]
#[derive(Debug)]
pub struct Trap {
    armed: Arc<ArmedTrap>,
    shared: Arc<Shared>,
}

impl Trap {
    /// Waits until the request has come: it is being held now, or its connection has been cut.
    pub async fn sprung(&self) {
        let mut state = self.armed.state.subscribe();
        let sprung = state.wait_for(|state| *state == TrapState::Sprung);
        let in_time = tokio::time::timeout(PATIENCE, sprung).await;
        let seen = in_time.unwrap_or_else(|_| panic!("no request came into {:?}", self.armed));
        seen.expect("the trap keeps its own sender");
    }

    /// Whether the request has come.
    pub fn has_sprung(&self) -> bool {
        *self.armed.state.borrow() == TrapState::Sprung
    }

    /// Lets a held request or reply go on; dropping does the same.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.shared.switch(|switches| {
            switches
                .traps
                .retain(|trap| !Arc::ptr_eq(trap, &self.armed));
        });
        self.armed.state.send_replace(TrapState::Gone);
    }
}

struct ArmedTrap {
    point: Point,
    bytes: Vec<u8>,
    kind: TrapState,
    state: watch::Sender<TrapState>,
}

impl ArmedTrap {
    /// Catches a request: breaks its connection, or holds it until the trap is gone.
    async fn spring(&self) -> Result<(), Broken> {
        let sprung = self.state.send_if_modified(|state| {
            let armed = *state == self.kind;
            if armed {
                *state = TrapState::Sprung;
            }
            armed
        });
        if !sprung {
            return Ok(());
        }
        if self.kind == TrapState::Cutting {
            return Err(Broken);
        }
        let mut state = self.state.subscribe();
        let gone = state.wait_for(|state| *state == TrapState::Gone).await;
        gone.map(drop).map_err(|_| Broken)
    }
}

impl fmt::Debug for ArmedTrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = String::from_utf8_lossy(&self.bytes);
        write!(f, "the trap {:?} for {bytes:?}", self.point)
    }
}

/// The life of a trap: set, sprung by a request, gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrapState {
    Cutting,
    Holding,
    Sprung,
    Gone,
}

/// What the test wants of all connections.
#[derive(Debug, Default)]
struct Switches {
    delay_requests: Duration,
    delay_replies: Duration,
    blackhole: bool,
    refuse: bool,
    reset_below: u64,
    stop: bool,
    traps: Vec<Arc<ArmedTrap>>,
}

/// How far the proxy has got.
#[derive(Debug, Default)]
struct Progress {
    listening: bool,
    open: BTreeSet<u64>,
    next: u64,
}

struct Shared {
    switches: watch::Sender<Switches>,
    progress: Mutex<Progress>,
    changed: Condvar,
    observers: Option<Observers>,
    upstream: Mutex<SocketAddr>,
}

impl Shared {
    fn switch(&self, change: impl FnOnce(&mut Switches)) {
        self.switches.send_modify(change);
    }

    /// Takes the first trap that waits for these bytes; it catches nothing else.
    fn take_trap(&self, bytes: &[u8]) -> Option<Arc<ArmedTrap>> {
        let waits = |trap: &Arc<ArmedTrap>| contains(bytes, &trap.bytes);
        if !self.switches.borrow().traps.iter().any(waits) {
            return None;
        }
        let mut caught = None;
        // Nobody waits for this change.
        self.switches.send_if_modified(|switches| {
            let at = switches.traps.iter().position(waits);
            caught = at.map(|at| switches.traps.remove(at));
            false
        });
        caught
    }

    fn upstream(&self) -> SocketAddr {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, done: impl Fn(&Progress) -> bool) {
        let (_progress, result) = self
            .changed
            .wait_timeout_while(self.progress(), PATIENCE, |progress| !done(progress))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!result.timed_out(), "the proxy did not {what} in time");
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("switches", &self.switches)
            .finish_non_exhaustive()
    }
}

fn run(shared: &Arc<Shared>, address: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    // Dropping the runtime drops all connections that are still open.
    runtime.block_on(listen(shared, address));
}

/// Listens unless told to refuse, and starts a task per connection, until told to stop.
async fn listen(shared: &Arc<Shared>, address: SocketAddr) {
    let mut switches = shared.switches.subscribe();
    loop {
        let listener = TcpListener::bind(address)
            .await
            .expect("the port is reserved for us");
        shared.advance(|progress| progress.listening = true);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted.expect("the listener accepts");
                    let mut id = 0;
                    shared.advance(|progress| {
                        id = progress.next;
                        progress.next += 1;
                        progress.open.insert(id);
                    });
                    let upstream = shared.upstream();
                    tokio::spawn(serve(Arc::clone(shared), id, client, upstream));
                }
                stop = until(&mut switches, |switches| switches.refuse || switches.stop) => {
                    if stop {
                        return;
                    }
                    break;
                }
            }
        }
        drop(listener);
        shared.advance(|progress| progress.listening = false);
        if until(&mut switches, |switches| !switches.refuse || switches.stop).await {
            return;
        }
    }
}

/// Waits for the switches to be so, and says whether the proxy is to stop.
async fn until(
    switches: &mut watch::Receiver<Switches>,
    reached: impl Fn(&Switches) -> bool,
) -> bool {
    let now = switches.wait_for(|switches| reached(switches)).await;
    now.expect("the proxy keeps its own sender").stop
}

/// Whether bytes occur in a chunk; no bytes occur in every chunk.
fn contains(chunk: &[u8], bytes: &[u8]) -> bool {
    bytes.is_empty() || chunk.windows(bytes.len()).any(|window| window == bytes)
}

/// Serves one connection to its end.
async fn serve(shared: Arc<Shared>, id: u64, mut client: TcpStream, upstream: SocketAddr) {
    let mut switches = shared.switches.subscribe();
    let carried = tokio::select! {
        carried = carry(&shared, &mut client, upstream) => carried,
        _ = until(&mut switches, |switches| id < switches.reset_below) => Err(Broken),
    };
    if carried.is_err() {
        // Fails only on a socket that is gone already, whose client needs no further sign.
        let _lingering = client.set_zero_linger();
    }
    drop(client);
    shared.advance(|progress| {
        progress.open.remove(&id);
    });
}

/// The connection must be reset: a switch or a trap says so, or its other end broke.
struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self
    }
}

async fn carry(
    shared: &Shared,
    client: &mut TcpStream,
    upstream: SocketAddr,
) -> Result<(), Broken> {
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (requests, to_client) = client.split();
    let (replies, to_server) = server.split();
    let connection = Connection {
        shared,
        observer: Mutex::new(shared.observers.as_ref().map(|make| make())),
        reply_trap: Mutex::default(),
    };
    tokio::try_join!(
        connection.pass(Direction::ToServer, requests, to_server),
        connection.pass(Direction::ToClient, replies, to_client),
    )?;
    Ok(())
}

/// What the two directions of a connection share.
struct Connection<'a> {
    shared: &'a Shared,
    observer: Mutex<Option<Box<dyn Observer>>>,
    /// Waits for the reply to the request that was caught.
    reply_trap: Mutex<Option<Arc<ArmedTrap>>>,
}

impl Connection<'_> {
    /// Passes the bytes of one direction on until they end.
    async fn pass(
        &self,
        direction: Direction,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Broken> {
        let mut buffer = vec![0; READ];
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                to.shutdown().await?;
                return Ok(());
            }
            let bytes = &buffer[..length];
            self.pause(direction).await;
            if self.shared.switches.borrow().blackhole {
                return Err(self.swallow(from).await);
            }
            match direction {
                Direction::ToServer => self.before_request(bytes).await?,
                Direction::ToClient => self.before_reply().await?,
            }
            self.observe(direction, bytes);
            to.write_all(bytes).await?;
        }
    }

    /// Holds bytes for as long as the switch says, or until it says something else.
    async fn pause(&self, direction: Direction) {
        let delay = |switches: &Switches| match direction {
            Direction::ToServer => switches.delay_requests,
            Direction::ToClient => switches.delay_replies,
        };
        let mut switches = self.shared.switches.subscribe();
        let wanted = delay(&switches.borrow());
        if !wanted.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wanted) => {}
                _ = until(&mut switches, |switches| delay(switches) != wanted) => {}
            }
        }
    }

    /// Reads and drops everything until the proxy is healed or the peer leaves.
    async fn swallow(&self, mut from: ReadHalf<'_>) -> Broken {
        let mut switches = self.shared.switches.subscribe();
        let healed = until(&mut switches, |switches| !switches.blackhole);
        let mut sink = tokio::io::sink();
        tokio::select! {
            _ = healed => {}
            _ = tokio::io::copy(&mut from, &mut sink) => {}
        }
        Broken
    }

    /// Springs the first trap that waits for these bytes.
    async fn before_request(&self, bytes: &[u8]) -> Result<(), Broken> {
        match self.shared.take_trap(bytes) {
            Some(trap) if trap.point == Point::BeforeRequest => trap.spring().await,
            Some(trap) => {
                *self
                    .reply_trap
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(trap);
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn before_reply(&self) -> Result<(), Broken> {
        let trap = self
            .reply_trap
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match trap {
            Some(trap) => trap.spring().await,
            None => Ok(()),
        }
    }

    fn observe(&self, direction: Direction, bytes: &[u8]) {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(observer) = observer.as_mut() {
            match direction {
                Direction::ToServer => observer.request(bytes),
                Direction::ToClient => observer.reply(bytes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

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
}
