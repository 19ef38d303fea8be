//! Dead letters with a seal: whoever changes the table without the keys gets nothing replayed.

use larder::{
    Cache, CacheBuilder, DeadLetter, ErrorKind, PlainEntries, SecretKey, store::Mechanism,
};
use sqlx::Sqlite;

use crate::{
    entities::of_items,
    world::{World, on_redis, redis_url},
};

on_redis!(
    a_sealed_letter_is_replayed,
    a_changed_letter_is_not_replayed,
    without_seals_a_changed_letter_is_replayed,
    a_letter_is_not_believed_in_another_place,
    an_encrypted_letter_cannot_be_read_in_the_database,
    letters_from_before_the_keys_are_replayed_while_plain_ones_are_accepted,
    what_was_forged_in_the_queue_gets_no_seal,
);

const OURS: SecretKey = SecretKey::new([1; 32]);
const OTHERS: SecretKey = SecretKey::new([2; 32]);

of_items! {
    #[cached(strategy = "write_behind", durability = "memory", codec = "json")]
    #[cached(partitions = 1, ttl = "10m")]
    struct Sent
}

fn sent(id: i64, name: &str, note: &str) -> Sent {
    Sent {
        id,
        name: name.to_owned(),
        note: Some(note.to_owned()),
        quantity: 1,
    }
}

async fn cache(world: &World<Sqlite>, set: impl FnOnce(CacheBuilder) -> CacheBuilder) -> Cache {
    let builder = Cache::builder()
        .namespace(format!("{}-letters", world.namespace))
        .faults(&world.faults)
        .redis(redis_url())
        .listed(false);
    set(builder).connect().await.unwrap()
}

/// Two saves became dead letters, because their notes were taken. The notes are free now.
async fn died(world: &World<Sqlite>, cache: &Cache) -> SentRepository<Sqlite> {
    world
        .sql("CREATE UNIQUE INDEX one_note ON items (note)")
        .await;
    let rows = Sent::repository(cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(&sent(1, "first", "taken")).await.unwrap();
    rows.flush().await.unwrap();
    for (id, name) in [(2, "letter 2"), (3, "letter 3")] {
        rows.save(&sent(id, name, "taken")).await.unwrap();
        rows.flush().await.unwrap();
    }
    rows.modify(1, |row| row.note = None).await.unwrap();
    rows.flush().await.unwrap();
    assert_eq!(letters(&rows).await.len(), 2);
    rows
}

async fn letters(rows: &SentRepository<Sqlite>) -> Vec<DeadLetter<Sent>> {
    rows.dead_letters().list(10).await.unwrap()
}

async fn name(rows: &SentRepository<Sqlite>, id: i64) -> Option<String> {
    rows.flush().await.unwrap();
    let row = rows.find_uncached(id).await.unwrap();
    row.map(|row| row.name.clone())
}

async fn a_sealed_letter_is_replayed(world: &World<Sqlite>) {
    let cache = cache(world, |builder| builder.authenticate([OURS])).await;
    let rows = died(world, &cache).await;
    let letter = letters(&rows).await.remove(0);
    assert_eq!(letter.row().unwrap().name, "letter 2");
    rows.dead_letters().replay(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await.unwrap(), "letter 2");
    assert_eq!(letters(&rows).await.len(), 1);
}

async fn a_changed_letter_is_not_replayed(world: &World<Sqlite>) {
    let cache = cache(world, |builder| builder.authenticate([OURS])).await;
    let rows = died(world, &cache).await;
    change(world).await;
    let [changed, other] = &letters(&rows).await[..] else {
        panic!("there are two");
    };
    assert!(changed.row().is_none());
    let reason = changed.decode_error().unwrap();
    assert!(reason.contains("its tag was not made"), "{reason}");
    for over in [false, true] {
        let dead = rows.dead_letters();
        let refused = match over {
            false => dead.replay(changed).await,
            true => dead.replay_over(changed).await,
        };
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conversion);
    }
    assert_eq!(name(&rows, 2).await, None);
    rows.dead_letters().replay(other).await.unwrap();
    rows.dead_letters().discard(changed).await.unwrap();
    assert_eq!(letters(&rows).await.len(), 0);
}

/// What somebody who can write to the table does to the row in the letter of row 2.
async fn change(world: &World<Sqlite>) {
    let mut bytes: Vec<u8> = payload(world, "%:2").await;
    let from = b"letter 2";
    let at = bytes.windows(from.len()).position(|part| part == from);
    let at = at.expect("the row can be read without the key");
    bytes[at..at + from.len()].copy_from_slice(b"forged 2");
    set_payload(world, "%:2", &bytes).await;
}

async fn payload(world: &World<Sqlite>, key: &str) -> Vec<u8> {
    let read = sqlx::query_scalar("SELECT payload FROM larder_dead_letters WHERE row_key LIKE ?");
    read.bind(key).fetch_one(&world.pool).await.unwrap()
}

