//! Who may read and change the files of a journal: this user alone. And what a file must be to be used as one of its files.
//!
//! A journal holds rows, and what it holds is written to the database. Whoever can write in its directory can forge writes, or
//! plant a name that leads elsewhere: a program that empties such a file has emptied somebody else's.
//!
//! 1. A directory is made with the mode 0700. One that exists is used if nobody else can write in it, and it is no symbolic
//!    link. Its parent may be one.
//! 2. A file is made with the mode 0600, and only where there is none.
//! 3. A file that exists is opened without following a symbolic link and without waiting for a pipe. It must be a regular file
//!    that has no other name. If others could read it, they cannot from then on. Nothing is emptied here.
//!
//! On Windows, the rights of the directory decide.
//! Not here: the owner of a directory. Root's journal in the directory of another user is that user's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    path::Path,
};

use super::error::JournalError;

/// The rights that others must not have in the directory.
#[cfg(unix)]
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// All rights of others.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

/// Creates a directory that only this user can use.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Fails if a directory is a link, or if others can write in it.
pub(crate) fn check_directory(path: &Path) -> Result<(), JournalError> {
    let unusable = |what: String| Err(JournalError::unusable(path, what));
    let found = fs::symlink_metadata(path)
        .map_err(|cause| JournalError::io(format!("look at {}", path.display()), cause))?;
    if found.is_symlink() {
        return unusable("it is a symbolic link; name the directory that it leads to".to_owned());
    }
    if !found.is_dir() {
        return unusable("it is not a directory; move it away".to_owned());
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(&found);
        if mode & WRITABLE_BY_OTHERS != 0 {
            return unusable(format!(
                "other users can write in it (its mode is {:03o}), and could forge writes; make sure that its files are larder's, \
                 and run `chmod 700 {}`",
                mode & 0o777,
                path.display()
            ));
        }
    }
    Ok(())
}

/// Creates a file that only this user can use. Fails if there is something of this name, whatever it is.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Opens an existing file to read all of it.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, JournalError> {
    let Some(mut file) = open(path, OpenOptions::new().read(true), "read")? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let read = file.read_to_end(&mut bytes);
    read.map_err(|cause| JournalError::io(format!("read {}", path.display()), cause))?;
    Ok(Some(bytes))
}

/// Opens an existing file for writing, and leaves what is in it.
pub(crate) fn open_to_write(path: &Path) -> Result<Option<File>, JournalError> {
    open(path, OpenOptions::new().write(true), "open")
}

/// Opens a file if there is one, and checks it. `attempted`: for messages.
fn open(
    path: &Path,
    options: &mut OpenOptions,
    attempted: &str,
) -> Result<Option<File>, JournalError> {
    let failed = |cause| JournalError::io(format!("{attempted} {}", path.display()), cause);
    #[cfg(unix)]
    {
        // A pipe is opened at once, and refused then.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags);
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The systems have different errors for these.
        Err(cause) => {
            let is_other = fs::symlink_metadata(path).is_ok_and(|found| !found.is_file());
            return Err(match is_other {
                true => not_regular(path),
                false => failed(cause),
            });
        }
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(not_regular(path));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if found.nlink() > 1 {
            let what = "it has another name (a hard link), so another program may use it; remove one of the names";
            return Err(JournalError::unusable(path, what));
        }
        if found.mode() & OTHERS != 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600))
                .map_err(failed)?;
        }
    }
    Ok(Some(file))
}

fn not_regular(path: &Path) -> JournalError {
    let what =
        "it is not a regular file, and does not belong in the directory of a journal; move it away";
    JournalError::unusable(path, what)
}
