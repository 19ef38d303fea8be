//! The connection against a server that answers as a test says: whoever leaves, whatever arrives, and in whatever pieces.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use futures_util::FutureExt as _;
use redis::IntoConnectionInfo as _;

use super::*;
use crate::clock::Stopwatch;

const PATIENCE: Duration = Duration::from_secs(20);

/// A client, as the server sees it.
struct Client {
    stream: TcpStream,
    /// A command is an array of strings, as a reply may be.
    arrived: Replies,
    commands: VecDeque<Vec<String>>,
}

impl Client {
    /// Returns the words of the next command; `None` if the client has left.
    fn command(&mut self) -> Option<Vec<String>> {
        while self.commands.is_empty() {
            // Less than there is room for, so that nothing more is waited for.
            let read = |room: &mut [u8]| {
                let most = room.len() - 1;
                self.stream.read(&mut room[..most])
            };
            self.arrived.receive(read).ok()?;
            let commands = self.arrived.take();
            self.commands
                .extend(commands.map(|command| redis::from_redis_value(command).expect("words")));
        }
        self.commands.pop_front()
    }

    fn reply(&mut self, reply: &str) {
        // The client may have left.
        let _sent = self.stream.write_all(reply.as_bytes());
    }
}

/// Serves one connection on a thread of its own: the greeting, and then what the function does.
fn serve(serving: impl FnOnce(Client) + Send + 'static) -> ConnectionInfo {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let mut client = Client {
            stream,
            arrived: Replies::default(),
            commands: VecDeque::new(),
        };
        for reply in ["%1\r\n$5\r\nproto\r\n:3\r\n", "-ERR unknown subcommand\r\n"] {
            client.command().expect("a greeting");
            client.reply(reply);
        }
        serving(client);
    });
    let info = format!("redis://{address}").into_connection_info();
    info.expect("a URL")
}

async fn open(info: &ConnectionInfo, timeout: Duration) -> (Direct, Arc<AtomicUsize>) {
    let lost = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lost);
    let on_lost = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let opened = Direct::open(info, PATIENCE, timeout, on_lost).await;
    (opened.expect("no failure").expect("no TLS"), lost)
}

/// Answers each command with its last argument, when a permission arrives.
fn echo_when_let(lets: mpsc::Receiver<()>) -> ConnectionInfo {
    serve(move |mut client| {
        while lets.recv().is_ok() {
            let Some(command) = client.command() else {
                return;
            };
            let last = command.last().expect("a name");
            client.reply(&format!("${}\r\n{last}\r\n", last.len()));
        }
    })
}

async fn echo(direct: &Direct, text: &str) -> RedisResult<String> {
    let mut command = redis::cmd("ECHO");
    command.arg(text);
    let reply = direct.send_packed_command(&command).await?;
    Ok(redis::from_redis_value(reply).expect("text"))
}

/// Reads an entry and a clock.
async fn read(direct: &Direct, key: &str, clock: &str) -> RedisResult<[Value; 2]> {
    let [key, clock] = [key, clock].map(|name| Key::from_bytes(name.as_bytes()));
    let command = || {
        let mut command = redis::cmd("CLOCK");
        command.arg(clock.as_bytes());
        command
    };
    direct.read_beginning_and(&key, &clock, command).await
}

fn runtimes() -> [tokio::runtime::Runtime; 2] {
    let one = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let two = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    [one, two].map(|runtime| runtime.expect("a runtime"))
}

/// A generator of small numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Reads a reply of this protocol that arrives in pieces of a certain length.
fn parsed(bytes: &[u8], piece: usize) -> Result<Vec<Value>, Closed> {
    let mut replies = Replies::default();
    let mut values = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut rest = piece;
        replies.receive(|room| match rest.read(room)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            length => Ok(length),
        })?;
        values.extend(replies.take());
    }
    Ok(values)
}

