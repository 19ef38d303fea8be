//! A connection that adapts to how many callers it has.
//!
//! With redis-rs every command is handed to the task of its connection, and its reply back to the caller. Those hand-overs are
//! most of what a small command costs. Here they are left out where nobody needs them.
//!
//! 1. A caller that is alone writes its command, and reads the reply ([`Mode::Alone`]).
//! 2. Callers that meet write their commands, and the task of the connection reads ([`Mode::Few`]).
//! 3. If more than [`FEW`] requests are in flight, the task writes too: one `write` for all commands that have come together
//!    since it ran last ([`Mode::Many`]). There is no timer: it lets the callers that can run add their commands first.
//! 4. What several callers ask for beside their own command, the clock of their tags, is sent once with all that is written together, after
//!    their commands (`beside`).
//! 5. While requests are made, the task looks at intervals for those that have waited for too long, and how many there were at
//!    the same time. When there were none, it watches whether the server closes the connection.
//!
//! Invariant: if requests of more than one caller are in flight, the task reads. So a caller that is dropped, or not polled, delays nobody.
//! Invariant: a request that was dropped or has timed out stays in the queue until its reply has arrived, so that a reply is
//! never given to another request. Replies arrive in the order of the requests.
//! Not here: TLS and pub/sub, which have connections of redis-rs (`connection`), and which commands are sent (`send`).

mod beside;
mod replies;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisResult, Value};
use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};

use self::{beside::Beside, replies::Replies, socket::Socket};
use crate::{clock::Deadline, printed, protocol::key::Key, store::redis::large::LARGE_ENTRY};

/// How many requests in flight are written by their callers.
const FEW: usize = 8;
/// How often requests are checked for their timeout, per timeout, if that is not too seldom or too often.
const CHECKS: u32 = 8;
/// The shortest and the longest time between two checks.
const SHORTEST_CHECK: Duration = Duration::from_millis(1);
const LONGEST_CHECK: Duration = Duration::from_millis(100);

/// How much may wait to be sent, in bytes, before more is refused. What comes then may be longer.
const MOST_UNSENT: usize = 16 << 20;
/// How often a caller writes at most, before the task writes what others add.
const WRITES: usize = 3;
/// A buffer that has grown to more than this is given back when it is empty, in bytes.
const KEPT: usize = 1 << 20;

/// The replies to one request.
type Values = SmallVec<[Value; 1]>;
type Answer = oneshot::Sender<RedisResult<Values>>;

/// A connection to one server. Its clones share the socket, which is closed with the last of them.
#[derive(Clone)]
pub(crate) struct Direct(Arc<Owner>);

/// Closes the connection when the last clone is dropped.
struct Owner {
    shared: Arc<Shared>,
    database: i64,
}

struct Shared {
    socket: Socket,
    timeout: Duration,
    /// The runtime of the task.
    runtime: tokio::runtime::Id,
    requests: Mutex<Requests>,
    /// Locked before `requests` if both are.
    replies: Mutex<Replies>,
    /// Wakes the task of the connection.
    work: Notify,
    /// Called once, when the connection is lost.
    on_lost: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Requests {
    /// What was not written yet.
    unsent: Vec<u8>,
    /// What will be sent once, with what was not written yet and after it.
    beside: Vec<Beside>,
    /// An empty buffer.
    spare: Vec<u8>,
    /// Whether somebody writes now, and will write `unsent` too.
    is_writing: bool,
    /// Those without all of their replies, in order.
    in_flight: VecDeque<Request>,
    mode: Mode,
    /// Whether the socket took less than everything.
    is_blocked: bool,
    /// Whether the task waits, and has to be woken for what it is to see.
    task_waits: bool,
    /// The most that were in flight since the last check.
    most: usize,
    /// Whether that was one at the last check.
    is_calm: bool,
    /// How many checks there were.
    checks: u64,
    /// Why the connection no longer works.
    closed: Option<Closed>,
}

/// Who writes and reads.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    /// Nobody has made a request for a while. The task watches the socket.
    #[default]
    Idle,
    /// The caller writes and reads.
    Alone,
    /// Callers write, and the task reads.
    Few,
    /// The task writes and reads.
    Many,
}

struct Request {
    /// How many replies have yet to arrive.
    missing: usize,
    values: Values,
    /// Who waits for them: one, or all who have asked for the same beside their commands. Empty if it has timed out.
    answers: SmallVec<[Answer; 1]>,
    /// How many checks there had been when it was added.
    checks: u64,
}

