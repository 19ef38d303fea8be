//! Tokens: the names of one fill or one write, never used twice.
//!
//! A lease that was named after its process would let a process confuse its own earlier fill with its current one
//! (a slow fill would be accepted after a later one of the same process). So every fill and every write draws a new token.
//! The first half names the process, the second half counts, so drawing one is an addition, and a person who finds a
//! token in an entry can tell whose it is.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The length of a token in an entry, in bytes.
pub const TOKEN_LENGTH: usize = 16;

/// The name of one process, drawn at random when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub [u8; 8]);

/// The name of one fill or one write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub [u8; TOKEN_LENGTH]);

impl ProcessId {
    /// The name of this process.
    pub fn current() -> Self {
        // `RandomState` is keyed by the operating system's random source; two of them give 64 bits nobody else has.
        static CURRENT: LazyLock<ProcessId> = LazyLock::new(|| {
            let mut hasher = RandomState::new().build_hasher();
            hasher.write_u32(std::process::id());
            ProcessId(hasher.finish().to_be_bytes())
        });
        *CURRENT
    }
}

impl Token {
    /// A token nobody has drawn before.
    pub fn draw() -> Self {
        static DRAWN: AtomicU64 = AtomicU64::new(1);
        let mut bytes = [0; TOKEN_LENGTH];
        bytes[..8].copy_from_slice(&ProcessId::current().0);
        bytes[8..].copy_from_slice(&DRAWN.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Self(bytes)
    }

    /// A token with a given number, for models and property tests.
    pub fn numbered(number: u64) -> Self {
        let mut bytes = [0; TOKEN_LENGTH];
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
