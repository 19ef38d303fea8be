//! Tokens: the names of one fill or one write, never used twice.
//!
//! If a lease were named after its process, a process could confuse an earlier fill of its own with the current one: a slow
//! fill would be accepted after a later one. So every fill and every write draws a new token. The first half names the
//! process, and the second half counts. So drawing a token is one addition, and a person who finds one in an entry can find
//! its process.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// The length of a token in an entry, in bytes.
pub const TOKEN_LENGTH: usize = 16;

/// The random name of one process, drawn when it is first used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub [u8; 8]);

/// The name of one fill or one write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub [u8; TOKEN_LENGTH]);

/// The name that was drawn, and the id of the process that drew it.
///
/// A fork copies both. The child then finds another process id, and draws a name of its own.
struct Drawn {
    /// The process id. [`STORING`] is set in it while its name is being stored.
    process: AtomicU64,
    name: AtomicU64,
}

/// A bit above the process id.
const STORING: u64 = 1 << 32;

impl Drawn {
    const fn nothing() -> Self {
        Self {
            // No process has this id.
            process: AtomicU64::new(0),
            name: AtomicU64::new(0),
        }
    }

    /// Returns the name of the calling process, which has this id.
    ///
    /// Uses no lock: a fork would copy a lock that another thread holds, and nothing would release the copy. A thread that
    /// waits here waits for a thread of its own process.
    fn name_of(&self, process: u32, draw: impl Fn() -> u64) -> u64 {
        let process = u64::from(process);
        loop {
            let seen = self.process.load(Ordering::SeqCst);
            if seen == process {
                return self.name.load(Ordering::SeqCst);
            }
            if seen == process | STORING {
                std::thread::yield_now();
                continue;
            }
            let name = draw();
            let storing = process | STORING;
            let first =
                self.process
                    .compare_exchange(seen, storing, Ordering::SeqCst, Ordering::SeqCst);
            if first.is_ok() {
                self.name.store(name, Ordering::SeqCst);
                self.process.store(process, Ordering::SeqCst);
                return name;
            }
        }
    }
}

/// Returns a random number from the operating system. A generator in the process would not do: a fork copies its state.
///
/// # Panics
///
/// If the operating system gives no random number. Without one, tokens would not be unique.
pub(crate) fn random() -> u64 {
    getrandom::u64().expect("the operating system gives random numbers")
}

impl ProcessId {
    /// Returns the name of this process. A forked child has another name than its parent and its siblings.
    pub fn current() -> Self {
        static CURRENT: Drawn = Drawn::nothing();
        Self(CURRENT.name_of(std::process::id(), random).to_be_bytes())
    }
}

impl Token {
    /// Returns a token that was never drawn before.
    pub fn draw() -> Self {
        static DRAWN: AtomicU64 = AtomicU64::new(1);
        let mut bytes = [0; TOKEN_LENGTH];
        bytes[..8].copy_from_slice(&ProcessId::current().0);
        bytes[8..].copy_from_slice(&DRAWN.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Self(bytes)
    }

    /// Returns a token with a given number, for models and property tests.
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

/// Returns a number in 0..1 that is spread evenly over successive seeds.
pub(crate) fn random_fraction_of(seed: u64) -> f64 {
    // The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    let mut bits = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let share = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_its_name_and_a_forked_one_draws_its_own() {
        let drawn = Drawn::nothing();
        let name_of = |drawn: &Drawn, process| drawn.name_of(process, random);
        let parent = name_of(&drawn, 100);
        assert_eq!(name_of(&drawn, 100), parent);
        // A fork copies the memory, also while a thread is storing a name.
        let fork = |drawn: &Drawn, storing: u64| Drawn {
            process: AtomicU64::new(drawn.process.load(Ordering::SeqCst) | storing),
            name: AtomicU64::new(drawn.name.load(Ordering::SeqCst)),
        };
        let (first, second) = (fork(&drawn, 0), fork(&drawn, STORING));
        let children = [name_of(&first, 101), name_of(&second, 102)];
        let grandchild = name_of(&fork(&first, 0), 103);
        assert_eq!(
            std::collections::HashSet::from([parent, children[0], children[1], grandchild]).len(),
            4
        );
        assert_eq!(name_of(&first, 101), children[0]);
        assert_eq!(name_of(&drawn, 100), parent, "the parent keeps its name");
    }

    #[test]
    fn concurrent_threads_agree_on_one_name() {
        for _ in 0..200 {
            let drawn = Drawn::nothing();
            let barrier = std::sync::Barrier::new(4);
            let names: Vec<u64> = std::thread::scope(|scope| {
                let ask = || {
                    barrier.wait();
                    drawn.name_of(7, random)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().expect("the thread ends"))
                    .collect()
            });
            assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
        }
    }
}
