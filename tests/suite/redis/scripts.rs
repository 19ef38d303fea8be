//! The Lua scripts implement the rules of `state.rs`: random sequences of operations run with both. After every step, the
//! test compares the bytes, the time to live, the reply and the wake-ups.
//!
//! To let time pass, the test shortens the key's time to live on both sides. The real time that passes is measured and
//! bounds the comparison, so the test does not fail on a slow machine.

use std::time::{Duration, Instant};

use larder::{
    claim::Claim,
    entry, family,
    queue_position::{Incarnation, QUEUE_POSITION_LENGTH, QueuePosition},
    state::{
        self, Change, Condition, FOREVER, Identity, Judgement, Lease, Lookup, Meta, Pending, Slot,
        State, Step, Unreadable, Writers,
    },
    store::redis::script_text,
    tags::Stamp,
    token::{ProcessId, Token},
};
use proptest::prelude::*;
use redis::{Commands, Connection, ConnectionLike as _, Script, Value};

use crate::world::{redis_url, unique};

type Model = Option<Slot<Vec<u8>>>;

#[derive(Clone, Debug)]
enum Operation {
    SetIfAbsent {
        lease: u64,
        identity: u8,
    },
    Acquire {
        lease: u64,
        identity: u8,
        /// The token of an entry that may be overwritten.
        outdated: Option<u64>,
    },
    Restamp {
        token: u64,
        stamp: Stamp,
    },
    Wait {
        process: u8,
        identity: u8,
    },
    Fill {
        lease: u64,
        identity: u8,
        negative: bool,
        ttl_ms: u64,
    },
    Release {
        lease: u64,
    },
    Begin {
        intent: u64,
        ttl_ms: u64,
    },
    End {
        intent: u64,
        update: bool,
    },
    Invalidate,
    /// Writes of one key in one script call.
    Put {
        writes: Vec<Write>,
        identity: u8,
    },
    Settle {
        back: u64,
        keep_ms: u64,
    },
    AcquireQueued {
        lease: u64,
        identity: u8,
    },
    Age {
        by_ms: u64,
    },
    Evict,
    /// The entry loses its time to live.
    Persist,
    DropDamaged {
        forged: Option<u64>,
    },
    Damage {
        unreadable: Unreadable,
    },
    /// A value whose flag says that it has a queue position, and which is too short for one.
    ShortPositioned,
    Crowd,
}

#[derive(Clone, Debug)]
struct Write {
    token: u64,
    deletion: bool,
    demand: u8,
}

const LEASE_TTL_MS: u64 = 60_000;
const VALUE_TTL_MS: u64 = 300_000;

fn operation() -> impl Strategy<Value = Operation> {
    // Few tokens and identities, so that operations use the same ones.
    let token = 0..4_u64;
    let identity = 0..2_u8;
    let write = (0..4_u64, any::<bool>(), 0..7_u8).prop_map(|(token, deletion, demand)| Write {
        token,
        deletion,
        demand,
    });
    prop_oneof![
        2 => (token.clone(), identity.clone()).prop_map(|(lease, identity)| Operation::SetIfAbsent { lease, identity }),
        3 => (token.clone(), identity.clone(), prop::option::of(token.clone()))
            .prop_map(|(lease, identity, outdated)| Operation::Acquire { lease, identity, outdated }),
        2 => (token.clone(), 5..7_u64, 0..6_u64).prop_map(|(token, incarnation, time)| Operation::Restamp {
            token,
            stamp: Stamp { incarnation, time },
        }),
        2 => (0..3_u8, identity.clone()).prop_map(|(process, identity)| Operation::Wait { process, identity }),
        4 => (token.clone(), identity, any::<bool>(), prop_oneof![Just(30_000), Just(VALUE_TTL_MS)])
            .prop_map(|(lease, identity, negative, ttl_ms)| Operation::Fill { lease, identity, negative, ttl_ms }),
        1 => token.clone().prop_map(|lease| Operation::Release { lease }),
        4 => (token.clone(), prop_oneof![Just(40_000), Just(80_000)]).prop_map(|(intent, ttl_ms)| Operation::Begin { intent, ttl_ms }),
        4 => (token, any::<bool>()).prop_map(|(intent, update)| Operation::End { intent, update }),
        1 => Just(Operation::Invalidate),
        4 => (prop::collection::vec(write, 1..4), 0..2_u8)
            .prop_map(|(writes, identity)| Operation::Put { writes, identity }),
        2 => (0..2_u64, prop_oneof![Just(0), Just(VALUE_TTL_MS)]).prop_map(|(back, keep_ms)| Operation::Settle { back, keep_ms }),
        2 => (0..4_u64, 0..2_u8).prop_map(|(lease, identity)| Operation::AcquireQueued { lease, identity }),
        2 => (0..50_000_u64).prop_map(|by_ms| Operation::Age { by_ms }),
        1 => Just(Operation::Evict),
        1 => Just(Operation::Persist),
        2 => prop::option::of(0..4_u64).prop_map(|forged| Operation::DropDamaged { forged }),
        2 => prop_oneof![
            Just(Unreadable::Damaged),
            Just(Unreadable::LaterFormat { writing: false }),
            Just(Unreadable::LaterFormat { writing: true }),
        ]
        .prop_map(|unreadable| Operation::Damage { unreadable }),
        1 => Just(Operation::ShortPositioned),
        1 => Just(Operation::Crowd),
    ]
}

