//! The directory of a journal: its lock, its segments, and the one that is written to.
//!
//! 1. *Opening* takes the lock, reads all segments, cuts a torn tail off, and writes the unproven end of the last segment
//!    once more. 2. *Appending* writes one group, syncs it, and writes the mark behind it. 3. A segment that is full is
//!    followed by a new one. 4. Segments whose records are all released are removed, the oldest first.
//!
//! Why the end is written again: when a sync fails, the system may keep the pages in memory and take them for written. A
//! program that starts again then reads records that are not on disk and never will be by another sync (Rebello et al.,
//! "Can Applications Recover from fsync Failures?", USENIX ATC 2020). Writing the same bytes makes the pages dirty again.
//!
//! Invariant: a segment has its whole header on disk before it has its name, and is begun when all before it is on disk.
//! Invariant: the segments in the directory continue each other at every moment, also after a loss of power: each removal
//! is on disk before the next one.

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use super::{
    binding::{BINDING, UNBOUND},
    error::JournalError,
    files::Files,
    format::{self, HEADER_LENGTH, Header},
    recover::{Record, Recovery, Rules},
};
use crate::protocol::token;

/// The file whose lock the open journal holds.
const LOCK: &str = "lock";
/// A segment that has no header yet.
const UNFINISHED: &str = "unfinished";
/// The end of the name of a segment, behind the number of its first record.
const SUFFIX: &str = ".journal";
const DIGITS: usize = 20;

/// The segments of an open journal.
pub(crate) struct Segments {
    directory: PathBuf,
    identity: u64,
    segment_size: u64,
    files: Files,
    /// The last record that is on disk, or the one before the first.
    last: u64,
    /// The first records of all segments, in order; never empty.
    firsts: VecDeque<u64>,
    /// The last segment.
    file: File,
    path: PathBuf,
    length: u64,
    /// Whether the file holds a mark that is not on disk.
    has_loose_mark: bool,
    /// Released when the journal is closed.
    _lock: File,
}

impl Segments {
    /// Opens a directory and reads what is in it.
    pub(crate) fn open(
        directory: &Path,
        segment_size: u64,
        files: Files,
    ) -> Result<(Self, Vec<Record>), JournalError> {
        create_directory(directory, &files)?;
        let lock = lock(directory)?;
        let firsts = list(directory, &files)?;
        let mut recovery = Recovery::new(Rules::ALL);
        let mut last = None;
        for (index, &first) in firsts.iter().enumerate() {
            let path = segment_path(directory, first);
            let bytes = read(&path)?;
            let is_last = index + 1 == firsts.len();
            let scan = recovery.segment(&path, first, &bytes, is_last)?;
            last = Some((path, bytes, scan));
        }
        let identity = recovery.identity.unwrap_or_else(token::random);
        let (path, file, length) = match last {
            None => begin(directory, &files, identity, 1)?,
            Some((path, bytes, scan)) => {
                let file = Files::open(&path)?;
                if scan.end < bytes.len() {
                    tracing::warn!(
                        file = %path.display(),
                        offset = scan.end,
                        bytes = bytes.len() - scan.end,
                        "the program stopped while it was writing the end of the journal; this end is cut off, and none of its \
                         writes was acknowledged"
                    );
                    files.cut(&file, &path, len(scan.end))?;
                }
                let unproven = &bytes[scan.proven..scan.end];
                files.write(&file, &path, len(scan.proven), unproven)?;
                files.sync(&file, &path)?;
                files.sync_directory(directory)?;
                (path, file, len(scan.end))
            }
        };
        let mut segments = Self {
            directory: directory.to_owned(),
            identity,
            segment_size,
            files,
            last: recovery.last,
            firsts: if firsts.is_empty() {
                VecDeque::from([1])
            } else {
                firsts
            },
            file,
            path,
            length,
            has_loose_mark: false,
            _lock: lock,
        };
        if recovery.last > recovery.proven {
            segments.mark()?;
        }
        #[cfg(test)]
        segments.announced(recovery.last);
        Ok((segments, recovery.records))
    }

    /// For the tape of a test: a record was announced.
    #[cfg(test)]
    pub(crate) fn announced(&self, sequence: u64) {
        self.files.tape.announce(sequence);
    }

    /// What tells this journal from all others.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// The last record that is on disk, or the one before the first.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Writes a group that ends with a record, and returns when it is on disk.
    pub(crate) fn append(&mut self, last: u64, group: &mut [u8]) -> Result<(), JournalError> {
        if self.length >= self.segment_size && self.firsts.back() <= Some(&self.last) {
            self.rotate()?;
        }
        format::seal(group, self.identity, self.last);
        self.write(group)?;
        self.sync()?;
        self.last = last;
        Ok(())
    }

