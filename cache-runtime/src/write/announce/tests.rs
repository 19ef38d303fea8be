//! Announcements on an in-process store that fails on request.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{
    cache::Cache,
    protocol::state::{Identity, Lease, Meta},
    store::{
        Fill, Found, Over, Payload,
        faulty::{Faults, Operation},
    },
};

const FINGERPRINT: u32 = 5;
const CODEC: u8 = 1;

struct Target {
    cache: Cache,
    policy: Policy,
    counters: Counters,
    prefix: &'static [u8],
}

impl WriteTarget for Target {
    fn cache(&self) -> &Arc<cache::Inner> {
        self.cache.inner()
    }

    fn prefix(&self) -> &[u8] {
        self.prefix
    }

    fn prefixes(&self) -> Vec<Vec<u8>> {
        vec![self.prefix().to_vec()]
    }

    fn tag_clock(&self) -> Option<&Key> {
        None
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn entity(&self) -> &str {
        "Item"
    }

    fn dependents(&self) -> Option<&Dependents> {
        None
    }
}

struct Scene {
    target: Arc<Target>,
    faults: Faults,
}

impl Scene {
    fn new(policy: Policy) -> Self {
        let faults = Faults::new();
        let cache = Cache::builder().faults(&faults).build().unwrap();
        Self {
            target: Arc::new(Target {
                cache,
                policy,
                counters: Counters::default(),
                prefix: b"Item:",
            }),
            faults,
        }
    }

    fn target(&self) -> Arc<dyn WriteTarget> {
        Arc::clone(&self.target) as _
    }

    fn identity(&self) -> Identity {
        Identity {
            history: self.target.cache().store.history(),
            fingerprint: FINGERPRINT,
            codec: CODEC,
        }
    }

    fn meta(&self) -> Meta {
        Meta {
            lease: Lease {
                token: Token::draw(),
                identity: self.identity(),
            },
            loaded_at_ms: 0,
            stamp: None,
        }
    }

    fn update(&self) -> CacheUpdate {
        CacheUpdate {
            fill: Fill::Value(self.meta(), Payload::Shared(Arc::new(7_u8), 1)),
            ttl_ms: 60_000,
        }
    }

    /// Stores a row at a key, as a load does.
    async fn fill(&self, key: &Key) {
        let store = &self.target.cache().store;
        let meta = self.meta();
        let granted = store
            .acquire(key, meta.lease, 5_000, Over::Nothing, None)
            .await;
        assert!(granted.unwrap().is_none(), "the lease was granted");
        let fill = Fill::Value(meta, Payload::Shared(Arc::new(1_u8), 1));
        assert!(store.fill(key, fill, 60_000, 5_000).await.unwrap());
    }

    async fn found(&self, key: &Key) -> Found {
        let store = &self.target.cache().store;
        store.get(key, FINGERPRINT, CODEC).await.unwrap()
    }

    /// Returns the announcement of a write that has begun.
    async fn begun(&self, key: &Key) -> Announcement {
        let target = self.target();
        let mut announcement = Announcement::of_one(
            Token::draw(),
            target,
            key.clone(),
            Vec::new(),
            PendingWrites::default(),
        );
        announcement.begin().await;
        announcement
    }