fn identity(number: u8) -> Identity {
    Identity {
        history: 7 + u64::from(number),
        fingerprint: 0xABCD_0123,
        codec: 1,
    }
}

fn lease(token: u64, number: u8) -> Lease {
    Lease {
        token: Token::numbered(token),
        identity: identity(number),
    }
}

fn meta_of(lease: Lease) -> Meta {
    Meta {
        lease,
        loaded_at_ms: 1_700_000_000_123,
        stamp: None,
    }
}

/// The same with a stamp, for every second token.
fn stamped_meta_of(lease: Lease) -> Meta {
    let token = u64::from(lease.token.0[15]);
    let stamp = Stamp {
        incarnation: 5,
        time: token,
    };
    Meta {
        stamp: (token % 2 == 1).then_some(stamp),
        ..meta_of(lease)
    }
}

fn entry_of(lease: Lease, negative: bool) -> State<Vec<u8>> {
    let meta = stamped_meta_of(lease);
    if negative {
        State::Negative(meta)
    } else {
        State::Value(meta, b"\x00payload\xff".to_vec())
    }
}

fn process(number: u8) -> ProcessId {
    ProcessId([b'p', 0, 1, 2, 3, 4, 255, number])
}

fn borrowed(state: &State<Vec<u8>>) -> State<&[u8]> {
    match state {
        State::Value(meta, payload) => State::Value(*meta, payload.as_slice()),
        State::Negative(meta) => State::Negative(*meta),
        State::Loading(lease, waiters) => State::Loading(*lease, waiters.clone()),
        State::Writing(writers) => State::Writing(writers.clone()),
        State::Pending(pending, payload) => State::Pending(*pending, payload.as_slice()),
        State::Unreadable(unreadable) => State::Unreadable(*unreadable),
    }
}

fn bytes_of(state: &State<Vec<u8>>) -> Vec<u8> {
    match state {
        State::Unreadable(Unreadable::Damaged) => b"something else entirely".to_vec(),
        State::Unreadable(Unreadable::LaterFormat { writing }) => {
            let number = if *writing { entry::kind::WRITING } else { 99 };
            vec![entry::MAGIC, entry::FORMAT + 1, number, 9, 9]
        }
        state => sealed(entry::encode(&borrowed(state))),
    }
}

/// Returns the same entry with a seal, for every second pair of tokens. The scripts pass over what is in it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let is_sealed = matches!(
        bytes[2],
        entry::kind::VALUE | entry::kind::NEGATIVE | entry::kind::PENDING
    );
    let token = bytes[entry::HEADER_LENGTH - 1];
    if is_sealed && token & 2 == 2 {
        bytes[1] = entry::SEALED;
        let seal = [0xA5; entry::SEAL_LENGTH];
        bytes.splice(entry::HEADER_LENGTH..entry::HEADER_LENGTH, seal);
    }
    bytes
}

/// Returns a settled value as Redis stores it: the queue position precedes the payload, and a flag says so.
fn positioned(meta: Meta, position: QueuePosition, payload: &[u8]) -> Vec<u8> {
    let body = [&position.to_bytes(), payload].concat();
    let mut bytes = entry::encode(&State::Value(meta, &body));
    bytes[3] |= entry::flag::POSITIONED;
    sealed(bytes)
}

/// Both sides of the comparison.
struct Bench {
    redis: Connection,
    news: Connection,
    key: String,
    model: Model,
    /// The latest queued write that is not settled.
    queued: Option<(Pending, Vec<u8>)>,
    puts: u64,
    /// The queue position of the value at the key, if it was settled.
    kept: Option<QueuePosition>,
    /// The bytes of the last damaged entry.
    damaged: Vec<u8>,
    /// When the model's time to live was last read from Redis.
    read_at: Instant,
}

impl Bench {
    fn new() -> Self {
        let client = redis::Client::open(redis_url()).expect("the URL of the test server is valid");
        let mut news = client.get_connection().expect("the test server answers");
        news.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("the timeout is positive");
        redis::cmd("PSUBSCRIBE")
            .arg("larder:wake:*")
            .exec(&mut news)
            .expect("the test server lets us subscribe");
        Self {
            redis: client.get_connection().expect("the test server answers"),
            news,
            key: format!("{{{}:p00}}:1", unique("scripts")),
            model: None,
            queued: None,
            puts: 0,
            kept: None,
            damaged: Vec::new(),
            read_at: now(),
        }
    }

    /// Returns the name of a key of the queue. It begins with the row's key.
    fn queue(&self, part: &str) -> String {
        format!("{}:{part}", self.key)
    }

