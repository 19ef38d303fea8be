//! Cleans up when this program is killed so hard that no destructor runs.
//! A SIGKILL (from an impatient CI runner, say) would leave servers and folders behind for good.
//! 1. A small shell holds the reading end of a pipe and notes process groups. 2. A normal end tells
//!    it `done`, and it does nothing. 3. If the pipe ends without that word, this program is dead:
//!    the shell ends the groups it knows, by TERM and later by KILL, and removes the folder.
//!
//! Invariant: a group is forgotten as soon as its leader has been waited for, so that its id, which
//! the system may now give to a stranger, is not signalled.
//! Not here: the orderly end, which is the work of destructors.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal};

use crate::failure::{Attempt, Outcome};

const SCRIPT: &str = r#"
trap '' INT TERM HUP PIPE
groups=
while read -r order argument; do
  case $order in
    watch) groups="$groups $argument" ;;
    forget)
      kept=
      for group in $groups; do [ "${group%:*}" = "$argument" ] || kept="$kept $group"; done
      groups=$kept ;;
    done) exit 0 ;;
  esac
done
for group in $groups; do kill "-${group#*:}" "-${group%:*}" 2>/dev/null; done
rounds=0
for group in $groups; do
  while kill -0 "-${group%:*}" 2>/dev/null && [ "$rounds" -lt 150 ]; do
    sleep 0.1
    rounds=$((rounds + 1))
  done
done
for group in $groups; do kill -KILL "-${group%:*}" 2>/dev/null; done
rounds=0
until rm -rf -- "$1" 2>/dev/null || [ "$rounds" -ge 150 ]; do
  sleep 0.1
  rounds=$((rounds + 1))
done
"#;

/// The shell that outlives this program, if need be.
#[derive(Debug, Clone)]
pub(crate) struct Watchdog(Arc<Mutex<Shell>>);

#[derive(Debug)]
struct Shell {
    child: Child,
    orders: Option<ChildStdin>,
}

impl Watchdog {
    /// Starts to watch over a folder.
    pub(crate) fn start(folder: &Path) -> Outcome<Self> {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, "larder-watchdog"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal reaches a whole group; this child must not be in ours.
            .process_group(0)
            .spawn()
            .attempt(|| "start the watchdog shell".to_owned())?;
        let orders = child.stdin.take();
        Ok(Self(Arc::new(Mutex::new(Shell { child, orders }))))
    }

    /// From now on this process group dies with this program, at first by `signal`.
    pub(crate) fn watch(&self, group: Pid, signal: Signal) -> io::Result<()> {
        let number = signal.as_raw();
        self.order(&format!("watch {}:{number}\n", group.as_raw_nonzero()))
    }

    /// This process group has ended.
    pub(crate) fn forget(&self, group: Pid) -> io::Result<()> {
        self.order(&format!("forget {}\n", group.as_raw_nonzero()))
    }

    fn order(&self, line: &str) -> io::Result<()> {
        let mut shell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut shell.orders {
            Some(orders) => orders.write_all(line.as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // A watchdog that is gone already has nothing left to be told.
        if let Some(mut orders) = self.orders.take() {
            let _told = orders.write_all(b"done\n");
        }
        let _ended = self.child.wait();
    }
}
