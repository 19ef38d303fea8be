//! A TCP port that stays ours while nothing listens on it.
//! A server that is stopped and restarted in a test must find its port free; a port handed out by the system may meanwhile
//! serve as the local end of somebody's connection.
//! 1. Candidates lie below the range of such connections. 2. Binding the number on 127.0.0.2 reserves it among all users of
//!    this scheme. 3. Binding it on 127.0.0.1 for a moment shows that no stranger has it.
//!
//! Invariant: of all processes that use this scheme, one holds a port.
//! Invariant: the reservation ends with the value, or with the process, whichever is first.
//! Not here: systems that answer on 127.0.0.1 only; they go without a reservation.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A reserved port of 127.0.0.1.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: Option<TcpListener>,
}

impl Port {
    /// Finds and reserves a port.
    ///
    /// # Errors
    ///
    /// Fails if all ports of the scheme are taken.
    pub fn reserve() -> io::Result<Self> {
        // Processes start their search at different places; correctness does not depend on it.
        let spread = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
        let spread = u16::try_from(spread).expect("a remainder is smaller than its divisor");
        for step in 0..COUNT {
            let number = FIRST + (spread + step) % COUNT;
            if let Ok(reservation) = claim(number) {
                return Ok(Self {
                    number,
                    _reservation: reservation,
                });
            }
        }
        Err(io::Error::new(
            ErrorKind::AddrInUse,
            "found no free TCP port on 127.0.0.1",
        ))
    }

    /// Returns the number of the port.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Returns the address of the port on the loopback interface.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

fn claim(number: u16) -> io::Result<Option<TcpListener>> {
    let reservation = match TcpListener::bind(("127.0.0.2", number)) {
        Ok(listener) => Some(listener),
        // Systems other than Linux answer on 127.0.0.1 only.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => None,
        Err(error) => return Err(error),
    };
    TcpListener::bind((Ipv4Addr::LOCALHOST, number))?;
    Ok(reservation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_port_is_free_and_not_handed_out_twice() {
        let first = Port::reserve().unwrap();
        let second = Port::reserve().unwrap();
        assert_ne!(first.number(), second.number());
        TcpListener::bind(("127.0.0.1", first.number())).unwrap();
    }
}
