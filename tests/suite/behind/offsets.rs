//! The table of positions: incarnations are ordered by their epochs, positions advance with compare-and-set, and counts only
//! grow.
//!
//! Not here: positions that advance together with rows (`apply`).

use std::sync::Arc;

use larder::{
    ErrorKind,
    behind::offsets::{
        QueueIncarnation, close, count_lost, open_incarnations, open_of_queue, position_of,
        queues_like, register,
    },
    queue_position::Incarnation,
    tables::install,
};

use crate::world::{Tested, World, at_once, on_all_databases};

on_all_databases!(
    tables_are_installed_by_many_at_once,
    missing_tables_are_reported,
    registrations_at_once_get_epochs_of_their_own,
    incarnations_stand_open_in_the_order_of_their_epochs,
    an_incarnation_is_closed_only_at_its_position,
    an_epoch_of_a_dead_letter_or_of_the_store_is_not_assigned_again,
    lost_writes_are_counted_once,
    queues_whose_names_differ_in_case_are_two,
);

fn place(queue: &str, incarnation: Incarnation) -> QueueIncarnation {
    QueueIncarnation {
        queue: Arc::from(queue),
        partition: 3,
        incarnation,
    }
}

async fn tables_are_installed_by_many_at_once<DB: Tested>(world: &World<DB>) {
    for _ in 0..3 {
        let pool = world.pool.clone();
        let installed = at_once(8, |_| {
            let pool = pool.clone();
            async move { install(&pool).await }
        });
        for result in installed.await {
            result.unwrap();
        }
        assert_eq!(open_of_queue(&world.pool, "q").await.unwrap(), []);
        world.sql("DROP TABLE larder_offsets").await;
        world.sql("DROP TABLE larder_dead_letters").await;
    }
}

async fn missing_tables_are_reported<DB: Tested>(world: &World<DB>) {
    let error = register(&world.pool, "q", 0, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("install()"), "{error}");
    let error = open_of_queue(&world.pool, "q").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}

async fn registrations_at_once_get_epochs_of_their_own<DB: Tested>(world: &World<DB>) {
    install(&world.pool).await.unwrap();
    let pool = world.pool.clone();
    let registered = at_once(8, |_| {
        let pool = pool.clone();
        async move { register(&pool, "q", 3, 0).await.unwrap() }
    });
    let mut registered = registered.await;
    registered.sort_by_key(|incarnation| incarnation.epoch);
    let epochs: Vec<_> = registered
        .iter()
        .map(|incarnation| incarnation.epoch)
        .collect();
    assert_eq!(epochs, [1, 2, 3, 4, 5, 6, 7, 8]);
    let open = open_incarnations(&world.pool, "q", 3).await.unwrap();
    let open: Vec<_> = open.iter().map(|open| open.incarnation).collect();
    assert_eq!(open, registered, "with the nonces that they were told");
}

async fn incarnations_stand_open_in_the_order_of_their_epochs<DB: Tested>(world: &World<DB>) {
    install(&world.pool).await.unwrap();
    let pool = &world.pool;
    let first = register(pool, "q", 3, 0).await.unwrap();
    let second = register(pool, "q", 3, 0).await.unwrap();
    let other = register(pool, "q", 0, 0).await.unwrap();
    register(pool, "another", 3, 0).await.unwrap();
    assert_eq!((first.epoch, second.epoch, other.epoch), (1, 2, 1));
    assert_ne!(first.nonce, second.nonce);
    let open = open_incarnations(pool, "q", 3).await.unwrap();
    let of = |open: &[larder::behind::offsets::OpenIncarnation]| -> Vec<_> {
        open.iter()
            .map(|open| (open.incarnation, open.position))
            .collect()
    };
    assert_eq!(of(&open), [(first, 0), (second, 0)]);
    let all: Vec<_> = open_of_queue(pool, "q").await.unwrap();
    let all: Vec<_> = all
        .iter()
        .map(|(partition, open)| (*partition, open.incarnation))
        .collect();
    assert_eq!(all, [(0, other), (3, first), (3, second)]);
    register(pool, "q2", 3, 0).await.unwrap();
    assert_eq!(queues_like(pool, "q").await.unwrap(), ["q", "q2"]);
    let known = position_of(pool, &place("q", first)).await.unwrap();
    assert_eq!(known, Some((0, false)));
    let claimed = Incarnation {
        nonce: first.nonce ^ 1,
        ..first
    };
    let unknown = position_of(pool, &place("q", claimed)).await.unwrap();
    assert_eq!(unknown, None, "the nonce is another one");
}

