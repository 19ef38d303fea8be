//! What other programs write into a queue: numbers, places, keys and types that larder would not have written. Nothing of it is
//! applied, nothing of it stops the queue, and no write that was acknowledged is lost for it.
//!
//! Not here: whoever imitates larder in every detail can write rows, which is why Redis is to be kept private.

use larder::{
    entry,
    key::Key,
    partition_keys::PartitionKeys,
    queue_position::{Incarnation, QueuePosition},
    state::{Identity, Lease, Meta, Pending, State},
    token::Token,
};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use sqlx::{Postgres, Sqlite};

use crate::{
    entities::{Behind, BehindRepository},
    world::{Tested, World, on_redis, redis_url},
};

on_redis!(
    an_entry_with_the_number_of_another_one_is_a_dead_letter,
    without_the_comparison_a_made_up_number_moves_the_position,
    what_is_no_write_is_a_dead_letter,
    a_row_of_another_key_is_a_dead_letter,
    a_number_that_cannot_follow_does_not_move_the_position,
    an_id_that_larder_does_not_give_does_not_stop_the_queue,
    counters_that_larder_cannot_have_counted_do_not_stop_the_queue,
    an_epoch_that_the_database_has_not_given_does_not_reach_it,
    incarnations_that_the_database_has_not_given_are_forgotten,
    other_types_do_not_stop_the_queue,
    sizes_that_are_none_do_not_stop_the_queue,
);
mod forgeries_reach_no_server {
    crate::world::case!(forgeries_reach_no_server, postgres, Redis, Postgres);
}

/// One partition of a queue, with a connection that larder does not own.
struct Scene<'w, DB: Tested> {
    world: &'w World<DB>,
    rows: BehindRepository<DB>,
    partition: PartitionKeys,
    redis: MultiplexedConnection,
    saved: u64,
}

impl<'w, DB: Tested> Scene<'w, DB> {
    /// Begins with one row that was flushed and one write that is queued.
    async fn open(world: &'w World<DB>) -> Self {
        let rows = Behind::repository(&world.cache, world.pool.clone());
        rows.install().await.unwrap();
        let row = rows.inner().key(1).unwrap().to_string();
        let (queue, rest) = row[1..].split_once(":p").unwrap();
        let number = u16::from_str_radix(&rest[..2], 16).unwrap();
        let client = redis::Client::open(redis_url()).unwrap();
        let mut scene = Self {
            partition: PartitionKeys::new(queue, number),
            world,
            rows,
            redis: client.get_multiplexed_async_connection().await.unwrap(),
            saved: 0,
        };
        scene.save().await;
        scene.rows.flush().await.unwrap();
        scene.save().await;
        scene
    }

    async fn run<T: FromRedisValue>(&mut self, command: &mut redis::Cmd) -> T {
        command.query_async(&mut self.redis).await.unwrap()
    }

    /// Saves the row under another name.
    async fn save(&mut self) {
        self.saved += 1;
        let row = Behind::new(1, &format!("write {}", self.saved));
        self.rows.save(&row).await.unwrap();
    }

    async fn state<T: FromRedisValue>(&mut self, field: &str) -> T {
        let state = self.partition.state.as_bytes().to_vec();
        self.run(redis::cmd("HGET").arg(state).arg(field)).await
    }

    async fn set_state(&mut self, field: &str, value: &[u8]) {
        let state = self.partition.state.as_bytes().to_vec();
        let mut set = redis::cmd("HSET");
        let _: i64 = self.run(set.arg(state).arg(field).arg(value)).await;
    }

    async fn incarnation(&mut self) -> Incarnation {
        let bytes: Vec<u8> = self.state("i").await;
        Incarnation::from_bytes(bytes.try_into().unwrap())
    }

    async fn log(&mut self) -> Key {
        let incarnation = self.incarnation().await;
        self.partition.log(incarnation)
    }

    /// Appends an entry to the log.
    async fn append(&mut self, id: &str, fields: &[(&str, &[u8])]) {
        let log = self.log().await;
        let mut add = redis::cmd("XADD");
        add.arg(log.as_bytes()).arg(id);
        for (name, value) in fields {
            add.arg(name).arg(*value);
        }
        let _: String = self.run(&mut add).await;
    }

