//! The connections of a proxy: bytes that pass both ways, as far as switches and traps let them.
//! 1. A task listens, unless it is told to refuse. 2. Each connection has a task, which passes what is read, slows or swallows it,
//!    and springs traps. 3. A switch that concerns a connection ends it by a reset.
//!
//! Invariant: a connection that lost bytes is reset before it carries any others.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::Direction;
use super::shared::{Shared, Switches, until};
use super::trap::{ArmedTrap, Broken, Point};
use crate::wire::Observer;

/// The most that is read at once.
const READ: usize = 64 * 1024;

/// Runs the proxy until it is told to stop.
pub(super) fn run(shared: &Arc<Shared>, address: SocketAddr) {
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
        match ArmedTrap::take(&self.shared.switches, bytes) {
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
