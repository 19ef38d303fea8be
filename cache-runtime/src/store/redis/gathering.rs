//! Calls to a server that meet on their way, and go together.
//!
//! Taking up a command costs a server as much as doing a small one, and waiting for a disk costs as much for one write as for
//! a hundred. So calls that come while others are under way wait for one of those to return, and then go as one group (group
//! commit: `DeWitt` et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984).
//!
//! 1. A call that meets nobody, or hardly anybody, goes at once and alone, in the task of its caller: nothing is waited for,
//!    and nothing is spawned.
//! 2. Another goes at once in a task of its own, as a group that has not grown, if there is room.
//! 3. All others wait until a group is answered; those that have come by then are the next one.
//!
//! Invariant: what is waited for is only ever a group, and its task holds its room until it is answered. So a caller who is
//! dropped, or who is not polled, takes no other call with it and holds up nobody. A call whose caller was dropped before it
//! left does not leave.
//! Invariant: calls that wait leave in the order in which they came.
//! Invariant: nobody waits longer than the patience of the place, whatever becomes of the tasks.
//! Not here: what a group is made into (`put`).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::{clock::Deadline, error::StoreError};

/// Who takes calls to the server.
pub(super) trait Transport: Send + Sync + 'static {
    /// What is asked.
    type Call: Send + 'static;
    /// What is answered.
    type Answer: Send + 'static;

    /// About how many bytes a call sends.
    fn size(call: &Self::Call) -> usize;

    /// Takes calls there in one round trip, and brings one answer for each, in their order.
    fn carry(
        &self,
        calls: Vec<Self::Call>,
    ) -> impl Future<Output = Vec<Result<Self::Answer, StoreError>>> + Send;
}

/// How much goes at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How many calls may be under way alone, while there is no group.
    pub(super) alone: usize,
    /// How many groups may be under way at once.
    pub(super) at_once: usize,
    /// How many calls a group may have.
    pub(super) together: usize,
    /// After how many bytes a group takes no more calls.
    pub(super) bytes: usize,
    /// How long a caller waits.
    pub(super) timeout: Duration,
}

/// The place where calls meet.
pub(super) struct Gathering<C: Transport> {
    carrier: C,
    bounds: Bounds,
    calls: Mutex<Calls<C>>,
}

struct Calls<C: Transport> {
    alone: usize,
    in_flight: usize,
    /// Empty unless as many groups are under way as may be.
    waiting: VecDeque<Waiting<C>>,
}

struct Waiting<C: Transport> {
    call: C::Call,
    /// The runtime that its answer will come through.
    runtime: Handle,
    answer: oneshot::Sender<Result<C::Answer, StoreError>>,
}

/// A call under way alone.
struct SinglePermit<C: Transport>(Arc<Gathering<C>>);

/// What has become of a call.
enum Entered<C: Transport> {
    /// It may leave.
    SinglePermit(C::Call, SinglePermit<C>),
    /// It goes with a group, whose answer will be told here.
    Waits(oneshot::Receiver<Result<C::Answer, StoreError>>),
}

/// The room of a group under way. When it is free, the next one leaves.
struct BatchPermit<C: Transport>(Arc<Gathering<C>>);

