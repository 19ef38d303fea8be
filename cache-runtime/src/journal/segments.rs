//! The directory of a journal: its lock, its segments, and the segment that is written to.
//!
//! 1. Opening takes the lock, reads all segments, cuts off a torn tail, and writes the unproven end of the last segment
//!    again.
//! 2. Appending writes one group, syncs it, and writes the mark after it.
//! 3. When a segment is full, a new one follows.
//! 4. Segments whose records are all released are removed, the oldest first.
//!
//! Why the end is written again: after a failed sync, the system may keep the pages in memory and treat them as written.
//! When the program starts again, it reads records that are not on disk, and another sync does not write them (Rebello et
//! al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020). Writing the same bytes makes the pages dirty
//! again.
//!
//! Invariant: a segment gets its name when its header is on disk. It is begun when everything before it is on disk.
//! Invariant: the segments in the directory always continue each other, also after a power failure: each removal is on disk
//! before the next one.

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::{
    access,
    binding::{BINDING, UNBOUND},
    error::JournalError,
    files::Files,
    format::{self, HEADER_LENGTH, Header},
    recover::{Record, Recovery, Rules},
};
use crate::protocol::token;

/// The file that an open journal has locked.
const LOCK: &str = "lock";
/// The name of a segment until its header is on disk.
const UNFINISHED: &str = "unfinished";
/// The end of the name of a segment, after the number of its first record.
const SUFFIX: &str = ".journal";
const DIGITS: usize = 20;

/// The segments of an open journal.
pub(crate) struct Segments {
    directory: PathBuf,
    identity: u64,
    segment_size: u64,
    files: Files,
    /// The last record that is on disk; before the first record, one less than its number.
    last: u64,
    /// The first records of all segments, in order; never empty.
    firsts: VecDeque<u64>,
    /// The last segment.
    file: File,
    path: PathBuf,
    length: u64,
    /// Whether the last mark was written but not synced.
    has_loose_mark: bool,
    /// Holds the lock until the journal is closed.
    _lock: File,
}

impl Segments {
    /// Opens a directory and reads its records.
    pub(crate) fn open(
        directory: &Path,
        segment_size: u64,
        files: Files,
    ) -> Result<(Self, Vec<Record>), JournalError> {
        create_directory(directory, &files)?;
        access::check_directory(directory)?;
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

    /// For the tape of a test: notes that a record was announced.
    #[cfg(test)]
    pub(crate) fn announced(&self, sequence: u64) {
        self.files.tape.announce(sequence);
    }

    /// Returns the random number that identifies this journal.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// Returns the last record that is on disk; before the first record, one less than its number.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Writes a group that ends with this record, and returns when it is on disk.
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

    /// Writes a mark: everything appended so far is on disk. Does not sync it (see `recover`).
    pub(crate) fn mark(&mut self) -> Result<(), JournalError> {
        self.write(&format::mark(self.identity, self.last))?;
        self.has_loose_mark = true;
        Ok(())
    }

    /// Removes the segments whose records are all released, except the last segment.
    pub(crate) fn release(&mut self, sequence: u64) -> Result<(), JournalError> {
        while self.firsts.get(1).is_some_and(|&next| next - 1 <= sequence) {
            self.files
                .remove(&segment_path(&self.directory, self.firsts[0]))?;
            self.files.sync_directory(&self.directory)?;
            self.firsts.pop_front();
        }
        Ok(())
    }

    /// Syncs the last mark.
    pub(crate) fn finish(&mut self) -> Result<(), JournalError> {
        if self.has_loose_mark {
            self.sync()?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), JournalError> {
        let first = self.last + 1;
        // A torn mark would look like damage in a segment that is not the last one.
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

/// Begins a segment, under another name until its header is on disk.
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

/// Creates a directory and its missing parents. Syncs the parent of each.
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
    match access::create_directory(directory) {
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
    // Another process may create it in between, but not twice.
    let file = match access::open_to_write(&path)? {
        Some(file) => file,
        None => match access::create(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Files::open(&path)?,
            created => created.map_err(|cause| failed("create", &path, cause))?,
        },
    };
    let found = file.metadata();
    if found
        .map_err(|cause| failed("look at", &path, cause))?
        .len()
        > 0
    {
        let what = "it is not the lock of a journal, which is empty; move it away";
        return Err(JournalError::unusable(&path, what));
    }
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse {
            directory: directory.to_owned(),
        }),
        Err(TryLockError::Error(cause)) => Err(failed("lock", &path, cause)),
    }
}

/// Returns the first records of the segments in a directory, in order. Fails if the directory contains anything else: a
/// segment under a wrong name would be a missing segment.
fn list(directory: &Path, files: &Files) -> Result<VecDeque<u64>, JournalError> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(directory).map_err(|cause| failed("list", directory, cause))? {
        let entry = entry.map_err(|cause| failed("list", directory, cause))?;
        let name = entry.file_name();
        match name.to_str() {
            Some(LOCK | BINDING) => {}
            // Its text was not on disk yet, so `bind` has not returned.
            Some(UNBOUND) => files.remove(&entry.path())?,
            // It holds no record yet, at most a header.
            Some(UNFINISHED) => files.remove(&entry.path())?,
            name => match name.and_then(first_of) {
                Some(first) => firsts.push(first),
                None => {
                    let what = "it is not a file of a journal, and does not belong in the directory of one";
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

/// Returns the first record of a segment according to its name.
fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_number = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

fn read(path: &Path) -> Result<Vec<u8>, JournalError> {
    access::read(path)?.ok_or_else(|| failed("read", path, io::ErrorKind::NotFound.into()))
}

fn failed(attempted: &str, path: &Path, cause: io::Error) -> JournalError {
    JournalError::io(format!("{attempted} {}", path.display()), cause)
}

fn len(length: usize) -> u64 {
    u64::try_from(length).expect("a length in memory fits into 64 bits")
}