    /// Returns an entry of a queued write of a row.
    fn entry(&self, position: QueuePosition, row: &Behind) -> Vec<u8> {
        let Identity {
            history,
            fingerprint,
            codec,
        } = self.rows.inner().identity();
        let pending = Pending {
            position,
            is_deletion: false,
            meta: Meta {
                lease: Lease {
                    token: Token::numbered(9),
                    identity: Identity {
                        history,
                        fingerprint,
                        codec,
                    },
                },
                loaded_at_ms: 0,
                stamp: None,
            },
        };
        let payload = larder::Codec::MessagePack.encode(row).unwrap();
        entry::encode(&State::Pending(pending, &payload))
    }

    /// Appends a write that says that it has a number, at the next place in the log.
    async fn append_numbered(&mut self, number: u64) {
        let incarnation = self.incarnation().await;
        let position = QueuePosition {
            incarnation,
            number,
        };
        let entry = self.entry(position, &Behind::new(1, "forged"));
        let key = self.rows.inner().key(1).unwrap();
        let id = self.next_id().await;
        self.append(&id, &[("k", key.as_bytes()), ("e", &entry), ("a", b"0")])
            .await;
    }

    /// Returns the id that follows the last one of the log.
    async fn next_id(&mut self) -> String {
        let log = self.log().await;
        let mut last = redis::cmd("XREVRANGE");
        last.arg(log.as_bytes())
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1);
        let last: Vec<(String, redis::Value)> = self.run(&mut last).await;
        let number = match last.first() {
            Some((id, _)) => id.strip_prefix("0-").unwrap().parse::<u64>().unwrap(),
            None => self.state("n").await,
        };
        format!("0-{}", number + 1)
    }

    /// The queue goes on: what was acknowledged before, and what is acknowledged now, reaches the database.
    async fn goes_on(&mut self, what: &str) {
        for _ in 0..2 {
            self.save().await;
            let flushed =
                tokio::time::timeout(std::time::Duration::from_secs(20), self.rows.flush());
            let flushed = flushed.await;
            flushed
                .unwrap_or_else(|_| panic!("{what}: flush hangs"))
                .unwrap();
            let row = self.rows.find_uncached(1).await.unwrap();
            let name = row.map(|row| row.name.clone());
            assert_eq!(name, Some(format!("write {}", self.saved)), "{what}");
            let pending = self.rows.pending().await.unwrap();
            assert_eq!(pending.count, 0, "{what}");
            assert_eq!(self.rows.stats().lost_writes, 0, "{what}");
        }
        let found = self.rows.find(1).await.unwrap().unwrap();
        assert_eq!(found.name, format!("write {}", self.saved), "{what}");
    }

    /// Returns the errors of the dead letters, and removes them.
    async fn letters(&self) -> Vec<String> {
        let letters = self.rows.dead_letters();
        let mut errors = Vec::new();
        for letter in letters.list(1_000).await.unwrap() {
            errors.push(letter.error().to_owned());
            letters.discard(&letter).await.unwrap();
        }
        errors
    }

    /// Returns the largest epoch and position of the database.
    async fn largest(&self) -> (i64, i64) {
        let number = async |column: &str| {
            let text = match DB::NAME {
                "PostgreSQL" => format!("SELECT CAST(MAX({column}) AS TEXT) FROM larder_offsets"),
                _ => format!("SELECT CAST(MAX({column}) AS TEXT) FROM larder_offsets"),
            };
            let text: &'static str = Box::leak(text.into_boxed_str());
            self.world.text(text).await.parse::<i64>().unwrap()
        };
        (number("epoch").await, number("position").await)
    }
}

fn are_not_ours(letters: &[String], count: usize) {
    assert_eq!(letters.len(), count, "{letters:?}");
    for letter in letters {
        assert!(letter.contains("not written by larder: "), "{letter}");
    }
}

async fn an_entry_with_the_number_of_another_one_is_a_dead_letter(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    for numbers in [
        &[1_u64 << 40][..],
        &[u64::MAX, 0, 1],
        &[9, 8, 7, 6],
        &[1, 1, 1],
    ] {
        scene.save().await;
        for number in numbers {
            scene.append_numbered(*number).await;
        }
        scene.goes_on(&format!("{numbers:?}")).await;
        are_not_ours(&scene.letters().await, numbers.len());
    }
    assert!(scene.largest().await.1 < 100);
}

async fn without_the_comparison_a_made_up_number_moves_the_position(world: &World<Sqlite>) {
    world.faults.leave_out(larder::store::Mechanism::QueuePlace);
    let mut scene = Scene::open(world).await;
    scene.append_numbered(1 << 40).await;
    scene.save().await;
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.largest().await.1, 1 << 40);
}

