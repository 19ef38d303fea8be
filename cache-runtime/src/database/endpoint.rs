//! The endpoint of a pool, from its options: host, port and database, or the file.

use std::path::Path;

#[cfg(feature = "sqlite")]
use crate::protocol::token::ProcessId;

/// Returns the endpoint of a database on a server. A local address includes the name of the machine, because
/// `localhost` means another server on another machine.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn of_server(host: &str, socket: Option<&Path>, port: u16, name: &str) -> String {
    let host = host.to_ascii_lowercase();
    let (place, is_local) = match socket {
        Some(socket) => (socket.display().to_string(), true),
        None => {
            let is_local = host.starts_with(['/', '@'])
                || host == "localhost"
                || host.ends_with(".localhost")
                || host
                    .trim_matches(['[', ']'])
                    .parse()
                    .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
            (host, is_local)
        }
    };
    if is_local {
        format!("{place}:{port}/{name} on {}", machine())
    } else {
        format!("{place}:{port}/{name}")
    }
}

/// Returns the name of this machine, or an empty text if it is unknown.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    name.or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Returns the endpoint of a database in a file: its path with all links followed. A database in memory belongs to this
/// process, and if it has no name, to the pool with this number.
#[cfg(feature = "sqlite")]
pub(crate) fn of_file(file: &Path, in_memory: bool, pool: usize) -> String {
    let name = file.to_string_lossy();
    if matches!(&*name, ":memory:" | "") {
        return format!(
            "in memory of process {:?}, pool {pool:x}",
            ProcessId::current()
        );
    }
    if in_memory {
        return format!("in memory of process {:?}, {name}", ProcessId::current());
    }
    let name = name.strip_prefix("file:").unwrap_or(&name);
    let file = Path::new(name.split_once('?').map_or(name, |(path, _)| path));
    // The file may not exist yet.
    let found = file.canonicalize().or_else(|_| {
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = folder.canonicalize()?;
        Ok::<_, std::io::Error>(folder.join(file.file_name().unwrap_or_default()))
    });
    let found = found.or_else(|_| std::path::absolute(file));
    found.map_or_else(|_| name.to_owned(), |found| found.display().to_string())
}

#[cfg(all(test, feature = "sqlite", any(feature = "postgres", feature = "mysql")))]
mod tests {
    use super::*;

    #[test]
    fn local_endpoint_contains_the_name_of_the_machine() {
        let server = |host: &str| of_server(host, None, 5432, "app");
        assert_eq!(server("DB.example"), "db.example:5432/app");
        for local in [
            "localhost",
            "127.0.0.1",
            "127.8.0.1",
            "::1",
            "[::1]",
            "/run/postgresql",
        ] {
            assert!(server(local).contains("/app on "), "{local}");
        }
        for remote in ["10.0.0.1", "::2", "localhost.example"] {
            assert!(!server(remote).contains(" on "), "{remote}");
        }
        let socket = of_server("db", Some(Path::new("/run/mysqld.sock")), 3306, "app");
        assert!(
            socket.starts_with("/run/mysqld.sock:3306/app on "),
            "{socket}"
        );
    }

    #[test]
    fn file_has_one_endpoint_before_and_after_it_exists() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let folder = folder.path().canonicalize().expect("it is there");
        let file = folder.join("app.db");
        let named = |name: &str| of_file(Path::new(name), false, 0);
        let roundabout = format!("{}/./app.db", folder.display());
        let before = named(&roundabout);
        std::fs::write(&file, b"").expect("a file can be written");
        assert_eq!(before, file.display().to_string());
        assert_eq!(named(&roundabout), before);
        assert_eq!(named(&format!("file:{}?mode=rwc", file.display())), before);
        assert_ne!(named(&format!("{}/other.db", folder.display())), before);
        let here = std::env::current_dir().expect("there is one");
        assert_eq!(named("app.db"), here.join("app.db").display().to_string());
    }

    #[test]
    fn a_database_in_memory_belongs_to_its_process_and_its_pool() {
        let unnamed = |pool| of_file(Path::new(":memory:"), false, pool);
        assert_ne!(unnamed(1), unnamed(2));
        let named = |name: &str| of_file(Path::new(name), true, 1);
        assert_ne!(
            named("file:sqlx-in-memory-0"),
            named("file:sqlx-in-memory-1")
        );
        let process = format!("{:?}", ProcessId::current());
        assert!(unnamed(1).contains(&process) && named("x").contains(&process));
    }
}