    fn blocks(&self, key: &Key) -> bool {
        self.target.cache().repairs.blocks(key)
    }
}

fn key(number: u8) -> Key {
    Key::from_bytes(&[b"Item:".as_slice(), &[number]].concat())
}

const CONSISTENT: Policy = Policy::DEFAULT.on_outage(OnOutage::Consistent);

#[tokio::test]
async fn intent_is_at_the_key_until_the_end_and_the_update_after_it() {
    let scene = Scene::new(Policy::DEFAULT);
    for (ending, with_update) in [
        (WriteEnd::Committed, true),
        (WriteEnd::Committed, false),
        (WriteEnd::Undone, true),
    ] {
        let key = key(1);
        let mut announcement = scene.begun(&key).await;
        assert!(matches!(scene.found(&key).await, Found::Writing));
        announcement.set_update(with_update.then(|| scene.update()));
        announcement.end(ending).await;
        let found = scene.found(&key).await;
        if with_update && ending == WriteEnd::Committed {
            assert!(matches!(found, Found::Value(..)), "{found:?}");
        } else {
            assert!(matches!(found, Found::Absent), "{ending:?}: {found:?}");
        }
        assert!(!scene.blocks(&key));
    }
}

#[tokio::test]
async fn update_of_a_second_attempt_or_another_history_or_a_blocked_key_is_not_left() {
    let scene = Scene::new(Policy::DEFAULT);
    let again = key(1);
    let mut announcement = scene.begun(&again).await;
    announcement.begin().await;
    announcement.set_update(Some(scene.update()));
    announcement.end(WriteEnd::Committed).await;
    assert!(matches!(scene.found(&again).await, Found::Absent));

    let elsewhere = key(2);
    let mut announcement = scene.begun(&elsewhere).await;
    let mut update = scene.update();
    if let Fill::Value(meta, _) = &mut update.fill {
        meta.lease.identity.history += 1;
    }
    announcement.set_update(Some(update));
    announcement.end(WriteEnd::Committed).await;
    assert!(matches!(scene.found(&elsewhere).await, Found::Absent));

    let blocked = key(3);
    let mut announcement = scene.begun(&blocked).await;
    // The delivery task has not run yet.
    scene
        .target
        .cache()
        .repairs
        .remember(&blocked, Repair::Drop);
    announcement.set_update(Some(scene.update()));
    announcement.end(WriteEnd::Committed).await;
    assert!(matches!(scene.found(&blocked).await, Found::Absent));
}

#[tokio::test]
async fn update_expires_no_later_than_its_row() {
    let scene = Scene::new(Policy::DEFAULT);
    let update = |ttl_ms| CacheUpdate {
        ttl_ms,
        ..scene.update()
    };
    assert_eq!(update(100).aged(40).map(|update| update.ttl_ms), Some(60));
    assert!(update(100).aged(100).is_none() && update(100).aged(101).is_none());
}

#[tokio::test]
async fn write_of_unknown_outcome_keeps_its_intent_and_needs_a_repair_only_where_there_is_none() {
    let scene = Scene::new(Policy::DEFAULT);
    let announcement = scene.begun(&key(1)).await;
    announcement.end(WriteEnd::Unknown).await;
    assert!(matches!(scene.found(&key(1)).await, Found::Writing));
    assert!(!scene.blocks(&key(1)), "the intent is in place");

    scene.faults.fail(Operation::Begin, 1);
    let announcement = scene.begun(&key(2)).await;
    assert!(matches!(scene.found(&key(2)).await, Found::Absent));
    announcement.end(WriteEnd::Unknown).await;
    assert!(scene.blocks(&key(2)), "nobody else knows of the write");
}

#[tokio::test]
async fn consistent_entity_refuses_a_write_that_cannot_be_announced() {
    for (policy, is_refused) in [(CONSISTENT, true), (Policy::DEFAULT, false)] {
        let scene = Scene::new(policy);
        scene.faults.fail(Operation::Begin, 2);
        let announcement = scene.begun(&key(1)).await;
        let ran = AtomicBool::new(false);
        let step = async { ran.store(true, Ordering::SeqCst) };
        let attempted = announcement.attempt("update", step).await;
        assert_eq!(ran.load(Ordering::SeqCst), !is_refused);
        match attempted {
            Ok((_, announcement)) => {
                assert!(!is_refused);
                announcement.end(WriteEnd::Committed).await;
            }
            Err(error) => {
                assert!(is_refused);
                assert_eq!(error.kind(), ErrorKind::CacheUnavailable);
                assert!(error.to_string().contains("on_outage"), "{error}");
            }
        }
        assert!(matches!(scene.found(&key(1)).await, Found::Absent));
    }
}

#[tokio::test]
async fn announcement_that_failed_is_made_again_before_the_step() {
    let scene = Scene::new(CONSISTENT);
    scene.faults.fail(Operation::Begin, 1);
    let announcement = scene.begun(&key(1)).await;
    let attempted = announcement.attempt("update", async {}).await;
    assert!(attempted.is_ok(), "the second attempt has worked");
    assert!(matches!(scene.found(&key(1)).await, Found::Writing));
}

#[tokio::test]
async fn intent_is_due_again_after_a_third_of_its_ttl_and_soon_after_a_failure() {
    const TTL: Duration = Duration::from_hours(1);
    let scene = Scene::new(Policy::DEFAULT.intent_ttl(3_600_000));
    let earliest = Deadline::after(TTL / 4);
    let announcement = scene.begun(&key(1)).await;
    assert!(announcement.renewal > earliest);
    assert!(announcement.renewal < Deadline::after(TTL / 2));

    scene.faults.fail(Operation::Begin, 1);
    let failed = scene.begun(&key(2)).await;
    assert!(failed.renewal <= Deadline::after(RETRY));
}

#[tokio::test]
async fn intent_is_renewed_while_the_step_takes_longer_than_its_ttl() {
    let scene = Scene::new(Policy::DEFAULT.intent_ttl(300));
    let mut announcement = scene.begun(&key(1)).await;
    let before = scene.faults.calls(Operation::Begin);
    let calls = || scene.faults.calls(Operation::Begin);
    let step = async {
        while calls() < before + 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let renewed = tokio::time::timeout(Duration::from_secs(20), announcement.renew_while(step));
    renewed.await.unwrap();
    assert!(matches!(scene.found(&key(1)).await, Found::Writing));
}

#[tokio::test]
async fn end_that_the_store_does_not_receive_is_repaired() {
    for coherence in [Coherence::Intent, Coherence::Lease] {
        let scene = Scene::new(Policy::DEFAULT.coherence(coherence));
        let announcement = scene.begun(&key(1)).await;
        scene.faults.fail(Operation::End, 1);
        scene.faults.fail(Operation::Invalidate, 1);
        announcement.end(WriteEnd::Committed).await;
        assert!(scene.blocks(&key(1)), "{coherence:?}");
    }
}

#[tokio::test]
async fn weaker_coherence_drops_the_row_after_the_write_or_never() {
    for (coherence, ending, is_dropped) in [
        (Coherence::Lease, WriteEnd::Committed, true),
        (Coherence::Lease, WriteEnd::Unknown, true),
        (Coherence::Lease, WriteEnd::Undone, false),
        (Coherence::Ttl, WriteEnd::Committed, false),
    ] {
        let scene = Scene::new(Policy::DEFAULT.coherence(coherence));
        scene.fill(&key(1)).await;
        let announcement = scene.begun(&key(1)).await;
        assert_eq!(
            scene.faults.calls(Operation::Begin),
            0,
            "no intent is placed"
        );
        announcement.end(ending).await;
        let is_there = matches!(scene.found(&key(1)).await, Found::Value(..));
        assert_eq!(is_there, !is_dropped, "{coherence:?} {ending:?}");
    }
}

#[tokio::test]
async fn write_of_any_row_drops_all_rows_when_it_has_committed() {
    for (ending, is_dropped) in [(WriteEnd::Committed, true), (WriteEnd::Undone, false)] {
        let scene = Scene::new(Policy::DEFAULT);
        scene.fill(&key(1)).await;
        scene.fill(&Key::from_bytes(b"Other:1")).await;
        let mut pending = PendingWrites::default();
        pending.mark_all_changed(scene.target());
        assert!(pending.intent_ttl().is_some());
        let mut announcement = Announcement::new(Token::draw(), pending);
        announcement.begin().await;
        announcement.end(ending).await;
        let is_there = matches!(scene.found(&key(1)).await, Found::Value(..));
        assert_eq!(is_there, !is_dropped, "{ending:?}");
        let other = scene.found(&Key::from_bytes(b"Other:1")).await;
        assert!(matches!(other, Found::Value(..)), "rows of others stay");
    }
}

#[tokio::test]
async fn unknown_outcome_of_a_write_of_any_row_blocks_everything() {
    let scene = Scene::new(Policy::DEFAULT);
    let mut pending = PendingWrites::default();
    pending.mark_all_changed(scene.target());
    let mut announcement = Announcement::new(Token::draw(), pending);
    announcement.begin().await;
    announcement.end(WriteEnd::Unknown).await;
    assert!(scene.blocks(&key(9)));
}

/// Returns what is at each key: a row, an absence, or nothing.
async fn left(scene: &Scene, pending: PendingWrites, keys: &[u8]) -> Vec<&'static str> {
    let mut announcement = Announcement::new(Token::draw(), pending);
    announcement.begin().await;
    announcement.end(WriteEnd::Committed).await;
    let mut left = Vec::new();
    for number in keys {
        left.push(match scene.found(&key(*number)).await {
            Found::Value(..) => "row",
            Found::Negative(_) => "absence",
            _ => "nothing",
        });
    }
    left
}

#[tokio::test]
async fn last_change_of_a_key_decides_what_is_left() {
    let scene = Scene::new(Policy::DEFAULT);
    let absence = || CacheUpdate {
        fill: Fill::Negative(scene.meta()),
        ttl_ms: 60_000,
    };
    let row = || scene.update();
    let mut pending = PendingWrites::default();
    assert!(pending.intent_ttl().is_none(), "nothing has changed");
    pending.mark_changed(scene.target(), key(1), Some(row()));
    pending.mark_changed(scene.target(), key(2), Some(row()));
    pending.mark_changed(scene.target(), key(2), None);
    pending.mark_changed(scene.target(), key(3), None);
    pending.mark_changed(scene.target(), key(3), Some(absence()));
    assert_eq!(
        left(&scene, pending, &[1, 2, 3]).await,
        ["row", "nothing", "absence"]
    );
    let of_all = |pending: &mut PendingWrites| {
        pending.mark_changed(scene.target(), key(1), Some(row()));
        pending.mark_changed(scene.target(), key(2), Some(absence()));
    };

    let mut pending = PendingWrites::default();
    of_all(&mut pending);
    pending.cancel_row_updates();
    assert_eq!(left(&scene, pending, &[1, 2]).await, ["nothing", "absence"]);

    let mut pending = PendingWrites::default();
    of_all(&mut pending);
    pending.cancel_updates();
    assert_eq!(left(&scene, pending, &[1, 2]).await, ["nothing", "nothing"]);
}

#[tokio::test]
async fn later_changes_are_absorbed_over_earlier_ones() {
    let scene = Scene::new(Policy::DEFAULT);
    let staged = |keys: &[u8]| {
        let mut pending = PendingWrites::default();
        for number in keys {
            pending.mark_changed(scene.target(), key(*number), Some(scene.update()));
        }
        pending
    };
    let mut earlier = staged(&[1, 2]);
    let mut later = staged(&[3]);
    later.mark_changed(scene.target(), key(2), None);
    earlier.absorb(later);
    assert_eq!(
        left(&scene, earlier, &[1, 2, 3]).await,
        ["row", "nothing", "row"]
    );

    // A delete of the later changes may have changed rows of the earlier ones.
    let mut earlier = staged(&[1]);
    let mut later = PendingWrites::default();
    later.cancel_row_updates();
    later.mark_changed(scene.target(), key(2), Some(scene.update()));
    earlier.absorb(later);
    assert_eq!(left(&scene, earlier, &[1, 2]).await, ["nothing", "row"]);

    let mut earlier = PendingWrites::default();
    let mut later = PendingWrites::default();
    later.mark_all_changed(scene.target());
    earlier.absorb(later);
    scene.fill(&key(7)).await;
    assert_eq!(left(&scene, earlier, &[7]).await, ["nothing"]);
}

#[tokio::test]
async fn repositories_of_one_entity_share_their_keys_and_others_do_not() {
    let scene = Scene::new(Policy::DEFAULT);
    let with_prefix = |prefix, policy| {
        Arc::new(Target {
            cache: scene.target.cache.clone(),
            policy,
            counters: Counters::default(),
            prefix,
        }) as Arc<dyn WriteTarget>
    };
    let mut pending = PendingWrites::default();
    pending.mark_changed(scene.target(), key(1), Some(scene.update()));
    pending.mark_changed(with_prefix(b"Item:", Policy::DEFAULT), key(1), None);
    assert_eq!(pending.targets.len(), 1);
    let short = Policy::DEFAULT.intent_ttl(1_000);
    pending.mark_changed(with_prefix(b"Other:", short), key(1), None);
    let elsewhere = Scene::new(Policy::DEFAULT);
    pending.mark_changed(elsewhere.target(), key(1), None);
    assert_eq!(pending.targets.len(), 3);
    assert_eq!(pending.intent_ttl(), Some(Duration::from_secs(1)));
}