/// Why a connection no longer works.
#[derive(Clone, Debug)]
struct Closed(String);

impl Closed {
    fn new(reason: &str) -> Self {
        Self(reason.to_owned())
    }

    /// Returns the error of a request, which says the same of the connection whatever has ended it.
    fn error(&self) -> RedisError {
        io::Error::new(io::ErrorKind::BrokenPipe, self.0.clone()).into()
    }
}

impl From<io::Error> for Closed {
    fn from(error: io::Error) -> Self {
        Self::new(&error.to_string())
    }
}

impl Direct {
    /// Connects to a server, if it needs no TLS. The function is called once, when the connection is lost.
    pub(crate) async fn open(
        info: &ConnectionInfo,
        connecting: Duration,
        timeout: Duration,
        on_lost: impl Fn() + Send + Sync + 'static,
    ) -> RedisResult<Option<Self>> {
        let opening = async {
            let Some(socket) = Socket::open(info.addr()).await? else {
                return Ok(None);
            };
            let shared = Arc::new(Shared {
                socket,
                timeout,
                runtime: Handle::current().id(),
                requests: Mutex::default(),
                replies: Mutex::default(),
                work: Notify::new(),
                on_lost: Box::new(on_lost),
            });
            let database = info.redis_settings().db();
            let direct = Self(Arc::new(Owner { shared, database }));
            tokio::spawn(run(Arc::clone(&direct.0.shared)));
            direct.introduce(info).await?;
            Ok(Some(direct))
        };
        let opened = Deadline::after(connecting).bound(opening).await;
        opened.unwrap_or_else(|| Err(timed_out(connecting)))
    }

    /// Tells the server who is connected.
    async fn introduce(&self, info: &ConnectionInfo) -> RedisResult<()> {
        let settings = info.redis_settings();
        let mut greeting = redis::pipe();
        greeting.cmd("HELLO").arg(3);
        if let Some(password) = settings.password() {
            let user = settings.username().unwrap_or("default");
            greeting.arg("AUTH").arg(user).arg(password);
        }
        if settings.db() != 0 {
            greeting.cmd("SELECT").arg(settings.db());
        }
        let needed = greeting.len();
        // For the list of clients. Old servers do not know it.
        let name = ["SETINFO", "LIB-NAME", "larder"];
        greeting.cmd("CLIENT").arg(&name);
        let replies = self.send_packed_commands(&greeting).await?;
        for reply in replies.into_iter().take(needed) {
            reply.extract_error()?;
        }
        Ok(())
    }

    /// Returns the number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.0.database
    }

    /// Sends a command. An error of the server is a value.
    pub(crate) async fn send_packed_command(&self, command: &Cmd) -> RedisResult<Value> {
        self.one(|unsent| command.write_packed_command(unsent))
            .await
    }

    /// Reads an entry, or the beginning of a large one.
    pub(crate) async fn read_beginning(&self, key: &Key) -> RedisResult<Value> {
        let mut command = ReadCommand::new(key);
        let parts = command.parts();
        self.one(|unsent| copy(parts, unsent)).await
    }

    /// Sends the commands of a pipeline. An error of the server is a value.
    pub(crate) async fn send_packed_commands(
        &self,
        pipeline: &Pipeline,
    ) -> RedisResult<Vec<Value>> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let write = |unsent: &mut Vec<u8>| {
            for command in pipeline.cmd_iter() {
                command.write_packed_command(unsent);
            }
        };
        Ok(self.request(pipeline.len(), write).await?.into_vec())
    }

    /// Reads an entry, or the beginning of a large one, and then a clock. The reading is shared with others who read the same clock at the
    /// same time: it is made after all of them have asked.
    pub(crate) async fn read_beginning_and(
        &self,
        key: &Key,
        clock: &Key,
        command: impl FnOnce() -> Cmd,
    ) -> RedisResult<[Value; 2]> {
        let shared = &*self.0.shared;
        let (answer, answered) = oneshot::channel();
        let (beside, beside_answered) = oneshot::channel();
        let mut read = ReadCommand::new(key);
        let parts = read.parts();
        let reads = shared.enter(1, answer, |requests| {
            copy(parts, &mut requests.unsent);
            requests.add_beside(clock, beside, command);
        })?;
        let both = async {
            let mut entry = shared.answer(answered, reads).await?;
            let mut clock = shared.answer(beside_answered, reads).await?;
            Ok([&mut entry, &mut clock].map(|values| values.pop().unwrap_or_default()))
        };
        shared.in_time(both).await
    }

    /// Sends what the function writes, which is one command. It is sent by the call, before the future is polled.
    fn one(&self, write: impl FnOnce(&mut Vec<u8>)) -> impl Future<Output = RedisResult<Value>> {
        let replies = self.request(1, write);
        async move { Ok(replies.await?.pop().unwrap_or_default()) }
    }

    /// Sends what the function writes, which has this many replies. It is sent by the call, before the future is polled.
    fn request(
        &self,
        replies: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> impl Future<Output = RedisResult<Values>> {
        let shared = &*self.0.shared;
        let (answer, answered) = oneshot::channel();
        let entered = shared.enter(replies, answer, |requests| write(&mut requests.unsent));
        async move {
            let reads = entered?;
            shared.in_time(shared.answer(answered, reads)).await
        }
    }
}