#[test]
fn replies_in_pieces_are_what_redis_rs_reads_at_once() {
    let replies = [
        "+OK\r\n",
        "-ERR no\r\n",
        ":-12\r\n",
        "$0\r\n\r\n",
        "$-1\r\n",
        "$5\r\na\r\nb\n\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n+y\r\n$-1\r\n",
        "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
        "~2\r\n:1\r\n:2\r\n",
        "_\r\n",
        "#t\r\n",
        ",1.5\r\n",
        "=8\r\ntxt:text\r\n",
        "!5\r\nERR x\r\n",
        "|1\r\n+ttl\r\n:5\r\n$1\r\nv\r\n",
    ];
    let expected: Vec<_> = replies
        .iter()
        .map(|reply| redis::parse_redis_value(reply.as_bytes()).expect(reply))
        .collect();
    let all = replies.concat();
    for piece in 1..=all.len() {
        let values = parsed(all.as_bytes(), piece);
        let values = values.unwrap_or_else(|closed| panic!("{piece}: {}", closed.0));
        assert_eq!(values, expected, "in pieces of {piece}");
    }
}

#[test]
fn messages_are_not_taken_for_replies() {
    let values = parsed(b":1\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n:2\r\n", 3);
    assert_eq!(values.ok(), Some(vec![Value::Int(1), Value::Int(2)]));
}

#[test]
fn long_replies_are_read_and_their_room_is_given_back() {
    let long = "x".repeat(5 << 20);
    let reply = format!("${}\r\n{long}\r\n:1\r\n", long.len());
    let values = parsed(reply.as_bytes(), 100_000).unwrap_or_default();
    assert_eq!(
        values,
        [Value::BulkString(long.into_bytes()), Value::Int(1)]
    );
    let mut replies = Replies::default();
    let mut rest = reply.as_bytes();
    let mut read = |room: &mut [u8]| match rest.read(room)? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        length => Ok(length),
    };
    assert!(replies.receive(&mut read).is_ok());
    assert!(replies.room() <= KEPT);
}

#[test]
fn what_is_no_reply_closes_the_connection() {
    let malformed = [
        "hello\r\n",
        "$x\r\n",
        "*99999999999\r\n",
        "\n",
        "\r\n",
        ":\n",
        "$1\r\na\r\n\n",
        "*1\r\n\n",
        "*2\r\n+x\n$13\r\n*4294967295\r\n\r\n",
        "$1\r\nabc",
        "$1\n",
    ];
    for bytes in malformed {
        for piece in 1..=bytes.len() {
            assert!(parsed(bytes.as_bytes(), piece).is_err(), "{bytes:?}");
        }
    }
    for bytes in [
        "%1",
        "*4294967295\r\n",
        "%4294967295\r\n|4294967295\r\n",
        "$4294967295\r\nx",
    ] {
        assert_eq!(
            parsed(bytes.as_bytes(), 3).ok(),
            Some(Vec::new()),
            "{bytes:?}"
        );
    }
    let info = serve(|mut client| {
        client.command();
        client.reply("?\r\n");
        client.command();
    });
    for runtime in runtimes().into_iter().take(1) {
        runtime.block_on(async {
            let (direct, lost) = open(&info, PATIENCE).await;
            let error = echo(&direct, "a").await.expect_err("no reply");
            assert!(error.is_connection_dropped(), "{error}");
            assert_eq!(lost.load(Ordering::SeqCst), 1);
        });
    }
}

