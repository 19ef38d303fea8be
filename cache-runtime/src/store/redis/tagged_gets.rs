//! Reads an entry and the clock of its tags from Redis: a group of reads is one pipeline, which reads each clock once.
//!
//! A hit of an entity with tags needs the clock beside the entry. If every reader asked for it, a server that answers many hits
//! would execute twice as many commands.
//!
//! 1. While few reads are in flight, each sends both commands together. 2. Otherwise reads wait until a group returns (`gathering`),
//!    and share the reading of the clock with their own group.
//!
//! Invariant: a group is sent after all of its reads have begun. So an invalidation that returned before a read began is in its
//! reading of the clock.
//! Invariant: an entry and its clock are read on one link. A clock of another run of the server may be earlier.
//! Not here: what a reading means (`protocol/tags`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::Value;

use crate::{
    error::StoreError,
    gathering::{Bounds, Gathering, Transport},
    protocol::key::Key,
    store::{
        failpoint::Mechanism,
        redis::{
            connection::{Connector, Link},
            put::no_reply,
            read_beginning,
            send::run_all,
            tags::{no_answer, read_fields, reading},
        },
        tags::ClockAnswer,
    },
};

/// The maximum number of single reads in flight.
const MAX_SINGLE: usize = 4;
/// The maximum number of groups in flight: the server executes one while this process decodes another.
const MAX_GROUPS: usize = 4;
/// The maximum number of reads in a group. Each is answered when all are.
const MAX_GROUP: usize = 64;

/// One read.
pub(super) struct Call {
    pub(super) key: Key,
    pub(super) clock: Key,
}

/// What was read.
pub(super) struct Answer {
    pub(super) link: Link,
    /// The beginning of the entry.
    pub(super) entry: Result<Value, StoreError>,
    pub(super) clock: ClockAnswer,
}

/// Sends reads to the server.
pub(super) struct TaggedGets {
    connector: Arc<Connector>,
    /// The readings of the group before, for a test.
    before: Mutex<Vec<ClockAnswer>>,
}

impl TaggedGets {
    pub(super) fn new(connector: Arc<Connector>) -> Arc<Gathering<Self>> {
        let bounds = Bounds {
            alone: MAX_SINGLE,
            at_once: MAX_GROUPS,
            together: MAX_GROUP,
            size: usize::MAX,
            // For the group before, and for its own.
            timeout: Some(connector.timeouts().response * 2),
        };
        let gets = Self {
            connector,
            before: Mutex::default(),
        };
        Gathering::new(gets, bounds)
    }
}

impl Transport for TaggedGets {
    type Call = Call;
    type Answer = Result<Answer, StoreError>;

    fn size(call: &Call) -> usize {
        call.key.as_bytes().len()
    }

    fn unanswered(waited: Option<Duration>) -> Self::Answer {
        Err(no_reply(waited))
    }

    async fn carry(&self, calls: Vec<Call>) -> Vec<Self::Answer> {
        let link = match self.connector.link() {
            Ok(link) => link,
            Err(error) => return calls.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut clocks: Vec<&Key> = Vec::new();
        for call in &calls {
            if !clocks.contains(&&call.clock) {
                clocks.push(&call.clock);
            }
        }
        let entries = calls.iter().map(|call| read_beginning(&call.key));
        let clocks_too = clocks.iter().map(|clock| read_fields(clock, &[]));
        let commands = entries.chain(clocks_too).collect();
        let mut replies = run_all(&self.connector, "get", link.clone(), &[], commands).await;
        let fields = replies.split_off(calls.len().min(replies.len()));
        let readings = fields.into_iter();
        let mut readings: Vec<ClockAnswer> = readings
            .map(|fields| fields.map(|fields| reading(&fields)))
            .collect();
        if self.connector.disables(Mechanism::SharedClock) {
            let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
            if before.is_empty() {
                before.clone_from(&readings);
            }
            readings.clone_from(&before);
        }
        let answer = |(call, entry): (&Call, _)| {
            let place = clocks.iter().position(|clock| **clock == call.clock);
            let clock = place.and_then(|place| readings.get(place).cloned());
            Ok(Answer {
                link: link.clone(),
                entry,
                clock: clock.unwrap_or_else(no_answer),
            })
        };
        calls.iter().zip(replies).map(answer).collect()
    }
}
