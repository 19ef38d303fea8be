//! Calls to a server that meet on their way, and go together.
//!
//! Taking up a command costs a server as much as doing a small one, and waiting for a disk costs as much for one write as for
//! a hundred. So calls that come while others are under way wait for one of those to return, and then go as one group (group
//! commit: `DeWitt` et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984). A call that finds room
//! goes at once and alone, in the task of its caller: without company nothing is waited for, and nothing is spawned.
//!
//! Invariant: calls leave in the order in which they came.
//! Invariant: a group goes in a task of its own, so that a caller who is dropped takes no other call with it. A call whose
//! caller was dropped before it left does not leave.
//! Not here: what a group is made into (`redis_put`).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::error::StoreError;

/// Who takes calls to the server.
pub(super) trait Carrier: Send + Sync + 'static {
    /// What is asked.
    type Call: Send + 'static;
    /// What is answered.
    type Answer: Send + 'static;

    /// Takes calls there in one round trip, and brings one answer for each, in their order.
    fn carry(
        &self,
        calls: Vec<Self::Call>,
    ) -> impl Future<Output = Vec<Result<Self::Answer, StoreError>>> + Send;
}

/// The place where calls meet.
pub(super) struct Gathering<C: Carrier> {
    carrier: C,
    /// How many groups may be under way at once.
    at_once: usize,
    /// How many calls a group may have.
    together: usize,
    calls: Mutex<Calls<C>>,
}

struct Calls<C: Carrier> {
    under_way: usize,
    /// Empty unless as many groups are under way as may be.
    waiting: VecDeque<Waiting<C>>,
}

struct Waiting<C: Carrier> {
    call: C::Call,
    answer: oneshot::Sender<Result<C::Answer, StoreError>>,
}

/// A group under way. When it ends, however that is, the next one leaves.
struct UnderWay<C: Carrier>(Arc<Gathering<C>>);

impl<C: Carrier> Gathering<C> {
    pub(super) fn new(carrier: C, at_once: usize, together: usize) -> Arc<Self> {
        Arc::new(Self {
            carrier,
            at_once,
            together,
            calls: Mutex::new(Calls {
                under_way: 0,
                waiting: VecDeque::new(),
            }),
        })
    }

    /// Makes a call, alone or with others.
    ///
    /// # Cancel safety
    ///
    /// Whether a call was made whose future is dropped is not known.
    pub(super) async fn call(self: &Arc<Self>, call: C::Call) -> Result<C::Answer, StoreError> {
        match self.enter(call) {
            Ok((call, _under_way)) => {
                // Out of the futures of the caller, which are deep enough.
                let mut answers = Box::pin(self.carrier.carry(vec![call])).await;
                answers.pop().unwrap_or_else(no_answer)
            }
            Err(answer) => answer.await.unwrap_or_else(|_| no_answer()),
        }
    }

    /// Lets a call leave if there is room, or queues it.
    #[expect(
        clippy::type_complexity,
        reason = "either the call goes back with its room, or its answer comes later"
    )]
    fn enter(
        self: &Arc<Self>,
        call: C::Call,
    ) -> Result<(C::Call, UnderWay<C>), oneshot::Receiver<Result<C::Answer, StoreError>>> {
        let mut calls = self.lock();
        if calls.under_way < self.at_once {
            calls.under_way += 1;
            return Ok((call, UnderWay(Arc::clone(self))));
        }
        let (answer, answered) = oneshot::channel();
        calls.waiting.push_back(Waiting { call, answer });
        Err(answered)
    }

    /// Takes the next group, whose room the last one has left; without any, the room is free.
    fn next_group(&self) -> Vec<Waiting<C>> {
        let mut calls = self.lock();
        let mut group = Vec::new();
        while group.len() < self.together {
            match calls.waiting.pop_front() {
                Some(waiting) if waiting.answer.is_closed() => {}
                Some(waiting) => group.push(waiting),
                None => break,
            }
        }
        if group.is_empty() {
            calls.under_way -= 1;
        }
        group
    }

    fn lock(&self) -> MutexGuard<'_, Calls<C>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Carrier> Drop for UnderWay<C> {
    fn drop(&mut self) {
        let group = self.0.next_group();
        if group.is_empty() {
            return;
        }
        let under_way = Self(Arc::clone(&self.0));
        // Without a runtime there is nobody to wait either: the calls are dropped, and then those behind them.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let (calls, answers): (Vec<_>, Vec<_>) = group
                    .into_iter()
                    .map(|waiting| (waiting.call, waiting.answer))
                    .unzip();
                let carried = under_way.0.carrier.carry(calls).await;
                // The next group leaves before the callers of this one wake.
                drop(under_way);
                for (answer, carried) in answers.into_iter().zip(carried) {
                    // A caller may have been dropped.
                    let _told = answer.send(carried);
                }
            });
        }
    }
}