    /// Sets the history of the queue to that of an identity.
    fn set_history(&mut self, number: u8) {
        redis::cmd("HSET")
            .arg(self.queue("state"))
            .arg(("i", &INCARNATION.to_bytes()))
            .arg(("s", &identity(number).history.to_le_bytes()))
            .arg(("l", self.queue("log:") + &hex(&INCARNATION.to_bytes())))
            .arg(("n", self.puts))
            .arg(("t", 0))
            .arg(("r", 1))
            .exec(&mut self.redis)
            .expect("the command runs");
    }

    fn script_on(&mut self, name: &str, keys: &[String], arguments: &[&[u8]]) -> Value {
        let script = Script::new(&script_text(name).expect("the script exists"));
        let mut invocation = script.prepare_invoke();
        for key in keys {
            invocation.key(key);
        }
        for argument in arguments {
            invocation.arg(*argument);
        }
        invocation.invoke(&mut self.redis).expect("the script runs")
    }

    fn put(&mut self, writes: &[Write], number: u8) -> Vec<ProcessId> {
        self.set_history(number);
        let mut keys = ["state", "pending", "flusher"]
            .map(|part| self.queue(part))
            .to_vec();
        let mut arguments = vec![
            identity(number).history.to_le_bytes().to_vec(),
            b"1000000".to_vec(),
            b"4096".to_vec(),
        ];
        let mut expected = Vec::new();
        let mut woken = Vec::new();
        for write in writes {
            let (code, condition, wanted) = match write.demand {
                0 => (0, Condition::Any, 0),
                1 => (1, Condition::Present, 0),
                2 => (2, Condition::Absent, 0),
                wanted => {
                    let wanted = u64::from(wanted - 3);
                    (3, Condition::Unchanged(Token::numbered(wanted)), wanted)
                }
            };
            let mut pending = Pending {
                position: QueuePosition::from_bytes([0; QUEUE_POSITION_LENGTH]),
                is_deletion: write.deletion,
                meta: Meta {
                    lease: lease(write.token, number),
                    loaded_at_ms: 1_700_000_000_123,
                    stamp: None,
                },
            };
            let payload = b"queued\x00".to_vec();
            keys.push(self.key.clone());
            let mut header = bytes_of(&State::Pending(pending, Vec::new()));
            header.truncate(header.len() - QUEUE_POSITION_LENGTH);
            arguments.extend([
                header,
                payload.clone(),
                code.to_string().into_bytes(),
                Token::numbered(wanted).0.to_vec(),
            ]);
            pending.position = QueuePosition {
                incarnation: INCARNATION,
                number: self.puts + 1,
            };
            let slot = self.model.clone();
            let step = state::put(slot.as_ref(), pending, payload.clone(), condition);
            let (judgement, wake) = self.model_step(step);
            woken.extend(wake);
            expected.push(match judgement {
                Judgement::Met => {
                    self.puts += 1;
                    self.queued = Some((pending, payload));
                    Value::BulkString(pending.position.to_bytes().to_vec())
                }
                Judgement::RowUnknown => Value::Int(3),
                Judgement::ConditionFailed => Value::Int(4),
            });
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let reply = self.script_on("put", &keys, &arguments);
        assert_eq!(reply, Value::Array(expected), "the answers to puts");
        woken
    }

    fn settle(&mut self, back: u64, keep_ms: u64) {
        let position = QueuePosition {
            incarnation: INCARNATION,
            number: self.puts.saturating_sub(back),
        };
        let log = self.queue("log:") + &hex(&INCARNATION.to_bytes());
        let keys = [
            self.queue("state"),
            self.queue("pending"),
            log,
            self.key.clone(),
        ];
        let reply = self.script_on(
            "settle",
            &keys,
            &[
                &INCARNATION.to_bytes(),
                b"0",
                &position.number.to_be_bytes(),
                keep_ms.to_string().as_bytes(),
            ],
        );
        let slot = self.model.clone();
        let (settled, _) = self.model_step(state::settle(slot.as_ref(), position, keep_ms));
        if settled {
            self.kept = Some(position);
        }
        let latest = self
            .queued
            .take_if(|(pending, _)| pending.position == position);
        let cleared = i64::from(settled || latest.is_some());
        assert_eq!(reply, Value::Int(cleared), "the answer to a settlement");
    }

    fn acquire_queued(&mut self, token: u64, number: u8) -> Vec<ProcessId> {
        self.set_history(number);
        let loading = bytes_of(&State::Loading(lease(token, number), Vec::new()));
        let keys = [self.key.clone(), self.queue("pending"), self.queue("state")];
        let prefix = self.queue("log:");
        let reply = self.script_on(
            "acquire_queued",
            &keys,
            &[
                &loading,
                LEASE_TTL_MS.to_string().as_bytes(),
                prefix.as_bytes(),
            ],
        );
        let slot = self.sound();
        let state = slot.as_ref().map(|slot| &slot.state);
        let is_free = matches!(
            state::lookup(state, identity(number)),
            Lookup::Absent | Lookup::Foreign { .. }
        );
        if let (true, Some((pending, payload))) = (is_free, self.queued.clone()) {
            // Restored from the log.
            let restored = State::Pending(pending, payload);
            assert_eq!(reply, Value::BulkString(bytes_of(&restored)));
            self.model = Some(Slot {
                state: restored,
                remaining_ms: FOREVER,
            });
            return match state {
                Some(State::Loading(_, waiters)) => waiters.clone(),
                _ => Vec::new(),
            };
        }
        let there = self.there(b"");
        let step = state::acquire(slot.as_ref(), lease(token, number), LEASE_TTL_MS);
        let (granted, wake) = self.model_step(step);
        assert_eq!(reply, if granted { Value::Nil } else { there });
        wake
    }

    fn script(&mut self, name: &str, arguments: &[&[u8]]) -> Value {
        let script = Script::new(&script_text(name).expect("the script exists"));
        let mut invocation = script.key(&self.key);
        for argument in arguments {
            invocation.arg(*argument);
        }
        invocation.invoke(&mut self.redis).expect("the script runs")
    }

    /// Applies a step to the model. Returns its reply, and the processes that it wakes.
    fn model_step<R>(&mut self, step: Step<Vec<u8>, R>) -> (R, Vec<ProcessId>) {
        match step.change {
            Change::Keep => {}
            Change::Delete => self.model = None,
            Change::Put(state, ttl_ms) => {
                self.kept = None;
                self.model = Some(Slot {
                    state,
                    remaining_ms: ttl_ms,
                });
            }
        }
        (step.reply, step.wake)
    }

    /// Returns the bytes that should be at the key according to the model.
    fn bytes(&self) -> Option<Vec<u8>> {
        let slot = self.model.as_ref()?;
        Some(match (&slot.state, self.kept) {
            (State::Value(meta, payload), Some(position)) => positioned(*meta, position, payload),
            (State::Unreadable(Unreadable::Damaged), _) => self.damaged.clone(),
            (state, _) => bytes_of(state),
        })
    }

    /// Returns the reply of a script that returns the entry at the key.
    fn there(&self, absent: &[u8]) -> Value {
        Value::BulkString(self.bytes().unwrap_or_else(|| absent.to_vec()))
    }

    /// Returns the model as most scripts see it.
    fn sound(&self) -> Model {
        let slot = self.model.clone();
        slot.map(|slot| state::sound(slot, true))
    }

    fn run(&mut self, operation: &Operation) {
        let slot = self.sound();
        let slot = slot.as_ref();
        let wake = match operation {
            Operation::SetIfAbsent {
                lease: token,
                identity,
            } => {
                let loading = State::Loading(lease(*token, *identity), Vec::new());
                let reply: Value = redis::cmd("SET")
                    .arg(&self.key)
                    .arg(bytes_of(&loading))
                    .arg("NX")
                    .arg("GET")
                    .arg("PX")
                    .arg(LEASE_TTL_MS)
                    .query(&mut self.redis)
                    .expect("the command runs");
                if slot.is_some() {
                    assert_eq!(reply, self.there(b""), "SET NX GET tells what is there");
                    Vec::new()
                } else {
                    let (granted, wake) = self.model_step(state::acquire(
                        slot,
                        lease(*token, *identity),
                        LEASE_TTL_MS,
                    ));
                    assert!(
                        granted && reply == Value::Nil,
                        "SET NX GET on an absent key grants the lease"
                    );
                    wake
                }
            }
            Operation::Acquire {
                lease: token,
                identity,
                outdated,
            } => {
                let lease = lease(*token, *identity);
                let outdated = outdated.map(Token::numbered);
                let loading = bytes_of(&State::Loading(lease, Vec::new()));
                let over = outdated.map_or(Vec::new(), |token| token.0.to_vec());
                let reply = self.script(
                    "acquire",
                    &[&loading, LEASE_TTL_MS.to_string().as_bytes(), &over],
                );
                let there = self.there(b"");
                let step = state::acquire_over(slot, lease, LEASE_TTL_MS, outdated);
                let (granted, wake) = self.model_step(step);
                assert_eq!(reply, if granted { Value::Nil } else { there });
                wake
            }
            Operation::Restamp { token, stamp } => {
                let token = Token::numbered(*token);
                let reply = self.script(
                    "restamp",
                    &[
                        &token.0,
                        &entry::encode_stamp(*stamp),
                        stamp.time.to_string().as_bytes(),
                    ],
                );
                let kept = self.kept;
                // It looks at the beginning of the entry only.
                let slot = self.model.clone();
                let (done, wake) = self.model_step(state::restamp(slot.as_ref(), token, *stamp));
                self.kept = kept;
                assert_eq!(reply, Value::Int(i64::from(done)));
                wake
            }
            Operation::Wait {
                process: number,
                identity: own,
            } => {
                let loading = bytes_of(&State::Loading(lease(0, *own), Vec::new()));
                let reply = self.script("wait", &[&loading, &process(*number).0]);
                let there = self.there(b"");
                let (waiting, wake) =
                    self.model_step(state::wait(slot, identity(*own), process(*number)));
                let there = match slot.map(|slot| &slot.state) {
                    // It was dropped.
                    Some(State::Unreadable(Unreadable::Damaged)) => Value::BulkString(Vec::new()),
                    _ => there,
                };
                assert_eq!(reply, if waiting { Value::Nil } else { there });
                wake
            }
            Operation::Fill {
                lease: token,
                identity,
                negative,
                ttl_ms,
            } => {
                let entry = entry_of(lease(*token, *identity), *negative);
                let reply = self.script(
                    "fill",
                    &[
                        &Token::numbered(*token).0,
                        &bytes_of(&entry),
                        ttl_ms.to_string().as_bytes(),
                        LEASE_TTL_MS.to_string().as_bytes(),
                    ],
                );
                let step = state::fill(slot, Token::numbered(*token), entry, *ttl_ms, LEASE_TTL_MS);
                let (accepted, wake) = self.model_step(step);
                assert_eq!(reply, Value::Int(i64::from(accepted)));
                wake
            }
            Operation::Release { lease: token } => {
                let reply = self.script("release", &[&Token::numbered(*token).0]);
                let (released, wake) =
                    self.model_step(state::release(slot, Token::numbered(*token)));
                assert_eq!(reply, Value::Int(i64::from(released)));
                wake
            }
            Operation::Begin { intent, ttl_ms } => self.begin(*intent, *ttl_ms),
            Operation::End { intent, update } => {
                let entry = update.then(|| entry_of(lease(50, 0), false));
                let bytes = entry.as_ref().map(bytes_of).unwrap_or_default();
                let reply = self.script(
                    "end",
                    &[
                        &Token::numbered(*intent).0,
                        &bytes,
                        VALUE_TTL_MS.to_string().as_bytes(),
                    ],
                );
                let (stored, wake) = self.model_step(state::end(
                    slot,
                    Token::numbered(*intent),
                    entry,
                    VALUE_TTL_MS,
                ));
                assert_eq!(reply, Value::Int(i64::from(stored)));
                wake
            }
            Operation::Invalidate => {
                self.script("invalidate", &[]);
                self.model_step(state::invalidate(slot)).1
            }
            Operation::DropDamaged { forged } => {
                let forged = forged.map(Token::numbered);
                let token = forged.map_or(Vec::new(), |token| token.0.to_vec());
                self.script("drop_damaged", &[&token]);
                self.model_step(state::drop_damaged(slot, forged)).1
            }
            Operation::Put { writes, identity } => self.put(writes, *identity),
            Operation::Settle { back, keep_ms } => {
                self.settle(*back, *keep_ms);
                Vec::new()
            }
            Operation::AcquireQueued { lease, identity } => self.acquire_queued(*lease, *identity),
            Operation::Age { by_ms } => {
                if let Some(slot) = self
                    .model
                    .as_mut()
                    .filter(|slot| slot.remaining_ms != FOREVER)
                {
                    slot.remaining_ms = slot.remaining_ms.saturating_sub(*by_ms).max(5_000);
                    let left = i64::try_from(slot.remaining_ms).expect("it is small");
                    self.read_at = now();
                    let _: () = self
                        .redis
                        .pexpire(&self.key, left)
                        .expect("the command runs");
                }
                Vec::new()
            }
            Operation::Evict => {
                let _: () = self.redis.del(&self.key).expect("the command runs");
                self.model = None;
                Vec::new()
            }
            Operation::Persist => {
                let _: bool = self.redis.persist(&self.key).expect("the command runs");
                if let Some(slot) = &mut self.model {
                    slot.remaining_ms = FOREVER;
                }
                Vec::new()
            }
            Operation::Damage { unreadable } => {
                let bytes = bytes_of(&State::Unreadable(*unreadable));
                self.damage(*unreadable, bytes);
                Vec::new()
            }
            Operation::ShortPositioned => {
                let position = QueuePosition::from_bytes([7; QUEUE_POSITION_LENGTH]);
                let mut bytes = positioned(meta_of(lease(0, 0)), position, b"");
                bytes.pop();
                self.damage(Unreadable::Damaged, bytes);
                Vec::new()
            }
            // More writers than an entry lists.
            Operation::Crowd => {
                let intents =
                    (0..state::MAX_INTENTS as u64).map(|number| Token::numbered(100 + number));
                let full = State::Writing(Writers {
                    intents: intents.collect(),
                    contended: true,
                    saturated: false,
                });
                let _: () = self
                    .redis
                    .pset_ex(&self.key, bytes_of(&full), VALUE_TTL_MS)
                    .expect("the command runs");
                self.model = Some(Slot {
                    state: full,
                    remaining_ms: VALUE_TTL_MS,
                });
                self.begin(99, 40_000)
            }
        };
        self.compare(operation, &wake);
    }

    fn damage(&mut self, unreadable: Unreadable, bytes: Vec<u8>) {
        let _: () = self
            .redis
            .pset_ex(&self.key, &bytes, VALUE_TTL_MS)
            .expect("the command runs");
        self.model = Some(Slot {
            state: State::Unreadable(unreadable),
            remaining_ms: VALUE_TTL_MS,
        });
        self.damaged = bytes;
    }

    fn begin(&mut self, intent: u64, ttl_ms: u64) -> Vec<ProcessId> {
        let empty = bytes_of(&State::Writing(Writers {
            intents: Vec::new(),
            contended: false,
            saturated: false,
        }));
        self.script(
            "begin",
            &[
                &Token::numbered(intent).0,
                &empty,
                ttl_ms.to_string().as_bytes(),
                state::MAX_INTENTS.to_string().as_bytes(),
            ],
        );
        let slot = self.sound();
        self.model_step(state::begin(slot.as_ref(), Token::numbered(intent), ttl_ms))
            .1
    }

    fn compare(&mut self, operation: &Operation, wake: &[ProcessId]) {
        let bytes: Option<Vec<u8>> = self.redis.get(&self.key).expect("the command runs");
        assert_eq!(bytes, self.bytes(), "bytes after {operation:?}");
        let expected = self.model.as_ref().map(|slot| borrowed(&slot.state));
        let decoded = bytes.as_deref().map(entry::decode);
        assert_eq!(decoded, expected, "the state after {operation:?}");
        let asked_at = now();
        let left: i64 = self.redis.pttl(&self.key).expect("the command runs");
        if self
            .model
            .as_ref()
            .is_some_and(|slot| slot.remaining_ms == FOREVER)
        {
            assert_eq!(left, -1, "time to live after {operation:?}");
            self.read_at = asked_at;
        } else if let Some(slot) = &mut self.model {
            let left = u64::try_from(left).expect("every entry has a time to live");
            // The longest time between the two readings.
            let passed =
                u64::try_from(self.read_at.elapsed().as_millis()).expect("it is small") + 3;
            let least = slot.remaining_ms.saturating_sub(passed);
            assert!(
                (least..=slot.remaining_ms + passed).contains(&left),
                "time to live after {operation:?}: {left} ms, expected {} less at most {passed}",
                slot.remaining_ms
            );
            slot.remaining_ms = left;
            self.read_at = asked_at;
        }
        for process in wake {
            let channel = [b"larder:wake:".as_slice(), &process.0].concat();
            assert_eq!(self.next_news(), channel, "wake-up after {operation:?}");
        }
    }

    /// Returns the channel of the next message about this key.
    fn next_news(&mut self) -> Vec<u8> {
        loop {
            let message = self.news.recv_response().expect("a message arrives");
            let Value::Array(parts) = message else {
                panic!("an unexpected message: {message:?}")
            };
            if let [_, _, Value::BulkString(channel), Value::BulkString(key)] = &parts[..]
                && key == self.key.as_bytes()
            {
                return channel.clone();
            }
        }
    }

    /// Checks that there was no wake-up besides those of the model.
    fn finish(mut self) {
        let sentinel = "larder:wake:sentinel";
        let _: () = self
            .redis
            .publish(sentinel, &self.key)
            .expect("the command runs");
        assert_eq!(
            self.next_news(),
            sentinel.as_bytes(),
            "an unexpected wake-up"
        );
        let log = self.queue("log:") + &hex(&INCARNATION.to_bytes());
        let keys = [
            self.key.clone(),
            self.queue("state"),
            self.queue("pending"),
            log,
        ];
        let _: () = self.redis.del(&keys[..]).expect("the command runs");
    }
}

/// The incarnation that puts go to.
const INCARNATION: Incarnation = Incarnation {
    epoch: 3,
    nonce: 0x00FF_8000_1234_5678,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "bounds a comparison by the time that really passed"
)]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn scripts_do_what_the_state_machine_does() {
    let config = ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(operations in prop::collection::vec(operation(), 1..40))| {
        let mut bench = Bench::new();
        for operation in &operations {
            bench.run(operation);
        }
        bench.finish();
    });
}

