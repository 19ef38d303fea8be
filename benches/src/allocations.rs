//! How many allocations the process has made, if the feature `allocations` counts them.

#[cfg(feature = "allocations")]
mod counting {
    use std::alloc::System;

    use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

    #[global_allocator]
    static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

    pub(super) fn so_far() -> usize {
        let stats = ALLOCATOR.stats();
        stats.allocations + stats.reallocations
    }
}

/// The number so far, growing of a buffer included; nothing if they are not counted.
pub(crate) fn so_far() -> Option<usize> {
    #[cfg(feature = "allocations")]
    return Some(counting::so_far());
    #[cfg(not(feature = "allocations"))]
    return None;
}
