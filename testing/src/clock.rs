//! The monotonic clock of the machine, which all of its processes share, and what is made of it.
//! Wall clocks step, and a step would make an innocent read look stale or a stale one innocent.
//! 1. A [`Moment`] is a number, which one process can pass to another. 2. A caller sets a [`Deadline`]. It polls, pausing with
//!    [`Deadline::pause`] between attempts. 3. A [`Stopwatch`] measures how long a step took.
//!
//! Invariant: `pause` answers `false` once the time is over, and then does not sleep.
//! Not here: the clock of a cache, which a test can replace; the runtime has its own.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a poll sleeps between two attempts.
const STEP: Duration = Duration::from_millis(20);

/// A moment: nanoseconds of `CLOCK_MONOTONIC`.
pub type Moment = u64;

/// Returns the present moment.
#[must_use]
pub fn now() -> Moment {
    read(ClockId::Monotonic)
}

/// Returns the nanoseconds that processors have worked for this process, in user code and in the kernel.
#[must_use]
pub fn worked_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// Returns the moment that lies so far after another.
#[must_use]
pub fn after(moment: Moment, duration: Duration) -> Moment {
    moment + u64::try_from(duration.as_nanos()).expect("a run is shorter than centuries")
}

/// Puts the thread to sleep until a moment.
pub fn sleep_until(moment: Moment) {
    std::thread::sleep(Duration::from_nanos(moment.saturating_sub(now())));
}

/// Sleeps one step where the wait ends with another process, not with a deadline.
pub fn pause() {
    std::thread::sleep(STEP);
}

/// The end of a bounded wait.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Moment);

impl Deadline {
    /// Returns a deadline this far from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(after(now(), duration))
    }

    /// Sleeps one step. Returns whether another attempt is allowed.
    #[must_use]
    pub fn pause(self) -> bool {
        if now() >= self.0 {
            return false;
        }
        pause();
        true
    }
}

/// Measures how long a step took.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Moment);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(now())
    }

    /// Returns the seconds since the start.
    #[must_use]
    pub fn seconds(self) -> f64 {
        Duration::from_nanos(now() - self.0).as_secs_f64()
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).expect("the clock began before now");
    let nanoseconds = u64::try_from(time.tv_nsec).expect("a part of a second is positive");
    seconds * 1_000_000_000 + nanoseconds
}