async fn an_incarnation_is_closed_only_at_its_position<DB: Tested>(world: &World<DB>) {
    install(&world.pool).await.unwrap();
    let pool = &world.pool;
    let place = place("q", register(pool, "q", 3, 0).await.unwrap());
    assert!(!close(pool, &place, 1).await.unwrap());
    assert!(close(pool, &place, 0).await.unwrap());
    assert!(!close(pool, &place, 0).await.unwrap(), "it is closed");
    assert_eq!(position_of(pool, &place).await.unwrap(), Some((0, true)));
    assert_eq!(open_incarnations(pool, "q", 3).await.unwrap(), []);
    let next = register(pool, "q", 3, 0).await.unwrap();
    assert_eq!(next.epoch, 2, "an epoch is not given again");
}

async fn an_epoch_of_a_dead_letter_or_of_the_store_is_not_assigned_again<DB: Tested>(
    world: &World<DB>,
) {
    install(&world.pool).await.unwrap();
    for (queue, partition, epoch) in [("q", 3, 7), ("q", 2, 8), ("p", 3, 9)] {
        world
            .sql(format!(
                "INSERT INTO larder_dead_letters VALUES ('{queue}', {partition}, {epoch}, 1, 'k', 'save', 2, 0, '', 'e', 0, '')"
            ))
            .await;
    }
    let pool = &world.pool;
    assert_eq!(register(pool, "q", 3, 0).await.unwrap().epoch, 8);
    assert_eq!(register(pool, "q", 3, 5).await.unwrap().epoch, 9);
    assert_eq!(register(pool, "q", 3, 20).await.unwrap().epoch, 21);
    assert_eq!(register(pool, "q", 1, 0).await.unwrap().epoch, 1);
}

async fn lost_writes_are_counted_once<DB: Tested>(world: &World<DB>) {
    install(&world.pool).await.unwrap();
    let incarnation = register(&world.pool, "q", 3, 0).await.unwrap();
    let lost = "SELECT CONCAT(lost, '') FROM larder_offsets";
    // A flush has found that four writes are missing before the fifth, which is the last one.
    world
        .sql("UPDATE larder_offsets SET position = 5, lost = 4, closed = 1")
        .await;
    let pool = world.pool.clone();
    let counted = at_once(6, |task| {
        let (pool, place) = (pool.clone(), place("q", incarnation));
        async move {
            count_lost(&pool, &place, 7 + task as u64 % 2)
                .await
                .unwrap()
        }
    });
    assert_eq!(counted.await.iter().sum::<u64>(), 3);
    assert_eq!(world.text(lost).await, "7");
    let place = place("q", incarnation);
    assert_eq!(count_lost(&world.pool, &place, 5).await.unwrap(), 0);
    assert_eq!(count_lost(&world.pool, &place, 8).await.unwrap(), 0);
    assert_eq!(count_lost(&world.pool, &place, 11).await.unwrap(), 3);
    assert_eq!(world.text(lost).await, "10");
}

async fn queues_whose_names_differ_in_case_are_two<DB: Tested>(world: &World<DB>) {
    install(&world.pool).await.unwrap();
    let pool = &world.pool;
    register(pool, "app:Scan", 3, 0).await.unwrap();
    assert_eq!(open_of_queue(pool, "app:scan").await.unwrap(), []);
    assert_eq!(register(pool, "app:scan", 3, 0).await.unwrap().epoch, 1);
}