impl<C: Transport> Gathering<C> {
    pub(super) fn new(carrier: C, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            carrier,
            bounds,
            calls: Mutex::new(Calls {
                alone: 0,
                in_flight: 0,
                waiting: VecDeque::new(),
            }),
        })
    }

    /// Makes a call, alone or with others, in the runtime that drives the connection.
    ///
    /// # Cancel safety
    ///
    /// Whether a call was made whose future is dropped is not known.
    pub(super) async fn call(
        self: &Arc<Self>,
        runtime: &Handle,
        call: C::Call,
    ) -> Result<C::Answer, StoreError> {
        let answered = match self.enter(call, runtime) {
            Entered::SinglePermit(call, _alone) => {
                // Out of the futures of the caller, which are deep enough.
                let mut answers = Box::pin(self.carrier.carry(vec![call])).await;
                return answers.pop().unwrap_or_else(no_answer);
            }
            Entered::Waits(answered) => answered,
        };
        let answered = Deadline::after(self.bounds.timeout).bound(answered).await;
        match answered {
            Some(answer) => answer.unwrap_or_else(|_| no_answer()),
            None => Err(StoreError::unanswered(format!(
                "Redis has not answered for {:?}",
                self.bounds.timeout
            ))),
        }
    }

    /// Lets a call leave if there is room for it, or queues it.
    fn enter(self: &Arc<Self>, call: C::Call, runtime: &Handle) -> Entered<C> {
        let mut calls = self.lock();
        if calls.alone < self.bounds.alone && calls.in_flight == 0 {
            calls.alone += 1;
            return Entered::SinglePermit(call, SinglePermit(Arc::clone(self)));
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            call,
            runtime: runtime.clone(),
            answer,
        };
        if calls.in_flight < self.bounds.at_once {
            calls.in_flight += 1;
            drop(calls);
            BatchPermit(Arc::clone(self)).take(vec![waiting]);
        } else {
            calls.waiting.push_back(waiting);
        }
        Entered::Waits(answered)
    }

    /// The next group, for a room that the last one has left; without any, the room is given up.
    fn next_group(&self) -> Vec<Waiting<C>> {
        let mut calls = self.lock();
        let mut group = Vec::new();
        let mut bytes = 0;
        while group.len() < self.bounds.together && bytes < self.bounds.bytes {
            match calls.waiting.pop_front() {
                Some(waiting) if waiting.answer.is_closed() => {}
                Some(waiting) => {
                    bytes += C::size(&waiting.call);
                    group.push(waiting);
                }
                None => break,
            }
        }
        if group.is_empty() {
            calls.in_flight -= 1;
        }
        group
    }

    fn lock(&self) -> MutexGuard<'_, Calls<C>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Transport> BatchPermit<C> {
    /// Lets a group leave. If its runtime has ended, its calls are dropped, and then those behind them.
    fn take(self, group: Vec<Waiting<C>>) {
        let Some(runtime) = group.first().map(|first| first.runtime.clone()) else {
            return;
        };
        runtime.spawn(async move {
            let (calls, answers): (Vec<_>, Vec<_>) = group
                .into_iter()
                .map(|waiting| (waiting.call, waiting.answer))
                .unzip();
            let carried = self.0.carrier.carry(calls).await;
            // The next group leaves before the callers of this one wake.
            drop(self);
            for (answer, carried) in answers.into_iter().zip(carried) {
                // A caller may have been dropped.
                let _told = answer.send(carried);
            }
        });
    }
}

impl<C: Transport> Drop for SinglePermit<C> {
    fn drop(&mut self) {
        self.0.lock().alone -= 1;
    }
}

