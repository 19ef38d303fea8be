//! The only file that reads time, so that a test can pass its own clock.
//!
//! [`Clock::System`] uses the monotonic clock for deadlines, and the wall clock for load times and for the end of a row
//! (`ttl_from`). No decision whether an entry may be served compares the clocks of two machines, but for a caller that asks for a
//! certain age (`max_age`).

#[cfg(feature = "redis")]
use std::sync::LazyLock;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

#[cfg(target_os = "linux")]
use rustix::time::ClockId;

/// By how much a coarse reading may differ from the exact time: a tick of a kernel with 100 of them per second, for the reading and
/// for its origin.
#[cfg(target_os = "linux")]
const COARSENESS: Duration = Duration::from_millis(20);

/// The clock of a cache.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Clock {
    /// The clocks of the operating system.
    System(SystemClock),
    /// A clock that moves only when [`Clock::advance`] is called. It starts at zero.
    Manual(Arc<AtomicU64>),
}

/// The origin that monotonic readings are counted from.
#[derive(Clone, Debug)]
pub struct SystemClock {
    origin: Instant,
    /// The same moment by the clock whose coarse readings are cheap, in milliseconds.
    #[cfg(target_os = "linux")]
    coarse_origin_ms: u64,
}

impl Default for Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the file that reads time"
    )]
    fn default() -> Self {
        Self::System(SystemClock {
            #[cfg(target_os = "linux")]
            coarse_origin_ms: coarse_ms(ClockId::MonotonicCoarse),
            origin: Instant::now(),
        })
    }
}

impl Clock {
    /// Returns a clock that moves only when [`Clock::advance`] is called.
    #[must_use]
    pub fn manual() -> Self {
        Self::Manual(Arc::default())
    }

    /// Moves a manual clock forward. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(now) = self {
            now.fetch_add(micros(by), Ordering::SeqCst);
        }
    }

    /// Microseconds since an arbitrary origin; never goes back.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the file that reads time"
    )]
    pub(crate) fn now_us(&self) -> u64 {
        match self {
            Self::System(clock) => micros(Instant::now().duration_since(clock.origin)),
            Self::Manual(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Milliseconds since the same origin; never goes back.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }

    /// As [`Clock::now_ms`], but as late as the kernel's last tick, which is a few milliseconds. Where that is enough, it takes a
    /// fifth of the time.
    #[inline]
    pub(crate) fn coarse_ms(&self) -> u64 {
        match self {
            #[cfg(target_os = "linux")]
            Self::System(clock) => {
                coarse_ms(ClockId::MonotonicCoarse).saturating_sub(clock.coarse_origin_ms)
            }
            _ => self.now_ms(),
        }
    }

    /// Microseconds since the same origin, never less than there are, and more by at most one and a half times [`COARSENESS`]. For the
    /// end of something that must not last longer.
    #[inline]
    pub(crate) fn latest_us(&self) -> u64 {
        match self {
            #[cfg(target_os = "linux")]
            Self::System(_) => self.coarse_ms() * 1_000 + micros(COARSENESS),
            _ => self.now_us(),
        }
    }

    /// Returns how long ago a row was loaded, with the same lateness.
    #[inline]
    pub(crate) fn coarse_age(&self, loaded_at_ms: u64) -> Duration {
        match self {
            #[cfg(target_os = "linux")]
            Self::System(_) => {
                let now_ms = coarse_ms(ClockId::RealtimeCoarse);
                Duration::from_millis(now_ms.saturating_sub(loaded_at_ms))
            }
            _ => self.age(loaded_at_ms),
        }
    }

    /// Milliseconds since 1970, for load times and the ends of rows.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the file that reads time"
    )]
    pub(crate) fn wall_ms(&self) -> u64 {
        match self {
            Self::System(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, millis),
            Self::Manual(now) => now.load(Ordering::SeqCst) / 1_000,
        }
    }

    /// Returns how long it is until a time, by the wall clock. Returns `None` if it has come.
    pub(crate) fn until(&self, time: SystemTime) -> Option<Duration> {
        let time = time.duration_since(UNIX_EPOCH).map_or(0, millis);
        let left = time.checked_sub(self.wall_ms())?;
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// Returns how long ago a row was loaded, given its load time in milliseconds since 1970.
    pub(crate) fn age(&self, loaded_at_ms: u64) -> Duration {
        Duration::from_millis(self.wall_ms().saturating_sub(loaded_at_ms))
    }
}

/// Returns the reading of a clock at the kernel's last tick, in milliseconds.
#[cfg(target_os = "linux")]
#[inline]
fn coarse_ms(clock: ClockId) -> u64 {
    let reading = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(reading.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(reading.tv_nsec).unwrap_or(0);
    seconds * 1_000 + nanos / 1_000_000
}

/// Returns a duration in whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a duration in whole microseconds, saturating.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds since an arbitrary origin by the runtime's timer, for comparisons inside this process; never goes back.
#[cfg(feature = "redis")]
pub(crate) fn timer_us() -> u64 {
    static ORIGIN: LazyLock<tokio::time::Instant> = LazyLock::new(tokio::time::Instant::now);
    micros(ORIGIN.elapsed())
}

/// A time after which a caller stops waiting. It uses the runtime's timer, which tests can pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(tokio::time::Instant);

impl Deadline {
    /// Returns the time that is this long from now.
    pub(crate) fn after(duration: Duration) -> Self {
        Self(tokio::time::Instant::now() + duration)
    }

    /// Returns whether the time has come.
    pub(crate) fn has_passed(self) -> bool {
        tokio::time::Instant::now() >= self.0
    }

    /// Waits until the deadline.
    pub(crate) async fn passed(self) {
        tokio::time::sleep_until(self.0).await;
    }

    /// Waits for a future until the deadline. Returns `None` if the deadline comes first.
    pub(crate) async fn bound<T>(self, future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.0, future).await.ok()
    }
}

/// Lets something happen once in a while, whoever asks for it.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Option<Deadline>>);

impl Pace {
    /// Returns whether it is time. The next time is this much later.
    pub(crate) fn is_due(&self, every: Duration) -> bool {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = next.is_none_or(Deadline::has_passed);
        if is_due {
            *next = Some(Deadline::after(every));
        }
        is_due
    }
}

/// Measures how long ago something began. It uses the runtime's timer, like [`Deadline`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(tokio::time::Instant);

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
