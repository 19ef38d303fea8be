//! What is wrong with Redis, said once when it begins and once when it ends.
//!
//! A store that fails is no error of any read, so nobody would hear of it; and one line for every read that met it would
//! drown everything else. So the state is kept here, and only its changes are logged, with the address and the code.
//!
//! - *Away*: there is no link that could be used, for one reason after another (`UNREACHABLE`, `TIMEOUT`, `REPLICA`,
//!   `LOADING`, `NOAUTH`, ..). A new reason is a change.
//! - *Deaf*: the link is sound, and there are no wake-ups, for one reason after another.
//! - *Refused*: the link is sound, and the server refuses some operations (`OOM`, `NOREPLICAS`, `NOPERM`, ..). It has ended
//!   when one of them is accepted again and none was refused for a second: at the edge of its memory a server refuses one
//!   command in two.
//!
//! Invariant: as long as nothing is refused, an operation that succeeds costs one relaxed load here.
//! Not here: what follows from it (`connection`).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::RedisError;

use crate::clock::Deadline;

/// How long an operation must not have been refused before it counts as accepted again.
const CALM: Duration = Duration::from_secs(1);

/// The code of a connection that cannot be made or was lost.
pub(crate) const UNREACHABLE: &str = "UNREACHABLE";

/// Why Redis is away.
#[derive(Clone, Debug)]
pub(crate) struct Away {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Away {
    pub(crate) fn new(code: &str, message: &str) -> Self {
        Self {
            code: code.to_owned(),
            message: message.to_owned(),
        }
    }
}

impl From<&RedisError> for Away {
    fn from(error: &RedisError) -> Self {
        let code = match error.code() {
            Some(code) => code,
            None if error.is_timeout() => "TIMEOUT",
            None if error.kind() == redis::ErrorKind::AuthenticationFailed => "NOAUTH",
            None if error.is_io_error() => UNREACHABLE,
            None => error.category(),
        };
        Self::new(code, &error.to_string())
    }
}

impl From<RedisError> for Away {
    fn from(error: RedisError) -> Self {
        Self::from(&error)
    }
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The state of one server, as far as it has been reported.
#[derive(Debug)]
pub(crate) struct Conditions {
    address: String,
    away: Mutex<Option<String>>,
    /// Why there are no wake-ups.
    deaf: Mutex<Option<String>>,
    /// What is refused, by the code.
    refused: Mutex<HashMap<String, Refusal>>,
    any_refused: AtomicBool,
}

#[derive(Debug, Default)]
struct Refusal {
    /// What was refused with this code.
    operations: HashSet<&'static str>,
    /// From when on one of them that is accepted is the end.
    calm: Option<Deadline>,
}

impl Conditions {
    /// Nothing is known to be wrong with the server at an address.
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            away: Mutex::default(),
            deaf: Mutex::default(),
            refused: Mutex::default(),
            any_refused: AtomicBool::new(false),
        }
    }

    /// Redis cannot be used at all.
    pub(crate) fn away(&self, away: &Away) {
        let code = &away.code;
        let before = lock(&self.away).replace(code.clone());
        if before.as_ref() != Some(code) {
            tracing::warn!(
                address = self.address,
                code,
                error = %away,
                "Redis cannot be used; reads go to the database until it can"
            );
        }
    }

    /// Redis can be used. Whether it could not before.
    pub(crate) fn back(&self) -> bool {
        let before = lock(&self.away).take();
        if let Some(code) = &before {
            tracing::info!(address = self.address, code, "Redis can be used again");
        }
        before.is_some()
    }

    /// The connection that was lost is known to have been closed by Redis, and why.
    pub(crate) fn lost_because(&self, closing: &Away) {
        if lock(&self.away).as_deref() == Some(UNREACHABLE) {
            self.away(closing);
        }
    }

    /// There are no wake-ups.
    pub(crate) fn deaf(&self, away: &Away) {
        let code = &away.code;
        let before = lock(&self.deaf).replace(code.clone());
        if before.as_ref() != Some(code) {
            tracing::warn!(
                address = self.address,
                code,
                error = %away,
                "Redis wakes nobody who waits for a load or for queued writes; they go on when their time is up"
            );
        }
    }

    /// There are wake-ups.
    pub(crate) fn hears(&self) {
        if let Some(code) = lock(&self.deaf).take() {
            tracing::info!(
                address = self.address,
                code,
                "Redis wakes those who wait again"
            );
        }
    }

    /// An operation was refused by a server that is there.
    pub(crate) fn refused(&self, operation: &'static str, error: &RedisError) {
        let code = Away::from(error).code;
        let mut refused = lock(&self.refused);
        let known = refused.contains_key(&code);
        let refusal = refused.entry(code.clone()).or_default();
        refusal.operations.insert(operation);
        refusal.calm = Some(Deadline::after(CALM));
        self.any_refused.store(true, Ordering::Relaxed);
        drop(refused);
        if !known {
            tracing::warn!(
                address = self.address,
                code,
                operation,
                %error,
                "Redis refuses what it is asked; what it refuses is done without it"
            );
        }
    }

    /// An operation was accepted.
    #[inline]
    pub(crate) fn accepted(&self, operation: &'static str) {
        if self.any_refused.load(Ordering::Relaxed) {
            self.accepted_again(operation);
        }
    }

    #[cold]
    fn accepted_again(&self, operation: &'static str) {
        let mut refused = lock(&self.refused);
        let ended: Vec<_> = refused
            .extract_if(|_, refusal| refusal.has_ended(operation))
            .collect();
        self.any_refused
            .store(!refused.is_empty(), Ordering::Relaxed);
        drop(refused);
        for (code, _) in ended {
            tracing::info!(
                address = self.address,
                code,
                "Redis accepts again what it refused"
            );
        }
    }
}

impl Refusal {
    /// Whether it is over, now that this operation was accepted.
    fn has_ended(&self, operation: &'static str) -> bool {
        self.operations.contains(operation) && self.calm.is_some_and(Deadline::has_passed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
