//! The socket of a connection.
//!
//! Not here: who reads and writes (`direct`).

use std::io;

use futures_util::future::select_ok;
use redis::ConnectionAddr;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{io::Interest, net::TcpStream};

/// A socket without TLS.
pub(super) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Connects. `None` if the address needs TLS.
    pub(super) async fn open(address: &ConnectionAddr) -> io::Result<Option<Self>> {
        match address {
            ConnectionAddr::Tcp(host, port) => {
                let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
                // All at once: one of them may not answer for longer than a program waits.
                let attempts: Vec<_> = addresses
                    .map(|address| Box::pin(TcpStream::connect(address)))
                    .collect();
                if attempts.is_empty() {
                    let message = format!("no address is known of {host}");
                    return Err(io::Error::new(io::ErrorKind::NotFound, message));
                }
                let (stream, _) = select_ok(attempts).await?;
                // A command is sent when it is complete.
                stream.set_nodelay(true)?;
                Ok(Some(Self::Tcp(stream)))
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => Ok(Some(Self::Unix(UnixStream::connect(path).await?))),
            _ => Ok(None),
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.writable().await,
        }
    }

    /// Reads what has arrived. If that is less than there is room for, the socket counts as drained until more arrives, as when a
    /// stream of tokio is polled. Otherwise the next read would find nothing.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut read = Err(io::ErrorKind::WouldBlock.into());
        let room = into.len();
        let reading = || {
            read = match self {
                Self::Tcp(stream) => stream.try_read(into),
                #[cfg(unix)]
                Self::Unix(stream) => stream.try_read(into),
            };
            match &read {
                Ok(length) if *length < room && cfg!(target_os = "linux") => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                _ => Ok(()),
            }
        };
        // Its result says only what counts as drained.
        let _drained = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, reading),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_io(Interest::READABLE, reading),
        };
        read
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }
}