/// The command that reads an entry, or the beginning of a large one. A hit is nothing else, so it does without a [`Cmd`], and all but
/// copying is done before the connection is locked.
struct ReadCommand<'k> {
    key: &'k [u8],
    length: itoa::Buffer,
}

impl<'k> ReadCommand<'k> {
    /// What comes before the length of the key.
    const HEAD: &'static [u8] = b"*4\r\n$8\r\nGETRANGE\r\n$";
    /// What comes after the key: the places of the first and the last byte that is read.
    const TAIL: &'static [u8] = b"\r\n$1\r\n0\r\n$6\r\n131071\r\n";

    fn new(key: &'k Key) -> Self {
        const { assert!(LARGE_ENTRY - 1 == 131_071) };
        Self {
            key: key.as_bytes(),
            length: itoa::Buffer::new(),
        }
    }

    /// Returns what is to be copied.
    fn parts(&mut self) -> [&[u8]; 5] {
        let length = self.length.format(self.key.len()).as_bytes();
        [Self::HEAD, length, b"\r\n", self.key, Self::TAIL]
    }
}

/// Copies a command to what is not sent yet.
fn copy(parts: [&[u8]; 5], unsent: &mut Vec<u8>) {
    for part in parts {
        unsent.extend_from_slice(part);
    }
}

impl Requests {
    /// Adds a request whose command was written to what is not sent yet.
    fn await_replies(&mut self, replies: usize, answers: SmallVec<[Answer; 1]>) {
        self.in_flight.push_back(Request {
            missing: replies,
            values: Values::with_capacity(replies),
            answers,
            checks: self.checks,
        });
    }

    fn closed_error(&self) -> RedisError {
        let ended = || Closed::new("the connection has ended");
        self.closed.clone().unwrap_or_else(ended).error()
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replies(&self) -> MutexGuard<'_, Replies> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request, and sends it if nobody else will. Returns whether its caller has to read.
    fn enter(
        &self,
        replies: usize,
        answer: Answer,
        write: impl FnOnce(&mut Requests),
    ) -> RedisResult<bool> {
        let mut requests = self.requests();
        if requests.closed.is_some() {
            return Err(requests.closed_error());
        }
        if requests.unsent.len() > MOST_UNSENT {
            return Err((ErrorKind::Client, "too much waits to be sent to Redis").into());
        }
        write(&mut requests);
        requests.await_replies(replies, smallvec::smallvec![answer]);
        let in_flight = requests.in_flight.len();
        requests.most = requests.most.max(in_flight);
        requests.is_calm &= in_flight == 1;
        let mode = match requests.mode {
            Mode::Idle | Mode::Alone if in_flight == 1 => Mode::Alone,
            Mode::Few if requests.is_calm => Mode::Alone,
            Mode::Idle | Mode::Alone | Mode::Few if in_flight <= FEW => Mode::Few,
            _ => Mode::Many,
        };
        // The task acts otherwise from now on, or has to write.
        let wakes = requests.task_waits && (mode != requests.mode || mode == Mode::Many);
        requests.task_waits &= !wakes;
        requests.mode = mode;
        if mode == Mode::Many {
            drop(requests);
        } else {
            self.write(requests);
        }
        if wakes {
            self.work.notify_one();
        }
        Ok(mode == Mode::Alone)
    }

    /// Writes what the socket takes, also what others add in the meantime. The rest is left to the task.
    fn write<'s>(&'s self, mut requests: MutexGuard<'s, Requests>) {
        if requests.is_writing {
            return;
        }
        requests.is_writing = true;
        for _ in 0..WRITES {
            requests.write_beside();
            if requests.unsent.is_empty() {
                break;
            }
            let spare = std::mem::take(&mut requests.spare);
            let mut bytes = std::mem::replace(&mut requests.unsent, spare);
            // A system call takes long, so others must not wait for the lock.
            drop(requests);
            let written = self.socket.try_write(&bytes);
            requests = self.requests();
            match written {
                Ok(all) if all == bytes.len() => {
                    bytes.clear();
                    if bytes.capacity() <= KEPT {
                        requests.spare = bytes;
                    }
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    drop(requests);
                    self.close(&error.into());
                    return;
                }
                written => {
                    bytes.drain(..written.unwrap_or(0));
                    bytes.append(&mut requests.unsent);
                    requests.unsent = bytes;
                    requests.is_blocked = true;
                    break;
                }
            }
        }
        requests.is_writing = false;
        if !requests.unsent.is_empty() {
            requests.mode = Mode::Many;
            if std::mem::take(&mut requests.task_waits) {
                self.work.notify_one();
            }
        }
    }

