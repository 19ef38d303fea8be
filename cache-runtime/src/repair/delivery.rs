//! How repairs are delivered: key by key, or by a sweep over all keys of the cache's entities.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    Host, Repair,
    backlog::{Everything, Remembered},
};
use crate::{
    error::StoreError,
    protocol::{key::Key, tags::Changed},
    store::{AnnouncedKey, Store, tags::TagStore},
};

/// The maximum number of concurrent repairs.
const MAX_CONCURRENT: usize = 64;
const INITIAL_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(200);

/// The next step of the delivery task.
pub(super) enum Work {
    Nothing,
    Keys(Vec<(Key, Remembered)>),
    Sweep(Everything),
    Wait,
}

/// Exists while the delivery task runs.
struct Running {
    host: Weak<dyn Host>,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The task was stopped with its runtime: allow another one to be started.
        if !self.ended
            && let Some(host) = self.host.upgrade()
        {
            host.repairs().running.store(false, Ordering::Release);
        }
    }
}

/// Starts the delivery task.
pub(super) fn start(host: Weak<dyn Host>) {
    tokio::spawn(run(Running { host, ended: false }));
}

/// Delivers repairs until none is left or the cache is dropped.
async fn run(mut running: Running) {
    let mut pause = INITIAL_BACKOFF;
    loop {
        let Some(host) = running.host.upgrade() else {
            return;
        };
        let progress = match host.repairs().next() {
            Work::Nothing => {
                running.ended = true;
                return;
            }
            Work::Keys(keys) => deliver(&host, keys).await,
            Work::Sweep(everything) => {
                drop(host);
                sweep(&running.host, everything).await.is_ok()
            }
            Work::Wait => false,
        };
        if progress {
            pause = INITIAL_BACKOFF;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_BACKOFF);
        }
    }
}

/// Delivers the repairs of these keys. Returns whether any was acknowledged.
async fn deliver(host: &Arc<dyn Host>, keys: Vec<(Key, Remembered)>) -> bool {
    let mut progress = false;
    for chunk in keys.chunks(MAX_CONCURRENT) {
        let mut repairs = JoinSet::new();
        for (key, remembered) in chunk {
            repairs.spawn(repair(Arc::clone(host), key.clone(), *remembered));
        }
        let arrived = count_arrived(repairs).await;
        progress |= arrived > 0;
        // A key that cannot be repaired must not block the others. Stop only if the store cannot be reached.
        if arrived == 0 && !host.store().is_available() {
            break;
        }
    }
    progress
}

async fn repair(host: Arc<dyn Host>, key: Key, remembered: Remembered) -> Result<(), StoreError> {
    match remembered.how {
        // After a failover, the keys that were noted are dropped. That of a clock must not be.
        Repair::Advance => host.repairs().note_write_of_all(),
        Repair::Drop | Repair::Announce { .. } => host.repairs().note_write(&key),
    }
    match remembered.how {
        Repair::Drop => host.store().invalidate(&key).await?,
        Repair::Advance => host.store().advance_clock(&key, &Changed::All).await?,
        Repair::Announce {
            intent,
            intent_ttl_ms,
        } => {
            let touched = [AnnouncedKey {
                key: key.clone(),
                update: None,
            }];
            host.store().begin(&touched, intent, intent_ttl_ms).await?;
        }
    }
    host.repairs().delivered(&key, remembered.generation);
    Ok(())
}

/// Drops every key of the cache's entities.
async fn sweep(host: &Weak<dyn Host>, everything: Everything) -> Result<(), StoreError> {
    let Some(strong) = host.upgrade() else {
        return Ok(());
    };
    let prefixes = strong.repairs().prefixes();
    drop(strong);
    drop_all(host, prefixes).await?;
    if let Some(host) = host.upgrade() {
        host.repairs().swept(everything.generation);
    }
    Ok(())
}

/// Drops every key with one of these prefixes ([`Repairs::drop_all`](super::Repairs::drop_all)).
pub(super) async fn drop_all(
    host: &Weak<dyn Host>,
    prefixes: impl IntoIterator<Item = Vec<u8>>,
) -> Result<(), StoreError> {
    for (beginning, prefixes) in scans(prefixes) {
        scan_and_drop(host, &beginning, &prefixes).await?;
    }
    Ok(())
}

