//! The monotonic clock of the machine, which all of its processes share; the only file of this package that reads time.
//! Wall clocks step, and a step would make an innocent read look stale or a stale one innocent.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment: nanoseconds of `CLOCK_MONOTONIC`.
pub type Moment = u64;

/// The present moment.
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).expect("the clock began before now");
    let nanoseconds = u64::try_from(time.tv_nsec).expect("a part of a second is positive");
    seconds * 1_000_000_000 + nanoseconds
}

/// The moment that lies so far after another.
#[must_use]
pub fn after(moment: Moment, duration: Duration) -> Moment {
    moment + u64::try_from(duration.as_nanos()).expect("a run is shorter than centuries")
}
