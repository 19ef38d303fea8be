//! The turns of a repository's loads: how many run at the same time, how many wait, and what happens to the rest.
//!
//! While the cache cannot answer, every read is a load. Without limits, loads would fill the wait queue of the pool, where
//! writes wait too, and the memory of the process.
//!
//! 1. A load takes a turn if one is free.
//! 2. Otherwise it waits in the order of arrival, unless too many wait already: then it fails immediately.
//! 3. A load that no caller waits for any longer leaves the queue.
//!
//! Invariant: at most `running` loads have a turn, and at most `waiting` loads wait for one.
//! Not here: who the callers of a load are (`load`, `flight`).

use std::fmt;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::policy::LoadLimits;

/// The turns of one repository.
pub(crate) struct Turns {
    running: Semaphore,
    waiting: Semaphore,
    limits: LoadLimits,
}

/// The turn of one load. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(#[expect(dead_code, reason = "held, not read")] SemaphorePermit<'a>);

/// Too many loads wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full(LoadLimits);

impl Turns {
    pub(crate) fn new(limits: LoadLimits) -> Self {
        Self {
            running: Semaphore::new(limits.running),
            waiting: Semaphore::new(limits.waiting),
            limits,
        }
    }

    /// Returns whether a load may not even wait. `gathered`: how many wait already, to be read together.
    pub(crate) fn full(&self, gathered: usize) -> Option<Full> {
        let has_none = |permits: &Semaphore| permits.available_permits() == 0;
        let is_full = has_none(&self.running) && has_none(&self.waiting);
        (is_full || gathered >= self.limits.running + self.limits.waiting)
            .then_some(Full(self.limits))
    }

    /// Takes a turn, or waits for one. Returns `None` if `left` is ready before the turn comes.
    pub(crate) async fn take(
        &self,
        left: impl Future<Output = ()>,
    ) -> Result<Option<Turn<'_>>, Full> {
        // The semaphore is fair: this fails while others wait.
        if let Ok(permit) = self.running.try_acquire() {
            return Ok(Some(Turn(permit)));
        }
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(Full(self.limits));
        };
        tokio::select! {
            permit = self.running.acquire() => {
                Ok(Some(Turn(permit.expect("the semaphore is never closed"))))
            }
            () = left => Ok(None),
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadLimits { running, waiting } = self.0;
        write!(
            f,
            "{running} loads of this repository are running (`max_concurrent_loads`) and {waiting} are waiting \
             (`max_waiting_loads`); try again later, or raise the limits"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        pin::pin,
    };

    use futures_util::FutureExt as _;

    use super::*;

    fn turns(running: usize, waiting: usize) -> Turns {
        Turns::new(LoadLimits { running, waiting })
    }

    #[tokio::test]
    async fn turns_are_taken_in_the_order_of_arrival() {
        let turns = turns(1, 2);
        let first = turns.take(pending()).await.unwrap();
        let (mut second, mut third) = (pin!(turns.take(pending())), pin!(turns.take(pending())));
        assert!(
            second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none()
        );
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "it came last");
        let turn = second.await.unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(turn);
        assert!(third.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn load_that_finds_the_queue_full_fails_at_once() {
        let turns = turns(1, 1);
        let _running = turns.take(pending()).await.unwrap();
        let mut waiting = pin!(turns.take(pending()));
        assert!(waiting.as_mut().now_or_never().is_none());
        let full = turns.take(pending()).await.unwrap_err().to_string();
        assert!(
            full.contains("1 loads of this repository are running"),
            "{full}"
        );
        assert!(
            full.contains("1 are waiting (`max_waiting_loads`)"),
            "{full}"
        );
    }

    #[tokio::test]
    async fn place_of_a_load_whose_callers_left_is_free_again() {
        let turns = turns(1, 1);
        let running = turns.take(pending()).await.unwrap();
        assert!(turns.take(ready(())).await.unwrap().is_none());
        let mut next = pin!(turns.take(pending()));
        assert!(
            next.as_mut().now_or_never().is_none(),
            "there is a place to wait"
        );
        drop(running);
        assert!(next.await.unwrap().is_some(), "nobody holds the turn");
    }
}
