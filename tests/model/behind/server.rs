//! What a server does in one script: the transitions of the real state machine at the key, and the changes of the queue.

use std::collections::BTreeMap;

use larder::{
    queue_position::QueuePosition,
    state::{self, Condition, Judgement, Lease, Lookup, Meta, Pending, Slot, State},
    token::Token,
};

use crate::{
    behind::{
        broken::Broken,
        world::{Entry, Image, KEYS, Queue, Server, place, position},
    },
    store::{LONG_MS, SHORT_MS, apply, identity, lease},
};

/// The reply to a put.
pub(crate) enum Answer {
    Done(u8, u8),
    /// Another incarnation must be begun after this one.
    NeedsIncarnation(Option<u8>),
    Judged(Judgement),
}

/// The result of a read.
pub(crate) enum Found {
    Row(Image, Token),
    Leased,
    Busy,
    StalePending(QueuePosition, Image),
}

impl Server {
    /// Returns an empty server.
    pub(crate) fn empty(stamp: u8) -> Self {
        Self {
            stamp,
            state: None,
            keys: [const { None }; KEYS],
            pending_index: [None; KEYS],
            logs: BTreeMap::new(),
        }
    }

    /// Queues a write.
    pub(crate) fn put(
        &mut self,
        key: usize,
        image: Image,
        condition: Condition,
        broken: Option<Broken>,
    ) -> Answer {
        let stamp = self.stamp;
        let Some(queue) = self
            .state
            .filter(|queue| queue.stamp == stamp || broken == Some(Broken::Stamp))
        else {
            return Answer::NeedsIncarnation(self.state.map(|queue| queue.epoch));
        };
        let number = queue.last + 1;
        let pending = pending(position(queue.epoch, number), image, stamp);
        let judgement = apply(&mut self.keys[key], |slot| {
            state::put(slot.as_ref(), pending, image.write, condition)
        });
        if judgement != Judgement::Met {
            return Answer::Judged(judgement);
        }
        self.pending_index[key] = Some(pending.position);
        self.state = Some(Queue {
            last: number,
            ..queue
        });
        self.logs.entry(queue.epoch).or_default().push(Entry {
            number,
            key,
            image,
            stamp,
        });
        Answer::Done(queue.epoch, number)
    }

    /// Reads a key. Takes the lease if nothing is known of the row. Restores a queued write that was evicted.
    pub(crate) fn acquire(&mut self, key: usize, name: Token, broken: Option<Broken>) -> Found {
        let identity = identity(self.stamp);
        let nothing = matches!(
            state::lookup(self.keys[key].as_ref().map(|slot| &slot.state), identity),
            Lookup::Absent | Lookup::Foreign { .. }
        );
        let looks = nothing && broken != Some(Broken::Marks);
        if let Some(position) = self.pending_index[key].filter(|_| looks) {
            match self.queued(position) {
                Some(entry) => {
                    let pending = pending(position, entry.image, entry.stamp);
                    self.keys[key] = Some(Slot {
                        state: State::Pending(pending, entry.image.write),
                        remaining_ms: state::FOREVER,
                    });
                }
                // The log was trimmed, so the write was flushed.
                None => self.pending_index[key] = None,
            }
        }
        let slot = self.keys[key].as_ref();
        let state = slot.map(|slot| &slot.state);
        match (state::lookup(state, identity), state) {
            (Lookup::Value(..) | Lookup::Negative(_), Some(state)) => {
                let (image, token) = content(state).expect("a value says which write made it");
                Found::Row(image, token)
            }
            (Lookup::StalePending, Some(State::Pending(pending, write))) => Found::StalePending(
                pending.position,
                Image {
                    write: *write,
                    exists: !pending.is_deletion,
                },
            ),
            (Lookup::Absent | Lookup::Foreign { .. }, _) if self.may_fill(broken) => {
                let lease = lease(name, self.stamp);
                apply(&mut self.keys[key], |slot| {
                    state::acquire(slot.as_ref(), lease, SHORT_MS)
                });
                Found::Leased
            }
            _ => Found::Busy,
        }
    }

    /// Returns whether no flush of an earlier incarnation can change a row any more.
    fn may_fill(&self, broken: Option<Broken>) -> bool {
        matches!(broken, Some(Broken::EarlyFill | Broken::DropInstead))
            || self
                .state
                .is_some_and(|queue| queue.alone && queue.stamp == self.stamp)
    }

