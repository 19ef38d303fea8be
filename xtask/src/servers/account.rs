//! Which account a server runs under.
//! PostgreSQL refuses to run as root, and the others should not: their commands can write files.
//! 1. Without root rights a server runs as whoever started this program. 2. With them it runs as
//!    the account its package created, or as `nobody`, through `setpriv`, which keeps the process
//!    id, so that signals still reach the server itself.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Attempt, Failure, Outcome};

/// An account for servers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account(Option<(u32, u32)>);

impl Account {
    /// The account to run a server under, given the one its package creates.
    pub(crate) fn choose(preferred: &str) -> Outcome<Self> {
        if !is_root() {
            return Ok(Self(None));
        }
        ids(preferred)
            .or_else(|| ids("nobody"))
            .map(|ids| Self(Some(ids)))
            .ok_or_else(|| Failure::message(format!("found no account `{preferred}` or `nobody`")))
    }

    /// Creates a folder that this account owns.
    pub(crate) fn folder(self, path: PathBuf) -> Outcome<PathBuf> {
        std::fs::create_dir(&path).attempt(|| format!("create {}", path.display()))?;
        self.own(&path)?;
        Ok(path)
    }

    /// Gives a file or folder to this account.
    pub(crate) fn own(self, path: &Path) -> Outcome {
        let Some((user, group)) = self.0 else {
            return Ok(());
        };
        chown(path, Some(user), Some(group)).attempt(|| format!("give away {}", path.display()))
    }

    /// A command that will run under this account.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let Some((user, group)) = self.0 else {
            return Command::new(program);
        };
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={user}"))
            .arg(format!("--regid={group}"));
        command.args(["--clear-groups", "--"]).arg(program);
        command
    }
}

/// Whether this program has root rights.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// User and group of an account, if it exists.
fn ids(account: &str) -> Option<(u32, u32)> {
    Some((id("-u", account)?, id("-g", account)?))
}

fn id(flag: &str, account: &str) -> Option<u32> {
    let output = Command::new("id")
        .args([flag, account])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