impl<C: Transport> Drop for BatchPermit<C> {
    fn drop(&mut self) {
        let group = self.0.next_group();
        if !group.is_empty() {
            Self(Arc::clone(&self.0)).take(group);
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
    use futures_util::FutureExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    /// Answers with the call, when it is let.
    struct Slow {
        lets: Semaphore,
        groups: Mutex<Vec<Vec<u32>>>,
    }

    impl Transport for Slow {
        type Call = u32;
        type Answer = u32;

        fn size(call: &u32) -> usize {
            if *call < 100 { 1 } else { 60 }
        }

        async fn carry(&self, calls: Vec<u32>) -> Vec<Result<u32, StoreError>> {
            self.groups.lock().expect("no panic").push(calls.clone());
            self.lets.acquire().await.expect("never closed").forget();
            calls.into_iter().map(|call| Ok(call * 10)).collect()
        }
    }

    fn gathering(at_once: usize, together: usize) -> Arc<Gathering<Slow>> {
        patient(at_once, together, Duration::from_secs(20))
    }

    fn patient(at_once: usize, together: usize, timeout: Duration) -> Arc<Gathering<Slow>> {
        let slow = Slow {
            lets: Semaphore::new(0),
            groups: Mutex::default(),
        };
        let bounds = Bounds {
            alone: 1,
            at_once,
            together,
            bytes: 100,
            timeout,
        };
        Gathering::new(slow, bounds)
    }

    fn groups(gathering: &Gathering<Slow>) -> Vec<Vec<u32>> {
        gathering.carrier.groups.lock().expect("no panic").clone()
    }

    /// Starts a call, and returns when it has left or waits.
    async fn start(
        gathering: &Arc<Gathering<Slow>>,
        call: u32,
    ) -> tokio::task::JoinHandle<Result<u32, StoreError>> {
        start_on(Handle::current(), gathering, call).await
    }

    async fn start_on(
        runtime: Handle,
        gathering: &Arc<Gathering<Slow>>,
        call: u32,
    ) -> tokio::task::JoinHandle<Result<u32, StoreError>> {
        let own = Arc::clone(gathering);
        let task = tokio::spawn(async move { own.call(&runtime, call).await });
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
        // One goes alone, and one as a group that has not grown.
        let gathering = gathering(1, 3);
        let mut tasks = Vec::new();
        for call in 1..=7 {
            tasks.push(start(&gathering, call).await);
        }
        assert_eq!(groups(&gathering), [vec![1], vec![2]]);
        gathering.carrier.lets.add_permits(2);
        settle().await;
        assert_eq!(groups(&gathering)[2..], [vec![3, 4, 5]]);
        gathering.carrier.lets.add_permits(10);
        for (task, expected) in tasks.into_iter().zip((1..=7).map(|call| call * 10)) {
            let answer = task.await.expect("no panic").expect("an answer");
            assert_eq!(answer, expected);
        }
        assert_eq!(groups(&gathering)[3..], [vec![6, 7]]);
        assert_eq!(gathering.lock().in_flight, 0);
    }

    #[tokio::test]
    async fn a_group_has_no_more_bytes_than_it_may() {
        let gathering = gathering(1, 8);
        for call in [1, 2, 100, 101, 102, 3] {
            start(&gathering, call).await;
        }
        gathering.carrier.lets.add_permits(10);
        settle().await;
        assert_eq!(groups(&gathering)[2..], [vec![100, 101], vec![102, 3]]);
    }

    #[tokio::test]
    async fn a_caller_who_is_dropped_takes_no_other_call_with_it() {
        let gathering = gathering(1, 8);
        let mut tasks = Vec::new();
        for call in 1..=5 {
            tasks.push(start(&gathering, call).await);
        }
        // The one that is alone, the one of a group, which keeps its room until it is answered, and one that waits.
        for dropped in [0, 1, 3] {
            tasks[dropped].abort();
        }
        settle().await;
        assert_eq!(groups(&gathering), [vec![1], vec![2]]);
        gathering.carrier.lets.add_permits(1);
        settle().await;
        assert_eq!(groups(&gathering)[2..], [vec![3, 5]]);
        // One of a group that is under way.
        tasks[2].abort();
        settle().await;
        gathering.carrier.lets.add_permits(1);
        let last = tasks.pop().expect("there are five").await;
        assert_eq!(last.expect("no panic").expect("an answer"), 50);
        let calls = gathering.lock();
        assert_eq!((calls.alone, calls.in_flight), (0, 0));
    }

    #[tokio::test]
    async fn a_caller_who_is_not_polled_holds_up_nobody() {
        let gathering = gathering(1, 8);
        let runtime = Handle::current();
        let mut alone = std::pin::pin!(gathering.call(&runtime, 1));
        assert!((&mut alone).now_or_never().is_none());
        let mut of_a_group = std::pin::pin!(gathering.call(&runtime, 2));
        assert!((&mut of_a_group).now_or_never().is_none());
        gathering.carrier.lets.add_permits(3);
        assert_eq!(gathering.call(&runtime, 3).await.expect("an answer"), 30);
        assert_eq!(of_a_group.await.expect("an answer"), 20);
        assert_eq!(alone.await.expect("an answer"), 10);
    }

    #[tokio::test]
    async fn a_caller_waits_for_no_longer_than_the_patience() {
        let gathering = patient(1, 8, Duration::from_millis(20));
        let runtime = Handle::current();
        let _alone = start(&gathering, 1).await;
        let calls = [2, 3].map(|call| gathering.call(&runtime, call));
        for answer in futures_util::future::join_all(calls).await {
            assert!(answer.expect_err("nobody answers").may_be_done);
        }
        // Whoever has given up does not leave any more.
        gathering.carrier.lets.add_permits(3);
        settle().await;
        assert_eq!(groups(&gathering), [vec![1], vec![2]]);
    }

    #[test]
    fn a_runtime_that_ends_leaves_nobody_waiting_and_the_room_free() {
        let gathering = gathering(1, 1);
        let runtime = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_time().build().expect("a runtime")
        };
        let (first, second) = (runtime(), runtime());
        let ending = first.handle().clone();
        for call in 1..=3 {
            first.block_on(start(&gathering, call));
        }
        let foreign = second.block_on(start_on(ending, &gathering, 4));
        drop(first);
        let answer = second.block_on(foreign);
        let error = answer.expect("no panic").expect_err("nobody carried it");
        assert!(error.may_be_done);
        {
            let calls = gathering.lock();
            assert_eq!((calls.alone, calls.in_flight), (0, 0));
        }
        gathering.carrier.lets.add_permits(1);
        let call = gathering.call(second.handle(), 5);
        assert_eq!(second.block_on(call).expect("an answer"), 50);
    }
}
