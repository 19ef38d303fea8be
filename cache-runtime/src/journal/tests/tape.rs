//! Records the operations of a journal on its files, in order, and lets chosen operations fail.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::journal::files::Step;

/// An event. The tape identifies files by their names, without directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Create(String),
    Write {
        file: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    Cut(String, usize),
    Sync(String),
    FailedSync(String),
    Rename(String, String),
    Remove(String),
    SyncDirectory,
    /// The journal has announced that everything up to this record is on disk.
    Announce(u64),
}

/// Decides whether an operation fails.
type Fault = Box<dyn FnMut(&Step<'_>) -> bool + Send>;

/// A recording, shared with the journal that is recorded.
#[derive(Clone, Default)]
pub(crate) struct Tape(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    events: Vec<Event>,
    fault: Option<Fault>,
}

impl Tape {
    /// Lets operations fail from now on, without changing the file.
    pub(crate) fn fail(&self, fault: impl FnMut(&Step<'_>) -> bool + Send + 'static) {
        self.lock().fault = Some(Box::new(fault));
    }

    /// Lets no further operation fail.
    pub(crate) fn heal(&self) {
        self.lock().fault = None;
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    pub(crate) fn announce(&self, sequence: u64) {
        self.lock().events.push(Event::Announce(sequence));
    }

    /// Performs and records an operation.
    pub(crate) fn record<T>(
        &self,
        step: Step<'_>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut inner = self.lock();
        if inner.fault.as_mut().is_some_and(|fault| fault(&step)) {
            if let Step::Sync(path) = step {
                inner.events.push(Event::FailedSync(name(path)));
            }
            return Err(io::Error::other("a fault of the test"));
        }
        let done = operation()?;
        inner.events.push(Event::from(step));
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Step<'_>> for Event {
    fn from(step: Step<'_>) -> Self {
        match step {
            Step::Create(path) => Self::Create(name(path)),
            Step::Write {
                path,
                offset,
                bytes,
            } => Self::Write {
                file: name(path),
                offset: usize::try_from(offset).unwrap(),
                bytes: bytes.to_vec(),
            },
            Step::Cut { path, length } => Self::Cut(name(path), usize::try_from(length).unwrap()),
            Step::Sync(path) => Self::Sync(name(path)),
            Step::Rename { from, to } => Self::Rename(name(from), name(to)),
            Step::Remove(path) => Self::Remove(name(path)),
            Step::SyncDirectory(_) => Self::SyncDirectory,
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
