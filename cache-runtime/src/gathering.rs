//! Sends concurrent calls to Redis or to a database in groups.
//!
//! A server needs as much time to receive a command as to execute a small one, and a disk needs as much for one write as for
//! a hundred. So calls that arrive while others are in flight wait until one of those returns, and are then sent as one
//! group (group commit: `DeWitt` et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984).
//!
//! 1. If few calls are in flight, a call is sent at once and alone, in the task of its caller. Nothing is spawned.
//! 2. Otherwise, if fewer groups are in flight than allowed, it is sent at once as a group of one, in a task of its own.
//! 3. Otherwise it waits until a group is answered. The calls that have arrived by then are the next group.
//!
//! Invariant: a call waits only for groups, and the task of a group holds its permit until the server replies. So a caller that
//! is dropped, or not polled, neither drops nor delays other calls. A call that was dropped before it was sent is not sent.
//! Invariant: calls that wait are sent in the order in which they arrived.
//! Invariant: no caller waits longer than the timeout, if there is one, whatever happens to the tasks.
//! Not here: what a group is sent as (`put`, `units`).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::clock::Deadline;

/// Sends calls to the server.
pub(crate) trait Transport: Send + Sync + 'static {
    /// A call.
    type Call: Send + 'static;
    /// The answer to a call.
    type Answer: Send + 'static;

    /// Returns the approximate size of a call, in bytes or in what else bounds a group.
    fn size(call: &Self::Call) -> usize;

    /// Sends calls in one round trip. Returns one answer for each, in their order.
    fn carry(&self, calls: Vec<Self::Call>) -> impl Future<Output = Vec<Self::Answer>> + Send;

    /// Returns the answer to a call that has none: its runtime stopped, or it waited for as long as the timeout.
    fn unanswered(waited: Option<Duration>) -> Self::Answer;
}

/// How many calls are sent at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The maximum number of single calls in flight, while no group is in flight.
    pub(crate) alone: usize,
    /// The maximum number of groups in flight.
    pub(crate) at_once: usize,
    /// The maximum number of calls in a group.
    pub(crate) together: usize,
    /// The size at which a group takes no more calls, as [`Transport::size`] counts.
    pub(crate) size: usize,
    /// How long a caller waits.
    pub(crate) timeout: Option<Duration>,
}

/// Groups the calls to one server.
pub(crate) struct Gathering<C: Transport> {
    carrier: C,
    bounds: Bounds,
    calls: Mutex<Calls<C>>,
}

struct Calls<C: Transport> {
    alone: usize,
    in_flight: usize,
    /// Empty unless the maximum number of groups is in flight.
    waiting: VecDeque<Waiting<C>>,
}

struct Waiting<C: Transport> {
    call: C::Call,
    /// The runtime that drives the connection.
    runtime: Handle,
    answer: oneshot::Sender<C::Answer>,
}

/// The permit of a single call in flight.
pub(crate) struct SinglePermit<C: Transport>(Arc<Gathering<C>>);

/// The permit of a group in flight. When it is dropped, the next group is sent.
struct BatchPermit<C: Transport>(Arc<Gathering<C>>);