    /// Writes that everything appended so far is on disk. Not synced: see `recover`.
    pub(crate) fn mark(&mut self) -> Result<(), JournalError> {
        self.write(&format::mark(self.identity, self.last))?;
        self.has_loose_mark = true;
        Ok(())
    }

    /// Removes the segments that hold no record behind this one, but never the last segment.
    pub(crate) fn release(&mut self, sequence: u64) -> Result<(), JournalError> {
        while self.firsts.get(1).is_some_and(|&next| next - 1 <= sequence) {
            self.files
                .remove(&segment_path(&self.directory, self.firsts[0]))?;
            self.files.sync_directory(&self.directory)?;
            self.firsts.pop_front();
        }
        Ok(())
    }

    /// Brings the last mark to the disk.
    pub(crate) fn finish(&mut self) -> Result<(), JournalError> {
        if self.has_loose_mark {
            self.sync()?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), JournalError> {
        let first = self.last + 1;
        // A torn mark in a segment that is not the last one would be damage.
        self.finish()?;
        (self.path, self.file, self.length) =
            begin(&self.directory, &self.files, self.identity, first)?;
        self.firsts.push_back(first);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.files
            .write(&self.file, &self.path, self.length, bytes)?;
        self.length += len(bytes.len());
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        self.files.sync(&self.file, &self.path)?;
        self.has_loose_mark = false;
        Ok(())
    }
}

/// Begins a segment: under another name until its header is on disk.
fn begin(
    directory: &Path,
    files: &Files,
    identity: u64,
    first: u64,
) -> Result<(PathBuf, File, u64), JournalError> {
    let unfinished = directory.join(UNFINISHED);
    let path = segment_path(directory, first);
    let file = files.create(&unfinished)?;
    files.write(
        &file,
        &unfinished,
        0,
        &Header { identity, first }.to_bytes(),
    )?;
    files.sync(&file, &unfinished)?;
    files.rename(&unfinished, &path)?;
    files.sync_directory(directory)?;
    Ok((path, file, len(HEADER_LENGTH)))
}

/// Creates a directory and those above it that are missing, each known to the one above it.
fn create_directory(directory: &Path, files: &Files) -> Result<(), JournalError> {
    let parent = match directory.parent() {
        Some(parent) if !directory.is_dir() => parent,
        _ => return Ok(()),
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    create_directory(parent, files)?;
    match fs::create_dir(directory) {
        Err(_) if directory.is_dir() => Ok(()),
        created => {
            created.map_err(|cause| failed("create", directory, cause))?;
            files.sync_directory(parent)
        }
    }
}

/// Locks the directory. The lock lasts until the file is closed, however the process ends.
fn lock(directory: &Path) -> Result<File, JournalError> {
    let path = directory.join(LOCK);
    let file = File::create(&path).map_err(|cause| failed("create", &path, cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse {
            directory: directory.to_owned(),
        }),
        Err(TryLockError::Error(cause)) => Err(failed("lock", &path, cause)),
    }
}

/// The first records of the segments in a directory, in order. Nothing else may be there: a segment under a wrong name
/// would be a segment that is missing.
fn list(directory: &Path, files: &Files) -> Result<VecDeque<u64>, JournalError> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(directory).map_err(|cause| failed("list", directory, cause))? {
        let entry = entry.map_err(|cause| failed("list", directory, cause))?;
        let name = entry.file_name();
        match name.to_str() {
            Some(LOCK | BINDING) => {}
            // It was not on disk yet, so nobody has been told.
            Some(UNBOUND) => files.remove(&entry.path())?,
            // Nothing was written to it yet but its header.
            Some(UNFINISHED) => files.remove(&entry.path())?,
            name => match name.and_then(first_of) {
                Some(first) => firsts.push(first),
                None => {
                    let what = "it does not belong into the directory of a journal";
                    return Err(JournalError::damaged(&entry.path(), 0, what));
                }
            },
        }
    }
    firsts.sort_unstable();
    Ok(firsts.into())
}

fn segment_path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:0DIGITS$}{SUFFIX}"))
}

/// The first record that the name of a segment promises.
fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_number = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

fn read(path: &Path) -> Result<Vec<u8>, JournalError> {
    fs::read(path).map_err(|cause| failed("read", path, cause))
}

fn failed(attempted: &str, path: &Path, cause: std::io::Error) -> JournalError {
    JournalError::io(format!("{attempted} {}", path.display()), cause)
}

fn len(length: usize) -> u64 {
    u64::try_from(length).expect("a length in memory fits into 64 bits")
}
