//! A Redis of our own: nothing on disk, a TCP port and a unix socket.
//! `DEBUG` is allowed because tests use it to make the server slow.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::account::Account;
use super::packages::find;
use super::port::Port;
use super::process::{Server, Start};
use super::{Place, Variable, readiness};
use crate::failure::{Failure, Outcome};

/// The oldest version whose scripts and commands we rely on.
const OLDEST: u32 = 7;

/// Where `redis-server` is, or why the one there is will not do.
pub(crate) fn program() -> Result<PathBuf, String> {
    let path = find("redis-server")?;
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|error| format!("{} does not run: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match major_version(&text) {
        Some(major) if major >= OLDEST => Ok(path),
        _ => Err(format!(
            "redis-server {OLDEST} or later is needed, found: {}",
            text.trim()
        )),
    }
}

/// Starts the server.
pub(crate) fn start(place: &Place<'_>) -> Outcome<(Server, Vec<Variable>)> {
    let program = program().map_err(Failure::message)?;
    let account = Account::choose("redis")?;
    let folder = account.folder(place.folder.join("redis"))?;
    let socket = folder.join("redis.sock");
    let port = Port::reserve()?;
    let number = port.number();
    let mut command = account.command(&program);
    command.args(["--bind", "127.0.0.1", "--port", &number.to_string()]);
    command
        .arg("--unixsocket")
        .arg(&socket)
        .args(["--unixsocketperm", "777"]);
    command.arg("--dir").arg(&folder);
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(["--enable-debug-command", "local", "--maxclients", "2000"]);
    let server = Server::start(
        place,
        Start {
            name: "redis",
            command,
            signal: Signal::TERM,
            port,
            ready: &readiness::redis,
        },
    )?;
    let variables = vec![
        ("LARDER_REDIS_URL", format!("redis://127.0.0.1:{number}/")),
        (
            "LARDER_REDIS_SOCKET_URL",
            format!("redis+unix://{}", socket.display()),
        ),
        ("LARDER_REDIS_SERVER", program.display().to_string()),
    ];
    Ok((server, variables))
}

/// Reads `Redis server v=7.0.15 sha=..`.
fn major_version(text: &str) -> Option<u32> {
    let version = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn version_is_read_from_the_banner() {
        assert_eq!(
            major_version("Redis server v=7.0.15 sha=00000000:0 bits=64"),
            Some(7)
        );
        assert_eq!(major_version("Redis server v=10.2 sha=0"), Some(10));
        assert_eq!(major_version("something else"), None);
    }
}