/// The negative control: a script without one rule is detected.
#[test]
fn a_script_without_the_lease_comparison_is_found() {
    let mut bench = Bench::new();
    bench.run(&Operation::Acquire {
        lease: 1,
        identity: 0,
        outdated: None,
    });
    let broken = script_text("fill")
        .expect("the script exists")
        .replace("or token(raw) ~= mine", "");
    let entry = entry_of(lease(2, 0), false);
    let reply: Value = Script::new(&broken)
        .key(&bench.key)
        .arg(&Token::numbered(2).0)
        .arg(bytes_of(&entry))
        .arg(VALUE_TTL_MS)
        .arg(LEASE_TTL_MS)
        .invoke(&mut bench.redis)
        .expect("the script runs");
    let slot = bench.model.clone();
    let (accepted, _) = bench.model_step(state::fill(
        slot.as_ref(),
        Token::numbered(2),
        entry,
        VALUE_TTL_MS,
        LEASE_TTL_MS,
    ));
    assert_ne!(
        reply,
        Value::Int(i64::from(accepted)),
        "the broken script must be seen to differ"
    );
}

/// The same for queued writes: without the comparison of positions, an earlier write settles a later one.
#[test]
fn without_the_comparison_of_positions_a_script_is_found() {
    let mut bench = Bench::new();
    for token in 1..3 {
        let write = Write {
            token,
            deletion: false,
            demand: 0,
        };
        bench.run(&Operation::Put {
            writes: vec![write],
            identity: 0,
        });
    }
    let broken = script_text("settle").expect("the script exists").replace(
        "and string.sub(head, start + 1, start + POSITION) == position",
        "",
    );
    assert_ne!(broken, script_text("settle").expect("the script exists"));
    let log = bench.queue("log:") + &hex(&INCARNATION.to_bytes());
    let script = Script::new(&broken);
    let mut invocation = script.key(bench.queue("state"));
    invocation
        .key(bench.queue("pending"))
        .key(log)
        .key(&bench.key);
    let number = 1_u64.to_be_bytes();
    invocation
        .arg(&INCARNATION.to_bytes())
        .arg(0)
        .arg(&number)
        .arg(0);
    let reply: Value = invocation
        .invoke(&mut bench.redis)
        .expect("the script runs");
    let position = QueuePosition {
        incarnation: INCARNATION,
        number: 1,
    };
    let slot = bench.model.clone();
    let (settled, _) = bench.model_step(state::settle(slot.as_ref(), position, 0));
    assert_ne!(
        reply,
        Value::Int(i64::from(settled)),
        "the broken script must be seen to differ"
    );
    bench.finish();
}