async fn what_is_no_write_is_a_dead_letter(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let key = scene.rows.inner().key(1).unwrap();
    let key = key.as_bytes();
    let identity = scene.rows.inner().identity();
    let lease = Lease {
        token: Token::numbered(1),
        identity,
    };
    let loading = entry::encode(&State::Loading(lease, Vec::new()));
    let attacks: [&[(&str, &[u8])]; 8] = [
        &[("x", b"y")],
        &[("k", key)],
        &[("e", b"\0\xff")],
        &[("k", key), ("e", b"")],
        &[("k", key), ("e", &loading)],
        &[("k", key), ("e", b"not an entry"), ("a", b"\xff")],
        &[("k", b"\0\xff\x1b[31m"), ("e", b"\0")],
        &[("e", b"a"), ("e", b"b"), ("k", b""), ("k", key)],
    ];
    for attack in attacks {
        let id = scene.next_id().await;
        scene.append(&id, attack).await;
    }
    scene.goes_on("no writes").await;
    are_not_ours(&scene.letters().await, attacks.len());
}

async fn a_row_of_another_key_is_a_dead_letter(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let (own, two) = (
        scene.rows.inner().key(1).unwrap(),
        scene.rows.inner().key(2).unwrap(),
    );
    let elsewhere = Key::from_bytes(format!("{}:Item:1", world.namespace).as_bytes());
    let row = Behind::new(2, "forged");
    for key in [own, elsewhere, two] {
        let id = scene.next_id().await;
        let number = id.strip_prefix("0-").unwrap().parse().unwrap();
        let incarnation = scene.incarnation().await;
        let position = QueuePosition {
            incarnation,
            number,
        };
        // The third row is at its own key, which is usually in another partition.
        let is_here = scene.partition.holds(&key) && key == scene.rows.inner().key(2).unwrap();
        if is_here {
            continue;
        }
        let entry = scene.entry(position, &row);
        scene
            .append(&id, &[("k", key.as_bytes()), ("e", &entry), ("a", b"0")])
            .await;
        scene.goes_on(&format!("{key}")).await;
        are_not_ours(&scene.letters().await, 1);
        assert_eq!(scene.rows.find_uncached(2).await.unwrap(), None);
    }
}

async fn a_number_that_cannot_follow_does_not_move_the_position(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    for number in [1_u64 << 40, (1 << 53) + 1, i64::MAX as u64, u64::MAX] {
        let incarnation = scene.incarnation().await;
        let position = QueuePosition {
            incarnation,
            number,
        };
        // It says what its place says.
        let entry = scene.entry(position, &Behind::new(1, "forged"));
        let key = scene.rows.inner().key(1).unwrap();
        scene
            .append(
                &format!("0-{number}"),
                &[("k", key.as_bytes()), ("e", &entry), ("a", b"0")],
            )
            .await;
        scene.goes_on(&format!("{number}")).await;
        scene.letters().await;
    }
}

async fn an_id_that_larder_does_not_give_does_not_stop_the_queue(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    for id in ["5-1", "18446744073709551615-18446744073709551615"] {
        scene.append(id, &[("x", b"y")]).await;
        scene.goes_on(id).await;
        assert_eq!(scene.letters().await, [""; 0]);
    }
}

async fn counters_that_larder_cannot_have_counted_do_not_stop_the_queue(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let values: [&[u8]; 8] = [
        b"1099511627776",
        b"9223372036854775807",
        b"18446744073709551615",
        b"-1",
        b"x",
        b"",
        b"1.5",
        b"nan",
    ];
    for field in ["n", "t"] {
        for value in values {
            scene.rows.flush().await.unwrap();
            scene.set_state(field, value).await;
            let what = format!("{field} = {}", String::from_utf8_lossy(value));
            scene.goes_on(&what).await;
            assert_eq!(scene.letters().await, [""; 0], "{what}");
        }
    }
    for field in ["n", "t", "l", "i", "s", "r"] {
        let state = scene.partition.state.as_bytes().to_vec();
        let mut delete = redis::cmd("HDEL");
        let _: i64 = scene.run(delete.arg(state).arg(field)).await;
        scene.goes_on(&format!("without {field}")).await;
    }
}

