//! The Redis that tests share: nothing on disk, a TCP port and a unix socket.

use std::path::PathBuf;

use larder_testing::port::Port;
use larder_testing::readiness;
use larder_testing::redis_process::{arguments, check_version, socket};
use rustix::process::Signal;

use super::account::Account;
use super::packages::find;
use super::process::{Server, Start};
use super::{Place, Variable};
use crate::failure::{Attempt, Failure, Outcome};

/// What the command line has besides: many tests use the server at the same time, from another account.
const OPTIONS: [&str; 4] = ["--unixsocketperm", "777", "--maxclients", "2000"];

/// Where `redis-server` is, or why the one there is will not do.
pub(crate) fn program() -> Result<PathBuf, String> {
    let path = find("redis-server")?;
    check_version(&path)?;
    Ok(path)
}

/// Starts the server.
pub(crate) fn start(place: &Place<'_>) -> Outcome<(Server, Vec<Variable>)> {
    let program = program().map_err(Failure::message)?;
    let account = Account::choose("redis")?;
    let folder = account.folder(place.folder.join("redis"))?;
    let socket = socket(&folder);
    let port = Port::reserve().attempt(|| "reserve a port".to_owned())?;
    let number = port.number();
    let mut command = account.command(&program);
    command.args(arguments(number, &folder, &OPTIONS));
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