/// If Redis rejects one write of a script call, the others succeed.
#[test]
fn a_put_replaces_what_another_program_has_left_at_its_key() {
    let mut bench = Bench::new();
    bench.set_history(0);
    let list = bench.queue("list");
    let _: () = bench.redis.lpush(&list, "x").expect("the command runs");
    let mut keys = ["state", "pending", "flusher"]
        .map(|part| bench.queue(part))
        .to_vec();
    keys.extend([list.clone(), bench.key.clone()]);
    let pending = Pending {
        position: QueuePosition::from_bytes([0; QUEUE_POSITION_LENGTH]),
        is_deletion: false,
        meta: Meta {
            lease: lease(1, 0),
            loaded_at_ms: 1,
            stamp: None,
        },
    };
    let mut header = bytes_of(&State::Pending(pending, Vec::new()));
    header.truncate(header.len() - QUEUE_POSITION_LENGTH);
    let token = Token::numbered(0).0;
    let row: [&[u8]; 4] = [&header, b"row", b"0", &token];
    let history = identity(0).history.to_le_bytes();
    let arguments = [&[&history[..], b"10", b"4096"], &row[..], &row[..]].concat();
    let mut call = redis::cmd("EVAL");
    call.arg(script_text("put").expect("the script exists"));
    call.arg(keys.len()).arg(&keys).arg(&arguments);
    // Read as raw values: the client would return one error for the whole array.
    let reply = bench.redis.req_command(&call).expect("the script runs");
    let Value::Array(answers) = reply else {
        panic!("an unexpected answer: {reply:?}")
    };
    let position = |number| QueuePosition {
        incarnation: INCARNATION,
        number,
    };
    let done = |number| Value::BulkString(position(number).to_bytes().to_vec());
    assert_eq!(answers, [done(1), done(2)]);
    let _: () = bench.redis.del(&list).expect("the command runs");
    let position = position(2);
    let step = state::put(
        None,
        Pending {
            position,
            ..pending
        },
        b"row".to_vec(),
        Condition::Any,
    );
    bench.model_step(step);
    bench.finish();
}

