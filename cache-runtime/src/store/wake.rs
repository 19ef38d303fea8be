//! Waiting for the load of another process: a registry of keys whose news somebody in this process waits for.
//!
//! Without it, waiters would poll: too often for the store, or too seldom for their callers.
//! 1. A waiter registers with [`Wakeups::listen`], and only then asks the store to be told (`Store::wait`), so news that
//!    arrives in between is kept for it.
//! 2. The store's news, however it travels, ends in [`Wakeups::wake`].
//!
//! Invariant: a wake-up is a hint. The waiter looks at the key again, and a bounded time-out covers a hint that was lost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Notify, futures::OwnedNotified};

use crate::protocol::key::Key;

/// The keys that somebody waits for.
#[derive(Debug, Default)]
pub struct Wakeups(Mutex<HashMap<Key, Weak<Notify>>>);

/// A place in the queue for news of one key.
#[derive(Debug)]
pub struct Listener {
    notified: std::pin::Pin<Box<OwnedNotified>>,
    // Kept alive so that other waiters of the key find it.
    _notify: Arc<Notify>,
}

impl Wakeups {
    /// Registers for news of a key; from here on none is missed.
    pub fn listen(&self, key: &Key) -> Listener {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = match keys.get(key).and_then(Weak::upgrade) {
            Some(notify) => notify,
            None => {
                // Waiters that gave up leave their key behind; it is swept when the map would grow.
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

    /// Wakes everybody who waits for a key.
    pub fn wake(&self, key: &[u8]) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = keys.remove(key).and_then(|waiters| waiters.upgrade()) {
            notify.notify_waiters();
        }
    }

    /// Wakes everybody: news may have been lost.
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
    /// Waits for news.
    pub async fn woken(self) {
        self.notified.await;
    }
}
