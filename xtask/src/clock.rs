//! The only file of this package that reads time, so that every wait in it is visibly bounded.
//! A wait without a bound turns a server that does not start into a build that never ends.
//! 1. A caller sets a [`Deadline`]. 2. It polls, pausing with [`Deadline::pause`] between attempts.
//!
//! Invariant: `pause` answers `false` once the time is over, and then does not sleep.

use std::time::{Duration, Instant};

/// How long a poll sleeps between two attempts.
const STEP: Duration = Duration::from_millis(20);

/// The end of a bounded wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// A deadline this far from now.
    pub(crate) fn after(duration: Duration) -> Self {
        Self(now() + duration)
    }

    /// Sleeps one step and says whether another attempt is allowed.
    pub(crate) fn pause(self) -> bool {
        if now() >= self.0 {
            return false;
        }
        std::thread::sleep(STEP);
        true
    }
}

/// Sleeps one step where the wait ends with another process, not with a deadline.
pub(crate) fn pause() {
    std::thread::sleep(STEP);
}

/// Measures how long a step took, for the summary line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self(now())
    }

    /// Seconds since the start.
    pub(crate) fn seconds(self) -> f64 {
        now().duration_since(self.0).as_secs_f64()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one file that reads time"
)]
fn now() -> Instant {
    Instant::now()
}