async fn set_payload(world: &World<Sqlite>, key: &str, bytes: &[u8]) {
    let write = sqlx::query("UPDATE larder_dead_letters SET payload = ? WHERE row_key LIKE ?");
    let written = write.bind(bytes).bind(key).execute(&world.pool).await;
    assert_eq!(written.unwrap().rows_affected(), 1);
}

async fn without_seals_a_changed_letter_is_replayed(world: &World<Sqlite>) {
    world.faults.leave_out(Mechanism::Seal);
    let cache = cache(world, |builder| builder.authenticate([OURS])).await;
    let rows = died(world, &cache).await;
    change(world).await;
    let letter = letters(&rows).await.remove(0);
    rows.dead_letters().replay(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await.unwrap(), "forged 2");
}

async fn a_letter_is_not_believed_in_another_place(world: &World<Sqlite>) {
    let cache = cache(world, |builder| builder.authenticate([OURS])).await;
    let rows = died(world, &cache).await;
    let (second, third) = (payload(world, "%:2").await, payload(world, "%:3").await);
    set_payload(world, "%:2", &third).await;
    set_payload(world, "%:3", &second).await;
    for letter in letters(&rows).await {
        assert!(letter.row().is_none(), "{letter:?}");
    }
    set_payload(world, "%:2", &second).await;
    let number = "UPDATE larder_dead_letters SET number = number + 100 WHERE row_key LIKE '%:2'";
    world.sql(number).await;
    let deletion = "UPDATE larder_dead_letters SET operation = 'delete' WHERE row_key LIKE '%:3'";
    set_payload(world, "%:3", &third).await;
    assert!(letters(&rows).await[0].row().is_some());
    world.sql(deletion).await;
    for letter in letters(&rows).await {
        assert!(letter.image().is_none(), "{letter:?}");
    }
}

async fn an_encrypted_letter_cannot_be_read_in_the_database(world: &World<Sqlite>) {
    let own = cache(world, |builder| builder.encrypt([OURS])).await;
    let rows = died(world, &own).await;
    let bytes = payload(world, "%:2").await;
    assert!(!bytes.windows(6).any(|part| part == b"letter"));
    let letter = letters(&rows).await.remove(0);
    assert_eq!(letter.row().unwrap().name, "letter 2");
    let other = cache(world, |builder| builder.encrypt([OTHERS])).await;
    let elsewhere = Sent::repository(&other, world.pool.clone());
    let letter = letters(&elsewhere).await.remove(0);
    let reason = letter.decode_error().unwrap();
    assert!(reason.contains("its tag was not made"), "{reason}");
    let replaced = cache(world, |builder| builder.encrypt([OTHERS, OURS])).await;
    let elsewhere = Sent::repository(&replaced, world.pool.clone());
    assert!(letters(&elsewhere).await[0].row().is_some());
}

async fn letters_from_before_the_keys_are_replayed_while_plain_ones_are_accepted(
    world: &World<Sqlite>,
) {
    let plain = cache(world, |builder| builder).await;
    let rows = died(world, &plain).await;
    assert!(letters(&rows).await[0].row().is_some());
    let strict = cache(world, |builder| builder.authenticate([OURS])).await;
    let strict = Sent::repository(&strict, world.pool.clone());
    let letter = letters(&strict).await.remove(0);
    let reason = letter.decode_error().unwrap();
    assert!(reason.contains("only letters with a tag"), "{reason}");
    let lenient = cache(world, |builder| {
        builder
            .authenticate([OURS])
            .plain_entries(PlainEntries::Accept)
    })
    .await;
    let lenient = Sent::repository(&lenient, world.pool.clone());
    let letter = letters(&lenient).await.remove(0);
    assert_eq!(letter.row().unwrap().name, "letter 2");
}

/// A row that somebody else has queued becomes a letter, and is no row of ours there either.
async fn what_was_forged_in_the_queue_gets_no_seal(world: &World<Sqlite>) {
    let plain = cache(world, |builder| builder).await;
    let queued = Sent::repository(&plain, world.pool.clone());
    queued.install().await.unwrap();
    queued.save(&sent(7, "forged", "free")).await.unwrap();
    let own = cache(world, |builder| builder.authenticate([OURS])).await;
    let rows = Sent::repository(&own, world.pool.clone());
    rows.flush().await.unwrap();
    let letter = letters(&rows).await.remove(0);
    assert!(
        letter.error().contains("not written by larder"),
        "{letter:?}"
    );
    assert!(letter.row().is_none());
    let codec = "SELECT CAST(codec AS TEXT) FROM larder_dead_letters";
    let codec: u64 = world.text(codec).await.parse().unwrap();
    assert!(codec < 256, "{codec}");
    assert_eq!(name(&rows, 7).await, None);
}
