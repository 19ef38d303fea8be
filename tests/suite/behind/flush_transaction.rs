//! The transaction of a flush, when its flusher stops or is dropped half-way, and the session after it.

use std::sync::{Mutex, PoisonError, mpsc};

use larder::{
    Repository,
    behind::{
        Batch,
        apply::{ApplyError, Hooks},
        offsets::position_of,
    },
};
use sqlx::MySql;

use crate::{
    behind::desk::{PARCELS, Parcel, batch, desk, parcel, queued, register_place, save, saves},
    lost_transactions::{dropped_after, is_in_transaction, lone_connection},
    world::{Tested, World, on_mysql, on_servers},
};

on_servers!(a_flusher_that_stops_half_way_lets_the_next_one_go_on);
on_mysql!(
    a_flush_leaves_the_session_as_it_was,
    a_flush_that_is_dropped_leaves_no_transaction_behind,
);

/// The first one stops between its rows and its commit, and holds the position; it wakes when the next one is through.
async fn a_flusher_that_stops_half_way_lets_the_next_one_go_on<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let (parcels, place) = (desk.parcels.clone(), desk.place.clone());
    let (stopped, is_stopped) = mpsc::channel();
    let (wake, woken) = mpsc::channel::<()>();
    let writes = desk.queued(saves([parcel(1, "one")]));
    let first = std::thread::spawn({
        let (handle, writes) = (tokio::runtime::Handle::current(), writes.clone());
        move || {
            let woken = Mutex::new(woken);
            let stops = || {
                stopped.send(()).unwrap();
                let woken = woken.lock().unwrap_or_else(PoisonError::into_inner);
                woken.recv().unwrap();
            };
            let hooks = Hooks {
                in_transaction: &stops,
                ..Hooks::default()
            };
            handle.block_on(parcels.apply_queued(&batch(&place, &writes), &hooks))
        }
    });
    tokio::task::block_in_place(|| is_stopped.recv()).unwrap();
    let second = batch(&desk.place, &writes);
    let applied = desk.parcels.apply_queued(&second, &Hooks::default()).await;
    assert_eq!(applied.unwrap().rows, 1);
    wake.send(()).unwrap();
    let first = tokio::task::block_in_place(|| first.join()).unwrap();
    assert!(matches!(first, Err(ApplyError::Failed(_))), "{first:?}");
    assert_eq!(desk.audited().await, ["1 one"], "applied once");
}

async fn a_flush_leaves_the_session_as_it_was(world: &World<MySql>) {
    let desk = desk(world).await;
    desk.apply(saves([parcel(1, "one"), parcel(2, "forbidden")]))
        .await;
    let mut connections = Vec::new();
    for _ in 0..world.pool.options().get_max_connections() {
        connections.push(world.pool.acquire().await.unwrap());
    }
    for connection in &mut connections {
        let waits: (u64, u64) =
            sqlx::query_as("SELECT @@SESSION.wait_timeout, @@GLOBAL.wait_timeout")
                .fetch_one(&mut **connection)
                .await
                .unwrap();
        assert_eq!(waits.0, waits.1);
    }
}

/// At every step of it. The next user of the connection would neither see nor commit anything outside the transaction.
async fn a_flush_that_is_dropped_leaves_no_transaction_behind(world: &World<MySql>) {
    let pool = lone_connection(world).await;
    world.sql(PARCELS).await;
    let place = register_place(world).await;
    let parcels: Repository<Parcel, MySql> = Repository::new(&world.cache, pool.clone());
    let (mut drops, mut ends, mut waits) = (0, 0, 0);
    while ends < 3 || drops < 10 {
        let known = position_of(&pool, &place).await.unwrap();
        let (from, _) = known.unwrap();
        let image = save(parcel(1, &format!("number {from}")));
        let mut writes = queued(|id| parcels.key(id).unwrap(), vec![image]);
        writes[0].number = from + 1;
        let batch = Batch {
            from,
            ..batch(&place, &writes)
        };
        let hooks = Hooks::default();
        let applied = parcels.apply_queued(&batch, &hooks);
        match dropped_after(waits, applied).await {
            Some(applied) => {
                assert_eq!(applied.unwrap().rows, 1);
                ends += 1;
                waits = 0;
            }
            None => {
                drops += 1;
                waits += 1 + waits / 20;
            }
        }
        assert!(!is_in_transaction(&pool).await, "dropped {drops}");
    }
    pool.close().await;
}
