//! The binding of a journal: a short text in a file next to the segments, which says whose records these are. A change
//! replaces the whole file.
//!
//! Without it, a program with another database could open the journal and apply its records there. The caller defines what
//! the text says.
//!
//! Invariant: the file gets its name when all of it is on disk.

use std::path::{Path, PathBuf};

use super::{access, error::JournalError, files::Files};

/// The name of the file.
pub(crate) const BINDING: &str = "binding";
/// The name of the file while it is being written.
pub(crate) const UNBOUND: &str = "binding.unfinished";

/// The binding of a journal.
pub(crate) struct Binding {
    directory: PathBuf,
    text: Option<String>,
}

impl Binding {
    pub(crate) fn read(directory: &Path) -> Result<Self, JournalError> {
        let path = directory.join(BINDING);
        let text = access::read(&path)?.map(String::from_utf8).transpose();
        let text = text.map_err(|_| JournalError::damaged(&path, 0, "it is not a text"))?;
        Ok(Self {
            directory: directory.to_owned(),
            text,
        })
    }

    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    pub(crate) fn write(&mut self, text: String, files: &Files) -> Result<(), JournalError> {
        let (unfinished, path) = (self.directory.join(UNBOUND), self.directory.join(BINDING));
        let file = files.create(&unfinished)?;
        files.write(&file, &unfinished, 0, text.as_bytes())?;
        files.sync(&file, &unfinished)?;
        files.rename(&unfinished, &path)?;
        files.sync_directory(&self.directory)?;
        self.text = Some(text);
        Ok(())
    }

    pub(crate) fn damaged(&self, why: &str) -> JournalError {
        JournalError::damaged(&self.directory.join(BINDING), 0, why)
    }
}
