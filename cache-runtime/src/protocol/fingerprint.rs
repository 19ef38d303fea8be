//! The hash that distinguishes the layouts of an entity.
//!
//! FNV-1a (Fowler, Noll, Vo): it is the same in every process and release, and needs no dependency. It does not resist an
//! adversary, but no adversary chooses layouts.

/// A hash that is being computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint(u32);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0x811C_9DC5)
    }
}

impl Fingerprint {
    /// Adds one item. Each item is terminated, so that `ab`, `c` and `a`, `bc` differ.
    pub(crate) fn write(&mut self, item: &[u8]) {
        for byte in item.iter().chain(&[0xFF]) {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    /// Returns the hash over all items.
    pub(crate) fn finish(self) -> u32 {
        self.0
    }
}