async fn an_epoch_that_the_database_has_not_given_does_not_reach_it(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    for epoch in [1_u64 << 40, 1 << 60, i64::MAX as u64, u64::MAX] {
        scene.rows.flush().await.unwrap();
        let forged = Incarnation { epoch, nonce: 7 };
        scene.set_state("i", &forged.to_bytes()).await;
        scene.rows.flush().await.unwrap();
        scene.goes_on(&format!("epoch {epoch}")).await;
        assert!(scene.largest().await.0 < 100, "{epoch}");
    }
    scene.set_state("i", b"short").await;
    scene.goes_on("an incarnation that is none").await;
}

async fn incarnations_that_the_database_has_not_given_are_forgotten(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let logs = scene.partition.logs.as_bytes().to_vec();
    let mut add = redis::cmd("SADD");
    add.arg(&logs).arg(b"none").arg("").arg(vec![7_u8; 400]);
    for number in 0..50_u64 {
        let forged = Incarnation {
            epoch: (1 << 40) << (number % 20),
            nonce: number,
        };
        add.arg(&forged.to_bytes());
        let log = scene.partition.log(forged);
        let mut write = redis::cmd("XADD");
        write.arg(log.as_bytes()).arg("0-1").arg("x").arg("y");
        let _: String = scene.run(&mut write).await;
    }
    let _: i64 = scene.run(&mut add).await;
    scene.goes_on("forged incarnations").await;
    assert!(scene.largest().await.0 < 100);
}

async fn other_types_do_not_stop_the_queue(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    for part in ["state", "pending", "logs", "flusher", "log", "large", "row"] {
        for make in [
            &["SET", "x"][..],
            &["RPUSH", "x"],
            &["SADD", "x"],
            &["HSET", "x", "y"],
            &["ZADD", "1", "x"],
            &["XADD", "*", "x", "y"],
        ] {
            scene.save().await;
            scene.rows.flush().await.unwrap();
            let log = scene.log().await;
            let key = match part {
                "state" => scene.partition.state.as_bytes().to_vec(),
                "pending" => scene.partition.pending_index.as_bytes().to_vec(),
                "logs" => scene.partition.logs.as_bytes().to_vec(),
                "flusher" => scene.partition.flusher.as_bytes().to_vec(),
                "log" => log.as_bytes().to_vec(),
                "large" => [log.as_bytes(), b":large"].concat(),
                _ => scene.rows.inner().key(1).unwrap().as_bytes().to_vec(),
            };
            let _: i64 = scene.run(redis::cmd("DEL").arg(&key)).await;
            let mut command = redis::cmd(make[0]);
            let _: redis::Value = scene.run(command.arg(&key).arg(&make[1..])).await;
            let what = format!("{part} made by {make:?}");
            scene.goes_on(&what).await;
            scene.letters().await;
            let row = scene.rows.find(1).await.unwrap().unwrap();
            assert_eq!(row.name, format!("write {}", scene.saved), "{what}");
        }
    }
}

async fn sizes_that_are_none_do_not_stop_the_queue(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let log = scene.log().await;
    let large = [log.as_bytes(), b":large"].concat();
    for (score, member) in [
        ("3", &b"x"[..]),
        ("4", b"\xff:\xff"),
        ("5", b"0:5"),
        ("6", b"18446744073709551615:18446744073709551615"),
        ("7", b"3:18446744073709551615"),
        ("8", b"2:1"),
        ("9", b"-1:5"),
    ] {
        let mut add = redis::cmd("ZADD");
        let _: i64 = scene.run(add.arg(&large).arg(score).arg(member)).await;
    }
    for _ in 0..20 {
        scene.save().await;
    }
    scene.goes_on("sizes").await;
    assert_eq!(scene.letters().await, [""; 0]);
}

async fn forgeries_reach_no_server(world: &World<Postgres>) {
    let mut scene = Scene::open(world).await;
    scene.append_numbered(1 << 40).await;
    let id = scene.next_id().await;
    scene
        .append(&id, &[("k", b"\0\xff"), ("e", b"\0\xff\x1b")])
        .await;
    scene.goes_on("a number and no write").await;
    are_not_ours(&scene.letters().await, 2);
    let forged = Incarnation {
        epoch: u64::MAX,
        nonce: 7,
    };
    scene.set_state("i", &forged.to_bytes()).await;
    scene.goes_on("an epoch").await;
    let (epoch, position) = scene.largest().await;
    assert!(epoch < 100 && position < 100, "{epoch} {position}");
}
