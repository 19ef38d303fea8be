//! A MariaDB of our own, with the user `larder` (password `larder`) for connections over TCP.

use std::path::PathBuf;

use larder_testing::port::Port;
use larder_testing::readiness;
use rustix::process::Signal;

use super::account::Account;
use super::packages::find;
use super::process::{Server, Start, prepare};
use super::{Durability, Place, Variable};
use crate::failure::{Attempt, Failure, Outcome};

/// Runs before the server accepts connections, so that no client program is needed for it.
const FIRST_STATEMENTS: &str = "\
CREATE DATABASE IF NOT EXISTS larder;
CREATE USER IF NOT EXISTS larder@'127.0.0.1' IDENTIFIED BY 'larder';
GRANT ALL ON *.* TO larder@'127.0.0.1' WITH GRANT OPTION;
";

/// Where `mariadb-install-db` and `mariadbd` are, or which is missing.
pub(crate) fn programs() -> Result<(PathBuf, PathBuf), String> {
    Ok((find("mariadb-install-db")?, find("mariadbd")?))
}

/// Creates a data folder and starts its server.
pub(crate) fn start(place: &Place<'_>) -> Outcome<(Server, Vec<Variable>)> {
    let (install, mariadbd) = programs().map_err(Failure::message)?;
    let account = Account::choose("mysql")?;
    let folder = account.folder(place.folder.join("mariadb"))?;
    let data = folder.join("data");
    let mut command = account.command(install);
    command
        .arg("--no-defaults")
        .arg(flag("datadir", &data))
        .arg(flag("tmpdir", &folder));
    command.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
    command.arg("--innodb-log-file-size=16M");
    prepare(place, "mariadb-install-db", command)?;

    let first = folder.join("first.sql");
    std::fs::write(&first, FIRST_STATEMENTS).attempt(|| format!("write {}", first.display()))?;
    account.own(&first)?;
    let port = Port::reserve().attempt(|| "reserve a port".to_owned())?;
    let number = port.number();
    let mut command = account.command(mariadbd);
    // Must come first: the system's configuration describes another server.
    command.arg("--no-defaults");
    command
        .arg(flag("datadir", &data))
        .arg(flag("tmpdir", &folder));
    command.arg(flag("socket", &folder.join("mariadb.sock")));
    command.arg(flag("pid-file", &folder.join("mariadb.pid")));
    command.arg(flag("init-file", &first));
    command
        .arg(format!("--port={number}"))
        .args(["--bind-address=127.0.0.1", "--skip-name-resolve"]);
    command.args([
        "--max-connections=500",
        "--character-set-server=utf8mb4",
        "--skip-log-bin",
    ]);
    command.args([
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
    ]);
    command.args(["--key-buffer-size=1M", "--performance-schema=off"]);
    if place.durability == Durability::Relaxed {
        command.args([
            "--innodb-flush-log-at-trx-commit=2",
            "--skip-innodb-doublewrite",
        ]);
    }
    let server = Server::start(
        place,
        Start {
            name: "mariadb",
            command,
            signal: Signal::TERM,
            port,
            ready: &readiness::mariadb,
        },
    )?;
    let url = format!("mysql://larder:larder@127.0.0.1:{number}/larder?ssl-mode=disabled");
    Ok((server, vec![("LARDER_MYSQL_URL", url)]))
}

fn flag(name: &str, path: &std::path::Path) -> String {
    format!("--{name}={}", path.display())
}
