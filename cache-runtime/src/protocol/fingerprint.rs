//! The hash that tells one layout of an entity from another.
//!
//! FNV-1a (Fowler, Noll, Vo), because it has to be the same in every process and every release, and needs nothing else:
//! layouts are not chosen by an adversary.

/// A hash that is being computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint(u32);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0x811C_9DC5)
    }
}

impl Fingerprint {
    /// Adds one item. Items end, so that `ab`, `c` and `a`, `bc` differ.
    pub(crate) fn write(&mut self, item: &[u8]) {
        for byte in item.iter().chain(&[0xFF]) {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    /// The hash over all items.
    pub(crate) fn finish(self) -> u32 {
        self.0
    }
}