fn no_answer<A>() -> Result<A, StoreError> {
    Err(StoreError::unanswered(
        "the program stopped while it was waiting for Redis",
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    /// Answers with the call and the group it was in, when it is let.
    struct Slow {
        lets: Semaphore,
        groups: Mutex<Vec<Vec<u32>>>,
    }

    impl Carrier for Slow {
        type Call = u32;
        type Answer = u32;

        async fn carry(&self, calls: Vec<u32>) -> Vec<Result<u32, StoreError>> {
            self.groups.lock().expect("no panic").push(calls.clone());
            self.lets.acquire().await.expect("never closed").forget();
            calls.into_iter().map(|call| Ok(call * 10)).collect()
        }
    }

    fn gathering(at_once: usize, together: usize) -> Arc<Gathering<Slow>> {
        let slow = Slow {
            lets: Semaphore::new(0),
            groups: Mutex::default(),
        };
        Gathering::new(slow, at_once, together)
    }

    fn groups(gathering: &Gathering<Slow>) -> Vec<Vec<u32>> {
        gathering.carrier.groups.lock().expect("no panic").clone()
    }

    /// Starts a call, and returns when it has left or waits.
    async fn start(
        gathering: &Arc<Gathering<Slow>>,
        call: u32,
    ) -> tokio::task::JoinHandle<Result<u32, StoreError>> {
        let own = Arc::clone(gathering);
        let task = tokio::spawn(async move { own.call(call).await });
        settle().await;
        task
    }

    /// Lets every task go on that can: there is one thread.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn calls_that_wait_go_together_in_their_order_and_get_their_own_answers() {
        let gathering = gathering(2, 3);
        let mut tasks = Vec::new();
        for call in 1..=7 {
            tasks.push(start(&gathering, call).await);
        }
        assert_eq!(groups(&gathering), [vec![1], vec![2]]);
        gathering.carrier.lets.add_permits(1);
        settle().await;
        assert_eq!(groups(&gathering)[2..], [vec![3, 4, 5]]);
        gathering.carrier.lets.add_permits(10);
        for (task, expected) in tasks.into_iter().zip((1..=7).map(|call| call * 10)) {
            let answer = task.await.expect("no panic").expect("an answer");
            assert_eq!(answer, expected);
        }
        assert_eq!(groups(&gathering)[3..], [vec![6, 7]]);
        assert_eq!(gathering.lock().under_way, 0);
    }

    #[tokio::test]
    async fn a_caller_who_is_dropped_takes_no_other_call_with_it() {
        let gathering = gathering(1, 8);
        let first = start(&gathering, 1).await;
        let second = start(&gathering, 2).await;
        let third = start(&gathering, 3).await;
        let fourth = start(&gathering, 4).await;
        // One that waits, and the one that is under way.
        third.abort();
        settle().await;
        first.abort();
        settle().await;
        assert_eq!(groups(&gathering), [vec![1], vec![2, 4]]);
        // One of a group that is under way.
        second.abort();
        settle().await;
        gathering.carrier.lets.add_permits(1);
        assert_eq!(fourth.await.expect("no panic").expect("an answer"), 40);
        assert_eq!(gathering.lock().under_way, 0);
    }

    #[test]
    fn a_runtime_that_ends_leaves_nobody_waiting_and_the_room_free() {
        let gathering = gathering(1, 1);
        let runtime = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_time().build().expect("a runtime")
        };
        let (first, second) = (runtime(), runtime());
        first.block_on(async {
            start(&gathering, 1).await;
        });
        let waiting = first.block_on(start(&gathering, 2));
        let foreign = second.block_on(start(&gathering, 3));
        drop(first);
        let answer = second.block_on(async {
            tokio::time::timeout(Duration::from_secs(5), foreign)
                .await
                .expect("somebody answers")
        });
        assert!(
            answer
                .expect("no panic")
                .expect_err("nobody carried it")
                .may_be_done
        );
        drop(waiting);
        assert_eq!(gathering.lock().under_way, 0);
        gathering.carrier.lets.add_permits(1);
        assert_eq!(second.block_on(gathering.call(4)).expect("an answer"), 40);
    }
}