/// Many callers, of which some leave at any point: everyone who stays gets the answer to his own request.
#[test]
fn everybody_gets_his_own_reply_whoever_leaves() {
    for seed in 1..=12_u64 {
        for runtime in runtimes() {
            let info = serve(move |mut client| {
                let mut random = Random(seed);
                let mut replies = String::new();
                while let Some(command) = client.command() {
                    let name = &command[1];
                    replies += &format!("${}\r\n{name}\r\n", name.len());
                    // In pieces that have nothing to do with the replies.
                    let now = usize::try_from(random.below(60)).expect("small");
                    let piece = now.min(replies.len());
                    if client.commands.is_empty() || piece > 30 {
                        let rest = replies.split_off(piece);
                        client.reply(&replies);
                        client.reply(&rest);
                        replies.clear();
                    }
                }
            });
            runtime.block_on(async move {
                let (direct, lost) = open(&info, PATIENCE).await;
                let callers = [1, 2, 5, 9, 40][usize::try_from(seed % 5).expect("small")];
                let mut tasks = Vec::new();
                for caller in 0..callers {
                    let direct = direct.clone();
                    tasks.push(tokio::spawn(async move {
                        let mut random = Random(seed * 1_000 + caller + 1);
                        for round in 0..150 {
                            let text = format!("{caller}-{round}");
                            let clock = format!("clock {}", random.below(3));
                            let polls = random.below(4);
                            let mut call = match random.below(2) {
                                0 => echo(&direct, &text).map(drop).boxed(),
                                _ => read(&direct, &text, &clock).map(drop).boxed(),
                            };
                            for _ in 0..polls {
                                if (&mut call).now_or_never().is_some() {
                                    break;
                                }
                                tokio::task::yield_now().await;
                            }
                            drop(call);
                            if random.below(3) > 0 {
                                let answer = echo(&direct, &text).await.expect("an answer");
                                assert_eq!(answer, text);
                            }
                            if random.below(3) > 0 {
                                let answers = read(&direct, &text, &clock).await;
                                let answers = answers.expect("two answers").map(|answer| {
                                    redis::from_redis_value::<String>(answer).expect("text")
                                });
                                assert_eq!(answers, [text, clock]);
                            }
                        }
                    }));
                }
                for task in tasks {
                    task.await.expect("no panic");
                }
                assert_eq!(lost.load(Ordering::SeqCst), 0);
            });
        }
    }
}

#[test]
fn caller_that_is_not_polled_delays_no_other() {
    for runtime in runtimes() {
        let (lets, permitted) = mpsc::channel();
        let info = echo_when_let(permitted);
        runtime.block_on(async {
            let (direct, _) = open(&info, PATIENCE).await;
            let mut first = Box::pin(echo(&direct, "first"));
            assert!((&mut first).now_or_never().is_none());
            assert!(direct.0.shared.requests().mode == Mode::Alone);
            for _ in 0..3 {
                lets.send(()).expect("a server");
            }
            assert_eq!(
                echo(&direct, "second").await.ok().as_deref(),
                Some("second")
            );
            drop(first);
            assert_eq!(echo(&direct, "third").await.ok().as_deref(), Some("third"));
        });
    }
}

#[test]
fn late_reply_is_given_to_nobody() {
    for callers in [1, 3, 20] {
        for runtime in runtimes() {
            let (lets, permitted) = mpsc::channel();
            let info = echo_when_let(permitted);
            runtime.block_on(async {
                let (direct, lost) = open(&info, Duration::from_millis(500)).await;
                let texts: Vec<_> = (0..callers)
                    .map(|caller| format!("late {caller}"))
                    .collect();
                let calls = texts.iter().map(|text| echo(&direct, text));
                for answer in futures_util::future::join_all(calls).await {
                    let error = answer.expect_err("the server was silent");
                    assert!(error.is_timeout(), "{error}");
                }
                for _ in 0..=callers {
                    lets.send(()).expect("a server");
                }
                assert_eq!(echo(&direct, "now").await.ok().as_deref(), Some("now"));
                assert_eq!(lost.load(Ordering::SeqCst), 0);
            });
        }
    }
}

#[test]
fn callers_wait_for_as_long_as_the_timeout() {
    for timeout in [200, 1_300].map(Duration::from_millis) {
        for callers in [1, 3, 20] {
            let (_lets, permitted) = mpsc::channel();
            let info = echo_when_let(permitted);
            let [runtime, _] = runtimes();
            runtime.block_on(async {
                let (direct, _) = open(&info, timeout).await;
                let began = Stopwatch::start();
                let calls = (0..callers).map(|_| echo(&direct, "a"));
                for answer in futures_util::future::join_all(calls).await {
                    assert!(answer.is_err_and(|error| error.is_timeout()));
                }
                assert!(began.elapsed() >= timeout, "{:?}", began.elapsed());
            });
        }
    }
}

#[test]
fn lost_connection_fails_all_and_is_told_once() {
    for callers in [1, 3, 20] {
        for runtime in runtimes() {
            let info = serve(move |mut client| {
                for _ in 0..callers {
                    client.command();
                }
            });
            runtime.block_on(async {
                let (direct, lost) = open(&info, PATIENCE).await;
                let calls = (0..callers).map(|_| echo(&direct, "a"));
                for answer in futures_util::future::join_all(calls).await {
                    let error = answer.expect_err("the server has left");
                    assert!(error.is_connection_dropped(), "{error}");
                }
                assert!(echo(&direct, "b").await.is_err());
                assert_eq!(lost.load(Ordering::SeqCst), 1);
            });
        }
    }
}

