//! Where a pool leads to, as its options tell it: host, port and database, or the file.

use std::path::Path;

use crate::token::ProcessId;

/// A database on a server. What only means something on one machine carries the name of that machine: another one's
/// `localhost` is another place.
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

/// The name of this machine; empty if it does not tell.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn machine() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let told = told.or_else(|| std::env::var("HOSTNAME").ok());
    told.or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// A database in a file, by its name with all links followed; or in memory, which belongs to this process, and if it has no
/// name to the pool with this number.
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
    // It may not be there yet.
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
