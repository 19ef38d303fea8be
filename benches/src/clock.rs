//! Clocks as numbers of nanoseconds: the monotonic one, which is the same for all processes of the machine, and the one of
//! the processor time of this process.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started.
pub(crate) fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// Nanoseconds that processors have worked for this process, in user code and in the kernel.
pub(crate) fn worked_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec)
        .ok()
        .zip(u64::try_from(now.tv_nsec).ok())
        .map(|(seconds, nanos)| seconds * 1_000_000_000 + nanos)
        .expect("both clocks start at zero")
}

/// Puts the thread to sleep until a moment.
pub(crate) fn sleep_until(at_ns: u64) {
    std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns())));
}