    /// Stores a row under a lease. Returns whether the lease was the current one.
    pub(crate) fn fill(&mut self, key: usize, lease: Lease, image: Image) -> bool {
        let meta = meta(lease, image);
        let entry = if image.exists {
            State::Value(meta, image.write)
        } else {
            State::Negative(meta)
        };
        apply(&mut self.keys[key], |slot| {
            state::fill(slot.as_ref(), lease.token, entry, LONG_MS, SHORT_MS)
        })
    }

    /// Drops a queued write that is in the database, unless there is a later one.
    pub(crate) fn drop_settled(&mut self, key: usize, position: QueuePosition) {
        self.settle_one(key, position, 0, None);
    }

    /// Turns the flushed writes into ordinary entries, and trims the log.
    pub(crate) fn settle(&mut self, epoch: u8, entries: &[(Entry, bool)], broken: Option<Broken>) {
        let latest: BTreeMap<usize, (u8, bool)> = entries
            .iter()
            .map(|(entry, is_kept)| (entry.key, (entry.number, *is_kept)))
            .collect();
        for (key, (number, is_kept)) in latest {
            let keep = if is_kept { LONG_MS } else { 0 };
            self.settle_one(key, position(epoch, number), keep, broken);
        }
        let last = entries.last().map_or(0, |(entry, _)| entry.number);
        self.trim(epoch, |entry| match broken {
            Some(Broken::Group) => entries.iter().any(|(own, _)| own == entry),
            _ => entry.number <= last,
        });
    }

    fn settle_one(
        &mut self,
        key: usize,
        position: QueuePosition,
        keep: u64,
        broken: Option<Broken>,
    ) {
        let mut position = position;
        if broken == Some(Broken::SettleCompare) {
            if let Some(Slot {
                state: State::Pending(pending, _),
                ..
            }) = &self.keys[key]
            {
                position = pending.position;
            }
            self.pending_index[key] = None;
        }
        if broken == Some(Broken::DropInstead) {
            apply(&mut self.keys[key], |slot| state::invalidate(slot.as_ref()));
        }
        self.pending_index[key] = self.pending_index[key].filter(|known| *known != position);
        apply(&mut self.keys[key], |slot| {
            state::settle(slot.as_ref(), position, keep)
        });
    }

    /// Removes entries of a log.
    pub(crate) fn trim(&mut self, epoch: u8, is_over: impl Fn(&Entry) -> bool) {
        if let Some(log) = self.logs.get_mut(&epoch) {
            log.retain(|entry| !is_over(entry));
            if log.is_empty() {
                self.logs.remove(&epoch);
            }
        }
    }

    /// Removes the rows that a closed incarnation was the last to write.
    pub(crate) fn clear(&mut self, epoch: u8) {
        for key in 0..KEYS {
            if let Some(position) =
                self.pending_index[key].filter(|position| place(*position).0 == epoch)
            {
                self.drop_settled(key, position);
            }
        }
    }

    /// Begins an incarnation, if `seen` is still the current one.
    pub(crate) fn switch(&mut self, seen: Option<u8>, epoch: u8) {
        if self.state.map(|queue| queue.epoch) == seen {
            self.state = Some(Queue {
                epoch,
                stamp: self.stamp,
                last: 0,
                alone: false,
            });
        }
    }

    /// Returns the log of an epoch.
    pub(crate) fn log(&self, epoch: u8) -> &[Entry] {
        self.logs.get(&epoch).map_or(&[], Vec::as_slice)
    }

    fn queued(&self, position: QueuePosition) -> Option<Entry> {
        let (epoch, number) = place(position);
        let mut log = self.log(epoch).iter();
        log.find(|entry| entry.number == number).copied()
    }
}

/// Returns which write made the row that a reader would be served.
pub(crate) fn content(state: &State<u8>) -> Option<(Image, Token)> {
    let (meta, exists) = match state {
        State::Value(meta, _) => (meta, true),
        State::Negative(meta) => (meta, false),
        State::Pending(pending, _) => (&pending.meta, !pending.is_deletion),
        _ => return None,
    };
    let write = u8::try_from(meta.loaded_at_ms).expect("a model has few writes");
    Some((Image { write, exists }, meta.lease.token))
}

fn pending(position: QueuePosition, image: Image, stamp: u8) -> Pending {
    let token = Token::numbered(1_000 + u64::from(image.write));
    Pending {
        position,
        is_deletion: !image.exists,
        meta: meta(lease(token, stamp), image),
    }
}

/// The load time of an entry, which no step uses, contains the number of its write.
fn meta(lease: Lease, image: Image) -> Meta {
    Meta {
        lease,
        loaded_at_ms: image.write.into(),
        stamp: None,
    }
}