/// Returns the fewest scans that find all keys with these prefixes: each scan uses their common beginning. A scan reads
/// every key of the server, so one scan for each of a thousand namespaces would overload it.
fn scans(prefixes: impl IntoIterator<Item = Vec<u8>>) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
    // Keys with a hash tag begin with a brace, and have no beginning in common with the others.
    let (braced, plain): (Vec<_>, Vec<_>) = prefixes
        .into_iter()
        .partition(|prefix| prefix.starts_with(b"{"));
    [braced, plain]
        .into_iter()
        .filter_map(|mut prefixes| {
            prefixes.sort();
            prefixes.dedup_by(|longer, prefix| longer.starts_with(prefix));
            let (first, last) = (prefixes.first()?, prefixes.last()?);
            // The prefixes are sorted, so what the first and the last share, all share.
            let same = first.iter().zip(last);
            let common = same.take_while(|(one, other)| one == other).count();
            Some((first[..common].to_vec(), prefixes))
        })
        .collect()
}

/// Scans once, for the keys with one of the prefixes. The prefixes are sorted and have this common beginning.
async fn scan_and_drop(
    host: &Weak<dyn Host>,
    beginning: &[u8],
    prefixes: &[Vec<u8>],
) -> Result<(), StoreError> {
    let mut run = None;
    let mut cursor = 0;
    loop {
        // Stop when the cache is dropped.
        let Some(host) = host.upgrade() else {
            return Ok(());
        };
        let began_in = *run.get_or_insert_with(|| host.store().connection_number());
        // If the server turns out to have a successor, all keys must be dropped there again.
        host.repairs().note_write_of_all();
        let (next, mut keys) = host.store().scan(beginning, cursor).await?;
        keys.retain(|key| {
            let key = key.as_bytes();
            let before = prefixes.partition_point(|prefix| prefix.as_slice() <= key);
            before > 0 && key.starts_with(&prefixes[before - 1])
        });
        for chunk in keys.chunks(MAX_CONCURRENT) {
            let mut drops = JoinSet::new();
            for key in chunk {
                let (host, key) = (Arc::clone(&host), key.clone());
                drops.spawn(async move { host.store().invalidate(&key).await });
            }
            if count_arrived(drops).await < chunk.len() {
                return Err(StoreError::new("the store did not drop all scanned keys"));
            }
        }
        if host.store().connection_number() != began_in {
            return Err(StoreError::new(
                "the connection to the store was replaced while keys were being dropped",
            ));
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

/// Returns how many of these commands the store has acknowledged.
async fn count_arrived(mut commands: JoinSet<Result<(), StoreError>>) -> usize {
    let mut arrived = 0;
    while let Some(command) = commands.join_next().await {
        arrived += usize::from(matches!(command, Ok(Ok(()))));
    }
    arrived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scan_finds_the_keys_of_many_namespaces() {
        let prefixes = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let tenants: Vec<_> = prefixes(&["shop-eu:Item:", "shop-us:Cart:", "shop-us:Item:"]);
        assert_eq!(
            scans(tenants.clone()),
            [(b"shop-".to_vec(), tenants.clone())]
        );
        let slots: Vec<_> = prefixes(&["{shop-eu:Item}:"]);
        let mut mixed = tenants.clone();
        mixed.extend(slots.clone());
        assert_eq!(
            scans(mixed),
            [
                (b"{shop-eu:Item}:".to_vec(), slots),
                (b"shop-".to_vec(), tenants)
            ]
        );
        assert_eq!(
            scans(prefixes(&["a:", "b:"])),
            [(Vec::new(), prefixes(&["a:", "b:"]))]
        );
        assert_eq!(
            scans(prefixes(&["b:", "a:b:", "a:", "a:b:"])),
            [(Vec::new(), prefixes(&["a:", "b:"]))]
        );
        assert_eq!(scans(Vec::new()), []);
    }
}
