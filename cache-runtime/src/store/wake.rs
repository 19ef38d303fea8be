//! Waiting for the load of another process: a registry of the keys that callers of this process wait for.
//!
//! Without it, waiters would poll: too often for the store, or too seldom for their callers.
//!
//! 1. A waiter registers with [`Wakeups::listen`], and then calls `Store::wait`. So it misses no wake-up in between.
//! 2. The store calls [`Wakeups::wake`] when a load has ended.
//!
//! Invariant: a wake-up is a hint. The waiter reads the key again, and a time-out covers a wake-up that was lost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Notify, futures::OwnedNotified};

use crate::protocol::key::Key;

/// The keys that callers wait for.
#[derive(Debug, Default)]
pub struct Wakeups(Mutex<HashMap<Key, Weak<Notify>>>);

/// One caller that waits for a key.
#[derive(Debug)]
pub struct Listener {
    notified: std::pin::Pin<Box<OwnedNotified>>,
    // Keeps the key in the registry for other waiters.
    _notify: Arc<Notify>,
}

impl Wakeups {
    /// Registers for wake-ups of a key. None is missed from here on.
    pub fn listen(&self, key: &Key) -> Listener {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = match keys.get(key).and_then(Weak::upgrade) {
            Some(notify) => notify,
            None => {
                // Waiters that gave up leave their key in the map. Remove such keys before the map grows.
                if keys.len() == keys.capacity() {
                    keys.retain(|_, waiters| waiters.strong_count() > 0);
                }
                let notify = Arc::new(Notify::new());
                keys.insert(key.clone(), Arc::downgrade(&notify));
                notify
            }
        };
        let mut notified = Box::pin(Arc::clone(&notify).notified_owned());
        notified.as_mut().enable();
        Listener {
            notified,
            _notify: notify,
        }
    }

    /// Wakes all waiters of a key.
    pub fn wake(&self, key: &[u8]) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = keys.remove(key).and_then(|waiters| waiters.upgrade()) {
            notify.notify_waiters();
        }
    }

    /// Wakes all waiters of all keys, because wake-ups may have been lost.
    pub fn wake_all(&self) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, waiters) in keys.drain() {
            if let Some(notify) = waiters.upgrade() {
                notify.notify_waiters();
            }
        }
    }
}

impl Listener {
    /// Returns when the key is woken.
    pub async fn woken(self) {
        self.notified.await;
    }
}