    /// Returns the answer to a request, whose caller reads or not.
    async fn answer(
        &self,
        answered: oneshot::Receiver<RedisResult<Values>>,
        reads: bool,
    ) -> RedisResult<Values> {
        let answered = match reads {
            true => self.read_until(answered).await,
            false => answered.await,
        };
        answered.unwrap_or_else(|_| Err(self.requests().closed_error()))
    }

    /// Waits for an answer. If the caller is in another runtime than that of the task, which may not run while this one does, nobody
    /// else may look at the time.
    async fn in_time<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        if !self.is_of_another_runtime() {
            return answer.await;
        }
        let bounded = Deadline::after(self.timeout + self.check_every()).bound(answer);
        let bounded = Box::pin(bounded).await;
        bounded.unwrap_or_else(|| Err(timed_out(self.timeout)))
    }

    fn is_of_another_runtime(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() != self.runtime)
    }

    /// Reads until the answer is there.
    async fn read_until(
        &self,
        mut answered: oneshot::Receiver<RedisResult<Values>>,
    ) -> Result<RedisResult<Values>, oneshot::error::RecvError> {
        loop {
            tokio::select! {
                biased;
                answer = &mut answered => return answer,
                readable = self.socket.readable() => self.receive(readable),
            }
        }
    }

    /// Reads what has arrived, and gives the replies to their callers.
    fn receive(&self, readable: io::Result<()>) {
        if let Err(error) = readable {
            self.close(&error.into());
            return;
        }
        let mut replies = self.replies();
        let received = replies.receive(|room| self.socket.try_read(room));
        let mut answered: SmallVec<[(SmallVec<[Answer; 1]>, Values); 8]> = SmallVec::new();
        let mut requests = self.requests();
        let mut odd = None;
        for value in replies.take() {
            let Some(first) = requests.in_flight.front_mut() else {
                odd = Some(value);
                break;
            };
            first.values.push(value);
            first.missing -= 1;
            if first.missing == 0
                && let Some(request) = requests.in_flight.pop_front()
            {
                answered.push((request.answers, request.values));
            }
        }
        drop(requests);
        drop(replies);
        for (mut answers, values) in answered {
            // A caller may have been dropped.
            let last = answers.pop();
            for answer in answers {
                let _answered = answer.send(Ok(values.clone()));
            }
            let _answered = last.map(|answer| answer.send(Ok(values)));
        }
        match (received, odd) {
            (Err(closed), _) => self.close(&closed),
            (Ok(()), Some(odd)) => {
                // Such as why it does not want the connection.
                let why = odd.extract_error().err();
                let why = why.map(|error| printed::short(&error));
                let why = why.unwrap_or_else(|| "it is no error".to_owned());
                self.close(&Closed::new(&format!(
                    "Redis has sent a reply that nobody asked for: {why}"
                )));
            }
            (Ok(()), None) => {}
        }
    }

    /// Ends the connection, because it was lost.
    fn close(&self, why: &Closed) {
        if self.end(why) {
            (self.on_lost)();
        }
    }

    /// Ends the connection, if it has not ended. All requests in flight fail.
    fn end(&self, why: &Closed) -> bool {
        let mut requests = self.requests();
        if requests.closed.is_some() {
            return false;
        }
        requests.closed = Some(why.clone());
        requests.unsent = Vec::new();
        let failed = std::mem::take(&mut requests.in_flight);
        let beside = std::mem::take(&mut requests.beside);
        drop(requests);
        let failed = failed.into_iter().map(|request| request.answers);
        let failed = failed.chain(beside.into_iter().map(|beside| beside.answers));
        for answer in failed.flatten() {
            let _answered = answer.send(Err(why.error()));
        }
        self.work.notify_one();
        true
    }
}

