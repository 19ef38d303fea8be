//! Ctrl-C and its relatives as a flag that every wait looks at.
//! Dying on the spot would skip the destructors that stop the servers.
//! 1. SIGINT, SIGTERM and SIGHUP store their number. 2. Each poll calls [`Interrupt::check`] and
//!    returns early. 3. The destructors on the way out clean up; the exit status names the signal.
//!
//! Not here: SIGKILL, which nobody can catch; `servers::watchdog` cleans up after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::failure::{Attempt, Failure, Outcome};

/// The last signal that asked this program to end, shared by everything that waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Starts to catch signals.
    pub(crate) fn listen() -> Outcome<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).expect("signal numbers are positive");
            signal_hook::flag::register_usize(signal, Arc::clone(&interrupt.0), number)
                .attempt(|| format!("catch signal {signal}"))?;
        }
        Ok(interrupt)
    }

    /// Fails once a signal has arrived.
    pub(crate) fn check(&self) -> Outcome {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Failure::Interrupted(
                i32::try_from(signal).unwrap_or(SIGINT),
            )),
        }
    }
}
