//! Attacks on the directory of a journal, and the rights of what a journal creates.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::content;
use crate::journal::{Journal, JournalError};

const PRECIOUS: &str = "precious";
const SEGMENT: &str = "00000000000000000001.journal";
/// The names that lead to a file which is read or written.
const READ: [&str; 3] = ["lock", "binding", SEGMENT];
/// The names of files that are removed when they are found, because a crash may leave them.
const LEFT_BEHIND: [&str; 2] = ["unfinished", "binding.unfinished"];

/// A directory with that of a journal in it, and a file that no journal may change.
struct Scene {
    _above: TempDir,
    directory: PathBuf,
    precious: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let precious = above.path().join("precious");
        fs::write(&precious, PRECIOUS).unwrap();
        fs::set_permissions(&precious, Permissions::from_mode(0o644)).unwrap();
        Self {
            directory: above.path().join("journal"),
            precious,
            _above: above,
        }
    }

    /// As [`Scene::new`], with an empty directory.
    fn with_directory() -> Self {
        let scene = Self::new();
        fs::create_dir(&scene.directory).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Opens the journal, which must not take long.
    fn open(&self) -> Result<Journal, JournalError> {
        let (sender, opened) = mpsc::channel();
        let directory = self.directory.clone();
        thread::spawn(move || sender.send(Journal::open(&directory).map(|(journal, _)| journal)));
        let opened = opened.recv_timeout(Duration::from_secs(30));
        opened.expect("opening a journal waits for nothing")
    }

    #[track_caller]
    fn is_refused(&self, because: &str) {
        match self.open() {
            Ok(_) => panic!("the journal was opened"),
            Err(error) => {
                assert!(matches!(error, JournalError::Unusable { .. }), "{error}");
                assert!(error.to_string().contains(because), "{error}");
            }
        }
        self.precious_is_untouched();
    }

    #[track_caller]
    fn precious_is_untouched(&self) {
        assert_eq!(fs::read_to_string(&self.precious).unwrap(), PRECIOUS);
        assert_eq!(mode(&self.precious), 0o644);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Writes a record, so that all files exist.
async fn used(journal: &Journal) {
    let last = journal.append(&content(journal.last() + 1)).unwrap();
    journal.durable(last).await.unwrap();
    let bound = journal.bind(|_| Ok((Some("mine".to_owned()), ())));
    bound.unwrap();
}

#[tokio::test]
async fn only_this_user_has_rights_in_a_journal() {
    let scene = Scene::new();
    used(&scene.open().unwrap()).await;
    assert_eq!(mode(&scene.directory), 0o700);
    for name in READ {
        assert_eq!(mode(&scene.path(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn files_of_an_older_program_are_narrowed() {
    let scene = Scene::new();
    used(&scene.open().unwrap()).await;
    fs::set_permissions(&scene.directory, Permissions::from_mode(0o755)).unwrap();
    for name in READ {
        fs::set_permissions(scene.path(name), Permissions::from_mode(0o664)).unwrap();
    }
    let journal = scene.open().unwrap();
    assert_eq!(journal.last(), 1);
    for name in READ {
        assert_eq!(mode(&scene.path(name)), 0o600, "{name}");
    }
}

#[test]
fn directory_that_others_can_write_to_is_refused() {
    let scene = Scene::with_directory();
    for others in [0o777, 0o770, 0o720, 0o702, 0o1777] {
        fs::set_permissions(&scene.directory, Permissions::from_mode(others)).unwrap();
        scene.is_refused(&format!("`chmod 700 {}`", scene.directory.display()));
    }
    fs::set_permissions(&scene.directory, Permissions::from_mode(0o755)).unwrap();
    scene.open().unwrap();
}

#[test]
fn directory_that_is_a_symbolic_link_is_refused_and_its_parent_may_be_one() {
    let scene = Scene::new();
    let elsewhere = scene.directory.with_file_name("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &scene.directory).unwrap();
    scene.is_refused("symbolic link");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    Journal::open(&scene.directory.join("below")).unwrap();
    assert!(elsewhere.join("below").join("lock").exists());
}

#[test]
fn symbolic_link_is_not_followed() {
    for name in READ {
        let scene = Scene::with_directory();
        symlink(&scene.precious, scene.path(name)).unwrap();
        scene.is_refused("not a regular file");
    }
    for name in ["lock", "binding"] {
        let scene = Scene::with_directory();
        let missing = scene.precious.with_file_name("missing");
        symlink(&missing, scene.path(name)).unwrap();
        scene.is_refused("not a regular file");
        assert!(!missing.exists(), "{name}");
    }
    for name in LEFT_BEHIND {
        let scene = Scene::with_directory();
        symlink(&scene.precious, scene.path(name)).unwrap();
        scene.open().unwrap();
        scene.precious_is_untouched();
    }
}

#[test]
fn hard_link_is_not_used() {
    for name in READ {
        let scene = Scene::with_directory();
        fs::hard_link(&scene.precious, scene.path(name)).unwrap();
        scene.is_refused("hard link");
    }
    for name in LEFT_BEHIND {
        let scene = Scene::with_directory();
        fs::hard_link(&scene.precious, scene.path(name)).unwrap();
        scene.open().unwrap();
        scene.precious_is_untouched();
    }
}

#[test]
fn pipe_is_not_waited_for() {
    for name in READ {
        let scene = Scene::with_directory();
        let made = Command::new("mkfifo").arg(scene.path(name)).status();
        assert!(made.unwrap().success());
        scene.is_refused("not a regular file");
    }
}

#[test]
fn directory_at_the_name_of_a_file_is_refused() {
    for name in READ {
        let scene = Scene::with_directory();
        fs::create_dir(scene.path(name)).unwrap();
        scene.is_refused("not a regular file");
    }
    for name in LEFT_BEHIND {
        let scene = Scene::with_directory();
        fs::create_dir(scene.path(name)).unwrap();
        let error = scene.open().err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn lock_with_content_is_refused_and_kept() {
    let scene = Scene::with_directory();
    fs::write(scene.path("lock"), PRECIOUS).unwrap();
    scene.is_refused("not the lock of a journal");
    assert_eq!(fs::read_to_string(scene.path("lock")).unwrap(), PRECIOUS);
}

/// A link that appears while the journal is open.
#[tokio::test]
async fn link_at_the_name_of_an_unfinished_file_is_not_followed() {
    let scene = Scene::new();
    let journal = scene.open().unwrap();
    symlink(&scene.precious, scene.path("binding.unfinished")).unwrap();
    used(&journal).await;
    scene.precious_is_untouched();
    drop(journal);
    let (journal, _) = Journal::open_with(&scene.directory, 1).unwrap();
    symlink(&scene.precious, scene.path("unfinished")).unwrap();
    used(&journal).await;
    used(&journal).await;
    scene.precious_is_untouched();
    let (count, journals) = (fs::read_dir(&scene.directory).unwrap().count(), 3);
    assert_eq!(
        count,
        journals + 2,
        "the lock, the binding and the segments"
    );
}