/// The task of a connection.
async fn run(shared: Arc<Shared>) {
    let closing = Closing(&shared);
    let mut checks = tokio::time::interval(shared.check_every());
    checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if shared.requests().mode == Mode::Many {
            // The callers that can run add their requests first.
            tokio::task::yield_now().await;
            shared.write(shared.requests());
        }
        let Some((mode, is_blocked)) = shared.wait() else {
            break;
        };
        tokio::select! {
            readable = shared.socket.readable(), if mode != Mode::Alone => shared.receive(readable),
            // Whatever is wrong, the next write finds it.
            _ = shared.socket.writable(), if is_blocked => {}
            () = shared.work.notified() => {}
            _ = checks.tick(), if mode != Mode::Idle => {
                // The next one comes no earlier than after a whole period.
                checks.reset();
                shared.check();
            }
        }
        let mut requests = shared.requests();
        requests.task_waits = false;
        requests.is_blocked = false;
    }
    drop(closing);
}

impl Shared {
    fn check_every(&self) -> Duration {
        (self.timeout / CHECKS).clamp(SHORTEST_CHECK, LONGEST_CHECK)
    }

    /// Called before the task waits. Returns the mode, and whether it has to write again; `None` if the connection has ended.
    fn wait(&self) -> Option<(Mode, bool)> {
        let mut requests = self.requests();
        if requests.closed.is_some() {
            return None;
        }
        requests.task_waits = true;
        if !requests.unsent.is_empty() && !requests.is_blocked && !requests.is_writing {
            // Added since it wrote.
            self.work.notify_one();
        }
        Some((requests.mode, requests.is_blocked))
    }

    /// Fails the requests that have waited for as long as the timeout, whose replies are still read. Then adapts to how many
    /// there were.
    fn check(&self) {
        let mut requests = self.requests();
        requests.checks += 1;
        // The first check may have come at once.
        let checks = self
            .timeout
            .as_nanos()
            .div_ceil(self.check_every().as_nanos());
        let checks = u64::try_from(checks).unwrap_or(u64::MAX);
        let late_before = requests.checks.saturating_sub(checks);
        let late = requests.in_flight.iter_mut();
        let late = late.take_while(|request| request.checks < late_before);
        let late: Vec<_> = late.flat_map(|request| request.answers.drain(..)).collect();
        let in_flight = requests.in_flight.len();
        let most = std::mem::replace(&mut requests.most, in_flight);
        requests.is_calm = most == 1;
        let has_left = |request: &Request| request.answers.iter().all(Answer::is_closed);
        requests.mode = match most {
            // Only in this mode the task writes what is left.
            _ if !requests.unsent.is_empty() => Mode::Many,
            0 => Mode::Idle,
            // Nobody reads the reply.
            1 if requests.in_flight.front().is_some_and(has_left) => Mode::Few,
            1 if in_flight == 0 => Mode::Alone,
            1..=FEW => Mode::Few,
            _ => requests.mode,
        };
        drop(requests);
        for answer in late {
            let _answered = answer.send(Err(timed_out(self.timeout)));
        }
    }
}

/// Ends the connection also if its task is stopped with its runtime.
struct Closing<'c>(&'c Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let reason = "the runtime of the connection has ended";
        // Whoever sends something next finds out. Here nothing can be spawned.
        self.0.end(&Closed::new(reason));
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let reason = "the connection was closed";
        self.shared.end(&Closed::new(reason));
    }
}

fn timed_out(waited: Duration) -> RedisError {
    let message = format!("Redis has not answered within {waited:?}");
    io::Error::new(io::ErrorKind::TimedOut, message).into()
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").finish_non_exhaustive()
    }
}
