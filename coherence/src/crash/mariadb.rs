//! Kills a MariaDB that serves nobody else, and starts it again on what it has on disk.
//!
//! Unlike PostgreSQL it does not start itself again when one of its threads dies. So its process is looked up, killed, and
//! started anew with the same words, as the same user, in the same folder.
//!
//! Invariant: the successor is a child of this process, in its group, and ends with it.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use larder_coherence::harness::site::{self, Address, Site};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// How long it may take to end, and to recover.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks at it.
const STEP: Duration = Duration::from_millis(20);

/// The successor, once there is one.
#[derive(Default)]
pub(crate) struct Successor(Option<Child>);

impl Successor {
    /// Kills the server and starts it again. Returns when it takes connections.
    pub(crate) async fn crash<DB: Site>(&mut self, address: &Address) -> Result<(), String> {
        let process = process_of::<DB>(address).await?;
        let mut command = command_of(process)?;
        kill_process(process, Signal::KILL).map_err(|error| error.to_string())?;
        if let Some(mut child) = self.0.take() {
            child.wait().map_err(|error| error.to_string())?;
        }
        let ended = async {
            while runs(process) {
                tokio::time::sleep(STEP).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        ended.map_err(|_| "MariaDB survives being killed".to_owned())?;
        self.0 = Some(command.spawn().map_err(|error| error.to_string())?);
        let back = async {
            while site::connect::<DB>(address).await.is_err() {
                tokio::time::sleep(STEP).await;
            }
        };
        let back = tokio::time::timeout(PATIENCE, back).await;
        back.map_err(|_| "MariaDB does not come back".to_owned())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _killed = child.kill();
            let _ended = child.wait();
        }
    }
}

async fn process_of<DB: Site>(address: &Address) -> Result<Pid, String> {
    let text = |error: sqlx::Error| error.to_string();
    let mut connection = site::connect::<DB>(address).await.map_err(text)?;
    let sql = "SELECT CAST(@@pid_file AS CHAR)";
    let rows = site::query::<DB>(&mut connection, sql, 1).await;
    let rows = rows.map_err(text)?;
    let file = rows.first().and_then(|row| row[0].clone());
    let file = file.ok_or("MariaDB does not tell its process")?;
    let number = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let number = number.trim().parse().ok();
    let process = number.and_then(Pid::from_raw);
    process.ok_or_else(|| format!("{file} holds no process"))
}

/// The words that a process was started with, its user and its folder.
fn command_of(process: Pid) -> Result<Command, String> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let of_file = |error: std::io::Error| format!("{}: {error}", folder.display());
    let words = fs::read(folder.join("cmdline")).map_err(of_file)?;
    let words = String::from_utf8(words).map_err(|error| error.to_string())?;
    let mut words = words.split_terminator('\0');
    let program = words.next().ok_or("MariaDB has no command line")?;
    let status = fs::read_to_string(folder.join("status")).map_err(of_file)?;
    let id = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u32>().ok()
    };
    let (user, group) = id("Uid:").zip(id("Gid:")).ok_or("MariaDB has no user")?;
    let mut command = Command::new(program);
    command
        .args(words)
        .uid(user)
        .gid(group)
        .current_dir(fs::read_link(folder.join("cwd")).map_err(of_file)?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command)
}

/// Whether a process runs; one that has ended may still wait for its parent to notice.
fn runs(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status"));
    let is_over = status.is_ok_and(|status| status.contains("State:\tZ"));
    test_kill_process(process).is_ok() && !is_over
}
