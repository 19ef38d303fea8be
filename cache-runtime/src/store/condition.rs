//! What is wrong with Redis, said once when it begins and once when it ends.
//!
//! A store that fails is no error of any read, so nobody would hear of it; and one line for every read that met it would
//! drown everything else. So the state is kept here, and only its changes are logged, with the address and the code.
//!
//! - *Away*: there is no link that could be used, for one reason after another (`UNREACHABLE`, `TIMEOUT`, `REPLICA`,
//!   `LOADING`, `NOAUTH`, ..). A new reason is a change.
//! - *Refused*: the link is sound, and the server refuses some operations (`OOM`, `NOREPLICAS`, `NOPERM`, ..). It has ended
//!   when the operation is accepted again, and has not been refused for a second: at the edge of its memory a server
//!   refuses one command in two.
//!
//! Invariant: as long as nothing is refused, an operation that succeeds costs one relaxed load here.
//! Not here: what follows from it (`connection`).

use std::{
    collections::HashMap,
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
            None if error.is_io_error() => "UNREACHABLE",
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
    /// What is refused, by the name of the operation.
    refused: Mutex<HashMap<&'static str, Refusal>>,
    any_refused: AtomicBool,
}

#[derive(Debug)]
struct Refusal {
    code: String,
    /// When the operation counts as accepted, if it is.
    calm: Deadline,
}

impl Conditions {
    /// Nothing is known to be wrong with the server at an address.
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            away: Mutex::default(),
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

    /// An operation was refused by a server that is there.
    pub(crate) fn refused(&self, operation: &'static str, error: &RedisError) {
        let code = Away::from(error).code;
        let mut refused = lock(&self.refused);
        let known = refused.values().any(|refusal| refusal.code == code);
        let refusal = Refusal {
            code: code.clone(),
            calm: Deadline::after(CALM),
        };
        refused.insert(operation, refusal);
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
        if !refused
            .get(operation)
            .is_some_and(|refusal| refusal.calm.has_passed())
        {
            return;
        }
        let ended = refused.remove(operation);
        let ended = ended.filter(|ended| refused.values().all(|other| other.code != ended.code));
        self.any_refused
            .store(!refused.is_empty(), Ordering::Relaxed);
        drop(refused);
        if let Some(Refusal { code, .. }) = ended {
            tracing::info!(
                address = self.address,
                code,
                "Redis accepts again what it refused"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
