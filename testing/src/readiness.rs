//! Whether a server answers, asked in its own protocol.
//! A port accepts connections before the server behind it accepts work.
//! 1. Redis must answer PING. 2. PostgreSQL must let the user in. 3. MariaDB must greet.
//!
//! Invariant: every attempt is bounded in time; the caller decides how many there are.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);

/// Redis answers PING; while it loads its data it answers with an error.
///
/// # Errors
///
/// Fails if nothing listens, or if the answer is another one.
pub fn redis(address: SocketAddr) -> io::Result<()> {
    let mut stream = connect(address)?;
    stream.write_all(b"PING\r\n")?;
    expect(&mut stream, b"+PONG\r\n")
}

/// PostgreSQL completes the start of a session without asking for a password.
///
/// # Errors
///
/// Fails if nothing listens, or if the answer is another one.
pub fn postgres(address: SocketAddr) -> io::Result<()> {
    let parameters = b"user\0larder\0database\0postgres\0\0";
    let length = u32::try_from(8 + parameters.len()).expect("the parameters are short");
    let mut stream = connect(address)?;
    stream.write_all(&length.to_be_bytes())?;
    // Version 3.0 of the protocol.
    stream.write_all(&0x0003_0000_u32.to_be_bytes())?;
    stream.write_all(parameters)?;
    // `AuthenticationOk`: kind, length 8, code 0.
    expect(&mut stream, &[b'R', 0, 0, 0, 8, 0, 0, 0, 0])
}

/// MariaDB sends a handshake rather than an error.
///
/// # Errors
///
/// Fails if nothing listens, or if the server greets otherwise.
pub fn mariadb(address: SocketAddr) -> io::Result<()> {
    let mut stream = connect(address)?;
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting)?;
    // Three bytes of length, one of sequence, then version 10 of the protocol.
    if greeting[4] == 10 {
        Ok(())
    } else {
        Err(unexpected(&greeting))
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn expect(stream: &mut TcpStream, wanted: &[u8]) -> io::Result<()> {
    let mut answer = vec![0; wanted.len()];
    stream.read_exact(&mut answer)?;
    if answer == wanted {
        Ok(())
    } else {
        Err(unexpected(&answer))
    }
}

fn unexpected(answer: &[u8]) -> io::Error {
    io::Error::other(format!(
        "unexpected answer {:?}",
        String::from_utf8_lossy(answer)
    ))
}