/// What `bind.lua` answers: the database, the table, the age of the own record, and the other records.
type BindReply = (String, String, i64, Vec<(String, u64, u64)>);

/// Returns whether a script binds what `Claim::is_blocked_by` allows, and returns the binding.
fn binds_alike(script: &str) -> bool {
    let client = redis::Client::open(redis_url()).expect("the address is one of Redis");
    let mut redis = client.get_connection().expect("the test server answers");
    let key = unique("bind");
    let mut is_alike = true;
    for (database, table) in [("", ""), ("one", ""), ("one", "items"), ("two", "carts")] {
        for seen in ["", "one", "two"] {
            for is_forced in [false, true] {
                let claim = Claim {
                    namespace: "",
                    seen,
                    leave: "left",
                    entity: "Item",
                    table: "items",
                    shape: "",
                    is_forced,
                };
                let held = |redis: &mut Connection| -> (String, String) {
                    let held: (Option<String>, Option<String>) = redis
                        .hmget(&key, &["database", "table:Item"])
                        .expect("it is a hash");
                    (held.0.unwrap_or_default(), held.1.unwrap_or_default())
                };
                let _: () = redis.del(&key).expect("Redis answers");
                for (field, value) in [("database", database), ("table:Item", table)] {
                    if !value.is_empty() {
                        let _: () = redis.hset(&key, field, value).expect("Redis answers");
                    }
                }
                let before = held(&mut redis);
                let (database_after, table_after, age, others): BindReply = Script::new(script)
                    .key(&key)
                    .arg(claim.seen)
                    .arg(claim.leave)
                    .arg(claim.entity)
                    .arg(claim.table)
                    .arg(u8::from(claim.is_forced))
                    .arg(claim.shape)
                    .arg(family::REFRESH_AFTER)
                    .arg(family::FORGET_AFTER)
                    .invoke(&mut redis)
                    .expect("the script runs");
                let answer = (database_after, table_after);
                is_alike &= age == -1 && others.is_empty();
                let own = |table: &str| (claim.leave.to_owned(), table.to_owned());
                let expected = match (claim.is_blocked_by(database, table), claim.is_forced) {
                    (true, _) => before,
                    (false, false) => own(claim.table),
                    // After a forced bind, no entity of the namespace is bound.
                    (false, true) => own(""),
                };
                is_alike &= answer == expected && held(&mut redis) == expected;
            }
        }
    }
    is_alike
}

