//! A PostgreSQL of our own, whose superuser is `larder` and needs no password.

use std::path::PathBuf;

use larder_testing::port::Port;
use larder_testing::readiness;
use rustix::process::Signal;

use super::account::Account;
use super::packages::find;
use super::process::{Server, Start, prepare};
use super::{Durability, Place, Variable};
use crate::failure::{Attempt, Failure, Outcome};

/// Where `initdb` and `postgres` are, or which is missing.
pub(crate) fn programs() -> Result<(PathBuf, PathBuf), String> {
    Ok((find("initdb")?, find("postgres")?))
}

/// Creates a cluster and starts its server.
pub(crate) fn start(place: &Place<'_>) -> Outcome<(Server, Vec<Variable>)> {
    let (initdb, postgres) = programs().map_err(Failure::message)?;
    let account = Account::choose("postgres")?;
    let folder = account.folder(place.folder.join("postgres"))?;
    let data = folder.join("data");
    let mut command = account.command(initdb);
    command
        .arg("--pgdata")
        .arg(&data)
        .args(["--username=larder", "--auth=trust"]);
    command.args(["--encoding=UTF8", "--locale=C", "--no-sync"]);
    prepare(place, "initdb", command)?;

    let port = Port::reserve().attempt(|| "reserve a port".to_owned())?;
    let number = port.number();
    let mut command = account.command(postgres);
    command
        .arg("-D")
        .arg(&data)
        .args(["-p", &number.to_string()]);
    command.arg("-k").arg(&folder);
    for setting in [
        "listen_addresses=127.0.0.1",
        "max_connections=300",
        "shared_buffers=32MB",
    ] {
        command.args(["-c", setting]);
    }
    if place.durability == Durability::Relaxed {
        for setting in ["fsync=off", "full_page_writes=off"] {
            command.args(["-c", setting]);
        }
    }
    let server = Server::start(
        place,
        // TERM would wait for clients to leave; INT is the quick orderly end.
        Start {
            name: "postgres",
            command,
            signal: Signal::INT,
            port,
            ready: &readiness::postgres,
        },
    )?;
    let url = format!("postgres://larder@127.0.0.1:{number}/postgres?sslmode=disable");
    Ok((server, vec![("LARDER_POSTGRES_URL", url)]))
}