#[test]
fn idle_connection_that_is_lost_is_noticed() {
    let (ends, end) = mpsc::channel();
    let info = serve(move |mut client| {
        client.command();
        client.reply("$1\r\na\r\n");
        end.recv().expect("a test");
    });
    let [runtime, _] = runtimes();
    runtime.block_on(async {
        let (direct, lost) = open(&info, Duration::from_millis(80)).await;
        assert_eq!(echo(&direct, "a").await.ok().as_deref(), Some("a"));
        ends.send(()).expect("a server");
        let noticed = async {
            while lost.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, noticed)
            .await
            .expect("it is noticed");
    });
}

#[test]
fn command_that_the_socket_does_not_take_at_once_is_sent_whole() {
    for runtime in runtimes() {
        let info = serve(|mut client| {
            while let Some(command) = client.command() {
                let length: usize = command.iter().map(String::len).sum();
                client.reply(&format!(":{length}\r\n"));
            }
        });
        runtime.block_on(async {
            let (direct, _) = open(&info, PATIENCE).await;
            let long = "x".repeat(8 << 20);
            let mut command = redis::cmd("ECHO");
            command.arg(&long);
            let short = redis::cmd("ECHO");
            let (first, second, third) = tokio::join!(
                direct.send_packed_command(&command),
                direct.send_packed_command(&short),
                direct.send_packed_command(&command),
            );
            let long = i64::try_from(long.len()).expect("small") + 4;
            assert_eq!(first.ok(), Some(Value::Int(long)));
            assert_eq!(second.ok(), Some(Value::Int(4)));
            assert_eq!(third.ok(), Some(Value::Int(long)));
            assert!(direct.0.shared.requests().spare.capacity() <= KEPT);
        });
    }
}

