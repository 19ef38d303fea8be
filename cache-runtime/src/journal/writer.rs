//! The thread that writes a journal: one group at a time, each on disk before the next one begins.
//!
//! A thread and not a task, because a sync blocks for milliseconds and must go on while the runtime shuts down.
//!
//! Invariant: the order is write, sync, mark, announce. `recover` depends on it.
//! Invariant: after the first operation that fails, there is no other. What the system keeps in memory after a failed write
//! or sync is not what is on disk, and a later sync that succeeds does not prove otherwise (Rebello et al., 2020). Only
//! reading the files again, in `Segments::open`, shows what is there.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::{commit::Commit, error::JournalError, segments::Segments};

/// Starts the thread. It ends when the commit is closed, or when an operation fails.
pub(crate) fn start(commit: Arc<Commit>, segments: Segments) -> io::Result<JoinHandle<()>> {
    let writer = Writer { commit, segments };
    thread::Builder::new()
        .name("larder-journal".to_owned())
        .spawn(move || writer.run())
}

struct Writer {
    commit: Arc<Commit>,
    segments: Segments,
}

impl Writer {
    fn run(mut self) {
        match self.write() {
            Ok(()) => {}
            Err(failure) => {
                tracing::error!(%failure, "the journal has failed; it accepts no writes until the program is restarted");
                self.commit.fail(failure);
            }
        }
    }

    fn write(&mut self) -> Result<(), JournalError> {
        let mut group = Vec::new();
        loop {
            let task = self.commit.take(&mut group);
            if let Some(last) = task.last {
                self.segments.append(last, &mut group)?;
                let marked = self.segments.mark();
                #[cfg(test)]
                self.segments.announced(last);
                self.commit.announce(last);
                // The group is on disk even if its mark could not be written.
                marked?;
            }
            self.segments.release(task.released)?;
            if task.is_last {
                return self.segments.finish();
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After a panic, the waiting callers get this error. After an orderly end there are none.
        self.commit.fail(JournalError::io(
            "write the journal",
            io::Error::other("its thread has ended"),
        ));
    }
}