impl<C: Transport> Gathering<C> {
    pub(crate) fn new(carrier: C, bounds: Bounds) -> Arc<Self> {
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

    /// Makes a call, alone or in a group. A group runs in the runtime that drives the connection.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the call may or may not be made.
    pub(crate) async fn call(self: &Arc<Self>, runtime: &Handle, call: C::Call) -> C::Answer {
        if let Some(_alone) = self.try_alone() {
            // Boxed to keep the callers' futures small.
            let mut answers = Box::pin(self.carrier.carry(vec![call])).await;
            return answers.pop().unwrap_or_else(|| C::unanswered(None));
        }
        self.call_in_group(runtime, call).await
    }

    /// Makes a call in a group, be it a group of one. The group is sent to its end, whatever happens to its callers.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the call may or may not be made.
    pub(crate) async fn call_in_group(
        self: &Arc<Self>,
        runtime: &Handle,
        call: C::Call,
    ) -> C::Answer {
        let answered = self.enter(call, runtime);
        let answered = match self.bounds.timeout {
            Some(timeout) => Deadline::after(timeout).bound(answered).await,
            None => Some(answered.await),
        };
        match answered {
            Some(answer) => answer.unwrap_or_else(|_| C::unanswered(None)),
            None => C::unanswered(self.bounds.timeout),
        }
    }

    /// Returns a permit for work of the caller's own that stands for a single call, if a single call would be sent alone now.
    pub(crate) fn try_alone(self: &Arc<Self>) -> Option<SinglePermit<C>> {
        let mut calls = self.lock();
        let is_free = calls.alone < self.bounds.alone && calls.in_flight == 0;
        is_free.then(|| {
            calls.alone += 1;
            SinglePermit(Arc::clone(self))
        })
    }

    /// Returns how many calls wait for a group.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Sends a call as a group if a permit is free, or queues it. Returns where its answer arrives.
    fn enter(self: &Arc<Self>, call: C::Call, runtime: &Handle) -> oneshot::Receiver<C::Answer> {
        let mut calls = self.lock();
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
        answered
    }

    /// Returns the next group for a permit that was released. Without one, gives the permit up.
    fn next_group(&self) -> Vec<Waiting<C>> {
        let mut calls = self.lock();
        let mut group = Vec::new();
        let mut size = 0;
        while group.len() < self.bounds.together && size < self.bounds.size {
            match calls.waiting.pop_front() {
                Some(waiting) if waiting.answer.is_closed() => {}
                Some(waiting) => {
                    size += C::size(&waiting.call);
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
    /// Sends a group. If its runtime has ended, its calls are dropped, and then those after them.
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
            // The next group is sent before the callers of this one are woken.
            drop(self);
            for (answer, carried) in answers.into_iter().zip(carried) {
                // A caller may have been dropped.
                let _answered = answer.send(carried);
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    /// Answers with a multiple of the call, when a permit is added.
    struct Slow {
        lets: Semaphore,
        groups: Mutex<Vec<Vec<u32>>>,
    }

    impl Transport for Slow {
        type Call = u32;
        type Answer = Option<u32>;

        fn size(call: &u32) -> usize {
            if *call < 100 { 1 } else { 60 }
        }

        async fn carry(&self, calls: Vec<u32>) -> Vec<Option<u32>> {
            self.groups.lock().expect("no panic").push(calls.clone());
            self.lets.acquire().await.expect("never closed").forget();
            calls.into_iter().map(|call| Some(call * 10)).collect()
        }

        fn unanswered(_waited: Option<Duration>) -> Option<u32> {
            None
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
            size: 100,
            timeout: Some(timeout),
        };
        Gathering::new(slow, bounds)
    }

    fn groups(gathering: &Gathering<Slow>) -> Vec<Vec<u32>> {
        gathering.carrier.groups.lock().expect("no panic").clone()
    }

    /// Starts a call, and returns when it was sent or waits.
    async fn start(
        gathering: &Arc<Gathering<Slow>>,
        call: u32,
    ) -> tokio::task::JoinHandle<Option<u32>> {
        start_on(Handle::current(), gathering, call).await
    }

    async fn start_on(
        runtime: Handle,
        gathering: &Arc<Gathering<Slow>>,
        call: u32,
    ) -> tokio::task::JoinHandle<Option<u32>> {
        let own = Arc::clone(gathering);
        let task = tokio::spawn(async move { own.call(&runtime, call).await });
        settle().await;
        task
    }

    /// Lets all tasks run until they wait. There is one thread.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn waiting_calls_are_sent_as_one_group_in_order() {
        // The first call is sent alone, and the second as a group of one.
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
    async fn permit_of_a_single_call_is_given_while_few_are_in_flight_and_no_group_is() {
        let gathering = gathering(1, 8);
        let alone = gathering.try_alone();
        assert!(alone.is_some());
        assert!(gathering.try_alone().is_none(), "one may be alone");
        drop(alone);
        // In a group, although nobody else is there.
        let task = tokio::spawn({
            let own = Arc::clone(&gathering);
            async move { own.call_in_group(&Handle::current(), 1).await }
        });
        settle().await;
        assert_eq!(groups(&gathering), [vec![1]]);
        assert!(gathering.try_alone().is_none(), "a group is in flight");
        gathering.carrier.lets.add_permits(1);
        assert_eq!(task.await.expect("no panic"), Some(10));
        assert!(gathering.try_alone().is_some());
    }

    #[tokio::test]
    async fn permit_of_a_single_call_makes_others_wait_for_groups_only() {
        let gathering = gathering(1, 8);
        let alone = gathering.try_alone();
        let [first, second] = [start(&gathering, 1).await, start(&gathering, 2).await];
        assert_eq!(
            groups(&gathering),
            [vec![1]],
            "the second waits for the first"
        );
        assert_eq!(gathering.waiting(), 1);
        gathering.carrier.lets.add_permits(2);
        assert_eq!(first.await.expect("no panic"), Some(10));
        assert_eq!(second.await.expect("no panic"), Some(20));
        drop(alone);
        let calls = gathering.lock();
        assert_eq!((calls.alone, calls.in_flight), (0, 0));
    }

    #[tokio::test]
    async fn call_in_a_group_is_made_although_its_caller_has_left() {
        let gathering = gathering(1, 8);
        let runtime = Handle::current();
        let mut left = Box::pin(gathering.call_in_group(&runtime, 1));
        assert!((&mut left).now_or_never().is_none());
        drop(left);
        settle().await;
        assert_eq!(groups(&gathering), [vec![1]]);
        gathering.carrier.lets.add_permits(1);
        settle().await;
        assert_eq!(gathering.lock().in_flight, 0);
    }

    #[tokio::test]
    async fn group_size_in_bytes_is_limited() {
        let gathering = gathering(1, 8);
        for call in [1, 2, 100, 101, 102, 3] {
            start(&gathering, call).await;
        }
        gathering.carrier.lets.add_permits(10);
        settle().await;
        assert_eq!(groups(&gathering)[2..], [vec![100, 101], vec![102, 3]]);
    }

    #[tokio::test]
    async fn dropped_caller_does_not_drop_other_calls() {
        let gathering = gathering(1, 8);
        let mut tasks = Vec::new();
        for call in 1..=5 {
            tasks.push(start(&gathering, call).await);
        }
        // Call 1 is alone. Call 2 is in a group, which keeps its permit until it is answered. Call 4 waits.
        for dropped in [0, 1, 3] {
            tasks[dropped].abort();
        }
        settle().await;
        assert_eq!(groups(&gathering), [vec![1], vec![2]]);
        gathering.carrier.lets.add_permits(1);
        settle().await;
        assert_eq!(groups(&gathering)[2..], [vec![3, 5]]);
        // Call 3 is in a group in flight.
        tasks[2].abort();
        settle().await;
        gathering.carrier.lets.add_permits(1);
        let last = tasks.pop().expect("there are five").await;
        assert_eq!(last.expect("no panic").expect("an answer"), 50);
        let calls = gathering.lock();
        assert_eq!((calls.alone, calls.in_flight), (0, 0));
    }

    #[tokio::test]
    async fn caller_that_is_not_polled_delays_no_other_call() {
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
    async fn caller_waits_no_longer_than_the_timeout() {
        let gathering = patient(1, 8, Duration::from_millis(20));
        let runtime = Handle::current();
        let _alone = start(&gathering, 1).await;
        let calls = [2, 3].map(|call| gathering.call(&runtime, call));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer, None);
        }
        // A caller that has given up is not sent later.
        gathering.carrier.lets.add_permits(3);
        settle().await;
        assert_eq!(groups(&gathering), [vec![1], vec![2]]);
    }

    #[test]
    fn runtime_that_ends_releases_its_permits() {
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
        assert_eq!(answer.expect("no panic"), None, "no runtime sent it");
        {
            let calls = gathering.lock();
            assert_eq!((calls.alone, calls.in_flight), (0, 0));
        }
        gathering.carrier.lets.add_permits(1);
        let call = gathering.call(second.handle(), 5);
        assert_eq!(second.block_on(call).expect("an answer"), 50);
    }
}