#[test]
fn command_that_is_sent_in_part_and_dropped_stops_nobody() {
    let (lets, permitted) = mpsc::channel();
    let info = serve(move |mut client| {
        permitted.recv().expect("a test");
        while let Some(command) = client.command() {
            client.reply(&format!(":{}\r\n", command.len()));
        }
    });
    let [runtime, _] = runtimes();
    runtime.block_on(async {
        let (direct, _) = open(&info, PATIENCE).await;
        let mut long = redis::cmd("ECHO");
        long.arg("x".repeat(8 << 20));
        let mut left = Box::pin(direct.send_packed_command(&long));
        assert!((&mut left).now_or_never().is_none());
        assert!(direct.0.shared.requests().mode == Mode::Many);
        drop(left);
        // Some checks later the only thread of this runtime still runs other tasks.
        let checks = || direct.0.shared.requests().checks;
        let later = checks() + 4;
        let checked = async {
            while checks() < later {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let checked = tokio::time::timeout(PATIENCE, checked).await;
        checked.expect("it is checked");
        lets.send(()).expect("a server");
        let reply = direct
            .send_packed_command(redis::cmd("ECHO").arg("a"))
            .await;
        assert_eq!(reply.ok(), Some(Value::Int(2)));
    });
}

#[test]
fn too_much_that_waits_to_be_sent_is_refused() {
    let (_lets, permitted) = mpsc::channel::<()>();
    let info = serve(move |_client| {
        let _end = permitted.recv();
    });
    let [runtime, _] = runtimes();
    runtime.block_on(async {
        let (direct, lost) = open(&info, PATIENCE).await;
        let mut long = redis::cmd("ECHO");
        long.arg("x".repeat(4 << 20));
        let mut waiting = Vec::new();
        let refused = loop {
            let mut call = Box::pin(direct.send_packed_command(&long));
            match (&mut call).now_or_never() {
                None => waiting.push(call),
                Some(answer) => break answer.expect_err("nothing was sent"),
            }
            assert!(waiting.len() < 20, "nothing is refused");
        };
        assert!(refused.to_string().contains("too much waits"), "{refused}");
        assert_eq!(lost.load(Ordering::SeqCst), 0);
    });
}

/// The task of the connection does not run, so it cannot look at the time.
#[test]
fn callers_of_another_runtime_wait_no_longer_than_the_timeout() {
    for callers in [1, 3, 20] {
        let (_lets, permitted) = mpsc::channel();
        let info = echo_when_let(permitted);
        let [first, second] = runtimes();
        let (direct, _) = first.block_on(open(&info, Duration::from_millis(200)));
        second.block_on(async {
            let calls = (0..callers).map(|_| echo(&direct, "a"));
            let answers = futures_util::future::join_all(calls);
            let answers = tokio::time::timeout(PATIENCE, answers).await;
            for answer in answers.expect("in time") {
                assert!(answer.is_err_and(|error| error.is_timeout()));
            }
        });
    }
}

#[test]
fn caller_who_was_met_by_another_is_alone_again() {
    let (lets, permitted) = mpsc::channel();
    let info = echo_when_let(permitted);
    let [runtime, _] = runtimes();
    runtime.block_on(async {
        let (direct, _) = open(&info, PATIENCE).await;
        let both = async { tokio::join!(echo(&direct, "a"), echo(&direct, "b")) };
        for _ in 0..200_000 {
            // The server may be gone when the test ends.
            let _sent = lets.send(());
        }
        let (first, second) = both.await;
        assert!(first.is_ok() && second.is_ok());
        let again = async {
            while direct.0.shared.requests().mode != Mode::Alone {
                assert!(echo(&direct, "c").await.is_ok());
            }
        };
        let again = tokio::time::timeout(PATIENCE, again).await;
        again.expect("it is alone again");
    });
}

#[test]
fn connection_adapts_to_its_callers() {
    let (lets, permitted) = mpsc::channel();
    let info = echo_when_let(permitted);
    let [runtime, _] = runtimes();
    runtime.block_on(async {
        let (direct, _) = open(&info, PATIENCE).await;
        let mode = || direct.0.shared.requests().mode;
        let until = async |wanted: Mode| {
            let reached = async {
                while mode() != wanted {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let reached = tokio::time::timeout(PATIENCE, reached).await;
            reached.expect("the mode is reached");
        };
        until(Mode::Idle).await;
        for (callers, expected) in [(1, Mode::Alone), (FEW, Mode::Few), (FEW + 1, Mode::Many)] {
            let calls = (0..callers).map(|_| echo(&direct, "a"));
            let mut calls = std::pin::pin!(futures_util::future::join_all(calls));
            assert!(calls.as_mut().now_or_never().is_none());
            assert!(mode() == expected, "{callers} callers");
            for _ in 0..callers {
                lets.send(()).expect("a server");
            }
            for answer in calls.await {
                assert_eq!(answer.ok().as_deref(), Some("a"));
            }
            until(Mode::Idle).await;
        }
        // One that has left alone: its reply is read.
        let mut left = Box::pin(echo(&direct, "left"));
        assert!((&mut left).now_or_never().is_none());
        drop(left);
        lets.send(()).expect("a server");
        until(Mode::Idle).await;
        assert!(direct.0.shared.requests().in_flight.is_empty());
    });
}

#[test]
fn runtime_that_ends_fails_the_callers_of_others() {
    let (_lets, permitted) = mpsc::channel();
    let info = echo_when_let(permitted);
    let [first, second] = runtimes();
    let (direct, lost) = first.block_on(open(&info, PATIENCE));
    let waiting = second.spawn({
        let direct = direct.clone();
        async move {
            let calls = (0..3).map(|_| echo(&direct, "a"));
            futures_util::future::join_all(calls).await
        }
    });
    first.block_on(async {
        while direct.0.shared.requests().in_flight.len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    drop(first);
    for answer in second.block_on(waiting).expect("no panic") {
        assert!(answer.is_err_and(|error| error.is_connection_dropped()));
    }
    // It is found when it is used again: here nothing could be spawned.
    assert_eq!(lost.load(Ordering::SeqCst), 0);
}

#[test]
fn pipelines_have_a_reply_for_each_command() {
    let info = serve(|mut client| {
        for reply in [":1\r\n", "-ERR no\r\n", "*1\r\n$1\r\nx\r\n"] {
            client.command();
            client.reply(reply);
        }
    });
    let [runtime, _] = runtimes();
    runtime.block_on(async {
        let (direct, _) = open(&info, PATIENCE).await;
        let none = direct.send_packed_commands(&redis::pipe()).await;
        assert_eq!(none.ok(), Some(Vec::new()));
        let mut pipeline = redis::pipe();
        for name in ["A", "B", "C"] {
            pipeline.cmd(name);
        }
        let values = direct
            .send_packed_commands(&pipeline)
            .await
            .expect("replies");
        assert_eq!(values[0], Value::Int(1));
        assert!(matches!(values[1], Value::ServerError(_)));
        assert_eq!(
            values[2],
            Value::Array(vec![Value::BulkString(b"x".to_vec())])
        );
    });
}

/// Readers that meet share a clock, which is read after the entries of all of them.
#[test]
fn clock_is_read_once_for_those_who_meet_and_after_their_entries() {
    const READERS: usize = 40;
    for runtime in runtimes() {
        let (seen, clocks) = mpsc::channel();
        let info = serve(move |mut client| {
            let mut place = 0;
            while let Some(command) = client.command() {
                place += 1;
                if command[0] == "CLOCK" {
                    seen.send(place).expect("the test waits");
                }
                client.reply(&format!(":{place}\r\n"));
            }
        });
        runtime.block_on(async {
            let (direct, _) = open(&info, PATIENCE).await;
            let keys: Vec<_> = (0..READERS).map(|reader| reader.to_string()).collect();
            let readers = keys.iter().map(|key| read(&direct, key, "clock"));
            for places in futures_util::future::join_all(readers).await {
                let [entry, clock] = places
                    .expect("two answers")
                    .map(|place| redis::from_redis_value::<usize>(place).expect("a place"));
                assert!(entry < clock, "the clock was read before the entry");
            }
            let readings = clocks.try_iter().count();
            assert!((1..READERS / 2).contains(&readings), "{readings}");
        });
    }
}

#[test]
fn connection_that_is_lost_fails_those_who_wait_for_a_clock() {
    for readers in [1, 3, 20] {
        for runtime in runtimes() {
            // The entries are answered, and no clock is.
            let info = serve(move |mut client| {
                for _ in 0..readers {
                    if client
                        .command()
                        .is_some_and(|command| command[0] == "CLOCK")
                    {
                        return;
                    }
                    client.reply(":1\r\n");
                }
            });
            runtime.block_on(async {
                let (direct, lost) = open(&info, PATIENCE).await;
                let keys: Vec<_> = (0..readers).map(|reader| reader.to_string()).collect();
                let calls = keys.iter().map(|key| read(&direct, key, "clock"));
                for answer in futures_util::future::join_all(calls).await {
                    let error = answer.expect_err("the server has left");
                    assert!(error.is_connection_dropped(), "{error}");
                }
                assert_eq!(lost.load(Ordering::SeqCst), 1);
                assert!(direct.0.shared.requests().beside.is_empty());
            });
        }
    }
}

#[test]
fn late_clock_is_given_to_nobody() {
    for readers in [1, 3, 20] {
        for runtime in runtimes() {
            let (lets, permitted) = mpsc::channel();
            let info = serve(move |mut client| {
                let mut is_permitted = false;
                while let Some(command) = client.command() {
                    if command[0] == "CLOCK" && !is_permitted {
                        is_permitted = permitted.recv().is_ok();
                    }
                    client.reply(&format!("${}\r\n{}\r\n", command[1].len(), command[1]));
                }
            });
            runtime.block_on(async {
                let (direct, lost) = open(&info, Duration::from_millis(500)).await;
                let keys: Vec<_> = (0..readers).map(|reader| reader.to_string()).collect();
                let calls = keys.iter().map(|key| read(&direct, key, "clock"));
                for answer in futures_util::future::join_all(calls).await {
                    let error = answer.expect_err("the server was silent");
                    assert!(error.is_timeout(), "{error}");
                }
                lets.send(()).expect("a server");
                assert_eq!(echo(&direct, "now").await.ok().as_deref(), Some("now"));
                assert_eq!(lost.load(Ordering::SeqCst), 0);
            });
        }
    }
}