/// Returns whether a script keeps the records of a table as `family::record` does.
fn records_alike(script: &str) -> bool {
    let client = redis::Client::open(redis_url()).expect("the address is one of Redis");
    let mut redis = client.get_connection().expect("the test server answers");
    let key = unique("family");
    let mut is_alike = true;
    let ages = [
        // A moment that is still to come.
        -9_000_000,
        0,
        family::REFRESH_AFTER.cast_signed() - 5_000,
        family::REFRESH_AFTER.cast_signed() + 5_000,
        family::FORGET_AFTER.cast_signed() - 5_000,
        family::FORGET_AFTER.cast_signed() + 5_000,
    ];
    for (own_age, other_age) in ages
        .into_iter()
        .flat_map(|own| ages.map(|other| (own, other)))
    {
        for (shape, is_claimed) in [
            ("{own}", true),
            ("{own}", false),
            ("", true),
            ("{new}", true),
        ] {
            let now = redis_time(&mut redis);
            let ago = |age: i64| now.checked_add_signed(-age).expect("it is a moment");
            let held = format!(
                "{} {} {{own}}\n{} {} {{other}}\n",
                ago(own_age + 1_000_000),
                ago(own_age),
                ago(other_age + 2_000_000),
                ago(other_age)
            );
            let _: () = redis.del(&key).expect("Redis answers");
            let fields = [("database", "one"), ("family:items", held.as_str())];
            let _: () = redis.hset_multiple(&key, &fields).expect("Redis answers");
            let (.., age, others): BindReply = Script::new(script)
                .key(&key)
                .arg(if is_claimed { "one" } else { "?" })
                .arg("one")
                .arg("Item")
                .arg("items")
                .arg(0)
                .arg(shape)
                .arg(family::REFRESH_AFTER)
                .arg(family::FORGET_AFTER)
                .invoke(&mut redis)
                .expect("the script runs");
            let after: String = redis.hget(&key, "family:items").expect("Redis answers");
            let expected = family::record(&held, shape, is_claimed, now);
            // The server has read its clock a little later.
            let is_near = |own: u64, other: u64| own.abs_diff(other) < 4_000;
            is_alike &= match (u64::try_from(age).ok(), expected.family.own_age_ms) {
                (Some(age), Some(expected)) => is_near(age, expected),
                (age, expected) => age == expected,
            };
            is_alike &= others.len() == expected.family.others.len();
            for ((shape, age, idle), other) in others.iter().zip(&expected.family.others) {
                is_alike &= *shape == other.shape;
                is_alike &= is_near(*age, other.age_ms) && is_near(*idle, other.idle_ms);
            }
            let expected = expected.changed.unwrap_or(held);
            let parts = |text: &str| -> Vec<(u64, u64, String)> {
                let lines = text.lines().map(|line| {
                    let parts: Vec<_> = line.splitn(3, ' ').collect();
                    let number = |at: usize| parts[at].parse().expect("it is a number");
                    (number(0), number(1), parts[2].to_owned())
                });
                lines.collect()
            };
            let (after, expected) = (parts(&after), parts(&expected));
            is_alike &= after.len() == expected.len();
            for (own, other) in after.iter().zip(&expected) {
                is_alike &= is_near(own.0, other.0) && is_near(own.1, other.1) && own.2 == other.2;
            }
        }
    }
    is_alike
}

/// Returns the clock of Redis in milliseconds.
fn redis_time(redis: &mut Connection) -> u64 {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(redis).expect("Redis has a clock");
    seconds * 1_000 + micros / 1_000
}

#[test]
fn the_entities_of_a_table_are_recorded_in_redis_by_the_rule_of_the_in_process_store() {
    assert!(records_alike(
        &script_text("bind").expect("the script exists")
    ));
}

/// The negative control.
#[test]
fn a_script_that_forgets_no_entity_is_found() {
    let broken = script_text("bind")
        .expect("the script exists")
        .replace("idle > forget", "false");
    assert_ne!(broken, script_text("bind").expect("the script exists"));
    assert!(!records_alike(&broken));
}

#[test]
fn a_namespace_is_bound_in_redis_by_the_rule_of_the_journal() {
    assert!(binds_alike(
        &script_text("bind").expect("the script exists")
    ));
}

/// The negative control.
#[test]
fn a_script_that_binds_over_another_table_is_found() {
    let broken = script_text("bind")
        .expect("the script exists")
        .replace("stands_for == own", "true");
    assert_ne!(broken, script_text("bind").expect("the script exists"));
    assert!(!binds_alike(&broken));
}
